"""Jobs on this machine, without Slurm: in the background by submitit, or in the foreground."""

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import submitit

from slurm.cluster import ClusterError, ClusterSettings
from slurm.records import LOGS, Sent, note
from slurm.sbatch import clean_environment

_NEVER = 60 * 24 * 3650  # minutes; nobody waits for this machine, so nobody is sent away


def local_executor(asked: ClusterSettings, folder: Path) -> Any:
    """submitit's, set up.

    Raises:
        ClusterError: there is no such Python.
    """
    if asked.python and shutil.which(shlex.split(asked.python)[0]) is None and not asked.setup:
        raise ClusterError(f"python: no command {shlex.split(asked.python)[0]} on this machine")
    executor = submitit.LocalExecutor(folder=folder.resolve() / LOGS, python=shlex.join(_python(asked)))
    executor.update_parameters(
        timeout_min=_NEVER,
        tasks_per_node=asked.tasks_per_node,
        gpus_per_node=asked.gpus_per_node,
        stderr_to_stdout=True,
    )
    return executor


def run_here(sent: Sent) -> None:
    """Run a job's command in the foreground, on this terminal, to its end.

    Raises:
        ClusterError: it failed.
    """
    folder, asked = Path(sent.folder), ClusterSettings(**sent.asked)
    note(folder, kind="start", restart=0, rank=0, pid=os.getpid(), node=os.uname().nodename)
    how, code = "stopped", 0
    try:
        with (folder / ".lock").open("a") as lock, clean_environment(asked, Path(sent.code)):
            fcntl.lockf(lock, fcntl.LOCK_EX)
            code = subprocess.call([*_python(asked), "-m", "pretint", *sent.words])
        how = "failed" if code else "complete"
    finally:
        note(folder, kind="end", how=how, restart=0, rank=0, code=code)
    if code:
        raise ClusterError(f"{sent.name}: its command ended with {code}; what it said stands above")


def end_local(sent: Sent) -> None:
    """Tell a job of this machine to save itself and leave.

    Raises:
        ClusterError: it cannot be told.
    """
    try:
        os.kill(int(sent.id), signal.SIGTERM)  # submitit's controller, which passes it on
    except ProcessLookupError:
        return
    except (OSError, ValueError) as error:
        raise ClusterError(f"{sent.name}: process {sent.id} cannot be ended ({error})") from error


def _python(asked: ClusterSettings) -> list[str]:
    """What starts Python, after the lines of the setup; a shell that stays beside it would keep signals from it."""
    lines = ["set -e"]
    if not asked.gpus_per_node:  # submitit would hide them all
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        lines.append(
            "unset CUDA_VISIBLE_DEVICES" if seen is None else f"export CUDA_VISIBLE_DEVICES={shlex.quote(seen)}"
        )
    lines += asked.setup
    return ["bash", "-c", "\n".join([*lines, 'exec "$@"']), "bash", *(shlex.split(asked.python) or [sys.executable])]
