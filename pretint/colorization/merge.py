"""Merging of an image's own lightness with new colors, at full resolution, a strip of rows at a time.

Definition: ``lab2rgb`` of scikit-image on L of the image (its ``rgb2lab``) and ab, which is enlarged as
``F.interpolate(mode="bilinear", align_corners=False)`` does. The result equals this definition in float64, rounded to
half a level; float32 and the tables for 8-bit images add an error below 0.01 of a level.

An 8-bit strip is a chain of element-wise steps that stays in the cache. Two of them are tables over the root of a
linear value, which spreads the dark levels: they take a quarter of the time of powers. This module uses NumPy and not
torch (with the constants of ``pretext.color``), because it gives whole strips to threads, and torch would distribute
every single step.
"""

import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pretext.gamut import STEP

ImageRows = NDArray[Any]
"""(rows, W) gray or (rows, W, 3) sRGB, uint8 or uint16."""
Float32Array = NDArray[np.float32]
T = TypeVar("T")

_STRIP = 1 << 17  # pixels that are merged at once: they and the intermediate values fit a cache
_STEPS = 65535  # steps of the tables
_XYZ_FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)
_LINEAR_BELOW = 0.2068966  # where f of CIE Lab stops being a cube root; as in pretext.color


class ColorSource(Protocol):
    """ab at an image's size, computed for some rows at a time."""

    def rows(self, top: int, bottom: int, pixels: ImageRows) -> Float32Array:
        """Return ab, (2, bottom - top, W), unscaled, of those rows of the image, whose own pixels are ``pixels``."""


class Prediction(NamedTuple):
    """The colors that a colorist predicts for photographs."""

    ab: Tensor
    """(B, 2, h, w), float32, unscaled, at the size at which it saw them."""
    logits: Tensor | None = None
    """(B, Q, ., .), float32, at the grid of the color target, if it predicts a distribution."""
    stride: int = 1
    """Seen pixels per point of that grid."""
    step: int = STEP
    """Lab units between the bins of the logits."""


class Enlarged:
    """Colors by bilinear interpolation.

    Columns are interpolated once, at the few rows that ab has; a row of the image then is a mixture of two.

    Args:
        ab: (1, 2, h, w), float, unscaled, on any device.
        size: width and height of the image.
    """

    def __init__(self, ab: Tensor, size: tuple[int, int]) -> None:
        width, self._height = size
        narrow = ab[0].float().cpu().numpy()
        left, right, share = _interpolate(narrow.shape[2], width, 0, width)
        self._wide = narrow.take(left, axis=2)  # not narrow[:, :, left], which lies in memory by columns
        self._wide += (narrow.take(right, axis=2) - self._wide) * share
        self._steps = np.diff(self._wide, axis=1, append=self._wide[:, -1:])

    def rows(self, top: int, bottom: int, pixels: ImageRows | None = None) -> Float32Array:
        """Return ab, (2, bottom - top, W); the pixels are not used."""
        above, _, share = _interpolate(self._wide.shape[1], self._height, top, bottom)
        mixed = np.empty((2, bottom - top, self._wide.shape[2]), np.float32)
        for row, (point, part) in enumerate(zip(above, share, strict=True)):
            np.multiply(self._steps[:, point], part, out=mixed[:, row])
            mixed[:, row] += self._wide[:, point]
        return mixed


class Scaled:
    """Colors with another saturation.

    Args:
        colors: the colors of the image.
        factor: multiplies a and b.
    """

    def __init__(self, colors: ColorSource, factor: float) -> None:
        self.colors, self.factor = colors, np.float32(factor)

    def rows(self, top: int, bottom: int, pixels: ImageRows) -> Float32Array:
        """Return rows of ab; see ``ColorSource``."""
        return self.colors.rows(top, bottom, pixels) * self.factor


def _interpolate(points: int, length: int, first: int, last: int) -> tuple[NDArray[Any], NDArray[Any], Float32Array]:
    """Return, for pixels of a line of ``length``, the two of ``points`` beside each, and the share of the second."""
    at = ((np.arange(first, last) + 0.5) * (points / length) - 0.5).clip(0, points - 1)
    before = at.astype(np.intp)
    return before, (before + 1).clip(max=points - 1), (at - before).astype(np.float32)


