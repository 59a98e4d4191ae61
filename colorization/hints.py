"""Hints: some pixels of a picture, and the colours that somebody gave them.

They are for a network that takes them, or for scribbles.

Two forms. A picture of the photograph's size: coloured strokes on a transparent ground, or, where nothing in it is
transparent, on a gray one (white, or the gray photograph itself); what is not gray is a stroke there, so a stroke
that says "gray" needs a transparent ground. Or a YAML list of points and strokes:

    - {at: [120, 80], colour: "#c03020"}                       # a pixel
    - {at: [310, 95], radius: 6, ab: [12.5, -30]}              # a disc; a and b instead of a colour
    - {stroke: [[10, 200], [90, 190], [160, 220]], radius: 3, colour: teal}

in pixels of the photograph as it is seen (after its EXIF orientation), the middle of the upper left one at (0, 0).
"""

import contextlib
import io
import math
import numbers
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps
from torch import Tensor

from pretext.color import rgb_to_ab
from pretext.errors import UserError
from pretext.pictures.decode import decode
from pretext.settings import read_yaml

COLOURED = 10.0
"""The chroma, in Lab units, from which a pixel of an opaque picture of hints is not gray."""

_POINTS = 100_000
_HALF_DIAGONAL = 0.71  # a point between pixels covers at least one, and a line has no gaps


class Given(NamedTuple):
    """The pixels of a picture whose colour is known."""

    pixels: NDArray[np.int64]
    """(n,): flat indices, ascending, each once."""
    ab: NDArray[np.float64]
    """(n, 2)."""

    def resized(self, size: tuple[int, int], to: tuple[int, int]) -> "Given":
        """On a grid of ``to`` cells, (height, width), over a picture of ``size``: a cell's mean colour, where it has
        any given pixel. Where cells are smaller than pixels, a pixel gives all of its own."""
        if size == to:
            return self
        rows, columns = np.divmod(self.pixels, size[1])
        which, rows = _cells(rows, size[0], to[0])
        again, columns = _cells(columns[which], size[1], to[1])
        ab = self.ab[which[again]]
        found, place, count = np.unique(rows[again] * to[1] + columns, return_inverse=True, return_counts=True)
        total = np.stack([np.bincount(place, ab[:, channel], len(found)) for channel in range(2)], 1)
        return Given(found, total / count[:, None])


class Stroke(NamedTuple):
    """A colour along a line, or at a point."""

    points: tuple[tuple[float, float], ...]
    """x and y."""
    radius: float
    """Pixels no farther than this from the line belong to it, but at least the nearest."""
    ab: tuple[float, float]


