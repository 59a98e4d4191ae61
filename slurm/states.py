"""The state of each job, from its folder and one query of the queue; and the table that shows it."""

import contextlib
import fcntl
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from slurm import queue
from slurm.cluster import ClusterError
from slurm.executors import end_local_job
from slurm.job_list import FOLDER
from slurm.records import JobRecord, SentJob, attempts, note, progress, read_sent, unreadable

_ENDED = {
    "CANCELLED": "canceled",
    "TIMEOUT": "ran out of time",
    "OUT_OF_MEMORY": "out of memory",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node failed",
    "DEADLINE": "ran out of time",
    "FAILED": "failed",
    "COMPLETED": "complete",
    "PREEMPTED": "preempted",
}
_REASONS = {
    "Dependency": "for other jobs",
    "DependencyNeverSatisfied": "for jobs that failed",
    "Resources": "for nodes",
    "Priority": "for its turn",
    "BeginTime": "",
    "None": "",
}
_FINAL = ("failed", "gave up", "canceled", "not run")  # after these a job is not started again
_EXPLAINED = ("failed", "lost", "not run")  # states whose reason is shown below the table
_UNKNOWN = queue.Queued("UNKNOWN", "", "", "")
_BORN = 20.0  # seconds after the start in which a local process may not have locked its folder yet
_FRESH = 60.0  # seconds in which a job that was just sent may be missing from the queue's answer


class JobState(NamedTuple):
    """The state of a job."""

    sent: SentJob
    word: str
    """complete, failed, canceled, stopped, not run, lost, unknown; or live: waiting, running, ending, requeued,
    suspended."""
    live: bool
    """Whether it is in the queue, or running."""
    why: str
    """The reason for waiting or for a failure."""
    node: str
    """The node on which it runs, or ran last."""
    restarts: int
    done: int
    total: int
    doing: str
    """The title of the work that ``done`` and ``total`` count."""
    left: float | None
    """Seconds until it is done, by the job's last estimate; None without one."""
    limit: str
    """Time left until its time limit, as Slurm writes it."""
    remark: str
    """Its own last remark, such as its loss."""

    @property
    def plain(self) -> dict[str, Any]:
        """The state for JSON."""
        values = {key: value for key, value in self._asdict().items() if key != "sent"}
        keys = ("name", "id", "line", "claims", "executor", "submitted", "file")
        return {**{key: getattr(self.sent, key) for key in keys}, **values, "log": str(self.sent.log)}


def states(folder: Path, ask: bool = True) -> list[JobState]:
    """Return the states of all jobs in a folder of jobs, the newest of each name, in the order of sending.

    Args:
        folder: folder of the jobs.
        ask: whether to query the queue; without it, some states are unknown.

    Raises:
        ClusterError: Slurm does not answer.
    """
    newest = {sent.name: sent for sent in read_sent(folder)}
    jobs = sorted(newest.values(), key=lambda sent: sent.submitted)
    records = {sent.id: attempts(Path(sent.folder)) for sent in jobs}
    unsettled = []
    for sent in jobs:
        last = _last_restart(records[sent.id])
        ends = [record for record in records[sent.id] if record["kind"] == "end"]
        over = any(
            end.get("how") == "complete" or (end.get("how") == "canceled" and end.get("restart") == last)
            for end in ends
        )
        if sent.executor == "slurm" and not over:
            unsettled.append(sent.id)
    answer = queue.queued(unsettled) if unsettled and ask else {}
    known: dict[str, JobState] = {}
    for sent in jobs:
        queued = answer.get(sent.id) if ask else _UNKNOWN
        of_job = records[sent.id]
        word, why, live, limit = _word(sent, of_job, queued, known)
        numbers = progress(Path(sent.folder)) or {}
        node = next((record.get("node", "") for record in of_job[::-1] if record["kind"] == "start"), "")
        known[sent.id] = state = JobState(
            sent,
            word,
            live,
            why,
            queued.nodes if queued and queued.nodes and live else node,
            _last_restart(of_job),
            done=numbers.get("done", 0),
            total=numbers.get("total", 0),
            doing=numbers.get("title", ""),
            left=numbers.get("left") if word == "running" else None,
            limit=limit,
            remark=numbers.get("remark", ""),
        )
        noted = any(record.get("restart") == state.restarts for record in _final_ends(of_job))
        if ask and state.word in ("failed", "canceled", "not run") and not noted:
            with contextlib.suppress(OSError):  # the queue forgets it in minutes
                note(Path(sent.folder), kind="end", how=state.word, restart=state.restarts, rank=-1, why=state.why)
    return list(known.values())


