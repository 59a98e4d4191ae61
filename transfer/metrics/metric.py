"""The base of all metrics, and the rows of a result.

A metric gives its number, the number of each class, its interval, and a test of its difference from another outcome.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transfer.bootstrap import (
    Estimate,
    Floats,
    MetricName,
    centered,
    deviation,
    mean_over_classes,
    resamples,
    swap_p_value,
)

Measure = Callable[[NDArray[Any]], Floats]
"""A function of weights, (N, R), how often each image counts: a number for each column, (..., R), or nan."""


class Tested(NamedTuple):
    """A test of the hypothesis that a difference is 0."""

    p: float
    test: str
    """The name of the test."""


class Metric(ABC):
    """One network's outcome on each of the test images; every metric is a subclass."""

    metric: ClassVar[MetricName]
    slow: ClassVar[bool]
    """Whether a test of a difference takes seconds."""

    @property
    @abstractmethod
    def count(self) -> int:
        """N, the number of test images."""

    @property
    @abstractmethod
    def value(self) -> float:
        """The number, in [0, 1]."""

    def part(self, images: slice) -> "Metric":
        """Return the outcome on some of the images."""
        raise AssertionError(f"{type(self).__name__} is not made for several test sets")

    @classmethod
    @abstractmethod
    def joint(cls, seeds: Sequence[Sequence["Metric"]]) -> Estimate:
        """Estimate the mean over seeds of the mean over samples; the images are resampled for all of them at once."""

    @classmethod
    @abstractmethod
    def gap(cls, first: Sequence[Sequence["Metric"]], second: Sequence[Sequence["Metric"]]) -> Estimate:
        """Estimate ``joint`` of the second minus ``joint`` of the first, on the same images."""

    @classmethod
    @abstractmethod
    def tested(cls, first: Sequence["Metric"], second: Sequence["Metric"]) -> Tested:
        """Test that ``gap`` is 0. The outcomes of the shorter side are used again until both sides are equally long."""


class Weighted(Metric):
    """An outcome whose number is a mean over classes, and a function of how often each image counts."""

    slow = True
    counted: ClassVar[str]
    """The unit of ``positives``."""

    @property
    @abstractmethod
    def positives(self) -> NDArray[np.int64]:
        """The number of positives of each class: (C,)."""

    @abstractmethod
    def classes_under(self, weights: NDArray[Any]) -> Floats:
        """Return each class's number under weights of the images, (N, R): (C, R); nan where it has none."""

    def under(self, weights: NDArray[Any]) -> Floats:
        """Return the number under weights of the images, (N, R): (R,); nan where no class has one."""
        return mean_over_classes(self.classes_under(weights))

    def per_class(self) -> Floats:
        """Return the number of each class: (C,); nan where it has none."""
        numbers: Floats = self.classes_under(np.ones((self.count, 1)))[:, 0]
        return numbers

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
    def joint(cls, seeds: Sequence[Sequence[Metric]]) -> Estimate:
        """Estimate the mean, with an interval centered on it: see ``transfer.bootstrap.centered``."""
        weighted = _require_weighted(seeds)
        return centered(_mean_value(weighted), _mean_resampled(weighted))

    @classmethod
    def joint_classes(cls, seeds: Sequence[Sequence[Metric]]) -> list[Estimate]:
        """Return ``joint`` of each class; nan where it has no number."""
        weighted = _require_weighted(seeds)
        values = np.mean(
            [np.mean([outcome.per_class() for outcome in outcomes], axis=0) for outcomes in weighted], axis=0
        )
        draws = np.mean(
            [np.mean([outcome.resampled_classes for outcome in outcomes], axis=0) for outcomes in weighted], axis=0
        )
        nothing = Estimate(float("nan"), float("nan"), float("nan"))
        return [
            centered(float(value), class_draws) if np.isfinite(value) else nothing
            for value, class_draws in zip(values, draws, strict=True)
        ]

    @classmethod
    def gap(cls, first: Sequence[Sequence[Metric]], second: Sequence[Sequence[Metric]]) -> Estimate:
        """Estimate the difference on the same resamples, with a centered interval."""
        left, right = _require_weighted(first), _require_weighted(second)
        draws = _mean_resampled(right) - _mean_resampled(left)
        return centered(_mean_value(right) - _mean_value(left), draws, lowest=-1)


