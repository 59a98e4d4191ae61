"""How many connections a page holds, and for how long one may keep it waiting.

What is counted are sockets, but a browser that is refused one only because idle ones are open would be refused for
nothing: idle ones go first. So a class behind one address can have any number of browsers.
"""

import asyncio
import contextlib
import resource
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from pretint.apps.web.security import network

EACH = 256
"""Connections of one address, see ``network``; of a proxy, as many as there may be."""

MOST = 4096
"""Connections at once, as far as the system lets this process have as many open files."""

_PATIENCE = 30.0  # seconds after which it is looked whether an answer is being read
_SLOWEST = 25_000.0  # bytes of an answer a second
_HEAD = 15.0  # seconds for a request's first line and headers, from the connection or their first byte on
_SPARE = 128  # open files that are no connections


class CountingTransport:
    """A transport that counts the bytes that are written to it."""

    def __init__(self, transport: Any) -> None:
        self._transport, self._written = transport, 0

    def write(self, data: bytes) -> None:
        """Write, and count."""
        self._written += len(data)
        self._transport.write(data)

    @property
    def pending(self) -> int:
        """How many bytes the other side has not taken."""
        return int(self._transport.get_write_buffer_size())

    @property
    def taken(self) -> int:
        """How many bytes it has."""
        return self._written - self.pending

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedProtocol(H11Protocol):
    """Uvicorn's protocol, for bounded connections that send their requests, and read their answers, in time."""

    _head: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None
    _network = ""
    _since = 0.0  # of being idle, on the loop's clock

    def connection_made(self, transport: Any) -> None:
        """Let the longest idle one go where there are too many."""
        transport = CountingTransport(transport)
        super().connection_made(cast(asyncio.Transport, transport))
        self._reading = self.loop.call_later(_PATIENCE, self._check_reading, transport, 0, 0)
        self._network, self._since = network(self.client[0] if self.client else ""), self.loop.time()
        self._head = self.loop.call_later(_HEAD, transport.abort)
        everybody: list[Any] = [*self.connections]
        others = [one for one in everybody if one is not self and not one.transport.is_closing()]
        mine = [one for one in others if one._network == self._network]
        if len(mine) >= EACH and not self.config.proxy_headers:
            crowd = mine
        elif len(others) >= most():
            crowd = others
        else:
            return
        idle = [one for one in crowd if one.idle]
        min(idle, key=lambda one: one._since, default=self).transport.abort()

    @property
    def idle(self) -> bool:
        """Whether it has no request that is not answered."""
        return self.cycle is None or self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """A request's head has its time as a whole: one that comes in drops does not get more."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before and self._head:
            self._head.cancel()
            self._head = None
        elif self.idle and self._head is None:
            self._head = self.loop.call_later(_HEAD, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request; uvicorn would fail where another answer has begun."""
        if self.conn.our_state is h11.IDLE:
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def _check_reading(self, transport: CountingTransport, taken: int, pending: int) -> None:
        """Let go who took less since the last check than was pending then, and less than ``_SLOWEST`` allows."""
        if transport.taken - taken < min(pending, _SLOWEST * _PATIENCE):
            transport.abort()
        else:
            checked = transport.taken, transport.pending
            self._reading = self.loop.call_later(_PATIENCE, self._check_reading, transport, *checked)

    def on_response_complete(self) -> None:
        """Idle from here on."""
        self._since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        for timer in (self._head, self._reading):
            if timer:
                timer.cancel()
        super().connection_lost(exc)


def most() -> int:
    """``MOST``, or what this process may have."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if files == resource.RLIM_INFINITY else min(MOST, max(_SPARE, files - _SPARE))


def allow_files() -> None:
    """Have the system allow as many open files as ``MOST`` needs, as far as it does: some begin with 256."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + _SPARE if hard == resource.RLIM_INFINITY else min(MOST + _SPARE, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
