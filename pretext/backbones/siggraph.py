"""The net of interactive colorization (Zhang et al., SIGGRAPH 2017), which has skip connections and takes hints.

The layers are those of the released ``colorizers/siggraph17.py``.
"""

import torch
from torch import Tensor, nn

from pretext.backbones.contract import Backbone, Stage, channel_scaler
from pretext.backbones.vgg import BLOCKS, VggBlock, sequence
from pretext.errors import UserError

AB_SCALE = 110.0
"""The input of hints is ab divided by this."""

_STRIDES = (1, 2, 4, 8, 8, 8, 8, 4, 2, 1)


class Siggraph17(Backbone):
    """Blocks 1 to 10 of the siggraph17 net; the 1 x 1 convolution to two channels is the color head.

    Stages conv1 to conv10 are the outputs of the blocks. Blocks 1 to 7 are those of ``Vgg`` without strides; instead,
    only every second row and column of conv1, conv2 and conv3 is used by the next block. Blocks 8 to 10 double the
    resolution and add a convolution of conv3, conv2 and conv1, so conv10 is as large as the image. If a side is not a
    multiple of 8 (the release then fails), the doubled features are cropped to the size of the added ones.

    Submodules are named as in the PyTorch release (``model1.0.weight`` to ``model10.1.weight``), whose
    ``model_out.0`` is the head. Its ``model_class.0``, on conv8, is an auxiliary head, which the backbone does not
    have. The input is (L - 50) / 100.

    Args:
        mask_center: number subtracted from the mask: 0 in the PyTorch release, 0.5 in its training code
            (richzhang/colorization-pytorch, ``--mask_cent``). Weights trained with one of them almost ignore hints
            with the other.
        width: factor of the channels of every block; 1 is the published network.

    Raises:
        UserError: an argument is out of its range.
    """

    takes_hints = True

    def __init__(self, mask_center: float = 0.0, width: float = 1.0) -> None:
        super().__init__()
        if not isinstance(mask_center, (int, float)) or not 0 <= mask_center <= 1:
            raise UserError(f"backbone siggraph17: mask_center is {mask_center!r}: it must lie in [0, 1]")
        self.mask_center = mask_center
        widths = channel_scaler(width, "siggraph17")
        for number, block in enumerate(BLOCKS, start=1):
            inputs = 4 if number == 1 else widths(block.inputs)
            scaled_block = block._replace(inputs=inputs, outputs=widths(block.outputs), stride=1)
            self.add_module(f"model{number}", sequence(scaled_block))
        first, second, third, fourth = map(widths, (64, 128, 256, 512))
        self.model8up = nn.Sequential(nn.ConvTranspose2d(fourth, third, 4, stride=2, padding=1))
        self.model3short8 = nn.Sequential(nn.Conv2d(third, third, 3, padding=1))
        self.model8 = nn.Sequential(nn.ReLU(), *sequence(VggBlock(third, third, 2, stride=1, dilation=1)))
        self.model9up = nn.Sequential(nn.ConvTranspose2d(third, second, 4, stride=2, padding=1))
        self.model2short9 = nn.Sequential(nn.Conv2d(second, second, 3, padding=1))
        self.model9 = nn.Sequential(nn.ReLU(), *sequence(VggBlock(second, second, 1, stride=1, dilation=1)))
        self.model10up = nn.Sequential(nn.ConvTranspose2d(second, second, 4, stride=2, padding=1))
        self.model1short10 = nn.Sequential(nn.Conv2d(first, second, 3, padding=1))
        self.model10 = nn.Sequential(nn.ReLU(), nn.Conv2d(second, second, 3, padding=1), nn.LeakyReLU(0.2))
        channels = (first, second, third, *[fourth] * 4, third, second, second)
        self.stages = tuple(
            Stage(f"conv{number}", count, stride)
            for number, (count, stride) in enumerate(zip(channels, _STRIDES, strict=True), start=1)
        )

    def forward(self, lightness: Tensor, hints: Tensor | None = None, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Return the features of every stage; see ``Backbone.forward``.

        Args:
            lightness: (B, 1, H, W), L in [0, 100].
            hints: (B, 2, H, W), unscaled ab at pixels with a hint, else 0; by default no hints.
            mask: (B, 1, H, W), 1 at pixels with a hint, else 0; by default no hints.
        """
        hints = torch.zeros_like(lightness).repeat(1, 2, 1, 1) if hints is None else hints
        mask = torch.zeros_like(lightness) if mask is None else mask
        x = torch.cat(((lightness - 50) / 100, hints / AB_SCALE, mask - self.mask_center), dim=1)
        features: dict[str, Tensor] = {}
        for number in range(1, 8):
            x = self.get_submodule(f"model{number}")(x)
            features[f"conv{number}"] = x
            if number <= 3:
                x = x[..., ::2, ::2]
        for number, skipped in ((8, 3), (9, 2), (10, 1)):
            shortcut = self.get_submodule(f"model{skipped}short{number}")(features[f"conv{skipped}"])
            doubled = self.get_submodule(f"model{number}up")(features[f"conv{number - 1}"])
            height, width = shortcut.shape[-2:]
            features[f"conv{number}"] = self.get_submodule(f"model{number}")(doubled[..., :height, :width] + shortcut)
        return features
