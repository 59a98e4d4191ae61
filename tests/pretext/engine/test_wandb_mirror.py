"""The mirror at Weights & Biases, offline: each number once, in one run, whatever interrupts."""

import json
import shutil
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Launcher
from wandb.proto.wandb_internal_pb2 import Record

import pretint.cli
from pretext.engine.journal import read_journal
from pretext.engine.run import newest_checkpoint

WORDS = ["--data.source", "bundled", "--crop.size", "16", "--objective.stride", "4", "--objective.prior_images", "20"]
WORDS += ["--training.steps", "60", "--training.batch_size", "4", "--training.warmup", "1", "--machine.workers", "0"]
WORDS += ["--machine.device", "cpu", "--machine.checkpoint_every", "10", "--machine.evaluate_every", "30"]


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Offline, and nothing outside of the test's folder."""
    env = {"WANDB_MODE": "offline", "WANDB_CONFIG_DIR": f"{tmp_path}/c", "WANDB_CACHE_DIR": f"{tmp_path}/d"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


def read_log(content: bytes) -> Iterator[bytes]:
    """The records of a file of W&B, a log as LevelDB writes it: blocks of 32 KiB after 7 bytes that name the format.

    A piece of a record has a checksum, its length and its kind: whole, first, middle, last.
    """
    at, record = 7, b""
    while at + 7 <= len(content):
        if (room := 2**15 - at % 2**15) < 7:
            at += room
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def sent(run: Path) -> tuple[set[str], list[tuple[int, dict[str, Any]]]]:
    """The ids of W&B's runs, and its records of numbers: step and values, in order."""
    ids, history = set(), []
    for file in sorted((run / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        for data in read_log(file.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            if record.run.run_id:
                ids.add(record.run.run_id)
            values = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
            }
            if values:
                history.append((int(values["_step"]), values))
    return ids, history


def check(run: Path) -> None:
    ids, history = sent(run)
    assert len(ids) == 1 and json.loads((run / "wandb" / "pretint.json").read_text())["id"] in ids
    steps = [step for step, _ in history]
    assert len(set(steps)) == len(steps), "each step once"
    by_step = dict(history)
    for record in read_journal(run):
        numbers = {name: value for name, value in record.items() if isinstance(value, float)}
        if record["kind"] == "step":
            assert by_step[record["step"]]["step/loss"] == record["loss"]
        elif record["kind"] == "health":
            assert {f"health/{name}" for name in numbers} <= by_step[record["step"]].keys()
        assert record["kind"] != "health" or any(name.startswith("samples") for name in by_step[record["step"]])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_goes_on_is_the_same_run_there(
    number: int, quiet: dict[str, str], launcher: Launcher, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ["pretrain", run, *WORDS, "--machine.wandb", "colors"]
    process = launcher.start(*words, env=quiet, hold_at=20)
    while not process.is_stopped():
        assert process.runs(), process.output
    process.signal_group(number)
    process.wait()
    newest = newest_checkpoint(run)
    assert newest is not None and int(newest.stem) < 60
    assert launcher.run(*words, env=quiet).returncode == 0
    if number == signal.SIGINT:
        check(run)
        plain = tmp_path / "plain"
        assert pretint.cli.main(["pretrain", str(plain), *WORDS]) == 0
        assert not (plain / "wandb").exists()
        ours, theirs = ([r["loss"] for r in read_journal(one) if r["kind"] == "step"] for one in (run, plain))
        assert ours == theirs
        shutil.rmtree(run / "checkpoints")
        assert launcher.run(*words, "--training.steps", "4", env=quiet).returncode == 0
        ids, history = sent(run)
        assert len(ids) == 2 and history[-1][0] == 4, "what begins again is another run"
    else:  # what was not written yet is lost there; the journal is whole
        ids, history = sent(run)
        assert len(ids) == 1 and history[-1][0] == 60
        assert [r["step"] for r in read_journal(run) if r["kind"] == "step"] == list(range(1, 61))


def test_what_is_missing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert pretint.cli.main(["pretrain", str(tmp_path / "run"), *WORDS, "--machine.wandb", "colors"]) == 2
    assert "machine.wandb needs the package wandb: pip install 'pretint[wandb]'" in capsys.readouterr().err


def test_no_key_is_one_line(tmp_path: Path, launcher: Launcher) -> None:
    env = {name: str(tmp_path) for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR")}
    env |= {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": ""}
    done = launcher.run("pretrain", tmp_path / "run", *WORDS, "--machine.wandb", "colors", env=env)
    line = done.stderr.decode().splitlines()[-1]
    assert done.returncode == 2 and line.startswith("pretint: machine.wandb: ") and "set WANDB_MODE=offline" in line
