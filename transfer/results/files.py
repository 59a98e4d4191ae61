"""Results as JSON files, checked when they are read."""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pretext.engine.progress import say
from pretext.errors import UserError
from pretext.files import write_atomically
from transfer.bootstrap import Estimate
from transfer.metrics import Outcome, Row, seed_scores
from transfer.results.pack import LARGEST, Told, packed_outcomes, unpacked_outcomes
from transfer.results.plain import listed, named, number, pair, plain, refuse, text, texts
from transfer.results.result import Cost, Judged, Result

FORMAT = "pretint result 1"


def write_result(path: Path, result: Result) -> None:
    """Write a result's file, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
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
        **packed_outcomes([row.outcomes for row in result.rows]),
    }
    write_atomically(path, json.dumps(found, indent=1, allow_nan=False).encode())


def read_result(path: Path) -> Result:
    """A result's file, checked: also that each number is that of its answers (its interval is taken as it stands).

    Raises:
        UserError: it cannot be read, is no result, or a damaged one.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("too large")
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        return _result(found, str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, zlib.error) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path}: no result, or a damaged one ({reason}); make it again or move it away") from error


def kept_result(path: Path, network: Judged, facts: Mapping[str, Any]) -> Result | None:
    """The result in a file, if it is of that network and has those facts; a damaged one is told of, and is none."""
    if not path.exists():
        return None
    try:
        found = read_result(path)
    except UserError as error:
        say(f"{error}; it is made again now")
        return None
    same = all(getattr(found, name) == value for name, value in facts.items())
    return found if same and found.network == network else None


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
            missing = (
                "no results there; make one with pretint probe, knn, svm or finetune"
                if path.exists()
                else "does not exist"
            )
            raise UserError(f"{path}: {missing}")
        files |= {one.resolve(): one for one in here if one.resolve() not in files}
    return [read_result(path) for path in files.values()]


def _result(found: dict[str, Any], file: str) -> Result:
    found = {"n_shared": 0, **found}  # results were written before they were counted
    values = plain(Result, found)
    classes, skipped = texts(found["classes"]), tuple(pair(entry) for entry in found["skipped"])
    least = 0 if values["mode"] == "fine-tuned" else 1  # pixels
    if min(values["n_test"], len(classes), values["view_size"] + 1 - least) < 1:
        raise ValueError("no test images, no classes or no view")
    outcomes = unpacked_outcomes(found, Told(values["metric"], values["n_test"], len(classes)))
    rows = tuple(_row(row, of_row) for row, of_row in zip(listed(found["rows"]), outcomes, strict=True))
    if not rows or len({row.name for row in rows}) != len(rows):
        raise ValueError("no rows, or two of one name")
    result = Result(
        **values,
        network=Judged(**plain(Judged, found["network"])),
        cost=Cost(**plain(Cost, found["cost"])),
        settings=named(found["settings"]),
        versions={name: text(value) for name, value in named(found["versions"]).items()},
        classes=classes,
        skipped=skipped,
        rows=rows,
        file=file,
    )
    if found["best"] != result.best:
        raise ValueError("its best row is not the one that its held-out scores choose")
    return result


def _row(found: dict[str, Any], outcomes: tuple[Outcome, ...]) -> Row:
    holdout = None if found["holdout"] is None else number(found["holdout"])
    if not outcomes:
        raise ValueError("a row without answers")
    score = Estimate(**{name: number(found["score"][name]) for name in Estimate._fields})
    value = seed_scores([outcomes])[0]
    if not math.isclose(value, score.value, abs_tol=1e-9) or not score.low <= score.high:
        raise ValueError(f"its number {score.value} is not that of its answers, {value}")
    chosen = named(found["chosen"])
    return Row(**plain(Row, found), chosen=chosen, holdout=holdout, outcomes=outcomes, score=score)
