"""What embeddings say of a set of images: near duplicates, outliers, labels that their neighbors contradict, a map."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pretext.engine.progress import progress
from transfer.features import block_rows, load_block, nearest_rows

Floats = NDArray[np.float32]


@dataclass
class Findings:
    """The findings over N images."""

    neighbors: NDArray[np.int64]
    """(N, k): the nearest other images, the nearest first."""
    cosines: Floats
    """(N, k): to them, from the mean of all images."""
    groups: list[list[int]]
    """Near duplicates: images that are connected by cosines above the threshold; the largest group first."""
    outliers: list[int]
    """All images, the farthest from its neighbors first."""
    suspects: list[int]
    """Images whose neighbors mostly have one other label, the surest first."""
    votes: dict[int, tuple[str, float]]
    """Of suspects: that label, and its share of the neighbors."""


def find(
    vectors: Floats,
    labels: Sequence[str] | None,
    neighbors: int,
    similar: float,
    device: torch.device | str = "cpu",
) -> Findings:
    """Search the nearest images of each image exactly, in blocks, and say what follows from them.

    Args:
        vectors: (N, dims), N at least 2; they are centered here.
        labels: N, or None.
        neighbors: k; at most N - 1 are taken.
        similar: cosine from which two images count as near duplicates.
        device: where to compute.
    """
    centered = vectors - vectors.mean(0, dtype=np.float64).astype(np.float32)
    count, k = len(vectors), min(neighbors, len(vectors) - 1)
    nearest, cosines = np.empty((count, k), np.int64), np.empty((count, k), np.float32)
    pairs: list[NDArray[np.int64]] = []
    every, step = np.arange(count), block_rows(centered.shape[1])
    with progress("neighbors", count, "images", done=0) as advance:
        for start in range(0, count, step):
            rows = every[start : start + step]
            queries = load_block(centered, rows, device)
            near, position = (part.cpu().numpy() for part in nearest_rows(centered, every, queries, k + 1, device))
            # The image itself is among them unless more than k others are as near as it is: then the last one goes.
            own = position == rows[:, None]
            own[~own.any(1), -1] = True
            nearest[rows], cosines[rows] = position[~own].reshape(-1, k), near[~own].reshape(-1, k)
            pairs += _similar_pairs(centered, queries, start, similar, device)
            advance(len(rows), "")
    suspects, votes = _suspects(nearest, labels) if labels is not None else ([], {})
    return Findings(
        nearest,
        cosines,
        _groups(pairs, count),
        np.argsort(cosines.mean(1), kind="stable").tolist(),
        suspects,
        votes,
    )


def project(vectors: Floats, by_neighbors: bool, seed: int) -> Floats:
    """Return a place on a map for each vector, (N, 2) in [0, 1]: t-SNE, or the first two principal components.

    t-SNE (van der Maaten and Hinton 2008) starts from the first 50 principal components, as scikit-learn advises.
    """
    from sklearn.decomposition import PCA  # not at the top: the import takes a second
    from sklearn.manifold import TSNE

    count, dims = vectors.shape
    parts = min(50 if by_neighbors else 2, count, dims)
    placed: Floats = PCA(parts, svd_solver="randomized", random_state=seed).fit_transform(vectors)
    if by_neighbors and count > 3:
        perplexity = min(30.0, (count - 1) / 3)
        placed = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(placed)
    if placed.shape[1] < 2:
        placed = np.pad(placed, ((0, 0), (0, 2 - placed.shape[1])))
    low, high = placed.min(0), placed.max(0)
    inside: Floats = ((placed - low) / np.maximum(high - low, 1e-12)).astype(np.float32)
    return inside


def _similar_pairs(
    centered: Floats, queries: torch.Tensor, start: int, similar: float, device: torch.device | str
) -> list[NDArray[np.int64]]:
    """Return the pairs (i, j), i < j, of a block of queries whose cosine is at least ``similar``."""
    found: list[NDArray[np.int64]] = []
    step = block_rows(centered.shape[1])
    for other in range(start, len(centered), step):
        cosines = queries @ load_block(centered, np.arange(other, min(other + step, len(centered))), device).T
        pairs = (cosines >= similar).nonzero().cpu().numpy() + np.array([start, other])
        found.append(pairs[pairs[:, 0] < pairs[:, 1]])
    return found


def _groups(pairs: Sequence[NDArray[np.int64]], count: int) -> list[list[int]]:
    """Return the images that pairs connect, the largest group first."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    joined = np.concatenate([*pairs, np.empty((0, 2), np.int64)])
    if not len(joined):
        return []
    graph = coo_array((np.ones(len(joined), bool), (joined[:, 0], joined[:, 1])), (count, count))
    _, group = connected_components(graph, directed=False)
    members = np.unique(joined)
    by_group: dict[int, list[int]] = {}
    for member in members.tolist():
        by_group.setdefault(int(group[member]), []).append(member)
    return sorted(by_group.values(), key=lambda one: (-len(one), one))


def _suspects(nearest: NDArray[np.int64], labels: Sequence[str]) -> tuple[list[int], dict[int, tuple[str, float]]]:
    """Return the images of which more than half of the neighbors have one other label; with that label and share."""
    names, own = np.unique(np.asarray(labels), return_inverse=True)
    votes, k = {}, nearest.shape[1]
    for image, others in enumerate(own[nearest]):
        label, count = max(zip(*np.unique(others, return_counts=True), strict=True), key=lambda vote: int(vote[1]))
        if label != own[image] and 2 * count > k:
            votes[image] = (str(names[label]), float(count) / k)
    return sorted(votes, key=lambda image: (-votes[image][1], image)), votes
