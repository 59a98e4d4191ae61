"""Pages that are stopped while they are at work."""

import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from painters import checkpoint, file_of, photograph
from served import Served, served
from studying import write_pictures

from colorization.pages.listening import bound

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
UPLOAD = "POST /photographs HTTP/1.1\r\nHost: HOST\r\nContent-Length: 4000000\r\n\r\nabc"
SIGNALS = pytest.mark.parametrize("number", CODES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model") / "tiny.pt")


@pytest.fixture
def busy(model: Path, tmp_path: Path) -> Iterator[Served]:
    """A studio that colors for half a minute, while others wait, send slowly, or say nothing."""
    with served(tmp_path, "studio", model, "--size", "4096", "--device", "cpu") as page, ExitStack() as stack:
        identity = page.ask("/photographs", file_of(photograph(300, 200))).json["photograph"]
        for session in range(3):
            stack.enter_context(page.connect(request_colors(identity, f"session-{session}")))
        for sent in (UPLOAD, UPLOAD, "", "GET / HTTP/1.1\r\nHo"):
            stack.enter_context(page.connect(sent))
        time.sleep(1)  # the first is being colored
        yield page


def request_colors(identity: str, session: str) -> str:
    body = json.dumps({"temperature": 0.38, "saturation": 1})
    head = f"POST /photographs/{identity}/coloured HTTP/1.1\r\nHost: HOST\r\nCookie: pretint-studio={session}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}"


def check_ended(page: Served, code: int, number: int) -> None:
    """By the code of the signal, with at most one line on the way, and with the port free."""
    _, _, said = page.output.partition("Ctrl-C stops")
    assert code == CODES[signal.Signals(number)], page.output
    assert "Traceback" not in said and "Error" not in said and "Cancel" not in said
    assert said.count("pretint:") == (number == signal.SIGINT)
    bound(*page.place).close()


@SIGNALS
def test_one_signal_ends_a_studio_at_work(busy: Served, number: int) -> None:
    code, seconds = busy.stop(number)
    check_ended(busy, code, number)
    assert len(busy.output.splitlines()) <= 3
    assert seconds < 12, "3 for the requests in progress; the colors would take 30"


@SIGNALS
def test_a_second_signal_ends_it_at_once(busy: Served, number: int) -> None:
    busy.process.send_signal(number)
    time.sleep(0.3)
    code, seconds = busy.stop(number)
    check_ended(busy, code, number)
    assert seconds < 2.5, "which is before the requests in progress had their time"


def test_what_was_begun_is_answered(model: Path, tmp_path: Path) -> None:
    with served(tmp_path, "studio", model, "--size", "256", "--device", "cpu") as page:
        identity = page.ask("/photographs", file_of(photograph(300, 200))).json["photograph"]
        with page.connect(request_colors(identity, "mine")) as connection:
            time.sleep(0.05)
            code, _ = page.stop(signal.SIGINT)
            assert connection.recv(4000).startswith(b"HTTP/1.1 200")
        check_ended(page, code, signal.SIGINT)


@SIGNALS
def test_one_signal_ends_a_study_at_work(tmp_path: Path, number: int) -> None:
    real, fake = write_pictures(tmp_path / "pictures", ["a", "b", "c"], 1)
    words = ["--real", real, "--algorithm", f"one={fake}", "--practice", "1", "--trials", "2", "--size", "16"]
    with served(tmp_path, "turing", tmp_path / "study", *words) as page, ExitStack() as stack:
        link = page.output.partition("/join/")[2].split()[0]
        joined = page.ask(f"/join/{link}", b"vision=yes", content_type="application/x-www-form-urlencoded")
        place = joined.headers["location"]
        for sent in (f"POST {place}/seen HTTP/1.1\r\nHost: HOST\r\nContent-Length: 20\r\n\r\nabc", "", "GET / HT"):
            stack.enter_context(page.connect(sent))
        other = stack.enter_context(closing(sqlite3.connect(tmp_path / "study" / "study.db")))
        other.execute("BEGIN IMMEDIATE")  # so that these wait in threads
        body = '{"trial": 0}'
        head = f"POST {place}/seen HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\n"
        for _ in range(3):
            stack.enter_context(page.connect(f"{head}Content-Length: {len(body)}\r\n\r\n{body}"))
        time.sleep(0.2)
        code, seconds = page.stop(number)
    assert "1 participants, 0 of them finished" in page.output
    said = page.output.partition("Ctrl-C stops")[2]
    assert "Traceback" not in said and code == CODES[signal.Signals(number)], page.output
    assert seconds < 12
    bound(*page.place).close()
