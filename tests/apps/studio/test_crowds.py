"""Many who send to the studio at once, slowly or much, and one who only wants a photograph colored."""

import http.client
import select
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from browser import Site, serve_app
from colorize_files import encode_image, photograph, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from page_process import connect
from waits import PATIENCE, wait_until

from pretint.apps.studio.pages import Uploads, studio_app
from pretint.apps.studio.photographs import OpenImages
from pretint.apps.studio.worker import Client, FairQueue, TooManyRequestsError, Worker
from pretint.colorization.networks import open_network

LOOK = {"temperature": 0.38, "saturation": 1}
Jobs = list["Future[Any]"]
UPLOAD = "POST /photographs HTTP/1.1\r\nHost: HOST\r\nContent-Length: 4000000\r\n\r\nabc"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.pt")


@pytest.mark.slow
def test_fifty_slow_senders_keep_nobody_waiting(table: OpenImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is served while all of them are still sending."""
    for limit in ("security._PATIENCE", "server._PATIENCE", "server._HEAD"):
        monkeypatch.setattr(f"pretint.apps.web.{limit}", 10 * PATIENCE)
    with serve_app(lambda address: studio_app(table, 4, {"localhost"})) as page, ExitStack() as stack:
        senders = [stack.enter_context(connect(page, UPLOAD)) for _ in range(50)]
        senders += [stack.enter_context(connect(page, "GET / HTTP/1.1\r\nHost: HO")) for _ in range(20)]
        ended = threading.Event()

        def drip() -> None:
            while not ended.wait(0.5):
                for sender in senders[:50]:
                    sender.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            uploaded = page.ask("/photographs", encode_image(photograph(300, 200)))
            assert uploaded.status == 201
            colored = page.post(f"/photographs/{uploaded.json['photograph']}/colored", LOOK)
            assert colored.status == 200
            assert not select.select(senders, [], [], 0)[0], "nobody was answered before"
        finally:
            ended.set()
            thread.join()
        # A slow sender who does send is heard as well.
        data = encode_image(photograph())
        slow = stack.enter_context(connect(page, UPLOAD.replace("4000000", str(len(data))).removesuffix("abc")))
        for start in range(0, len(data), -(-len(data) // 10)):
            slow.sendall(data[start : start + -(-len(data) // 10)])
            time.sleep(0.1)
        assert slow.recv(4000).startswith(b"HTTP/1.1 201")


@pytest.fixture
def table(model: Path) -> OpenImages:
    return OpenImages(open_network(model, "cpu", 48), "tiny", 1_000_000)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """All jobs that were given to the studio's thread, in order."""
    submitted: Jobs = []
    submit = Worker.submit

    def submit_and_note(worker: Worker, *job: Any) -> "Future[Any]":
        submitted.append(submit(worker, *job))
        return submitted[-1]

    monkeypatch.setattr(Worker, "submit", submit_and_note)
    return submitted


@pytest.fixture
def studio(table: OpenImages) -> Iterator[Site]:
    with serve_app(lambda address: studio_app(table, 1, {"localhost"})) as site:
        yield site


def test_a_page_tells_sessions_apart(studio: Site) -> None:
    cookies = [studio.ask("/").headers["set-cookie"] for _ in range(2)]
    assert cookies[0] != cookies[1] and "HttpOnly" in cookies[0] and "SameSite=strict" in cookies[0]
    assert "set-cookie" not in studio.ask("/", cookie=cookies[0].partition(";")[0]).headers


def test_turns_are_shared_out_by_session(
    studio: Site, table: OpenImages, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who sends ten photographs at once does not come before another's first."""
    turns: list[bytes] = []
    begun, go_on = threading.Event(), threading.Event()

    def lay(data: bytes) -> object:
        turns.append(data)
        begun.set()
        go_on.wait(PATIENCE)
        return OpenImages.lay(table, data)

    monkeypatch.setattr(table, "lay", lay)
    files = {name: encode_image(photograph(seed=seed)) for seed, name in enumerate(("first", "many", "one"))}

    def upload(name: str) -> threading.Thread:
        headers = {"cookie": f"pretint-studio={name}"}
        thread = threading.Thread(target=lambda: studio.ask("/photographs", files[name], **headers))
        thread.start()
        return thread

    threads = [upload("first")]
    assert begun.wait(PATIENCE)
    threads += [upload("many") for _ in range(10)]
    wait_until(lambda: len(jobs) == 11, "ten wait")
    threads.append(upload("one"))
    wait_until(lambda: len(jobs) == 12, "eleven wait")
    go_on.set()
    for thread in threads:
        thread.join()
    names = [next(name for name, data in files.items() if data == turn) for turn in turns]
    assert names[0] == "first" and len(names) == 12 and "one" in names[1:3]


def test_nothing_is_done_for_those_who_left(
    studio: Site, table: OpenImages, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bytes] = []
    begun, go_on = threading.Event(), threading.Event()

    def lay(data: bytes) -> object:
        opened.append(data)
        begun.set()
        go_on.wait(PATIENCE)
        return OpenImages.lay(table, data)

    monkeypatch.setattr(table, "lay", lay)
    data, host = encode_image(photograph()), studio.address.removeprefix("http://")
    first = http.client.HTTPConnection(host)
    first.request("POST", "/photographs", data)
    assert begun.wait(PATIENCE)
    for number in range(1, 6):
        leaving = http.client.HTTPConnection(host)
        leaving.request("POST", "/photographs", data)
        wait_until(lambda number=number: len(jobs) == 1 + number, "it waits for its turn")  # type: ignore[misc]
        leaving.close()
        wait_until(jobs[number].cancelled, "the studio knows that it has left")
    go_on.set()
    assert first.getresponse().status == 201
    assert studio.ask("/photographs", data).status == 201
    assert len(opened) == 2


def test_a_body_that_nobody_asked_for_is_no_error(studio: Site) -> None:
    identity = studio.ask("/photographs", encode_image(photograph())).json["photograph"]
    connection = http.client.HTTPConnection(studio.address.removeprefix("http://"))
    connection.request("GET", f"/photographs/{identity}/gray", b"x" * 70_000)
    assert connection.getresponse().status == 413
    connection.close()


def test_addresses_take_turns_and_so_do_their_sessions() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3"):
        queue.put(Client("A", "x"), item, item)
    queue.put(Client("A", "y"), 0, "a4")
    queue.put(Client("B", "x"), 0, "b1")
    queue.put(Client("B", "x"), 1, "b2")
    assert queue.put(Client("A", "x"), "a1", "a1 again") == "a1", "at its place"
    assert [queue.pop() for _ in range(len(queue))] == ["a1 again", "b1", "a4", "b2", "a2", "a3"]
    assert not len(queue)


def test_whoever_has_most_makes_room() -> None:
    queue: FairQueue[str] = FairQueue()
    assert queue.put(Client("A", "x"), 0, "only") is None
    assert queue.make_room(Client("A", "x")) is None and queue.make_room(Client("A", "y")) is None
    for lane in range(3):
        queue.put(Client("B", "x"), lane, f"b{lane}")
    assert queue.make_room(Client("B", "x")) is None, "it has most itself"
    assert queue.make_room(Client("B", "y")) == "b2", "the newest, for another session of the address"
    assert queue.make_room(Client("C", "x")) == "b1", "and for another address"
    assert queue.make_room(Client("C", "x")) is None and len(queue) == 2, "nobody has more than it would have"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=60))
