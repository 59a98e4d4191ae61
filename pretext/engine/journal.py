"""A run's journal: a log of ``pretext.store``, one JSON object per line, mirrored to TensorBoard."""

import math
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from pretext.engine.progress import say_once
from pretext.engine.wandb_mirror import WandbMirror
from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.store import Record, read_lines, to_line


class Journal:
    """The records of a run, by step. There is a record of kind "step" for every training step.

    When it is opened at step s, it removes the records of later steps: an interrupted run wrote them, and the resumed
    run computes these steps again.

    Args:
        folder: the run's folder; the journal is ``journal.jsonl`` in it, the mirror ``tensorboard/``.
        step: number of steps done; None for a run without a checkpoint: its journal begins empty.
        wandb: a project of Weights & Biases that gets the same numbers; empty for none, see ``WandbMirror``.

    Raises (every method): UserError, the disk is full.
    """

    def __init__(self, folder: Path, step: int | None, wandb: str = "") -> None:
        self._wandb = WandbMirror(wandb, folder, step is not None) if wandb else None
        self.path = folder / "journal.jsonl"
        records = read_journal(folder) if step is not None else []
        step = step or 0
        write_atomically(self.path, b"".join(to_line(record) for record in records if record["step"] <= step))
        mirror = folder / "tensorboard"
        with self._disk():
            mirror.mkdir(exist_ok=True)
            self._file = self.path.open("ab")
            # Not SummaryWriter: it writes in a thread, and a full disk would print a traceback there.
            name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}.{step:08d}"
            self._events = RecordWriter((mirror / name).open("wb"))
        self._mirror(file_version="brain.Event:2")
        self._mirror(step=step + 1, session_log=SessionLog(status=SessionLog.START))  # TensorBoard ignores later steps

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one record. Its floats also go to TensorBoard as ``kind/name``; its lists do not."""
        with self._disk():
            self._file.write(to_line({"kind": kind, "step": step, **_storable(values)}))
        numbers = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, float)}
        if numbers:
            shown = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
            self._mirror(step=step, summary=Summary(value=shown))
            if self._wandb:
                self._wandb.write(step, numbers)

    def image(self, tag: str, step: int, png: bytes, width: int, height: int) -> None:
        """Write an RGB image, the bytes of a PNG file, to TensorBoard under ``tag``, but not to the journal."""
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
        self._mirror(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)]))
        if self._wandb:
            self._wandb.image(tag, step, png)

    def flush(self) -> None:
        """Hand everything written so far to the operating system.

        Raises:
            UserError: the disk is full, or the run's folder no longer has its name.
        """
        if not self.path.exists():
            raise UserError(
                f"{self.path.parent}: was renamed or removed while a job trained in it; give it its name back and "
                "call again: it continues from its newest checkpoint"
            )
        with self._disk():
            self._file.flush()
            self._events.flush()

    def close(self) -> None:
        """Flush and close the files."""
        with self._disk():
            try:
                self._file.close()
            finally:
                self._events.close()
                if self._wandb:
                    self._wandb.close()

    def _mirror(self, **event: Any) -> None:
        with self._disk():
            self._events.write(Event(wall_time=time.time(), **event).SerializeToString())

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot write ({error.strerror}); free some disk space, then run it again"
            ) from error


class NullJournal(Journal):
    """The journal of the processes that do not write to the run."""

    def __init__(self) -> None:
        pass

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Write nothing."""

    def flush(self) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Do nothing: no file is open."""


def read_journal(folder: Path) -> list[Record]:
    """Return the records of a run, in order.

    A last line that a crash cut short is left out; so is a damaged line, and a message says so.

    Raises:
        UserError: the journal cannot be read.
    """
    path = folder / "journal.jsonl"
    try:
        records, damaged = read_lines(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if damaged:
        lines = "1 line is" if damaged == 1 else f"{damaged} lines are"
        say_once(f"{path}: {lines} damaged, edited or of an older version, and left out; restore the file from a copy")
    return records


def skipped_images(folder: Path) -> list[tuple[str, str]]:
    """Return key and reason of the images that a run could not read."""
    return [(record["key"], record["reason"]) for record in read_journal(folder) if record["kind"] == "skipped"]


def training_seconds(records: Sequence[Record], batch: int) -> float:
    """Return how long a training took, by the speeds in its journal; steps lost by interruptions do not count.

    Args:
        records: of the journal.
        batch: images a step.
    """
    speeds = [record for record in records if record["kind"] == "speed" and record.get("images_per_second")]
    steps = [0, *(record["step"] for record in speeds)]
    return math.fsum(
        (after - before) * batch / record["images_per_second"]
        for (before, after), record in zip(pairwise(steps), speeds, strict=True)
    )


def _storable(value: Any) -> Any:
    """Return a value, or values, with None for nan and infinity: JSON has no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _storable(part) for name, part in value.items()}
    return [_storable(part) for part in value] if isinstance(value, (list, tuple)) else value
