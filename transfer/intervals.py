"""95% intervals by the bootstrap over test pictures, and tests of paired answers.

Every resample of one number of pictures is the same resample, whatever is judged by it: so what is
drawn for two networks is paired, and what is drawn for several seeds is drawn jointly.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.stats import binomtest, rankdata, t

Metric = Literal["top-1", "mAP", "AP", "mIoU"]
Floats = NDArray[np.float64]

RESAMPLES = 10_000
MAP_RESAMPLES = 1_000
FLIPS = 99_999
SWAPS = 999
ABOUT: dict[str, str] = {
    "top-1": f"95% percentile bootstrap over test pictures, {RESAMPLES:,} resamples; where all answers are alike, "
    "Clopper and Pearson's bound",
    "mAP": f"95% percentile bootstrap over test pictures, {MAP_RESAMPLES:,} resamples, centred on the number "
    "(pictures that occur twice raise average precision)",
    "AP": f"95% percentile bootstrap over test pictures with all their boxes, {MAP_RESAMPLES:,} resamples, centred on "
    "the number",
    "mIoU": f"95% percentile bootstrap over test pictures with all their pixels, {MAP_RESAMPLES:,} resamples, centred "
    "on the number",
}
"""What the interval of a metric is."""
MEASURES: dict[str, str] = {
    "top-1": "top-1 accuracy",
    "mAP": "mean average precision",
    "AP": "mean average precision of boxes",
    "mIoU": "mean intersection over union",
}
"""A metric in words."""

_TAIL = 0.025
_CELLS = 2**19  # numbers that are drawn at once: they fit a cache


class Estimate(NamedTuple):
    """A number and its 95% interval."""

    value: float
    low: float
    high: float


def mean(values: ArrayLike, lowest: float = 0.0, highest: float = 1.0) -> Estimate:
    """The mean over pictures.

    Args:
        values: one per picture, (N,): right or wrong, the share of seeds that are right, a difference.
        lowest: that a value can be.
        highest: that a value can be.

    Drawing N pictures with replacement is drawing how often each of the values occurs from a multinomial.
    Where all are the same that has no width; then it is Clopper and Pearson's bound on the share of
    pictures that are otherwise, none of which was met (Biometrika 1934): for a share of 1 or 0, their interval.
    """
    # Means over seeds that are equal but for their last bits are one value.
    found, counts = np.unique(np.round(np.asarray(values, dtype=np.float64), 12), return_counts=True)
    count = int(counts.sum())
    assert count, "no pictures"
    value = float(found @ counts) / count
    if len(found) == 1:
        others = 1 - _TAIL ** (1 / count)
        return Estimate(value, value - others * (value - lowest), value + others * (highest - value))
    rng, at_once = np.random.default_rng(0), max(1, _CELLS // len(found))
    parts = [min(at_once, RESAMPLES - start) for start in range(0, RESAMPLES, at_once)]
    sums = np.concatenate([rng.multinomial(count, counts / count, part) @ found for part in parts])
    return percentiles(value, sums / count)


def accuracy(correct: ArrayLike) -> Estimate:
    """The share of correct answers, bool (N,)."""
    return mean(np.asarray(correct, dtype=bool))


def difference(correct: ArrayLike, other: ArrayLike) -> Estimate:
    """How much greater the share of ``correct`` is than that of ``other``, on the same pictures: bool (N,) both."""
    return mean(np.asarray(correct, dtype=np.float64) - np.asarray(other, dtype=np.float64), lowest=-1)


def percentiles(value: float, draws: Floats) -> Estimate:
    """A value, and the percentiles of its resamples between which 95% of them lie."""
    low, high = np.nanquantile(draws, (_TAIL, 1 - _TAIL))
    return Estimate(value, float(low), float(high))


def centred(value: float, draws: Floats, lowest: float = 0.0, highest: float = 1.0) -> Estimate:
    """As ``percentiles``, of resamples that are moved so that their mean is the value.

    Average precision is greater in resamples: a positive that occurs twice ranks high twice. With 5% of
    1,500 pictures positive that is 0.8 points, and uncentred intervals would hold 89% instead of 93%.
    """
    return percentiles(value, np.clip(draws - np.nanmean(draws) + value, lowest, highest))


class Ranking:
    """The pictures of one class by falling score: its average precision, whatever weight each picture has.

    Args:
        scores: (N,).
        truth: (N,), 1 present, 0 absent, -1 not counted.

    Average precision is the area under the steps of the precision-recall curve: the sum over the
    distinct scores, falling, of precision times what recall gains; so ties are one step. It is what
    scikit-learn's ``average_precision_score`` is. Weights are how often each picture was drawn: so a
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
    """Mean average precision of ``MAP_RESAMPLES`` resamples of the pictures.

    A class of which a resample has no positive is left out of its mean. Resample i is the same
    pictures for all that have as many: means over seeds and paired differences are those of these numbers.
    """
    rankings = _rankings(scores, truth)
    return resamples(lambda weights: _mean_ap(rankings, weights), len(truth))


