"""The server of a page: uvicorn with a limit of connections; it ends within seconds, whatever its requests do.

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

from pretext.engine.signals import ENDINGS, ExitStatus
from pretint.apps.web.security import network

EACH = 256
"""The number of connections of one address, see ``network``; a proxy may have ``most``."""

MOST = 4096
"""The number of connections at once, if the system allows this process as many open files."""

_PATIENCE = 30.0  # seconds between checks that an answer is being read
_SLOWEST = 25_000.0  # bytes of an answer a second
_HEAD = 15.0  # seconds for a request's first line and headers, from the connection or their first byte on
_GRACE = 3.0  # seconds that requests in progress have after the signal
_FAREWELL = 1.0  # seconds for requests to notice that their connections are closed
_SPARE = 128  # open files that are not connections


class CountingTransport:
    """A transport that counts the bytes written to it."""

    def __init__(self, transport: Any) -> None:
        self._transport, self._written = transport, 0

    def write(self, data: bytes) -> None:
        """Write, and count."""
        self._written += len(data)
        self._transport.write(data)

    @property
    def pending(self) -> int:
        """The number of bytes that the other side has not read."""
        return int(self._transport.get_write_buffer_size())

    @property
    def taken(self) -> int:
        """The number of bytes that it has read."""
        return self._written - self.pending

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedProtocol(H11Protocol):
    """Uvicorn's protocol with a limit of connections, and of the time to send a request and to read an answer."""

    _head: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None
    _network = ""
    _since = 0.0  # when it became idle, on the loop's clock

    def connection_made(self, transport: Any) -> None:
        """Accept a connection; if there are too many, close the one that is idle for longest."""
        transport = CountingTransport(transport)
        super().connection_made(cast(asyncio.Transport, transport))
        self._reading = self.loop.call_later(_PATIENCE, self._check_reading, transport, 0, 0)
        self._network, self._since = network(self.client[0] if self.client else ""), self.loop.time()
        self._head = self.loop.call_later(_HEAD, transport.abort)
        connections: list[Any] = [*self.connections]
        others = [each for each in connections if each is not self and not each.transport.is_closing()]
        same_network = [each for each in others if each._network == self._network]
        if len(same_network) >= EACH and not self.config.proxy_headers:
            candidates = same_network
        elif len(others) >= most():
            candidates = others
        else:
            return
        idle = [each for each in candidates if each.idle]
        min(idle, key=lambda each: each._since, default=self).transport.abort()

    @property
    def idle(self) -> bool:
        """Whether all its requests are answered."""
        return self.cycle is None or self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Receive data. The time limit is for the head as a whole: small pieces do not extend it."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before and self._head:
            self._head.cancel()
            self._head = None
        elif self.idle and self._head is None:
            self._head = self.loop.call_later(_HEAD, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Answer an invalid request; uvicorn would fail if another answer has begun."""
        if self.conn.our_state is h11.IDLE:
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def _check_reading(self, transport: CountingTransport, taken: int, pending: int) -> None:
        """Close a connection that since the last check read less than was pending then, and than ``_SLOWEST``."""
        if transport.taken - taken < min(pending, _SLOWEST * _PATIENCE):
            transport.abort()
        else:
            checked = transport.taken, transport.pending
            self._reading = self.loop.call_later(_PATIENCE, self._check_reading, transport, *checked)

    def on_response_complete(self) -> None:
        """Note when the connection became idle."""
        self._since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        for timer in (self._head, self._reading):
            if timer:
                timer.cancel()
        super().connection_lost(exc)


def most() -> int:
    """Return ``MOST``, or the number that this process may have."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if files == resource.RLIM_INFINITY else min(MOST, max(_SPARE, files - _SPARE))


class PageServer(uvicorn.Server):
    """Serves an application until a signal.

    Args:
        app: the application. When it is canceled, its client is gone, and it returns (as ``Guard`` does).
        behind_proxy: trust a proxy on this machine about the client's address.
    """

    def __init__(self, app: ASGIApp, behind_proxy: bool = False) -> None:
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            log_level="error",  # its warnings are about requests of strangers
            access_log=False,  # the addresses of these pages are secrets
            proxy_headers=behind_proxy,
            forwarded_allow_ips="127.0.0.1,::1",  # FORWARDED_ALLOW_IPS is not used
            server_header=False,
            timeout_keep_alive=15,
            ws="none",
        )
        super().__init__(config)
        self.ending = ExitStatus.COMPLETE
        """The signal that stopped it, if one did."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop. After a second signal, requests in progress are not waited for."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self.ending = max(self.ending, ENDINGS[signal.Signals(sig)])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait at most ``_GRACE`` for the requests in progress; then close their connections."""
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
        await asyncio.sleep(0.01)  # uvicorn notes that they are gone, and does not log that they are canceled
        for task in list(state.tasks):
            task.cancel()
        if state.tasks:
            await asyncio.wait(list(state.tasks), timeout=_FAREWELL)
        await self.lifespan.shutdown()


def run_server(server: PageServer, listener: socket.socket) -> ExitStatus:
    """Serve until a signal, and return it.

    A daemon thread that still computes cannot be stopped. If it outlasts the program, the process ends without
    finalizing Python: PyTorch would abort in a thread that returns to an interpreter that is gone.
    """
    before = set(threading.enumerate())
    server.run(sockets=[listener])
    # Another Ctrl-C while Python is finalized ends the process, without a traceback.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)
    running = [thread for thread in threading.enumerate() if thread.daemon and thread not in before]
    if running:

        def exit_despite_threads() -> None:
            if any(thread.is_alive() for thread in running):
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(server.ending)

        atexit.register(exit_despite_threads)
    return server.ending


def serve(app: ASGIApp, listener: socket.socket, behind_proxy: bool = False) -> ExitStatus:
    """Answer requests until Ctrl-C or TERM. After it, requests in progress have a few seconds.

    Args:
        app: the application.
        listener: of ```open_listener``; closed at the end.
        behind_proxy: trust a proxy on this machine about the client's address.

    Returns:
        The signal, for ``exit_with``.
    """
    # Raise this process's limit of open files to what MOST needs, if possible: some systems start at 256.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + _SPARE if hard == resource.RLIM_INFINITY else min(MOST + _SPARE, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    with listener:
        return run_server(PageServer(app, behind_proxy), listener)
