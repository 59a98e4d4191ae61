"""Which found boxes are right, by the rules of the PASCAL VOC devkit and by those of COCO.

Boxes are xyxy in continuous pixel coordinates. The devkit counts pixels from 1, with both ends in the box; there
xmin..xmax is [xmin - 1, xmax) here, so its "+ 1" in widths is in the coordinates already.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Verdicts = NDArray[np.int8]
"""Of found boxes: RIGHT, WRONG or IGNORED."""

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
    """Index of the image that each is in, (M,)."""


class Overlaps(NamedTuple):
    """Pairs of a found and a true box of one class in one image, that overlap."""

    found: NDArray[np.int64]
    """Index of the found box; rises."""
    true: NDArray[np.int64]
    """Index of the true box; rises within a found one."""
    share: NDArray[np.float64]
    """Intersection over union, above 0."""


def overlaps(found: Boxes, true: Boxes) -> Overlaps:
    """Every pair of a found and a true box of one class in one image that have area in common."""
    classes = 1 + max([0, *found.labels.tolist(), *true.labels.tolist()])
    keys, groups = (each.images * classes + each.labels for each in (found, true))
    order = np.argsort(groups, kind="stable")
    starts, ends = (np.searchsorted(groups[order], keys, side) for side in ("left", "right"))
    counts = ends - starts
    ones = np.repeat(np.arange(len(keys)), counts)
    twos = order[np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)]
    a, b = found.boxes[ones].astype(np.float64), true.boxes[twos].astype(np.float64)
    sides = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    common = sides.prod(1)
    met = common > 0
    union = _areas(a) + _areas(b) - common
    return Overlaps(ones[met], twos[met], common[met] / union[met])


def voc_verdicts(count: int, pairs: Overlaps, difficult: NDArray[np.bool_]) -> Verdicts:
    """The devkit's.

    Args:
        count: of found boxes; they stand by falling score.
        pairs: of them and the true ones.
        difficult: which true boxes are neither to be found nor wrong to find.

    A found box is held against the true box that it overlaps most, the first of these if there are several. It is
    right if they overlap by at least one half and no found box of a higher score was right there.
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
    """COCO's, at each of ``COCO_OVERLAPS``: (10, M).

    Args:
        found: by falling score.
        pairs: of them and the true ones.
        ignored: which true boxes are treated as COCO treats those out of the range of areas.

    In turn each found box takes, of the true boxes that it overlaps enough and that are not taken yet, the one
    that it overlaps most, the last of these if there are several; an ignored one only if there is no other.
    """
    verdicts: Verdicts = np.full((len(COCO_OVERLAPS), len(found.labels)), WRONG, dtype=np.int8)
    taken = np.zeros((len(COCO_OVERLAPS), len(ignored)), dtype=bool)
    kept = _places(found) < COCO_MOST
    verdicts[:, ~kept] = IGNORED
    near = (pairs.share >= COCO_OVERLAPS[0]) & kept[pairs.found]
    ones, twos, shares = pairs.found[near], pairs.true[near], pairs.share[near]
    each, starts = np.unique(ones, return_index=True)
    for one, start, end in zip(each, starts, np.append(starts, len(ones))[1:], strict=True):
        true, share = twos[start:end], shares[start:end]
        free = (share >= COCO_OVERLAPS[:, None]) & ~taken[:, true]
        for skipped, verdict in ((ignored[true], RIGHT), (~ignored[true], IGNORED)):
            candidates = np.where(free & ~skipped, share, 0)
            last = len(true) - 1 - candidates[:, ::-1].argmax(1)
            levels = np.flatnonzero(candidates.max(1) > 0)
            verdicts[levels, one] = verdict
            taken[levels, true[last[levels]]] = True
            free[levels] = False
    return verdicts


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return result


def _places(found: Boxes) -> NDArray[np.int64]:
    """Of each box how many of its image and class stand before it."""
    order = np.lexsort((np.arange(len(found.labels)), found.labels, found.images))
    key = np.stack([found.images[order], found.labels[order]])
    begins = np.flatnonzero(np.append(True, (np.diff(key) != 0).any(0))[: key.shape[1]])
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order)) - np.repeat(begins, np.diff(np.append(begins, len(order))))
    return places
