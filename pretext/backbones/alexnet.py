"""The paper's AlexNet for pretraining and for tests, with one input channel or three.

The layers are those of the released ``colorization/train_alexnet/train_val.prototxt`` (geometry "pretrain") and
``feature_learning_tests/linear/train_val.prototxt`` (geometry "test").
"""

from typing import Literal, NamedTuple

from torch import Tensor, nn

from pretext.backbones.contract import Backbone, Inputs, Stage, center, channel_count
from pretext.errors import UserError


class Geometry(NamedTuple):
    """The differences between the nets for pretraining and for tests; their weights have the same names and shapes."""

    conv1_padding: int
    pool_padding: int
    pool5_stride: int
    fc6_dilation: int
    fc6_padding: int
    smallest: int
    """The smallest height and width at which every stage has a value, in pixels."""
    smallest_convolutional: int
    """The same if pool5 is the last stage."""


GEOMETRIES = {
    "pretrain": Geometry(
        5, pool_padding=1, pool5_stride=1, fc6_dilation=2, fc6_padding=5, smallest=1, smallest_convolutional=1
    ),
    "test": Geometry(
        0, pool_padding=0, pool5_stride=2, fc6_dilation=1, fc6_padding=0, smallest=227, smallest_convolutional=67
    ),
}


class AlexNet(Backbone):
    """The paper's AlexNet: convolution, batch norm, ReLU; fc6 and fc7 are convolutions too.

    Stages are conv1 to conv5 (after ReLU, before pooling), pool5, fc6 and fc7. The same state dict
    loads in both geometries:

    - "pretrain": 180 pixels give 45 (conv1), 23 (conv2) and 12 (conv3 to fc7, fc6 dilated by 2);
    - "test": 227 pixels give 55, 27, 13 (conv3 to conv5), 6 (pool5) and 1 (fc6, fc7).

    In "test", pool5 to fc7 have twice the stride, and fc6 sees only whole 6 x 6 windows. As in the released net, there
    is no local response normalization and, by default, no scale and shift in batch norm and no dropout. The net
    subtracts 50 from L; sRGB gets the same range.

    Args:
        geometry: "pretrain" or "test".
        batch_norm: False leaves batch norm out, for weights that it was folded into; the other names in the state
            dict stay the same.
        affine: scale and shift in batch norm, as in VISSL's port.
        fully_connected: False ends the net at pool5, as VISSL's port does.
        dropout: the share of units dropped after fc6 and fc7 in training; 0.5 for fine-tuning.
        inputs: what it reads.

    Raises:
        UserError: the geometry is unknown, or dropout is out of its range; in ``forward`` with "test": the input is
            smaller than 227 pixels (67 if the net ends at pool5).
    """

    stages: tuple[Stage, ...] = (
        Stage("conv1", 96, 4),
        Stage("conv2", 256, 8),
        Stage("conv3", 384, 16),
        Stage("conv4", 384, 16),
        Stage("conv5", 256, 16),
        Stage("pool5", 256, 16),
        Stage("fc6", 4096, 16),
        Stage("fc7", 4096, 16),
    )

    def __init__(
        self,
        geometry: Literal["pretrain", "test"] = "pretrain",
        batch_norm: bool = True,
        affine: bool = False,
        fully_connected: bool = True,
        dropout: float = 0.0,
        inputs: Inputs = "lightness",
    ) -> None:
        super().__init__()
        self.set_inputs(inputs)
        if geometry not in tuple(GEOMETRIES):
            raise UserError(f"AlexNet has no geometry {geometry!r}: use one of {', '.join(GEOMETRIES)}")
        if not 0 <= dropout < 1:
            raise UserError(f"AlexNet's dropout is {dropout}: it must lie in [0, 1)")
        shape = GEOMETRIES[geometry]
        self.smallest = shape.smallest if fully_connected else shape.smallest_convolutional
        if not fully_connected:
            self.stages = self.stages[: [stage.name for stage in self.stages].index("fc6")]

        self.stages = tuple(
            stage._replace(stride=stage.stride * shape.pool5_stride) if stage.name in ("pool5", "fc6", "fc7") else stage
            for stage in self.stages
        )

        def convolution(
            inputs: int,
            outputs: int,
            kernel: int,
            stride: int = 1,
            padding: int = 0,
            dilation: int = 1,
            groups: int = 1,
        ) -> nn.Sequential:
            # Batch norm makes the bias redundant, but the release has it, and folding batch norm needs it.
            conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups)
            norm = [nn.BatchNorm2d(outputs, affine=affine)] if batch_norm else []
            return nn.Sequential(conv, *norm, nn.ReLU(inplace=True))

        def pool(stride: int) -> nn.MaxPool2d:
            return nn.MaxPool2d(3, stride, shape.pool_padding)

        # The forward pass runs the layers in the order of these lines.
        self.conv1 = convolution(channel_count(inputs), 96, 11, stride=4, padding=shape.conv1_padding)
        self.pool1 = pool(2)
        self.conv2 = convolution(96, 256, 5, padding=2, groups=2)
        self.pool2 = pool(2)
        self.conv3 = convolution(256, 384, 3, padding=1)
        self.conv4 = convolution(384, 384, 3, padding=1, groups=2)
        self.conv5 = convolution(384, 256, 3, padding=1, groups=2)
        self.pool5 = pool(shape.pool5_stride)
        if not fully_connected:
            return
        self.fc6 = convolution(256, 4096, 6, dilation=shape.fc6_dilation, padding=shape.fc6_padding)
        self.drop6 = nn.Dropout(dropout)
        self.fc7 = convolution(4096, 4096, 1)
        self.drop7 = nn.Dropout(dropout)

    def fit_size(self, size: int) -> int:
        """Return the size, or the smallest allowed size if it is larger; see ``Backbone.fit_size``."""
        return max(size, self.smallest)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the features of every stage; see ``Backbone.forward``."""
        if min(x.shape[-2:]) < self.smallest:
            height, width = x.shape[-2:]
            raise UserError(
                f"AlexNet in geometry 'test' needs {self.smallest} x {self.smallest} pixels or more, not "
                f"{height} x {width}: enlarge the crop or use geometry 'pretrain'"
            )
        x = x - 50 if self.inputs == "lightness" else 50 * center(x, self.inputs)
        features = {}
        for name, layer in self.named_children():
            x = layer(x)
            features[name.replace("drop", "fc")] = x  # the features of fc6 and fc7 are those after dropout
        return {stage.name: features[stage.name] for stage in self.stages}
