"""Hints: given colors of some pixels of an image, for a network that takes them, or for scribbles.

They have two forms. One is an image of the photograph's size with colored strokes on a transparent background. If
nothing in it is transparent, the background is gray (white, or the gray photograph itself), and every pixel that is not
gray belongs to a stroke; so a gray stroke needs a transparent background. The other form is a YAML list of points and
strokes:

    - {at: [120, 80], color: "#c03020"}                       # a pixel
    - {at: [310, 95], radius: 6, ab: [12.5, -30]}              # a disc; a and b instead of a color
    - {stroke: [[10, 200], [90, 190], [160, 220]], radius: 3, color: teal}

in pixels of the photograph as it is seen (after its EXIF orientation), the middle of the upper left one at (0, 0).
"""

import math
import reprlib
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageColor
from torch import Tensor

from pretext.color import rgb_to_ab
from pretext.errors import UserError
from pretext.yaml_reader import read_yaml
from pretint.colorization.photographs import open_photograph

COLORED = 10.0
"""A pixel of an opaque image of hints is a hint if its chroma exceeds this, in Lab units."""

_POINTS = 20_000
_STRIP = 1 << 20  # pixels of an image that are processed at once
_SPANS = 1 << 18  # rows of segments
_FAR = 1e9  # beyond any pixel, and small enough that sums of squares stay exact
_ROUNDING = 1e-9
_ALL, _NONE = np.array([[[-np.inf]], [[np.inf]]]), np.array([[[np.inf]], [[-np.inf]]])
_HALF_DIAGONAL = 0.71  # a point between pixels covers at least one, and a line has no gaps


class KnownPixels(NamedTuple):
    """The pixels of an image whose color is given."""

    pixels: NDArray[np.int32]
    """(n,): flat indices, ascending, each once."""
    ab: NDArray[np.float32]
    """(n, 2)."""

    def resized(self, size: tuple[int, int], to: tuple[int, int]) -> "KnownPixels":
        """Return the mean color of each cell with a given pixel, on a grid of ``to`` cells over an image of ``size``.

        Both are (height, width). If cells are smaller than pixels, a pixel colors all of its cells.
        """
        if size == to:
            return self
        cells = to[0] * to[1]
        total, count = np.zeros((2, cells)), np.zeros(cells, np.int64)
        for start in range(0, len(self.pixels), _STRIP):
            rows, columns = np.divmod(self.pixels[start : start + _STRIP].astype(np.int64), size[1])
            pixel, rows = _overlap_cells(rows, size[0], to[0])
            column_pixel, columns = _overlap_cells(columns[pixel], size[1], to[1])
            place = rows[column_pixel] * to[1] + columns
            ab = self.ab[start : start + _STRIP][pixel[column_pixel]]
            count += np.bincount(place, minlength=cells)
            for channel in range(2):
                total[channel] += np.bincount(place, ab[:, channel], cells)
        cells_hinted = np.flatnonzero(count)
        means = (total[:, cells_hinted] / count[cells_hinted]).T.astype(np.float32)
        return KnownPixels(cells_hinted.astype(np.int32), means)


class Stroke(NamedTuple):
    """A color along a line, or at a point."""

    points: tuple[tuple[float, float], ...]
    """x and y."""
    radius: float
    """Pixels up to this distance from the line belong to it; the nearest pixel always does."""
    ab: tuple[float, float]


