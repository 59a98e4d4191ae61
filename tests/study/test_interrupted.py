"""Interruptions of a study at random: the same table, and no cell twice."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evaluations import read_study_numbers
from waits import PATIENCE

from pretext.engine.journal import read_journal
from pretext.engine.run import newest_checkpoint

ROOT = Path(__file__).parents[2]
STEPS = 60
BLOWS = ["INT", "TERM", "KILL", "everything killed"]


def start(small: Path, sets: Path, folder: Path) -> "subprocess.Popen[bytes]":
    words = ["study", str(small), f"images={sets}", "--folder", str(folder), "--parallel", "2"]
    cache = folder.with_name(f"{folder.name}-cache")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PRETINT_CACHE": str(cache)}
    folder.mkdir(exist_ok=True)
    with (folder / "said").open("ab") as said:
        return subprocess.Popen([sys.executable, "-m", "pretint", *words], stdout=said, stderr=said, env=env)


def finished(folder: Path) -> dict[Path, int]:
    """When each finished cell got its number or its last checkpoint."""
    results = folder.glob("results/*/*.json")
    runs = [newest for run in folder.glob("runs/*") if (newest := newest_checkpoint(run)) and int(newest.stem) == STEPS]
    return {path: path.stat().st_mtime_ns for path in (*results, *runs)}


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def interrupt(process: "subprocess.Popen[bytes]", how: str) -> None:
    if how == "everything killed":
        for child in children(process.pid):
            os.killpg(child, signal.SIGKILL)  # each is the first of a session of its own
        process.kill()
    else:
        process.send_signal({"INT": signal.SIGINT, "TERM": signal.SIGTERM, "KILL": signal.SIGKILL}[how])
    process.wait(PATIENCE)


@pytest.mark.slow
def test_interruptions_change_nothing(small: Path, sets: Path, tmp_path: Path) -> None:
    text = small.read_text().replace("seeds: [0, 1]", "seeds: [0]").replace("steps: 6", f"steps: {STEPS}")
    # Each cell costs the start of a process.
    text = "\n".join(
        line for line in text.splitlines() if not line.startswith(("  L2:", "  color:", "  random:", "baseline:"))
    )
    small.write_text(text.replace("workers: 0", "workers: 0, checkpoint_every: 5"))
    alone = tmp_path / "alone"
    began = time.monotonic()
    assert start(small, sets, alone).wait() == 0
    whole = time.monotonic() - began

    drawn = random.Random(8)
    blows = drawn.sample(BLOWS, len(BLOWS))
    folder, kept = tmp_path / "interrupted0", dict[Path, int]()
    while blows:
        process = start(small, sets, folder)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(drawn.uniform(0.05, 0.2) * whole)
        if process.poll() is None:
            interrupt(process, blows.pop())
            now = finished(folder)
            assert kept.items() <= now.items(), "what is finished is not made again"
            kept = now
        else:  # it was done before all have come: the others are for another study
            assert process.returncode == 0, (folder / "said").read_text()
            check(folder, alone, kept)
            folder, kept = tmp_path / f"interrupted{len(blows)}", {}
    assert start(small, sets, folder).wait() == 0, (folder / "said").read_text()
    check(folder, alone, kept)


def check(folder: Path, alone: Path, kept: dict[Path, int]) -> None:
    """It says what the one that was left alone says, and nothing was computed twice."""
    assert kept.items() <= finished(folder).items()
    ours, theirs = (read_study_numbers(one / "small") for one in (folder, alone))
    assert ours == theirs and len(ours) > 10
    for run in (folder / "runs").iterdir():
        steps = [one["step"] for one in read_journal(run) if one["kind"] == "step"]
        assert steps == list(range(1, STEPS + 1)), "every step once"
