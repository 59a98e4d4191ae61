"""Upscaling of colors from a reduced image to the full one, along its edges.

Joint bilateral upsampling (Kopf, Cohen, Lischinski, Uyttendaele 2007, section 2): a pixel takes the mean of the
nearest 3 x 3 colors of the reduced image, weighted by place and by how near their lightness is to its own. The
result is a convex combination, so no color appears that was not there; it is computed for any rows of the image.

The spatial kernel is the quadratic B-spline, which has the standard deviation of the publication's Gaussian, half a
reduced pixel, and ends exactly where the window does: a Gaussian cut off there would leave seams.
"""

import math

import numpy as np
import torch
from torch import Tensor

from pretext.color import rgb_to_lightness
from pretint.colorization.hints import KnownPixels
from pretint.colorization.merge import Float32Array, ImageRows

PIXELS = 500_000
"""The number of pixels to which an image is reduced: this takes seconds, and less than a gigabyte."""

RANGE = 5.0
"""Standard deviation of the weight over the difference in L; a larger difference is an edge."""

PIXELS_RANGE = "[1, 4000000]"
"""The range of such a number in settings."""

_LEAST = 1e-6  # if no neighbor has a near lightness, only the place counts


def reduced_size(height: int, width: int, pixels: int) -> tuple[int, int]:
    """Return height and width, in the image's proportions, of at most that many pixels; its own if it has no more."""
    assert height > 0 and width > 0 and pixels > 0
    if height * width <= pixels:
        return height, width
    scale = math.sqrt(pixels / (height * width))
    low = max(1, int(min(height, width) * scale))
    high = min(max(height, width), max(low, int(max(height, width) * scale)), pixels // low)
    return (low, high) if height <= width else (high, low)


def enlarged_rows(ab: Tensor, seen: Tensor, lightness: Tensor, top: int, height: int) -> Tensor:
    """Return the color of some rows of an image.

    Args:
        ab: (2, h, w), float32, of the reduced image.
        seen: (h, w), float32, its L, in [0, 100].
        lightness: (rows, W), float32, of the rows from ``top`` on.
        top: the first row.
        height: of the full image.

    Returns:
        (2, rows, W), float32.
    """
    rows = _taps(torch.arange(top, top + lightness.shape[0]), seen.shape[0] / height, seen.shape[0])
    columns = _taps(torch.arange(lightness.shape[1]), seen.shape[1] / lightness.shape[1], seen.shape[1])
    total = torch.zeros_like(lightness)
    mixed = torch.zeros((2, *lightness.shape))
    for row, row_weight in rows:
        seen_rows, ab_rows = seen[row], ab[:, row]
        for column, column_weight in columns:
            apart = (seen_rows[:, column] - lightness).div_(RANGE)
            weight = apart.square_().mul_(-0.5).exp_().add_(_LEAST)
            weight.mul_(row_weight[:, None]).mul_(column_weight)
            total += weight
            for channel in range(2):
                mixed[channel].addcmul_(ab_rows[channel][:, column], weight)
    return mixed.div_(total)


class AlongEdges:
    """Colors of a photograph, computed for some rows at a time.

    Args:
        ab: (1, 2, h, w), of the reduced image.
        seen: (1, 1, h, w), its L.
        size: width and height of the photograph.
        given: pixels of the photograph whose color is given; they keep it exactly.
    """

    def __init__(self, ab: Tensor, seen: Tensor, size: tuple[int, int], given: KnownPixels | None = None) -> None:
        self.ab, self.seen, self.size, self.given = ab[0].float(), seen[0, 0], size, given

    def rows(self, top: int, bottom: int, pixels: ImageRows) -> Float32Array:
        """Return rows of ab; see ``pretint.colorization.merge.ColorSource``."""
        width, height = self.size
        if self.seen.shape == (height, width):
            mixed = self.ab[:, top:bottom].numpy().copy()
        else:
            planes = torch.from_numpy(pixels.astype(np.float32) / np.iinfo(pixels.dtype).max)
            planes = planes[None].expand(3, -1, -1) if pixels.ndim == 2 else planes.permute(2, 0, 1)
            mixed = enlarged_rows(self.ab, self.seen, rgb_to_lightness(planes)[0], top, height).numpy()
        if self.given is not None:
            ends = np.array(
                (top * width, bottom * width), self.given.pixels.dtype
            )  # of another type all would be copied
            first, last = np.searchsorted(self.given.pixels, ends)
            at = self.given.pixels[first:last] - top * width
            mixed.reshape(2, -1)[:, at] = self.given.ab[first:last].T
        return mixed


def _taps(positions: Tensor, scale: float, side: int) -> list[tuple[Tensor, Tensor]]:
    """Return each position's three neighbors on a grid of ``side`` cells, and their weights; the border is repeated."""
    at = (positions.double() + 0.5) * scale - 0.5
    middle = at.round()
    off = at - middle
    weights = (0.5 * (0.5 - off) ** 2, 0.75 - off**2, 0.5 * (0.5 + off) ** 2)
    return [((middle.long() + k - 1).clamp_(0, side - 1), weight.float()) for k, weight in enumerate(weights)]
