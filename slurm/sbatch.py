"""A job as Slurm gets it: what sbatch is told, the script around the job, the environment it leaves behind."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import submitit

from slurm.cluster import ClusterError, ClusterSettings
from slurm.records import LOGS, REQUEUE

_OTHERS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
_HOLD_BACK = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
# A user's own variables win over what stands in the sbatch file: these would take from a job what it relies on.
_TAKEN = (
    "ARRAY_INX", "ERROR", "GPUS_PER_NODE", "JOB_NAME", "MEM_PER_CPU", "MEM_PER_GPU", "MEM_PER_NODE", "NO_REQUEUE",
    "OPEN_MODE", "OUTPUT", "REQUEUE", "SIGNAL", "TIMELIMIT", "WAIT",
)  # fmt: skip
_CHOSEN = ("partition", "account", "qos", "constraint")
_WAIT = 60  # seconds that sbatch has


class SlurmExecutor(submitit.SlurmExecutor):  # type: ignore[misc]
    """Submitit's, which also writes the sbatch file on a machine without Slurm: it is shown there, and not sent."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def slurm_executor(asked: ClusterSettings, name: str, after: Sequence[str], folder: Path, code: Path) -> Any:
    """submitit's, set up.

    Args:
        asked: of the cluster.
        name: of the job.
        after: numbers of the jobs that must be complete before.
        folder: of the jobs' records and logs.
        code: folder of the code that it runs.
    """
    place = folder.resolve()
    # Until somebody listens USR2 and TERM would end the process. Where the node's env can, they wait instead.
    block = "env --block-signal=USR2,TERM"
    python = asked.python or shlex.quote(sys.executable)
    # Not a folder for each job's log: Slurm may want to write before it is made.
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
            "export SLURM_EXPORT_ENV=ALL",  # else with SBATCH_EXPORT=NONE the job would have none of this
            f'patient=$({block} true 2> /dev/null && echo "{block}" || true)',
            "set +e",
        ],
        teardown=[
            "code=$?",
            "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}",
            # A job in a container that has none of Slurm's commands leaves word that it wants to be started again.
            f"asked={shlex.quote(str(place))}/$job/{REQUEUE}",
            'now=$([ ! -e "$asked" ] || scontrol --oneliner show job "$job")',
            'if [[ "$now " == *" JobState=RUNNING "* && "$now " == *" Restarts=${SLURM_RESTART_COUNT:-0} "* ]]; then',
            '    rm -f "$asked"; scontrol requeue "$job"',
            "fi",
            "exit $code",
        ],
        array_parallelism=asked.at_once,
        # srun has not passed the cores on since Slurm 22.05: without this all workers share one.
        # A task that dies ends the others, which would wait for it until the time limit.
        srun_args=[f"--cpus-per-task={asked.cpus_per_task}", "--kill-on-bad-exit=1"],
        additional_parameters=further,
        **chosen,
        **({"gpus_per_node": asked.gpus_per_node} if asked.gpus_per_node else {}),
    )
    return executor


def script(asked: ClusterSettings, name: str, after: Sequence[str], folder: Path, code: Path) -> str:
    """The sbatch file by which a job would be sent; arguments as ``slurm_executor``."""
    executor = slurm_executor(asked, name, after, folder, code)
    return str(executor._make_submission_file_text(executor._submitit_command_str, "dry-run"))


def require_taken(asked: ClusterSettings, name: str, folder: Path, code: Path) -> None:
    """Ask Slurm itself whether it would take a job, without sending it.

    Raises:
        ClusterError: it would not, and why.
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
        raise ClusterError(f"{name}: Slurm will not take it ({complaint(done.stderr)})")


def code_first(code: Path) -> str:
    """A line of shell by which Python finds the job's code before all else, whatever a setup has put there."""
    return f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1"


@contextlib.contextmanager
def clean_environment(asked: ClusterSettings, code: Path) -> Iterator[None]:
    """The environment that a job starts with: this one's, but not that of a job which sends jobs.

    SLURM_CONF stays, as it says where the cluster is, and the user's own SBATCH_ variables where nothing else was
    asked. Python finds the job's
    code before all else, also where the job starts in a folder that holds another: PYTHONSAFEPATH.
    """
    before = dict(os.environ)
    taken = {f"SBATCH_{name}" for name in (*_TAKEN, *(one.upper() for one in _CHOSEN if getattr(asked, one)))}
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


def complaint(text: str) -> str:
    """What Slurm says of itself, on one line."""
    lines = [re.sub(r"^(sbatch|srun): (error: )?", "", line.strip()) for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Traceback", "subprocess", "File "))]
    return "; ".join(dict.fromkeys(told))[:300] or "no reason given"
