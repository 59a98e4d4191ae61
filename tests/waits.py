"""Waits for events that must come: with a generous deadline, and a message that says what did not."""

import time
from collections.abc import Callable

PATIENCE = 600.0
"""Seconds until a wait fails; a busy machine is slow."""


def wait_until(
    is_true: Callable[[], object],
    event: str,
    *,
    describe: Callable[[], object] = lambda: "",
    patience: float = PATIENCE,
    every: float = 0.01,
) -> None:
    """Return when ``is_true()`` holds; fail if it does not within ``patience`` seconds.

    Args:
        is_true: the condition; it may raise to end the wait.
        event: what is waited for, for the message.
        describe: what is known then, for the message.
        patience: the deadline in seconds.
        every: seconds between two looks.
    """
    deadline = time.monotonic() + patience
    while not is_true():
        assert time.monotonic() < deadline, f"not within {patience:.0f} seconds: {event}\n{describe()}"
        time.sleep(every)
