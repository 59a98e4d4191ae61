"""95% intervals by the bootstrap over test pictures."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

RESAMPLES = 10_000
ABOUT = f"95% percentile bootstrap over test pictures, {RESAMPLES} resamples"


class Estimate(NamedTuple):
    """A number and its 95% interval."""

    value: float
    low: float
    high: float


def accuracy(correct: Tensor) -> Estimate:
    """The share of correct answers.

    Args:
        correct: bool (N,).

    Drawing N pictures with replacement and counting the correct ones is drawing from
    Binomial(N, share): so that is what is drawn.
    """
    count, right = len(correct), int(correct.sum())
    draws = np.random.default_rng(0).binomial(count, right / count, RESAMPLES) / count
    return _estimate(right / count, draws)


def difference(correct: Tensor, other: Tensor) -> Estimate:
    """How much greater the share of ``correct`` is than that of ``other``, on the same pictures.

    Paired: a resample draws pictures, each with both answers, which is drawing from a multinomial
    over "only the first is right", "only the second", "both or neither".
    """
    count = len(correct)
    only, only_other = int((correct & ~other).sum()), int((other & ~correct).sum())
    shares = np.array([only, only_other, count - only - only_other]) / count
    draws = np.random.default_rng(0).multinomial(count, shares, RESAMPLES)
    return _estimate((only - only_other) / count, (draws[:, 0] - draws[:, 1]) / count)


def _estimate(value: float, draws: np.ndarray) -> Estimate:
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(value, float(low), float(high))
