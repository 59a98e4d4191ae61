"""Whether a network gives all images one color, as one does that has learned nothing."""

import math
from typing import Any

from torch import Tensor

PALE = 2.0
"""Lab units: less of a and b than this cannot be seen."""
_UNIFORM = 1.0  # Lab units


class ColorRange:
    """The least and the greatest a and b over all pixels of all images that were added: four numbers, of any count.

    Colors are uniform if both a and b vary by less than 1 Lab unit, as greatest less least.
    """

    def __init__(self) -> None:
        self.images = 0
        self._ranges: list[tuple[float, float]] = [(math.inf, -math.inf)] * 2  # of a, of b
        self._complete = True

    def add(self, ab: Tensor) -> list[float]:
        """Add one image's ab, (1, 2, h, w), Lab units; return its range: least and greatest a, least and greatest b."""
        low, high = ab.amin((0, 2, 3)).tolist(), ab.amax((0, 2, 3)).tolist()
        found = [round(value, 3) for value in (low[0], high[0], low[1], high[1])]
        self.add_range(found)
        return found

    def add_range(self, found: Any) -> None:
        """Add an image by what ``add`` returned for it earlier; anything else says nothing of it."""
        numbers = isinstance(found, list) and all(type(value) in (int, float) for value in found)
        if not numbers or len(found) != 4 or not all(map(math.isfinite, found)):
            self._complete = False
            return
        self.images += 1
        both = zip(self._ranges, (found[:2], found[2:]), strict=True)
        self._ranges = [(min(low, least), max(high, most)) for (low, high), (least, most) in both]

    @property
    def is_gray(self) -> bool:
        """Whether no color of any image can be seen."""
        return all(low > -PALE and high < PALE for low, high in self._ranges)

    def describe_uniform(self) -> str:
        """Return a line for the user if all colors are uniform; empty if not, or if those of an image are not known."""
        if not self.images or not self._complete or any(high - low >= _UNIFORM for low, high in self._ranges):
            return ""
        (a, a_high), (b, b_high) = self._ranges
        which = "1 image" if self.images == 1 else f"{self.images:,} images"
        color = f"a {(a + a_high) / 2:.0f}, b {(b + b_high) / 2:.0f}, to 1 Lab unit"
        return (
            f"warning: every pixel of {which} gets the same color ({color}): the network has learned nothing, or sees "
            "nothing in them; train it longer, or name another"
        )
