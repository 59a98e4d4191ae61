"""Precision over recall of found boxes, under any weights of the images that they are in."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from transfer.bootstrap import Floats
from transfer.metrics.average_precision import stretch_sums

Points = Literal["11 points", "all points", "COCO"]
"""How average precision is read off: VOC2007's rule; VOC2010's and later; COCO's, which has overlaps of its own."""

LEVELS: dict[Points, Floats | None] = {
    "11 points": np.arange(11) / 10,
    "all points": None,
    "COCO": np.linspace(0, 1, 101),  # not k / 100, from which some differ in the last bit: COCO's own
}
"""Of recall, at which precision is read off; None: at every one."""


class Curve:
    """Found boxes of one class by falling score, those that are ignored left out.

    Args:
        images: index of the image of each, (M,).
        right: which are right, (M,).
        positives: of each image how many there are to be found, (N,).

    Precision at a recall is the greatest at any recall as high or higher. So only the last box of each stretch of
    right ones matters; and an image that counts twice counts as if its boxes stood there twice in a row.
    """

    def __init__(self, images: NDArray[np.int64], right: NDArray[np.bool_], positives: NDArray[np.int64]) -> None:
        self._images, self._right, self._positives = images, right, positives
        ends = np.flatnonzero(right & ~np.append(right[1:], False)) + 1
        self._seen = stretch_sums(images, ends, len(positives))
        self._found = stretch_sums(images[right], np.cumsum(right, dtype=np.intp)[ends - 1], len(positives))

    def average_precision(self, weights: NDArray[Any], points: Points) -> Floats:
        """Under each column of weights, (N, R): (R,); nan where there is nothing to be found."""
        positives = self._positives.astype(np.float64) @ weights
        found = np.cumsum(self._found @ weights, 0, dtype=np.float64)
        precision = found / np.maximum(np.cumsum(self._seen @ weights, 0, dtype=np.float64), 1)
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        recall, levels = found / np.where(positives > 0, positives, np.nan), LEVELS[points]
        reached = recall if levels is None else np.searchsorted(levels, recall, "right") / len(levels)
        area: Floats = (np.diff(reached, axis=0, prepend=0) * highest).sum(0)
        return np.where(positives > 0, area, np.nan)

    def beside(self, other: "Curve") -> "Curve":
        """Both networks' boxes as those of 2N images, this one's first.

        They stand by their place in their own network's order, which has no units: first both networks' first
        boxes, then the second ones.
        """
        count = len(self._positives)
        images = np.concatenate([self._images, other._images])
        places = np.concatenate([np.arange(len(self._images)), np.arange(len(other._images))])
        order = np.lexsort((images, places))
        images = np.concatenate([self._images, other._images + count])[order]
        right = np.concatenate([self._right, other._right])[order]
        return Curve(images, right, np.concatenate([self._positives, other._positives]))
