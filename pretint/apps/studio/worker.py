"""The one thread that computes for all clients of the studio, and the queue that gives each of them turns.

The queue gives turns to clients, not to requests: a client that sends much waits behind one that sends little. Of the
requests that wait in one lane, only the latest is served.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")

_MOST = 256  # jobs that wait


class Client(NamedTuple):
    """Who sends a request."""

    address: str
    """A network address; see ``pretint.apps.web.security.network``."""
    session: str
    """The cookie of one browser; anybody may make one up, so that it shares out only the turns of its address."""


class FairQueue(Generic[T]):
    """Items in lanes, of which each holds one. Addresses take turns; so do the sessions of one address.

    Lanes of one session are served in the order in which they were filled. Not thread-safe.
    """

    def __init__(self) -> None:
        self._addresses: OrderedDict[str, OrderedDict[str, OrderedDict[Hashable, T]]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(_count, self._addresses.values()))

    def put(self, client: Client, lane: Hashable, item: T) -> T | None:
        """Put an item at the place of the one before it in its lane, which is returned, or at the lane's end."""
        sessions = self._addresses.setdefault(client.address, OrderedDict())
        lanes = sessions.setdefault(client.session, OrderedDict())
        previous = lanes.get(lane)
        lanes[lane] = item
        return previous

    def pop(self) -> T:
        """Take the item whose turn it is. There must be one."""
        address, sessions = self._addresses.popitem(last=False)
        session, lanes = sessions.popitem(last=False)
        _, item = lanes.popitem(last=False)
        if lanes:
            sessions[session] = lanes  # behind the others
        if sessions:
            self._addresses[address] = sessions
        return item

    def make_room(self, client: Client) -> T | None:
        """Take away the newest item of whoever has most, if that is more than the client would have with one more.

        Returns:
            The item; None where nobody has more.
        """
        sessions = max(self._addresses.values(), key=_count)
        own_sessions = self._addresses.get(client.address, OrderedDict())
        if sessions is own_sessions:
            lanes = max(sessions.values(), key=len)
            if len(lanes) <= len(sessions.get(client.session, ())) + 1:
                return None
        elif _count(sessions) <= _count(own_sessions) + 1:
            return None
        else:
            lanes = max(sessions.values(), key=len)
        _, item = lanes.popitem()
        self._drop_empty()
        return item

    def remove(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take away all items that are unwanted, and return them."""
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
