"""The start of a job: by sbatch, by submitit on this machine, or as a command in the foreground."""

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import submitit

from slurm.cluster import ClusterError, ClusterSettings
from slurm.records import LOGS, REQUEUE, STOPPED, SentJob, attempts, note

_OTHERS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
_HOLD_BACK = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
# Variables of the user override the sbatch file: these would change settings that a job needs.
_TAKEN = (
    "ARRAY_INX", "ERROR", "GPUS_PER_NODE", "JOB_NAME", "MEM_PER_CPU", "MEM_PER_GPU", "MEM_PER_NODE", "NO_REQUEUE",
    "OPEN_MODE", "OUTPUT", "REQUEUE", "SIGNAL", "TIMELIMIT", "WAIT",
)  # fmt: skip
_CHOSEN = ("partition", "account", "qos", "constraint")
_WAIT = 60  # seconds for an answer of sbatch
_NEVER = 60 * 24 * 3650  # minutes; jobs on this machine have no time limit


class SlurmExecutor(submitit.SlurmExecutor):  # type: ignore[misc]
    """Submitit's executor, which can also write the sbatch file on a machine without Slurm, to show it."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def slurm_executor(asked: ClusterSettings, name: str, after: Sequence[str], folder: Path, code: Path) -> Any:
    """Set up submitit's executor for Slurm.

    Args:
        asked: resources of the job.
        name: name of the job.
        after: numbers of the jobs that must be complete before.
        folder: folder for records and logs of the jobs.
        code: folder of the code that the job runs.
    """
    place = folder.resolve()
    # USR2 and TERM would end a process without a handler. If the node's env can block them, they wait for the handler.
    block = "env --block-signal=USR2,TERM"
    python = asked.python or shlex.quote(sys.executable)
    # One folder for all logs: Slurm may open a job's log before a folder for the job exists.
    executor = SlurmExecutor(folder=place / LOGS, python=f"$patient {python}")
    further: dict[str, Any] = {"requeue": True, **{key.lstrip("-"): value for key, value in asked.options.items()}}
    if after:
        further |= {"dependency": f"afterok:{':'.join(after)}", "kill-on-invalid-dep": "yes"}
    chosen = {key: getattr(asked, key) for key in _CHOSEN if getattr(asked, key)}
    executor.update_parameters(
        job_name=name,
        time=asked.minutes,
        nodes=asked.nodes,
        ntasks_per_node=asked.tasks_per_node,
        cpus_per_task=asked.cpus_per_task,
        mem=f"{round(1024 * asked.memory_gb)}MB",
        signal_delay_s=asked.grace,
        stderr_to_stdout=True,
        setup=[
            "set -e",
            *(f"export {key}={shlex.quote(str(value))}" for key, value in asked.environment.items()),
            *asked.setup,
            code_first(code),
            "export SLURM_EXPORT_ENV=ALL",  # else with SBATCH_EXPORT=NONE the job would get none of these variables
            f'patient=$({block} true 2> /dev/null && echo "{block}" || true)',
            "set +e",
        ],
        teardown=[
            "code=$?",
            "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}",
            # A job in a container without Slurm's commands writes this file to request a requeue.
            f"asked={shlex.quote(str(place))}/$job/{REQUEUE}",
            'now=$([ ! -e "$asked" ] || scontrol --oneliner show job "$job")',
            'if [[ "$now " == *" JobState=RUNNING "* && "$now " == *" Restarts=${SLURM_RESTART_COUNT:-0} "* ]]; then',
            '    rm -f "$asked"; scontrol requeue "$job"',
            "fi",
            "exit $code",
        ],
        array_parallelism=asked.at_once,
        # Since Slurm 22.05 srun does not inherit the number of cores: without this all workers share one core.
        # If a task fails, the others must end too: they would wait for it until the time limit.
        srun_args=[f"--cpus-per-task={asked.cpus_per_task}", "--kill-on-bad-exit=1"],
        additional_parameters=further,
        **chosen,
        **({"gpus_per_node": asked.gpus_per_node} if asked.gpus_per_node else {}),
    )
    return executor


def local_executor(asked: ClusterSettings, folder: Path, code: Path) -> Any:
    """Set up submitit's executor for this machine.

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


def script(asked: ClusterSettings, name: str, after: Sequence[str], folder: Path, code: Path) -> str:
    """Return the sbatch file for a job; arguments as for ``slurm_executor``."""
    executor = slurm_executor(asked, name, after, folder, code)
    return str(executor._make_submission_file_text(executor._submitit_command_str, "dry-run"))


