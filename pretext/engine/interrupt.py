"""A polite stop: a signal sets a flag that the loop reads at a step's end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType


class Ending(IntEnum):
    """How a training ended; the value is the command's exit code. If several signals came, the greatest counts."""

    COMPLETE = 0
    """All steps are done."""
    PREEMPTED = 75
    """TERM or USR2 (a cluster's warning) asked to stop; the same call goes on. EX_TEMPFAIL of sysexits.h."""
    INTERRUPTED = 130
    """Ctrl-C asked to stop; the same call goes on."""


ENDINGS = {
    signal.SIGINT: Ending.INTERRUPTED,
    signal.SIGTERM: Ending.PREEMPTED,
    signal.SIGUSR2: Ending.PREEMPTED,
}
"""The signals that ask a run to stop."""


@contextmanager
def stop_requests() -> Iterator[Callable[[], Ending]]:
    """Within it, a signal of ``ENDINGS`` only sets the ending that the yielded function returns.

    A second INT acts at once, for a user who can't wait.
    """
    asked = Ending.COMPLETE

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked == Ending.INTERRUPTED and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = max(asked, ENDINGS[signal.Signals(number)])

    ours = threading.current_thread() is threading.main_thread()  # elsewhere Python lets nobody listen
    before = {number: signal.signal(number, ask) for number in ENDINGS if ours}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