def test_nobody_waits_for_more_than_one_turn_of_each_other_address(clients: list[tuple[int, int]]) -> None:
    queue: FairQueue[int] = FairQueue()
    for lane, (address, session) in enumerate(clients):
        queue.put(Client(str(address), str(session)), lane, address)
    queue.put(Client("new", ""), 0, -1)
    others = len({address for address, _ in clients})
    assert -1 in [queue.pop() for _ in range(min(others + 1, len(queue)))]


def test_uploads_are_bounded_together_and_the_largest_gives_way() -> None:
    uploads = Uploads(100)
    with ExitStack() as stack:
        flood = [stack.enter_context(uploads.receive(Client("A", str(session)))) for session in range(3)]
        for upload in flood:
            uploads.append(upload, b"x" * 30)
        small = stack.enter_context(uploads.receive(Client("B", "")))
        uploads.append(small, b"y" * 20)
        assert [upload.size for upload in (*flood, small)] == [0, 30, 30, 20]
        with pytest.raises(TooManyRequestsError):
            uploads.append(flood[0], b"x")
        with pytest.raises(TooManyRequestsError):
            uploads.append(flood[1], b"x" * 50)
        assert small.take() == b"y" * 20 and flood[2].take() == b"x" * 30
    with pytest.raises(TooManyRequestsError):
        small.take()
