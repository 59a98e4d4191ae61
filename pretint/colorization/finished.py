"""Which results of an earlier call stand in a folder, so that a stopped call goes on where it was."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pretext.errors import UserError

FILE = ".pretint-colorize.jsonl"
"""In the folder of results: a line of JSON for every image that was colored."""

_MEANING = 1  # raised when the same settings come to make something else


class Memory:
    """What was colored into a folder, from what, how.

    A result stands if its image, everything that its colors depend on, and the result itself are as they were when
    it was written. A line that cannot be read tells of nothing.

    Args:
        folder: of the results.
        how: plain values on which results depend besides their image.
        files: further files on which they depend.
    """

    def __init__(self, folder: Path, how: Any, files: Iterable[Path]) -> None:
        self.folder, self.path = folder, folder / FILE
        depends = json.dumps([_MEANING, how, [_state(file) for file in files]], sort_keys=True, default=str)
        self.how = hashlib.sha256(depends.encode()).hexdigest()[:16]
        self._known: dict[str, dict[str, Any]] = {}
        try:
            lines = self.path.read_bytes().splitlines() if self.path.is_file() else []
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be read ({error.strerror}); name another folder with --out"
            ) from error
        for line in lines:
            try:
                record = json.loads(line)
                target, notes = record["target"], record.get("notes", [])
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue
            if isinstance(target, str) and isinstance(notes, list) and all(isinstance(note, str) for note in notes):
                self._known[target] = record

    def notes(self, source: Path, targets: Sequence[Path]) -> list[str] | None:
        """What was said of an image whose results all stand; None if they don't.

        Args:
            source: of the image.
            targets: its results.
        """
        record = self._known.get(self._name(targets[0]))
        if record is None or any(state is None for state in map(_state, [source, *targets])):
            return None
        found = {key: record.get(key) for key in ("how", "source", "results")}
        return list(record.get("notes", [])) if found == self._record(source, targets) else None

    def ab_range(self, targets: Sequence[Path]) -> Any:
        """What ``add`` kept of an image's colors; None if nothing."""
        return self._known.get(self._name(targets[0]), {}).get("ab")

    def require_ours(self, targets: Sequence[Path]) -> None:
        """Raise a ``UserError`` if somebody changed one of an image's results since it was written."""
        written = self._known.get(self._name(targets[0]), {}).get("results")
        for state in written if isinstance(written, list) else []:
            if isinstance(state, list) and state and _state(Path(str(state[0]))) not in (None, state):
                raise UserError(f"{state[0]}: was changed since pretint wrote it; name another folder with --out")

    def begin(self, targets: Sequence[Path]) -> None:
        """Keep that an image's results are about to be written: what is found of them later may be anything."""
        if self._known.pop(self._name(targets[0]), None) is not None:
            self._append({"target": self._name(targets[0])})

    def add(self, source: Path, targets: Sequence[Path], notes: Sequence[str], ab_range: Sequence[float]) -> None:
        """Keep that they were written just now, and the range of the colors (see ``ColorRange``)."""
        kept = {"notes": list(notes), "ab": list(ab_range)}
        self._append({"target": self._name(targets[0]), **self._record(source, targets), **kept})

    def _append(self, record: dict[str, Any]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            opened = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
            with os.fdopen(opened, "a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); make room and call again") from error

    def _record(self, source: Path, targets: Sequence[Path]) -> dict[str, Any]:
        return {"how": self.how, "source": _state(source), "results": [_state(target) for target in targets]}

    def _name(self, target: Path) -> str:
        return str(target.relative_to(self.folder))


def _state(file: Path) -> list[Any] | None:
    """Place, size and time of change; None if there is no such file."""
    try:
        found = file.stat()
    except OSError:
        return None
    return [str(file.resolve()), found.st_size, found.st_mtime_ns]