def resamples(measure: Callable[[NDArray[np.float32]], Floats], count: int) -> Floats:
    """What a measure is on ``MAP_RESAMPLES`` resamples of the pictures, along the last axis.

    Args:
        measure: of weights, (count, R): how often each picture was drawn; (..., R) out.
        count: of the pictures.

    Resample i is the same pictures for all that have as many.
    """
    rng, at_once = np.random.default_rng(0), max(1, _CELLS // count)
    draws = []
    for start in range(0, MAP_RESAMPLES, at_once):
        part = range(start, min(start + at_once, MAP_RESAMPLES))
        weights = np.empty((count, len(part)), dtype=np.float32)
        for column in range(len(part)):
            weights[:, column] = np.bincount(rng.integers(0, count, count), minlength=count)
        draws.append(measure(weights))
    return np.concatenate(draws, axis=-1)


def mean_over_classes(each: Floats) -> Floats:
    """Mean over the classes that are known, those without a number (nan) left out: (C, R) to (R,); nan of none."""
    known = np.isfinite(each)
    with np.errstate(invalid="ignore"):
        result: Floats = np.where(known, each, 0).sum(0) / known.sum(0)
    return result


def stretch_sums(members: NDArray[np.intp], ends: NDArray[np.intp], count: int) -> csr_array:
    """The matrix that sums each stretch of members up to its end: (stretches, count)."""
    starts = np.concatenate([[0], ends])
    members = members[: starts[-1]]
    return csr_array((np.ones(len(members), np.float32), members, starts), shape=(len(ends), count))


def mcnemar(correct: ArrayLike, other: ArrayLike) -> float:
    """Exact two-sided p of McNemar's test: whether two networks err equally often on the same pictures.

    Of the pictures on which one alone is right, either is right with probability one half: a sign test.
    """
    first, second = np.asarray(correct, dtype=bool), np.asarray(other, dtype=bool)
    only, only_other = int((first & ~second).sum()), int((second & ~first).sum())
    return float(binomtest(only, only + only_other).pvalue) if only + only_other else 1.0


def sign_flips(differences: ArrayLike, draws: int = FLIPS) -> float:
    """Two-sided Monte-Carlo p of a mean difference: each picture's might as well have the other sign.

    Args:
        differences: one per picture, (N,).
        draws: of signs.

    Returns:
        (1 + draws at least as far from 0) / (1 + draws), which keeps the level (Phipson and Smyth 2010).
    """
    signed = np.round(np.asarray(differences, dtype=np.float64), 12)
    sizes, counts = np.unique(np.abs(signed[signed != 0]), return_counts=True)
    rng, sums = np.random.default_rng(0), np.zeros(draws)
    for size, count in zip(sizes, counts, strict=True):
        sums += size * (2 * rng.binomial(count, 0.5, draws) - count)
    return _share(sums, float(signed.sum()))


def swaps(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]], truth: NDArray[Any], draws: int = SWAPS) -> float:
    """Two-sided Monte-Carlo p of a difference in mean average precision: each picture's scores might be swapped.

    Args:
        pairs: scores of the one and of the other network, (N, C) each; the difference is the mean over
            pairs, and a picture is swapped in all of them or in none.
        truth: (N, C), 1 present, 0 absent, -1 not counted.
        draws: of which pictures are swapped.

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


def swapped(differences: Callable[[NDArray[np.float32]], Floats], count: int, draws: int = SWAPS) -> float:
    """Two-sided Monte-Carlo p of a difference between networks: what they said of each picture might be swapped.

    Args:
        differences: of which pictures stay, 0 or 1, (count, R): the difference then, (R,).
        count: of the pictures.
        draws: of which pictures are swapped.

    Returns:
        As ``sign_flips``.
    """
    rng, at_once = np.random.default_rng(0), max(1, _CELLS // (2 * count))
    found = [
        differences(rng.integers(0, 2, (min(at_once, draws - start), count), dtype=np.int8).T.astype(np.float32))
        for start in range(0, draws, at_once)
    ]
    return _share(np.concatenate(found), float(differences(np.ones((count, 1), dtype=np.float32))[0]), tolerance=1e-6)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979), in the order given: below 5%, all of them hold at once with 95%."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def welch(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    """Mean of ``second`` minus that of ``first``, one number per seed, with Welch's t interval (Biometrika 1947).

    Returns:
        None where it says nothing: fewer than two seeds on a side, or no spread on both.
    """
    if min(len(first), len(second)) < 2:
        return None
    shares = [float(np.var(side, ddof=1)) / len(side) for side in (first, second)]
    if sum(shares) <= 1e-18:
        return None
    freedom = sum(shares) ** 2 / sum(s**2 / (len(side) - 1) for s, side in zip(shares, (first, second), strict=True))
    value = float(np.mean(second) - np.mean(first))
    reach = float(t.ppf(1 - _TAIL, freedom)) * sum(shares) ** 0.5
    return Estimate(value, value - reach, value + reach)


def _share(draws: Floats, observed: float, tolerance: float = 1e-9) -> float:
    """p of what was observed; draws that rounding alone puts nearer to 0 count as equal."""
    return (1 + int((np.abs(draws) >= abs(observed) - tolerance).sum())) / (1 + len(draws))


def _area(gained: NDArray[Any], seen: NDArray[Any]) -> NDArray[Any]:
    """Under the steps of precision over recall, of positives and pictures between one step and the next."""
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
