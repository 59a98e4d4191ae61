"""What a color head learns: its loss against the true ab, and how its output becomes ab.

There are three objectives (paper section 2 and its ablations): classification over the color bins, rebalanced or plain,
and regression with an L2 or Huber loss. Plugins add others to ``OBJECTIVES``.
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

from pretext import roles
from pretext.codebook import Codebook
from pretext.color import at_least_float32
from pretext.errors import UserError
from pretext.gamut import STEP, STEP_RANGE, TEMPERATURE, Gamut, SoftTarget, bin_centers
from pretext.plugins import Registry
from pretext.prior import rebalancing_weights

AB_SCALE = 110.0
"""The output of a regression head is ab divided by this, as in the released code."""


@dataclass
class ObjectiveSettings:
    """How colors are learned.

    Args:
        name: rebalanced or plain (classification over the color bins), regression, or the name of a plugin's
            objective.
        stride: input pixels per point of the color target.
        bin_step: Lab units between neighboring color bins of a classification, 5 to 40. 10 gives the paper's 313
            bins; 5 gives 1,083, 15 gives 159, 20 gives 101.
        neighbors: K, the number of nearest bins in the soft target of a pixel: 5 in the paper, 10 in its released code.
        sigma: standard deviation of the Gaussian that weights these bins, in Lab units. For another bin_step, use
            half of bin_step to get the same proportions (5 at bin_step 10).
        prior: "estimate", from the training images; or a .npy file with a number for each bin, such as the
            published one for 313 bins.
        prior_images: the number of images for an estimate.
        uniform: lambda, the share of the uniform distribution in the rebalancing.
        gray_threshold: a crop whose |a| and |b| are all below it has no loss.
        bounded: for a regression: a tanh keeps |a| and |b| below 110.
        huber: for a regression: use Huber's loss, which is linear above this distance in Lab units; 0 uses the
            squared distance (L2).
        classes_weight: alpha, the weight of the loss of predicting each image's class besides its colors. It needs a
            labeled data.source and backbone fusion, whose authors use 1/300 (0.00333). 0 learns only colors.
    """

    name: str = roles.science("rebalanced")
    stride: int = roles.science(8)
    bin_step: int = roles.science(STEP)
    neighbors: int = roles.science(10)
    sigma: float = roles.science(5.0)
    prior: str = roles.science("estimate")
    prior_images: int = roles.science(2000)
    uniform: float = roles.science(0.5)
    gray_threshold: float = roles.science(5.0)
    bounded: bool = roles.science(False)
    huber: float = roles.science(0.0)
    classes_weight: float = roles.science(0.0)

    def __post_init__(self) -> None:
        if self.name == "labels":
            raise UserError("objective.name is labels: what learns labels is a method now; set method.name supervised")
        if self.name not in OBJECTIVES:
            near = difflib.get_close_matches(self.name, OBJECTIVES, n=1)
            which = f"did you mean {near[0]}?" if near else f"there are {', '.join(OBJECTIVES)}"
            raise UserError(
                f"objective.name is {self.name}: {which} (one of your own is in a file: PRETINT_PLUGINS=FILE.py)"
            )
        if not 0 <= self.huber < math.inf or not 0 <= self.classes_weight < math.inf:
            raise UserError("objective.huber and objective.classes_weight must be finite and not negative")
        if self.huber and self.name != "regression":
            raise UserError(f"objective.huber is for a regression; objective.name is {self.name}")
        if self.bounded and self.name != "regression":
            raise UserError(f"objective.bounded is for a regression; objective.name is {self.name}")
        if not STEP_RANGE[0] <= self.bin_step <= STEP_RANGE[1]:
            raise UserError(
                f"objective.bin_step is {self.bin_step}: it must lie in [{STEP_RANGE[0]}, {STEP_RANGE[1]}], Lab units"
            )
        if self.bin_step != STEP and self.name == "regression":
            raise UserError(f"objective.bin_step is for a classification of colors; objective.name is {self.name}")
        if not 1 <= self.neighbors <= self.bins:
            raise UserError(f"objective.neighbors is {self.neighbors}: it must lie in [1, {self.bins}]")
        if not self.sigma >= 0.1 or self.stride < 1 or self.prior_images < 1:
            raise UserError("objective.sigma must be at least 0.1, objective.stride and objective.prior_images 1")
        if not 0 <= self.uniform <= 1:
            raise UserError(f"objective.uniform is {self.uniform}: it must lie in [0, 1]")

    @property
    def bins(self) -> int:
        """Q, the number of color bins."""
        return len(bin_centers(self.bin_step))

    @property
    def gamut(self) -> Gamut:
        """The color bins and their soft encoding."""
        return Gamut(self.neighbors, self.sigma, self.bin_step)


class Objective(nn.Module, ABC):
    """The loss of a color head, and the decoding of its output."""

    channels: int
    """The number of output channels of the head."""

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

        An image in which no |a| or |b| exceeds ``gray_threshold`` has zero loss: a network would only learn to
        predict gray from it. This is the mask of the released code, with threshold 5. With 0, every image with
        any color counts.
        """
        losses = self.pixel_losses(output, ab)
        colored = ab.abs().flatten(1).amax(1) > self.gray_threshold
        return (losses * colored[:, None, None]).mean()


class Classification(Objective):
    """Cross-entropy against soft targets; each pixel is weighted by the weight of its nearest bin.

    Args:
        gamut: the bins and their soft encoding; or a codebook, for other channels than colors.
        weights: (Q,), ``rebalancing_weights`` of a prior, or None: every pixel counts the same.
    """

    def __init__(self, gamut: Gamut | Codebook, weights: Tensor | None = None, gray_threshold: float = 5.0) -> None:
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

    With ``huber`` d it is Huber's loss, the sum of those for a and b: half the square of an error e below d,
    and d (|e| - d / 2) for a larger one.

    Args:
        bounded: a tanh after the head keeps |a| and |b| below 110, as in the siggraph17 net.
        huber: d, in Lab units; 0: the squared distance. Zhang et al. 2017 use 1. So does their training code (1 / 110
            of scaled values), but it divides the loss by d, and uses L1 by default.
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
)
"""Name -> a function that builds it from the settings and the prior, (Q,), float64; a checkpoint stores the prior."""


def soft_cross_entropy(logits: Tensor, target: SoftTarget) -> Tensor:
    """Return the cross-entropy of sparse soft targets, per pixel: log-sum-exp minus the K weighted logits.

    Value and gradient are those for the dense (B, Q, h, w) target, but this target is never built.

    Args:
        logits: (B, Q, h, w).
        target: soft target with the same B, h, w; its weights add up to 1.

    Returns:
        (B, h, w), in nats, float32 (float64 for float64 logits).
    """
    losses: Tensor = _SoftCrossEntropy.apply(logits, target.bins, target.weights)
    return losses


class _SoftCrossEntropy(torch.autograd.Function):
    """The gradient by hand: autograd would make three tensors of the logits' size; this makes one."""

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
