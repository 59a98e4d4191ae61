"""Values of our files as JSON and back: outcomes of test images as compressed arrays, other values by their types."""

import base64
import json
import math
import types
import zlib
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from pretext.errors import UserError, check_format
from pretext.store import unseal
from transfer.metrics import AveragePrecision, BoxAP, Detections, MeanIoU, Metric, Top1Accuracy
from transfer.metrics.box_ap import Truth

LARGEST = 2**30
"""The largest size of a file, and of what it unpacks to, in bytes."""

_CLASSES = {kind.__name__: kind for kind in (AveragePrecision, BoxAP, Detections, MeanIoU, Top1Accuracy, Truth)}
_KINDS = ("|b1", "|i1", "<f4", "<i8")

Content = TypeVar("Content")


def read_sealed(path: Path, file_format: str, title: str, parse: Callable[[dict[str, Any]], Content]) -> Content:
    """Read a sealed record from a file, which may come from another person: no code is run.

    Args:
        path: the file.
        file_format: its field "format" must be equal.
        title: what it holds, for messages: "a result".
        parse: makes something of the other fields. Any exception means that they are not sound, as a valid digest
            does not tell who wrote the file.

    Raises:
        UserError: the file cannot be read, holds something else, or is damaged.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("too large")
        data = path.read_bytes()
        check_format(path, json.loads(data)["format"], file_format)
        content = unseal(data)
        if content.pop("format") != file_format:
            raise ValueError(f"its format is not {file_format!r}")
        return parse(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path}: not {title}, or damaged ({reason}); make it again or move it away") from error


def pack_outcomes(rows: Sequence[Sequence[Metric]]) -> dict[str, Any]:
    """Return the outcomes of every row as plain values.

    Returns:
        objects: arrays, texts and numbers, and after them what consists of them: a class, and by the name of each
            field the place of its value in this list. Equal ones are one, such as the truth of all rows.
        outcomes: for each row the places of its outcomes.
    """
    places: dict[str, int] = {}

    def place(value: Any) -> int:
        if isinstance(value, AveragePrecision):  # it depends on ranks only, which are the same on all machines
            ranks = [np.unique(column, return_inverse=True)[1] for column in value.scores.T]
            value = AveragePrecision(np.column_stack(ranks).astype(np.float32), value.truth)
        if isinstance(value, np.ndarray):
            value = pack_array(value)
        elif is_dataclass(value):
            parts = {f.name: place(getattr(value, f.name)) for f in fields(value)}
            value = {"class": type(value).__name__, **parts}
        return places.setdefault(json.dumps(value), len(places))

    outcomes = [[place(outcome) for outcome in row] for row in rows]
    return {"outcomes": outcomes, "objects": [json.loads(value) for value in places]}


def unpack_outcomes(objects: Sequence[Any], outcomes: Sequence[Sequence[int]], classes: int) -> list[list[Any]]:
    """Return what ``pack_outcomes`` was given; any exception means that the content is not sound.

    Args:
        objects: as ``pack_outcomes`` returned them.
        outcomes: the same.
        classes: the number of classes; objects hold no other number.
    """
    if sum(_array_size(entry) for entry in objects if isinstance(entry, dict) and "data" in entry) > LARGEST:
        raise ValueError("too large")
    made: list[Any] = []
    for entry in objects:
        if isinstance(entry, int) and entry != classes:
            raise ValueError(f"{entry} classes instead of {classes}")
        if isinstance(entry, dict) and "data" in entry:
            entry = unpack_array(entry)
        elif isinstance(entry, dict):
            entry = _CLASSES[entry["class"]](**{name: made[at] for name, at in entry.items() if name != "class"})
        made.append(entry)
    return [[made[at] for at in row] for row in outcomes]


def pack_array(values: NDArray[Any]) -> dict[str, Any]:
    """Return an array as plain values: its bytes compressed, first all low ones, then the next ones, ...

    So the high bytes, which are similar, compress well.
    """
    values = values.astype(values.dtype.newbyteorder("<"), order="C")
    planes = values.reshape(-1).view(np.uint8).reshape(-1, values.itemsize).T
    data = base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode()
    return {"kind": values.dtype.str, "shape": list(values.shape), "data": data}


def unpack_array(entry: dict[str, Any]) -> NDArray[Any]:
    """Return the array that ``pack_array`` was given.

    Raises:
        ValueError, KeyError, TypeError, zlib.error: the content is not sound.
    """
    size = _array_size(entry)
    content = zlib.decompressobj().decompress(base64.b64decode(entry["data"], validate=True), size + 1)
    if len(content) != size:
        raise ValueError("an array of another size")
    planes = np.frombuffer(content, np.uint8).reshape(np.dtype(entry["kind"]).itemsize, -1)
    values: NDArray[Any] = np.ascontiguousarray(planes.T).view(entry["kind"]).reshape(entry["shape"])
    return values


def _array_size(entry: dict[str, Any]) -> int:
    """Return the size in bytes, at most LARGEST, of an array of a known kind."""
    if entry["kind"] not in _KINDS:
        raise ValueError(f"an array of {shorten(entry['kind'])}")
    size: int = math.prod(entry["shape"]) * np.dtype(entry["kind"]).itemsize
    if not 0 <= size <= LARGEST or min(entry["shape"], default=0) < 0:
        raise ValueError(f"an array of shape {shorten(entry['shape'])}")
    return size


def from_plain(kind: Any, value: Any) -> Any:
    """Return plain values as their type says: a dataclass, a named tuple, a tuple, names with values, a number, a text.

    Raises:
        ValueError, TypeError, KeyError: the values are not of this type; numbers must be finite, and whole ones must
            lie in [0, 2^63).
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or (origin is Literal and value in arguments):
        return value
    if origin is types.UnionType:  # only X | None occurs
        return None if value is None else from_plain(arguments[0], value)
    if origin is dict and isinstance(value, dict):
        return {from_plain(arguments[0], key): from_plain(arguments[1], inner) for key, inner in value.items()}
    if origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return tuple(from_plain(inner, part) for inner, part in zip(kinds, value, strict=True))
    if isinstance(value, dict) and (is_dataclass(kind) or hasattr(kind, "_fields")):
        hints = get_type_hints(kind)
        return kind(**{name: from_plain(hints[name], part) for name, part in value.items()})
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind is int and type(value) is int and 0 <= value < 2**63:
        return value
    if kind not in (int, float) and isinstance(kind, type) and isinstance(value, kind):
        return value
    raise ValueError(f"{shorten(value)} is not what belongs there")


def shorten(value: Any) -> str:
    """Return a value in at most 60 letters."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
