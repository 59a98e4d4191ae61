"""What a user says to have jobs sent: options, a command's words, a list of commands."""

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
    """What to send where, and what to ask for.

    Args:
        jobs: a YAML file of jobs, each with name, command, and if need be after and ask: see docs/cluster.md.
        name: of the job; empty makes one of its command.
        after: names of jobs sent before, or Slurm's numbers, that must be complete before this one starts.
        folder: of the jobs' records and logs, on a disk that all nodes see.
        again: send also what is complete already.
        dry_run: send nothing; show the sbatch file, the GPU-hours and the disk that it would take.
    """

    jobs: str = ""
    name: str = ""
    after: list[str] = field(default_factory=list)
    folder: Path = FOLDER
    again: bool = False
    dry_run: bool = False

    @property
    def cluster(self) -> ClusterSettings:
        """What is asked of the cluster, alone."""
        return ClusterSettings(**{one.name: getattr(self, one.name) for one in dataclasses.fields(ClusterSettings)})


class Item(NamedTuple):
    """A job as it was written down."""

    words: tuple[str, ...]
    name: str
    after: tuple[str, ...]
    ask: dict[str, Any]
    """Settings of the cluster that it wants otherwise."""


def split_words(words: Sequence[str], commands: Container[str], flags: Container[str]) -> tuple[list[str], list[str]]:
    """The options of submit, and the command with all that belongs to it: from the first word that is no option.

    Raises:
        ClusterError: that word is no command.
    """
    at = 0
    while at < len(words) and words[at].startswith("-"):
        word = words[at]
        alone = "=" in word or word in ("-h", "--help") or word.lstrip("-").replace("-", "_") in flags
        at += 1 if alone else 2
    if at < len(words) and words[at] not in commands:
        raise ClusterError(f"{words[at]}: no command of pretint; write pretint submit --on CLUSTER.yaml COMMAND ...")
    return list(words[:at]), list(words[at:])


def listed(entries: Any, where: str) -> list[Item]:
    """The jobs of a list.

    Args:
        entries: as YAML or JSON holds them: name, command, after and ask for each.
        where: names the list in a complaint.

    Raises:
        ClusterError: an entry is not as it should be.
    """
    if not isinstance(entries, list) or not entries:
        raise ClusterError(f"{where}: holds no list of jobs; write '- name: ...' and 'command: ...' for each")
    return [_item(entry, f"{where}: job {number}") for number, entry in enumerate(entries, 1)]


def _item(entry: Any, where: str) -> Item:
    known = {"name": str, "command": str, "after": (str, int, list), "ask": dict}
    if not isinstance(entry, dict):
        raise ClusterError(f"{where}: holds no settings; write name: and command:")
    for key, value in entry.items():
        if key not in known:
            raise ClusterError(f"{where}: no setting is called {key}; a job has {', '.join(known)}")
        if not isinstance(value, known[key]):  # type: ignore[arg-type]
            raise ClusterError(f"{where}: {key} is {value!r}, which it cannot be")
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
    names = after if isinstance(after, list) else [after]
    return Item(tuple(words), entry["name"], tuple(map(str, names)), entry.get("ask", {}))
