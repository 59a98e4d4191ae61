"""A run's journal: one JSON object a line, append-only, mirrored to TensorBoard."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from pretext.engine.checkpoint import write_atomically
from pretext.errors import UserError

Record = dict[str, Any]


class Journal:
    """What happened in a run, by step. A record of kind "step" stands for every training step.

    Opened at step s, it first forgets what an interrupted run wrote beyond: those steps are
    computed again, and the journal reads as if nothing had happened.

    Args:
        folder: of the run; the journal is ``journal.jsonl`` in it, the mirror ``tensorboard/``.
        step: how many steps are done.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "journal.jsonl"
        kept = [record for record in read_journal(folder) if record["step"] <= step]
        write_atomically(self.path, "".join(_line(record) for record in kept).encode())
        self._file = self.path.open("a", encoding="utf-8")
        self._mirror = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one record; its numbers go to TensorBoard as ``kind/name``."""
        self._file.write(_line({"kind": kind, "step": step, **values}))
        for name, value in values.items():
            if isinstance(value, float):
                self._mirror.add_scalar(f"{kind}/{name}", value, step)

    def flush(self) -> None:
        """Hand everything written so far to the system.

        Raises:
            UserError: the disk is full.
        """
        try:
            self._file.flush()
            self._mirror.flush()
        except OSError as error:
            raise UserError(f"{self.path}: cannot write ({error.strerror}); make room and call again") from error

    def close(self) -> None:
        """Flush and let go of the files."""
        self.flush()
        self._file.close()
        self._mirror.close()


def read_journal(folder: Path) -> list[Record]:
    """The records of a run, in order; a last line that a crash cut short is left out."""
    return list(_records(folder / "journal.jsonl"))


def skipped_pictures(folder: Path) -> list[tuple[str, str]]:
    """Key and reason of the pictures that a run met and could not read."""
    return [(record["key"], record["reason"]) for record in read_journal(folder) if record["kind"] == "skipped"]


def _records(path: Path) -> Iterator[Record]:
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            assert isinstance(record["step"], int)
            yield record
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            if number < len(lines):
                raise UserError(f"{path}: line {number} is no journal record; has the file been edited?") from error


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"
