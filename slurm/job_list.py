"""The jobs that a user requests: options of submit, a command, or a list of commands."""

import dataclasses
import shlex
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

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


class Item(NamedTuple):
    """A job in a list of jobs."""

    words: tuple[str, ...]
    """The words of its command."""
    name: str
    after: tuple[str, ...]
    """Names or numbers of the jobs that must be complete before."""
    ask: dict[str, Any]
    """Settings of the cluster that this job changes."""


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


def parse_job_list(entries: Any, name: str) -> list[Item]:
    """Return the jobs of a list.

    Args:
        entries: the plain values of YAML or JSON: name, command, after and ask for each job.
        name: name of the list, for error messages.

    Raises:
        ClusterError: an entry is wrong.
    """
    if not isinstance(entries, list) or not entries:
        raise ClusterError(f"{name}: holds no list of jobs; write '- name: ...' and 'command: ...' for each")
    known = {"name": str, "command": str, "after": (str, int, list), "ask": dict}
    items = []
    for number, entry in enumerate(entries, 1):
        where = f"{name}: job {number}"
        if not isinstance(entry, dict):
            raise ClusterError(f"{where}: holds no settings; write name: and command:")
        for key, value in entry.items():
            if key not in known:
                raise ClusterError(f"{where}: no setting is called {key}; a job has {', '.join(known)}")
            if not isinstance(value, known[key]):  # type: ignore[arg-type]
                raise ClusterError(f"{where}: {key} cannot be {value!r}")
        if missing := [key for key in ("name", "command") if not entry.get(key)]:
            raise ClusterError(f"{where}: has no {missing[0]}")
        try:
            words = shlex.split(entry["command"])
        except ValueError as error:
            raise ClusterError(f"{where}: command: {error}") from error
        if words[:1] == ["pretint"]:
            words = words[1:]
        if not words:
            raise ClusterError(f"{where}: its command is empty")
        after = entry.get("after", [])
        after = after if isinstance(after, list) else [after]
        items.append(Item(tuple(words), entry["name"], tuple(map(str, after)), entry.get("ask", {})))
    return items
