"""A backbone of two halves, one for lightness and one for colors, whose features are joined."""

from collections.abc import Callable

import torch
from torch import Tensor

from pretext.backbones.contract import Backbone, Inputs, Stage
from pretext.color import rgb_to_ab, rgb_to_lightness


class SplitBrain(Backbone):
    """Two backbones of one kind: the features of each stage are those of the first, which sees L, and of the second.

    Args:
        build: builds a half by what it reads.
    """

    inputs: Inputs = "rgb"

    def __init__(self, build: Callable[[Inputs], Backbone]) -> None:
        super().__init__()
        self.lightness, self.ab = build("lightness"), build("ab")
        self.stages = tuple(
            Stage(one.name, one.channels + other.channels, one.stride)
            for one, other in zip(self.lightness.stages, self.ab.stages, strict=True)
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the features of every stage for sRGB, (B, 3, H, W), uint8 in [0, 255] or float in [0, 1]."""
        return self.join(self.lightness(rgb_to_lightness(x)), self.ab(rgb_to_ab(x)))

    def join(self, lightness: dict[str, Tensor], ab: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the joined features of both halves."""
        return {name: torch.cat((features, ab[name]), 1) for name, features in lightness.items()}

    def fit_size(self, size: int) -> int:
        """See ``Backbone.fit_size``."""
        return self.lightness.fit_size(size)
