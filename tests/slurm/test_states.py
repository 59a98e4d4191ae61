"""What became of a job, by its records and what the queue says; the queue here is a table."""

from pathlib import Path
from typing import Any

import pytest

from slurm import JobState, cancel, queue, states
from slurm.queue import Queued
from slurm.records import SentJob, note, write_sent

Answer = dict[str, Queued]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    table: Answer = {}
    monkeypatch.setattr(queue, "queued", lambda ids: {one: table[one] for one in ids if one in table})
    return table


def job(folder: Path, number: str, **values: Any) -> SentJob:
    told = {
        "name": f"job-{number}",
        "line": "pretint table",
        "file": "/x",
        "identity": "1",
        "where": "/",
        "claims": "",
        "after": (),
        "executor": "slurm",
    }
    sent = SentJob(**{**told, **values}, id=number, folder=str(folder / number), code="", submitted=float(number))
    write_sent(sent)
    return sent


def queued(state: str) -> Queued:
    return Queued(state, "None", "n1", "1:00")


def started(sent: SentJob, restart: int = 0) -> None:
    note(Path(sent.folder), kind="start", restart=restart, rank=0, node="n1")


def ended(sent: SentJob, how: str, restart: int = 0, **values: Any) -> None:
    note(Path(sent.folder), kind="end", how=how, restart=restart, rank=0, **values)


def only(folder: Path) -> JobState:
    [state] = states(folder)
    return state


def test_what_the_queue_forgets_is_remembered(tmp_path: Path, answer: Answer) -> None:
    sent = job(tmp_path, "1")
    started(sent)
    answer["1"] = queued("TIMEOUT")
    assert (only(tmp_path).word, only(tmp_path).why) == ("failed", "Slurm: ran out of time")
    del answer["1"]
    assert (only(tmp_path).word, only(tmp_path).why) == ("failed", "Slurm: ran out of time")


def test_a_job_that_was_never_seen_again(tmp_path: Path, answer: Answer) -> None:
    sent = job(tmp_path, "1")
    started(sent)
    assert only(tmp_path).word == "lost" and "its log may show why" in only(tmp_path).why
    ended(sent, "stopped", why="Slurm: canceled")
    assert only(tmp_path).why == "left the queue without a message; Slurm: canceled"


def test_slurm_knows_better_that_it_is_started_again(tmp_path: Path, answer: Answer) -> None:
    sent = job(tmp_path, "1")
    started(sent)
    ended(sent, "failed", why="cannot be requeued")
    answer["1"] = queued("COMPLETING")
    assert only(tmp_path).word == "failed"
    answer["1"] = queued("PENDING")
    assert only(tmp_path).word == "requeued" and only(tmp_path).live
    answer["1"] = queued("RUNNING")
    started(sent, 1)
    assert only(tmp_path).word == "running" and only(tmp_path).restarts == 1
    answer["1"] = queued("OUT_OF_MEMORY")
    assert only(tmp_path).why == "Slurm: out of memory"
    answer.clear()
    assert only(tmp_path).why == "Slurm: out of memory", "of the second start too"
    ended(sent, "complete", 1)
    assert only(tmp_path).word == "complete"


def test_canceled_before_it_began(tmp_path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(queue, "cancel", lambda ids: asked.append(list(ids)))
    job(tmp_path, "1")
    answer["1"] = queued("PENDING")
    assert only(tmp_path).word == "waiting"
    assert [one.sent.id for one in cancel(tmp_path, ["job-1"])] == ["1"] and asked == [["1"]]
    answer.clear()
    assert only(tmp_path).word == "canceled" and not only(tmp_path).live


def test_canceled_by_hand(tmp_path: Path, answer: Answer) -> None:
    job(tmp_path, "1")
    answer["1"] = queued("CANCELLED")
    assert only(tmp_path).word == "canceled"
    answer.clear()
    assert only(tmp_path).word == "canceled"


def test_what_waited_in_vain(tmp_path: Path, answer: Answer) -> None:
    first = job(tmp_path, "1")
    started(first)
    ended(first, "failed", why="pretint: no images")
    job(tmp_path, "2", after=("1",))
    for known in (queued("CANCELLED"), None):
        answer.clear()
        if known:
            answer["2"] = known
        assert [(one.word, one.why) for one in states(tmp_path)] == [
            ("failed", "pretint: no images"),
            ("not run", "waited for job-1"),
        ]
    job(tmp_path, "3", name="job-1")  # sent again, alone
    assert [(one.word, one.why) for one in states(tmp_path) if one.sent.id == "2"] == [("not run", "waited for job-1")]


def test_records_that_were_cut_short(tmp_path: Path, answer: Answer) -> None:
    sent = job(tmp_path, "1")
    started(sent)
    whole = (tmp_path / "1" / "attempts.jsonl").read_bytes()
    (tmp_path / "1" / "attempts.jsonl").write_bytes(whole + b'\xff\n{"kind": "end", "ho')
    for text in ("", '{"done": '):
        (tmp_path / "1" / "progress.json").write_text(text)
        assert only(tmp_path).word == "lost"
    (tmp_path / "1" / "job.json").write_text('{"name": 3}')
    assert states(tmp_path) == []
