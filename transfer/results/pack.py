"""What a file keeps of the test images, as text: answers bit by bit, ranks, confusions, found and true boxes."""

import base64
import binascii
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from transfer.bootstrap import Metric
from transfer.metrics import Answers, Detected, Detections, Outcome, Points, Ranked, Segmented
from transfer.metrics.box_ap import Truth
from transfer.results.plain import listed, named, text

LARGEST = 2**30  # bytes of a file, and of what one part of it unpacks to

Outcomes = Sequence[Sequence[Outcome]]
"""Of every row."""


class Told(NamedTuple):
    """What the rest of a file says of its answers."""

    metric: Metric
    images: int
    classes: int


def packed_outcomes(rows: Outcomes) -> dict[str, Any]:
    """Fields of a file: the truth, which all rows share; boxes that several outcomes share, if any; the answers."""
    first = rows[0][0]
    if isinstance(first, Detected):
        return _packed_detections(rows)
    truth = packed(first.truth) if isinstance(first, Ranked) else None
    return {"truth": truth, "answers": [[_packed_outcome(outcome) for outcome in row] for row in rows]}


def unpacked_outcomes(found: dict[str, Any], told: Told) -> list[tuple[Outcome, ...]]:
    """The outcomes of every row of a file.

    Raises:
        ValueError, KeyError: it is damaged.
    """
    answers = [listed(row) for row in listed(found["answers"])]
    if told.metric == "AP":
        return _unpacked_detections(found, answers, told)
    shape = told.images, told.classes
    truth = None if found["truth"] is None else unpacked(text(found["truth"]), "<i1", shape).astype(np.int8)
    if (told.metric == "mAP") != (truth is not None):
        raise ValueError("truth goes with mAP")
    if truth is not None and (not np.isin(truth, (-1, 0, 1)).all() or not (truth == 1).any()):
        raise ValueError("truth is -1, 0 or 1, and somewhere 1")
    return [tuple(_unpacked_outcome(text(one), told, truth) for one in row) for row in answers]


def packed(values: NDArray[Any]) -> str:
    """Of (N, C) class by class, first all low bytes, then the next ...: so the high ones, which are alike, take no
    room."""
    planes = np.ascontiguousarray(values.T).view(np.uint8).reshape(-1, values.dtype.itemsize).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode()


def unpacked(content: str, kind: str, shape: tuple[int, int]) -> NDArray[Any]:
    """What ``packed`` was given, of a little-endian kind and (N, C).

    Raises:
        ValueError, zlib.error: it is something else.
    """
    size = np.dtype(kind).itemsize
    wanted = shape[0] * shape[1] * size
    if wanted > LARGEST:
        raise ValueError("too many answers")
    try:
        found = zlib.decompressobj().decompress(base64.b64decode(content, validate=True), wanted + 1)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error
    if len(found) != wanted:
        raise ValueError("answers of another number of images or classes")
    planes = np.frombuffer(found, np.uint8).reshape(size, -1)
    return np.ascontiguousarray(planes.T).view(kind).reshape(shape[1], shape[0]).T


def _packed_outcome(outcome: Outcome) -> str:
    if isinstance(outcome, Answers):
        return base64.b64encode(np.packbits(outcome.correct).tobytes()).decode()
    if isinstance(outcome, Segmented):
        assert outcome.confusions.max() < 2**32, "more pixels than an image has"
        return packed(outcome.confusions.reshape(outcome.count, -1).astype("<u4"))
    assert isinstance(outcome, Ranked)
    ranks = [np.unique(column, return_inverse=True)[1] for column in outcome.scores.T]
    return packed(np.column_stack(ranks).astype("<u4"))


def _unpacked_outcome(content: str, told: Told, truth: NDArray[np.int8] | None) -> Outcome:
    count, classes = told.images, told.classes
    if truth is not None:
        return Ranked(unpacked(content, "<u4", (count, classes)).astype(np.float32), truth)
    if told.metric == "mIoU":
        confusions = unpacked(content, "<u4", (count, classes**2)).astype(np.int64)
        if not confusions.any():
            raise ValueError("no pixel is counted")
        return Segmented(confusions.reshape(count, classes, classes))
    bits = np.frombuffer(base64.b64decode(content, validate=True), np.uint8)
    if len(bits) != -(-count // 8):
        raise ValueError("answers of another number of images")
    return Answers(np.unpackbits(bits, count=count).astype(np.bool_))


def _packed_detections(rows: Outcomes) -> dict[str, Any]:
    """What was found is kept once for all outcomes that share it."""
    outcomes = [[one for one in row if isinstance(one, Detected)] for row in rows]
    kept = list({id(one.detections): one.detections for row in outcomes for one in row}.values())
    place = {id(detections): at for at, detections in enumerate(kept)}
    truth = kept[0].truth
    return {
        "truth": _packed_boxes(truth) | {"difficult": packed(truth.difficult[:, None].astype("<u1"))},
        "found": [_packed_boxes(one) | {"scores": packed(one.scores[:, None].astype("<f4"))} for one in kept],
        "answers": [[{"found": place[id(one.detections)], "points": one.points} for one in row] for row in outcomes],
    }


def _unpacked_detections(found: dict[str, Any], answers: list[list[Any]], told: Told) -> list[tuple[Outcome, ...]]:
    known = named(found["truth"])
    counts, boxes, labels = _unpacked_boxes(known, told)
    difficult = unpacked(text(known["difficult"]), "<u1", (len(labels), 1))[:, 0]
    if (difficult > 1).any() or difficult.all():
        raise ValueError("an object is difficult or not, and some are not")
    truth = Truth(counts, boxes, labels, difficult.astype(np.bool_), told.classes)
    kept = []
    for each in map(named, listed(found["found"])):
        counts, boxes, labels = _unpacked_boxes(each, told)
        scores = unpacked(text(each["scores"]), "<f4", (len(labels), 1))[:, 0].astype(np.float32)
        if not np.isfinite(scores).all():
            raise ValueError("a score that is no number")
        kept.append(Detections(counts, boxes, scores, labels, truth))

    def outcome(answer: dict[str, Any]) -> Outcome:
        at, points = answer["found"], answer["points"]
        if type(at) is not int or not 0 <= at < len(kept) or points not in get_args(Points):
            raise ValueError("answers by an unknown rule, or of boxes that are not there")
        return Detected(kept[at], points)

    return [tuple(outcome(named(answer)) for answer in row) for row in answers]


def _packed_boxes(some: Truth | Detections) -> dict[str, str]:
    return {
        "counts": packed(some.counts[:, None].astype("<u4")),
        "boxes": packed(some.boxes.astype("<f4")),
        "labels": packed(some.labels[:, None].astype("<u2")),
    }


def _unpacked_boxes(
    found: dict[str, Any], told: Told
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """How many each image has, boxes, labels."""
    counts = unpacked(text(found["counts"]), "<u4", (told.images, 1))[:, 0].astype(np.int64)
    total = int(counts.sum())
    boxes = unpacked(text(found["boxes"]), "<f4", (total, 4)).astype(np.float32)
    labels = unpacked(text(found["labels"]), "<u2", (total, 1))[:, 0].astype(np.int64)
    if not np.isfinite(boxes).all() or (boxes[:, :2] > boxes[:, 2:]).any() or (labels >= told.classes).any():
        raise ValueError("a box that is none, or of an unknown class")
    return counts, boxes, labels
