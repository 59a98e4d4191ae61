"""The positions of a feature map in the image, and bilinear interpolation between them.

Convolutions of odd size with padding put the first position of a map on the first pixel. Patches put it in the middle
of the first patch, half a stride further. A head that predicts positions in the image must know which holds.
"""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pretext.backbones.contract import Stage
from pretext.errors import UserError

_PROBE = 256


class FeatureNetwork(Protocol):
    """A network as the tasks need it: sRGB in, features of every stage out; an ``nn.Module``."""

    stages: tuple[Stage, ...]

    def __call__(self, rgb: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, H, W), uint8 or float in [0, 1], to stages: (B, channels, about H / stride, about W / stride)."""
        ...


def stage_of(features: FeatureNetwork, name: str) -> Stage:
    """Return the stage of that name; "" is the last.

    Raises:
        UserError: there is no such stage.
    """
    stages = {stage.name: stage for stage in features.stages}
    if name and name not in stages:
        raise UserError(f"the backbone has no stage {name}: it has {', '.join(stages)}")
    return stages[name] if name else features.stages[-1]


class FeatureAxis(NamedTuple):
    """The positions of a feature map along an axis: position i is at pixel ``first + i * stride``.

    Coordinate 0 is the middle of the first pixel.

    Both axes have the same grid.
    """

    stride: int
    first: float


def grids(features: FeatureNetwork) -> dict[str, FeatureAxis]:
    """Return the grid of every stage, by its name.

    The positions follow from sizes alone, whatever the weights. A network with equal padding on all sides is symmetric,
    so its map is centered in the image if the image's size leaves no remainder: a size at which the map has just become
    one position longer. With odd convolutions this size is a multiple of the stride plus one pixel; with patches, a
    multiple of the stride; with AlexNet without padding (11 pixels, then 4 more for each position), a multiple plus 3.
    A network that takes one size only is assumed to have patches.
    """
    strides = {stage.name: stage.stride for stage in features.stages}
    side = probe_side(features)
    before = {name: values.shape[-1] for name, values in probe_maps(features, side).items()}
    known: dict[str, FeatureAxis] = {}
    for more in sorted({1, 2, 3, *strides.values()}):
        if len(known) == len(strides):
            break
        for name, values in probe_maps(features, side + more).items():
            places, stride = values.shape[-1], strides[name]
            if name not in known and places > before.get(name, 0):
                known[name] = FeatureAxis(stride, (side + more - 1 - (places - 1) * stride) / 2)
    return {name: known.get(name, FeatureAxis(stride, (stride - 1) / 2)) for name, stride in strides.items()}


def probe_side(features: FeatureNetwork) -> int:
    """Return a side, in pixels, that the network should take and that all its strides divide."""
    longest = max(stage.stride for stage in features.stages)
    return longest * math.ceil(_PROBE / longest)


def probe_maps(features: FeatureNetwork, side: int) -> dict[str, Tensor]:
    """Return the features of a gray square, in eval mode; empty if the network does not take that size."""
    assert isinstance(features, nn.Module)
    modes = {module: module.training for module in features.modules()}
    weight = next(features.parameters(), None)
    gray = torch.full((1, 3, side, side), 0.5, device=None if weight is None else weight.device)
    try:
        with torch.no_grad():
            maps: dict[str, Tensor] = features.eval()(gray)
    except (UserError, RuntimeError, AssertionError, ValueError):  # timm's models refuse in many ways
        return {}
    finally:
        for module, mode in modes.items():
            module.training = mode
    return maps


def read_between(maps: Tensor, grid: FeatureAxis, rows: Tensor, columns: Tensor) -> Tensor:
    """Interpolate a map bilinearly at any pixels; beyond the outermost positions, repeat their values.

    Inside, a deconvolution by a fixed bilinear kernel of 2 * stride - 1 (the publications' FCN: 63 at stride 32)
    gives the same. As a product of matrices it fits any size, and its gradient is the same in every run.

    Args:
        maps: (B, C, h, w), float32.
        grid: the grid of the maps.
        rows: (H,), float32, in pixels: 0 is the middle of the first pixel.
        columns: (W,), likewise.

    Returns:
        (B, C, H, W).
    """
    down, across = _weights(rows, grid, maps.shape[2]), _weights(columns, grid, maps.shape[3])
    with torch.autocast(maps.device.type, enabled=False):
        return down @ maps.to(down.dtype) @ across.T


def _weights(pixels: Tensor, grid: FeatureAxis, places: int) -> Tensor:
    """Return (pixels, places): the weight of each place for each pixel; weights of a pixel sum to 1."""
    at = ((pixels - grid.first) / grid.stride).clamp(0, places - 1)
    return (1 - (at[:, None] - torch.arange(places, device=at.device)).abs()).clamp(min=0)
