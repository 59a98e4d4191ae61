"""Segmentation: how often pixels of one class are given another, image by image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transfer.bootstrap import Floats, mean_over_classes
from transfer.metrics.metric import Measure, Outcome, Tested, Weighted, pairs, tested_by_swaps

NOT_COUNTED = 255
"""The value of a mask's pixels that are neither right nor wrong."""


@dataclass(frozen=True, eq=False)
class Segmented(Weighted):
    """Mean intersection over union, of all test pixels together.

    Args:
        confusions: of each image how many pixels of each class (rows) were given each class (columns),
            int64 (N, C, C).

    A class's number is its true positives by the sum of these, false positives and false negatives; a class that
    neither is anywhere nor was given anywhere has none.
    """

    metric = "mIoU"
    counted = "pixels"

    confusions: NDArray[np.int64]

    def __post_init__(self) -> None:
        shape = self.confusions.shape
        assert len(shape) == 3 and shape[1] == shape[2] and self.confusions.dtype == np.int64

    @property
    def count(self) -> int:
        return len(self.confusions)

    @property
    def positives(self) -> NDArray[np.int64]:
        """Pixels of each class."""
        counts: NDArray[np.int64] = self.confusions.sum((0, 2))
        return counts

    @property
    def pixel_accuracy(self) -> float:
        """The share of all pixels that were given their class."""
        total = self.confusions.sum(0)
        return float(np.trace(total) / total.sum())

    def classes_under(self, weights: NDArray[Any]) -> Floats:
        """Intersection over union of each class."""
        return _overlaps(self.confusions, weights)

    @classmethod
    def tested(cls, first: Sequence[Outcome], second: Sequence[Outcome]) -> Tested:
        """Swaps of what two networks said of an image, in all pairs of networks or in none."""
        measures = [
            one.side_by_side(two)
            for one, two in pairs(first, second)
            if isinstance(one, Segmented) and isinstance(two, Segmented)
        ]
        return tested_by_swaps(measures, first[0].count)

    def side_by_side(self, other: "Segmented") -> Measure:
        """The number, of weights (2N, R): how often each image counts as this network saw it, then as the other."""
        both = np.concatenate([self.confusions, other.confusions])
        return lambda weights: mean_over_classes(_overlaps(both, weights))


def confusion(mask: ArrayLike, predicted: ArrayLike, classes: int = 21) -> NDArray[np.int64]:
    """Of one image how many pixels of each class (rows) were given each class (columns): (C, C).

    Args:
        mask: the truth, (H, W), each 0 to C - 1, or 255, which is not counted.
        predicted: (H, W), each 0 to C - 1.
        classes: C.
    """
    truth, given = np.asarray(mask), np.asarray(predicted)
    assert truth.shape == given.shape, f"a mask of {truth.shape} and a prediction of {given.shape}"
    counted = truth != NOT_COUNTED
    truth, given = truth[counted].astype(np.int64), given[counted].astype(np.int64)
    assert not truth.size or max(truth.max(), given.max()) < classes, "a class beyond the last"
    return np.bincount(classes * truth + given, minlength=classes**2).reshape(classes, classes)


def segmentation_outcome(confusions: Sequence[NDArray[np.int64]]) -> Segmented:
    """The outcome of images, of each its ``confusion``; at least one pixel of them is counted."""
    outcome = Segmented(np.stack(confusions).astype(np.int64))
    assert outcome.confusions.any(), "no pixel is counted"
    return outcome


def _overlaps(confusions: NDArray[np.int64], weights: NDArray[Any]) -> Floats:
    """Intersection over union under weights (N, R): (C, R); nan where the union is empty."""
    given, truth, right = (
        part.T.astype(np.float64) @ weights.astype(np.float64)
        for part in (confusions.sum(1), confusions.sum(2), np.diagonal(confusions, axis1=1, axis2=2))
    )
    union = given + truth - right
    with np.errstate(invalid="ignore"):
        result: Floats = right / np.where(union > 0, union, np.nan)
    return result
