"""Weighted k nearest neighbors, exact, in bounded memory.

Wu et al. (CVPR 2018, "instance discrimination"): cosine similarity, a neighbor's vote weighs exp(similarity / T).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pretext.data.source import Labels
from pretext.engine.progress import Advance
from pretext.errors import UserError

_BLOCK = 2**26  # bytes of float32 that a block of features, or of similarities, takes at most
_MOST = 4096  # rows of a block


@torch.inference_mode()
def knn_scores(
    train: NDArray[np.floating],
    labels: Labels,
    test: NDArray[np.floating],
    classes: int,
    ks: Sequence[int],
    temperature: float = 0.07,
    device: torch.device | str = "cpu",
    rows: NDArray[np.int64] | None = None,
    test_rows: NDArray[np.int64] | None = None,
    advance: Advance = lambda more, remark: None,
) -> dict[int, NDArray[np.float32]]:
    """What the nearest neighbors say of every test image, for several numbers of neighbors at once.

    Both matrices are read block by block and never held whole, so memory maps of any size will do. Of
    neighbors that are exactly as near, the one that stands first is the nearer.

    Args:
        train: (N, dims), of any floating type; rows need not be of unit length.
        labels: of the N images; with several an image, (N, classes).
        test: (M, dims).
        classes: how many.
        ks: numbers of neighbors.
        temperature: T.
        device: where to compute, in float32.
        rows: which images of ``train`` may be neighbors; all by default.
        test_rows: which of ``test`` are asked about, in this order; all by default.
        advance: told of every image that is done.

    Returns:
        k -> float32 (M, classes) in [0, 1]: the share of the k neighbors' votes that fall to a class. With one
        class an image they add up to 1. With several, neighbors that are not counted for a class have
        no vote on it; where none has one, it is 0.

    Raises:
        UserError: a k below 1 or above the number of training images, or no positive temperature.
    """
    rows = np.arange(len(train)) if rows is None else rows
    test_rows = np.arange(len(test)) if test_rows is None else test_rows
    assert train.shape[1] == test.shape[1] and len(labels) == len(train)
    if not temperature > 0:
        raise UserError(f"the temperature of the neighbors' votes is {temperature:g}; give one above 0, such as 0.07")
    for k in ks:
        if not 1 <= k <= len(rows):
            raise UserError(f"{k} nearest neighbors of {len(rows):,} training images; give k from 1 to {len(rows)}")
    step = max(1, min(_MOST, _BLOCK // (4 * train.shape[1])))
    found = {k: np.zeros((len(test_rows), classes), np.float32) for k in ks}
    for at in range(0, len(test_rows), step):
        asked = _block(test, test_rows[at : at + step], device)
        similarity, position = _neighbors(train, rows, asked, max(ks), step, device)
        given = torch.from_numpy(labels[rows[position.cpu().numpy()]]).to(device)
        for k in ks:
            # The nearest has weight 1: no temperature overflows, and shares do not change.
            weights = ((similarity[:, :k] - similarity[:, :1]) / temperature).exp()
            found[k][at : at + step] = _shares(weights, given[:, :k], classes).cpu().numpy()
        advance(len(asked), "")
    return found


def _block(features: NDArray[np.floating], rows: NDArray[np.int64], device: torch.device | str) -> Tensor:
    """Some rows as float32 of unit length."""
    return F.normalize(torch.from_numpy(features[rows].astype(np.float32, copy=False)).to(device), dim=1)


def _neighbors(
    train: NDArray[np.floating],
    rows: NDArray[np.int64],
    asked: Tensor,
    k: int,
    step: int,
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """Similarity to the k nearest, nearest first, and their positions among ``rows``: both (B, k)."""
    near = torch.empty(len(asked), 0, device=device)
    position = torch.empty(len(asked), 0, dtype=torch.int64, device=device)
    for at in range(0, len(rows), step):
        similarity = asked @ _block(train, rows[at : at + step], device).T
        value, index = _first(similarity, min(k, similarity.shape[1]))
        # What was found before stands first, and is kept where a new one is only as near.
        near, order = torch.cat([near, value], 1).sort(dim=1, descending=True, stable=True)
        position = torch.cat([position, index + at], 1).gather(1, order)[:, :k]
        near = near[:, :k]
    return near, position


def _first(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As ``topk``, with a rule for equal values: the lower index first."""
    value, index = similarity.topk(k, dim=1, sorted=False)
    # topk takes any of those that equal the least it takes; only rows where some are left out need a full sort.
    cut = (similarity >= value.min(1, keepdim=True).values).sum(1) > k
    if bool(cut.any()):
        index[cut] = similarity[cut].sort(dim=1, descending=True, stable=True).indices[:, :k]
    index = index.sort(dim=1).values
    value, order = similarity.gather(1, index).sort(dim=1, descending=True, stable=True)
    return value, index.gather(1, order)


def _shares(weights: Tensor, given: Tensor, classes: int) -> Tensor:
    """The share of votes (B, k) that falls to every class, by the neighbors' labels (B, k) or (B, k, classes)."""
    if given.ndim == 2:
        votes = torch.zeros(len(weights), classes, device=weights.device).scatter_add_(1, given, weights)
        return votes / weights.sum(1, keepdim=True)
    votes = torch.einsum("bk,bkc->bc", weights, (given == 1).float())
    counted = torch.einsum("bk,bkc->bc", weights, (given != -1).float())
    return votes / counted.clamp_min(torch.finfo(torch.float32).tiny)
