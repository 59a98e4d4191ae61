"""A result: what one frozen network is worth by one protocol on one data set, as one JSON file.

It holds, besides the numbers, which test pictures were answered right (or how they were ranked), so every
number and interval can be computed again, and what the numbers depend on: see ``Result``.
"""

import base64
import binascii
import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
from numpy.typing import NDArray

from pretext.errors import UserError
from pretext.files import write_atomically
from transfer.intervals import Estimate, Metric
from transfer.outcomes import Outcome, Row, judged_row, seed_scores

__all__ = [
    "Cost",
    "Judged",
    "Mode",
    "Outcome",
    "Result",
    "Row",
    "code_digest",
    "evaluation",
    "find_results",
    "judged_row",
    "read_result",
    "require_comparable",
    "write_result",
]

Mode = Literal["cached", "augmented"]

FORMAT = "pretint result 1"
_LARGEST = 2**30  # bytes of a file, and of what one part of it unpacks to


@dataclass(frozen=True)
class Judged:
    """The network that was judged; the words are those of ``transfer.networks.Network``."""

    name: str
    group: str
    """What it has in common with the same network at other seeds."""
    kind: str
    """random, pretrained, supervised or published."""
    seed: int
    step: int
    backbone: str
    weights: str
    """SHA-256 of its weights."""


@dataclass(frozen=True)
class Cost:
    """What it took."""

    seconds: float
    extraction_seconds: float
    """Of them, in the network: in this call and in the earlier ones that filled the cache."""
    pictures_per_second: float
    peak_bytes: int
    cache_bytes: int
    device: str


@dataclass(frozen=True)
class Result:
    """One network by one protocol, in one mode, on one data set; a row per stage and variant."""

    network: Judged
    protocol: str
    about: str
    """The protocol in a sentence."""
    settings: dict[str, Any]
    """The protocol's; plain values."""
    mode: Mode
    metric: Metric
    train: str
    test: str
    train_digest: str
    """Over the pictures' names and labels, and the pixels of some of them: see ``transfer.targets``."""
    test_digest: str
    classes: tuple[str, ...]
    n_fit: int
    n_holdout: int
    n_train: int
    n_test: int
    """Test pictures that could be read: N of every outcome."""
    fraction: float
    """Of the training pictures whose labels were used."""
    split: str
    split_sha256: str
    view_size: int
    view_ratio: float
    precision: str
    storage: str
    """Of the kept features: float16 or float32."""
    seed: int
    """Of the evaluation."""
    rows: tuple[Row, ...]
    cost: Cost
    code: str
    """SHA-256 of the code: see ``code_digest``."""
    versions: dict[str, str]
    skipped: tuple[tuple[str, str], ...]
    """Key and reason of the pictures that could not be read."""
    interval: str
    """What the intervals are."""
    file: str = field(default="", compare=False)
    """Where it was read from."""

    @property
    def best(self) -> str | None:
        """Name of the row that did best on the held-out part; None where that chooses nothing.

        Low-shot rows are given other pictures each: none of them is the best.
        """
        chosen = [row for row in self.rows if row.holdout is not None]
        if not chosen or any(len(row.outcomes) > 1 for row in self.rows):
            return None
        return max(chosen, key=lambda row: row.holdout or 0.0).name

    def row(self, name: str) -> Row:
        """The row of a name."""
        return next(row for row in self.rows if row.name == name)


def evaluation(result: Result) -> list[tuple[str, Any]]:
    """What must be equal for two results to stand in one table, by name; plain values."""
    return [
        ("protocol", result.protocol),
        ("protocol settings", json.dumps(result.settings, sort_keys=True)),
        ("metric", result.metric),
        ("test data", result.test_digest),
        ("training data", result.train_digest),
        ("share of the labels", result.fraction),
        ("test pictures", result.n_test),
        ("training pictures", result.n_train),
        ("classes", list(result.classes)),
        ("part of a picture that is seen", result.view_ratio),
        ("unreadable pictures", sorted(key for key, _ in result.skipped)),
    ]


