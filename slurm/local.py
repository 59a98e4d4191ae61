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
from slurm.records import LOGS, STOPPED, Sent, attempts, note
from slurm.sbatch import clean_environment, code_first

_NEVER = 60 * 24 * 3650  # minutes; nobody waits for this machine, so nobody is sent away


def local_executor(asked: ClusterSettings, folder: Path, code: Path) -> Any:
    """submitit's, set up.

    Raises:
        ClusterError: there is no such Python.
    """
    command = shlex.split(asked.python)
    if command and shutil.which(command[0]) is None and not asked.setup:
        raise ClusterError(f"python: no command {command[0]} on this machine")
    executor = submitit.LocalExecutor(folder=folder.resolve() / LOGS, python=shlex.join(_python(asked, code)))
    executor.update_parameters(
        timeout_min=_NEVER,
        tasks_per_node=asked.tasks_per_node,
        gpus_per_node=asked.gpus_per_node,
        stderr_to_stdout=True,
    )
    return executor


def run_here(sent: Sent) -> None:
    """Run a job's command in the foreground, on this terminal, to its end; signals are for it.

    Raises:
        ClusterError: it failed.
        SystemExit: it was stopped, and can go on; the code is its own.
    """
    folder, asked = Path(sent.folder), ClusterSettings(**sent.asked)
    note(folder, kind="start", restart=0, rank=0, pid=os.getpid(), node=os.uname().nodename)
    with (folder / ".lock").open("a") as lock, clean_environment(asked, Path(sent.code)):
        fcntl.lockf(lock, fcntl.LOCK_EX)
        # Ctrl-C of a terminal comes to both; the command, or its debugger, knows what to make of it.
        before = {signal.SIGINT: signal.signal(signal.SIGINT, lambda number, frame: None)}
        child = subprocess.Popen([*_python(asked, Path(sent.code)), "-m", "pretint", *sent.words])
        for number in (signal.SIGTERM, signal.SIGUSR2):
            before[number] = signal.signal(number, lambda number, frame: child.send_signal(number))
        try:
            code = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    how = {0: "complete"}.get(code, "stopped" if code in STOPPED else "failed")
    note(folder, kind="end", how=how, restart=0, rank=0, code=code)
    if how == "stopped":
        raise SystemExit(code if code > 0 else 128 - code)
    if code:
        raise ClusterError(f"{sent.name}: its command ended with {code}; what it said stands above")


def end_here(sent: Sent) -> None:
    """Tell a job of this machine to save itself and leave.

    Raises:
        ClusterError: it cannot be told.
    """
    begun = [one["pid"] for one in attempts(Path(sent.folder)) if one["kind"] == "start" and one.get("pid")]
    # submitit's controller, or the submit that waits for it in the foreground: both pass it on.
    number = int(sent.id) if sent.executor == "local" else next(iter(begun), 0)
    try:
        if number > 1:
            os.kill(number, signal.SIGTERM)
    except ProcessLookupError:
        return
    except OSError as error:
        raise ClusterError(f"{sent.name}: process {number} cannot be ended ({error.strerror})") from error


def _python(asked: ClusterSettings, code: Path) -> list[str]:
    """What starts Python, after the lines of the setup; a shell that stays beside it would keep signals from it."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    given = seen.split(",")[: asked.gpus_per_node] if seen and asked.gpus_per_node else None
    lines = ["set -e"]
    if given:  # submitit would number them anew, and take someone else's
        lines.append(f"export CUDA_VISIBLE_DEVICES={shlex.quote(','.join(given))}")
    elif not asked.gpus_per_node:  # it would hide them all
        lines.append(
            "unset CUDA_VISIBLE_DEVICES" if seen is None else f"export CUDA_VISIBLE_DEVICES={shlex.quote(seen)}"
        )
    lines += asked.setup
    lines.append(code_first(code))
    return ["bash", "-c", "\n".join([*lines, 'exec "$@"']), "bash", *(shlex.split(asked.python) or [sys.executable])]
