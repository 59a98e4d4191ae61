"""The resources that a job requests from a cluster, checked."""

import dataclasses
import re
import shlex
from dataclasses import dataclass, field
from typing import Any, Literal

Executor = Literal["slurm", "local", "debug"]

_SET_ELSEWHERE = {
    "account", "array", "constraint", "cpus-per-task", "dependency", "error", "gpus-per-node", "help", "job-name",
    "mem", "mem-per-cpu", "mem-per-gpu", "nodes", "no-requeue", "ntasks-per-node", "open-mode", "output", "parsable",
    "partition", "qos", "quiet", "requeue", "signal", "test-only", "time", "usage", "version", "wait", "wrap",
}  # fmt: skip
_LONGEST = 366 * 24 * 60  # minutes; for Slurm a much longer limit means no limit
_SHORTEST = 5  # seconds; time to finish a step and write a checkpoint


class ClusterError(ValueError):
    """A mistake in a request to a cluster: the message is one line about what is wrong, where, and what to do."""


@dataclass
class ClusterSettings:
    """The resources that a job requests from the cluster.

    Args:
        executor: slurm; local (processes on this machine, in the background); or debug (this machine, in the
            foreground). local and debug have no partitions and no limits of time, cores or memory.
        partition: Slurm partition; empty uses the default of the cluster.
        account: Slurm account to charge.
        qos: quality of service.
        constraint: features that nodes must have, such as "a100|h100".
        minutes: time limit; a job that needs longer is requeued and resumes.
        grace: seconds before the time limit at which the job gets a signal to save its state and stop.
        nodes: number of machines.
        tasks_per_node: processes on each machine; pretraining needs one for every GPU.
        gpus_per_node: GPUs on each machine.
        cpus_per_task: cores for each process; with a GPU, the decoding of images needs several.
        memory_gb: main memory on each node, in GB.
        setup: lines of shell that run before the job, such as "module load cuda"; one that fails ends the job.
        python: command that starts Python on the node, such as "apptainer exec --nv image.sif python"; empty: the
            Python that submits.
        environment: environment variables of the job.
        options: other options of sbatch, such as {mail-type: FAIL}.
        at_once: largest number of jobs of an array that run at the same time.
        patience: a job gives up after this number of restarts in a row without progress.
    """

    executor: Executor = "slurm"
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    minutes: int = 24 * 60
    grace: int = 300
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 4
    memory_gb: float = 16
    setup: list[str] = field(default_factory=list)
    python: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    at_once: int = 256
    patience: int = 3

    def __post_init__(self) -> None:
        for name in ("minutes", "nodes", "tasks_per_node", "cpus_per_task", "memory_gb", "at_once", "patience"):
            if not 0 < getattr(self, name) < 10**9:  # nan too
                raise ClusterError(f"{name} is {getattr(self, name)}: it must be a finite number above 0")
        if self.minutes > _LONGEST:
            raise ClusterError(f"minutes is {self.minutes}: it must not be above {_LONGEST}, a year")
        if self.memory_gb * 1024 < 1:  # 0 MB means all memory of a node
            raise ClusterError(f"memory_gb is {self.memory_gb}: it must be at least 0.001")
        if self.gpus_per_node < 0:
            raise ClusterError(f"gpus_per_node is {self.gpus_per_node}: it must not be negative")
        if not _SHORTEST <= self.grace < 60 * self.minutes:
            raise ClusterError(
                f"grace is {self.grace} seconds: it must lie between {_SHORTEST} and the limit, {60 * self.minutes}"
            )
        if self.executor != "slurm" and self.nodes > 1:
            raise ClusterError(f"nodes is {self.nodes}: executor {self.executor} uses only this machine")
        if self.executor == "debug" and self.tasks_per_node > 1:
            raise ClusterError("tasks_per_node: executor debug runs one process; use local")
        for name, value in self.environment.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in str(value):
                raise ClusterError(f"environment: {name!r} cannot be the name of a variable; use letters, digits and _")
        for name, value in self.options.items():
            if not re.fullmatch(r"(--)?[A-Za-z][A-Za-z0-9_-]*", name) or not str(value).isprintable():
                raise ClusterError(f"options: {name!r}: {str(value)!r} cannot be an option of sbatch")
        for name in ("partition", "account", "qos", "constraint", "python"):
            if not getattr(self, name).isprintable():
                raise ClusterError(f"{name} is {getattr(self, name)!r}: it must be one line")
        try:
            shlex.split(self.python)
        except ValueError as error:
            raise ClusterError(f"python is {self.python!r}: {error}") from error
        if any("\0" in line for line in self.setup):
            raise ClusterError("setup: a line of shell cannot hold the character 0")
        for name in ("partition", "account", "qos", "constraint", "options"):
            if self.executor != "slurm" and getattr(self, name):
                raise ClusterError(f"{name}: executor {self.executor} does not use it; leave it out")
        if taken := sorted(_SET_ELSEWHERE & {name.lstrip("-").replace("_", "-") for name in self.options}):
            raise ClusterError(
                f"options: {taken[0]} is not allowed here, because another setting sets it; see pretint submit --help"
            )

    @property
    def gpu_hours(self) -> float:
        """The largest number of GPU-hours until the time limit."""
        return self.nodes * self.gpus_per_node * self.minutes / 60

    @property
    def of_one_task(self) -> "ClusterSettings":
        """The share of one process, for a job that runs in one process."""
        tasks = self.tasks_per_node
        return dataclasses.replace(
            self,
            nodes=1,
            tasks_per_node=1,
            gpus_per_node=-(-self.gpus_per_node // tasks),
            memory_gb=self.memory_gb / tasks,
        )
