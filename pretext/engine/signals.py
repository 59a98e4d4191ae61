"""Signals that ask to stop: each sets a flag that the training loop reads at the end of a step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import NoReturn

from pretext.engine.progress import say


class ExitStatus(IntEnum):
    """How work ended; the value is the command's exit code. If several signals came, the greatest counts."""

    COMPLETE = 0
    """The work is done."""
    PREEMPTED = 75
    """USR2, a cluster's warning, asked to stop; the same call resumes. EX_TEMPFAIL of sysexits.h."""
    INTERRUPTED = 130
    """INT (Ctrl-C) asked to stop; the same call resumes."""
    TERMINATED = 143
    """TERM asked to stop; the same call resumes, if the user calls it again."""


ENDINGS = {
    signal.SIGUSR2: ExitStatus.PREEMPTED,
    signal.SIGINT: ExitStatus.INTERRUPTED,
    signal.SIGTERM: ExitStatus.TERMINATED,
}
"""The signals that ask to stop."""

WARNINGS = (signal.SIGUSR2, signal.SIGTERM)
"""Those that a machine sends, not a user at a keyboard."""


_unheard: set[int] = set()  # signals that came between two contexts


@contextmanager
def catch_signals(*signals: signal.Signals) -> Iterator[Callable[[], ExitStatus]]:
    """Let signals, while the context lasts, only set the ending that the yielded function returns.

    A second INT acts at once, for a user who can't wait. The process that starts this one may have blocked a
    signal, so that none is lost before a context begins: then a signal that came before counts now, and one that
    comes after the context waits for the next context.

    Args:
        signals: of ``ENDINGS``; by default all.
    """
    ending = ExitStatus.COMPLETE

    def set_ending(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        if ending == ExitStatus.INTERRUPTED and number == signal.SIGINT:
            raise KeyboardInterrupt
        ending = max(ending, ENDINGS[signal.Signals(number)])

    is_main_thread = threading.current_thread() is threading.main_thread()  # elsewhere Python lets nobody listen
    before = {number: signal.signal(number, set_ending) for number in signals or ENDINGS if is_main_thread}
    if is_main_thread:
        # Not blocked again at the end: a thread started meanwhile would not have it blocked, and be killed by it.
        blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
        before |= dict.fromkeys(before.keys() & blocked, lambda number, frame: _unheard.add(number))
    for number in _unheard & before.keys():
        _unheard.discard(number)
        set_ending(number, None)
    try:
        yield lambda: ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_with(ending: ExitStatus, kept: str = "") -> NoReturn:
    """End the command with the exit code of ``ending``, and say what is kept, if any work was in progress.

    Raises:
        KeyboardInterrupt: it was Ctrl-C.
        SystemExit: with the ending's code.
    """
    if kept:
        say(f"stopped; {kept}, and the same command goes on from there")
    if ending == ExitStatus.INTERRUPTED:
        raise KeyboardInterrupt
    raise SystemExit(int(ending))
