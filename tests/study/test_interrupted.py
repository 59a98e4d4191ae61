"""Ten interruptions of a study at random: the same table, and no cell twice."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from pretext.engine.journal import read_journal
from pretext.engine.run import newest_checkpoint

ROOT = Path(__file__).parents[2]


def start(small: Path, sets: Path, folder: Path) -> "subprocess.Popen[bytes]":
    words = ["study", str(small), f"pictures={sets}", "--folder", str(folder), "--parallel", "2"]
    cache = folder.with_name(f"{folder.name}-cache")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PRETINT_CACHE": str(cache)}
    folder.mkdir(exist_ok=True)
    with (folder / "said").open("ab") as said:
        return subprocess.Popen([sys.executable, "-m", "pretint", *words], stdout=said, stderr=said, env=env)


def finished(folder: Path) -> dict[Path, int]:
    """When each finished cell got its number or its last checkpoint."""
    results = folder.glob("results/*/*.json")
    runs = [newest for run in folder.glob("runs/*") if (newest := newest_checkpoint(run)) and int(newest.stem) == 6]
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
    process.wait()


def test_ten_interruptions_change_nothing(small: Path, sets: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    began = time.monotonic()
    assert start(small, sets, alone).wait() == 0
    whole = time.monotonic() - began

    folder, drawn = tmp_path / "interrupted", random.Random(8)
    kept: dict[Path, int] = {}
    came, starts = 0, 0
    while came < 10:
        process = start(small, sets, folder)
        starts += 1
        assert starts < 40
        until = time.monotonic() + drawn.uniform(0.05, 0.4) * whole
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.05)
        if process.poll() is None:
            interrupt(process, drawn.choice(["INT", "TERM", "KILL", "everything killed"]))
            came += 1
        now = finished(folder)
        assert kept.items() <= now.items(), "what is finished is not made again"
        kept = now
        if len(kept) == 14:  # the study was done too soon: it goes on with a copy of the rest of the interruptions
            break
    assert came >= 4
    assert start(small, sets, folder).wait() == 0
    assert kept.items() <= finished(folder).items()

    for ending in ("md", "csv", "tex"):
        ours, theirs = ((one / "small" / f"report.{ending}").read_text() for one in (folder, alone))
        assert _timeless(ours) == _timeless(theirs)
    for run in (folder / "runs").iterdir():
        steps = [one["step"] for one in read_journal(run) if one["kind"] == "step"]
        assert steps == list(range(1, 7)), "every step once"


def _timeless(text: str) -> str:
    """Without the minutes that a pretraining took."""
    return "\n".join(
        line.rpartition("|")[0].rpartition("|")[0] if line.startswith("| ") else line for line in text.splitlines()
    )