def merge_rows(rows: ImageRows, ab: Float32Array) -> ImageRows:
    """Return the colored rows: (rows, W, 3), sRGB, of the depth of ``rows``.

    Args:
        rows: the rows of an image; only their L is used.
        ab: (2, rows, W), unscaled. A color that sRGB does not have at that L is clipped.
    """
    if rows.dtype == np.uint16:
        return _join_deep(rows, ab)
    tables, shape = _tables(), rows.shape[:2]
    place = _scratch("places", np.intp, shape)
    x, y, z, linear, part = _scratch("values", np.float32, (5, *shape))
    if rows.ndim == 2:
        _look_up(tables.gray, rows, place, y)
    else:
        _look_up(tables.red, rows[..., 0], place, y)
        y += _look_up(tables.green, rows[..., 1], place, part)
        y += _look_up(tables.blue, rows[..., 2], place, part)
    fy = _look_up(tables.root, np.sqrt(y, out=y), place, y)
    fx = np.multiply(ab[0], 1 / 500, out=x)
    fx += fy
    fz = np.multiply(ab[1], -1 / 200, out=z)
    fz += fy
    np.maximum(fz, 0, out=fz)
    # The inverse of f of CIE Lab, in place: f^3, and a line below the bend. np.where would take longer than this.
    bend = _LINEAR_BELOW**3 - (_LINEAR_BELOW - 16 / 116) / 7.787  # of 5e-8
    for f in (fx, fy, fz):
        np.minimum(f, _LINEAR_BELOW, out=linear)
        np.multiply(f, f, out=part)
        f *= part
        np.multiply(linear, linear, out=part)  # linear^3 - linear / 7.787 - constant, by Horner's rule
        part -= 1 / 7.787
        part *= linear
        part -= bend - 16 / 116 / 7.787
        f -= part
    result = np.empty((*shape, 3), np.uint8)
    levels = _scratch("levels", np.uint8, shape)
    for channel, (of_x, of_y, of_z) in enumerate(tables.rgb_from_xyz):
        np.multiply(x, of_x, out=linear)
        linear += np.multiply(y, of_y, out=part)
        linear += np.multiply(z, of_z, out=part)
        np.clip(linear, 0, _STEPS**2, out=linear)
        result[..., channel] = _look_up(tables.level, np.sqrt(linear, out=linear), place, levels)
    return result


def _look_up(table: NDArray[Any], where: NDArray[Any], place: NDArray[np.intp], out: NDArray[Any]) -> NDArray[Any]:
    np.copyto(place, where, casting="unsafe")
    return table.take(place, mode="clip", out=out)


_BUFFERS = threading.local()


