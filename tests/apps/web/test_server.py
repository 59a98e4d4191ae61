"""Pages that are stopped while they are at work."""

import asyncio
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from browser import Site, serve_app
from colorize_files import encode_image, photograph, write_checkpoint
from page_process import PageProcess, connect, is_refused, serve_page
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from turing_studies import MakeStudy, make_study, write_images
from waits import PATIENCE, wait_until

from pretext.engine.signals import ExitStatus
from pretint.apps.studio.pages import studio_app
from pretint.apps.studio.photographs import OpenImages, ViewSettings
from pretint.apps.turing.pages import study_app
from pretint.apps.web.security import Guard
from pretint.apps.web.server import PageServer
from pretint.apps.web.sockets import address_of, open_listener
from pretint.colorization.networks import open_network

__all__ = ["make_study"]

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
UPLOAD = "POST /photographs HTTP/1.1\r\nHost: HOST\r\nContent-Length: 4000000\r\n\r\nabc"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.pt")


class BusyStudio(NamedTuple):
    page: PageProcess
    requests: list[socket.socket]
    """Those for colors."""


@pytest.fixture
def busy(model: Path, tmp_path: Path) -> Iterator[BusyStudio]:
    """A studio that colors for half a minute, while others wait, send slowly, or say nothing."""
    with serve_page(tmp_path, "studio", model, "--size", "4096", "--device", "cpu") as page, ExitStack() as stack:
        identity = page.ask("/photographs", encode_image(photograph(300, 200))).json["photograph"]
        before = page.processor_seconds
        bodies = [request_colors(identity, f"session-{session}") for session in range(3)]
        requests = [stack.enter_context(page.connect(body)) for body in bodies]
        for sent in (UPLOAD, UPLOAD, "", "GET / HTTP/1.1\r\nHo"):
            stack.enter_context(page.connect(sent))
        wait_until(lambda: page.processor_seconds > before + 0.5, "the first is being colored")
        yield BusyStudio(page, requests)


def request_colors(identity: str, session: str) -> str:
    body = json.dumps({"temperature": 0.38, "saturation": 1})
    head = f"POST /photographs/{identity}/colored HTTP/1.1\r\nHost: HOST\r\nCookie: pretint-studio={session}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}"


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_signals_end_a_studio_at_work(busy: BusyStudio, numbers: list[int]) -> None:
    page = busy.page
    for number in numbers[:-1]:
        page.process.send_signal(number)
        wait_until(lambda: is_refused(page), "the studio is being stopped")
    code = page.stop(numbers[-1])
    _, _, output = page.output.partition("Ctrl-C stops")
    assert code == CODES[signal.Signals(numbers[-1])], page.output
    assert "Traceback" not in output and "Error" not in output and "Cancel" not in output
    assert output.count("pretint:") == (numbers[-1] == signal.SIGINT)
    assert len(page.output.splitlines()) <= 3
    assert not any(map(read_answer, busy.requests)), "the colors were not waited for"
    open_listener(*page.place).close()


def read_answer(connection: socket.socket) -> bytes:
    """Return the beginning of an answer, nothing if the connection is closed without one."""
    try:
        return connection.recv(4000)
    except ConnectionResetError:
        return b""


@pytest.mark.slow
def test_one_signal_ends_a_study_at_work(tmp_path: Path) -> None:
    real, fake = write_images(tmp_path / "images", ["a", "b", "c"], 1)
    words = ["--real", real, "--algorithm", f"one={fake}", "--practice", "1", "--trials", "2", "--size", "16"]
    with serve_page(tmp_path, "turing", tmp_path / "study", *words) as page, ExitStack() as stack:
        place = join(page, page.output.partition("/join/")[2].split()[0])
        for sent in (f"POST {place}/seen HTTP/1.1\r\nHost: HOST\r\nContent-Length: 20\r\n\r\nabc", "", "GET / HT"):
            stack.enter_context(page.connect(sent))
        stack.enter_context(locked(tmp_path / "study" / "study.db"))
        for _ in range(3):
            stack.enter_context(page.connect(see(place)))
        assert page.ask("/static/none").status == 404, "so that the others were read"
        code = page.stop(signal.SIGTERM)
    assert "1 participants, 0 of them finished" in page.output
    said = page.output.partition("Ctrl-C stops")[2]
    assert "Traceback" not in said and code == 143, page.output
    open_listener(*page.place).close()


