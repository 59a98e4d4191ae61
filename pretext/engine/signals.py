"""A polite stop: a signal sets a flag that the loop reads at a step's end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import NoReturn

from pretext.engine.progress import say


class Ending(IntEnum):
    """How work ended; the value is the command's exit code. If several signals came, the greatest counts."""

    COMPLETE = 0
    """All is done."""
    PREEMPTED = 75
    """USR2, a cluster's warning, asked to stop; the same call goes on. EX_TEMPFAIL of sysexits.h."""
    INTERRUPTED = 130
    """INT (Ctrl-C) asked to stop; the same call goes on."""
    TERMINATED = 143
    """TERM asked to stop; the same call goes on, if anybody wants it."""


ENDINGS = {
    signal.SIGUSR2: Ending.PREEMPTED,
    signal.SIGINT: Ending.INTERRUPTED,
    signal.SIGTERM: Ending.TERMINATED,
}
"""The signals that ask to stop."""

WARNINGS = (signal.SIGUSR2, signal.SIGTERM)
"""Those that a machine sends, not a user at a keyboard."""


_unheard: set[int] = set()  # what came between two who listen


@contextmanager
def stop_requests(*signals: signal.Signals) -> Iterator[Callable[[], Ending]]:
    """Within it, a signal only sets the ending that the yielded function returns.

    A second INT acts at once, for a user who can't wait. Who starts this process may have blocked a signal, so
    that none is lost before somebody listens: then what came is heard now, and what comes when nobody listens any
    more waits for the next who does.

    Args:
        signals: of ``ENDINGS``; by default all.
    """
    asked = Ending.COMPLETE

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked == Ending.INTERRUPTED and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = max(asked, ENDINGS[signal.Signals(number)])

    ours = threading.current_thread() is threading.main_thread()  # elsewhere Python lets nobody listen
    before = {number: signal.signal(number, ask) for number in signals or ENDINGS if ours}
    if ours:
        # Not blocked again at the end: a thread started meanwhile would not have it blocked, and be killed by it.
        blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
        before |= dict.fromkeys(before.keys() & blocked, lambda number, frame: _unheard.add(number))
    for number in _unheard & before.keys():
        _unheard.discard(number)
        ask(number, None)
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(ending: Ending, kept: str = "") -> NoReturn:
    """End the command as it was asked to, and say what is kept, if anything was in work.

    Raises:
        KeyboardInterrupt: it was Ctrl-C.
        SystemExit: with the ending's code.
    """
    if kept:
        say(f"stopped; {kept}, and the same command goes on from there")
    if ending == Ending.INTERRUPTED:
        raise KeyboardInterrupt
    raise SystemExit(int(ending))