class Hints(NamedTuple):
    """What somebody gave: strokes, of which the later count where they overlap, or a picture of them."""

    name: str
    """For errors."""
    strokes: tuple[Stroke, ...] = ()
    drawn: Given | None = None
    size: tuple[int, int] | None = None
    """Height and width of the picture they were drawn on, if it is known."""

    def on(self, height: int, width: int) -> Given:
        """The given pixels of a picture of that size.

        Raises:
            UserError: the hints are for a picture of another size, or one lies outside.
        """
        if self.size not in (None, (height, width)):
            assert self.size
            raise UserError(
                f"{self.name}: has {self.size[1]} x {self.size[0]} pixels, the picture {width} x {height}; "
                "draw on the picture at its own size"
            )
        return self.drawn if self.drawn is not None else _drawn(self.name, self.strokes, height, width)

    def maps(self, size: tuple[int, int], seen: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """What a network takes: ab, (1, 2, h, w), unscaled, 0 where nothing is given, and mask, (1, 1, h, w), 1 or 0.

        Args:
            size: height and width of the picture.
            seen: those at which the network sees it, each of whose pixels has the mean colour given in it.

        Raises:
            UserError: as ``on``.
        """
        given = self.on(*size).resized(size, seen)
        ab, mask = torch.zeros(2, seen[0] * seen[1]), torch.zeros(seen[0] * seen[1])
        pixels = torch.from_numpy(given.pixels)
        ab[:, pixels] = torch.from_numpy(given.ab.T.astype(np.float32))
        mask[pixels] = 1
        return ab.view(1, 2, *seen), mask.view(1, 1, *seen)


def from_points(points: Iterable[tuple[float, float, float, float, float]], name: str = "hints") -> Hints:
    """Hints of points: (x, y, radius, a, b) each, where (0, 0) is the picture's upper left corner, not the middle
    of a pixel, as where somebody clicked."""
    return Hints(name, tuple(Stroke(((x - 0.5, y - 0.5),), radius, (a, b)) for x, y, radius, a, b in points))


def read_hints(path: Path) -> Hints:
    """Hints from a file: a picture, or YAML (.yaml, .yml). Nothing in it is run.

    Raises:
        UserError: it cannot be read, holds no hint, or one is not understood.
    """
    if path.suffix.lower() in (".yaml", ".yml"):
        return _listed(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the hints ({error.strerror})") from error
    return hints_of_picture(data, str(path))


def hints_of_picture(data: bytes, name: str) -> Hints:
    """Hints of a picture file's bytes; raises as ``read_hints``."""
    picture = decode(data, name)
    layer = _layer(data)
    if layer is not None:
        mask, colours = layer[..., 3] >= 128, layer[..., :3]
        why = "no pixel is half opaque or more"
    else:
        colours = np.asarray(picture)
        mask = np.hypot(*_ab(colours)) > COLOURED
        why = f"nothing in it is transparent, and no pixel is coloured (chroma above {COLOURED:g})"
        if mask.all():
            raise UserError(f"{name}: every pixel is coloured; strokes need a transparent or gray ground")
    if not mask.any():
        raise UserError(f"{name}: no hints: {why}")
    height, width = mask.shape
    return Hints(name, (), Given(np.flatnonzero(mask), _ab(colours[mask][None])[:, 0].T), (height, width))


def _cells(at: NDArray[np.int64], side: int, to: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of pixels on a line of ``side``: the cells they lie in, of ``to``, each with the number of its pixel first."""
    first = at * to // side
    count = np.maximum((at + 1) * to // side - first, 1)
    which = np.repeat(np.arange(len(at)), count)
    within = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    return which, first[which] + within


def _layer(data: bytes) -> NDArray[np.uint8] | None:
    """(h, w, 4), upright, of a picture that ``decode`` can read, which lays it on white; None without transparency."""
    with Image.open(io.BytesIO(data)) as image:
        if not image.has_transparency_data:
            return None
        upright: Image.Image = image
        with contextlib.suppress(Exception):  # as in decode, an EXIF block that cannot be read turns nothing
            upright = ImageOps.exif_transpose(image)
        straight = upright.convert("LA") if upright.mode == "La" else upright
        layer = np.asarray(straight.convert("RGBA"))
    return layer if layer[..., 3].min() < 128 else None


def _ab(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(2, h, w), of (h, w, 3)."""
    return rgb_to_ab(torch.from_numpy(rgb.astype(np.float64) / 255).permute(2, 0, 1)).numpy()


def _drawn(name: str, strokes: Sequence[Stroke], height: int, width: int) -> Given:
    if not strokes:
        raise UserError(f"{name}: no hints; give at least one point with a colour")
    covered = []
    for number, stroke in enumerate(strokes, 1):
        for x, y in stroke.points:
            if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
                raise UserError(
                    f"{name}: hint {number} has a point outside the picture: "
                    f"({x:g}, {y:g}), where x goes to {width - 1} and y to {height - 1}"
                )
        covered.append(_covered(stroke, height, width))
    colours = np.array([stroke.ab for stroke in strokes], np.float64)
    owners = np.repeat(np.arange(len(strokes)), [len(pixels) for pixels in covered])
    # From the last one on, so that the first owner found of a pixel is the one that counts.
    pixels, at = np.unique(np.concatenate(covered)[::-1], return_index=True)
    return Given(pixels, colours[owners[::-1][at]])


def _covered(stroke: Stroke, height: int, width: int) -> NDArray[np.int64]:
    """Flat indices of the pixels of a stroke; takes memory for the box around a segment, not for the picture."""
    reach = max(stroke.radius, _HALF_DIAGONAL)
    found = []
    for (x0, y0), (x1, y1) in pairwise((stroke.points[0], *stroke.points)):
        left, right = (max(0, math.floor(min(x0, x1) - reach)), min(width, math.ceil(max(x0, x1) + reach) + 1))
        top, bottom = (max(0, math.floor(min(y0, y1) - reach)), min(height, math.ceil(max(y0, y1) + reach) + 1))
        y, x = np.ogrid[top:bottom, left:right]
        length = (x1 - x0) ** 2 + (y1 - y0) ** 2
        along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length, 0, 1) if length else 0.0
        near = np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)) <= reach
        rows, columns = np.nonzero(near)
        found.append((rows + top) * width + columns + left)
    return np.unique(np.concatenate(found))


