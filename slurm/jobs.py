"""Jobs to a cluster, through submitit."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import submitit

T = TypeVar("T")

AGAIN = 75
"""What a job returns that was asked to stop, has saved itself, and is to be called again (EX_TEMPFAIL)."""


@dataclass
class ClusterSettings:
    """What a job asks of the cluster.

    Args:
        cluster: slurm, or local: a process of its own on this machine.
        partition: of Slurm; empty takes the site's default.
        minutes: time limit of one piece of the job; a job that is longer is requeued and goes on.
        nodes: how many machines.
        tasks_per_node: processes on each; a pretraining wants one for every GPU.
        gpus: how many on each node.
        cpus: cores for each process; decoding takes some beside every GPU.
        memory_gb: of main memory, on each node.
        requeues: how often a job may be requeued because of its time limit.
    """

    cluster: Literal["slurm", "local"] = "slurm"
    partition: str = ""
    minutes: int = 24 * 60
    nodes: int = 1
    tasks_per_node: int = 1
    gpus: int = 0
    cpus: int = 4
    memory_gb: int = 16
    requeues: int = 30


class Resumable:
    """A job that submitit may interrupt: called again, it goes on by itself from what it has saved."""

    def __init__(self, job: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.job, self.arguments = job, arguments

    def __call__(self) -> Any:
        """Run the job. Several tasks find each other as under torchrun."""
        if "SUBMITIT_EXECUTOR" in os.environ and submitit.JobEnvironment().num_tasks > 1:
            # Not the GPU: on a cluster that shares nodes, numbering GPUs by rank takes someone else's.
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        try:
            result = self.job(*self.arguments)
        except SystemExit as stopped:  # how a job without an ending of its own says that a signal stopped it
            result = stopped.code
        ending = getattr(result, "ending", result)  # of a job that has more to say than how it ended
        if isinstance(ending, int) and ending == AGAIN and "SUBMITIT_EXECUTOR" in os.environ:
            # What submitit would have done, had the job not taken the signal to save itself first.
            signal.raise_signal(signal.SIGUSR2)
            time.sleep(30)  # the first task has the job requeued, which ends the others
            sys.exit(AGAIN)
        return result

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What to send next time: the same. submitit calls this before the time limit and on preemption."""
        return submitit.helpers.DelayedSubmission(self)


def submit(
    job: Callable[..., T], *arguments: Any, logs: Path, settings: ClusterSettings | None = None
) -> "submitit.Job[T]":
    """Send ``job(*arguments)`` to the cluster.

    Args:
        job: a function of a module (it is found there by name), safe to call again.
        arguments: picklable, such as a run's path and its settings.
        logs: folder for what the job prints, on a disk that the cluster sees.
        settings: what to ask for.

    Returns:
        submitit's job: ``.result()`` waits for it, ``.job_id`` names it.
    """
    asked = settings or ClusterSettings()
    executor = submitit.AutoExecutor(folder=logs, cluster=asked.cluster, slurm_max_num_timeout=asked.requeues)
    executor.update_parameters(
        name=getattr(job, "__name__", "job"),
        timeout_min=asked.minutes,
        nodes=asked.nodes,
        tasks_per_node=asked.tasks_per_node,
        gpus_per_node=asked.gpus,
        cpus_per_task=asked.cpus,
        mem_gb=asked.memory_gb,
        # srun has not passed the cores on since Slurm 22.05: without this all workers share one.
        # A task that dies ends the others, which would wait for it until the time limit.
        slurm_srun_args=[f"--cpus-per-task={asked.cpus}", "--kill-on-bad-exit=1"],
        **({"slurm_partition": asked.partition} if asked.partition else {}),
    )
    return executor.submit(Resumable(job, arguments))