def cancel(folder: Path, names: Sequence[str]) -> list[JobState]:
    """Cancel live jobs, by name or number ("all" means all of them), and return them.

    Raises:
        ClusterError: there is no such live job, or Slurm refuses.
    """
    live = [state for state in states(folder) if state.live]
    chosen: list[JobState] = []
    for name in names:
        matches = [s for s in live if name == "all" or name in (s.sent.name, s.sent.id, s.sent.id.partition("_")[0])]
        if not matches and name == "all":
            raise ClusterError(f"all: no job in {folder} is live")
        if not matches:
            live_names = ", ".join(state.sent.name for state in live[:10]) or "none"
            raise ClusterError(f"{name}: no live job in {folder} has this name or number (live: {live_names})")
        chosen += [state for state in matches if state not in chosen]
    for state in chosen:  # first: a job that is stopping must not requeue itself
        note(Path(state.sent.folder), kind="cancel")
    queue.cancel([state.sent.id for state in chosen if state.sent.executor == "slurm"])
    for state in chosen:
        if state.sent.executor != "slurm":
            end_local_job(state.sent)
        note(Path(state.sent.folder), kind="end", how="canceled", restart=state.restarts, rank=-1)
    return chosen


def _word(
    sent: SentJob, records: Sequence[JobRecord], queued: "queue.Queued | None", known: Mapping[str, JobState]
) -> tuple[str, str, bool, str]:
    """Return the name of the state, its reason, whether the job is live, and the time until its limit."""
    last = _last_restart(records)
    ends = [record for record in records if record["kind"] == "end"]
    final = next((end for end in ends if end.get("how") == "complete"), None) or next(
        (end for end in _final_ends(records) if end.get("restart") == last), None
    )
    if final is not None and not (queued and queued.state == "PENDING"):  # Slurm may have started it again
        why = final.get("why") or ""
        return "failed" if final["how"] == "gave up" else str(final["how"]), str(why), False, ""
    if sent.executor != "slurm":
        began = max([sent.submitted, *(record["time"] for record in records if record["kind"] == "start")])
        if is_held(Path(sent.folder)) or (time.time() - began < _BORN and not ends):
            return "running", "", True, ""
        if any(end.get("how") == "stopped" for end in ends):
            return "stopped", "submit it again to resume", False, ""
        return "lost", "ended without a message; its log may show why", False, ""
    before = [state for state in known.values() if state.sent.id in sent.after]
    failed = [state.sent.name for state in before if state.word != "complete" and not state.live]
    if (queued is None or queued.state in _ENDED) and not records and failed:
        return "not run", f"waited for {', '.join(failed)}", False, ""
    if queued is None:
        if time.time() - sent.submitted < _FRESH and not records:
            return "waiting", "just sent", True, ""
        reason = next((end["why"] for end in reversed(ends) if end.get("why")), "its log may show why")
        return "lost", f"left the queue without a message; {reason}", False, ""
    if queued.state in _ENDED:
        word = _ENDED[queued.state]
        if word == "complete":  # without a record: it is not on the disk yet, or the runner never began
            never = "it ended without starting the command; see setup and python"
            return ("running", "", True, "") if records else ("failed", f"{never}{_last_line(sent)}", False, "")
        if word == "canceled":
            return word, "", False, ""
        return "failed", f"Slurm: {word}{_last_line(sent) if word == 'failed' else ''}", False, ""
    if queued.state == "PENDING":
        return "requeued" if records else "waiting", _REASONS.get(queued.reason, queued.reason), True, ""
    words = {"RUNNING": "running", "COMPLETING": "ending", "SUSPENDED": "suspended"}
    return words.get(queued.state, queued.state.lower()), "", True, queued.left


