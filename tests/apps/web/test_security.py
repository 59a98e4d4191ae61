"""The guard and the socket, by themselves."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from browser import Site, serve_app
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from waits import PATIENCE

from pretext.errors import UserError
from pretint.apps.web.security import HEADERS, Buckets, Guard, RateLimit, limit_addresses, names_here
from pretint.apps.web.sockets import address_of, open_listener


async def length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    app = Starlette(routes=[Route("/{rest:path}", length, methods=["GET", "POST"])])
    with serve_app(lambda address: Guard(app, {"study.example"}, bodies={"/": 1000, "/large": 50_000})) as served:
        yield served


@pytest.mark.parametrize(("path", "most"), [("/", 1000), ("/small", 1000), ("/large/x", 50_000)])
def test_a_body_is_bounded_whether_or_not_it_says_its_length(site: Site, path: str, most: int) -> None:
    assert site.ask(path, b"x" * most).body == str(most).encode()
    assert site.ask(path, b"x" * (most + 1)).status == 413
    assert _chunked(site, path, [most // 2] * 2).startswith("HTTP/1.1 200")
    assert _chunked(site, path, [most // 2] * 3).startswith("HTTP/1.1 413")


def _chunked(site: Site, path: str, lengths: list[int]) -> str:
    """The answer to a body in chunks, that says nothing of its length before."""
    host, _, port = site.address.removeprefix("http://").partition(":")
    chunks = b"".join(b"%x\r\n%s\r\n" % (one, b"x" * one) for one in lengths)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost.invalid\r\n".replace("localhost.invalid", f"{host}:{port}")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n")
        return connection.recv(4000).decode()


def test_every_answer_is_dressed(site: Site) -> None:
    for answered in (site.ask("/"), site.ask("/", host="evil.example"), site.ask("/", b"x" * 2000)):
        assert {name: answered.headers.get(name) for name in HEADERS} == HEADERS
        assert answered.headers["cache-control"] == "no-store"
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "*" not in policy


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "cross-site", "origin": "http://study.example"}, 403),
        ({"origin": "http://study.example"}, 200),
        ({"origin": "http://STUDY.example"}, 200),
        ({"origin": "http://study.example:81"}, 403),
        ({"origin": "http://study.example.evil"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_what_changes_something_comes_from_a_page_of_ours(site: Site, headers: dict[str, str], status: int) -> None:
    assert site.ask("/", b"x", host="study.example", **headers).status == status
    assert site.ask("/", host="study.example", **headers).status == 200, "reading harms nobody"


def test_behind_a_proxy_that_asks_under_another_name() -> None:
    app = Starlette(routes=[Route("/", length, methods=["POST"])])
    with serve_app(lambda address: Guard(app, set(), public="https://study.example")) as site:
        assert site.ask("/", b"x", origin="https://study.example").status == 200
        assert site.ask("/", b"x", origin="http://study.example").status == 403


def test_a_body_that_stands_still_is_not_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretint.apps.web.security._PATIENCE", 0.1)
    host, _, port = site.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\nhalf".encode())
        assert connection.recv(4000).startswith(b"HTTP/1.1 408")


def test_a_body_in_drops_has_no_more_time_than_its_bytes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretint.apps.web.security._PATIENCE", 0.5)
    host, _, port = site.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=0.02) as connection:
        connection.sendall(f"POST /large HTTP/1.1\r\nHost: {host}\r\nContent-Length: 20000\r\n\r\n".encode())
        for _ in range(19_999):  # minutes
            connection.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                assert connection.recv(4000).startswith(b"HTTP/1.1 408")
                return
    raise AssertionError("it was waited for")


def send_slowly(site: Site, chunks: int) -> bytes:
    """The first bytes of the answer to a body of so many chunks of 10 bytes, each 0.1 seconds after the one before."""
    host, _, port = site.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {10 * chunks}\r\n\r\n".encode())
        for _ in range(chunks):
            time.sleep(0.1)
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"x" * 10)
        return connection.recv(12)


@pytest.mark.slow
def test_a_steady_body_has_time_for_all_of_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 4 seconds or more, longer than one may pause; each byte gives it another second."""
    monkeypatch.setattr("pretint.apps.web.security._PATIENCE", 3.0)
    monkeypatch.setattr("pretint.apps.web.security._SLOWEST", 1.0)
    assert send_slowly(site, 40) == b"HTTP/1.1 200"
    monkeypatch.setattr("pretint.apps.web.security._LONGEST", 1.0)
    assert send_slowly(site, 20) == b"HTTP/1.1 408"


