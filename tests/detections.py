"""Made-up detections, and average precision as the devkit's rules say it, box by box, and as pycocotools has it."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

ImageDetections = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


class Objects(NamedTuple):
    """The objects of an image."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]


def make_boxes(rng: np.random.Generator, count: int, side: int = 12) -> NDArray[np.float32]:
    """On a small grid, so that many overlap, and some equally much."""
    corners = rng.integers(0, side, (count, 2))
    return np.hstack([corners, corners + rng.integers(1, 7, (count, 2))]).astype(np.float32)


def make_images(
    rng: np.random.Generator, count: int, classes: int = 3, ties: bool = True, most: int = 5
) -> tuple[list[ImageDetections], list[Objects]]:
    """Images with any number of objects and of detected boxes: copies of objects, shifted ones, and others."""
    detections, truth = [], []
    for _ in range(count):
        n, extra = int(rng.integers(0, most)), int(rng.integers(0, most))
        known = Objects(make_boxes(rng, n), rng.integers(0, classes, n), rng.random(n) < 0.25)
        again = rng.integers(0, n, int(rng.integers(0, 2 * n))) if n else np.zeros(0, dtype=np.int64)
        moved = known.boxes[again] + np.float32(0.5) * rng.integers(-1, 2, (len(again), 4)).astype(np.float32)
        placed = np.concatenate([moved, make_boxes(rng, extra)])
        labels = np.concatenate([known.labels[again], rng.integers(0, classes, extra)])
        scores = rng.integers(0, 6, len(labels)) / 8 if ties else rng.random(len(labels))
        detections.append((placed, scores.astype(np.float32), labels))
        truth.append(known)
    return detections, truth


def devkit_ap(detections: Sequence[ImageDetections], truth: Sequence[Objects], label: int, eleven: bool) -> float:
    """Average precision of one class; nan where there is no object.

    Boxes of the same score in the order of the images.
    """
    listed = [
        (float(score), image, box)
        for image, (placed, scores, labels) in enumerate(detections)
        for box, score, of in zip(placed, scores, labels, strict=True)
        if of == label
    ]
    listed.sort(key=lambda entry: -entry[0])
    positives = sum(int(((objects.labels == label) & ~objects.difficult).sum()) for objects in truth)
    if not positives:
        return float("nan")
    met: set[tuple[int, int]] = set()
    right = wrong = 0
    recalls, precisions = [], []
    for _, image, box in listed:
        best, at = 0.0, -1
        for index, (true, of) in enumerate(zip(truth[image].boxes, truth[image].labels, strict=True)):
            if of == label and overlap(box, true) > best:
                best, at = overlap(box, true), index
        if best >= 0.5:
            if truth[image].difficult[at]:
                continue
            right, wrong = (right, wrong + 1) if (image, at) in met else (right + 1, wrong)
            met.add((image, at))
        else:
            wrong += 1
        recalls.append(right / positives)
        precisions.append(right / (right + wrong))
    if eleven:
        levels = [at / 10 for at in range(11)]
        return sum(max((p for r, p in zip(recalls, precisions, strict=True) if r >= t), default=0) for t in levels) / 11
    area, before = 0.0, 0.0
    for at, recall in enumerate(recalls):
        area += (recall - before) * max(precisions[at:])
        before = recall
    return area


def overlap(box: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Intersection over union, in whole pixels as the devkit counts them: from 1, both ends in the box."""
    (a, b, c, d), (e, f, g, h) = (corners.astype(float) + np.array([1, 1, 0, 0]) for corners in (box, other))
    width, height = min(c, g) - max(a, e) + 1, min(d, h) - max(b, f) + 1
    if width <= 0 or height <= 0:
        return 0.0
    area = (c - a + 1) * (d - b + 1) + (g - e + 1) * (h - f + 1) - width * height
    return float(width * height / area)


def coco_ap(detections: Sequence[ImageDetections], truth: Sequence[Objects], classes: int) -> NDArray[np.float64]:
    """Of each class pycocotools' average precision; nan where there is no object.

    Difficult objects have an area that is out of range: so it ignores them.
    """
    known: dict[str, Any] = {
        "images": [{"id": at} for at in range(len(truth))],
        "categories": [{"id": label} for label in range(classes)],
        "annotations": [
            {
                "image_id": image,
                "category_id": int(label),
                "bbox": [float(x) for x in (*box[:2], *(box[2:] - box[:2]))],
                "area": 1e11 if difficult else 1.0,
                "iscrowd": 0,
            }
            for image, objects in enumerate(truth)
            for box, label, difficult in zip(*objects, strict=True)
        ],
    }
    for at, each in enumerate(known["annotations"], 1):
        each["id"] = at
    listed = [
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": [float(x) for x in (*box[:2], *(box[2:] - box[:2]))],
            "score": float(score),
        }
        for image, boxes_of_image in enumerate(detections)
        for box, score, label in zip(*boxes_of_image, strict=True)
    ]
    if not listed:  # pycocotools takes no empty list
        has_objects = [
            any((~objects.difficult[objects.labels == label]).any() for objects in truth) for label in range(classes)
        ]
        return np.where(has_objects, 0.0, np.nan)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = known
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(listed), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][:, :, :, 0, 2]  # overlaps, recalls, classes; all areas; 100 boxes an image
    return np.where((precision < 0).all((0, 1)), np.nan, precision.mean((0, 1)))
