"""Classification: top-1 accuracy of images with one class, mean average precision of images with several."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from transfer.bootstrap import (
    SWAPS,
    Estimate,
    Floats,
    estimate_mean,
    mcnemar,
    mean_over_classes,
    resamples,
    sign_flip_p_value,
    swap_p_value,
)
from transfer.metrics.metric import Metric, Tested, Weighted, pairs


@dataclass(frozen=True, eq=False)
class Top1Accuracy(Metric):
    """Top-1 accuracy of images with one class.

    Args:
        correct: which images are answered right, bool (N,).
    """

    metric = "top-1"
    slow = False

    correct: NDArray[np.bool_]

    def __post_init__(self) -> None:
        assert self.correct.ndim == 1 and self.correct.dtype == np.bool_

    @property
    def count(self) -> int:
        return len(self.correct)

    @cached_property
    def value(self) -> float:
        """The share of right answers."""
        return float(self.correct.mean())

    def part(self, images: slice) -> Metric:
        """See ``Metric.part``."""
        return Top1Accuracy(self.correct[images])

    @classmethod
    def joint(cls, seeds: Sequence[Sequence[Metric]]) -> Estimate:
        """Estimate the mean share of seeds that are right, image by image."""
        return estimate_mean(_shares(seeds))

    @classmethod
    def gap(cls, first: Sequence[Sequence[Metric]], second: Sequence[Sequence[Metric]]) -> Estimate:
        """Estimate the mean of each image's difference."""
        return estimate_mean(_shares(second) - _shares(first), lowest=-1)

    @classmethod
    def tested(cls, first: Sequence[Metric], second: Sequence[Metric]) -> Tested:
        """Test by McNemar's test if each side has one outcome, else by sign flips of each image's difference."""
        if len(first) == len(second) == 1:
            return Tested(mcnemar(_correct(first[0]), _correct(second[0])), "McNemar, exact")
        return Tested(sign_flip_p_value(_shares([second]) - _shares([first])), "sign flips of images")


def _shares(seeds: Sequence[Sequence[Metric]]) -> Floats:
    """Return the share of samples and seeds that answer each image right, in [0, 1]: (N,)."""
    by_seed = [np.mean([_correct(outcome) for outcome in outcomes], axis=0) for outcomes in seeds]
    shares: Floats = np.mean(by_seed, axis=0)
    return shares


def _correct(outcome: Metric) -> NDArray[np.bool_]:
    assert isinstance(outcome, Top1Accuracy)
    return outcome.correct


