"""A result: one network, evaluated by one protocol on one data set, as one JSON file that is checked when it is read.

Besides the numbers it holds the outcome of every test image: whether the answer was right, its rank, or the predicted
boxes or pixels. So every number and interval can be computed again. It also holds all that the numbers depend on.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pretext.data.patterns import is_pattern, match_paths
from pretext.engine.progress import say
from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.plugins import plugin_contents
from pretext.store import seal
from transfer.bootstrap import MetricName
from transfer.metrics import Row, Weighted, seed_scores
from transfer.result_format import from_plain, pack_outcomes, read_sealed, shorten, unpack_outcomes

FORMAT = "pretint result 3"
PREFIX = "rescaled:"
"""The prefix on the command line of a network that is rescaled to the training images first."""
RESCALED = "rescaled "
"""The prefix of the names of such networks in results."""

Mode = Literal["cached", "augmented", "fine-tuned"]
"""Classifiers on cached features, or on fresh crops; or a network that was trained further."""


@dataclass(frozen=True)
class ModelInfo:
    """The network of a result; it has some of the fields of ``transfer.networks.Network``."""

    name: str
    group: str
    """Equal for the same network at other seeds."""
    kind: str
    """random, pretrained, supervised or published."""
    seed: int
    step: int
    backbone: str
    weights: str
    """SHA-256 of its weights."""

    @property
    def rescaled(self) -> bool:
        """Whether it was rescaled before it was fine-tuned, and so differs from the network of its name."""
        return self.name.startswith(RESCALED)


@dataclass(frozen=True)
class Cost:
    """The time and memory that a result took."""

    seconds: float
    extraction_seconds: float
    """The part of ``seconds`` spent in the network, in this call and in earlier calls that filled the cache."""
    images_per_second: float
    peak_bytes: int
    cache_bytes: int
    device: str


@dataclass(frozen=True)
class Result:
    """One network by one protocol, in one mode, on one data set; a row per stage and variant."""

    network: ModelInfo
    protocol: str
    about: str
    """The protocol in a sentence."""
    settings: dict[str, Any]
    """The settings of the protocol; plain values."""
    mode: Mode
    metric: MetricName
    train: str
    test: str
    train_digest: str
    """Hash of the images' names and labels, and of the pixels of some images: see ``transfer.targets``."""
    test_digest: str
    classes: tuple[str, ...]
    n_fit: int
    n_holdout: int
    n_train: int
    n_test: int
    """Number of test images that could be read: N of every outcome."""
    fraction: float
    """The share of the training images whose labels were used."""
    split: str
    split_sha256: str
    view_size: int
    """Pixels; 0 if a fine-tuned network saw every test image at its own size."""
    view_ratio: float
    precision: str
    storage: str
    """The type of the cached features: float16 or float32."""
    seed: int
    """The seed of the evaluation."""
    rows: tuple[Row, ...]
    cost: Cost
    code: str
    """SHA-256 of the code: see ``code_digest``."""
    versions: dict[str, str]
    skipped: tuple[tuple[str, str], ...]
    """Key and reason of the images that could not be read. With fine-tuning also other faults of images and
    annotations that training met; they depend on which images it drew."""
    interval: str
    """How the intervals were computed."""
    n_shared: int = 0
    """Number of test images that are also training images; 0 in results from before they were counted."""
    file: str = field(default="", compare=False)
    """The file that it was read from."""

    @property
    def best(self) -> str | None:
        """The name of the row that did best on the held-out part; None if that part chooses nothing.

        Low-shot rows learn from different images, so none of them is the best.
        """
        chosen = [row for row in self.rows if row.holdout is not None]
        if not chosen or any(len(row.outcomes) > 1 for row in self.rows):
            return None
        return max(chosen, key=lambda row: row.holdout or 0.0).name

    @property
    def counted(self) -> str | None:
        """The unit in which a class is counted: "objects", "images", "pixels"; None without a number by class."""
        first = self.rows[0].outcomes[0]
        return first.counted if isinstance(first, Weighted) else None

    def row(self, name: str) -> Row:
        """Return the row with this name."""
        return next(row for row in self.rows if row.name == name)


def comparison_facts(result: Result) -> list[tuple[str, Any]]:
    """Return, by name, the plain values that must be equal if two results are to share a table."""
    return [
        ("protocol", result.protocol),
        ("protocol settings", json.dumps(result.settings, sort_keys=True)),
        ("metric", result.metric),
        ("test data", result.test_digest),
        ("training data", result.train_digest),
        ("share of the labels", result.fraction),
        ("test images", result.n_test),
        ("training images", result.n_train),
        ("classes", list(result.classes)),
        ("part of an image that is seen", result.view_ratio),
        ("unreadable images", [] if result.mode == "fine-tuned" else sorted(key for key, _ in result.skipped)),
    ]