def require_accepted(asked: ClusterSettings, name: str, folder: Path, code: Path) -> None:
    """Check that Slurm would accept a job, without sending it.

    Raises:
        ClusterError: Slurm would refuse it; the message has the reason.
    """
    text = script(asked, name, (), folder, code)
    with clean_environment(asked, code):
        try:
            done = subprocess.run(
                ["sbatch", "--test-only"], input=text, capture_output=True, text=True, timeout=_WAIT, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"sbatch: Slurm has not answered for {_WAIT} seconds; try again later") from error
    if done.returncode:
        raise ClusterError(f"{name}: Slurm refuses it ({complaint(done.stderr)})")


def complaint(text: str) -> str:
    """Return Slurm's error message on one line."""
    lines = [re.sub(r"^(sbatch|srun): (error: )?", "", line.strip()) for line in text.splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(("Traceback", "subprocess", "File "))]
    return "; ".join(dict.fromkeys(reasons))[:300] or "no reason given"


def code_first(code: Path) -> str:
    """Return a line of shell that puts the job's code first in Python's path, also after a setup that changes it."""
    return f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1"


@contextlib.contextmanager
def clean_environment(asked: ClusterSettings, code: Path) -> Iterator[None]:
    """Set the environment in which a job starts: the present one, without the variables of a surrounding job.

    SLURM_CONF remains, because it locates the cluster. SBATCH_ variables of the user remain too, unless a setting
    overrides them. PYTHONSAFEPATH makes Python find the job's code first, also if the job starts in a folder with
    another copy.
    """
    before = dict(os.environ)
    taken = {f"SBATCH_{name}" for name in (*_TAKEN, *(key.upper() for key in _CHOSEN if getattr(asked, key)))}
    for name in before:
        if (name.startswith(_HOLD_BACK) and name != "SLURM_CONF") or name in _OTHERS or name in taken:
            del os.environ[name]
    os.environ |= {key: str(value) for key, value in asked.environment.items()}
    paths = [str(code), os.environ.get("PYTHONPATH", "")]
    os.environ |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run_in_foreground(sent: SentJob) -> None:
    """Run a job's command on this terminal to its end. It gets the signals.

    Raises:
        ClusterError: the command failed.
        SystemExit: the command was stopped and can be resumed; the exit code is that of the command.
    """
    folder, asked = Path(sent.folder), ClusterSettings(**sent.asked)
    note(folder, kind="start", restart=0, rank=0, pid=os.getpid(), node=os.uname().nodename)
    with (folder / ".lock").open("a") as lock, clean_environment(asked, Path(sent.code)):
        fcntl.lockf(lock, fcntl.LOCK_EX)
        # A terminal sends Ctrl-C to both; the command, or its debugger, handles it.
        before = {signal.SIGINT: signal.signal(signal.SIGINT, lambda number, frame: None)}
        child = subprocess.Popen([*_python(asked, Path(sent.code)), "-m", "pretint", "run", sent.file])
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
        raise ClusterError(f"{sent.name}: its command failed with exit code {code}; see its messages above")


def end_local_job(sent: SentJob) -> None:
    """Send a job on this machine the signal to save its state and stop.

    Raises:
        ClusterError: its process cannot be signaled.
    """
    pids = [record["pid"] for record in attempts(Path(sent.folder)) if record["kind"] == "start" and record.get("pid")]
    # submitit's controller, or the submit that waits for the job in the foreground: both forward the signal.
    number = int(sent.id) if sent.executor == "local" else next(iter(pids), 0)
    try:
        if number > 1:
            os.kill(number, signal.SIGTERM)
    except ProcessLookupError:
        return
    except OSError as error:
        raise ClusterError(f"{sent.name}: process {number} cannot be ended ({error.strerror})") from error


def _python(asked: ClusterSettings, code: Path) -> list[str]:
    """Return the command that runs the setup and then execs Python: a shell in between would not forward signals."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",")[: asked.gpus_per_node] if visible and asked.gpus_per_node else None
    lines = ["set -e"]
    if gpus:  # submitit would number them from 0, and use those of others
        lines.append(f"export CUDA_VISIBLE_DEVICES={shlex.quote(','.join(gpus))}")
    elif not asked.gpus_per_node:  # it would hide them all
        lines.append(
            "unset CUDA_VISIBLE_DEVICES" if visible is None else f"export CUDA_VISIBLE_DEVICES={shlex.quote(visible)}"
        )
    lines += asked.setup
    lines.append(code_first(code))
    return ["bash", "-c", "\n".join([*lines, 'exec "$@"']), "bash", *(shlex.split(asked.python) or [sys.executable])]
