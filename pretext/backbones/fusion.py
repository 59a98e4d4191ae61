"""The net of Iizuka, Simo-Serra and Ishikawa, *Let there be Color!* (SIGGRAPH 2016): global and local features, fused.

The layers are those of the paper's table 1 and its port shufanwu/colorNet-pytorch (``colornet.py``); no training code
was ever released.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.backbones.contract import Backbone, Stage, channel_scaler
from pretext.errors import UserError

_LOW = ((64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1))
"""Outputs and stride of each 3 x 3 convolution."""
_MIDDLE = (512, 256)
_GLOBAL = ((512, 2), (512, 1), (512, 2), (512, 1))
_VECTOR = (1024, 512, 256)
_COLOR = (128, 64, 64, 32)
_UP_BEFORE = (2, 4)  # color convolutions whose input has twice the resolution
_GLOBAL_STRIDE = 32


class Fusion(Backbone):
    """Local features, fused with a feature vector of the whole image.

    Stages low1 to low6 are the low-level features, at 1/2 to 1/8 of the resolution; mid1 and mid2 are the mid-level
    ones. Stage fusion is a 1 x 1 convolution of these, joined at every position with the 256 numbers of the whole
    image. Stages color1 to color4 are the colorization network, at 1/8, 1/4, 1/4 and 1/2. Its last convolution, to two
    channels, is the color head (in the publication 3 x 3 with a sigmoid). The global branch has no stage: its input is
    the image resized to one size, through the same low-level convolutions. These are computed only once if the image
    has that size already.

    Every layer is a convolution with bias, batch norm and ReLU; fully connected layers are convolutions over their
    whole input. The input is (L - 50) / 100. Resolution is doubled by nearest-neighbor interpolation; if a side is not
    a multiple of 8, the result is cropped.

    Args:
        global_size: side of the input of the global branch, in pixels; a multiple of 32.
        width: factor of the channels of every layer; 1 is the published network.

    Raises:
        UserError: an argument is out of its range.
    """

    def __init__(self, global_size: int = 224, width: float = 1.0) -> None:
        super().__init__()
        if not isinstance(global_size, int) or not 32 <= global_size <= 1024 or global_size % _GLOBAL_STRIDE:
            raise UserError(
                f"backbone fusion: global_size is {global_size!r}: it must be a multiple of 32 from 32 to 1024"
            )
        widths = channel_scaler(width, "fusion")
        self.global_size = global_size
        self.layers = nn.ModuleDict()
        stages, stride, channels = [], 1, 1
        for number, (outputs, step) in enumerate(_LOW, 1):
            stride *= step
            outputs = widths(outputs)
            self.layers[f"low{number}"] = _layer(channels, outputs, step)
            stages.append(Stage(f"low{number}", outputs, stride))
            channels = outputs
        low = channels
        for number, (before, outputs) in enumerate(pairwise((low, *map(widths, _MIDDLE))), 1):
            self.layers[f"mid{number}"] = _layer(before, outputs)
            stages.append(Stage(f"mid{number}", outputs, stride))
        for number, (outputs, step) in enumerate(_GLOBAL, 1):
            self.layers[f"global{number}"] = _layer(low, widths(outputs), step)
            low = widths(outputs)
        kernels = (global_size // _GLOBAL_STRIDE, 1, 1)
        vectors = (low, *map(widths, _VECTOR))
        for number, ((before, outputs), kernel) in enumerate(zip(pairwise(vectors), kernels, strict=True), 1):
            self.layers[f"vector{number}"] = _layer(before, outputs, kernel=kernel, padding=0)
        fused = widths(_MIDDLE[-1])
        self.layers["fusion"] = _layer(fused + vectors[-1], fused, kernel=1, padding=0)
        stages.append(Stage("fusion", fused, stride))
        for number, (before, outputs) in enumerate(pairwise((fused, *map(widths, _COLOR))), 1):
            stride //= 2 if number in _UP_BEFORE else 1
            self.layers[f"color{number}"] = _layer(before, outputs)
            stages.append(Stage(f"color{number}", outputs, stride))
        self.stages = tuple(stages)
        self.vector_channels = vectors[2]

    def forward(self, lightness: Tensor) -> dict[str, Tensor]:
        """Return the features of every stage; see ``Backbone.forward``."""
        return self.with_vector(lightness)[0]

    def with_vector(self, lightness: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the features, and the 512 numbers from which the published net predicts an image's class."""
        x = (lightness - 50) / 100
        size = (self.global_size, self.global_size)
        features: dict[str, Tensor] = {}
        local = self._run_layers("low", range(1, 7), x, features)
        if x.shape[-2:] == size:
            image = local
        else:
            image = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
            image = self._run_layers("low", range(1, 7), image, {})
        local = self._run_layers("mid", (1, 2), local, features)
        vector = self._run_layers("vector", (1, 2), self._run_layers("global", range(1, 5), image, {}), {})
        expanded = self.layers["vector3"](vector).expand(-1, -1, *local.shape[-2:])
        x = features["fusion"] = self.layers["fusion"](torch.cat((local, expanded), dim=1))
        for number, like in ((1, "low6"), (2, "low3"), (3, "low3"), (4, "low1")):
            if number in _UP_BEFORE:
                height, width = features[like].shape[-2:]
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")[..., :height, :width]
            x = features[f"color{number}"] = self.layers[f"color{number}"](x)
        return features, vector.flatten(1)

    def _run_layers(
        self, name: str, numbers: range | tuple[int, ...], x: Tensor, features: dict[str, Tensor]
    ) -> Tensor:
        for number in numbers:
            x = features[f"{name}{number}"] = self.layers[f"{name}{number}"](x)
        return x


def _layer(inputs: int, outputs: int, stride: int = 1, kernel: int = 3, padding: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
