"""A polite stop: Ctrl-C and TERM set a flag that the loop reads at a step's end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Within it, the first INT or TERM only sets the flag that the yielded function reads.

    A second INT acts at once, for a user who can't wait.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    ours = threading.current_thread() is threading.main_thread()  # elsewhere Python lets nobody listen
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM) if ours}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
