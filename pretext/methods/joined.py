"""Contrast and color joined: two views of an image find each other, and the backbone also colors them.

Contrast makes features of the last stage invariant, which colors must not be. So the color head may sit on an earlier
stage, and the weight of its loss is a setting.
"""

from torch import Tensor, nn

from pretext.color import lightness_to_gray, rgb_to_ab, rgb_to_lightness
from pretext.errors import UserError
from pretext.methods.colorization import on_grid
from pretext.methods.contract import Ingredients, Losses
from pretext.methods.contrastive import SimCLR
from pretext.methods.objectives import OBJECTIVES


class Joined(SimCLR):
    """SimCLR, and a color head on a stage of the same backbone.

    A backbone that reads lightness sees both views in gray, and colors both. One that reads sRGB sees the first view in
    color and the second in gray, and colors the second. The true colors are those of the crop before its colors were
    jittered.

    Args:
        parts: see ``Ingredients``.
        color_weight: the weight of the color loss beside NT-Xent's.
        color_stage: the stage that the color head reads; empty: the last one.
        temperature: see ``SimCLR``.
        hidden: see ``SimCLR``.
        dims: see ``SimCLR``.
    """

    colored = True

    def __init__(
        self,
        parts: Ingredients,
        color_weight: float = 0.5,
        color_stage: str = "",
        temperature: float = 0.5,
        hidden: int = 512,
        dims: int = 128,
    ) -> None:
        super().__init__(parts, temperature, hidden, dims)
        stages = {stage.name: stage for stage in self.backbone.stages}
        if color_stage and color_stage not in stages:
            raise UserError(f"method.arguments: color_stage is {color_stage}: there are {', '.join(stages)}")
        if not 0 <= color_weight <= 1000:
            raise UserError(f"method.arguments: color_weight is {color_weight}: it must lie in [0, 1000]")
        assert parts.prior is not None
        self.stage = stages[color_stage] if color_stage else self.backbone.stages[-1]
        self.color_weight, self.stride = color_weight, parts.objective.stride
        self.objective = OBJECTIVES[parts.objective.name](parts.objective, parts.prior)
        self.head = nn.Conv2d(self.stage.channels, self.objective.channels, 1)

    def view(self, rgb: Tensor, numbers: Tensor, view: int) -> Tensor:
        """Return an augmented view; the second is gray."""
        augmented = super().view(rgb, numbers, view)
        return gray_of(augmented) if view == 1 and self.backbone.inputs == "rgb" else augmented

    def loss(self, rgb: Tensor, labels: Tensor, numbers: Tensor) -> Losses:
        """Return the weighted sum, and both losses."""
        features = self.features(rgb, numbers)
        contrast = self.contrast(features)
        assert isinstance(contrast, Tensor)
        gray, crops = features[self.stage.name], rgb.transpose(0, 1).flatten(0, 1)
        if self.backbone.inputs == "rgb":
            gray, crops = gray[len(rgb) :], rgb[:, 1]
        s = self.stride
        output = on_grid(self.head(gray), self.stage.stride, s, crops.shape[-2:])
        colors = self.objective(output, rgb_to_ab(crops[..., ::s, ::s]))
        parts = {"contrast": contrast.detach(), "colors": colors.detach()}
        return contrast + self.color_weight * colors, parts


def gray_of(rgb: Tensor) -> Tensor:
    """Return the sRGB grays, (B, 3, H, W), of the lightness of sRGB images in [0, 1]."""
    return lightness_to_gray(rgb_to_lightness(rgb)).expand(-1, 3, -1, -1)