def _listed(path: Path) -> Hints:
    entries = read_yaml(path)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: no hints; a list of them is needed, such as - {{at: [120, 80], colour: red}}")
    strokes = tuple(_stroke(entry, f"{path}: hint {number}") for number, entry in enumerate(entries, 1))
    if sum(len(stroke.points) for stroke in strokes) > _POINTS:
        raise UserError(f"{path}: more than {_POINTS:,} points; give a picture of them instead")
    return Hints(str(path), strokes)


def _stroke(entry: Any, where: str) -> Stroke:
    known = {"at", "stroke", "radius", "colour", "ab"}
    if not isinstance(entry, dict):
        raise UserError(f"{where}: is {entry!r:.60}; give at or stroke, and colour or ab")
    if unknown := entry.keys() - known:
        raise UserError(f"{where}: {sorted(map(str, unknown))[0]} is unknown; known are {', '.join(sorted(known))}")
    if ("at" in entry) == ("stroke" in entry) or ("colour" in entry) == ("ab" in entry):
        raise UserError(f"{where}: give one of at and stroke, and one of colour and ab")
    radius = entry.get("radius", 0)
    if not _is_number(radius) or radius < 0:
        raise UserError(f"{where}: radius is {radius!r:.60}; it is a number of pixels, 0 or more")
    points = [entry["at"]] if "at" in entry else entry["stroke"]
    if not isinstance(points, list) or not points or not all(_are_numbers(point, 2) for point in points):
        raise UserError(f"{where}: {'at' if 'at' in entry else 'stroke'} is {entry.get('at', points)!r:.60}; "
                        "a point is [x, y], a stroke a list of points")  # fmt: skip
    places = tuple((float(x), float(y)) for x, y in points)
    if "ab" not in entry:
        return Stroke(places, float(radius), _colour(entry["colour"], where))
    if not _are_numbers(entry["ab"], 2) or max(map(abs, entry["ab"])) > 128:
        raise UserError(f"{where}: ab is {entry['ab']!r:.60}; it is [a, b], both in [-128, 128]")
    return Stroke(places, float(radius), (float(entry["ab"][0]), float(entry["ab"][1])))


def _colour(value: Any, where: str) -> tuple[float, float]:
    """ab of a colour's name, hexadecimal form, or red, green and blue of 255."""
    try:
        if isinstance(value, str):
            rgb = ImageColor.getrgb(value)[:3]
        elif _are_numbers(value, 3) and all(0 <= part <= 255 for part in value):
            rgb = tuple(value)
        else:
            raise ValueError
    except ValueError as error:
        raise UserError(
            f'{where}: colour is {value!r:.60}; give a name (teal), "#c03020" in quotes, or [red, green, blue] of 255'
        ) from error
    a, b = rgb_to_ab(torch.tensor(rgb, dtype=torch.float64).view(3, 1, 1) / 255).flatten().tolist()
    return a, b


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _are_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(_is_number, value))
