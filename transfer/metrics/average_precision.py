"""Average precision of ranked images, under any weights of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import rankdata

from transfer.bootstrap import SWAPS, Floats, mean_over_classes, resamples, swapped


class Ranking:
    """The images of one class by falling score: its average precision, whatever weight each image has.

    Args:
        scores: (N,).
        truth: (N,), 1 present, 0 absent, -1 not counted.

    Average precision is the area under the steps of the precision-recall curve: the sum over the
    distinct scores, falling, of precision times what recall gains; so ties are one step. It is what
    scikit-learn's ``average_precision_score`` is. Weights are how often each image was drawn: so a
    resample needs no sorting of its own, and a product with two sparse matrices is all of it.
    """

    def __init__(self, scores: NDArray[Any], truth: NDArray[Any]) -> None:
        counted = np.flatnonzero(truth >= 0)
        order = counted[np.argsort(-scores[counted], kind="stable")]
        positive = truth[order] == 1
        ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True)[: len(order)]) + 1
        found = np.cumsum(positive)[ends - 1]
        gains = np.diff(found, prepend=0) > 0  # elsewhere recall gains nothing
        self._seen = stretch_sums(order, ends[gains], len(truth))
        self._found = stretch_sums(order[positive], found[gains], len(truth))

    def average_precision(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Under each column of weights, (N, R): (R,), in their precision; nan where no positive has any weight."""
        return _area(self._found @ weights, self._seen @ weights)

    def both_sides(self, weights: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Average precision under weights in [0, 1], (N, R), and under 1 minus them: (R,) both."""
        found, seen = self._found @ weights, self._seen @ weights
        every = np.ones((weights.shape[0], 1), weights.dtype)
        return _area(found, seen), _area(self._found @ every - found, self._seen @ every - seen)


def average_precision(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """Average precision of one class: see ``Ranking``; nan without a positive."""
    return float(Ranking(scores, truth).average_precision(np.ones((len(truth), 1)))[0])


def mean_average_precision(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """Mean over classes of average precision; classes without a positive are left out.

    Args:
        scores: (N, C).
        truth: (N, C), 1 present, 0 absent, -1 not counted.
    """
    return float(_mean_ap(_rankings(scores, truth), np.ones((len(truth), 1)))[0])


def resampled_map(scores: NDArray[Any], truth: NDArray[Any]) -> Floats:
    """Mean average precision of ``MAP_RESAMPLES`` resamples of the images.

    A class of which a resample has no positive is left out of its mean. Resample i is the same
    images for all that have as many: means over seeds and paired differences are those of these numbers.
    """
    rankings = _rankings(scores, truth)
    return resamples(lambda weights: _mean_ap(rankings, weights), len(truth))


def swaps(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]], truth: NDArray[Any], draws: int = SWAPS) -> float:
    """Two-sided Monte-Carlo p of a difference in mean average precision: each image's scores might be swapped.

    Args:
        pairs: scores of the one and of the other network, (N, C) each; the difference is the mean over
            pairs, and an image is swapped in all of them or in none.
        truth: (N, C), 1 present, 0 absent, -1 not counted.
        draws: of which images are swapped.

    Scores are first replaced by their ranks within class and network, which changes no average
    precision: so networks whose scores have other units can be swapped.

    Returns:
        As ``sign_flips``.
    """
    both = np.concatenate([truth, truth])
    rankings = [_rankings(np.concatenate([_ranks(a, truth), _ranks(b, truth)]), both) for a, b in pairs]

    def differences(stays: NDArray[np.float32]) -> Floats:
        side = np.concatenate([stays, 1 - stays])
        each = [np.subtract(*of_class.both_sides(side)) for of_classes in rankings for of_class in of_classes]
        return np.stack(each).astype(np.float64).mean(0)  # type: ignore[no-any-return]  # numpy's stubs

    return swapped(differences, len(truth), draws)


def stretch_sums(members: NDArray[np.intp], ends: NDArray[np.intp], count: int) -> csr_array:
    """The matrix that sums each stretch of members up to its end: (stretches, count)."""
    starts = np.concatenate([[0], ends])
    members = members[: starts[-1]]
    return csr_array((np.ones(len(members), np.float32), members, starts), shape=(len(ends), count))


def _area(gained: NDArray[Any], seen: NDArray[Any]) -> NDArray[Any]:
    """Under the steps of precision over recall, of positives and images between one step and the next."""
    if not len(gained):
        return np.full(gained.shape[1], np.nan, gained.dtype)
    found = np.cumsum(gained, 0)
    area = (gained * found / np.maximum(np.cumsum(seen, 0), 1)).sum(0)
    with np.errstate(invalid="ignore"):
        result: NDArray[Any] = area / found[-1]
    return result


def _ranks(scores: NDArray[Any], truth: NDArray[Any]) -> Floats:
    """Ranks within each class of what is counted; the others' are never read."""
    return np.column_stack(
        [
            rankdata(np.where(known >= 0, column, -np.inf), method="average") - (known < 0).sum()
            for column, known in zip(scores.T, truth.T, strict=True)
        ]
    )


def _rankings(scores: NDArray[Any], truth: NDArray[Any]) -> list[Ranking]:
    return [
        Ranking(column, known)
        for column, known in zip(np.ascontiguousarray(scores.T), np.ascontiguousarray(truth.T), strict=True)
        if (known == 1).any()
    ]


def _mean_ap(rankings: Sequence[Ranking], weights: NDArray[Any]) -> Floats:
    """Mean over the classes that have a positive of any weight, in double precision: (R,)."""
    return mean_over_classes(np.stack([one.average_precision(weights) for one in rankings]).astype(np.float64))
