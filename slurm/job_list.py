"""Jobs as a user sees them: one line each."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

from slurm.cluster import ClusterError
from slurm.records import unreadable
from slurm.states import State
from slurm.words import FOLDER

_BAD = ("failed", "lost", "not run")


@dataclass
class JobsSettings:
    """Which jobs to show, and how.

    Args:
        folder: of the jobs, as given to submit.
        format: terminal, or json: all that is known of each.
    """

    folder: Path = FOLDER
    format: Literal["terminal", "json"] = "terminal"


def lines(found: Sequence[State], names: Sequence[str], settings: JobsSettings) -> list[str | Table]:
    """A table, what failed and why, and a sum; of all jobs, or of those named.

    Raises:
        ClusterError: there is no job of a name, or no folder.
    """
    if settings.folder.exists() and not settings.folder.is_dir():
        raise ClusterError(f"{settings.folder}: no folder of jobs")
    for name in names:
        if not any(name in (state.sent.name, state.sent.id) for state in found):
            raise ClusterError(f"{name}: no job in {settings.folder} has this name or number")
    shown = [state for state in found if not names or {state.sent.name, state.sent.id} & set(names)]
    if settings.format == "json":
        return list(json.dumps([state.plain for state in shown], indent=1).split("\n"))
    lost = [f"{path}: cannot be read, so that job is not shown" for path in unreadable(settings.folder)]
    if not shown:
        return [f"no jobs in {settings.folder}", *lost]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in ("job", "name", "state", "node", "done", "left", "last", "restarts"):
        right = head in ("done", "left", "restarts")
        # Where a terminal is narrow, these give way, and only they.
        least = {"name": 9, "state": 8, "node": 5, "last": 8}.get(head)
        table.add_column(head, no_wrap=least is None, min_width=least, justify="right" if right else "left")
    for state in shown:
        table.add_row(*(Text(_plain(cell), no_wrap=True, overflow="ellipsis") for cell in _cells(state)))
    bad = [state for state in shown if state.word in _BAD]
    why = [f"{state.sent.name} {state.word}: {_plain(state.why) or 'no reason is known'}" for state in bad]
    logs = [f"  its log: {state.sent.log}" if state.sent.log.exists() else "  it has no log" for state in bad]
    count = Counter(state.word for state in shown)
    total = ", ".join(f"{number} {word}" for word, number in count.items())
    reasons = [line for pair in zip(why, logs, strict=True) for line in pair]
    return [
        table,
        *reasons,
        f"{len(shown)} {'job' if len(shown) == 1 else 'jobs'}: {total}; logs: {shown[0].sent.log.parent}/JOB_0_log.out",
        *lost,
    ]


def _plain(text: str) -> str:
    """Without what would do things to a terminal."""
    return "".join(one if one.isprintable() else "?" for one in text)


def _cells(state: State) -> tuple[str, ...]:
    share = f"{100 * state.done // state.total}%" if state.total else ""
    word = f"{state.word} {state.why}".strip() if state.live else state.word
    left = _clock(state.left) if state.left is not None else ""
    last = ", ".join(part for part in (state.remark, state.doing) if part) if state.live else state.remark
    return state.sent.id, state.sent.name, word, state.node, share, left, last, str(state.restarts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
