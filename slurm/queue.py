"""Queries to Slurm: only with squeue, scontrol, sinfo and scancel, never to its accounting."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from slurm.cluster import ClusterError, ClusterSettings

_TIMEOUT = 60  # seconds for an answer of a busy controller
_AT_ONCE = 500  # jobs in one query


class Queued(NamedTuple):
    """A job in the queue."""

    state: str
    """Slurm's state: PENDING, RUNNING, COMPLETING, ..."""
    reason: str
    """Slurm's reason for waiting, or "None"."""
    nodes: str
    left: str
    """Time left until its limit, as Slurm writes it: 23:14:05."""


class Partition(NamedTuple):
    """A partition of the cluster."""

    name: str
    default: bool
    minutes: float
    """The largest time limit of a job."""


def missing_command() -> str:
    """Return the first command of Slurm that this machine does not have; empty if it has all."""
    commands = ("sbatch", "srun", "squeue", "scontrol", "scancel")
    return next((command for command in commands if shutil.which(command) is None), "")


def require_slurm() -> None:
    """Raise ClusterError if a command of Slurm is missing on this machine."""
    if command := missing_command():
        raise ClusterError(
            f"{command}: no such command here; submit on a login node of the cluster, or set executor: local "
            "(to try Slurm on this machine, from a checkout: python -m tests.virtual_slurm up)"
        )


def queued(ids: Iterable[str]) -> dict[str, Queued]:
    """Return the entries of jobs in the queue; jobs that Slurm has forgotten are missing.

    Raises:
        ClusterError: Slurm does not answer.
    """
    jobs: dict[str, Queued] = {}
    wanted = sorted(set(ids))
    for at in range(0, len(wanted), _AT_ONCE):
        # squeue fails for one unknown number, but leaves it out among several: so never query only one number.
        numbers = ",".join([*wanted[at : at + _AT_ONCE], "1"])
        columns = "%i|%T|%r|%N|%L"
        output = _ask("squeue", "--noheader", "--array", "--states=all", f"--jobs={numbers}", f"--format={columns}")
        for line in output.splitlines():
            number, *rest = line.strip().split("|")
            if len(rest) == 4:
                jobs[number] = Queued(*rest)
    return jobs


def standing(job: str) -> tuple[str, int]:
    """Return Slurm's state of a job, and how often it was restarted.

    Raises:
        ClusterError: Slurm does not answer, or does not know it.
    """
    output = _ask("scontrol", "--oneliner", "show", "job", job)
    if len(output.strip().splitlines()) > 1:
        raise ClusterError(f"scontrol: {job} is several jobs; the tasks of an array are called {job}_0, ...")
    words = dict(word.partition("=")[::2] for word in output.split())
    if "JobState" not in words:
        raise ClusterError(f"scontrol: knows nothing of job {job}")
    return words["JobState"], int(words.get("Restarts", "0"))


def requeue(job: str) -> None:
    """Ask Slurm to start a job again.

    Raises:
        ClusterError: Slurm refuses.
    """
    _ask("scontrol", "requeue", job)


def cancel(ids: Sequence[str]) -> None:
    """End jobs; some of them may have ended already.

    Raises:
        ClusterError: Slurm refuses.
    """
    try:
        if ids:
            _ask("scancel", *ids)
    except ClusterError as error:
        if str(error).count("error:") > str(error).count("Invalid job id"):
            raise


def partitions() -> list[Partition]:
    """Return the partitions that the user may see."""
    parts: dict[str, Partition] = {}
    for line in _ask("sinfo", "--noheader", "--format=%P|%l").splitlines():
        name, _, limit = line.strip().partition("|")
        minutes = float("inf")
        # Slurm's forms: 30 (minutes), 5:00 (and seconds), 1:00:00, 2-00:00:00, infinite.
        if re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", limit):
            days, _, rest = limit.rpartition("-")
            numbers = [int(number) for number in rest.split(":")]
            if days:
                numbers = [*numbers, 0, 0][:3]
            elif len(numbers) < 3:
                numbers = [0, *numbers, 0][:3]
            minutes = 1440 * int(days or 0) + 60 * numbers[0] + numbers[1] + numbers[2] / 60
        parts[name] = Partition(name.rstrip("*"), name.endswith("*"), minutes)
    return list(parts.values())


def require_place(asked: ClusterSettings) -> None:
    """Check partition and time limit by name, for a better message than that of sbatch.

    Raises:
        ClusterError: there is no such partition, or the time limit is above the partition's.
    """
    known = partitions()
    if not asked.partition:
        chosen = [part for part in known if part.default]
    else:
        names = asked.partition.split(",")
        chosen = [part for part in known if part.name in names]
        known_names = [part.name for part in known]
        if missing := [name for name in names if name not in known_names]:
            near = get_close_matches(missing[0], known_names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known_names)}"
            raise ClusterError(f"partition: this cluster has none called {missing[0]}; {hint}")
    longest = max(chosen, key=lambda part: part.minutes, default=None)
    if longest and asked.minutes > longest.minutes:
        raise ClusterError(
            f"minutes is {asked.minutes}, more than the {longest.minutes:g} that partition {longest.name} allows; "
            "lower minutes: a job that needs longer is requeued and resumes"
        )


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]}: no such command here") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{command[0]}: Slurm has not answered for {_TIMEOUT} seconds; try again later") from error
    if done.returncode:
        raise ClusterError(f"{command[0]}: {' '.join(done.stderr.split())[:300] or f'ended with {done.returncode}'}")
    return done.stdout
