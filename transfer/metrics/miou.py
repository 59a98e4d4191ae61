"""Segmentation: mean intersection over union, from the confusion matrix of each image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transfer.bootstrap import Floats, mean_over_classes
from transfer.metrics.metric import Measure, Metric, Tested, Weighted, pairs, tested_by_swaps

NOT_COUNTED = 255
"""The mask value of pixels that are left out."""


@dataclass(frozen=True, eq=False)
class MeanIoU(Weighted):
    """Mean intersection over union, over all test pixels together.

    Args:
        confusions: for each image the number of pixels of each class (rows) that were predicted as each class
            (columns), int64 (N, C, C).

    A class's number is TP / (TP + FP + FN); a class that is in no mask and in no prediction has none.
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
        """Number of pixels of each class."""
        counts: NDArray[np.int64] = self.confusions.sum((0, 2))
        return counts

    @property
    def pixel_accuracy(self) -> float:
        """The share of all pixels whose predicted class is right."""
        total = self.confusions.sum(0)
        return float(np.trace(total) / total.sum())

    def classes_under(self, weights: NDArray[Any]) -> Floats:
        """Return the intersection over union of each class."""
        return _weighted_iou(self.confusions, weights)

    @classmethod
    def tested(cls, first: Sequence[Metric], second: Sequence[Metric]) -> Tested:
        """Test by swapping two networks' predictions of an image, in all pairs of networks or in none."""
        measures = [
            left.side_by_side(right)
            for left, right in pairs(first, second)
            if isinstance(left, MeanIoU) and isinstance(right, MeanIoU)
        ]
        return tested_by_swaps(measures, first[0].count)

    def side_by_side(self, other: "MeanIoU") -> Measure:
        """Return the number as a function of weights (2N, R): of images as this network saw them, then as the other."""
        both = np.concatenate([self.confusions, other.confusions])
        return lambda weights: mean_over_classes(_weighted_iou(both, weights))


def confusion(mask: ArrayLike, predicted: ArrayLike, classes: int = 21) -> NDArray[np.int64]:
    """Return the confusion matrix of an image: true classes in rows, predicted classes in columns, (C, C).

    Args:
        mask: the true classes, (H, W), each 0 to C - 1, or 255, which is left out.
        predicted: (H, W), each 0 to C - 1.
        classes: C.
    """
    truth, prediction = np.asarray(mask), np.asarray(predicted)
    assert truth.shape == prediction.shape, f"a mask of {truth.shape} and a prediction of {prediction.shape}"
    counted = truth != NOT_COUNTED
    truth, prediction = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
    assert not truth.size or max(truth.max(), prediction.max()) < classes, "a class beyond the last"
    return np.bincount(classes * truth + prediction, minlength=classes**2).reshape(classes, classes)


def segmentation_outcome(confusions: Sequence[NDArray[np.int64]]) -> MeanIoU:
    """Return the outcome of images, given the ``confusion`` of each; at least one pixel must be counted."""
    outcome = MeanIoU(np.stack(confusions).astype(np.int64))
    assert outcome.confusions.any(), "no pixel is counted"
    return outcome


def _weighted_iou(confusions: NDArray[np.int64], weights: NDArray[Any]) -> Floats:
    """Return the intersection over union under weights (N, R): (C, R); nan where the union is empty."""
    predicted, truth, right = (
        part.T.astype(np.float64) @ weights.astype(np.float64)
        for part in (confusions.sum(1), confusions.sum(2), np.diagonal(confusions, axis1=1, axis2=2))
    )
    union = predicted + truth - right
    with np.errstate(invalid="ignore"):
        iou: Floats = right / np.where(union > 0, union, np.nan)
    return iou
