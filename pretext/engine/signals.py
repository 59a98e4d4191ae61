"""Signals that request a stop: each sets a flag, and the training loop reads it at the end of a step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import NoReturn

from pretext.engine.progress import say


class ExitStatus(IntEnum):
    """How a command ended; the value is its exit code. If there were several signals, the greatest value counts."""

    COMPLETE = 0
    """The work is done."""
    PREEMPTED = 75
    """Stopped by USR2, a cluster's warning; the same command resumes. The code is EX_TEMPFAIL of sysexits.h."""
    INTERRUPTED = 130
    """Stopped by INT (Ctrl-C); the same command resumes."""
    TERMINATED = 143
    """Stopped by TERM; the same command resumes, if the user runs it again."""


ENDINGS = {
    signal.SIGUSR2: ExitStatus.PREEMPTED,
    signal.SIGINT: ExitStatus.INTERRUPTED,
    signal.SIGTERM: ExitStatus.TERMINATED,
}
"""The exit status for each signal that requests a stop."""

WARNINGS = (signal.SIGUSR2, signal.SIGTERM)
"""Signals from a machine, not from a user at a keyboard."""


_pending: set[int] = set()  # signals that came between two contexts


@contextmanager
def catch_signals(*signals: signal.Signals) -> Iterator[Callable[[], ExitStatus]]:
    """Catch signals while the context lasts, and yield a function that returns the exit status that they request.

    A second INT interrupts at once, for a user who cannot wait. The parent process may block a signal, so that none
    is lost before a context begins. Then a signal from before the context counts in it, and a signal from after the
    context counts in the next one.

    Args:
        signals: some of ``ENDINGS``; by default all.
    """
    ending = ExitStatus.COMPLETE

    def set_ending(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        if ending == ExitStatus.INTERRUPTED and number == signal.SIGINT:
            raise KeyboardInterrupt
        ending = max(ending, ENDINGS[signal.Signals(number)])

    is_main_thread = threading.current_thread() is threading.main_thread()  # Python allows handlers only there
    before = {number: signal.signal(number, set_ending) for number in signals or ENDINGS if is_main_thread}
    if is_main_thread:
        # They stay unblocked: a thread that was started meanwhile does not block them, and would be killed.
        blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
        before |= dict.fromkeys(before.keys() & blocked, lambda number, frame: _pending.add(number))
    for number in _pending & before.keys():
        _pending.discard(number)
        set_ending(number, None)
    try:
        yield lambda: ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_with(ending: ExitStatus, saved: str = "") -> NoReturn:
    """End the command with the exit code of ``ending``, and print what is saved, if any work was in progress.

    Raises:
        KeyboardInterrupt: Ctrl-C stopped the command.
        SystemExit: with the code of ``ending``.
    """
    if saved:
        say(f"stopped; {saved}; run the same command again to resume")
    if ending == ExitStatus.INTERRUPTED:
        raise KeyboardInterrupt
    raise SystemExit(int(ending))