class Hints(NamedTuple):
    """Strokes, of which later ones cover earlier ones, or an image of hints."""

    name: str
    """The name in errors."""
    strokes: tuple[Stroke, ...] = ()
    drawn: KnownPixels | None = None
    size: tuple[int, int] | None = None
    """Height and width of the image of hints, if there is one."""

    def on(self, height: int, width: int) -> KnownPixels:
        """Return the given pixels of an image of that size.

        Raises:
            UserError: the hints are for an image of another size, or one lies outside.
        """
        if self.size not in (None, (height, width)):
            assert self.size
            raise UserError(
                f"{self.name}: has {self.size[1]} x {self.size[0]} pixels, the image {width} x {height}; "
                "draw on the image at its own size"
            )
        if self.drawn is not None:
            return self.drawn
        if not self.strokes:
            raise UserError(f"{self.name}: no hints; give at least one point with a color")
        for number, stroke in enumerate(self.strokes, 1):
            for x, y in stroke.points:
                if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
                    raise UserError(
                        f"{self.name}: hint {number} has a point outside the image: "
                        f"({x:g}, {y:g}), where x goes to {width - 1} and y to {height - 1}"
                    )
        colors = np.array([stroke.ab for stroke in self.strokes], np.float32)
        segments = []
        boxes = np.empty((len(self.strokes), 4), np.int64)  # top, bottom, left, right of what strokes may cover
        for number, stroke in enumerate(self.strokes):
            ends = np.array(stroke.points, np.float64)
            # x and y of both ends of each segment; a point is a segment of no length.
            segments.append(np.hstack((ends[:-1], ends[1:])) if len(ends) > 1 else np.hstack((ends, ends)))
            reach = max(stroke.radius, _HALF_DIAGONAL)
            (left, upper), (right, lower) = ends.min(axis=0).tolist(), ends.max(axis=0).tolist()
            boxes[number] = (
                max(0, math.floor(upper - reach)),
                min(height, math.ceil(lower + reach) + 1),
                max(0, math.floor(left - reach)),
                min(width, math.ceil(right + reach) + 1),
            )
        step = max(1, _STRIP // width)
        pixels, ab = [], []
        for top in range(0, height, step):
            bottom = min(height, top + step)
            inside = np.flatnonzero((boxes[:, 0] < bottom) & (boxes[:, 1] > top)).tolist()
            if not inside:
                continue
            owner = np.full((bottom - top, width), -1, np.int32)
            for number in inside:  # a later one over an earlier one
                first, last, left, right = boxes[number].tolist()
                first, last = max(first, top), min(last, bottom)
                part = owner[first - top : last - top, left:right]
                part[_cover(segments[number], self.strokes[number].radius, (first, last, left, right))] = number
            covered = np.flatnonzero(owner >= 0)
            pixels.append((covered + top * width).astype(np.int32))
            ab.append(colors[owner.ravel()[covered]])
        return KnownPixels(np.concatenate(pixels), np.concatenate(ab))

    def maps(self, size: tuple[int, int], seen: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the hint inputs of a network: ab, (1, 2, h, w), unscaled, 0 where no color is given; and the mask,
        (1, 1, h, w), 1 or 0.

        Args:
            size: height and width of the image.
            seen: height and width at which the network sees it. A pixel there has the mean of the colors given in it.

        Raises:
            UserError: as ``on``.
        """
        hinted = self.on(*size).resized(size, seen)
        ab, mask = torch.zeros(2, seen[0] * seen[1]), torch.zeros(seen[0] * seen[1])
        pixels = torch.from_numpy(hinted.pixels)
        ab[:, pixels] = torch.from_numpy(hinted.ab.T.astype(np.float32))
        mask[pixels] = 1
        return ab.view(1, 2, *seen), mask.view(1, 1, *seen)


def from_points(points: Iterable[tuple[float, float, float, float, float]], name: str = "hints") -> Hints:
    """Make hints from points, (x, y, radius, a, b) each, that a user clicked.

    (0, 0) is the image's upper left corner, not the middle of a pixel.
    """
    return Hints(name, tuple(Stroke(((x - 0.5, y - 0.5),), radius, (a, b)) for x, y, radius, a, b in points))


def read_hints(path: Path) -> Hints:
    """Read hints from a file: an image, or YAML (.yaml, .yml). Nothing in it is run.

    Raises:
        UserError: the file cannot be read, holds no hint, or a hint is not valid.
    """
    require_file(path, "hints")
    if path.suffix.lower() not in (".yaml", ".yml"):
        return hints_of_image(path)
    entries = read_yaml(path)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: no hints; a list of them is needed, such as - {{at: [120, 80], color: red}}")
    count, strokes = 0, []
    for number, entry in enumerate(entries, 1):
        where, keys = f"{path}: hint {number}", {"at", "stroke", "radius", "color", "ab"}
        if not isinstance(entry, dict):
            raise UserError(f"{where}: is {shown(entry)}; give at or stroke, and color or ab")
        if unknown := entry.keys() - keys:
            raise UserError(f"{where}: {min(map(shown, unknown))} is unknown; known are {', '.join(sorted(keys))}")
        if ("at" in entry) == ("stroke" in entry) or ("color" in entry) == ("ab" in entry):
            raise UserError(f"{where}: give one of at and stroke, and one of color and ab")
        radius = entry.get("radius", 0)
        if not _is_number(radius) or radius < 0:
            raise UserError(f"{where}: radius is {shown(radius)}; it is a number of pixels, 0 or more")
        points = [entry["at"]] if "at" in entry else entry["stroke"]
        if not isinstance(points, list) or not points or not all(_are_numbers(point, 2) for point in points):
            raise UserError(f"{where}: {'at' if 'at' in entry else 'stroke'} is {shown(entry.get('at', points))}; "
                            "a point is [x, y], a stroke a list of points")  # fmt: skip
        if "color" in entry:  # a name, a hexadecimal form, or red, green and blue up to 255
            color = entry["color"]
            try:
                if isinstance(color, str):
                    rgb = ImageColor.getrgb(color)[:3]  # "rgb(9999,0,0)" passes
                elif _are_numbers(color, 3):
                    rgb = tuple(color)
                else:
                    raise ValueError
                if not all(0 <= part <= 255 for part in rgb):
                    raise ValueError
            except ValueError as error:
                raise UserError(f"{where}: color is {shown(color)}; give a name (teal), "
                                '"#c03020" in quotes, or [red, green, blue] of 255') from error  # fmt: skip
            a, b = rgb_to_ab(torch.tensor(rgb, dtype=torch.float64).view(3, 1, 1) / 255).flatten().tolist()
        elif not _are_numbers(entry["ab"], 2) or max(map(abs, entry["ab"])) > 128:
            raise UserError(f"{where}: ab is {shown(entry['ab'])}; it is [a, b], both in [-128, 128]")
        else:
            a, b = map(float, entry["ab"])
        strokes.append(Stroke(tuple((float(x), float(y)) for x, y in points), float(radius), (a, b)))
        count += len(points)
        if count > _POINTS:
            raise UserError(f"{path}: more than {_POINTS:,} points; give an image of them instead")
    return Hints(str(path), tuple(strokes))


def require_file(path: Path, what: str) -> None:
    """Raise UserError if a path is no regular file: a pipe would block, and a device never end."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError) as error:  # a name with a null byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot read the {what} ({reason})") from error
    if not regular:
        raise UserError(f"{path}: cannot read the {what}: it is not a regular file")


def hints_of_image(file: Path | bytes, name: str = "") -> Hints:
    """Read hints from an image file or its bytes; raises as ``read_hints``."""
    image = open_photograph(file, name, first_frame=True)
    name, (width, height) = image.key, image.size
    step = max(1, _STRIP // width)
    strips = [(top, min(height, top + step)) for top in range(0, height, step)]
    half = 128 if image.bits == 8 else 1 << 15
    layered = image.alpha is not None and any(bool((image.alpha_rows(*strip) < half).any()) for strip in strips)
    pixels, colors = [], []
    for top, bottom in strips:
        rows = image.rows(top, bottom)
        if layered:
            candidates = np.flatnonzero(image.alpha_rows(top, bottom) >= half)
        elif rows.ndim == 3:
            candidates = np.flatnonzero((rows[..., 0] != rows[..., 1]) | (rows[..., 1] != rows[..., 2]))
        else:
            candidates = np.zeros(0, np.int64)
        rgb = _to_unit(rows.reshape(-1, *rows.shape[2:])[candidates])
        if image.alpha is not None and not layered:  # it is nearly opaque, and lies on white
            opacity = _to_unit(image.alpha_rows(top, bottom).ravel()[candidates])[:, None]
            rgb = rgb * opacity + (1 - opacity)
        ab: NDArray[np.float32] = np.zeros((len(rgb), 2), np.float32)
        if rgb.ndim == 2:
            ab = rgb_to_ab(torch.from_numpy(rgb.T.copy())[..., None])[..., 0].T.numpy()
        hinted = slice(None) if layered else np.hypot(*ab.T) > COLORED
        pixels.append((candidates[hinted] + top * width).astype(np.int32))
        colors.append(ab[hinted])
    drawn = KnownPixels(np.concatenate(pixels), np.concatenate(colors))
    if not layered and len(drawn.pixels) == width * height:
        raise UserError(f"{name}: every pixel is colored; strokes need a transparent or gray ground")
    if not len(drawn.pixels):
        ground = f"nothing in it is transparent, and no pixel is colored (chroma above {COLORED:g})"
        raise UserError(f"{name}: no hints: {'no pixel is half opaque or more' if layered else ground}")
    return Hints(name, (), drawn, (height, width))


def shown(value: Any) -> str:
    """Return any value that a user wrote, shortened to fit a line."""
    short = reprlib.Repr()  # it stops early; repr would first write all of it
    short.maxlevel = 2
    try:
        return short.repr(value)[:60]
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"


def _overlap_cells(at: NDArray[np.int64], side: int, to: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for pixels on a line of ``side``, the index of the pixel and the cell, of ``to``, for each overlap."""
    first = at * to // side
    count = np.maximum((at + 1) * to // side - first, 1)
    which = np.repeat(np.arange(len(at)), count)
    within = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    return which, first[which] + within


def _to_unit(values: NDArray[Any]) -> NDArray[np.float32]:
    """Scale values of 8 or 16 bits to [0, 1]."""
    return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)


def _cover(segments: NDArray[np.float64], radius: float, box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Return which pixels of a box a stroke covers: (rows, columns).

    The pixels near a segment form a convex shape, so each row has one span of them. Time and memory grow with rows and
    segments, not with the pixels of the spans.
    """
    reach = max(radius, _HALF_DIAGONAL)
    top, bottom, left, right = box
    near = (segments[:, 1::2].min(1) - reach <= bottom) & (segments[:, 1::2].max(1) + reach >= top)
    segments = segments[near]
    y, line = np.arange(top, bottom, dtype=np.float64), right - left + 1
    changes = np.zeros(len(y) * line, np.int64)
    step = max(1, _SPANS // len(y))
    for start in range(0, len(segments), step):
        first, last = _spans(segments[start : start + step], reach, y)
        first, last = np.ceil(first - left).clip(0), np.floor(last - left).clip(max=line - 2)
        crosses = first <= last
        row = np.broadcast_to(np.arange(len(y)) * line, crosses.shape)[crosses]
        changes += np.bincount(row + first[crosses].astype(np.int64), minlength=len(changes))
        changes -= np.bincount(row + last[crosses].astype(np.int64) + 1, minlength=len(changes))
    return np.cumsum(changes.reshape(len(y), line), 1)[:, :-1] > 0


def _spans(
    segments: NDArray[np.float64], reach: float, y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the greatest x within ``reach`` of each segment in each row, (n, rows).

    They are those of the discs around both ends, and of the rectangle between them. A row that has none gets infinity
    and minus infinity.
    """
    x0, y0, x1, y1 = segments.T[..., None]
    across, down = x1 - x0, y1 - y0
    length = np.hypot(across, down)
    with np.errstate(all="ignore"):
        v = y - y0
        # Along the segment from 0 to its length, and across it within reach: two strips, that a row crosses.
        along = np.sort([-v * down / across, (length**2 - v * down) / across], 0)
        along = np.where(across == 0, np.where((v * down >= 0) & (v * down <= length**2), _ALL, _NONE), along)
        aside = np.sort([(v * across - reach * length) / down, (v * across + reach * length) / down], 0)
        aside = np.where(down == 0, np.where(np.abs(v * across) <= reach * length, _ALL, _NONE), aside)
        first, last = np.maximum(along[0], aside[0]) + x0, np.minimum(along[1], aside[1]) + x0
        empty = ~(first <= last) | (length == 0)
        first, last = np.where(empty, np.inf, first), np.where(empty, -np.inf, last)
        for x, off in ((x0, y - y0), (x1, y - y1)):
            half = np.sqrt(reach**2 - off**2)  # nan where the row is too far
            first, last = np.fmin(first, x - half), np.fmax(last, x + half)
    return first - _ROUNDING, last + _ROUNDING


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _FAR  # false for NaN


def _are_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(_is_number, value))
