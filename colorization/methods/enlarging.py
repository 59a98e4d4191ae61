"""Colour found on a reduced picture, brought to the full one along its edges.

Joint bilateral upsampling (Kopf, Cohen, Lischinski, Uyttendaele 2007, section 2): a pixel takes the mean of the
nearest 3 x 3 colours of the reduced picture, weighted by place and by how near their lightness is to its own. The
result is a convex combination, so no colour appears that was not there; it is computed in strips of rows, so memory
does not grow with the picture beyond the result itself.

The spatial kernel is the quadratic B-spline, which has the standard deviation of the publication's Gaussian, half a
reduced pixel, and ends exactly where the window does: a Gaussian cut off there would leave seams.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from colorization.hints import Given
from colorization.joining import Floats, Rows
from pretext.color import rgb_to_lightness

RANGE = 5.0
"""Standard deviation of the weight over the difference in L: what differs by more lies across an edge."""

_STRIP = 1 << 20  # pixels at once
_LEAST = 1e-6  # where no neighbour has a near lightness, the place alone decides


def reduced_size(height: int, width: int, pixels: int) -> tuple[int, int]:
    """Height and width of at most so many pixels, in the picture's proportions; its own where it has no more."""
    assert height > 0 and width > 0 and pixels > 0
    if height * width <= pixels:
        return height, width
    scale = math.sqrt(pixels / (height * width))
    low = max(1, int(min(height, width) * scale))
    high = min(max(height, width), max(low, int(max(height, width) * scale)), pixels // low)
    return (low, high) if height <= width else (high, low)


def reduced(lightness: Tensor, size: tuple[int, int]) -> Tensor:
    """L, (H, W), averaged over the cells of a grid of that size, (h, w); itself where it has that size."""
    if tuple(lightness.shape) == size:
        return lightness
    return F.adaptive_avg_pool2d(lightness[None, None], size)[0, 0]


def enlarged(ab: Tensor, seen: Tensor, lightness: Tensor) -> Tensor:
    """The full picture's colour.

    Args:
        ab: (2, h, w), float32, of the reduced picture.
        seen: (h, w), float32, its L, in [0, 100].
        lightness: (H, W), float32, L of the full picture.

    Returns:
        (2, H, W), float32.
    """
    height, width = lightness.shape
    result = torch.empty((2, height, width), dtype=torch.float32)
    step = max(1, _STRIP // width)
    for top in range(0, height, step):
        result[:, top : top + step] = enlarged_rows(ab, seen, lightness[top : top + step], top, height)
    return result


def enlarged_rows(ab: Tensor, seen: Tensor, lightness: Tensor, top: int, height: int) -> Tensor:
    """Some rows of ``enlarged``, for pictures that are never whole in memory.

    Args:
        ab: as there.
        seen: as there.
        lightness: (rows, W), of the rows from ``top`` on.
        top: the first of them.
        height: of the full picture.

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
    """The same as colours of a photograph, which is never whole in memory.

    Args:
        ab: (1, 2, h, w), of the reduced picture.
        seen: (1, 1, h, w), its L.
        size: width and height of the photograph.
        given: pixels of the photograph that have the very colour that somebody gave them.
    """

    def __init__(self, ab: Tensor, seen: Tensor, size: tuple[int, int], given: Given | None = None) -> None:
        self.ab, self.seen, self.size, self.given = ab[0].float(), seen[0, 0], size, given

    def rows(self, top: int, bottom: int, pixels: Rows) -> Floats:
        """See ``colorization.joining.Colours``."""
        width, height = self.size
        if self.seen.shape == (height, width):
            mixed = self.ab[:, top:bottom].numpy().copy()
        else:
            mixed = enlarged_rows(self.ab, self.seen, _lightness(pixels), top, height).numpy()
        if self.given is not None:
            first, last = np.searchsorted(self.given.pixels, (top * width, bottom * width))
            at = self.given.pixels[first:last] - top * width
            mixed.reshape(2, -1)[:, at] = self.given.ab[first:last].T
        return mixed


def _lightness(pixels: Rows) -> Tensor:
    """L, (rows, W), of rows of a photograph."""
    most = np.iinfo(pixels.dtype).max
    planes = torch.from_numpy(pixels.astype(np.float32) / most)
    planes = planes[None].expand(3, -1, -1) if pixels.ndim == 2 else planes.permute(2, 0, 1)
    return rgb_to_lightness(planes)[0]


def _taps(positions: Tensor, scale: float, side: int) -> list[tuple[Tensor, Tensor]]:
    """The three neighbours of every position on a grid of ``side`` cells, and their weights; the border goes on."""
    at = (positions.double() + 0.5) * scale - 0.5
    middle = at.round()
    off = at - middle
    weights = (0.5 * (0.5 - off) ** 2, 0.75 - off**2, 0.5 * (0.5 + off) ** 2)
    return [((middle.long() + k - 1).clamp_(0, side - 1), weight.float()) for k, weight in enumerate(weights)]