def test_who_leaves_in_the_middle_of_a_body_is_no_error(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    host, _, port = site.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\nhalf".encode())
        assert site.ask("/").status == 200, "so that the other was read"
    logging.getLogger("uvicorn.error").addHandler(caplog.handler)
    try:
        for _ in range(20):
            assert site.ask("/").status == 200
    finally:
        logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert not caplog.records


def test_a_bucket_against_its_definition() -> None:
    now = 0.0
    buckets = Buckets(RateLimit(3, 0.5), lambda: now)
    assert [buckets.wait("a") for _ in range(3)] == [0, 0, 0]
    assert buckets.wait("a") == 2 and buckets.wait("b") == 0
    now = 1.0
    assert buckets.wait("a") == pytest.approx(1)
    now = 2.0
    assert buckets.wait("a") == 0 and buckets.wait("a") > 0
    now = 1000.0
    assert [buckets.wait("a") > 0 for _ in range(4)] == [False, False, False, True], "and no more than its burst"


@given(st.lists(st.floats(0, 5), max_size=60))
def test_no_client_passes_more_often_than_its_rate(pauses: list[float]) -> None:
    now = 0.0
    buckets = Buckets(RateLimit(4, 0.7), lambda: now)
    passed = 0
    for pause in pauses:
        now += pause
        passed += buckets.wait("a") == 0
        assert passed <= 4 + 0.7 * now + 1e-6


def test_many_clients_take_bounded_memory_and_one_household_is_one() -> None:
    buckets = Buckets(RateLimit(1, 0.001))
    for client in range(10_000):
        buckets.wait(str(client))
    assert len(buckets._left) <= 4096

    limit = limit_addresses(RateLimit(1, 0.001))

    def asks(address: str) -> int | None:
        return 429 if limit({"type": "http", "client": (address, 1)}) else None

    assert [asks("2001:db8::1"), asks("2001:db8::2"), asks("2001:db8:0:1::1")] == [None, 429, None]
    assert [asks("10.0.0.1"), asks("10.0.0.2"), asks("10.0.0.1")] == [None, None, 429]
    assert [asks("::ffff:10.0.0.1"), asks("::ffff:10.0.0.3"), asks("::ffff:10.0.0.3")] == [429, None, 429]
    assert [asks("fe80::1"), asks("fe80::2%eth0"), asks("fe80::1")] == [None, None, 429], "one link is no household"


@pytest.mark.parametrize("behind_proxy", [True, False])
def test_addresses_behind_a_proxy(behind_proxy: bool) -> None:
    """Only a proxy is believed about them, and only as to what it adds itself: the last one."""
    app = Starlette(routes=[Route("/", length)])
    with serve_app(lambda address: Guard(app, set(), limit=limit_addresses(RateLimit(1, 0.001))), behind_proxy) as site:
        said = ["10.0.0.1", "10.0.0.2", "10.0.0.3, 10.0.0.1", "no address", "x" * 5000, "2001:db8::1", "2001:db8::2"]
        statuses = [site.ask("/", x_forwarded_for=addresses).status for addresses in said]
    assert statuses == ([200, 200, 429, 200, 429, 200, 429] if behind_proxy else [200] + [429] * 6)


def test_the_names_of_a_page() -> None:
    guard = Guard(Starlette(), names_here("127.0.0.1", "https://study.example.org"))
    known = ["localhost:80", "127.0.0.1", "[::1]:8000", "192.168.0.9:1", "study.example.org", socket.gethostname()]
    assert all(guard.is_known(name) for name in known)
    assert not any(
        guard.is_known(name) for name in ("", "evil.org", "[", "[evil]", "study.example.org.evil", "@localhost.x")
    )


def test_sockets() -> None:
    with open_listener("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert address_of(taken) == f"http://127.0.0.1:{port}"
        assert address_of(taken, "https://study.example.org/") == "https://study.example.org"
        with pytest.raises(UserError, match=f"port {port} on 127.0.0.1: cannot be opened"):
            open_listener("127.0.0.1", port)
    open_listener("127.0.0.1", port).close()  # free again at once
    for host in ("nowhere.invalid", "192.0.2.1", "a" * 100):
        with pytest.raises(UserError) as said:
            open_listener(host, 0)
        assert host in str(said.value) and "\n" not in str(said.value)


def test_two_that_ask_at_once_are_both_answered(site: Site) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(site.ask("/").status)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 8
