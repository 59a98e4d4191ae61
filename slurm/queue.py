"""What is asked of Slurm: always by squeue, scontrol, sinfo and scancel, never of its accounts."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from slurm.cluster import ClusterError, ClusterSettings

_PATIENCE = 60  # seconds that a busy controller has
_AT_ONCE = 500  # jobs that one squeue is asked for


class Queued(NamedTuple):
    """A job as the queue has it."""

    state: str
    """Slurm's word: PENDING, RUNNING, COMPLETING, ..."""
    reason: str
    """Why it waits, or None."""
    nodes: str
    left: str
    """Until its time limit, as Slurm writes it: 23:14:05."""


class Partition(NamedTuple):
    """A part of the cluster."""

    name: str
    default: bool
    minutes: float
    """The longest that a job may take."""


def missing_command() -> str:
    """Return the first command of Slurm that is not on this machine; empty if all are."""
    commands = ("sbatch", "srun", "squeue", "scontrol", "scancel")
    return next((command for command in commands if shutil.which(command) is None), "")


def require_slurm() -> None:
    """Raises ClusterError: Slurm's commands are not here."""
    if command := missing_command():
        raise ClusterError(
            f"{command}: no such command here; submit on a login node of the cluster, or set executor: local "
            "(to try Slurm on this machine: python -m tests.virtual_slurm up)"
        )


def queued(ids: Iterable[str]) -> dict[str, Queued]:
    """What the queue knows of jobs; those that it has forgotten are missing.

    Raises:
        ClusterError: Slurm does not answer.
    """
    found: dict[str, Queued] = {}
    wanted = sorted(set(ids))
    for at in range(0, len(wanted), _AT_ONCE):
        # With one number squeue fails if it is unknown, with two it leaves it out: so never one alone.
        some = ",".join([*wanted[at : at + _AT_ONCE], "1"])
        form = "%i|%T|%r|%N|%L"
        said = _ask("squeue", "--noheader", "--array", "--states=all", f"--jobs={some}", f"--format={form}")
        for line in said.splitlines():
            number, *rest = line.strip().split("|")
            if len(rest) == 4:
                found[number] = Queued(*rest)
    return found


def standing(job: str) -> tuple[str, int]:
    """Slurm's state of a job, and how often it was started again.

    Raises:
        ClusterError: Slurm does not answer, or does not know it.
    """
    said = _ask("scontrol", "--oneliner", "show", "job", job)
    if len(said.strip().splitlines()) > 1:
        raise ClusterError(f"scontrol: {job} are several jobs; the tasks of an array are called {job}_0, ...")
    words = dict(word.partition("=")[::2] for word in said.split())
    if "JobState" not in words:
        raise ClusterError(f"scontrol: says nothing of job {job}")
    return words["JobState"], int(words.get("Restarts", "0"))


def requeue(job: str) -> None:
    """Have a job started again. Raises ClusterError: Slurm will not."""
    _ask("scontrol", "requeue", job)


def cancel(ids: Sequence[str]) -> None:
    """End jobs; some of them may have ended by themselves. Raises ClusterError: Slurm will not."""
    try:
        if ids:
            _ask("scancel", *ids)
    except ClusterError as error:
        if str(error).count("error:") > str(error).count("Invalid job id"):
            raise


def partitions() -> list[Partition]:
    """The parts of the cluster that the user may see."""
    found: dict[str, Partition] = {}
    for line in _ask("sinfo", "--noheader", "--format=%P|%l").splitlines():
        name, _, limit = line.strip().partition("|")
        found[name] = Partition(name.rstrip("*"), name.endswith("*"), _minutes(limit))
    return list(found.values())


def require_place(asked: ClusterSettings) -> None:
    """Check what can be checked by name, for a better message than sbatch's.

    Raises:
        ClusterError: there is no such partition, or the time limit is above its.
    """
    known = partitions()
    if not asked.partition:
        mine = [one for one in known if one.default]
    else:
        names = asked.partition.split(",")
        mine = [one for one in known if one.name in names]
        if missing := [name for name in names if name not in {one.name for one in known}]:
            near = get_close_matches(missing[0], [one.name for one in known], n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(one.name for one in known)}"
            raise ClusterError(f"partition: this cluster has none called {missing[0]}; {hint}")
    if mine and asked.minutes > max(one.minutes for one in mine):
        longest = max(mine, key=lambda one: one.minutes)
        raise ClusterError(
            f"minutes is {asked.minutes}, more than the {longest.minutes:g} that partition {longest.name} allows; "
            "ask for less: a job that takes longer is requeued and goes on"
        )


def _minutes(limit: str) -> float:
    """Of a time as Slurm writes it: 30 (minutes), 5:00 (and seconds), 1:00:00, 2-00:00:00, infinite."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", limit):
        return float("inf")
    days, _, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:
        parts = [*parts, 0, 0][:3]
    elif len(parts) < 3:
        parts = [0, *parts, 0][:3]
    return 1440 * int(days or 0) + 60 * parts[0] + parts[1] + parts[2] / 60


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]}: no such command here") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{command[0]}: Slurm has not answered for {_PATIENCE} seconds; try again later") from error
    if done.returncode:
        raise ClusterError(f"{command[0]}: {' '.join(done.stderr.split())[:300] or f'ended with {done.returncode}'}")
    return done.stdout