class Ranking:
    """The images of one class, sorted by falling score; gives the average precision under any weights of the images.

    Args:
        scores: (N,).
        truth: (N,), 1 present, 0 absent, -1 not counted.

    Average precision is the area under the steps of the precision-recall curve: the sum over the distinct scores,
    falling, of precision times the gain in recall; so ties are one step. scikit-learn's ``average_precision_score``
    is the same. The weight of an image is the number of times that it was drawn. So a resample needs no sorting, only a
    product with two sparse matrices.
    """

    def __init__(self, scores: NDArray[Any], truth: NDArray[Any]) -> None:
        counted = np.flatnonzero(truth >= 0)
        order = counted[np.argsort(-scores[counted], kind="stable")]
        positive = truth[order] == 1
        ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True)[: len(order)]) + 1
        true_positives = np.cumsum(positive)[ends - 1]
        gains = np.diff(true_positives, prepend=0) > 0  # elsewhere recall gains nothing
        self._seen = stretch_sums(order, ends[gains], len(truth))
        self._found = stretch_sums(order[positive], true_positives[gains], len(truth))

    def average_precision(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Return it for each column of weights, (N, R): (R,), in their dtype; nan where no positive has any weight."""
        return _area(self._found @ weights, self._seen @ weights)

    def both_sides(self, weights: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return average precision for weights in [0, 1], (N, R), and for 1 minus them: (R,) both."""
        found, seen = self._found @ weights, self._seen @ weights
        ones = np.ones((weights.shape[0], 1), weights.dtype)
        return _area(found, seen), _area(self._found @ ones - found, self._seen @ ones - seen)


@dataclass(frozen=True, eq=False)
class AveragePrecision(Weighted):
    """Mean average precision of images with several classes.

    Args:
        scores: float32 (N, C). In results read from a file they are ranks within each class: the number depends on
            nothing else.
        truth: int8 (N, C), 1 present, 0 absent, -1 not counted.
    """

    metric = "mAP"
    counted = "images"

    scores: NDArray[np.float32]
    truth: NDArray[np.int8]

    def __post_init__(self) -> None:
        assert self.scores.shape == self.truth.shape and np.isfinite(self.scores).all(), "scores must be finite"

    @property
    def count(self) -> int:
        return len(self.truth)

    def part(self, images: slice) -> Metric:
        """See ``Metric.part``."""
        return AveragePrecision(self.scores[images], self.truth[images])

    @property
    def positives(self) -> NDArray[np.int64]:
        """Number of images of each class."""
        counts: NDArray[np.int64] = (self.truth == 1).sum(0)
        return counts

    @cached_property
    def value(self) -> float:
        """The mean average precision, with the rounding of ``mean_average_precision``."""
        return mean_average_precision(self.scores, self.truth)

    @cached_property
    def _rankings(self) -> list[Ranking]:
        columns = zip(np.ascontiguousarray(self.scores.T), np.ascontiguousarray(self.truth.T), strict=True)
        return [Ranking(scores, truth) for scores, truth in columns]

    def classes_under(self, weights: NDArray[Any]) -> Floats:
        """Return the average precision of each class."""
        return np.stack([ranking.average_precision(weights) for ranking in self._rankings]).astype(np.float64)

    @classmethod
    def tested(cls, first: Sequence[Metric], second: Sequence[Metric]) -> Tested:
        """Test by swapping two networks' ranks of an image, in all pairs of networks or in none."""
        left, right = (
            [outcome for outcome in side if isinstance(outcome, AveragePrecision)] for side in (first, second)
        )
        return Tested(swaps([(a.scores, b.scores) for a, b in pairs(left, right)], left[0].truth), "swaps of images")


def average_precision(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return the average precision of one class, see ``Ranking``; nan without a positive."""
    return float(Ranking(scores, truth).average_precision(np.ones((len(truth), 1)))[0])


def mean_average_precision(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return the mean over classes of average precision; classes without a positive are left out.

    Args:
        scores: (N, C).
        truth: (N, C), 1 present, 0 absent, -1 not counted.
    """
    return float(_mean_ap(_rank_classes(scores, truth), np.ones((len(truth), 1)))[0])


def resampled_map(scores: NDArray[Any], truth: NDArray[Any]) -> Floats:
    """Return the mean average precision of ``SLOW_RESAMPLES`` resamples of the images.

    Where a resample has no positive of a class, the class is left out of its mean. Resample i draws the same images
    for all sets of this size: so means over seeds and paired differences can be computed from these numbers.
    """
    rankings = _rank_classes(scores, truth)
    return resamples(lambda weights: _mean_ap(rankings, weights), len(truth))


def swaps(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]], truth: NDArray[Any], draws: int = SWAPS) -> float:
    """Return the two-sided Monte-Carlo p of a difference in mean average precision when images' scores are swapped.

    Args:
        pairs: scores of one network and of the other, (N, C) each; the difference is the mean over pairs, and an
            image is swapped in all of them or in none.
        truth: (N, C), 1 present, 0 absent, -1 not counted.
        draws: the number of random choices of images to swap.

    Scores are first replaced by their ranks within class and network, which changes no average precision: so
    networks whose scores have different units can be swapped.

    Returns:
        As ``sign_flip_p_value``.
    """
    both = np.concatenate([truth, truth])
    rankings = [_rank_classes(np.concatenate([_ranks(a, truth), _ranks(b, truth)]), both) for a, b in pairs]

    def differences(stays: NDArray[np.float32]) -> Floats:
        side = np.concatenate([stays, 1 - stays])
        by_class = [np.subtract(*ranking.both_sides(side)) for classes in rankings for ranking in classes]
        return np.stack(by_class).astype(np.float64).mean(0)  # type: ignore[no-any-return]  # numpy's stubs

    return swap_p_value(differences, len(truth), draws)


def stretch_sums(members: NDArray[np.intp], ends: NDArray[np.intp], count: int) -> csr_array:
    """Return the matrix that sums each stretch of members up to its end: (stretches, count)."""
    starts = np.concatenate([[0], ends])
    members = members[: starts[-1]]
    return csr_array((np.ones(len(members), np.float32), members, starts), shape=(len(ends), count))


def _area(gained: NDArray[Any], seen: NDArray[Any]) -> NDArray[Any]:
    """Return the area under the steps of precision over recall, from positives and images between two steps."""
    if not len(gained):
        return np.full(gained.shape[1], np.nan, gained.dtype)
    true_positives = np.cumsum(gained, 0)
    area = (gained * true_positives / np.maximum(np.cumsum(seen, 0), 1)).sum(0)
    with np.errstate(invalid="ignore"):
        normalized: NDArray[Any] = area / true_positives[-1]
    return normalized


def _ranks(scores: NDArray[Any], truth: NDArray[Any]) -> Floats:
    """Return the ranks of counted images within each class; those of other images are never read."""
    from scipy.stats import rankdata  # not at the top: the import takes a second

    return np.column_stack(
        [
            rankdata(np.where(known >= 0, column, -np.inf), method="average") - (known < 0).sum()
            for column, known in zip(scores.T, truth.T, strict=True)
        ]
    )


def _rank_classes(scores: NDArray[Any], truth: NDArray[Any]) -> list[Ranking]:
    return [
        Ranking(column, known)
        for column, known in zip(np.ascontiguousarray(scores.T), np.ascontiguousarray(truth.T), strict=True)
        if (known == 1).any()
    ]


def _mean_ap(rankings: Sequence[Ranking], weights: NDArray[Any]) -> Floats:
    """Return the mean over the classes that have a positive of any weight, in double precision: (R,)."""
    return mean_over_classes(np.stack([ranking.average_precision(weights) for ranking in rankings]).astype(np.float64))
