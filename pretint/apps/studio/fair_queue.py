"""A queue that gives turns to clients, not to requests: whoever sends much waits behind whoever sends little."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


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
