"""Narrower and wider versions of a network."""

from collections.abc import Callable

from pretext.errors import UserError


def scaled(width: float, name: str) -> Callable[[int], int]:
    """What makes of a layer's channels those at a multiple ``width``: at least 1, rounded.

    Raises:
        UserError: no such multiple of backbone ``name`` can be built.
    """
    if not isinstance(width, (int, float)) or not 0.01 <= width <= 8:
        raise UserError(f"backbone {name}: width is {width!r}: take a multiple of its channels from 0.01 to 8")
    return lambda channels: max(1, round(channels * width))
