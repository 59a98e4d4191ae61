"""Objectives: from a network's output and the true ab to a scalar, and from output to ab.

Three of them (paper section 2 and its ablations): classification over the color bins, rebalanced or
plain, and regression, L2 or Huber's. Plugins add others to ``OBJECTIVES``.
"""

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.color import at_least_float32
from pretext.errors import UserError
from pretext.gamut import STEP, STEP_RANGE, TEMPERATURE, Gamut, SoftTarget, bin_centers
from pretext.plugins import Registry
from pretext.prior import rebalancing_weights

AB_SCALE = 110.0
"""A regression head emits ab divided by this, as in the released code."""


@dataclass
class ObjectiveSettings:
    """What the network learns.

    Args:
        name: rebalanced or plain classification over the color bins, or regression; or labels, the
            supervised reference: the backbone learns the classes of a labeled data.source, and no color; or
            a plugin's.
        stride: input pixels per point of the color target.
        bin_step: of a classification: Lab units between neighboring color bins, 5 to 40. 10 gives the paper's 313;
            5 gives 1,083, 15 gives 159, 20 gives 101.
        neighbors: K, the bins that share a pixel's color: 5 in the paper, 10 in its released code.
        sigma: of the Gaussian that shares them out, Lab units. With another bin_step, half of that shares them out
            in the same proportions, as 5 does at 10.
        prior: "estimate" from the images that are trained on, or a .npy file with a number for each bin, such as the
            published one of 313.
        prior_images: how many images an estimate takes.
        uniform: lambda, the share of the uniform distribution in the rebalancing.
        gray_threshold: a crop with no |a| or |b| above it has no loss.
        bounded: of a regression: a tanh keeps |a| and |b| below 110.
        huber: of a regression: Huber's loss, linear beyond so many Lab units; 0 is the squared distance (L2).
        classes_weight: alpha, the weight of naming each image's class besides coloring it: a labeled data.source
            and backbone fusion, whose authors take 1/300 (0.00333); 0 learns colors alone.
    """

    name: str = "rebalanced"
    stride: int = 8
    bin_step: int = STEP
    neighbors: int = 10
    sigma: float = 5.0
    prior: str = "estimate"
    prior_images: int = 2000
    uniform: float = 0.5
    gray_threshold: float = 5.0
    bounded: bool = False
    huber: float = 0.0
    classes_weight: float = 0.0

    def __post_init__(self) -> None:
        known = [*OBJECTIVES, "labels"]
        if self.name not in known:
            near = difflib.get_close_matches(self.name, known, n=1)
            which = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UserError(
                f"objective.name is {self.name}: {which} (one of your own is in a file: PRETINT_PLUGINS=FILE.py)"
            )
        if not 0 <= self.huber < math.inf or not 0 <= self.classes_weight < math.inf:
            raise UserError("objective.huber and objective.classes_weight must be finite and not negative")
        if self.huber and self.name != "regression":
            raise UserError(f"objective.huber is for a regression; objective.name is {self.name}")
        if self.classes_weight and self.supervised:
            raise UserError("objective.classes_weight is for networks that color; objective.name is labels")
        if self.bounded and self.name != "regression":
            raise UserError(f"objective.bounded is for a regression; objective.name is {self.name}")
        if not STEP_RANGE[0] <= self.bin_step <= STEP_RANGE[1]:
            raise UserError(
                f"objective.bin_step is {self.bin_step}: it must lie in [{STEP_RANGE[0]}, {STEP_RANGE[1]}], Lab units"
            )
        if self.bin_step != STEP and self.name in ("regression", "labels"):
            raise UserError(f"objective.bin_step is for a classification of colors; objective.name is {self.name}")
        if not 1 <= self.neighbors <= self.bins:
            raise UserError(f"objective.neighbors is {self.neighbors}: from 1 to {self.bins} bins can share")
        if not self.sigma >= 0.1 or self.stride < 1 or self.prior_images < 1:
            raise UserError("objective.sigma must be at least 0.1, objective.stride and objective.prior_images 1")
        if not 0 <= self.uniform <= 1:
            raise UserError(f"objective.uniform is {self.uniform}: a share lies between 0 and 1")

    @property
    def bins(self) -> int:
        """Q, how many color bins there are."""
        return len(bin_centers(self.bin_step))

    @property
    def gamut(self) -> Gamut:
        """The color bins, and how the colors of pixels are shared out among them."""
        return Gamut(self.neighbors, self.sigma, self.bin_step)

    @property
    def supervised(self) -> bool:
        """Whether labels are learned, and not colors."""
        return self.name == "labels"

    @property
    def labeled(self) -> bool:
        """Whether images must come with labels: instead of colors, or besides them."""
        return self.supervised or self.classes_weight > 0


