"""Sockets that stand open, by themselves and in a crowd."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from browser import Site, serve_app
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from waits import PATIENCE

from pretint.apps.web import server
from pretint.apps.web.security import Guard


async def length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture
def site() -> Iterator[Site]:
    app = Starlette(routes=[Route("/", length, methods=["GET", "POST"])])
    with serve_app(lambda address: Guard(app, set())) as served:
        yield served


@contextmanager
def connected(site: Site, sent: str = "") -> Iterator[socket.socket]:
    host, _, port = site.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(sent.replace("HERE", f"{host}:{port}").encode())
        yield connection


def closed(connection: socket.socket) -> bool:
    """Whether the other side closes it, after what it has to say and within the timeout of ``connected``."""
    try:
        return any(not connection.recv(4000) for _ in range(100))
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


GET = "GET / HTTP/1.1\r\nHost: HERE\r\n\r\n"
POST = "POST / HTTP/1.1\r\nHost: HERE\r\nContent-Length: 9\r\n\r\n"


def test_idle_connections_lock_nobody_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class of 43 browsers behind one address has 6 connections each."""
    monkeypatch.setattr(server, "EACH", 20)
    with ExitStack() as stack:
        for _ in range(60):
            connection = stack.enter_context(connected(site, GET))
            assert connection.recv(4000).startswith(b"HTTP/1.1 200"), "and it stays open"
        assert site.ask("/").status == 200


def test_an_idle_connection_gives_way_and_one_with_a_request_does_not(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "EACH", 2)
    with ExitStack() as stack:
        busy = stack.enter_context(connected(site, POST))
        idle = stack.enter_context(connected(site, GET))
        assert idle.recv(4000).startswith(b"HTTP/1.1 200")
        later = stack.enter_context(connected(site, POST))
        assert closed(idle)
        assert closed(stack.enter_context(connected(site))), "both that are open are at work"
        for connection in (busy, later):
            connection.sendall(b"x" * 9)
            assert connection.recv(4000).startswith(b"HTTP/1.1 200")


def test_connections_are_bounded_together(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST", 1)
    with connected(site, GET) as idle:
        assert idle.recv(4000).startswith(b"HTTP/1.1 200")
        assert site.ask("/").status == 200
        assert closed(idle)


@pytest.mark.parametrize("sent", ["", "GET / HTTP/1.1\r\nHost: HE", GET])
def test_a_head_that_does_not_come_is_not_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch, sent: str) -> None:
    monkeypatch.setattr(server, "_HEAD", 0.2)
    with connected(site, sent) as connection:
        if sent == GET:
            assert connection.recv(4000).startswith(b"HTTP/1.1 200")
            connection.sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert closed(connection)


def test_a_head_in_drops_has_no_more_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEAD", 0.3)
    with connected(site, "GET / HTTP/1.1\r\n") as connection:
        connection.settimeout(0.02)
        connection.sendall(b"a: ")
        for _ in range(12_000):  # minutes: keep-alive, which each drop would begin again, has 15 seconds
            try:
                connection.sendall(b"b")
                if not connection.recv(1):
                    return
            except TimeoutError:
                pass
            except ConnectionError:
                return
    raise AssertionError("it was waited for")


def test_a_proxy_has_as_many_connections_as_it_likes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "EACH", 1)
    app = Starlette(routes=[Route("/", length, methods=["GET", "POST"])])
    with serve_app(lambda address: app, behind_proxy=True) as proxied, connected(proxied, POST) as one:
        assert proxied.ask("/").status == 200
        one.sendall(b"x" * 9)
        assert one.recv(4000).startswith(b"HTTP/1.1 200")


@pytest.fixture
def large_site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """It answers 20 MB, and expects them to be read at 1 MB/s."""
    monkeypatch.setattr(server, "_PATIENCE", 0.5)
    monkeypatch.setattr(server, "_SLOWEST", 1e6)
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse(b"x" * 20_000_000))])
    with serve_app(lambda address: Guard(app, set())) as served:
        yield served


def test_an_answer_that_is_not_read_is_not_kept(large_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = threading.Event()
    connection_lost = server.BoundedProtocol.connection_lost

    def lose(protocol: server.BoundedProtocol, error: Exception | None) -> None:
        connection_lost(protocol, error)
        lost.set()

    monkeypatch.setattr(server.BoundedProtocol, "connection_lost", lose)
    with connected(large_site, GET) as connection:
        assert lost.wait(PATIENCE)
        assert count_bytes(connection) < 20_000_000


@pytest.mark.slow
def test_an_answer_that_is_read_slowly_comes_whole(large_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 5 seconds or more, longer than one may pause."""
    monkeypatch.setattr(server, "_PATIENCE", 3.0)
    monkeypatch.setattr(server, "_SLOWEST", 1.0)
    with connected(large_site, GET.replace("Host", "Connection: close\r\nHost")) as connection:
        assert count_bytes(connection, 4e6) > 20_000_000


CHUNKED = "POST / HTTP/1.1\r\nHost: HERE\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"


@pytest.mark.parametrize(
    ("sent", "rest"),
    [
        ("no request\r\n\r\n", ""),
        (f"{CHUNKED}no chunk\r\n", ""),
        (CHUNKED.replace("POST", "GET").replace("GET /", "GET /quick"), "no chunk\r\n"),
    ],
)
def test_what_is_no_request_is_no_error(caplog: pytest.LogCaptureFixture, sent: str, rest: str) -> None:
    routes = [Route("/", length, methods=["POST"]), Route("/quick", lambda request: PlainTextResponse("quick"))]
    with serve_app(lambda address: Guard(Starlette(routes=routes), set())) as site, connected(site, sent) as connection:
        if rest:
            assert connection.recv(4000).startswith(b"HTTP/1.1 200"), "before all of its body came"
            connection.sendall(rest.encode())
        assert closed(connection)
    assert not caplog.records


def count_bytes(connection: socket.socket, per_second: float = float("inf")) -> int:
    """How many come until the other side closes it, or does not say anything any more."""
    count = 0
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(1 << 20):
            count += len(data)
            time.sleep(len(data) / per_second)
    return count
