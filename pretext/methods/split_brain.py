"""Split-brain autoencoder: one half of a network predicts ab from L, the other L from ab; their features are joined.

Zhang, Isola, Efros, "Split-brain autoencoders: unsupervised learning by cross-channel prediction", CVPR 2017.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from pretext.backbones.split_brain import SplitBrain
from pretext.color import rgb_to_ab, rgb_to_lightness
from pretext.errors import UserError
from pretext.methods.colorization import on_grid
from pretext.methods.contract import Ingredients, Losses, Method
from pretext.methods.objectives import OBJECTIVES

BINS = 100
"""Bins of L, one unit each, as in the released code."""


class SplitBrainPrediction(Method):
    """Backbone split_brain, with a head on each half: colors by the recipe's objective, lightness by 100 bins.

    Args:
        parts: see ``Ingredients``.
    """

    colored = True

    def __init__(self, parts: Ingredients) -> None:
        super().__init__()
        if not isinstance(parts.backbone, SplitBrain):
            raise UserError("method split_brain needs the backbone of that name; set backbone.name split_brain")
        assert parts.prior is not None
        self.backbone: SplitBrain = parts.backbone
        self.stride = parts.objective.stride
        self.objective = OBJECTIVES[parts.objective.name](parts.objective, parts.prior)
        self.color_head = nn.Conv2d(self.backbone.lightness.stages[-1].channels, self.objective.channels, 1)
        self.lightness_head = nn.Conv2d(self.backbone.ab.stages[-1].channels, BINS, 1)

    def pixel_losses(self, rgb: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of both predictions at each point of the target's grid, (B, h, w)."""
        lightness, ab = rgb_to_lightness(rgb), rgb_to_ab(rgb)
        halves = ((self.backbone.lightness, lightness, self.color_head), (self.backbone.ab, ab, self.lightness_head))
        outputs = []
        for half, x, head in halves:
            stage = half.stages[-1]
            outputs.append(on_grid(head(half(x)[stage.name]), stage.stride, self.stride, rgb.shape[-2:]))
        s = self.stride
        truth = ab[..., ::s, ::s]
        colored = truth.abs().flatten(1).amax(1) > self.objective.gray_threshold  # as ``Objective.forward``
        colors = self.objective.pixel_losses(outputs[0], truth) * colored[:, None, None]
        bins = lightness[:, 0, ::s, ::s].long().clamp_max(BINS - 1)
        return colors, F.cross_entropy(outputs[1].float(), bins, reduction="none")

    def image_losses(self, rgb: Tensor, labels: Tensor, numbers: Tensor) -> Tensor:
        """Return the sum of both losses of each image, (B,)."""
        colors, lightness = self.pixel_losses(rgb)
        return (colors + lightness).flatten(1).mean(1)

    def loss(self, rgb: Tensor, labels: Tensor, numbers: Tensor) -> Losses:
        """Return the sum, and both losses."""
        colors, lightness = (losses.mean() for losses in self.pixel_losses(rgb))
        return colors + lightness, {"colors": colors.detach(), "lightness": lightness.detach()}