def _last_line(sent: SentJob) -> str:
    """Return the last line of a job's log, to append to a reason."""
    with contextlib.suppress(OSError), sent.log.open("rb") as log:
        log.seek(max(0, sent.log.stat().st_size - 4000))
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        return f"; last in its log: {lines[-1][:300]}" if lines else ""
    return ""


def _final_ends(records: Sequence[JobRecord]) -> list[JobRecord]:
    """Return the records of ends after which the job is not started again, except complete ones."""
    return [record for record in records if record["kind"] == "end" and record.get("how") in _FINAL]


def _last_restart(records: Sequence[JobRecord]) -> int:
    """Return the number of the latest start, 0 if there was none."""
    return max((record.get("restart") or 0 for record in records if record["kind"] == "start"), default=0)


def is_held(folder: Path) -> bool:
    """Return whether a process holds the lock of a folder: of a job, or of a run."""
    with contextlib.suppress(OSError), (folder / ".lock").open("r+") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
    return False


@dataclass
class JobsSettings:
    """The jobs to show, and how.

    Args:
        folder: folder of the jobs, as given to submit.
        format: terminal; or json, with all values of each job.
    """

    folder: Path = FOLDER
    format: Literal["terminal", "json"] = "terminal"


def format_states(states: Sequence[JobState], names: Sequence[str], settings: JobsSettings) -> list[str | Table]:
    """Return a table of the jobs, the reasons of failures, and a summary; of all jobs, or of those named.

    Raises:
        ClusterError: there is no job of a name, or the folder is not a folder.
    """
    if settings.folder.exists() and not settings.folder.is_dir():
        raise ClusterError(f"{settings.folder}: not a folder of jobs")
    for name in names:
        if not any(name in (state.sent.name, state.sent.id) for state in states):
            raise ClusterError(f"{name}: no job in {settings.folder} has this name or number")
    shown = [state for state in states if not names or {state.sent.name, state.sent.id} & set(names)]
    if settings.format == "json":
        return list(json.dumps([state.plain for state in shown], indent=1).split("\n"))
    damaged = [f"{path}: cannot be read, so this job is not shown" for path in unreadable(settings.folder)]
    if not shown:
        return [f"no jobs in {settings.folder}", *damaged]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in ("job", "name", "state", "node", "done", "left", "last", "restarts"):
        right = head in ("done", "left", "restarts")
        # Where a terminal is narrow, only these columns shrink.
        least = {"name": 9, "state": 8, "node": 5, "last": 8}.get(head)
        table.add_column(head, no_wrap=least is None, min_width=least, justify="right" if right else "left")
    for state in shown:
        share = f"{100 * state.done // state.total}%" if state.total else ""
        word = f"{state.word} {state.why}".strip() if state.live else state.word
        left = ""
        if state.left is not None:
            minutes, seconds = divmod(round(state.left), 60)
            hours, minutes = divmod(minutes, 60)
            left = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
        last = ", ".join(part for part in (state.remark, state.doing) if part) if state.live else state.remark
        cells = (state.sent.id, state.sent.name, word, state.node, share, left, last, str(state.restarts))
        table.add_row(*(Text(_printable(cell), no_wrap=True, overflow="ellipsis") for cell in cells))
    reasons = []
    for state in shown:
        if state.word in _EXPLAINED:
            reasons.append(f"{state.sent.name} {state.word}: {_printable(state.why) or 'no reason is known'}")
            reasons.append(f"  its log: {state.sent.log}" if state.sent.log.exists() else "  it has no log")
    count = Counter(state.word for state in shown)
    total = ", ".join(f"{number} {word}" for word, number in count.items())
    return [
        table,
        *reasons,
        f"{len(shown)} {'job' if len(shown) == 1 else 'jobs'}: {total}; logs: {shown[0].sent.log.parent}/JOB_0_log.out",
        *damaged,
    ]


def _printable(text: str) -> str:
    """Replace the characters that could control a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
