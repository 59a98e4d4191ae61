"""Detection: the boxes that were found in the test images, and their average precision by three rules."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transfer.bootstrap import Floats, mean_over_classes
from transfer.metrics.box_matches import IGNORED, RIGHT, Boxes, Verdicts, coco_verdicts, overlaps, voc_verdicts
from transfer.metrics.metric import Measure, Outcome, Tested, Weighted, pairs, tested_by_swaps
from transfer.metrics.precision import Curve, Points


class Objects(Protocol):
    """What is to be found in an image."""

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(n, 4), xyxy in continuous pixel coordinates."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,)"""

    @property
    def difficult(self) -> NDArray[np.bool_]:
        """Which are neither to be found nor wrong to find, (n,)."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What is to be found in all test images, one after the other.

    Args:
        counts: of each image how many objects it has, int64 (N,).
        boxes: float32 (G, 4).
        labels: int64 (G,).
        difficult: bool (G,).
        classes: C.
    """

    counts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    classes: int

    @cached_property
    def positives(self) -> NDArray[np.int64]:
        """Of each image and class how many are to be found, (N, C)."""
        counts = np.zeros((len(self.counts), self.classes), dtype=np.int64)
        np.add.at(counts, (_images(self.counts)[~self.difficult], self.labels[~self.difficult]), 1)
        return counts


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in all test images, one after the other.

    Args:
        counts: of each image how many boxes were found, int64 (N,).
        boxes: float32 (M, 4), xyxy in continuous pixel coordinates.
        scores: float32 (M,).
        labels: int64 (M,), below the truth's classes.
        truth: of the same images.

    Boxes of the same score stand in the order of the images, and within one as given.
    """

    counts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    truth: Truth

    @classmethod
    def of(
        cls, found: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]], truth: Sequence[Objects], classes: int = 20
    ) -> "Detections":
        """Of images, at least one of which has an object that is not difficult.

        Args:
            found: of each image its boxes (n, 4), scores (n,) and labels (n,).
            truth: of each image its objects.
            classes: C, above any label.
        """
        known = Truth(
            _counts([one.labels for one in truth]),
            _joined([one.boxes for one in truth], np.float32, (-1, 4)),
            _joined([one.labels for one in truth], np.int64),
            _joined([one.difficult for one in truth], np.bool_),
            classes,
        )
        assert known.positives.any(), "nothing is to be found"
        boxes, scores, labels = zip(*found, strict=True)
        return cls(
            _counts(labels),
            _joined(boxes, np.float32, (-1, 4)),
            _joined(scores, np.float32),
            _joined(labels, np.int64),
            known,
        )

    def __post_init__(self) -> None:
        assert len(self.counts) == len(self.truth.counts), "other images than those of the truth"
        assert len(self.boxes) == len(self.scores) == len(self.labels) == self.counts.sum()
        assert np.isfinite(self.boxes).all() and np.isfinite(self.scores).all(), "boxes and scores must be finite"
        assert (self.boxes[:, :2] <= self.boxes[:, 2:]).all(), "a box from right to left"
        assert (self.labels < self.truth.classes).all(), "a class beyond the last"

    @cached_property
    def _found(self) -> Boxes:
        order = np.argsort(-self.scores, kind="stable")
        return Boxes(self.boxes[order], self.labels[order], _images(self.counts)[order])

    @cached_property
    def _verdicts(self) -> dict[bool, Verdicts]:
        """By the devkit's rules, (1, M), and by COCO's, (10, M)."""
        found, truth = self._found, self.truth
        pairs = overlaps(found, Boxes(truth.boxes, truth.labels, _images(truth.counts)))
        voc = voc_verdicts(len(found.labels), pairs, truth.difficult)
        return {False: voc[None], True: coco_verdicts(found, pairs, truth.difficult)}

    def curves(self, points: Points) -> list[list[Curve]]:
        """Of each class its curves: one, or for COCO one for each overlap."""
        found, positives = self._found, self.truth.positives
        verdicts = self._verdicts[points == "COCO"]
        curves = []
        for label in range(self.truth.classes):
            of_class = found.labels == label
            images = found.images[of_class]
            counted = [(each != IGNORED, each == RIGHT) for each in verdicts[:, of_class]]
            curves.append([Curve(images[use], right[use], positives[:, label]) for use, right in counted])
        return curves


@dataclass(frozen=True, eq=False)
class Detected(Weighted):
    """Average precision of found boxes, its mean over classes; of COCO also over overlaps.

    Args:
        detections: what was found; outcomes by several rules share it.
        points: the rule. "11 points" is VOC2007's, "all points" that of VOC2010 and later: right means an overlap
            of at least one half. "COCO" is the mean over overlaps of 0.5 to 0.95, with COCO's matching.
    """

    metric = "AP"
    counted = "objects"

    detections: Detections
    points: Points

    @property
    def count(self) -> int:
        return len(self.detections.counts)

    @property
    def positives(self) -> NDArray[np.int64]:
        """Objects of each class, without the difficult ones."""
        counts: NDArray[np.int64] = self.detections.truth.positives.sum(0)
        return counts

    @cached_property
    def _curves(self) -> list[list[Curve]]:
        return self.detections.curves(self.points)

    def classes_under(self, weights: NDArray[Any]) -> Floats:
        """Average precision of each class."""
        return _precisions(self._curves, weights, self.points)

    @classmethod
    def tested(cls, first: Sequence[Outcome], second: Sequence[Outcome]) -> Tested:
        """Swaps of what two networks said of an image, in all pairs of networks or in none."""
        measures = [
            one.side_by_side(two)
            for one, two in pairs(first, second)
            if isinstance(one, Detected) and isinstance(two, Detected)
        ]
        return tested_by_swaps(measures, first[0].count)

    def side_by_side(self, other: "Detected") -> Measure:
        """The number, of weights (2N, R): how often each image counts as this network saw it, then as the other.

        Boxes stand by their place in their own network's order.
        """
        assert other.points == self.points
        both = [
            [one.beside(two) for one, two in zip(ones, twos, strict=True)]
            for ones, twos in zip(self._curves, other._curves, strict=True)
        ]
        return lambda weights: mean_over_classes(_precisions(both, weights, self.points))


def detections_outcome(
    found: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]],
    truth: Sequence[Objects],
    points: Points,
    classes: int = 20,
) -> Detected:
    """The outcome by one rule; see ``Detections.of``; outcomes by several rules share what that gives."""
    return Detected(Detections.of(found, truth, classes), points)


def _precisions(curves: Sequence[Sequence[Curve]], weights: NDArray[Any], points: Points) -> Floats:
    """(C, R)"""
    return np.stack(
        [np.mean([curve.average_precision(weights, points) for curve in of_class], axis=0) for of_class in curves]
    )


def _images(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(counts)), counts)


def _counts(parts: Sequence[ArrayLike]) -> NDArray[np.int64]:
    return np.array([len(np.asarray(part)) for part in parts], dtype=np.int64)


def _joined(parts: Sequence[ArrayLike], kind: type[Any], shape: tuple[int, ...] = (-1,)) -> NDArray[Any]:
    return np.concatenate([np.asarray(part, dtype=kind).reshape(shape) for part in parts])
