"""Detection: the detected boxes in the test images, which of them are right, and their average precision.

Boxes are xyxy in continuous pixel coordinates. The PASCAL VOC devkit counts pixels from 1, with both ends in the box.
Its xmin..xmax is [xmin - 1, xmax) here, so the coordinates already contain the "+ 1" of its widths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transfer.bootstrap import Floats, mean_over_classes
from transfer.metrics.classification import stretch_sums
from transfer.metrics.metric import Measure, Metric, Tested, Weighted, pairs, tested_by_swaps

Points = Literal["11 points", "all points", "COCO"]
"""The rule for average precision: VOC2007's; VOC2010's and later; COCO's, which averages over several overlaps."""

LEVELS: dict[Points, Floats | None] = {
    "11 points": np.arange(11) / 10,
    "all points": None,
    "COCO": np.linspace(0, 1, 101),  # not k / 100, from which some differ in the last bit: COCO's own
}
"""The values of recall at which precision is taken; None: all."""

Verdicts = NDArray[np.int8]
"""RIGHT, WRONG or IGNORED for each detected box."""

RIGHT, WRONG, IGNORED = 1, -1, 0

VOC_OVERLAP = 0.5
COCO_OVERLAPS = np.linspace(0.5, 0.95, 10)
COCO_MOST = 100  # boxes of an image and class that count: the highest-scoring ones


class Boxes(NamedTuple):
    """Boxes of all images, one after the other."""

    boxes: NDArray[np.float32]
    """(M, 4)"""
    labels: NDArray[np.int64]
    """(M,)"""
    images: NDArray[np.int64]
    """Index of each box's image, (M,)."""


class Overlaps(NamedTuple):
    """Pairs of a found and a true box of one class in one image that overlap."""

    found: NDArray[np.int64]
    """Index of the found box; ascending."""
    true: NDArray[np.int64]
    """Index of the true box; ascending within a found one."""
    share: NDArray[np.float64]
    """Intersection over union, above 0."""


def overlaps(found: Boxes, true: Boxes) -> Overlaps:
    """Return every pair of a found and a true box of one class in one image that have area in common."""
    classes = 1 + max([0, *found.labels.tolist(), *true.labels.tolist()])
    keys, groups = (boxes.images * classes + boxes.labels for boxes in (found, true))
    order = np.argsort(groups, kind="stable")
    starts, ends = (np.searchsorted(groups[order], keys, side) for side in ("left", "right"))
    counts = ends - starts
    found_index = np.repeat(np.arange(len(keys)), counts)
    true_index = order[np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)]
    a, b = found.boxes[found_index].astype(np.float64), true.boxes[true_index].astype(np.float64)
    sides = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    common = sides.prod(1)
    met = common > 0
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b))
    union = area_a + area_b - common
    return Overlaps(found_index[met], true_index[met], common[met] / union[met])


def voc_verdicts(count: int, pairs: Overlaps, difficult: NDArray[np.bool_]) -> Verdicts:
    """Return the verdicts of the devkit.

    Args:
        count: the number of found boxes; they are sorted by falling score.
        pairs: of found and true boxes.
        difficult: which true boxes are neither positives nor errors when found.

    A detected box is compared with the true box that it overlaps most, the first of these if there are several. It is
    right if they overlap by at least one half and no detected box of a higher score was right for this true box.
    """
    verdicts: Verdicts = np.full(count, WRONG, dtype=np.int8)
    order = np.lexsort((pairs.true, -pairs.share, pairs.found))
    found, first = np.unique(pairs.found[order], return_index=True)
    true, share = pairs.true[order][first], pairs.share[order][first]
    found, true = found[share >= VOC_OVERLAP], true[share >= VOC_OVERLAP]
    verdicts[found[difficult[true]]] = IGNORED
    found, true = found[~difficult[true]], true[~difficult[true]]
    verdicts[found[np.unique(true, return_index=True)[1]]] = RIGHT
    return verdicts


def coco_verdicts(found: Boxes, pairs: Overlaps, ignored: NDArray[np.bool_]) -> Verdicts:
    """Return the verdicts of COCO at each of ``COCO_OVERLAPS``: (10, M).

    Args:
        found: sorted by falling score.
        pairs: of found and true boxes.
        ignored: which true boxes are treated as COCO treats those out of the range of areas.

    Each detected box in turn takes one of the true boxes that it overlaps enough and that are not taken yet: the one
    that it overlaps most, the last of these if there are several. It takes an ignored box only if there is no other.
    """
    verdicts: Verdicts = np.full((len(COCO_OVERLAPS), len(found.labels)), WRONG, dtype=np.int8)
    taken = np.zeros((len(COCO_OVERLAPS), len(ignored)), dtype=bool)
    # For each box the number of earlier boxes of its image and class.
    order = np.lexsort((np.arange(len(found.labels)), found.labels, found.images))
    key = np.stack([found.images[order], found.labels[order]])
    begins = np.flatnonzero(np.append(True, (np.diff(key) != 0).any(0))[: key.shape[1]])
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order)) - np.repeat(begins, np.diff(np.append(begins, len(order))))
    counted = places < COCO_MOST
    verdicts[:, ~counted] = IGNORED
    near = (pairs.share >= COCO_OVERLAPS[0]) & counted[pairs.found]
    found_index, true_index, shares = pairs.found[near], pairs.true[near], pairs.share[near]
    boxes, starts = np.unique(found_index, return_index=True)
    for box, start, end in zip(boxes, starts, np.append(starts, len(found_index))[1:], strict=True):
        true, share = true_index[start:end], shares[start:end]
        free = (share >= COCO_OVERLAPS[:, None]) & ~taken[:, true]
        for skipped, verdict in ((ignored[true], RIGHT), (~ignored[true], IGNORED)):
            candidates = np.where(free & ~skipped, share, 0)
            last = len(true) - 1 - candidates[:, ::-1].argmax(1)
            levels = np.flatnonzero(candidates.max(1) > 0)
            verdicts[levels, box] = verdict
            taken[levels, true[last[levels]]] = True
            free[levels] = False
    return verdicts


