"""The color net of the paper (eccv16): VGG-like, dilated, with features at a quarter of the input.

The layers are those of the released ``models/colorization_train_val_v2.prototxt`` and ``colorizers/eccv16.py``.
"""

from typing import NamedTuple

from torch import Tensor, nn

from pretext.backbones.contract import Backbone, Stage


class VggBlock(NamedTuple):
    """A block of 3 x 3 convolutions, each with ReLU, then one batch norm."""

    inputs: int
    outputs: int
    convolutions: int
    stride: int
    """The stride of the last convolution; the others have stride 1."""
    dilation: int


BLOCKS = (
    VggBlock(1, 64, 2, stride=2, dilation=1),
    VggBlock(64, 128, 2, stride=2, dilation=1),
    VggBlock(128, 256, 3, stride=2, dilation=1),
    VggBlock(256, 512, 3, stride=1, dilation=1),
    VggBlock(512, 512, 3, stride=1, dilation=2),
    VggBlock(512, 512, 3, stride=1, dilation=2),
    VggBlock(512, 512, 3, stride=1, dilation=1),
)


class Vgg(Backbone):
    """Blocks 1 to 8 of the eccv16 net; the 1 x 1 convolution to the bins is the color head.

    Stages conv1 to conv8 are the outputs of the blocks, after batch norm if there is one: 176 pixels give 88, 44, 22,
    22, 22, 22, 22 and 44. Submodules are named as in the PyTorch release (``model1.0.weight`` to ``model8.4.weight``),
    whose ``model8.6`` is the head. The input is (L - 50) / 100, as there; the Caffe release only subtracts 50.

    Args:
        affine: scale and shift in batch norm, as in the PyTorch release; the Caffe release has none.
    """

    stages = (
        Stage("conv1", 64, 2),
        Stage("conv2", 128, 4),
        Stage("conv3", 256, 8),
        Stage("conv4", 512, 8),
        Stage("conv5", 512, 8),
        Stage("conv6", 512, 8),
        Stage("conv7", 512, 8),
        Stage("conv8", 256, 4),
    )

    def __init__(self, affine: bool = True) -> None:
        super().__init__()
        for number, block in enumerate(BLOCKS, start=1):
            self.add_module(f"model{number}", sequence(block, affine))
        self.model8 = nn.Sequential(
            nn.ConvTranspose2d(512, 256, 4, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
        )

    def forward(self, lightness: Tensor) -> dict[str, Tensor]:
        """Return the features of every stage; see ``Backbone.forward``."""
        x = (lightness - 50) / 100
        features = {}
        for stage, block in zip(self.stages, self.children(), strict=True):
            x = block(x)
            features[stage.name] = x
        return features


def sequence(block: VggBlock, affine: bool = True) -> nn.Sequential:
    """Return the layers of a block."""
    layers: list[nn.Module] = []
    for position in range(block.convolutions):
        last = position == block.convolutions - 1
        layers += [
            nn.Conv2d(
                block.outputs if position else block.inputs,
                block.outputs,
                3,
                stride=block.stride if last else 1,
                padding=block.dilation,
                dilation=block.dilation,
            ),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.BatchNorm2d(block.outputs, affine=affine))
