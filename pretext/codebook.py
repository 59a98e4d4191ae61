"""Codebooks: vectors of channels, quantized; the counterpart of the gamut for other values than colors.

A soft target is that of the gamut: the K nearest codes of a vector, with Gaussian weights.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from pretext.errors import UserError
from pretext.gamut import TEMPERATURE, SoftTarget

_MOST_POINTS = 100_000  # for k-means: a minute for 1,000 codes


class Codebook(nn.Module):
    """Codes of vectors of d channels in [0, 1], with the methods of ``Gamut``.

    It has no codes before ``fit``; a checkpoint has them.

    Args:
        codes: Q.
        channels: d.
        neighbors: K, how many nearest codes share a vector; at most Q.
    """

    centers: Tensor
    """(Q, d)."""
    sigma: Tensor
    """A scalar: the standard deviation of the Gaussian over the distances to the codes."""

    def __init__(self, codes: int, channels: int, neighbors: int) -> None:
        super().__init__()
        self.neighbors = neighbors
        self.register_buffer("centers", torch.zeros(codes, channels))
        self.register_buffer("sigma", torch.ones(()))

    def __len__(self) -> int:
        return len(self.centers)

    def fit(self, points: Tensor, seed: int) -> None:
        """Set the codes: a grid over [0, 1] for one or two channels, else by k-means. Sigma is half their distance.

        The distance of codes is the mean over all codes of that to the nearest other one. (The gamut's sigma of 5 is
        half the distance of its bins, too.)

        Args:
            points: (N, d), finite, in [0, 1].
            seed: of k-means.

        Raises:
            UserError: there are fewer different points than codes.
        """
        count, channels = self.centers.shape
        if channels <= 2:
            side = round(count ** (1 / channels))
            axis = torch.linspace(0, 1, side)
            centers = torch.cartesian_prod(*[axis] * channels).reshape(-1, channels)
        else:
            from sklearn.cluster import KMeans  # not at the top: the import takes a second

            drawn = points.numpy()[np.random.default_rng(seed).permutation(len(points))[:_MOST_POINTS]]
            different = np.unique(drawn, axis=0)
            if len(different) < count:
                raise UserError(
                    f"method.arguments: codes is {count}, but the first training images have only {len(different)} "
                    "different values of the hidden channels; set fewer codes"
                )
            found = KMeans(count, n_init=1, random_state=seed).fit(drawn)
            centers = torch.from_numpy(found.cluster_centers_).float()
        self.centers.copy_(centers)
        distances = torch.cdist(centers, centers).fill_diagonal_(math.inf)
        self.sigma.copy_(distances.amin(1).mean() / 2)

    def encode(self, values: Tensor) -> SoftTarget:
        """Return the soft target of every pixel, see ``Gamut.encode``.

        Args:
            values: (B, d, h, w), float.
        """
        points = values.float().movedim(1, -1).flatten(0, -2)
        squared = (points[:, :1] - self.centers[:, 0]) ** 2
        for at in range(1, points.shape[1]):
            squared += (points[:, at, None] - self.centers[:, at]) ** 2
        nearest, codes = squared.topk(self.neighbors, dim=1, largest=False, sorted=True)
        # Relative to the nearest, so that far away from every code the weights do not all underflow.
        weights = torch.exp((nearest[:, :1] - nearest) / (2 * self.sigma**2))
        weights = weights / weights.sum(1, keepdim=True)
        shape = (len(values), *values.shape[-2:], self.neighbors)
        return SoftTarget(codes.view(shape).movedim(-1, 1), weights.view(shape).movedim(-1, 1))

    def annealed_mean(self, logits: Tensor, temperature: float = TEMPERATURE) -> Tensor:
        """Return the values of predicted distributions, (B, d, h, w), see ``Gamut.annealed_mean``."""
        probabilities = torch.softmax(logits.float() / temperature, dim=1)
        return torch.einsum("bqhw,qc->bchw", probabilities, self.centers)
