"""One thread that computes: one thing at a time, and of what waits in one lane only the latest."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from pretint.apps.studio.fair_queue import Client, FairQueue

T = TypeVar("T")

_MOST = 256  # jobs that wait


class Superseded(Exception):
    """A later request of the same lane came before this one began."""


class Crowded(Exception):
    """Too much waits already."""


class _Job(NamedTuple):
    future: Future[Any]
    work: Callable[[], Any]


class Workshop:
    """Does jobs in a thread of its own, which gives each client its turn; see ``FairQueue``."""

    def __init__(self) -> None:
        self._queue: FairQueue[_Job] = FairQueue()
        self._changed = threading.Condition()
        self._open = True
        # A daemon: what it computes cannot be stopped, and must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="studio", daemon=True)
        self._thread.start()

    def ask(self, client: Client, lane: Hashable, job: Callable[[], T]) -> Future[T]:
        """Have a job done; what waits in its lane is not done any more (`Superseded`).

        Whoever cancels the future before it is begun takes the job back.

        Raises:
            Crowded: too many jobs wait, and no client has more than this one. (A job that gives way ends so, too.)
        """
        future: Future[T] = Future()
        with self._changed:
            gone = None
            if len(self._queue) >= _MOST:
                self._queue.remove(lambda waiting: waiting.future.cancelled())
            if len(self._queue) >= _MOST:
                gone = self._queue.make_room(client)
                if gone is None:
                    raise Crowded
            previous = self._queue.put(client, lane, _Job(future, job))
            self._changed.notify()
        for dropped, reason in ((gone, Crowded()), (previous, Superseded())):
            if dropped is not None:
                _fail(dropped, reason)
        return future

    def close(self) -> None:
        """Begin nothing more. What is being done goes on, and nobody waits for it."""
        with self._changed:
            self._open = False
            dropped = self._queue.remove(lambda job: True)
            self._changed.notify()
        for job in dropped:
            _fail(job, Superseded())

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or not self._open)
                if not self._open:
                    return
                future, work = self._queue.pop()
            if not future.set_running_or_notify_cancel():  # from here on nobody can cancel it
                continue
            try:
                result = work()
            except BaseException as problem:
                future.set_exception(problem)
            else:
                future.set_result(result)
            del future, work  # nor what they hold: a photograph


def _fail(job: _Job, reason: Exception) -> None:
    if job.future.set_running_or_notify_cancel():  # unless whoever waited has left
        job.future.set_exception(reason)
