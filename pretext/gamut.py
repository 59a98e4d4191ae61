"""The gamut: the quantized colors of the ab plane, Q = 313 as published, their soft encoding, and decoding.

A soft target is sparse: per pixel the K nearest bins and their Gaussian weights, two small tensors,
never a dense Q-vector (paper section 2.1; the paper takes K = 5, the released code K = 10).
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import ConvexHull
from torch import Tensor, nn

from pretext.color import rgb_to_ab

STEP = 10
"""Spacing of the published ab grid, in Lab units."""

STEP_RANGE = (5, 40)
"""The least and the greatest spacing that a recipe may have: 1,083 bins, and 40, coarser than most colors differ."""

TEMPERATURE = 0.38
"""The paper's temperature of the annealed mean."""

_REACH = 128.0
_CELLS = 128  # per axis, of 2 x 2 Lab units: few candidates a cell, and a table of a megabyte


class SoftTarget(NamedTuple):
    """A pixel's K nearest bins, nearest first, and their weights (which add up to 1)."""

    bins: Tensor
    """(B, K, h, w), int64 in [0, Q)."""
    weights: Tensor
    """(B, K, h, w), float."""

    @property
    def nearest(self) -> Tensor:
        """(B, h, w): the nearest bin, which is also the bin of the greatest weight."""
        return self.bins[:, 0]


@cache
def bin_centers(step: int = STEP) -> np.ndarray:
    """Return the centers of the in-gamut bins, int64 (Q, 2), ordered by a, then b.

    The rule: the points of the grid {..., -step, 0, step, ...}^2 whose Chebyshev distance to the convex
    hull of the sRGB cube's ab projection is at most one step, that is all corners of those grid cells
    that touch the hull. The paper names the number, 313, of the step 10, and the released code ships the
    list; the rule gives that list, byte for byte. (Goyal et al. 2019 also tried 5, 15 and 20, but with the
    bins that the images of ImageNet fill: their lists are others.)

    Args:
        step: spacing of the grid, in Lab units, within ``STEP_RANGE``.
    """
    assert STEP_RANGE[0] <= step <= STEP_RANGE[1]
    axis = torch.linspace(0, 1, 33, dtype=torch.float64)
    cube = torch.cartesian_prod(axis, axis, axis)  # the hull's corners are corners of the cube's edges
    surface = cube[((cube == 0) | (cube == 1)).any(1)]
    ab = rgb_to_ab(surface.T.reshape(3, 1, -1)).reshape(2, -1).T.numpy()
    hull = ab[ConvexHull(ab).vertices]
    most = int(_REACH) // step + 1  # farther out than the hull and a step
    grid = step * np.arange(-most, most + 1)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    bins: np.ndarray = points[_squares_meet_polygon(points, step, hull)]
    return bins


