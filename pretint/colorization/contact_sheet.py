"""The sheet that shows results side by side."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from pretext.contact_sheet import contact_sheet
from pretint.colorization.photographs import Photograph, open_photograph

SHEET = "sheet.png"
"""Its file, in the folder of results."""
ROWS = 24
"""Of so many images, the first."""

_CELL = 320  # pixels


class Row(NamedTuple):
    """An image, RGB, small enough for the sheet."""

    original: Image.Image
    colored: Image.Image


def sheet_of(rows: Sequence[Row]) -> Image.Image:
    """Every image in gray, colored, and as it was, where one of them had color."""
    shown = [[ImageOps.grayscale(row.original).convert("RGB"), row.colored, row.original] for row in rows]
    titles = ["gray", "colored", "original"]
    if all(gray.tobytes() == original.tobytes() for gray, _, original in shown):
        titles, shown = titles[:2], [row[:2] for row in shown]
    return contact_sheet(shown, titles, cell=_CELL, across=1 + (len(shown) > 4))


def small_of(file: Path) -> Image.Image:
    """An image file, as large as the sheet shows it; raises ImageError."""
    return reduced_to_cell(open_photograph(file, megapixels=math.inf, first_frame=True))


def reduced_to_cell(photograph: Photograph) -> Image.Image:
    """The same of a photograph."""
    width, height = photograph.size
    scale = min(1.0, _CELL / max(width, height))
    return photograph.reduced((max(1, round(width * scale)), max(1, round(height * scale))))
