"""Progress of long work: a bar with rate and time left on a terminal, else a line every 30 seconds."""

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from pretext.engine import distributed
from pretext.escape import escape_controls

Advance = Callable[[int, str], None]
"""advance(number of items done since the last call, a remark such as the loss)."""

_EVERY = 30.0  # seconds between lines where there is no terminal
_WRITTEN_EVERY = 2.0  # seconds between two writes of $PRETINT_PROGRESS


@contextmanager
def progress(title: str, total: int, unit: str, done: int | None = None, weight: int = 1) -> Iterator[Advance]:
    """Show the progress of ``total`` items.

    If $PRETINT_PROGRESS is the name of a file, the first process also writes the numbers to it, see ``_Tally``.

    Args:
        title: the title of the bar.
        total: the number of items.
        unit: the unit of the rate, such as "images".
        done: number of items that an earlier call did: they count for the bar, not for the rate. None for work that
            every call does from the beginning.
        weight: units per item in the rate (for a step: its batch size).
    """
    title = escape_controls(title)
    console = Console(file=cast(IO[str], _SafeStandardError()))
    tally = _Tally(title, total, unit, done, weight)
    try:
        if console.is_terminal:
            with Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[pace]}", markup=False),
                TextColumn("{task.fields[remark]}", markup=False),
                console=console,
            ) as bar:
                task = bar.add_task(title, total=total, completed=tally.done, pace="", remark="")

                def advance(more: int, remark: str = "") -> None:
                    tally.add(more, remark)
                    bar.update(task, advance=more, pace=tally.pace, remark=escape_controls(remark))

                yield advance
        else:
            last_print = time.monotonic()

            def print_line(more: int, remark: str = "") -> None:
                nonlocal last_print
                tally.add(more, remark)
                now = time.monotonic()
                if now - last_print >= _EVERY or tally.done == total:
                    last_print = now
                    parts = [f"{title}: {tally.done}/{total}", tally.pace, escape_controls(remark)]
                    console.print(Text(", ".join(part for part in parts if part)), soft_wrap=True)

            yield print_line
    finally:
        tally.write()


class _Tally:
    """The numbers of one progress bar, and the file that shows them to other programs.

    The file is JSON and is replaced as a whole, so that it can be read at any moment. It holds title, unit, total,
    done, rate (units per second, or null), left (seconds, or null), remark, time (when it was written, as
    ``time.time``) and first: title, total and initial done of the process's first bar whose work can be resumed.
    It shows whether a restart made any progress. The file is written when a bar begins and ends, and in between at
    most every two seconds.
    """

    _first: ClassVar[dict[str, Any]] = {}

    def __init__(self, title: str, total: int, unit: str, done: int | None, weight: int) -> None:
        self.title, self.total, self.unit, self.weight = title, total, unit, weight
        self.done = self._before = done or 0
        self._remark = ""
        self._began = time.monotonic()
        path = os.environ.get("PRETINT_PROGRESS", "")
        self._file = Path(path) if path and distributed.is_rank_zero() else None
        if self._file and done is not None and not self._first:
            self._first.update(title=title, total=total, done=done)
        self.write()

    @property
    def rate(self) -> float | None:
        """Units per second; None before the first item is done."""
        items, seconds = self.done - self._before, time.monotonic() - self._began
        return items * self.weight / seconds if items and seconds > 0 else None

    @property
    def left(self) -> float | None:
        """Seconds until all is done, at this rate."""
        rate = self.rate
        return (self.total - self.done) * self.weight / rate if rate else None

    @property
    def pace(self) -> str:
        """The rate and the time left, as text."""
        rate, left = self.rate, self.left
        if rate is None or left is None:
            return ""
        return f"{f'{rate:,.0f}' if rate >= 10 else f'{rate:.2g}'} {self.unit}/s, {clock(left)} left"

    def add(self, more: int, remark: str) -> None:
        """Add to the number that is done."""
        self.done += more
        self._remark = remark
        if time.monotonic() - self._written >= _WRITTEN_EVERY:
            self.write()

    def write(self) -> None:
        """Write the numbers to the file. If it cannot be written, the work continues."""
        self._written = time.monotonic()
        if self._file is None:
            return
        numbers = {
            "title": self.title,
            "unit": self.unit,
            "total": self.total,
            "done": self.done,
            "rate": self.rate,
            "left": self.left,
            "remark": self._remark,
            "time": time.time(),
            "first": self._first,
        }
        with contextlib.suppress(OSError, ValueError):  # ValueError: not a valid file name
            part = self._file.with_name(f".{self._file.name}.part")
            part.write_text(json.dumps(numbers))
            part.replace(self._file)


def say(line: str) -> None:
    """Print a line on standard error for the user. Line breaks in names are escaped, so that it stays one line."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{escape_controls(line)}\n")
        sys.stderr.flush()


@functools.cache
def say_once(text: str) -> None:
    """Print a line, only the first time in this process and only in the first process of a run."""
    if distributed.is_rank_zero():
        say(text)


class _SafeStandardError:
    """Standard error, which may be closed: then work continues without output and does not fail."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def clock(seconds: float) -> str:
    """Format a time like a clock: 1:02:03, 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
