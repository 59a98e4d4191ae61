"""Where cells lie, and which of them are finished.

STUDIES/                     shared by all studies in it: a cell that two of them have is made once
    runs/NAME.KEY/           a pretraining: a run like any other
    results/NAME.KEY/        an evaluation of one network
    recipes/NAME.KEY.yaml    what is judged at random weights
    logs/NAME.KEY.log        what a cell's command printed; .failed says why it failed, .progress how far it is
    jobs/                    those that were sent to a cluster
    STUDY/                   a study: plan.json, report.html, ...

A cell is found by its KEY alone: what it leaves says whether it is finished, nothing else is written down.
"""

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pretext.engine.run import checkpoint_damage, newest_checkpoint
from pretext.errors import UserError
from pretext.files import write_atomically
from pretint.colorization.scores.table import FORMAT
from pretint.study.plan import PRETRAIN, Cell
from transfer.results import read_result


class Failure(NamedTuple):
    """How a cell's command ended that should not have."""

    code: int
    said: str
    """The last line that it printed, or the signal that killed it."""


class Shelf:
    """The folder in which cells lie."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._places: dict[tuple[str, str], str] = {}
        self._whole: set[Path] = set()
        self._damaged: set[tuple[Path, int]] = set()  # checkpoints, each with the time of its last change

    @property
    def jobs(self) -> Path:
        """Of jobs on a cluster."""
        return self.root / "jobs"

    def place(self, kind: str, name: str, key: str) -> str:
        """Where something lies, from the root: what has its key, whatever its name; else a new place.

        Args:
            kind: runs, results or recipes.
            name: for people.
            key: of the cell; of a recipe, with the file's ending.
        """
        there = sorted(path.name for path in (self.root / kind).glob(f"*.{key}"))
        return self._places.setdefault((kind, key), f"{kind}/{there[0] if there else f'{name}.{key}'}")

    def folder(self, cell: Cell) -> Path:
        """What a cell leaves."""
        return self.root / cell.folder

    def beside(self, cell: Cell, what: str) -> Path:
        """A file about a cell: its log, failed, lock, progress."""
        return self.root / "logs" / f"{cell.place}.{what}"

    def finished(self, cell: Cell) -> bool:
        """Whether what a cell leaves is there, whole; a result that cannot be read is made again by its command."""
        if cell.command == PRETRAIN:
            newest = newest_checkpoint(self.folder(cell))
            return newest is not None and int(newest.stem) >= cell.steps and _dated(newest) not in self._damaged
        return bool(self.results(cell))

    def check_network(self, cell: Cell) -> bool:
        """Whether the network that a finished pretraining left is whole: if not, it counts as unfinished from now on.

        For the cells that are to use it: they would take the checkpoint before. All of it is read.
        """
        newest = newest_checkpoint(self.folder(cell))
        if newest is not None and checkpoint_damage(newest):
            self._damaged.add(_dated(newest))
        return self.finished(cell)

    def results(self, cell: Cell) -> list[Path]:
        """The result files of an evaluation that can be read."""
        return [file for file in self._left(cell) if not self._damage(cell, file)]

    def damage(self, cell: Cell) -> str:
        """Why a result file of an evaluation cannot be read; empty if all can."""
        return next(filter(None, (self._damage(cell, file) for file in self._left(cell))), "")

    def failure(self, cell: Cell) -> Failure | None:
        """How a cell failed, if it did and was not tried again since."""
        try:
            told: Any = json.loads(self.beside(cell, "failed").read_text(encoding="utf-8"))
            return Failure(int(told["code"]), str(told["said"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def fail(self, cell: Cell, code: int) -> Failure:
        """Note down that a cell's command failed."""
        failure = Failure(code, self._last_line(cell) if code >= 0 else _killed(-code))
        write_atomically(self.beside(cell, "failed"), json.dumps({**failure._asdict(), "time": time.time()}).encode())
        return failure

    def forgive(self, cell: Cell) -> None:
        """Forget that it failed."""
        self.beside(cell, "failed").unlink(missing_ok=True)

    def progress(self, cell: Cell) -> dict[str, Any]:
        """How far its command is, as it says itself; empty if it has not said."""
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(self.beside(cell, "progress").read_text(encoding="utf-8"))
            if isinstance(told, dict):
                return told
        return {}

    def hold(self, cell: Cell) -> int | None:
        """Take a cell's lock; None if another process has it.

        Returns:
            A file descriptor, to be given to the command that does the work: the lock lasts as long as that has it
            open, whatever becomes of this process.

        Raises:
            UserError: nothing can be written there.
        """
        path = self.beside(cell, "lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise UserError(f"{path}: cannot write there ({error.strerror}); name another --folder") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            raise UserError(
                f"{path}: cannot be locked ({error.strerror}); name a --folder on a file system with locks"
            ) from error
        return descriptor

    @contextlib.contextmanager
    def planning(self) -> Iterator[None]:
        """Within it nobody else finds places for cells: two who looked at once would give one cell two."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / ".lock").open("a")
        except OSError as error:
            raise UserError(f"{self.root}: cannot write there ({error.strerror}); name another --folder") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _left(self, cell: Cell) -> list[Path]:
        return sorted(self.folder(cell).glob("*.json"))

    def _damage(self, cell: Cell, file: Path) -> str:
        """Why a result file cannot be read; it is read again only as long as it cannot: it may be mended meanwhile."""
        if file not in self._whole:
            try:
                (_require_scores if cell.command == "score" else read_result)(file)
            except UserError as error:
                return str(error)
            self._whole.add(file)
        return ""

    def _last_line(self, cell: Cell) -> str:
        with contextlib.suppress(OSError), self.beside(cell, "log").open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 4000))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
            return lines[-1][:500] if lines else ""
        return ""


def _dated(path: Path) -> tuple[Path, int]:
    return path, path.stat().st_mtime_ns


def _killed(number: int) -> str:
    short = ", as where memory is short" if number == signal.SIGKILL else ""
    return f"killed by signal {number}{short}"


def _require_scores(file: Path) -> None:
    """Raise UserError unless a file is one of scores, as ``Scores.json`` makes it."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        if json.loads(file.read_text(encoding="utf-8"))["format"] == FORMAT:
            return
    raise UserError(f"{file}: no scores, or damaged ones; make them again or move them away")
