"""Pooling of a stage's map to a vector, by a rule whose name is printed with every number.

mean           the average over all positions.
average:N      adaptive average pooling to the finest k x k grid with C k^2 <= N, at least 1 x 1.
window:N       average pooling with equal kernel and stride, no padding, the smallest kernel with C h w < N: Zhang,
               Isola and Efros, ECCV 2016, section 3.2 ("until less than 10,000 dimensions").
bilinear:N     bilinear resizing to the finest k x k grid with C k^2 <= N: the released code of Zhang, Isola and
               Efros, and Split-Brain (CVPR 2017); with N = 9600, AlexNet's conv1 to conv5 become 10, 6, 5, 5, 6.
goyal2019      the average pools of Goyal et al. (ICCV 2019) for the maps of AlexNet and ResNet-50 that it names
               (released configurations); any other map as average:9600.

No rule makes a grid finer than the map.
"""

from collections.abc import Callable
from functools import cache, partial
from math import isqrt
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from pretext.errors import UserError


class _Window(NamedTuple):
    kernel_size: int
    stride: int
    padding: int = 0

    def side(self, length: int) -> int:
        return (length + 2 * self.padding - self.kernel_size) // self.stride + 1


# By channels and side. ResNet-50's last stage has two entries, without its stride (Goyal et al.) and with it (VISSL).
_GOYAL = {
    (96, 55): _Window(19, 4),
    (256, 27): _Window(12, 3),
    (384, 13): _Window(9, 1),
    (256, 13): _Window(8, 1),
    (64, 112): _Window(10, 10, 4),
    (64, 56): _Window(5, 5, 2),
    (256, 56): _Window(16, 8),
    (512, 28): _Window(13, 5),
    (1024, 14): _Window(8, 3),
    (2048, 14): _Window(12, 2),
    (2048, 7): _Window(6, 1),
}
_GOYAL_ELSE = "average:9600"
_LIMITED = ("average", "window", "bilinear")


def pool(features: Tensor, rule: str) -> Tensor:
    """Return vectors of maps.

    Args:
        features: (B, C, h, w), float32.
        rule: see the module.

    Returns:
        (B, dims), float32, channels first; ``dims_of`` says how many.

    Raises:
        UserError: there is no such rule.
    """
    (height, width), resize = _plan(rule, *features.shape[1:])
    pooled = features if (height, width) == features.shape[2:] else resize(features)
    assert pooled.shape[2:] == (height, width)
    return pooled.flatten(1)


def dims_of(rule: str, channels: int, height: int, width: int) -> int:
    """Return the number of dimensions that ``pool`` gives.

    Raises:
        UserError: there is no such rule.
    """
    (rows, columns), _ = _plan(rule, channels, height, width)
    return channels * rows * columns


_PoolPlan = tuple[tuple[int, int], Callable[[Tensor], Tensor]]


@cache
def _plan(rule: str, channels: int, height: int, width: int) -> _PoolPlan:
    """Return the grid's size, and the function that resizes a map of another size to it."""
    name, colon, text = rule.partition(":")
    limited = name in _LIMITED and text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) > 0
    if not limited and (name not in ("mean", "goyal2019") or colon):
        known = ", ".join(["mean", "goyal2019", *(f"{limited_name}:N" for limited_name in _LIMITED)])
        raise UserError(f"pooling {rule!r}: no such rule; use one of {known} (N: the most dimensions, such as 9600)")
    limit = int(text) if limited else 0
    if name == "goyal2019":
        window = _GOYAL.get((channels, height)) if height == width else None
        if window is None:
            return _plan(_GOYAL_ELSE, channels, height, width)
        side = window.side(height)
        # Caffe2, which the published pools used, does not count padding.
        return (side, side), partial(F.avg_pool2d, **window._asdict(), count_include_pad=False)
    if name == "window":
        for kernel in range(1, min(height, width) + 1):
            if channels * (height // kernel) * (width // kernel) < limit:
                return (height // kernel, width // kernel), partial(F.avg_pool2d, kernel_size=kernel)
    side = max(1, isqrt(limit // channels)) if name in ("average", "bilinear") else 1
    grid = min(side, height), min(side, width)
    if name == "bilinear":
        return grid, partial(F.interpolate, size=grid, mode="bilinear", align_corners=False)
    return grid, partial(F.adaptive_avg_pool2d, output_size=grid)
