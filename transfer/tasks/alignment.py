"""The places of a feature map in the image, and bilinear interpolation between them.

Convolutions of odd size, padded all round, put the first place of a map on the first pixel; patches put it in the
middle of the first patch, half a stride further. A head that predicts where things are must know which.
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
    """The places of a feature map along an axis: number i lies on pixel ``first + i * stride``, 0 the first's middle.

    Both axes have the same grid.
    """

    stride: int
    first: float


def grids(features: FeatureNetwork) -> dict[str, FeatureAxis]:
    """Return the grid of every stage, by its name.

    A network that pads alike on all sides is its own mirror image, so its map lies in the middle of an image whose
    size leaves no remainder: one at which the map has just become one place longer. For odd convolutions that is a
    multiple of the stride and one pixel, for patches a multiple of the stride, for AlexNet without padding (first 11
    pixels, then 4 more for each place) 3 more than one; so sizes suffice, whatever the weights. A network that takes
    one size only is assumed to have patches.
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
    """Return the features of a gray square, in eval mode; nothing if the network does not take that size."""
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
    """Interpolate a map bilinearly at any pixels; beyond the outermost places their values are repeated.

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
