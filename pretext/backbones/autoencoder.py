"""An encoder-decoder without skip connections: all information for the colors passes through a narrow bottleneck.

This is not a published network. It is the simple form of early colorization networks, for comparison with networks that
keep local detail (``siggraph17``) or resolution (``vgg``).
"""

from itertools import pairwise

from torch import Tensor, nn

from pretext.backbones.contract import Backbone, Stage, channel_scaler
from pretext.errors import UserError

_WIDTHS = (64, 128, 256, 512, 512, 512, 512)


class Autoencoder(Backbone):
    """Convolutions that halve the resolution, then transposed ones that double it, each with batch norm and ReLU.

    Stages encoder1 to encoder5 have strides 2 to 32, by 3 x 3 convolutions of stride 2, with 64, 128, 256, 512 and
    512 channels; decoder1 to decoder4 mirror encoder4 to encoder1 by 4 x 4 transposed convolutions of stride 2. The
    input of the color head is decoder4, at half the image's resolution. The decoder gets only the last stage's
    features of the encoder and, if a side is odd, the size to crop its output to. The input is (L - 50) / 50.

    Args:
        depth: number of stages of the encoder, 2 to 7; the decoder has one less.
        width: factor of the channels of every stage.

    Raises:
        UserError: an argument is out of its range.
    """

    def __init__(self, depth: int = 5, width: float = 1.0) -> None:
        super().__init__()
        if not isinstance(depth, int) or not 2 <= depth <= len(_WIDTHS):
            raise UserError(
                f"backbone autoencoder: depth is {depth!r}: it must be a whole number from 2 to {len(_WIDTHS)}"
            )
        widths = tuple(map(channel_scaler(width, "autoencoder"), _WIDTHS[:depth]))
        self.encoder, self.decoder = nn.ModuleDict(), nn.ModuleDict()
        stages = []
        for number, (before, after) in enumerate(pairwise((1, *widths)), 1):
            self.encoder[f"encoder{number}"] = _with_norm(nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False))
            stages.append(Stage(f"encoder{number}", after, 2**number))
        for number, (before, after) in enumerate(pairwise(widths[::-1]), 1):
            doubling = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
            self.decoder[f"decoder{number}"] = _with_norm(doubling)
            stages.append(Stage(f"decoder{number}", after, 2 ** (depth - number)))
        self.stages = tuple(stages)

    def forward(self, lightness: Tensor) -> dict[str, Tensor]:
        """Return the features of every stage; see ``Backbone.forward``."""
        features, x = {}, (lightness - 50) / 50
        for name, block in self.encoder.items():
            x = features[name] = block(x)
        sizes = [maps.shape[-2:] for maps in features.values()][-2::-1]
        for (name, block), (height, width) in zip(self.decoder.items(), sizes, strict=True):
            x = features[name] = block(x)[..., :height, :width]
        return features


def _with_norm(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True))
