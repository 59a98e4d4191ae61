"""Jobs on a real Slurm, to be watched and interrupted."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import yaml
from waits import PATIENCE, wait_until

import pretint.cli
from pretext.engine.journal import read_journal
from slurm import JobState, states
from slurm.queue import standing
from slurm.records import SentJob, attempts, read_sent

JOBS = Path("jobs")
SETTINGS = [
    "--data.source", "bundled",
    "--data.holdout", "16",
    "--crop.size", "16",
    "--objective.stride", "4",
    "--objective.prior_images", "50",
    "--training.warmup", "10",
    "--training.batch_size", "48",
    "--machine.checkpoint_every", "50",
    "--machine.evaluate_every", "500",
]  # fmt: skip


def write_cluster_file(**settings: object) -> str:
    """A cluster file for small jobs; its name."""
    values = {
        "minutes": 30,
        "grace": 60,
        "memory_gb": 1,
        "cpus_per_task": 1,
        "environment": {"OMP_NUM_THREADS": "1"},
        **settings,
    }
    path = Path(f"cluster-{abs(hash(json.dumps(values, sort_keys=True)))}.yaml")
    path.write_text(yaml.safe_dump(values))
    return str(path)


def send(*words: str, **settings: object) -> int:
    """``pretint submit``; its exit code."""
    return pretint.cli.main(["submit", "--on", write_cluster_file(**settings), *words])


def read_state(name: str) -> JobState:
    return next(job for job in states(JOBS) if job.sent.name == name)


def wait_for(done: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    wait_until(done, what, describe=describe_jobs, patience=patience, every=0.5)


def describe_jobs() -> str:
    """All that is known of the jobs, for a test that fails."""
    logs = [f"== {path}\n{path.read_text(errors='replace')[-2500:]}" for path in sorted(JOBS.glob("logs/*_log.out"))]
    notes = [f"== {path}\n{path.read_text()}" for path in sorted(JOBS.glob("*/attempts.jsonl"))]
    queue = subprocess.run(["squeue", "--states=all"], capture_output=True, text=True, check=False).stdout
    return "\n".join([queue, *notes, *logs])


def wait_until_complete(*names: str) -> None:
    """Wait until jobs are complete."""

    def all_done() -> bool:
        jobs = [read_state(name) for name in names]
        assert all(job.live or job.word == "complete" for job in jobs), describe_jobs()
        return not any(job.live for job in jobs)

    wait_for(all_done, "complete")


def read_losses(run: str | Path) -> list[tuple[int, float]]:
    records = read_journal(Path(run))
    return [(record["step"], record["loss"]) for record in records if record["kind"] == "step"]


class InterruptedJob:
    """A pretraining job that is interrupted again and again, each time amid its steps.

    An interrupt is called with the job and its command's process, which rests meanwhile, until it says that it is done.
    """

    def __init__(self, name: str, run: str, interrupts: Sequence[Callable[[SentJob, int], bool]]) -> None:
        self.name, self.run, self.left = name, Path(run), list(interrupts)
        self.interrupted = 0
        self.resting: int | None = None

    @property
    def sent(self) -> SentJob:
        return next(job for job in read_sent(JOBS) if job.name == self.name)

    def look(self) -> bool:
        """Interrupt the job if it is time to; whether all interrupts are through."""
        if not self.left:
            return True
        sent = self.sent
        if self.resting is None:
            starts = [attempt for attempt in attempts(Path(sent.folder)) if attempt["kind"] == "start"]
            begun = [record["step"] for record in read_journal(self.run) if record["kind"] == "start"]
            done = read_losses(self.run)
            # Steps that the call now at work has made: an earlier one's were cut off at a checkpoint.
            if min(len(starts), len(begun)) <= self.interrupted or not done or done[-1][0] < begun[-1] + 20:
                return False
            self.resting = child_of(starts[-1]["pid"])
            os.kill(self.resting, signal.SIGSTOP)  # or it might end before it is interrupted
        if self.left[0](sent, self.resting):
            with suppress(ProcessLookupError):  # Slurm has woken it already
                os.kill(self.resting, signal.SIGCONT)
            self.resting = None
            self.left.pop(0)
            self.interrupted += 1
        return not self.left


def child_of(pid: int) -> int:
    """The command that a runner has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 1, children
    return int(children[0])


def send_signal(number: str) -> Callable[[SentJob, int], bool]:
    def interrupt(sent: SentJob, command: int) -> bool:
        subprocess.run(["scancel", f"--signal={number}", sent.id], check=True, timeout=PATIENCE)
        return True

    return interrupt


def requeue(sent: SentJob, command: int) -> bool:
    subprocess.run(["scontrol", "requeue", sent.id], check=True, timeout=PATIENCE)
    return True


def is_out_of_time(sent: SentJob, command: int) -> bool:
    """Whether Slurm has said that time is running out."""
    try:
        status = Path(f"/proc/{command}/status").read_text()
    except FileNotFoundError:  # it has heard, and is gone
        return True
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd")).split()[1]
    return bool(int(pending, 16) >> (signal.SIGUSR2 - 1) & 1)


def count_restarts(sent: SentJob) -> int:
    """As Slurm counts them."""
    return standing(sent.id)[1]