@pytest.mark.slow
def test_a_study_ends_though_many_wait_to_write(make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait one after the other, each for as long as another program has the file; but not after the stop."""
    store = make_study()
    attempts: list[str] = []
    attempts_before_stop: list[int] = []
    refuse_writes = store.refuse_writes

    def count_and_refuse() -> None:
        refuse_writes()
        attempts_before_stop.append(len(attempts))

    monkeypatch.setattr(store, "refuse_writes", count_and_refuse)
    with ExitStack() as stack:
        with serve_app(lambda address: study_app(store, "a long token", address, set())) as site:
            place = join(site, store.facts.token)
            stack.enter_context(locked(store.file))
            store._db.set_trace_callback(lambda sql: attempts.append(sql) if sql.startswith("BEGIN") else None)
            for _ in range(40):
                stack.enter_context(connect(site, see(place)))
            wait_until(lambda: attempts, "the first waits to write")
            threads = threading.enumerate()
        for thread in threads:
            if "AnyIO" in thread.name:  # the end of a process waits for them
                thread.join(PATIENCE)
                assert not thread.is_alive()
        assert len(attempts) <= attempts_before_stop[0] + 1, "nobody else waits, except who had begun to"
        with pytest.raises(sqlite3.Error, match="closed"):
            store.join("late", "yes")
        assert [finished for _, finished in store.participants()] == [False], "it can be read"


def test_a_second_signal_does_not_wait_for_the_requests_in_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretint.apps.web.server._GRACE", 600.0)
    begun = threading.Event()

    async def sleep(request: Request) -> Response:
        begun.set()
        await asyncio.sleep(600)
        return Response()

    listener = open_listener("127.0.0.1", 0)
    server = PageServer(Guard(Starlette(routes=[Route("/", sleep)]), set()))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    with connect(Site(address_of(listener)), "GET / HTTP/1.1\r\nHost: HOST\r\n\r\n"):
        assert begun.wait(PATIENCE)
        server.handle_exit(signal.SIGTERM, None)
        thread.join(1)
        assert thread.is_alive(), "the request has its time"
        server.handle_exit(signal.SIGINT, None)
        thread.join(PATIENCE)
        assert not thread.is_alive() and server.ending == ExitStatus.TERMINATED


SLOW_END = """
import atexit, time
from pretint.apps.web.sockets import open_listener
from pretint.apps.web.server import PageServer, run_server

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        print("serving", flush=True)
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

def end():
    print("ending", flush=True)
    time.sleep(3600)

atexit.register(end)
run_server(PageServer(app), open_listener("127.0.0.1", 0))
"""


def test_a_signal_while_python_ends_prints_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW_END]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout and process.stderr
        for line in (b"serving\n", b"ending\n"):
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == -signal.SIGINT and process.stderr.read() == b""


def test_what_was_begun_is_answered(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, begun = OpenImages(open_network(model, "cpu", 48), "tiny", 1_000_000), threading.Event()
    monkeypatch.setattr("pretint.apps.web.server._GRACE", PATIENCE)

    def color(identity: str, look: ViewSettings) -> Image.Image:
        begun.set()
        wait_until(lambda: is_refused(site), "the studio is being stopped")
        return OpenImages.colored(table, identity, look)

    monkeypatch.setattr(table, "colored", color)
    with ExitStack() as stack:
        with serve_app(lambda address: studio_app(table, 1, set())) as site:
            identity = site.ask("/photographs", encode_image(photograph())).json["photograph"]
            connection = stack.enter_context(connect(site, request_colors(identity, "mine")))
            assert begun.wait(PATIENCE)
        assert connection.recv(4000).startswith(b"HTTP/1.1 200")


def join(site: Site, link: str) -> str:
    joined = site.ask(f"/join/{link}", b"vision=yes", content_type="application/x-www-form-urlencoded")
    return joined.headers["location"]


def see(place: str) -> str:
    body = '{"trial": 0}'
    head = f"POST {place}/seen HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}"


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Another program writes to a study, and does not come to an end."""
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
