"""The outcomes of test images as text in a result's file, and the checks of all values when the file is read.

Answers are stored bit by bit; ranks, confusion matrices, and predicted and true boxes as compressed arrays.
"""

import base64
import binascii
import math
import zlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from transfer.bootstrap import MetricName
from transfer.metrics import AveragePrecision, BoxAP, Detections, MeanIoU, Metric, Points, Top1Accuracy
from transfer.metrics.box_ap import Truth

LARGEST = 2**30  # bytes of a file, and of what one part of it unpacks to

Outcomes = Sequence[Sequence[Metric]]
"""The outcomes of every row."""


class ResultFacts(NamedTuple):
    """Facts from the rest of a file that its outcomes must match."""

    metric: MetricName
    images: int
    classes: int


def pack_outcomes(rows: Outcomes) -> dict[str, Any]:
    """Return fields of a file: the truth, which all rows share; boxes that several outcomes share; and all outcomes.

    Detections are stored once for all outcomes that share them.
    """
    first = rows[0][0]
    if not isinstance(first, BoxAP):
        truth = pack_array(first.truth) if isinstance(first, AveragePrecision) else None
        return {"truth": truth, "answers": [[_pack_outcome(outcome) for outcome in row] for row in rows]}
    outcomes = [[outcome for outcome in row if isinstance(outcome, BoxAP)] for row in rows]
    detections = list({id(outcome.detections): outcome.detections for row in outcomes for outcome in row}.values())
    place = {id(boxes): index for index, boxes in enumerate(detections)}
    objects = detections[0].truth
    return {
        "truth": _pack_boxes(objects) | {"difficult": pack_array(objects.difficult[:, None].astype("<u1"))},
        "found": [
            _pack_boxes(boxes) | {"scores": pack_array(boxes.scores[:, None].astype("<f4"))} for boxes in detections
        ],
        "answers": [
            [{"found": place[id(outcome.detections)], "points": outcome.points} for outcome in row] for row in outcomes
        ],
    }


def unpack_outcomes(content: dict[str, Any], facts: ResultFacts) -> list[tuple[Metric, ...]]:
    """Return the outcomes of every row of a file.

    Raises:
        ValueError, KeyError: it is damaged.
    """
    answers = [require_list(row) for row in require_list(content["answers"])]
    if facts.metric == "AP":
        return _unpack_detections(content, answers, facts)
    shape = facts.images, facts.classes
    truth = None
    if content["truth"] is not None:
        truth = unpack_array(require_text(content["truth"]), "<i1", shape).astype(np.int8)
    if (facts.metric == "mAP") != (truth is not None):
        raise ValueError("truth is stored only for mAP")
    if truth is not None and (not np.isin(truth, (-1, 0, 1)).all() or not (truth == 1).any()):
        raise ValueError("truth must be -1, 0 or 1, and 1 at least once")
    return [tuple(_unpack_outcome(require_text(text), facts, truth) for text in row) for row in answers]


def pack_array(values: NDArray[Any]) -> str:
    """Return (N, C) as text, class by class, first all low bytes, then the next ...

    So the high bytes, which are similar, compress well.
    """
    planes = np.ascontiguousarray(values.T).view(np.uint8).reshape(-1, values.dtype.itemsize).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode()


def unpack_array(text: str, kind: str, shape: tuple[int, int]) -> NDArray[Any]:
    """Return the array that ``pack_array`` was given, of a little-endian kind and (N, C).

    Raises:
        ValueError, zlib.error: the text holds something else.
    """
    size = np.dtype(kind).itemsize
    wanted = shape[0] * shape[1] * size
    if wanted > LARGEST:
        raise ValueError("too many answers")
    try:
        content = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), wanted + 1)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error
    if len(content) != wanted:
        raise ValueError("answers for another number of images or classes")
    planes = np.frombuffer(content, np.uint8).reshape(size, -1)
    return np.ascontiguousarray(planes.T).view(kind).reshape(shape[1], shape[0]).T


def _pack_outcome(outcome: Metric) -> str:
    if isinstance(outcome, Top1Accuracy):
        return base64.b64encode(np.packbits(outcome.correct).tobytes()).decode()
    if isinstance(outcome, MeanIoU):
        assert outcome.confusions.max() < 2**32, "more pixels than an image has"
        return pack_array(outcome.confusions.reshape(outcome.count, -1).astype("<u4"))
    assert isinstance(outcome, AveragePrecision)
    ranks = [np.unique(column, return_inverse=True)[1] for column in outcome.scores.T]
    return pack_array(np.column_stack(ranks).astype("<u4"))


