"""The nearest rows of features by cosine: exact, in blocks, in bounded memory."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from transfer.features.cache import Features

_BLOCK = 2**26  # bytes of float32 that a block of features, or of similarities, takes at most
_MAX_ROWS = 4096  # of a block


def block_rows(dims: int) -> int:
    """Return how many rows of so many numbers are held at once."""
    return max(1, min(_MAX_ROWS, _BLOCK // (4 * dims)))


def load_block(features: Features, rows: NDArray[np.int64], device: torch.device | str) -> Tensor:
    """Return some rows as float32 of unit length."""
    return F.normalize(torch.from_numpy(features[rows].astype(np.float32, copy=False)).to(device), dim=1)


@torch.inference_mode()
def nearest_rows(
    train: Features, rows: NDArray[np.int64], queries: Tensor, k: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Return the cosines to the k nearest, nearest first, and their positions among ``rows``: both (B, k).

    Of equally near ones the lower position counts as nearer.

    Args:
        train: (N, dims), of any floating type.
        rows: which of them may be neighbors.
        queries: (B, dims), float32 of unit length.
        k: at most the number of ``rows``.
        device: where to compute.
    """
    step = block_rows(train.shape[1])
    near = torch.empty(len(queries), 0, device=device)
    position = torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    for start in range(0, len(rows), step):
        similarity = queries @ load_block(train, rows[start : start + step], device).T
        first = min(k, similarity.shape[1])
        # topk with a rule for equal values: the lower index first. topk takes any of those that equal the least it
        # takes; only rows where some of these are left out need a full sort.
        value, index = similarity.topk(first, dim=1, sorted=False)
        cut = (similarity >= value.min(1, keepdim=True).values).sum(1) > first
        if bool(cut.any()):
            index[cut] = similarity[cut].sort(dim=1, descending=True, stable=True).indices[:, :first]
        index = index.sort(dim=1).values
        value, order = similarity.gather(1, index).sort(dim=1, descending=True, stable=True)
        index = index.gather(1, order)
        # Neighbors of earlier blocks stand first, and win over equally near ones of this block.
        near, order = torch.cat([near, value], 1).sort(dim=1, descending=True, stable=True)
        position = torch.cat([position, index + start], 1).gather(1, order)[:, :k]
        near = near[:, :k]
    return near, position
