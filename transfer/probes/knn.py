"""Weighted k nearest neighbors on frozen features: the job, and the search, exact and in bounded memory.

Wu et al. (CVPR 2018, "instance discrimination"): cosine similarity, a neighbor's vote weighs exp(similarity / T).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretext.data.source import Labels
from pretext.engine.progress import Advance, progress, say
from pretext.errors import UserError
from transfer.evaluation import EvaluationSettings, EvaluationTask, evaluate
from transfer.features import Features, block_rows, load_block, nearest_rows
from transfer.metrics import Row, make_row
from transfer.protocols import NearestProtocol, find_protocol
from transfer.results import Result


@dataclass
class KnnSettings(EvaluationSettings):
    """Data and options of the nearest-neighbor evaluation."""


def knn(networks: Sequence[str], settings: KnnSettings) -> list[Result]:
    """Evaluate frozen networks by the k nearest neighbors of every test image; see ``linear.probe``."""
    protocol = find_protocol("knn", NearestProtocol)
    return evaluate(networks, settings, protocol, "cached", partial(knn_rows, protocol=protocol))


def knn_rows(task: EvaluationTask, protocol: NearestProtocol) -> list[Row]:
    """Return a row for every stage and k; a k above the number of training images is replaced by that number."""
    (rule,) = protocol.poolings
    fit = task.split.fit
    ks = protocol.possible_neighbors(len(fit))
    if cap := protocol.describe_cap(len(fit)):
        say(f"{task.network.name}, {protocol.name}: {cap}")
    rows = []
    with progress(
        f"neighbors in {task.network.name}", len(task.tested) * len(task.stages), "images", done=0
    ) as advance:

        def after(count: int, remark: str = "") -> None:
            advance(count, remark)
            task.partial.raise_if_stopped()  # nothing is saved: it is quick to compute the neighbors again

        for stage in task.stages:
            predictions: dict[int, list[NDArray[Any]]] = {k: [] for k in ks}
            for k, scores in knn_scores(
                task.train.matrix(stage, rule),
                task.targets.train.labels,
                task.test.matrix(stage, rule),
                len(task.targets.classes),
                ks,
                protocol.temperature,
                task.place.device,
                fit,
                task.tested,
                after,
            ):
                predictions[k].append(task.predictions(stage, scores))
                del scores  # before the next are computed
            for k, parts in predictions.items():
                outcome = task.outcome(np.concatenate(parts))
                rows.append(make_row(stage, f"k={k}", task.train.dims(stage, rule), rule, {}, None, [outcome]))
    return rows


def knn_scores(
    train: Features,
    labels: Labels,
    test: Features,
    classes: int,
    ks: Sequence[int],
    temperature: float = 0.07,
    device: torch.device | str = "cpu",
    rows: NDArray[np.int64] | None = None,
    test_rows: NDArray[np.int64] | None = None,
    advance: Advance = lambda more, remark: None,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the neighbors' votes for the test images, block by block, for several numbers of neighbors at once.

    Both matrices are read block by block and never held in memory as a whole, so they may be of any size.
    The scores of all test images are never in memory together either: with thousands of classes they are larger than
    the features. If two neighbors are equally near, the one with the lower index counts as nearer.

    Args:
        train: (N, dims), of any floating type; rows need not be of unit length.
        labels: of the N images; with several an image, (N, classes).
        test: (M, dims).
        classes: the number of classes.
        ks: numbers of neighbors.
        temperature: T.
        device: where to compute, in float32.
        rows: which images of ``train`` may be neighbors; all by default.
        test_rows: which images of ``test`` get scores, in this order; all by default.
        advance: called with the number of images that are done.

    Yields:
        For each block of B test images, for each k in turn: k and float32 (B, classes) in [0, 1], the share of the k
        neighbors' votes that fall to a class. With one class an image they add up to 1. With several, neighbors that
        are not counted for a class have no vote on it; where none has one, it is 0.

    Raises:
        UserError: a k is below 1 or above the number of training images, or the temperature is not positive.
    """
    rows = np.arange(len(train)) if rows is None else rows
    test_rows = np.arange(len(test)) if test_rows is None else test_rows
    assert train.shape[1] == test.shape[1] and len(labels) == len(train)
    if not temperature > 0:
        raise UserError(f"the temperature of the neighbors' votes is {temperature:g}; give one above 0, such as 0.07")
    for k in ks:
        if not 1 <= k <= len(rows):
            raise UserError(f"{k} nearest neighbors of {len(rows):,} training images; give k from 1 to {len(rows)}")
    step = block_rows(train.shape[1])
    for start in range(0, len(test_rows), step):
        queries = load_block(test, test_rows[start : start + step], device)
        similarity, position = nearest_rows(train, rows, queries, max(ks), device)
        neighbor_labels = torch.from_numpy(labels[rows[position.cpu().numpy()]]).to(device)
        for k in ks:
            # No local name refers to the scores, so the caller decides how long they stay in memory.
            yield k, _vote(similarity[:, :k], neighbor_labels[:, :k], classes, temperature).cpu().numpy()
        advance(len(queries), "")


@torch.inference_mode()
def _vote(similarity: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Return the share of votes (B, classes), see ``knn_scores``, of neighbors (B, k), the nearest first.

    Their labels are (B, k) or (B, k, classes).
    """
    # The nearest has weight 1: no temperature overflows, and shares do not change.
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
    if labels.ndim == 2:
        votes = torch.zeros(len(weights), classes, device=weights.device)
        return votes.scatter_add_(1, labels, weights).div_(weights.sum(1, keepdim=True))
    votes = torch.einsum("bk,bkc->bc", weights, (labels == 1).float())
    counted = torch.einsum("bk,bkc->bc", weights, (labels != -1).float())
    return votes / counted.clamp_min(torch.finfo(torch.float32).tiny)
