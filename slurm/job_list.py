"""The jobs that a user requests: options of submit, and a command or a list of jobs."""

import dataclasses
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slurm.cluster import ClusterError, ClusterSettings

FOLDER = Path("jobs")


@dataclass
class SubmitSettings(ClusterSettings):
    """The jobs to send, and the resources to request for them.

    Args:
        jobs: a YAML file with a list of jobs, each with name, command, and optionally after and ask: see
            docs/cluster.md.
        name: name of the job; empty makes one from its command.
        after: names of jobs sent before, or Slurm's numbers, that must be complete before this job starts.
        folder: folder for records and logs of the jobs, on a disk that all nodes see.
        again: also send jobs that are complete already.
        dry_run: send nothing; show the sbatch file, the GPU-hours and the disk space that the jobs would need.
    """

    jobs: str = ""
    name: str = ""
    after: list[str] = field(default_factory=list)
    folder: Path = FOLDER
    again: bool = False
    dry_run: bool = False

    @property
    def cluster(self) -> ClusterSettings:
        """Only the settings of the cluster."""
        return ClusterSettings(
            **{setting.name: getattr(self, setting.name) for setting in dataclasses.fields(ClusterSettings)}
        )


@dataclass
class JobEntry:
    """A job in a list of jobs.

    Args:
        name: its name, to show, cancel and wait for it.
        command: its command line.
        after: the names or numbers of the jobs that must be complete before.
        ask: settings of the cluster that this job changes.
    """

    name: str = ""
    command: str = ""
    after: int | str | list[int | str] = field(default_factory=list)
    ask: dict[str, Any] = field(default_factory=dict)


def split_words(words: Sequence[str], commands: Container[str], flags: Container[str]) -> tuple[list[str], list[str]]:
    """Split the words after submit into its own options and the command, which starts at the first non-option.

    Raises:
        ClusterError: that word is not a command.
    """
    at = 0
    while at < len(words) and words[at].startswith("-"):
        word = words[at]
        alone = "=" in word or word in ("-h", "--help") or word.lstrip("-").replace("-", "_") in flags
        at += 1 if alone else 2
    if at < len(words) and words[at] not in commands:
        raise ClusterError(f"{words[at]}: no command of pretint; write pretint submit --on CLUSTER.yaml COMMAND ...")
    return list(words[:at]), list(words[at:])
