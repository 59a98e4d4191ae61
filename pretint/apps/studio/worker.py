"""The one thread that computes for all clients of the studio, and the queue that gives each client its turn.

The queue gives turns to clients, not to requests: a client that sends many requests waits behind one that sends few. If
several requests wait in one lane, only the latest is served.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")

_MOST = 256  # jobs that wait


class Client(NamedTuple):
    """The sender of a request."""

    address: str
    """A network address; see ``pretint.apps.web.security.network``."""
    session: str
    """The cookie of one browser. A client can invent any number of cookies; they share the turns of its address."""


class FairQueue(Generic[T]):
    """A queue of items in lanes; each lane holds one item. Addresses take turns, and so do the sessions of one address.

    Lanes of one session are served in the order in which they were filled. Not thread-safe.
    """

    def __init__(self) -> None:
        self._addresses: OrderedDict[str, OrderedDict[str, OrderedDict[Hashable, T]]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(_count, self._addresses.values()))

    def put(self, client: Client, lane: Hashable, item: T) -> T | None:
        """Put an item into a lane. If the lane has an item, replace and return it; else add the lane at the end."""
        sessions = self._addresses.setdefault(client.address, OrderedDict())
        lanes = sessions.setdefault(client.session, OrderedDict())
        previous = lanes.get(lane)
        lanes[lane] = item
        return previous

    def pop(self) -> T:
        """Remove and return the item whose turn it is. There must be one."""
        address, sessions = self._addresses.popitem(last=False)
        session, lanes = sessions.popitem(last=False)
        _, item = lanes.popitem(last=False)
        if lanes:
            sessions[session] = lanes  # behind the others
        if sessions:
            self._addresses[address] = sessions
        return item

    def make_room(self, client: Client) -> T | None:
        """Remove the newest item of the client with the most items, if this client has fewer even with one more.

        Returns:
            The item; None if no client has more.
        """
        sessions = max(self._addresses.values(), key=_count)
        lanes = max(sessions.values(), key=len)
        client_sessions = self._addresses.get(client.address, OrderedDict())
        if sessions is client_sessions:
            difference = len(lanes) - len(sessions.get(client.session, ()))
        else:
            difference = _count(sessions) - _count(client_sessions)
        if difference <= 1:
            return None
        _, item = lanes.popitem()
        self._drop_empty()
        return item

    def remove(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Remove all items for which ``unwanted`` holds, and return them."""
        removed = []
        for sessions in self._addresses.values():
            for lanes in sessions.values():
                for lane, item in list(lanes.items()):
                    if unwanted(item):
                        removed.append(lanes.pop(lane))
        self._drop_empty()
        return removed

    def _drop_empty(self) -> None:
        for address, sessions in list(self._addresses.items()):
            for session, lanes in list(sessions.items()):
                if not lanes:
                    del sessions[session]
            if not sessions:
                del self._addresses[address]


def _count(sessions: OrderedDict[str, OrderedDict[Hashable, T]]) -> int:
    return sum(map(len, sessions.values()))


class SupersededError(Exception):
    """A later request in the same lane replaced this one before it began."""


class TooManyRequestsError(Exception):
    """Too many requests wait already."""


class _Job(NamedTuple):
    future: Future[Any]
    work: Callable[[], Any]


class Worker:
    """A thread that runs jobs, and gives each client its turn; see ``FairQueue``."""

    def __init__(self) -> None:
        self._queue: FairQueue[_Job] = FairQueue()
        self._changed = threading.Condition()
        self._open = True
        # A daemon: a job cannot be stopped, and must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="studio", daemon=True)
        self._thread.start()

    def submit(self, client: Client, lane: Hashable, job: Callable[[], T]) -> Future[T]:
        """Submit a job. It replaces the job that waits in its lane (`Superseded`).

        A job does not run if its future is canceled before.

        Raises:
            Crowded: too many jobs wait, and no client has more than this one. A job that is removed to make room for
                another client ends with the same error.
        """
        future: Future[T] = Future()
        with self._changed:
            removed = None
            if len(self._queue) >= _MOST:
                self._queue.remove(lambda waiting: waiting.future.cancelled())
            if len(self._queue) >= _MOST:
                removed = self._queue.make_room(client)
                if removed is None:
                    raise TooManyRequestsError
            previous = self._queue.put(client, lane, _Job(future, job))
            self._changed.notify()
        for dropped, reason in ((removed, TooManyRequestsError()), (previous, SupersededError())):
            if dropped is not None:
                _fail(dropped, reason)
        return future

    def close(self) -> None:
        """Start no further job. A running job continues, but its result is not used."""
        with self._changed:
            self._open = False
            dropped = self._queue.remove(lambda job: True)
            self._changed.notify()
        for job in dropped:
            _fail(job, SupersededError())

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or not self._open)
                if not self._open:
                    return
                future, work = self._queue.pop()
            if not future.set_running_or_notify_cancel():  # from here on it cannot be canceled
                continue
            try:
                result = work()
            except BaseException as problem:
                future.set_exception(problem)
            else:
                future.set_result(result)
            del future, work  # they may hold a photograph


def _fail(job: _Job, reason: Exception) -> None:
    if job.future.set_running_or_notify_cancel():  # unless the client has left
        job.future.set_exception(reason)
