"""All results below some paths as one table: ``pretint.results``."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pretext.data.patterns import is_pattern, match_paths
from pretext.engine.progress import say
from pretext.errors import UserError
from pretext.store import Record
from pretint.colorization.scores.table import read_scores
from transfer.long_table import make_frame, online_records, result_records
from transfer.results import Result, read_result

if TYPE_CHECKING:
    from pandas import DataFrame

_FORMAT = re.compile(rb'\s*\{\s*"format":\s*"pretint (result|scores) \d+"')
_JOURNAL = "journal.jsonl"


def results(*paths: str | Path, joint: bool = False) -> "DataFrame":
    """Return all results below paths as one table, a row for each number; see ``transfer.long_table.COLUMNS``.

    These are the rows of probes and fine-tuned tasks, color scores (protocol "score"), and the online probes of
    pretraining (protocol "online"). Numbers are fractions, not percent. A damaged file is left out, and named.

    Args:
        paths: files, folders and everything below them, or patterns such as "runs/**".
        joint: one row for all seeds of a network: their mean with its joint interval, and the deviation over seeds.
            Color scores and online probes stay as they are.

    Raises:
        UserError: a path does not exist, or there are no results; with ``joint``, seeds of one network have different
            rows.
    """
    found: list[Result] = []
    records: list[Record] = []
    for file in _files(paths):
        try:
            with file.open("rb") as opened:
                kind = _FORMAT.match(opened.read(200))
            if file.name == _JOURNAL:
                records += online_records(file.parent)
            elif kind and kind[1] == b"result":
                found.append(read_result(file))
            elif kind:
                records += read_scores(file).records()
        except UserError as error:
            say(f"{error}; left out")
        except OSError as error:
            say(f"{file}: cannot be read ({error.strerror}); left out")
    if not found and not records:
        raise UserError(f"{', '.join(map(str, paths))}: no results there; make some with pretint probe or finetune")
    return make_frame(result_records(found, joint) + records)


def _files(paths: tuple[str | Path, ...]) -> Iterator[Path]:
    """Yield the files that may hold results, each once.

    Raises:
        UserError: a path does not exist.
    """
    seen = set()
    for path in paths:
        matches = [Path(match) for match in match_paths(str(path))] if is_pattern(str(path)) else [Path(path)]
        if not matches or not all(match.exists() for match in matches):
            raise UserError(f"{path}: does not exist")
        for match in matches:
            for file in sorted([*match.rglob("*.json"), *match.rglob(_JOURNAL)]) if match.is_dir() else [match]:
                if file.suffix in (".json", ".jsonl") and file.resolve() not in seen:
                    seen.add(file.resolve())
                    yield file
