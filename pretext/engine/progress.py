"""Progress of long work: a bar with rate and time left on a terminal, a line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

Advance = Callable[[int, str], None]
"""advance(how many more are done, a remark such as the loss)."""

_EVERY = 30.0  # seconds between lines where there is no terminal


@contextmanager
def progress(title: str, total: int, unit: str, done: int = 0, weight: int = 1) -> Iterator[Advance]:
    """Show how ``total`` things proceed.

    Args:
        title: what is being done.
        total: how many in all.
        unit: of the rate, such as "pictures".
        done: how many an earlier call did; they count for the bar, not for the rate.
        weight: how many units one thing is worth in the rate (a step: its batch).
    """
    console = Console(file=cast(IO[str], _Forgiving()))
    began, here = time.monotonic(), 0

    def pace() -> str:
        seconds = time.monotonic() - began
        if not here or seconds <= 0:
            return ""
        left = (total - done - here) * seconds / here
        return f"{here * weight / seconds:,.0f} {unit}/s, {_clock(left)} left"

    if console.is_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            TextColumn("{task.fields[remark]}"),
            console=console,
        ) as bar:
            task = bar.add_task(title, total=total, completed=done, pace="", remark="")

            def advance(more: int, remark: str = "") -> None:
                nonlocal here
                here += more
                bar.update(task, advance=more, pace=pace(), remark=remark)

            yield advance
    else:
        spoken = began

        def speak(more: int, remark: str = "") -> None:
            nonlocal here, spoken
            here += more
            now = time.monotonic()
            if now - spoken >= _EVERY or done + here == total:
                spoken = now
                parts = [f"{title}: {done + here}/{total}", pace(), remark]
                console.print(Text(", ".join(part for part in parts if part)), soft_wrap=True)

        yield speak


def say(line: str) -> None:
    """A line on standard error, for a user who may wonder."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


class _Forgiving:
    """Standard error, where nobody may be reading any more: work goes on unseen instead of failing."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
