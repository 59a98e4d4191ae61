"""Contrast and color joined: two views of an image find each other, and the gray ones are colored.

Contrast makes features of the last stage invariant, which colors must not be. So the color head may sit on an earlier
stage, may have a hidden layer of its own, as the projector does, and the weight of its loss is a setting.
"""

from torch import Tensor, nn

from pretext.color import rgb_to_ab
from pretext.engine.compiler import not_compiled
from pretext.errors import UserError
from pretext.methods.colorization import on_grid
from pretext.methods.contract import Ingredients, Losses
from pretext.methods.contrastive import SimCLR
from pretext.methods.objectives import OBJECTIVES

_GRAY = 0.01  # R, G and B of a gray view differ by less, of values in [0, 1]


class Joined(SimCLR):
    """SimCLR, and a color head on a stage of the same backbone.

    Views that come in gray are colored: of a backbone that reads lightness all, else those that ``augment.gray`` made
    gray. With ``color_views`` all, the others are, too: the head then undoes the jitter of their colors. The true
    colors are those of the crop before its colors were changed. With ``color_weight`` 0 it is SimCLR.

    Args:
        parts: see ``Ingredients``.
        color_weight: the weight of the color loss beside NT-Xent's. The loss is a mean over all views; it is 0 for
            those that are not colored.
        color_stage: the stage that the color head reads; empty: the last one.
        color_hidden: channels of a 3 x 3 convolution before the colors; 0: none, the head is linear.
        color_views: gray or all, see above.
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
        color_hidden: int = 0,
        color_views: str = "gray",
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
        if color_hidden < 0:
            raise UserError(f"method.arguments: color_hidden is {color_hidden}: it must not be negative")
        if color_views not in ("gray", "all"):
            raise UserError(f"method.arguments: color_views is {color_views}: it must be gray or all")
        assert parts.prior is not None
        self.stage = stages[color_stage] if color_stage else self.backbone.stages[-1]
        self.color_weight, self.stride = color_weight, parts.objective.stride
        self.colors_all = color_views == "all" or self.backbone.inputs == "lightness"
        self.objective = OBJECTIVES[parts.objective.name](parts.objective, parts.prior)
        channels = self.stage.channels
        layers: list[nn.Module] = []
        if color_hidden:
            layers += [nn.Conv2d(channels, color_hidden, 3, padding=1), nn.ReLU(inplace=True)]
        self.head = nn.Sequential(*layers, nn.Conv2d(color_hidden or channels, self.objective.channels, 1))

    def loss(self, rgb: Tensor, labels: Tensor, numbers: Tensor) -> Losses:
        """Return the weighted sum, and both losses."""
        views = self.augmented(rgb, numbers)
        features = self.features(views)
        contrast = self.contrast(features)
        assert isinstance(contrast, Tensor)
        colors = self.color_loss(features[self.stage.name], views, rgb.transpose(0, 1).flatten(0, 1))
        return contrast + self.color_weight * colors, {"contrast": contrast.detach(), "colors": colors.detach()}

    @not_compiled  # how many views are gray differs from batch to batch
    def color_loss(self, features: Tensor, views: Tensor, crops: Tensor) -> Tensor:
        """Return the color loss of those views that are colored, each of its crop, as a mean over all."""
        gray = (views.amax(1) - views.amin(1)).flatten(1).amax(1) < _GRAY
        which = (gray | self.colors_all).nonzero().flatten()
        if not len(which):
            none: Tensor = 0 * self.head(features[:1]).sum()
            return none  # other processes may have some, and wait for gradients
        s = self.stride
        output = on_grid(self.head(features[which]), self.stage.stride, s, crops.shape[-2:])
        colors: Tensor = self.objective(output, rgb_to_ab(crops[which][..., ::s, ::s]))
        return len(which) / len(views) * colors
