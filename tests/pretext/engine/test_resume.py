"""A killed run goes on as if nothing had happened: the same losses, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import pretint
from pretext.engine.journal import read_journal
from pretext.engine.run import newest_checkpoint

STEPS = 60
SETTINGS = [
    "--data.source", "bundled",
    "--data.holdout", "16",
    "--crop.size", "16",
    "--objective.stride", "4",
    "--objective.prior_pictures", "50",
    "--training.steps", str(STEPS),
    "--training.warmup", "10",
    "--training.batch_size", "48",  # an epoch is not a whole number of steps
    "--machine.checkpoint_every", "7",
    "--machine.evaluate_every", "25",
]  # fmt: skip


def start(run: Path, *more: str) -> subprocess.Popen[bytes]:
    """The command in a process of its own, to be killed."""
    command = [sys.executable, "-m", "pretint", "pretrain", str(run), *SETTINGS, *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def finish(run: Path, *more: str) -> None:
    """The same command to its end, in this process, which has imported torch already."""
    assert pretint.main(["pretrain", str(run), *SETTINGS, *more]) == 0


def trace(run: Path) -> list[tuple[int, str]]:
    return [(r["step"], float.hex(r["loss"])) for r in read_journal(run) if r["kind"] == "step"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    path = newest_checkpoint(run)
    assert path is not None
    model: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model"]
    return model


def wait_for_step(run: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Until the run has saved a checkpoint at or after ``step``; for step 0, until it has begun."""
    while process.poll() is None:
        if step == 0 and (run / "tensorboard").exists():
            return
        newest = newest_checkpoint(run)
        if newest is not None and int(newest.stem) >= step:
            return
        time.sleep(0.005)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    finish(run)
    assert [step for step, _ in trace(run)] == list(range(1, STEPS + 1))
    return run


def assert_same(run: Path, other: Path) -> None:
    assert trace(run) == trace(other)
    mine, theirs = weights(run), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    health = [[r for r in read_journal(one) if r["kind"] == "health"] for one in (run, other)]
    assert health[0] == health[1]


def test_killed_at_random_steps(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kills = [0, random.randint(7, STEPS // 2)]  # one before the first checkpoint; other steps at every call of the test
    for step in kills:
        process = start(run)
        wait_for_step(run, step, process)
        time.sleep(random.uniform(0, 0.2))  # somewhere between two checkpoints, or within one
        os.killpg(process.pid, signal.SIGKILL)  # the workers too: nobody says goodbye
        assert process.wait() == -signal.SIGKILL, f"not killed at step {step} of kills {kills}"
    finish(run)
    assert_same(run, uninterrupted)


def test_stopped_politely_and_with_other_workers(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, "--machine.workers", "2")
    wait_for_step(run, 7, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C: to the whole group
    assert process.wait() == 130
    stopped_at = trace(run)[-1][0]
    newest = newest_checkpoint(run)
    assert newest is not None and int(newest.stem) == stopped_at < STEPS, "it saves where it stops"
    finish(run, "--machine.workers", "0", "--machine.cache", "0")
    assert_same(run, uninterrupted)


def test_a_complete_run_is_left_alone(uninterrupted: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (uninterrupted / "checkpoints").iterdir()}
    journal = (uninterrupted / "journal.jsonl").read_bytes()
    finish(uninterrupted)
    assert {path: path.stat().st_mtime_ns for path in (uninterrupted / "checkpoints").iterdir()} == before
    assert (uninterrupted / "journal.jsonl").read_bytes() == journal