def require_comparable(results: Sequence[Result]) -> None:
    """Refuse to put numbers of different meaning side by side.

    Raises:
        UserError: not all have the same protocol, data and metric; it names the first difference.
    """
    for other in results[1:]:
        for (name, first), (_, second) in zip(evaluation(results[0]), evaluation(other), strict=True):
            if first != second:
                shown = [
                    {
                        "test data": f"{r.test} ({r.test_digest[:8]})",
                        "training data": f"{r.train} ({r.train_digest[:8]})",
                    }
                    for r in (results[0], other)
                ]
                was, now = (one.get(name, _short(value)) for one, value in zip(shown, (first, second), strict=True))
                raise UserError(
                    f"{_where(other)} cannot be compared with {_where(results[0])}: other {name}: "
                    f"{now} instead of {was}; evaluate both in the same way"
                )


@cache
def code_digest(*parts: str) -> str:
    """SHA-256 over names and bytes of the Python files that judge: packages pretext and transfer, or parts of them."""
    root, digest = Path(__file__).parent.parent, hashlib.sha256()
    places = [root / part for part in parts or ("pretext", "transfer")]
    for path in sorted(path for place in places for path in (place.rglob("*.py") if place.is_dir() else [place])):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def write_result(path: Path, result: Result) -> None:
    """Write a result's file, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    truth = result.rows[0].outcomes[0].truth
    found = {
        "format": FORMAT,
        **{f.name: getattr(result, f.name) for f in fields(Result) if f.name not in ("rows", "file")},
        "network": asdict(result.network),
        "cost": asdict(result.cost),
        "best": result.best,
        "rows": [
            {f.name: getattr(row, f.name) for f in fields(Row) if f.name not in ("outcomes", "score")}
            | {"score": row.score._asdict(), "spread": row.spread}
            for row in result.rows
        ],
        # Last, so that a reader meets the numbers first.
        "truth": None if truth is None else _packed(truth),
        "answers": [[_answers(outcome) for outcome in row.outcomes] for row in result.rows],
    }
    write_atomically(path, json.dumps(found, indent=1, allow_nan=False).encode())


def read_result(path: Path) -> Result:
    """A result's file, checked: also that each number is that of its answers (its interval is taken as it stands).

    Raises:
        UserError: it cannot be read, is no result, or a damaged one.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("too large")
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        return _result(found, str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, zlib.error) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path}: no result, or a damaged one ({reason}); make it again or move it away") from error


def find_results(paths: Sequence[Path]) -> list[Result]:
    """The results of files, runs and folders, each once.

    Args:
        paths: a result's file; a run, whose ``results`` folder is read; a folder of result files; a folder of runs.

    Raises:
        UserError: there is none at one of them, or one cannot be read.
    """
    files: dict[Path, Path] = {}
    for path in paths:
        here = [path] if path.is_file() else []
        for pattern in ("results/*.json", "*.json", "*/results/*.json"):
            here = here or sorted(path.glob(pattern))
        if not here:
            missing = "no results there; make one with pretint probe, knn or svm" if path.exists() else "does not exist"
            raise UserError(f"{path}: {missing}")
        files |= {one.resolve(): one for one in here if one.resolve() not in files}
    return [read_result(path) for path in files.values()]


def _result(found: dict[str, Any], file: str) -> Result:
    plain = _plain(Result, found)
    classes, skipped = _texts(found["classes"]), tuple(_pair(entry) for entry in found["skipped"])
    if plain["metric"] not in ("top-1", "mAP") or plain["mode"] not in ("cached", "augmented"):
        raise ValueError("unknown metric or mode")
    if min(plain["n_test"], len(classes), plain["view_size"]) < 1:
        raise ValueError("no test pictures, no classes or no view")
    shape = (plain["n_test"], len(classes))
    truth = None if found["truth"] is None else _unpacked(found["truth"], "<i1", shape).astype(np.int8)
    if (plain["metric"] == "mAP") != (truth is not None):
        raise ValueError("truth goes with mAP")
    if truth is not None and (not np.isin(truth, (-1, 0, 1)).all() or not (truth == 1).any()):
        raise ValueError("truth is -1, 0 or 1, and somewhere 1")
    rows = tuple(
        _row(row, tuple(_outcome(text, shape, truth) for text in answers))
        for row, answers in zip(_listed(found["rows"]), _listed(found["answers"]), strict=True)
    )
    if not rows or len({row.name for row in rows}) != len(rows):
        raise ValueError("no rows, or two of one name")
    result = Result(
        **plain,
        network=Judged(**_plain(Judged, found["network"])),
        cost=Cost(**_plain(Cost, found["cost"])),
        settings=_named(found["settings"]),
        versions={name: _text(value) for name, value in _named(found["versions"]).items()},
        classes=classes,
        skipped=skipped,
        rows=rows,
        file=file,
    )
    if found["best"] != result.best:
        raise ValueError("its best row is not the one that its held-out scores choose")
    return result


