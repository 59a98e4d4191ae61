"""The server of a page: uvicorn's, which ends within seconds whatever its requests do."""

import asyncio
import atexit
import os
import signal
import socket
import sys
import threading
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from pretext.engine.signals import ENDINGS, Ending
from pretint.apps.web.connections import BoundedProtocol

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
