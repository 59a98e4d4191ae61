"""What every kind of outcome can say: its number, that of each class, its interval, and whether another's differs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transfer.bootstrap import Estimate, Floats, Metric, centered, mean_over_classes, resamples, swapped

Measure = Callable[[NDArray[Any]], Floats]
"""Of weights, (N, R), how often each image counts: a number for each column, (..., R); nan where there is none."""


class Tested(NamedTuple):
    """Whether a difference is 0 for the networks as they are."""

    p: float
    test: str
    """What gave p."""


class Outcome(ABC):
    """What the test images said of one network; of each metric there is one kind."""

    metric: ClassVar[Metric]
    slow: ClassVar[bool]
    """Whether a test of a difference takes seconds."""

    @property
    @abstractmethod
    def count(self) -> int:
        """N, of the test images."""

    @property
    @abstractmethod
    def value(self) -> float:
        """The number, in [0, 1]."""

    @classmethod
    @abstractmethod
    def joint(cls, seeds: Sequence[Sequence["Outcome"]]) -> Estimate:
        """Mean over seeds of the mean over samples; the images are resampled for all of them at once."""

    @classmethod
    @abstractmethod
    def gap(cls, first: Sequence[Sequence["Outcome"]], second: Sequence[Sequence["Outcome"]]) -> Estimate:
        """What ``joint`` gives for the second minus what it gives for the first, on the same images."""

    @classmethod
    @abstractmethod
    def tested(cls, first: Sequence["Outcome"], second: Sequence["Outcome"]) -> Tested:
        """Test that ``gap`` is 0. Where there are more of the one than of the other, those are gone through again."""


class Weighted(Outcome):
    """One whose number is a mean over classes, and any function of how often each image counts."""

    slow = True
    counted: ClassVar[str]
    """What ``positives`` counts."""

    @property
    @abstractmethod
    def positives(self) -> NDArray[np.int64]:
        """Of each class how many there are to be found: (C,)."""

    @abstractmethod
    def classes_under(self, weights: NDArray[Any]) -> Floats:
        """Each class's number where images count as often as weights, (N, R), say: (C, R); nan where it has none."""

    def under(self, weights: NDArray[Any]) -> Floats:
        """The number where images count as often as weights, (N, R), say: (R,); nan where no class has one."""
        return mean_over_classes(self.classes_under(weights))

    def per_class(self) -> Floats:
        """The number of each class: (C,); nan where it has none."""
        result: Floats = self.classes_under(np.ones((self.count, 1)))[:, 0]
        return result

    @cached_property
    def value(self) -> float:
        """Mean of ``per_class`` over the classes that have a number."""
        return float(self.under(np.ones((self.count, 1)))[0])

    @cached_property
    def resampled_classes(self) -> Floats:
        """Each class's number on resamples of the images: (C, resamples)."""
        return resamples(self.classes_under, self.count)

    @property
    def resampled(self) -> Floats:
        """The number on resamples of the images; a class that has none on one is left out of its mean."""
        return mean_over_classes(self.resampled_classes)

    @classmethod
    def joint(cls, seeds: Sequence[Sequence[Outcome]]) -> Estimate:
        """Centered on the number: see ``transfer.bootstrap.centered``."""
        found = _weighted(seeds)
        return centered(_mean([[one.value for one in each] for each in found]), _resampled(found))

    @classmethod
    def joint_classes(cls, seeds: Sequence[Sequence[Outcome]]) -> list[Estimate]:
        """As ``joint``, of each class; nan where it has no number."""
        found = _weighted(seeds)
        values = np.mean([np.mean([one.per_class() for one in each], axis=0) for each in found], axis=0)
        draws = np.mean([np.mean([one.resampled_classes for one in each], axis=0) for each in found], axis=0)
        nothing = Estimate(float("nan"), float("nan"), float("nan"))
        return [
            centered(float(value), of_class) if np.isfinite(value) else nothing
            for value, of_class in zip(values, draws, strict=True)
        ]

    @classmethod
    def gap(cls, first: Sequence[Sequence[Outcome]], second: Sequence[Sequence[Outcome]]) -> Estimate:
        """Centered, of the differences on the same resamples."""
        sides = _weighted(first), _weighted(second)
        one, two = (_mean([[outcome.value for outcome in each] for each in side]) for side in sides)
        return centered(two - one, _resampled(sides[1]) - _resampled(sides[0]), lowest=-1)


def tested_by_swaps(measures: Sequence[Measure], count: int) -> Tested:
    """Swap what two networks said of an image, in all pairs of networks or in none.

    Args:
        measures: of each pair the number, of weights (2N, R): how often each image counts as the first network
            saw it, then as the second.
        count: N.
    """

    def differences(stays: NDArray[np.float32]) -> Floats:
        side = np.concatenate([stays, 1 - stays])
        each: Floats = np.mean([measure(side) - measure(1 - side) for measure in measures], axis=0)
        return each

    return Tested(swapped(differences, count), "swaps of images")


def pairs(first: Sequence[Any], second: Sequence[Any]) -> list[tuple[Any, Any]]:
    """One of each side, until both have been gone through equally often."""
    return [(first[i % len(first)], second[i % len(second)]) for i in range(int(np.lcm(len(first), len(second))))]


def _mean(seeds: Sequence[Sequence[float]]) -> float:
    return float(np.mean([float(np.mean(each)) for each in seeds]))


def _resampled(seeds: Sequence[Sequence[Weighted]]) -> Floats:
    total: Floats = np.mean([np.mean([one.resampled for one in each], axis=0) for each in seeds], axis=0)
    return total


def _weighted(seeds: Sequence[Sequence[Outcome]]) -> list[list[Weighted]]:
    found = [[one for one in each if isinstance(one, Weighted)] for each in seeds]
    assert [len(each) for each in found] == [len(each) for each in seeds]
    return found
