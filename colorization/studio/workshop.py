"""One thread that computes: one thing at a time, and of what waits in one lane only the latest."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_LANES = 32


class Superseded(Exception):
    """A later request of the same lane came before this one began."""


class Crowded(Exception):
    """Too much waits already."""


class Workshop:
    """Does jobs in a thread of its own, in the order in which their lanes were asked for."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, tuple[Future[Any], Callable[[], Any]]] = OrderedDict()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._work, name="studio", daemon=True)
        self._thread.start()

    def ask(self, lane: Hashable, job: Callable[[], T]) -> Future[T]:
        """Have a job done; what waits in its lane is not done any more (`Superseded`). Raises `Crowded`."""
        future: Future[T] = Future()
        with self._changed:
            before = self._waiting.get(lane)
            if before is None and len(self._waiting) >= _LANES:
                raise Crowded
            self._waiting[lane] = future, job  # in the place of the one before: who asks often waits no longer
            self._changed.notify()
        if before is not None:
            before[0].set_exception(Superseded())
        return future

    def close(self) -> None:
        """Finish what is being done, and nothing more."""
        with self._changed:
            self._open = False
            dropped = list(self._waiting.values())
            self._waiting.clear()
            self._changed.notify()
        for future, _ in dropped:
            future.set_exception(Superseded())
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or not self._open)
                if not self._open:
                    return
                _, (future, job) = self._waiting.popitem(last=False)
            try:
                result = job()
            except BaseException as problem:
                future.set_exception(problem)
            else:
                future.set_result(result)
