"""A page served by a real process, to be attacked over real sockets and stopped by real signals."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from browser import Site
from processes import PATIENCE


class Served(Site):
    """A running command, and the page that it serves."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path, address: str) -> None:
        super().__init__(address)
        self.process, self._output = process, output
        host, _, port = address.removeprefix("http://").partition(":")
        self.place = host, int(port)

    @property
    def output(self) -> str:
        """All that it printed so far, on standard output and standard error."""
        return self._output.read_text(errors="replace")

    def connect(self, sent: str = "") -> socket.socket:
        """A connection on which something is sent; HOST stands for the page's name."""
        return connect(self, sent)

    def stop(self, number: int) -> tuple[int, float]:
        """Send a signal; returns the exit code, and how many seconds it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(PATIENCE), time.monotonic() - began


def connect(site: Site, sent: str = "") -> socket.socket:
    """A connection to a page; see ``Served.connect``."""
    host, _, port = site.address.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(sent.replace("HOST", f"{host}:{port}").encode())
    return connection


@contextmanager
def served(folder: Path, *words: str | Path) -> Iterator[Served]:
    """Serve a page by ``pretint WORDS``; killed at the end if it still runs."""
    output = folder / "output.txt"
    command = [sys.executable, "-m", "pretint", *map(str, words), "--port", "0"]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    try:
        while not (line := re.search(r"(http://127\.0\.0\.1:\d+).*Ctrl-C stops", output.read_text(), re.DOTALL)):
            assert process.poll() is None, output.read_text()
            time.sleep(0.05)
        yield Served(process, output, line[1])
    finally:
        process.kill()
        process.wait()