def tested_by_swaps(measures: Sequence[Measure], count: int) -> Tested:
    """Test by swapping two networks' outcomes of an image, in all pairs of networks or in none.

    Args:
        measures: for each pair the number as a function of weights (2N, R): of each image as the first network saw
            it, then as the second.
        count: N.
    """

    def differences(stays: NDArray[np.float32]) -> Floats:
        side = np.concatenate([stays, 1 - stays])
        mean: Floats = np.mean([measure(side) - measure(1 - side) for measure in measures], axis=0)
        return mean

    return Tested(swap_p_value(differences, count), "swaps of images")


def pairs(first: Sequence[Any], second: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Pair the items of both sides, each side repeated until both are equally long."""
    return [(first[i % len(first)], second[i % len(second)]) for i in range(int(np.lcm(len(first), len(second))))]


def _mean_value(seeds: Sequence[Sequence[Weighted]]) -> float:
    return float(np.mean([float(np.mean([outcome.value for outcome in outcomes])) for outcomes in seeds]))


def _mean_resampled(seeds: Sequence[Sequence[Weighted]]) -> Floats:
    means = [np.mean([outcome.resampled for outcome in outcomes], axis=0) for outcomes in seeds]
    mean: Floats = np.mean(means, axis=0)
    return mean


def _require_weighted(seeds: Sequence[Sequence[Metric]]) -> list[list[Weighted]]:
    weighted = [[outcome for outcome in outcomes if isinstance(outcome, Weighted)] for outcomes in seeds]
    assert [len(outcomes) for outcomes in weighted] == [len(outcomes) for outcomes in seeds]
    return weighted


@dataclass(frozen=True)
class Row:
    """One stage in one variant of a protocol, with its outcomes and their number; made by ``make_row``."""

    stage: str
    """The frozen stage that was evaluated; with fine-tuning the trained part: "all", "above conv4"."""
    variant: str
    """The variant of the protocol: "", "k=20", "4 shots", "11 points"."""
    dims: int
    """Dimensions of the features; with fine-tuning the number of trained weights, the head's among them."""
    pooling: str
    chosen: dict[str, Any]
    """The settings that were chosen on the held-out part: learning rate, penalty, C, ...; plain values."""
    holdout: float | None
    """The score on the held-out part that chose it, in [0, 1]."""
    outcomes: tuple[Metric, ...] = field(compare=False)
    """One outcome; in low-shot rows one per sample of the training images."""
    score: Estimate
    """Mean over the outcomes, with its interval over test images."""

    @property
    def name(self) -> str:
        """Its name in tables: "conv4", or "conv4, k=20"."""
        return f"{self.stage}, {self.variant}" if self.variant else self.stage

    @property
    def spread(self) -> float | None:
        """Standard deviation over samples; None with a single one."""
        return deviation([outcome.value for outcome in self.outcomes])


def make_row(
    stage: str,
    variant: str,
    dims: int,
    pooling: str,
    chosen: dict[str, Any],
    holdout: float | None,
    outcomes: Sequence[Metric],
) -> Row:
    """Return a row, with the score that its outcomes give."""
    return Row(stage, variant, dims, pooling, chosen, holdout, tuple(outcomes), joint_score([outcomes]))


def joint_score(seeds: Sequence[Sequence[Metric]]) -> Estimate:
    """Estimate the mean over seeds of the mean over samples; the images are resampled for all of them at once.

    Args:
        seeds: the outcomes of each seed, all on the same images.
    """
    return type(seeds[0][0]).joint(seeds)


def seed_scores(seeds: Sequence[Sequence[Metric]]) -> list[float]:
    """Return the mean over each seed's outcomes."""
    return [float(np.mean([outcome.value for outcome in outcomes])) for outcomes in seeds]
