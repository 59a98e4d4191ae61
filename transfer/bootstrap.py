"""95% intervals by the bootstrap over test images, and tests of paired answers.

The resamples depend only on the number of images. So the resamples of two networks are paired, and those of several
seeds are the same.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

MetricName = Literal["top-1", "mAP", "AP", "mIoU"]
Floats = NDArray[np.float64]

RESAMPLES = 10_000
SLOW_RESAMPLES = 1_000
"""The number of resamples for mAP, AP, mIoU and color scores, which take long."""
FLIPS = 99_999
SWAPS = 999
ABOUT: dict[str, str] = {
    "top-1": f"95% percentile bootstrap over test images, {RESAMPLES:,} resamples; where all answers are alike, "
    "Clopper and Pearson's bound",
    "mAP": f"95% percentile bootstrap over test images, {SLOW_RESAMPLES:,} resamples, centered on the number "
    "(images that occur twice raise average precision)",
    "AP": f"95% percentile bootstrap over test images with all their boxes, {SLOW_RESAMPLES:,} resamples, centered on "
    "the number",
    "mIoU": f"95% percentile bootstrap over test images with all their pixels, {SLOW_RESAMPLES:,} resamples, centered "
    "on the number",
}
"""How the interval of each metric is computed."""
METRIC_TITLES: dict[str, str] = {
    "top-1": "top-1 accuracy",
    "mAP": "mean average precision",
    "AP": "mean average precision of boxes",
    "mIoU": "mean intersection over union",
}
"""The name of each metric in text."""

_TAIL = 0.025
_CELLS = 2**19  # numbers that are drawn at once, so that they fit a cache


class Estimate(NamedTuple):
    """A number and its 95% interval."""

    value: float
    low: float
    high: float


def estimate_mean(values: ArrayLike, lowest: float = 0.0, highest: float = 1.0) -> Estimate:
    """Estimate the mean over images.

    Args:
        values: one per image, (N,): right or wrong, the share of seeds that are right, a difference.
        lowest: the lowest possible value.
        highest: the highest possible value.

    Drawing N images with replacement is the same as drawing the counts of the values from a multinomial. If all values
    are equal, such an interval has no width. Then the result is Clopper and Pearson's bound (Biometrika 1934) on the
    share of images with other values, none of which occurred; for a share of 1 or 0 this is their interval.
    """
    # Means over seeds that differ only in their last bits count as one value.
    distinct, counts = np.unique(np.round(np.asarray(values, dtype=np.float64), 12), return_counts=True)
    count = int(counts.sum())
    assert count, "no images"
    value = float(distinct @ counts) / count
    if len(distinct) == 1:
        others = 1 - _TAIL ** (1 / count)
        return Estimate(value, value - others * (value - lowest), value + others * (highest - value))
    rng, at_once = np.random.default_rng(0), max(1, _CELLS // len(distinct))
    parts = [min(at_once, RESAMPLES - start) for start in range(0, RESAMPLES, at_once)]
    sums = np.concatenate([rng.multinomial(count, counts / count, part) @ distinct for part in parts])
    return percentiles(value, sums / count)


def accuracy(correct: ArrayLike) -> Estimate:
    """Estimate the share of correct answers, bool (N,)."""
    return estimate_mean(np.asarray(correct, dtype=bool))


def difference(correct: ArrayLike, other: ArrayLike) -> Estimate:
    """Estimate the share of ``correct`` minus that of ``other``, on the same images: bool (N,) both."""
    return estimate_mean(np.asarray(correct, dtype=np.float64) - np.asarray(other, dtype=np.float64), lowest=-1)


def percentiles(value: float, draws: Floats) -> Estimate:
    """Return a value with the two percentiles that enclose 95% of its resamples."""
    low, high = np.nanquantile(draws, (_TAIL, 1 - _TAIL))
    return Estimate(value, float(low), float(high))


def centered(value: float, draws: Floats, lowest: float = 0.0, highest: float = 1.0) -> Estimate:
    """Return ``percentiles`` of resamples that are shifted so that their mean is the value.

    Average precision is greater in resamples: a positive that occurs twice ranks high twice. With 5% of
    1,500 images positive that is 0.8 points, and uncentered intervals would hold 89% instead of 93%.
    """
    return percentiles(value, np.clip(draws - np.nanmean(draws) + value, lowest, highest))


def resamples(measure: Callable[[NDArray[np.float32]], Floats], count: int) -> Floats:
    """Return a measure on ``SLOW_RESAMPLES`` resamples of the images, along the last axis.

    Args:
        measure: maps weights, (count, R), how often each image was drawn, to (..., R).
        count: the number of images.

    Resample i draws the same images for all sets of this size.
    """
    rng, at_once = np.random.default_rng(0), max(1, _CELLS // count)
    draws = []
    for start in range(0, SLOW_RESAMPLES, at_once):
        part = range(start, min(start + at_once, SLOW_RESAMPLES))
        weights = np.empty((count, len(part)), dtype=np.float32)
        for column in range(len(part)):
            weights[:, column] = np.bincount(rng.integers(0, count, count), minlength=count)
        draws.append(measure(weights))
    return np.concatenate(draws, axis=-1)


def mean_over_classes(each: Floats) -> Floats:
    """Return the mean over the classes that have a number, not nan: (C, R) to (R,); nan if none has."""
    known = np.isfinite(each)
    with np.errstate(invalid="ignore"):
        average: Floats = np.where(known, each, 0).sum(0) / known.sum(0)
    return average


def mcnemar(correct: ArrayLike, other: ArrayLike) -> float:
    """Return the exact two-sided p of McNemar's test: whether two networks err equally often on the same images.

    It is a sign test on the images on which only one network is right: under the hypothesis, either one is right with
    probability one half.
    """
    from scipy.stats import binomtest  # not at the top: the import takes a second

    first, second = np.asarray(correct, dtype=bool), np.asarray(other, dtype=bool)
    only, only_other = int((first & ~second).sum()), int((second & ~first).sum())
    return float(binomtest(only, only + only_other).pvalue) if only + only_other else 1.0


def sign_flip_p_value(differences: ArrayLike, draws: int = FLIPS) -> float:
    """Return the two-sided Monte-Carlo p of a mean difference, under random signs of each image's difference.

    Args:
        differences: one per image, (N,).
        draws: the number of draws of signs.

    Returns:
        (1 + draws at least as far from 0) / (1 + draws), which keeps the level (Phipson and Smyth 2010).
    """
    signed = np.round(np.asarray(differences, dtype=np.float64), 12)
    sizes, counts = np.unique(np.abs(signed[signed != 0]), return_counts=True)
    rng, sums = np.random.default_rng(0), np.zeros(draws)
    for size, count in zip(sizes, counts, strict=True):
        sums += size * (2 * rng.binomial(count, 0.5, draws) - count)
    return _share(sums, float(signed.sum()))


def swap_p_value(differences: Callable[[NDArray[np.float32]], Floats], count: int, draws: int = SWAPS) -> float:
    """Return the two-sided Monte-Carlo p of a difference between networks, under swaps of their outcomes of images.

    Args:
        differences: maps which images stay, 0 or 1, (count, R), to the difference then, (R,).
        count: the number of images.
        draws: the number of draws of images to swap.

    Returns:
        As ``sign_flip_p_value``.
    """
    rng, at_once = np.random.default_rng(0), max(1, _CELLS // (2 * count))
    drawn = [
        differences(rng.integers(0, 2, (min(at_once, draws - start), count), dtype=np.int8).T.astype(np.float32))
        for start in range(0, draws, at_once)
    ]
    return _share(np.concatenate(drawn), float(differences(np.ones((count, 1), dtype=np.float32))[0]), tolerance=1e-6)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values (1979), in the given order: with 95%, all those below 5% hold at once."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def welch(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    """Return the mean of ``second`` minus that of ``first``, one number per seed, with Welch's t interval.

    Welch, Biometrika 1947.

    Returns:
        None with fewer than two seeds on a side, or no spread on both.
    """
    from scipy.stats import t  # see ``mcnemar``

    if min(len(first), len(second)) < 2:
        return None
    shares = [float(np.var(side, ddof=1)) / len(side) for side in (first, second)]
    if sum(shares) <= 1e-18:
        return None
    freedom = sum(shares) ** 2 / sum(s**2 / (len(side) - 1) for s, side in zip(shares, (first, second), strict=True))
    value = float(np.mean(second) - np.mean(first))
    reach = float(t.ppf(1 - _TAIL, freedom)) * sum(shares) ** 0.5
    return Estimate(value, value - reach, value + reach)


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample; None for fewer than two numbers."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def p_text(p: float) -> str:
    """Return p as text: 0.0123, or <0.0001."""
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"


def _share(draws: Floats, observed: float, tolerance: float = 1e-9) -> float:
    """Return p of an observed value; draws that rounding alone puts nearer to 0 count as equal."""
    return (1 + int((np.abs(draws) >= abs(observed) - tolerance).sum())) / (1 + len(draws))