def _scratch(name: str, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return this thread's buffer of that name, contents undefined: fresh memory costs more than the arithmetic."""
    buffer: NDArray[Any] | None = getattr(_BUFFERS, name, None)
    needed = math.prod(shape)
    if buffer is None or buffer.size < needed:
        buffer = np.empty(needed, dtype)
        setattr(_BUFFERS, name, buffer)
    return buffer[:needed].reshape(shape)


def merge_image(image: Image.Image, ab: Tensor | ColorSource) -> Image.Image:
    """Return an image with its own L and new colors.

    Args:
        image: mode RGB or L.
        ab: colors of the image's size, or (1, 2, h, w), float, unscaled, of any size and on any device.

    Returns:
        RGB, of the image's size.
    """
    assert image.mode in ("RGB", "L"), image.mode
    colors = Enlarged(ab, image.size) if isinstance(ab, Tensor) else ab
    result = Image.new("RGB", image.size)

    def strip(top: int, bottom: int) -> tuple[int, Image.Image]:
        rows = np.asarray(image.crop((0, top, image.width, bottom)))
        return top, Image.fromarray(merge_rows(rows, colors.rows(top, bottom, rows)))

    for top, joined in map_strips(image.size, strip):
        result.paste(joined, (0, top))
    return result


def map_strips(size: tuple[int, int], job: Callable[[int, int], T]) -> Iterator[T]:
    """Yield the result of a job for each strip of an image's rows (its top and bottom), from top to bottom.

    Threads work only a few strips ahead, so that the memory of their results is bounded.
    """
    width, height = size
    step = max(1, _STRIP // width)
    strips = [(top, min(top + step, height)) for top in range(0, height, step)]
    threads = min(torch.get_num_threads(), len(os.sched_getaffinity(0)), len(strips))
    if threads < 2:
        yield from (job(*strip) for strip in strips)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(job, *strip) for strip in strips[: 2 * threads]]
        try:
            for following in range(2 * threads, 2 * threads + len(strips)):
                yield waiting.pop(0).result()
                if following < len(strips):
                    waiting.append(pool.submit(job, *strips[following]))
        finally:
            for future in waiting:
                future.cancel()


def _join_deep(rows: ImageRows, ab: Float32Array) -> ImageRows:
    """Color rows of 16 bits. The levels are so fine that only float64 computes all of them correctly."""
    xyz_from_rgb = np.array(_XYZ_FROM_RGB)
    curve, to_y, rgb_from_xyz = _curve(65535), xyz_from_rgb[1], np.linalg.inv(xyz_from_rgb) * np.array(_WHITE)
    linear = curve.take(rows)
    y = linear * to_y.sum() if rows.ndim == 2 else sum(linear[..., channel] * to_y[channel] for channel in range(3))
    fy = np.where(y > 0.008856, np.cbrt(y), 7.787 * y + 16 / 116)
    xyz = []
    for f in (fy + ab[0].astype(np.float64) / 500, fy, np.maximum(fy - ab[1].astype(np.float64) / 200, 0)):
        xyz.append(np.where(f > _LINEAR_BELOW, f * f * f, (f - 16 / 116) / 7.787))
    result = np.empty((*rows.shape[:2], 3), np.uint16)
    for channel, weights in enumerate(rgb_from_xyz):
        value = sum(part * weight for part, weight in zip(xyz, weights, strict=True))
        bright = np.maximum(value, 0.0031308) ** (1 / 2.4) * 1.055 - 0.055
        result[..., channel] = np.where(value > 0.0031308, bright, 12.92 * value).clip(0, 1) * 65535 + 0.5
    return result


@cache
def _curve(most: int) -> NDArray[np.float64]:
    """Return linear values of sRGB levels: (most + 1,)."""
    levels = np.arange(most + 1) / most
    return np.where(levels > 0.04045, ((levels + 0.055) / 1.055) ** 2.4, levels / 12.92)


class _Tables(NamedTuple):
    """The tables for 8 bits.

    Linear values are in units of 1 / _STEPS ^ 2: their truncated root is an index of a table.
    """

    red: Float32Array
    """(256,): the part of Y of each level of red."""
    green: Float32Array
    blue: Float32Array
    gray: Float32Array
    """(256,): Y of gray levels."""
    root: Float32Array
    """f(Y) by the root of Y."""
    level: NDArray[np.uint8]
    """sRGB levels by the root of linear values."""
    rgb_from_xyz: NDArray[np.float32]
    """(3, 3): from X / Xn, Y / Yn, Z / Zn to linear sRGB."""


@cache
def _tables() -> _Tables:
    """Compute the tables, with the constants of pretext.color."""
    curve, xyz = _curve(255), np.array(_XYZ_FROM_RGB)
    linear = ((np.arange(_STEPS + 2) + 0.5) / _STEPS) ** 2  # white may come out a step above 1
    root = np.where(linear > 0.008856, np.cbrt(linear), 7.787 * linear + 16 / 116)
    gamma = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    red, green, blue = ((curve * weight * _STEPS**2).astype(np.float32) for weight in xyz[1])
    back = np.linalg.inv(xyz) * np.array(_WHITE) * _STEPS**2
    return _Tables(
        red,
        green,
        blue,
        gray=(curve * xyz[1].sum() * _STEPS**2).astype(np.float32),
        root=root.astype(np.float32),
        level=np.rint(gamma.clip(0, 1) * 255).astype(np.uint8),
        rgb_from_xyz=back.astype(np.float32),
    )
