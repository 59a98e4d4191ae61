"""Which image sizes a network takes, and how coarse its features are: tried on torch's device "meta".

There tensors have shapes and no values, so that a forward pass computes nothing and takes about 0.1 s whatever the
size. All networks here are on that device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_FURTHER = 512  # pixels between the two sizes whose features are compared
_LARGEST = 1024


def find_error(net: nn.Module, shape: Sequence[int]) -> Exception | None:
    """Return the error that a network raises for inputs of that shape, in its present mode; None if it takes them."""
    try:
        with torch.no_grad():
            net(torch.empty(tuple(shape), device="meta"))
    except Exception as error:  # networks refuse in as many ways as they have authors
        return error
    return None


def find_least_size(net: nn.Module, channels: int, size: int) -> int:
    """Return the least side above ``size`` that a network takes, in pixels; 0 if it takes none up to 1,024."""
    refused, accepted = size, 2 * size
    while find_error(net, (2, channels, accepted, accepted)):
        refused, accepted = accepted, 2 * accepted
        if accepted > _LARGEST:
            return 0
    while accepted - refused > 1:
        middle = (accepted + refused) // 2
        if find_error(net, (2, channels, middle, middle)):
            refused = middle
        else:
            accepted = middle
    return accepted


def measure_strides(
    net: nn.Module, channels: int, declared: Sequence[int], size: int, channels_last: bool
) -> tuple[int, ...]:
    """Return input pixels per feature pixel of every map that a network gives, measured by forward passes.

    Two sizes are compared, so that what padding or its lack adds at the border does not count. Of a network that takes
    one size only, the declared strides stand if they give the maps' sides to rounding; else the sides' ratio does.

    Args:
        net: in eval mode; gives a list of maps.
        channels: of its input.
        declared: what the maps' strides are said to be.
        size: a side that it takes, in pixels.
        channels_last: whether maps are (B, h, w, C).

    Raises:
        Exception: the network does not take that size, whatever it raises.
    """
    sides = _measure_sides(net, channels, size, channels_last)
    for larger in (size + _FURTHER, 2 * size):
        if find_error(net, (1, channels, larger, larger)) is None:
            more = _measure_sides(net, channels, larger, channels_last)
            if all(after > before for before, after in zip(sides, more, strict=True)):
                return tuple(
                    round((larger - size) / (after - before)) for before, after in zip(sides, more, strict=True)
                )
    return tuple(
        stride if abs(size / stride - side) < 1 else round(size / side)
        for stride, side in zip(declared, sides, strict=True)
    )


@torch.no_grad()
def _measure_sides(net: nn.Module, channels: int, size: int, channels_last: bool) -> list[int]:
    maps: list[Tensor] = net(torch.empty(1, channels, size, size, device="meta"))
    return [features.shape[-2 if channels_last else -1] for features in maps]
