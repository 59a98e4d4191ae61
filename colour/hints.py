"""Colours that a user gives at some places of a picture, as a YAML file holds them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import ImageColor

from colour.colourists import Hint
from pretext.color import rgb_to_ab
from pretext.errors import UserError
from pretext.settings import read_yaml

_FORM = "a list, each with x, y, radius and colour: {x: 310, y: 120, radius: 15, colour: '#a0522d'}"


def read_hints(path: Path) -> list[Hint]:
    """The hints in a file; nothing in it is run.

    x, y and radius are pixels of the upright picture at full resolution, (0, 0) being its upper left corner. A colour
    is a name ("sienna"), hexadecimal ("#a0522d"), or [a, b] of CIE Lab; only its a and b count.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    entries = read_yaml(path)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: holds no hints; they are {_FORM}")
    return [_hint(entry, f"{path}: hint {number}") for number, entry in enumerate(entries, 1)]


def check_hints(hints: Sequence[Hint], size: tuple[int, int]) -> None:
    """Refuse, by a ``UserError``, a hint whose middle lies outside a picture of that width and height."""
    for number, hint in enumerate(hints, 1):
        if not (0 <= hint.x < size[0] and 0 <= hint.y < size[1]):
            raise UserError(
                f"hint {number} lies at ({hint.x:g}, {hint.y:g}), outside the picture, which has {size[0]} x {size[1]} "
                "pixels once it is upright"
            )


def _hint(entry: Any, where: str) -> Hint:
    if not isinstance(entry, dict) or set(entry) != {"x", "y", "radius", "colour"}:
        raise UserError(f"{where} is {str(entry)[:80]}; hints are {_FORM}")
    numbers = [entry[name] for name in ("x", "y", "radius")]
    if not all(_is_number(one) for one in numbers) or not numbers[2] > 0:
        raise UserError(f"{where}: x, y and radius must be numbers of pixels, radius above 0")
    x, y, radius = map(float, numbers)
    return Hint(x, y, radius, *_ab(entry["colour"], where))


def _ab(colour: Any, where: str) -> tuple[float, float]:
    if isinstance(colour, list) and len(colour) == 2 and all(_is_number(one) and abs(one) <= 128 for one in colour):
        return float(colour[0]), float(colour[1])
    try:
        rgb = ImageColor.getrgb(colour)[:3] if isinstance(colour, str) and len(colour) < 40 else None
    except ValueError:
        rgb = None
    if rgb is None:
        raise UserError(f"{where}: {str(colour)[:40]!r} is no colour; give a name, '#rrggbb', or [a, b] of Lab")
    a, b = rgb_to_ab(torch.tensor(rgb, dtype=torch.float64).view(3, 1, 1) / 255).flatten().tolist()
    return a, b


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