def require_comparable(results: Sequence[Result]) -> None:
    """Refuse to compare results of different protocols, data or metrics.

    Raises:
        UserError: two results differ in one of these; the message names the first difference.
    """
    for other in results[1:]:
        for (name, first), (_, second) in zip(comparison_facts(results[0]), comparison_facts(other), strict=True):
            if first != second:
                data = [
                    {
                        "test data": f"{r.test} ({r.test_digest[:8]})",
                        "training data": f"{r.train} ({r.train_digest[:8]})",
                    }
                    for r in (results[0], other)
                ]
                was, now = (texts.get(name, shorten(value)) for texts, value in zip(data, (first, second), strict=True))
                names = [result.file or result.network.name for result in (other, results[0])]
                raise UserError(
                    f"{names[0]} cannot be compared with {names[1]}: other {name}: {now} instead of {was}; "
                    "evaluate both with the same settings"
                )


def write_result(path: Path, result: Result) -> None:
    """Write a result's file, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    content = {
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
        # Last, so that the numbers are at the beginning of the file.
        **pack_outcomes([row.outcomes for row in result.rows]),
    }
    write_atomically(path, seal(content))


def read_result(path: Path) -> Result:
    """Read a result from a file and check its digest, and that each number follows from its outcomes.

    Raises:
        UserError: the file cannot be read, is not a result, or is damaged.
    """
    return replace(read_sealed(path, FORMAT, "a result", _parse_result), file=str(path))


def _parse_result(content: dict[str, Any]) -> Result:
    """Return the result in a file's content; any exception says what is wrong with it."""
    best = content.pop("best")
    outcomes_by_row = unpack_outcomes(content.pop("objects"), content.pop("outcomes"), len(content["classes"]))
    for row, outcomes in zip(content["rows"], outcomes_by_row, strict=True):
        del row["spread"]
        row["outcomes"] = outcomes
    result: Result = from_plain(Result, content)
    least = 0 if result.mode == "fine-tuned" else 1  # pixels
    counts = [result.n_test, len(result.classes), len(result.rows), *(len(row.outcomes) for row in result.rows)]
    if min(*counts, result.view_size + 1 - least) < 1:
        raise ValueError("no test images, no classes, no rows, no outcomes or no view")
    for row in result.rows:
        for outcome in row.outcomes:
            classes = len(outcome.positives) if isinstance(outcome, Weighted) else len(result.classes)
            if (outcome.metric, outcome.count, classes) != (result.metric, result.n_test, len(result.classes)):
                raise ValueError("outcomes of another metric, or of other images or classes")
        value = seed_scores([row.outcomes])[0]
        if not math.isclose(value, row.score.value, abs_tol=1e-9) or not row.score.low <= row.score.high:
            raise ValueError(f"its number {row.score.value} is not that of its outcomes, {value}")
    if len({row.name for row in result.rows}) != len(result.rows):
        raise ValueError("two rows of one name")
    if best != result.best:
        raise ValueError("its best row is not the one that its held-out scores choose")
    return result


def load_matching_result(path: Path, network: ModelInfo, facts: Mapping[str, Any]) -> Result | None:
    """Return a file's result if it has this network and these facts; report a damaged one and return None."""
    if not path.exists():
        return None
    try:
        result = read_result(path)
    except UserError as error:
        say(f"{error}; the result is computed again now")
        return None
    same = all(getattr(result, name) == value for name, value in facts.items())
    return result if same and result.network == network else None


def find_results(paths: Sequence[str | Path]) -> list[Result]:
    """Return the results of files, runs and folders, each once.

    Args:
        paths: a result's file; a run, whose ``results`` folder is read; a folder of result files; a folder of runs; or
            a pattern for them ("runs/color-*").

    Raises:
        UserError: a path has no result, or a result cannot be read.
    """
    files: dict[Path, Path] = {}
    for path in paths:
        places = [Path(path)]
        if is_pattern(str(path)):
            matches = [Path(match) for match in match_paths(str(path))]
            places = [match for match in matches if match.is_dir() or match.suffix == ".json"]  # not a log beside a run
            if not places:
                raise UserError(f"{path}: no folder and no .json file matches this pattern")
        for place in places:
            matches = [place] if place.is_file() else []
            for pattern in ("results/*.json", "*.json", "*/results/*.json"):
                matches = matches or sorted(place.glob(pattern))
            if not matches:
                missing = "no results there; make one with pretint probe, knn, svm or finetune"
                raise UserError(f"{place}: {missing if place.exists() else 'does not exist'}")
            files |= {file.resolve(): file for file in matches if file.resolve() not in files}
    return [read_result(path) for path in files.values()]


def code_digest(*parts: str) -> str:
    """Return SHA-256 over the Python files of pretext and transfer, or of some parts of them, and over every plugin."""
    digest_of_files, plugins = _digest_files(*parts), plugin_contents()
    if not plugins:
        return digest_of_files
    digest = hashlib.sha256(digest_of_files.encode())
    for content in plugins:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


@cache
def _digest_files(*parts: str) -> str:
    """Return SHA-256 over the names and bytes of Python files, once per process."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    places = [root / part for part in parts or ("pretext", "transfer")]
    for path in sorted(path for place in places for path in (place.rglob("*.py") if place.is_dir() else [place])):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
