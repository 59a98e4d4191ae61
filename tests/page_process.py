"""A page served by a real process, to be attacked over real sockets and stopped by real signals."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from browser import Site
from waits import PATIENCE, wait_until


class PageProcess(Site):
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

    def stop(self, number: int) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    @property
    def processor_seconds(self) -> float:
        """The time for which its threads have computed."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def connect(site: Site, sent: str = "") -> socket.socket:
    """A connection to a page; see ``PageProcess.connect``."""
    host, _, port = site.address.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=PATIENCE)
    connection.sendall(sent.replace("HOST", f"{host}:{port}").encode())
    return connection


def is_refused(site: Site) -> bool:
    """Whether a page takes no connections any more: it is being stopped."""
    host, _, port = site.address.removeprefix("http://").partition(":")
    with socket.socket() as trial:
        return trial.connect_ex((host, int(port))) != 0


@contextmanager
def serve_page(folder: Path, *words: str | Path) -> Iterator[PageProcess]:
    """Serve a page by ``pretint WORDS``; killed at the end if it still runs."""
    output = folder / "output.txt"
    command = [sys.executable, "-m", "pretint", *map(str, words), "--port", "0"]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    try:

        def find_address() -> "re.Match[str] | None":
            assert process.poll() is None, output.read_text()
            return re.search(r"(http://127\.0\.0\.1:\d+).*Ctrl-C stops", output.read_text(), re.DOTALL)

        wait_until(find_address, "the page is served", describe=output.read_text, every=0.05)
        address = find_address()
        assert address is not None
        yield PageProcess(process, output, address[1])
    finally:
        process.kill()
        process.wait(PATIENCE)
