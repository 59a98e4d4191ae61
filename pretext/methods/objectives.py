"""Objectives: from a network's output and the true ab to a scalar, and from output to ab.

Three of them (paper section 2 and its ablations): classification over the colour bins, rebalanced or
plain, and regression, L2 or Huber's. Plugins add others to ``OBJECTIVES``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.color import at_least_float32
from pretext.gamut import TEMPERATURE, Gamut, SoftTarget
from pretext.prior import rebalancing_weights
from pretext.registry import Registry

if TYPE_CHECKING:
    from pretext.recipe import ObjectiveSettings

AB_SCALE = 110.0
"""A regression head emits ab divided by this, as in the released code."""


class Objective(nn.Module, ABC):
    """What a colour head is trained for."""

    channels: int
    """How many channels the head must emit."""

    def __init__(self, gray_threshold: float) -> None:
        super().__init__()
        self.gray_threshold = gray_threshold

    @abstractmethod
    def pixel_losses(self, output: Tensor, ab: Tensor) -> Tensor:
        """The loss of every pixel, (B, h, w); arguments as for ``forward``."""

    @abstractmethod
    def decode(self, output: Tensor, temperature: float = TEMPERATURE) -> Tensor:
        """(B, channels, h, w) -> ab, (B, 2, h, w), float, unscaled."""

    def forward(self, output: Tensor, ab: Tensor) -> Tensor:
        """The loss, a scalar: the mean over all pixels.

        Args:
            output: (B, channels, h, w), of any float type; the loss is computed in float32 at least.
            ab: (B, 2, h, w), the true colours, unscaled.

        A picture in which no |a| or |b| exceeds ``gray_threshold`` counts with zero loss: it would only
        teach that colour is absent (the released code's mask, threshold 5; 0 lets every picture count
        that has any colour at all).
        """
        losses = self.pixel_losses(output, ab)
        coloured = ab.abs().flatten(1).amax(1) > self.gray_threshold
        return (losses * coloured[:, None, None]).mean()


class Classification(Objective):
    """Cross-entropy against soft targets; each pixel counts by the weight of its nearest bin.

    Args:
        gamut: the bins and their soft encoding.
        weights: (Q,), ``rebalancing_weights`` of a prior, or None: every pixel counts the same.
    """

    def __init__(self, gamut: Gamut, weights: Tensor | None = None, gray_threshold: float = 5.0) -> None:
        super().__init__(gray_threshold)
        assert weights is None or len(weights) == len(gamut)
        self.gamut = gamut
        self.channels = len(gamut)
        self.weights: Tensor
        self.register_buffer("weights", torch.ones(len(gamut)) if weights is None else weights.float())

    def pixel_losses(self, output: Tensor, ab: Tensor) -> Tensor:
        """(B, h, w), in nats, weighted."""
        target = self.gamut.encode(ab)
        return soft_cross_entropy(output, target) * self.weights[target.nearest]

    def decode(self, output: Tensor, temperature: float = TEMPERATURE) -> Tensor:
        """The annealed mean."""
        return self.gamut.annealed_mean(output, temperature)


class Regression(Objective):
    """Half the squared Euclidean distance to the true ab, both divided by 110 (paper equation 1).

    Or Huber's loss, the sum of a's and b's: with ``huber`` d, half the square of an error e below d, and
    d (|e| - d / 2) of a larger one. An infinite d would give the same as none.

    Args:
        bounded: a tanh after the head keeps |a| and |b| below 110, as in the siggraph17 net.
        huber: d, in Lab units; 0: the squared distance. Zhang et al. 2017 have 1, as does their training code
            (1 / 110 of what is scaled), which however divides the loss by it and by default takes L1.
    """

    channels = 2

    def __init__(self, gray_threshold: float = 5.0, bounded: bool = False, huber: float = 0.0) -> None:
        super().__init__(gray_threshold)
        self.bounded, self.huber = bounded, huber

    def pixel_losses(self, output: Tensor, ab: Tensor) -> Tensor:
        """(B, h, w), in units of 110^2."""
        error = self._scaled(output) - ab / AB_SCALE
        if not self.huber:
            return error.square().sum(1) / 2
        return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.huber / AB_SCALE).sum(1)

    def decode(self, output: Tensor, temperature: float = TEMPERATURE) -> Tensor:
        """The prediction itself; a regression has no temperature."""
        return self._scaled(output) * AB_SCALE

    def _scaled(self, output: Tensor) -> Tensor:
        """The prediction divided by 110."""
        output = at_least_float32(output)
        return torch.tanh(output) if self.bounded else output


def _rebalanced(asked: "ObjectiveSettings", prior: Tensor) -> Objective:
    weights = rebalancing_weights(prior, asked.uniform)
    return Classification(asked.gamut, weights, asked.gray_threshold)


def _plain(asked: "ObjectiveSettings", prior: Tensor) -> Objective:
    return Classification(asked.gamut, None, asked.gray_threshold)


def _regression(asked: "ObjectiveSettings", prior: Tensor) -> Objective:
    return Regression(asked.gray_threshold, asked.bounded, asked.huber)


OBJECTIVES: Registry[Callable[["ObjectiveSettings", Tensor], Objective]] = Registry(
    "objective", {"rebalanced": _rebalanced, "plain": _plain, "regression": _regression}, taken="labels".__eq__
)
"""Name -> what builds it from the settings and the prior, (Q,), float64, which a checkpoint keeps too."""


def soft_cross_entropy(logits: Tensor, target: SoftTarget) -> Tensor:
    """Cross-entropy of sparse soft targets, per pixel: log-sum-exp minus the K weighted logits.

    The same number and gradient as against the dense (B, Q, h, w) target, which is never built.

    Args:
        logits: (B, Q, h, w).
        target: of the same B, h, w; its weights add up to 1.

    Returns:
        (B, h, w), in nats, float32 (float64 for float64 logits).
    """
    losses: Tensor = _SoftCrossEntropy.apply(logits, target.bins, target.weights)
    return losses


class _SoftCrossEntropy(torch.autograd.Function):
    """By hand because autograd would make three tensors of the logits' size; this makes one."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, bins: Tensor, weights: Tensor) -> Tensor:
        log_total = torch.logsumexp(at_least_float32(logits), dim=1)
        weights = weights.to(log_total.dtype)
        ctx.save_for_backward(logits, log_total, bins, weights)
        return log_total - (weights * logits.gather(1, bins)).sum(1)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        logits, log_total, bins, weights = ctx.saved_tensors
        upstream = upstream.unsqueeze(1)
        gradient = (logits - log_total.unsqueeze(1)).exp_().mul_(upstream)
        gradient.scatter_add_(1, bins, -weights * upstream)
        return gradient.to(logits.dtype), None, None
