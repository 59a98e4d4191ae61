"""Low-shot classification: linear SVMs learned from few images of every class, as Goyal et al. (ICCV 2019) draw them.

They chose the cost on the test images; here training images that were not learned from choose it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretext.data.order import mix, permutation
from pretext.data.source import Labels
from pretext.engine.progress import progress
from pretext.errors import UserError
from transfer.probes.linear_svm import (
    COSTS,
    ITERATIONS,
    Array,
    Kept,
    average_precision,
    done,
    finished,
    fitted,
    one_against_rest,
    unit_length,
)
from transfer.splits import Shots, shots

_WATCHED = 0x3A7C


class LowShot(NamedTuple):
    """Classifiers learned from k images of every class, for several k and samples."""

    scores: dict[int, list[Array]]
    """k -> for every sample (M, classes), as in ``SvmResult``."""
    chosen: dict[int, float]
    """k -> the cost: of all samples and classes."""
    precision: dict[int, float]
    """k -> its average precision on the training images that were not learned from, mean over classes and samples."""
    unconverged: int
    fits: int


def lowshot(
    train: NDArray[np.floating],
    labels: Labels,
    test: NDArray[np.floating],
    classes: Sequence[str],
    ks: Sequence[int],
    samples: int = 5,
    costs: Sequence[float] = COSTS,
    seed: int = 0,
    most: int = 2000,
    kept: Kept | None = None,
    processes: int = 1,
    title: str = "low-shot SVMs",
) -> LowShot:
    """Fit linear SVMs on k images of every class, and (C - 1) k without it; see ``splits.shots``.

    One cost serves all samples and classes of a k, as with Goyal et al.: the one with the best average precision, mean
    over classes and samples, on those of ``most`` training images, drawn by the
    seed, that the class was not learned from. Test images choose nothing.

    Args:
        train: (N, dims).
        labels: of the N images.
        test: (M, dims).
        classes: their names.
        ks: how many images with a class it is learned from.
        samples: how many samples of each k.
        costs: C, to choose from.
        seed: of the samples and of the solver.
        most: see above.
        kept: as in ``svm_scores``.
        processes: how many classes at once.
        title: of the progress bar.

    Raises:
        UserError: a class has fewer images with it than k, or none without it; or all images with any class
            are learned from, so that none is left to choose a cost by.
    """
    kept = {} if kept is None else kept
    costs = sorted(costs)
    truth = one_against_rest(labels, len(classes))
    watched = np.sort(np.argsort(permutation(len(truth), mix(seed, _WATCHED)))[:most])
    units = {
        (k, sample, one): shots(labels, one, len(classes), k, sample, seed)
        for k in ks
        for sample in range(samples)
        for one in range(len(classes))
    }
    for (k, _, one), drawn in units.items():
        if len(drawn.positives) < k or not len(drawn.negatives):
            raise UserError(
                f"{int((truth[:, one] == 1).sum())} training images with {classes[one]} and "
                f"{int((truth[:, one] == 0).sum())} without: {k} shots need {k}, and one without; take fewer shots"
            )
    x = unit_length(train)
    trials = {
        _shot(unit): (_shot_precisions, (truth[:, unit[2]], drawn, watched, costs, seed))
        for unit, drawn in units.items()
    }
    with progress(title, 2 * len(units), "classifiers", done=done(kept, trials)) as advance:
        found = finished(trials, (x,), kept, processes, advance)
        each = np.array([value[:-1] for value in found]).reshape(len(ks), samples * len(classes), len(costs))
        blind = np.isnan(each).all((1, 2))
        if blind.any():
            raise UserError(
                f"{ks[int(blind.argmax())]} shots take all training images of every class, and none is left to "
                "choose a cost by; take fewer shots"
            )
        mean = np.nanmean(each, 1)
        chosen = {k: costs[int(row.argmax())] for k, row in zip(ks, mean, strict=True)}
        finals = {
            f"{_shot(unit)}, C {chosen[unit[0]]!r}": (_shot_final, (drawn, chosen[unit[0]], seed))
            for unit, drawn in units.items()
        }
        advance(done(kept, finals), "")
        last = finished(finals, (x, unit_length(test)), kept, processes, advance)
    stopped = int(sum(value[-1] for value in found) + sum(value[-1] >= ITERATIONS for value in last))
    scores = np.stack([value[:-1] for value in last], 1).astype(np.float32)
    planes = np.split(scores, len(ks) * samples, 1)
    return LowShot(
        {k: planes[at * samples : (at + 1) * samples] for at, k in enumerate(ks)},
        chosen,
        {k: float(row.max()) for k, row in zip(ks, mean, strict=True)},
        stopped,
        len(found) * len(costs) + len(last),
    )


def _shot(unit: tuple[int, int, int]) -> str:
    k, sample, one = unit
    return f"k {k}, sample {sample}, class {one}"


def _shot_precisions(
    x: Array, column: NDArray[np.int8], drawn: Shots, watched: NDArray[np.int64], costs: Sequence[float], seed: int
) -> NDArray[np.float64]:
    """Average precision for every cost on watched images (nan: none shows the class), and how many did not settle."""
    own, basis, positive = _small(x, drawn)
    rest = np.setdiff1d(watched[column[watched] != -1], np.concatenate(drawn))
    if not len(rest):
        return np.append(np.full(len(costs), np.nan), 0.0)
    seen = x[rest] @ basis
    models = [fitted(own, positive, cost, seed) for cost in costs]
    found = [average_precision(model.decision_function(seen), column[rest]) for model in models]
    return np.array([*found, sum(model.n_iter_ >= ITERATIONS for model in models)], np.float64)


def _shot_final(x: Array, test: Array, drawn: Shots, cost: float, seed: int) -> NDArray[np.float64]:
    own, basis, positive = _small(x, drawn)
    model = fitted(own, positive, cost, seed)
    return np.append(model.decision_function(test @ basis), model.n_iter_)


def _small(x: Array, drawn: Shots) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """The shots in an orthonormal basis of what they span, that basis (dims, n), and which are positive.

    An SVM sees nothing but inner products, so there it is the same one, in far fewer dimensions.
    """
    rows = np.concatenate(drawn)
    positive = np.arange(len(rows)) < len(drawn.positives)
    own = x[rows].astype(np.float64)
    if len(rows) >= own.shape[1]:
        return own, np.eye(own.shape[1]), positive
    basis, triangle = np.linalg.qr(own.T)
    return np.ascontiguousarray(triangle.T), basis, positive
