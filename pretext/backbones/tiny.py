"""A backbone that trains on a laptop's CPU: five strided 3 x 3 convolutions."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from pretext.backbones.contract import Backbone, Inputs, Stage, center, channel_count
from pretext.errors import UserError

_WIDTHS = (32, 64, 128, 256, 256)
_STRIDES = (2, 2, 2, 2, 1)


class Tiny(Backbone):
    """Five stages of convolution, batch normalization and ReLU, at strides 2, 4, 8, 16 and 16.

    Every stage but the last halves the image: early striding is what makes it fast. On the input,
    L is centered to (L - 50) / 50, and sRGB in [0, 1] likewise.

    Args:
        widths: channels of the five stages; by default it has under a million weights.
        inputs: what it reads.

    Raises:
        UserError: these are not five whole numbers from 1.
    """

    def __init__(self, widths: Sequence[int] = _WIDTHS, inputs: Inputs = "lightness") -> None:
        super().__init__()
        self.set_inputs(inputs)
        if (
            not isinstance(widths, Sequence)
            or len(widths) != len(_STRIDES)
            or not all(isinstance(width, int) and 1 <= width <= 4096 for width in widths)
        ):
            raise UserError(f"backbone tiny: widths is {widths}: give five whole numbers from 1 to 4096")
        stages, stride = [], 1
        self.blocks = nn.ModuleDict()
        for number, ((before, width), step) in enumerate(
            zip(pairwise((channel_count(inputs), *widths)), _STRIDES, strict=True), 1
        ):
            stride *= step
            stages.append(Stage(f"conv{number}", width, stride))
            self.blocks[f"conv{number}"] = nn.Sequential(
                nn.Conv2d(before, width, 3, step, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
            )
        self.stages = tuple(stages)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """See ``Backbone.forward``."""
        features, x = {}, center(x, self.inputs)
        for name, block in self.blocks.items():
            x = features[name] = block(x)
        return features
