"""Colorization: a backbone and a color head predict color from lightness, trained together for an objective."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.backbones.contract import Backbone
from pretext.color import lab_to_rgb, rgb_to_ab, rgb_to_lightness
from pretext.errors import UserError
from pretext.gamut import TEMPERATURE
from pretext.methods.objectives import Objective

_HIDDEN = 256  # units of the class branch

Hinting = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""The true ab (B, 2, H, W) and the sample numbers (B,) of images -> hints and mask, see ``pretext.methods.hints``."""


class ClassBranch(nn.Module):
    """An auxiliary branch that predicts an image's class from the backbone's vector; no color depends on it.

    As in Iizuka et al. 2016, there is one fully connected layer of 256 units before the scores.

    Args:
        channels: length of the vector.
        classes: number of classes.
        weight: alpha, the weight of the cross-entropy in the loss.
    """

    def __init__(self, channels: int, classes: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.layers = nn.Sequential(
            nn.Linear(channels, _HIDDEN), nn.BatchNorm1d(_HIDDEN), nn.ReLU(inplace=True), nn.Linear(_HIDDEN, classes)
        )

    def forward(self, vector: Tensor, labels: Tensor) -> Tensor:
        """Return alpha times the cross-entropy, (B,), nats, of vectors (B, channels) and labels (B,), int64."""
        return self.weight * F.cross_entropy(self.layers(vector).float(), labels, reduction="none")


class Colorizer(nn.Module):
    """A network that predicts color from lightness.

    The head is one 1 x 1 convolution on the backbone's last stage. If that stage is coarser than
    ``target_stride``, its output is interpolated (bilinear) to the target's grid, as the paper does
    for AlexNet.

    Args:
        backbone: computes the features.
        objective: gives the number of output channels of the head, and decodes its output.
        target_stride: input pixels per point of the color target, which is sampled, not averaged.
        hinting: draws the hints for training, for a backbone that takes hints.
        class_branch: learns the labels of images besides their colors, for a backbone with a vector.
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        target_stride: int,
        hinting: Hinting | None = None,
        class_branch: ClassBranch | None = None,
    ) -> None:
        super().__init__()
        assert backbone.takes_hints or hinting is None
        assert backbone.vector_channels or class_branch is None
        self.backbone = backbone
        self.objective = objective
        self.target_stride = target_stride
        self.hinting = hinting
        self.head: nn.Module = nn.Conv2d(backbone.stages[-1].channels, objective.channels, kernel_size=1)
        self.class_branch = class_branch

    @property
    def numbered(self) -> bool:
        """Whether ``loss`` needs the numbers of its samples."""
        return self.hinting is not None

    def forward(self, lightness: Tensor, hints: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the head's output, (B, channels, ceil(H / s), ceil(W / s)).

        Args:
            lightness: (B, 1, H, W), L in [0, 100].
            hints: (B, 2, H, W), ab where it is known, unscaled, else 0; none by default.
            mask: (B, 1, H, W), 1 where it is known, else 0; needed if there are hints.

        Raises:
            UserError: there are hints, but the backbone takes none.
        """
        if hints is None and mask is None:
            return self.output(self.backbone(lightness), lightness.shape[-2:])
        if not self.backbone.takes_hints:
            raise UserError("this network takes no hints; use one with backbone siggraph17")
        assert hints is not None and mask is not None, "hints come with their mask"
        return self.output(self.backbone(lightness, hints, mask), lightness.shape[-2:])

    def output(self, features: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
        """Return the head's output on a backbone's features of images of that size; see ``forward``."""
        output: Tensor = self.head(features[self.backbone.stages[-1].name])
        height, width = (-(-side // self.target_stride) for side in size)
        if output.shape[-2:] != (height, width):
            factor = self.backbone.stages[-1].stride / self.target_stride
            output = resample(output.float(), factor, (height, width))
        return output

    def target(self, rgb: Tensor) -> Tensor:
        """Return the true ab at the head's grid, (B, 2, ceil(H / s), ceil(W / s)), of sRGB images (B, 3, H, W)."""
        s = self.target_stride
        return rgb_to_ab(rgb[..., ::s, ::s])

    def loss(self, rgb: Tensor, labels: Tensor | None = None, numbers: Tensor | None = None) -> Tensor:
        """Return the loss of the objective; with a class branch plus alpha times the cross-entropy of the labels.

        Args:
            rgb: (B, 3, H, W), sRGB.
            labels: (B,), int64; only a class branch needs them.
            numbers: (B,), int64, numbers of the samples in the run, for drawing their hints; None: no hints.

        Returns:
            A scalar.
        """
        output, class_losses = self._forward_training(rgb, labels, numbers)
        loss: Tensor = self.objective(output, self.target(rgb))
        return loss if class_losses is None else loss + class_losses.mean()

    def image_losses(self, rgb: Tensor, labels: Tensor | None = None, numbers: Tensor | None = None) -> Tensor:
        """Return the loss of each image, (B,), also of gray images; arguments as for ``loss``."""
        output, class_losses = self._forward_training(rgb, labels, numbers)
        losses = self.objective.pixel_losses(output, self.target(rgb)).flatten(1).mean(1)
        return losses if class_losses is None else losses + class_losses

    @torch.inference_mode()
    def colorize(
        self,
        lightness: Tensor,
        temperature: float = TEMPERATURE,
        hints: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return ab, (B, 2, H, W), for L, (B, 1, H, W), all unscaled; hints as in ``forward``."""
        ab = self.objective.decode(self(lightness, hints, mask), temperature)
        return resample(ab, self.target_stride, lightness.shape[-2:])

    def _forward_training(
        self, rgb: Tensor, labels: Tensor | None, numbers: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the head's output, and the loss of the class branch for each image, if there is one."""
        lightness = rgb_to_lightness(rgb)
        if self.class_branch is not None:
            assert labels is not None
            features, vector = self.backbone.with_vector(lightness)
            return self.output(features, lightness.shape[-2:]), self.class_branch(vector, labels)
        if self.hinting is None or numbers is None:
            return self(lightness), None
        return self(lightness, *self.hinting(rgb_to_ab(rgb), numbers)), None


class NoHead(nn.Module):
    """A placeholder for a missing color head: its ``forward`` raises a ``UserError``."""

    def __init__(self, origin: str) -> None:
        super().__init__()
        self.origin = origin

    def forward(self, features: Tensor) -> Tensor:
        raise UserError(f"{self.origin}: these weights have no color head; they can be probed, but cannot color images")


def resample(grid: Tensor, factor: float, size: Sequence[int]) -> Tensor:
    """Interpolate bilinearly between point samples.

    Point i of the grid lies at pixel i * ``factor`` of the result, as in sampling with a stride and in strided
    convolutions. (``F.interpolate`` treats points as the middles of cells: the colors would be shifted by half a
    stride.) Beyond the last point, its value is repeated.

    Args:
        grid: (B, C, h, w), float.
        factor: result pixels per grid point.
        size: height and width of the result.
    """
    height, width = (max(1, round((side - 1) * factor) + 1) for side in grid.shape[-2:])
    dense = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=True)
    dense = dense[..., : size[0], : size[1]]
    for axis, side in ((-2, size[0]), (-1, size[1])):
        if missing := side - dense.shape[axis]:  # not F.pad: torch.compile gets its gradient wrong for channels_last
            last = dense.narrow(axis, -1, 1)
            dense = torch.cat((dense, *[last] * missing), axis)
    return dense


def join(lightness: Tensor, ab: Tensor) -> Tensor:
    """Join L and ab to sRGB in [0, 1], (B, 3, H, W); colors outside sRGB are clipped, which changes L."""
    return lab_to_rgb(torch.cat((lightness, ab), dim=1))