def _squares_meet_polygon(centers: np.ndarray, radius: float, polygon: np.ndarray) -> np.ndarray:
    """Return which axis-parallel squares (half side ``radius``) meet a convex polygon (separating axes), bool."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    normals = np.stack((edges[:, 1], -edges[:, 0]), axis=1)
    axes = np.concatenate((normals, np.eye(2)))
    shadow = polygon @ axes.T  # (vertices, axes)
    middle = centers @ axes.T
    spread = radius * np.abs(axes).sum(1)
    apart = (middle - spread > shadow.max(0)) | (middle + spread < shadow.min(0))
    return np.asarray(~apart.any(1))


class Gamut(nn.Module):
    """The bins as a module: encodes ab to soft targets and decodes logits to ab, on its device.

    Encoding is exact and far cheaper than a search over all bins: a table holds, for every cell of
    2 x 2 Lab units, the bins that can be among the K nearest of any point in it.

    Args:
        neighbors: K, how many nearest bins share a pixel's color: 5 in the paper, 10 in its code.
        sigma: of the Gaussian over the distance to the bins, in Lab units.
        step: between neighboring bins, in Lab units, see ``bin_centers``.
    """

    def __init__(self, neighbors: int = 10, sigma: float = 5.0, step: int = STEP) -> None:
        super().__init__()
        assert 1 <= neighbors <= len(bin_centers(step)) and sigma > 0
        self.neighbors = neighbors
        self.sigma = sigma
        self.step = step
        centers = torch.from_numpy(bin_centers(step).copy()).float()
        self.centers: Tensor
        self.candidates: Tensor
        self.register_buffer("centers", centers, persistent=False)
        self.candidates_a: Tensor
        self.candidates_b: Tensor
        candidates = _candidates(neighbors, step)
        self.register_buffer("candidates", candidates, persistent=False)
        self.register_buffer("candidates_a", centers[candidates, 0], persistent=False)
        self.register_buffer("candidates_b", centers[candidates, 1], persistent=False)

    def __len__(self) -> int:
        return len(self.centers)

    def encode(self, ab: Tensor) -> SoftTarget:
        """Return the soft target of every pixel.

        Args:
            ab: (B, 2, h, w), float, unscaled; exact for |a|, |b| < 128, which holds every sRGB color.

        Returns:
            bins and weights, both (B, K, h, w), nearest first. Among bins at the very same distance
            the choice is arbitrary.
        """
        a, b = ab.float().movedim(1, -1).reshape(-1, 2, 1).unbind(1)  # (points, 1) each
        cells = [((x + _REACH) * (_CELLS / (2 * _REACH))).long().clamp_(0, _CELLS - 1) for x in (a, b)]
        cell = (cells[0] * _CELLS + cells[1]).flatten()
        # A point's candidates lie side by side: on a CPU twice as fast as with channels first.
        squared = (self.candidates_a.index_select(0, cell) - a) ** 2 + (
            self.candidates_b.index_select(0, cell) - b
        ) ** 2
        nearest, order = squared.topk(self.neighbors, dim=1, largest=False, sorted=True)
        # Relative to the nearest, so that far away from every bin the weights do not all underflow.
        weights = torch.exp((nearest[:, :1] - nearest) / (2 * self.sigma**2))
        weights = weights / weights.sum(1, keepdim=True)
        bins = self.candidates.index_select(0, cell).gather(1, order)
        shape = (len(ab), *ab.shape[-2:], self.neighbors)
        return SoftTarget(bins.view(shape).movedim(-1, 1), weights.view(shape).movedim(-1, 1))

    def annealed_mean(self, logits: Tensor, temperature: float = TEMPERATURE) -> Tensor:
        """Return ab of predicted distributions (paper section 2.3, equation 5).

        Args:
            logits: (B, Q, h, w).
            temperature: 1 is the mean, toward 0 the mode; above 0.

        Returns:
            (B, 2, h, w), float, unscaled.
        """
        probabilities = torch.softmax(logits.float() / temperature, dim=1)
        return torch.einsum("bqhw,qc->bchw", probabilities, self.centers)


@cache  # half a second, for every network that is opened
def _candidates(neighbors: int, step: int) -> Tensor:
    """Return, (cells * cells, C), the bins that can be among the K nearest of some point of each cell.

    The K-th nearest bin of a point lies at most r farther than that of the cell's middle, where r is
    the cell's half diagonal; so such a bin lies at most 2 r farther from the middle. Cells with fewer
    such bins than the fullest are filled up with their next nearest, which changes nothing.
    """
    side = 2 * _REACH / _CELLS
    middle = torch.arange(_CELLS, dtype=torch.float64) * side - _REACH + side / 2
    centers = torch.from_numpy(bin_centers(step).copy()).float().double()
    distances = torch.cdist(torch.cartesian_prod(middle, middle), centers)
    ordered, bins = distances.sort(dim=1)
    reach = ordered[:, neighbors - 1 : neighbors] + side * 2**0.5 + 1e-3
    most = int((ordered <= reach).sum(1).max())
    return bins[:, :most].contiguous()