class PrecisionRecallCurve:
    """Found boxes of one class, sorted by falling score, without those that are ignored.

    Args:
        images: index of each box's image, (M,).
        right: which boxes are right, (M,).
        positives: the number of objects to be found in each image, (N,).

    The precision at a recall is the greatest precision at this recall or a higher one. So only the last box of each run
    of right boxes matters, and an image of weight 2 counts as if each of its boxes occurred twice in a row.
    """

    def __init__(self, images: NDArray[np.int64], right: NDArray[np.bool_], positives: NDArray[np.int64]) -> None:
        self._images, self._right, self._positives = images, right, positives
        ends = np.flatnonzero(right & ~np.append(right[1:], False)) + 1
        self._seen = stretch_sums(images, ends, len(positives))
        self._found = stretch_sums(images[right], np.cumsum(right, dtype=np.intp)[ends - 1], len(positives))

    def average_precision(self, weights: NDArray[Any], points: Points) -> Floats:
        """Return it for each column of weights, (N, R): (R,); nan where there is nothing to be found."""
        positives = self._positives.astype(np.float64) @ weights
        true_positives = np.cumsum(self._found @ weights, 0, dtype=np.float64)
        precision = true_positives / np.maximum(np.cumsum(self._seen @ weights, 0, dtype=np.float64), 1)
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        recall, levels = true_positives / np.where(positives > 0, positives, np.nan), LEVELS[points]
        reached = recall if levels is None else np.searchsorted(levels, recall, "right") / len(levels)
        area: Floats = (np.diff(reached, axis=0, prepend=0) * highest).sum(0)
        return np.where(positives > 0, area, np.nan)

    def beside(self, other: "PrecisionRecallCurve") -> "PrecisionRecallCurve":
        """Return both networks' boxes as those of 2N images, this network's first.

        They are sorted by their place in their own network's order, which has no units: both networks' first boxes,
        then the second ones.
        """
        count = len(self._positives)
        images = np.concatenate([self._images, other._images])
        places = np.concatenate([np.arange(len(self._images)), np.arange(len(other._images))])
        order = np.lexsort((images, places))
        images = np.concatenate([self._images, other._images + count])[order]
        right = np.concatenate([self._right, other._right])[order]
        return PrecisionRecallCurve(images, right, np.concatenate([self._positives, other._positives]))


class ObjectBoxes(Protocol):
    """The objects of an image."""

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(n, 4), xyxy in continuous pixel coordinates."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,)"""

    @property
    def difficult(self) -> NDArray[np.bool_]:
        """Which objects are neither positives nor errors when found, (n,)."""