def _unpack_outcome(text: str, facts: ResultFacts, truth: NDArray[np.int8] | None) -> Metric:
    count, classes = facts.images, facts.classes
    if truth is not None:
        return AveragePrecision(unpack_array(text, "<u4", (count, classes)).astype(np.float32), truth)
    if facts.metric == "mIoU":
        confusions = unpack_array(text, "<u4", (count, classes**2)).astype(np.int64)
        if not confusions.any():
            raise ValueError("no pixel is counted")
        return MeanIoU(confusions.reshape(count, classes, classes))
    bits = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    if len(bits) != -(-count // 8):
        raise ValueError("answers of another number of images")
    return Top1Accuracy(np.unpackbits(bits, count=count).astype(np.bool_))


def _unpack_detections(
    content: dict[str, Any], answers: list[list[Any]], facts: ResultFacts
) -> list[tuple[Metric, ...]]:
    objects = require_dict(content["truth"])
    counts, boxes, labels = _unpack_boxes(objects, facts)
    difficult = unpack_array(require_text(objects["difficult"]), "<u1", (len(labels), 1))[:, 0]
    if (difficult > 1).any() or difficult.all():
        raise ValueError("difficult must be 0 or 1, and 0 at least once")
    truth = Truth(counts, boxes, labels, difficult.astype(np.bool_), facts.classes)
    detections = []
    for entry in map(require_dict, require_list(content["found"])):
        counts, boxes, labels = _unpack_boxes(entry, facts)
        scores = unpack_array(require_text(entry["scores"]), "<f4", (len(labels), 1))[:, 0].astype(np.float32)
        if not np.isfinite(scores).all():
            raise ValueError("a score is not a number")
        detections.append(Detections(counts, boxes, scores, labels, truth))
    outcomes: list[tuple[Metric, ...]] = []
    for row in answers:
        row_outcomes = []
        for answer in map(require_dict, row):
            index, points = answer["found"], answer["points"]
            if type(index) is not int or not 0 <= index < len(detections) or points not in get_args(Points):
                raise ValueError("answers by an unknown rule, or of boxes that are not there")
            row_outcomes.append(BoxAP(detections[index], points))
        outcomes.append(tuple(row_outcomes))
    return outcomes


def _pack_boxes(boxes: Truth | Detections) -> dict[str, str]:
    return {
        "counts": pack_array(boxes.counts[:, None].astype("<u4")),
        "boxes": pack_array(boxes.boxes.astype("<f4")),
        "labels": pack_array(boxes.labels[:, None].astype("<u2")),
    }


def _unpack_boxes(
    entry: dict[str, Any], facts: ResultFacts
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return the number of boxes of each image, the boxes, and their labels."""
    counts = unpack_array(require_text(entry["counts"]), "<u4", (facts.images, 1))[:, 0].astype(np.int64)
    total = int(counts.sum())
    boxes = unpack_array(require_text(entry["boxes"]), "<f4", (total, 4)).astype(np.float32)
    labels = unpack_array(require_text(entry["labels"]), "<u2", (total, 1))[:, 0].astype(np.int64)
    if not np.isfinite(boxes).all() or (boxes[:, :2] > boxes[:, 2:]).any() or (labels >= facts.classes).any():
        raise ValueError("a box is not valid, or has an unknown class")
    return counts, boxes, labels


def read_fields(kind: type, content: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that are a single text or number, of the right type, without ``file``."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, hint in hints.items():
        if name == "file":
            continue
        if hint is str:
            values[name] = require_text(content[name])
        elif get_origin(hint) is Literal:
            if content[name] not in get_args(hint):
                raise ValueError(f"unknown {name} {shorten(content[name])}")
            values[name] = content[name]
        elif hint is int:
            values[name] = int(require_number(content[name]))
            if type(content[name]) is not int or not 0 <= content[name] < 2**63:
                raise ValueError(f"{name} is {shorten(content[name])}")
        elif hint is float:
            values[name] = require_number(content[name])
    return values


def require_text(value: Any) -> str:
    """Return a text, or raise a ValueError, as the functions below do for other types."""
    if not isinstance(value, str):
        raise ValueError(f"{shorten(value)} where text is expected")
    return value


def require_texts(value: Any) -> tuple[str, ...]:
    """Return a list of texts."""
    return tuple(require_text(text) for text in require_list(value))


def require_pair(value: Any) -> tuple[str, str]:
    """Return two texts."""
    key, reason = require_texts(value)
    return key, reason


def require_list(value: Any) -> list[Any]:
    """Return a list, of anything."""
    if not isinstance(value, list):
        raise ValueError(f"{shorten(value)} where a list is expected")
    return value


def require_dict(value: Any) -> dict[str, Any]:
    """Return names with values, which may be anything."""
    if not isinstance(value, dict):
        raise ValueError(f"{shorten(value)} where names with values are expected")
    return value


def require_number(value: Any) -> float:
    """Return a finite number."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{shorten(value)} where a number is expected")
    return float(value)


def refuse_constant(name: str) -> float:
    """Refuse NaN and Infinity, which JSON does not have."""
    raise ValueError(f"{name} is not a number")


def shorten(value: Any) -> str:
    """Return a value in at most 60 letters."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