def _row(found: dict[str, Any], outcomes: tuple[Outcome, ...]) -> Row:
    holdout = None if found["holdout"] is None else _number(found["holdout"])
    if not outcomes:
        raise ValueError("a row without answers")
    score = Estimate(**{name: _number(found["score"][name]) for name in Estimate._fields})
    value = seed_scores([outcomes])[0]
    if not math.isclose(value, score.value, abs_tol=1e-9) or not score.low <= score.high:
        raise ValueError(f"its number {score.value} is not that of its answers, {value}")
    chosen = _named(found["chosen"])
    return Row(**_plain(Row, found), chosen=chosen, holdout=holdout, outcomes=outcomes, score=score)


def _outcome(text: str, shape: tuple[int, int], truth: NDArray[np.int8] | None) -> Outcome:
    if truth is not None:
        return Outcome(scores=_unpacked(text, "<u4", shape).astype(np.float32), truth=truth)
    packed = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    if len(packed) != -(-shape[0] // 8):
        raise ValueError("answers of another number of pictures")
    return Outcome(correct=np.unpackbits(packed, count=shape[0]).astype(np.bool_))


def _answers(outcome: Outcome) -> str:
    if outcome.correct is not None:
        return base64.b64encode(np.packbits(outcome.correct).tobytes()).decode()
    assert outcome.scores is not None
    ranks = [np.unique(column, return_inverse=True)[1] for column in outcome.scores.T]
    return _packed(np.column_stack(ranks).astype("<u4"))


def _packed(values: NDArray[Any]) -> str:
    """Class by class, first all low bytes, then the next ...: so the high ones, which are alike, take no room."""
    planes = np.ascontiguousarray(values.T).view(np.uint8).reshape(-1, values.dtype.itemsize).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode()


def _unpacked(text: str, kind: str, shape: tuple[int, int]) -> NDArray[Any]:
    size = np.dtype(kind).itemsize
    wanted = shape[0] * shape[1] * size
    if wanted > _LARGEST:
        raise ValueError("too many answers")
    try:
        content = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), wanted + 1)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error
    if len(content) != wanted:
        raise ValueError("answers of another number of pictures or classes")
    planes = np.frombuffer(content, np.uint8).reshape(size, -1)
    return np.ascontiguousarray(planes.T).view(kind).reshape(shape[1], shape[0]).T


def _plain(kind: type, found: Any) -> dict[str, Any]:
    """The fields that are a single text or number, of the right type."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, hint in hints.items():
        if name == "file":
            continue
        if hint in (str, Mode, Metric):
            values[name] = _text(found[name])
        elif hint is int:
            values[name] = int(_number(found[name]))
            if type(found[name]) is not int or not 0 <= found[name] < 2**63:
                raise ValueError(f"{name} is {_short(found[name])}")
        elif hint is float:
            values[name] = _number(found[name])
    return values


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_short(value)} where text is expected")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(one) for one in _listed(value))


def _pair(value: Any) -> tuple[str, str]:
    key, reason = _texts(value)
    return key, reason


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{_short(value)} where a list is expected")
    return value


def _named(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{_short(value)} where names with values are expected")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{_short(value)} where a number is expected")
    return float(value)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _where(result: Result) -> str:
    return result.file or result.network.name
