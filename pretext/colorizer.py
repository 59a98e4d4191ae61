"""A colorizer: a backbone and a colour head, trained together for an objective."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.backbones.contract import Backbone
from pretext.color import lab_to_rgb, rgb_to_ab, rgb_to_lightness
from pretext.errors import UserError
from pretext.gamut import TEMPERATURE
from pretext.objectives import Objective


class Colorizer(nn.Module):
    """Lightness in, colour out.

    The head is one 1 x 1 convolution on the backbone's last stage. Where that stage is coarser than
    ``target_stride``, its output is interpolated to the target's grid (bilinear), as the paper does
    for AlexNet.

    Args:
        backbone: gives the features.
        objective: says how many channels the head emits, and decodes them.
        target_stride: input pixels per point of the colour target, which is sampled, not averaged.
    """

    def __init__(self, backbone: Backbone, objective: Objective, target_stride: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.objective = objective
        self.target_stride = target_stride
        self.head: nn.Module = nn.Conv2d(backbone.stages[-1].channels, objective.channels, kernel_size=1)

    def forward(self, lightness: Tensor) -> Tensor:
        """(B, 1, H, W), L in [0, 100] -> the head's output, (B, channels, ceil(H / s), ceil(W / s))."""
        return self.output(self.backbone(lightness), lightness.shape[-2:])

    def output(self, features: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
        """The head's output on a backbone's features of pictures of that size; see ``forward``."""
        output: Tensor = self.head(features[self.backbone.stages[-1].name])
        height, width = (-(-side // self.target_stride) for side in size)
        if output.shape[-2:] != (height, width):
            factor = self.backbone.stages[-1].stride / self.target_stride
            output = resample(output.float(), factor, (height, width))
        return output

    def target(self, rgb: Tensor) -> Tensor:
        """The true ab at the head's grid: (B, 3, H, W), sRGB -> (B, 2, ceil(H / s), ceil(W / s))."""
        s = self.target_stride
        return rgb_to_ab(rgb[..., ::s, ::s])

    def loss(self, rgb: Tensor, labels: Tensor | None = None) -> Tensor:
        """The objective on a batch of pictures, (B, 3, H, W), sRGB: a scalar. Their labels do not matter to it."""
        loss: Tensor = self.objective(self(rgb_to_lightness(rgb)), self.target(rgb))
        return loss

    def picture_losses(self, rgb: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B,): each picture's own loss, one without colour counted as any other."""
        output = self(rgb_to_lightness(rgb))
        return self.objective.pixel_losses(output, self.target(rgb)).flatten(1).mean(1)

    @torch.inference_mode()
    def colorize(self, lightness: Tensor, temperature: float = TEMPERATURE) -> Tensor:
        """The colour of pictures: ab, (B, 2, H, W), of their L, (B, 1, H, W), all unscaled."""
        ab = self.objective.decode(self(lightness), temperature)
        return resample(ab, self.target_stride, lightness.shape[-2:])


class NoHead(nn.Module):
    """Stands where weights came without a colour head: whoever asks it for colours is told so."""

    def __init__(self, origin: str) -> None:
        super().__init__()
        self.origin = origin

    def forward(self, features: Tensor) -> Tensor:
        raise UserError(f"{self.origin}: these weights have no colour head; they can be probed, but colour nothing")


def resample(grid: Tensor, factor: float, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation between point samples.

    Point i of the grid lies at pixel i * ``factor`` of the result, as sampling with a stride and strided
    convolutions put it. (``F.interpolate`` alone takes its points for the middles of cells: the colours
    would come to lie half a stride off.) Beyond the last point its value goes on.

    Args:
        grid: (B, C, h, w), float.
        factor: result pixels per grid point.
        size: of the result.
    """
    height, width = (max(1, round((side - 1) * factor) + 1) for side in grid.shape[-2:])
    dense = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=True)
    dense = dense[..., : size[0], : size[1]]
    for axis, side in ((-2, size[0]), (-1, size[1])):
        if missing := side - dense.shape[axis]:  # not F.pad, whose gradient torch.compile gets wrong channels-last
            last = dense.narrow(axis, -1, 1)
            dense = torch.cat((dense, *[last] * missing), axis)
    return dense


def join(lightness: Tensor, ab: Tensor) -> Tensor:
    """sRGB in [0, 1], (B, 3, H, W), of L and ab; colours that sRGB does not have are clipped, which moves L."""
    return lab_to_rgb(torch.cat((lightness, ab), dim=1))