@dataclass(frozen=True, eq=False)
class Truth:
    """The objects of all test images, one image after the other.

    Args:
        counts: the number of objects of each image, int64 (N,).
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

    def __post_init__(self) -> None:
        assert len(self.boxes) == len(self.labels) == len(self.difficult) == self.counts.sum()
        assert ((self.labels >= 0) & (self.labels < self.classes)).all(), "a class beyond the last"

    @cached_property
    def positives(self) -> NDArray[np.int64]:
        """The number of objects to be found, by image and class, (N, C)."""
        counts = np.zeros((len(self.counts), self.classes), dtype=np.int64)
        np.add.at(counts, (_images(self.counts)[~self.difficult], self.labels[~self.difficult]), 1)
        return counts


@dataclass(frozen=True, eq=False)
class Detections:
    """The boxes found in all test images, one image after the other.

    Args:
        counts: the number of boxes found in each image, int64 (N,).
        boxes: float32 (M, 4), xyxy in continuous pixel coordinates.
        scores: float32 (M,).
        labels: int64 (M,), below the truth's classes.
        truth: of the same images.

    Boxes of the same score keep the order of the images, and within an image the given one.
    """

    counts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    truth: Truth

    @classmethod
    def of(
        cls, found: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]], truth: Sequence[ObjectBoxes], classes: int = 20
    ) -> "Detections":
        """Return the detections of images; at least one image must have an object that is not difficult.

        Args:
            found: boxes (n, 4), scores (n,) and labels (n,) of each image.
            truth: the objects of each image.
            classes: C, above any label.
        """
        known = Truth(
            _counts([objects.labels for objects in truth]),
            _concatenate([objects.boxes for objects in truth], np.float32, (-1, 4)),
            _concatenate([objects.labels for objects in truth], np.int64),
            _concatenate([objects.difficult for objects in truth], np.bool_),
            classes,
        )
        assert known.positives.any(), "nothing is to be found"
        boxes, scores, labels = zip(*found, strict=True)
        return cls(
            _counts(labels),
            _concatenate(boxes, np.float32, (-1, 4)),
            _concatenate(scores, np.float32),
            _concatenate(labels, np.int64),
            known,
        )

    def __post_init__(self) -> None:
        assert len(self.counts) == len(self.truth.counts), "other images than those of the truth"
        assert len(self.boxes) == len(self.scores) == len(self.labels) == self.counts.sum()
        assert np.isfinite(self.boxes).all() and np.isfinite(self.scores).all(), "boxes and scores must be finite"
        assert (self.boxes[:, :2] <= self.boxes[:, 2:]).all(), "a box ends before it begins"
        assert ((self.labels >= 0) & (self.labels < self.truth.classes)).all(), "a class beyond the last"

    @cached_property
    def _found(self) -> Boxes:
        order = np.argsort(-self.scores, kind="stable")
        return Boxes(self.boxes[order], self.labels[order], _images(self.counts)[order])

    @cached_property
    def _verdicts(self) -> dict[bool, Verdicts]:
        """The verdicts by the devkit's rules, (1, M), and by COCO's, (10, M)."""
        found, truth = self._found, self.truth
        pairs = overlaps(found, Boxes(truth.boxes, truth.labels, _images(truth.counts)))
        voc = voc_verdicts(len(found.labels), pairs, truth.difficult)
        return {False: voc[None], True: coco_verdicts(found, pairs, truth.difficult)}

    def curves(self, points: Points) -> list[list[PrecisionRecallCurve]]:
        """Return the curves of each class: one, or for COCO one for each overlap."""
        found, positives = self._found, self.truth.positives
        verdicts = self._verdicts[points == "COCO"]
        curves = []
        for label in range(self.truth.classes):
            in_class = found.labels == label
            images = found.images[in_class]
            counted = [(verdict != IGNORED, verdict == RIGHT) for verdict in verdicts[:, in_class]]
            curves.append(
                [PrecisionRecallCurve(images[use], right[use], positives[:, label]) for use, right in counted]
            )
        return curves


@dataclass(frozen=True, eq=False)
class BoxAP(Weighted):
    """Average precision of found boxes, its mean over classes; of COCO also over overlaps.

    Args:
        detections: the boxes that were found; outcomes by several rules share them.
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
        """Number of objects of each class, without the difficult ones."""
        counts: NDArray[np.int64] = self.detections.truth.positives.sum(0)
        return counts

    @cached_property
    def _curves(self) -> list[list[PrecisionRecallCurve]]:
        return self.detections.curves(self.points)

    def classes_under(self, weights: NDArray[Any]) -> Floats:
        """Return the average precision of each class."""
        return _precisions(self._curves, weights, self.points)

    @classmethod
    def tested(cls, first: Sequence[Metric], second: Sequence[Metric]) -> Tested:
        """Test by swapping two networks' boxes of an image, in all pairs of networks or in none."""
        measures = [
            left.side_by_side(right)
            for left, right in pairs(first, second)
            if isinstance(left, BoxAP) and isinstance(right, BoxAP)
        ]
        return tested_by_swaps(measures, first[0].count)

    def side_by_side(self, other: "BoxAP") -> Measure:
        """Return the number as a function of weights (2N, R): of each image as this network saw it, then as the other.

        Boxes are sorted by their rank in their own network's order.
        """
        assert other.points == self.points
        both = [
            [curve.beside(other_curve) for curve, other_curve in zip(*curves, strict=True)]
            for curves in zip(self._curves, other._curves, strict=True)
        ]
        return lambda weights: mean_over_classes(_precisions(both, weights, self.points))


def detections_outcome(
    found: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]],
    truth: Sequence[ObjectBoxes],
    points: Points,
    classes: int = 20,
) -> BoxAP:
    """Return the outcome by one rule; see ``Detections.of``, whose result outcomes by several rules share."""
    return BoxAP(Detections.of(found, truth, classes), points)


def _precisions(curves: Sequence[Sequence[PrecisionRecallCurve]], weights: NDArray[Any], points: Points) -> Floats:
    """Return the average precision of each class: (C, R)."""
    return np.stack(
        [np.mean([curve.average_precision(weights, points) for curve in by_class], axis=0) for by_class in curves]
    )


def _images(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(counts)), counts)


def _counts(parts: Sequence[ArrayLike]) -> NDArray[np.int64]:
    return np.array([len(np.asarray(part)) for part in parts], dtype=np.int64)


def _concatenate(parts: Sequence[ArrayLike], kind: type[Any], shape: tuple[int, ...] = (-1,)) -> NDArray[Any]:
    return np.concatenate([np.asarray(part, dtype=kind).reshape(shape) for part in parts])
