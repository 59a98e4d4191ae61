"""Multi-class answers: which test images are answered right."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from transfer.bootstrap import Estimate, Floats, mcnemar, mean, sign_flips
from transfer.metrics.metric import Outcome, Tested


@dataclass(frozen=True, eq=False)
class Answers(Outcome):
    """Top-1 accuracy.

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

    @classmethod
    def joint(cls, seeds: Sequence[Sequence[Outcome]]) -> Estimate:
        """Of the share of seeds that are right, image by image."""
        return mean(_shares(seeds))

    @classmethod
    def gap(cls, first: Sequence[Sequence[Outcome]], second: Sequence[Sequence[Outcome]]) -> Estimate:
        """Of each image's difference."""
        return mean(_shares(second) - _shares(first), lowest=-1)

    @classmethod
    def tested(cls, first: Sequence[Outcome], second: Sequence[Outcome]) -> Tested:
        """One outcome each: McNemar's. Several: sign flips of each image's difference."""
        if len(first) == len(second) == 1:
            return Tested(mcnemar(_correct(first[0]), _correct(second[0])), "McNemar, exact")
        return Tested(sign_flips(_shares([second]) - _shares([first])), "sign flips of images")


def _shares(seeds: Sequence[Sequence[Outcome]]) -> Floats:
    """Of each image how often it is answered right, over samples and seeds, in [0, 1]: (N,)."""
    each = [np.mean([_correct(outcome) for outcome in outcomes], axis=0) for outcomes in seeds]
    total: Floats = np.mean(each, axis=0)
    return total


def _correct(outcome: Outcome) -> NDArray[np.bool_]:
    assert isinstance(outcome, Answers)
    return outcome.correct
