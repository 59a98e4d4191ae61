"""Multi-label classification: how the test images are ranked for each class."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.bootstrap import Floats
from transfer.metrics.average_precision import Ranking, mean_average_precision, swaps
from transfer.metrics.metric import Outcome, Tested, Weighted, pairs


@dataclass(frozen=True, eq=False)
class Ranked(Weighted):
    """Mean average precision.

    Args:
        scores: float32 (N, C). Read from a file these are ranks within each class, all that the number depends on.
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

    @property
    def positives(self) -> NDArray[np.int64]:
        """Images of each class."""
        counts: NDArray[np.int64] = (self.truth == 1).sum(0)
        return counts

    @cached_property
    def value(self) -> float:
        """The number itself, as ``mean_average_precision`` rounds it."""
        return mean_average_precision(self.scores, self.truth)

    @cached_property
    def _rankings(self) -> list[Ranking]:
        columns = zip(np.ascontiguousarray(self.scores.T), np.ascontiguousarray(self.truth.T), strict=True)
        return [Ranking(scores, truth) for scores, truth in columns]

    def classes_under(self, weights: NDArray[Any]) -> Floats:
        """Average precision of each class."""
        return np.stack([ranking.average_precision(weights) for ranking in self._rankings]).astype(np.float64)

    @classmethod
    def tested(cls, first: Sequence[Outcome], second: Sequence[Outcome]) -> Tested:
        """Swaps of two networks' ranks of an image, in all pairs of networks or in none."""
        one, two = ([each for each in side if isinstance(each, Ranked)] for side in (first, second))
        return Tested(swaps([(a.scores, b.scores) for a, b in pairs(one, two)], one[0].truth), "swaps of images")
