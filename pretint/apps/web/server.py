"""The server of a page: uvicorn's, with bounded connections, which ends within seconds whatever its requests do.

A page limits how many connections it holds, and how long one may keep it waiting. Sockets are counted. A browser must
not be refused only because idle connections are open, so idle ones are closed first: a class behind one address can
have any number of browsers.
"""

import asyncio
import atexit
import contextlib
import os
import resource
import signal
import socket
import sys
import threading
from types import FrameType
from typing import Any, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from pretext.engine.signals import ENDINGS, Ending
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


_GRACE = 3.0  # seconds that requests in progress have after the signal
_FAREWELL = 1.0  # seconds for them to notice that their connections are closed


class PageServer(uvicorn.Server):
    """Serves an application until a signal.

    Args:
        app: the application. When it is canceled, it returns (as ``Guard`` does): by then its client is gone.
        behind_proxy: believe a proxy on this machine about who asks.
    """

    def __init__(self, app: ASGIApp, behind_proxy: bool = False) -> None:
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            log_level="error",  # its warnings are about what strangers send
            access_log=False,  # the addresses of these pages are secrets
            proxy_headers=behind_proxy,
            forwarded_allow_ips="127.0.0.1,::1",  # whatever FORWARDED_ALLOW_IPS says
            server_header=False,
            timeout_keep_alive=15,
            ws="none",
        )
        super().__init__(config)
        self.ending = Ending.COMPLETE
        """The signal that came, if one did."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop. A second signal does not wait for the requests in progress."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self.ending = max(self.ending, ENDINGS[signal.Signals(sig)])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer the requests in progress if that takes no longer than ``_GRACE``; then close their connections."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        deadline = asyncio.get_running_loop().time() + _GRACE
        while (state.connections or state.tasks) and not self.force_exit:
            if asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(0.05)
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.sleep(0.01)  # uvicorn notes that they are gone, and logs nothing of what is canceled
        for task in list(state.tasks):
            task.cancel()
        if state.tasks:
            await asyncio.wait(list(state.tasks), timeout=_FAREWELL)
        await self.lifespan.shutdown()


def run_server(server: PageServer, listener: socket.socket) -> Ending:
    """Serve until a signal, and return which it was.

    What is still computed in a daemon thread by then cannot be stopped. If it outlasts the program, the process ends
    without finalizing Python: PyTorch would abort in a thread that comes back to an interpreter that is gone.
    """
    before = set(threading.enumerate())
    server.run(sockets=[listener])
    # One more Ctrl-C while Python is finalized ends that as well, without a traceback from the middle of it.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)
    running = [thread for thread in threading.enumerate() if thread.daemon and thread not in before]
    if running:
        atexit.register(_exit_despite, running, server.ending)
    return server.ending


def _exit_despite(threads: list[threading.Thread], ending: Ending) -> None:
    if any(thread.is_alive() for thread in threads):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ending)


def serve(app: ASGIApp, listener: socket.socket, behind_proxy: bool = False) -> Ending:
    """Answer requests until Ctrl-C or TERM, after which what was begun is answered if it takes no longer than seconds.

    Args:
        app: what answers.
        listener: of ```bound``; closed at the end.
        behind_proxy: believe a proxy on this machine about who asks.

    Returns:
        Which signal it was; for ``leave``.
    """
    allow_files()
    with listener:
        return run_server(PageServer(app, behind_proxy), listener)