class Objective(nn.Module, ABC):
    """What a color head is trained for."""

    channels: int
    """How many channels the head must emit."""

    def __init__(self, gray_threshold: float) -> None:
        super().__init__()
        self.gray_threshold = gray_threshold

    @abstractmethod
    def pixel_losses(self, output: Tensor, ab: Tensor) -> Tensor:
        """Return the loss of every pixel, (B, h, w); arguments as for ``forward``."""

    @abstractmethod
    def decode(self, output: Tensor, temperature: float = TEMPERATURE) -> Tensor:
        """Return ab, (B, 2, h, w), float, unscaled, for the head's output, (B, channels, h, w)."""

    def forward(self, output: Tensor, ab: Tensor) -> Tensor:
        """Return the loss, a scalar: the mean over all pixels.

        Args:
            output: (B, channels, h, w), of any float type; the loss is computed in float32 at least.
            ab: (B, 2, h, w), the true colors, unscaled.

        An image in which no |a| or |b| exceeds ``gray_threshold`` counts with zero loss: it would only
        teach that color is absent (the released code's mask, threshold 5; 0 lets every image count
        that has any color at all).
        """
        losses = self.pixel_losses(output, ab)
        colored = ab.abs().flatten(1).amax(1) > self.gray_threshold
        return (losses * colored[:, None, None]).mean()


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
        """Return the weighted cross-entropy, (B, h, w), in nats."""
        target = self.gamut.encode(ab)
        return soft_cross_entropy(output, target) * self.weights[target.nearest]

    def decode(self, output: Tensor, temperature: float = TEMPERATURE) -> Tensor:
        """Return the annealed mean."""
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
        """Return the loss of every pixel, (B, h, w), in units of 110^2."""
        error = self._scaled(output) - ab / AB_SCALE
        if not self.huber:
            return error.square().sum(1) / 2
        return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.huber / AB_SCALE).sum(1)

    def decode(self, output: Tensor, temperature: float = TEMPERATURE) -> Tensor:
        """Return the prediction; a regression has no temperature."""
        return self._scaled(output) * AB_SCALE

    def _scaled(self, output: Tensor) -> Tensor:
        """Return the prediction divided by 110."""
        output = at_least_float32(output)
        return torch.tanh(output) if self.bounded else output


OBJECTIVES: Registry[Callable[["ObjectiveSettings", Tensor], Objective]] = Registry(
    "objective",
    {
        "rebalanced": lambda settings, prior: Classification(
            settings.gamut, rebalancing_weights(prior, settings.uniform), settings.gray_threshold
        ),
        "plain": lambda settings, prior: Classification(settings.gamut, None, settings.gray_threshold),
        "regression": lambda settings, prior: Regression(settings.gray_threshold, settings.bounded, settings.huber),
    },
    taken="labels".__eq__,
)
"""Name -> what builds it from the settings and the prior, (Q,), float64, which a checkpoint keeps too."""


def soft_cross_entropy(logits: Tensor, target: SoftTarget) -> Tensor:
    """Return the cross-entropy of sparse soft targets, per pixel: log-sum-exp minus the K weighted logits.

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
