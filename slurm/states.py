"""What became of jobs: from their folders, and one look at the queue."""

import contextlib
import fcntl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slurm import queue
from slurm.cluster import ClusterError
from slurm.local import end_here
from slurm.records import Record, Sent, attempts, note, progress, read_sent

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
_BAD = ("failed", "gave up", "canceled", "not run")  # ends after which a job is not started again
_UNASKED = queue.Queued("UNKNOWN", "", "", "")
_BORN = 20.0  # seconds in which a process of this machine may not yet hold its job's folder
_FRESH = 60.0  # seconds in which a job that was just sent may not yet be in the queue's answer


class State(NamedTuple):
    """A job as it stands."""

    sent: Sent
    word: str
    """complete, failed, canceled, stopped, not run, lost, unknown; or live: waiting, running, ending, requeued,
    suspended."""
    live: bool
    """Whether it is in the queue, or at work."""
    why: str
    """Why it waits, or what it failed of."""
    node: str
    """Where it runs, or ran last."""
    restarts: int
    done: int
    total: int
    doing: str
    """What the numbers count."""
    left: float | None
    """Seconds until it is done, as it said last; None if it has not said."""
    limit: str
    """Until its time limit, as Slurm writes it."""
    remark: str
    """What it said last of itself, such as its loss."""

    @property
    def plain(self) -> dict[str, Any]:
        """For JSON."""
        values = {key: value for key, value in self._asdict().items() if key != "sent"}
        keys = ("name", "id", "claims", "executor", "submitted")
        return {**{key: getattr(self.sent, key) for key in keys}, "words": list(self.sent.words), **values,
                "log": str(self.sent.log)}  # fmt: skip


def states(folder: Path, ask: bool = True) -> list[State]:
    """All jobs in a folder of jobs, the newest of each name, in the order in which they were sent.

    Args:
        folder: of the jobs.
        ask: whether to look at the queue; else what it would tell is unknown.

    Raises:
        ClusterError: Slurm does not answer.
    """
    newest = {sent.name: sent for sent in read_sent(folder)}
    sent = sorted(newest.values(), key=lambda one: one.submitted)
    noted = {one.id: attempts(Path(one.folder)) for one in sent}
    open_ = [one.id for one in sent if one.executor == "slurm" and not _is_over(noted[one.id])]
    answer = queue.queued(open_) if open_ and ask else {}
    found: dict[str, State] = {}
    for one in sent:
        queued = answer.get(one.id) if ask else _UNASKED
        found[one.id] = state = _state(one, noted[one.id], queued, found)
        told = any(record.get("restart") == state.restarts for record in _ends(noted[one.id]))
        if ask and state.word in ("failed", "canceled", "not run") and not told:
            with contextlib.suppress(OSError):  # the queue forgets it in minutes
                note(Path(one.folder), kind="end", how=state.word, restart=state.restarts, rank=-1, why=state.why)
    return list(found.values())


def cancel(folder: Path, names: Sequence[str]) -> list[State]:
    """Cancel live jobs, by name or number ("all": all of them); which were.

    Raises:
        ClusterError: there is no such live job, or Slurm will not.
    """
    live = [state for state in states(folder) if state.live]
    chosen: list[State] = []
    for name in names:
        fit = [s for s in live if name == "all" or name in (s.sent.name, s.sent.id, s.sent.id.partition("_")[0])]
        if not fit and name == "all":
            raise ClusterError(f"all: no job in {folder} is live")
        if not fit:
            there = ", ".join(state.sent.name for state in live[:10]) or "none"
            raise ClusterError(f"{name}: no live job in {folder} has this name or number (live: {there})")
        chosen += [state for state in fit if state not in chosen]
    for state in chosen:  # first: a job that is stopping must not ask to be started again
        note(Path(state.sent.folder), kind="cancel")
    queue.cancel([state.sent.id for state in chosen if state.sent.executor == "slurm"])
    for state in chosen:
        if state.sent.executor != "slurm":
            end_here(state.sent)
        note(Path(state.sent.folder), kind="end", how="canceled", restart=state.restarts, rank=-1)
    return chosen


def _state(sent: Sent, noted: Sequence[Record], queued: "queue.Queued | None", known: dict[str, State]) -> State:
    starts = [one for one in noted if one["kind"] == "start"]
    ends = [one for one in noted if one["kind"] == "end"]
    last = _last(noted)
    word, why, live, limit = _word(sent, noted, ends, last, queued, known)
    said = progress(Path(sent.folder)) or {}
    node = queued.nodes if queued and queued.nodes and live else next((one.get("node", "") for one in starts[::-1]), "")
    return State(
        sent,
        word,
        live,
        why,
        node,
        last,
        done=said.get("done", 0),
        total=said.get("total", 0),
        doing=said.get("title", ""),
        left=said.get("left") if word == "running" else None,
        limit=limit,
        remark=said.get("remark", ""),
    )


def _word(
    sent: Sent,
    noted: Sequence[Record],
    ends: Sequence[Record],
    last: int,
    queued: "queue.Queued | None",
    known: dict[str, State],
) -> tuple[str, str, bool, str]:
    """State, reason, whether it is live, and the time to its limit."""
    final = next((one for one in ends if one.get("how") == "complete"), None) or next(
        (one for one in _ends(noted) if one.get("restart") == last), None
    )
    if final is not None and not (queued and queued.state == "PENDING"):  # Slurm may have started it again
        why = final.get("why") or ""
        return "failed" if final["how"] == "gave up" else str(final["how"]), str(why), False, ""
    if sent.executor != "slurm":
        fresh = time.time() - max([sent.submitted, *(one["time"] for one in noted if one["kind"] == "start")]) < _BORN
        if is_held(Path(sent.folder)) or (fresh and not ends):
            return "running", "", True, ""
        if any(one.get("how") == "stopped" for one in ends):
            return "stopped", "submitting it again goes on", False, ""
        return "lost", "ended without a word; its log may say why", False, ""
    before = [state for state in known.values() if state.sent.id in sent.after]
    blame = [state.sent.name for state in before if state.word != "complete" and not state.live]
    if (queued is None or queued.state in _ENDED) and not noted and blame:
        return "not run", f"waited for {', '.join(blame)}", False, ""
    if queued is None:
        if time.time() - sent.submitted < _FRESH and not noted:
            return "waiting", "just sent", True, ""
        told = next((one["why"] for one in reversed(ends) if one.get("why")), "its log may say why")
        return "lost", f"left the queue without a word; {told}", False, ""
    if queued.state in _ENDED:
        word = _ENDED[queued.state]
        if word == "complete":  # and it did not say so: the queue is ahead of the disk, or its runner never began
            never = "it ended without starting the command; see setup and python"
            return ("failed", f"{never}{_told(sent)}", False, "") if not noted else ("running", "", True, "")
        if word == "canceled":
            return word, "", False, ""
        return "failed", f"Slurm: {word}{_told(sent) if word == 'failed' else ''}", False, ""
    if queued.state == "PENDING":
        word = "requeued" if noted else "waiting"
        return word, _waits(queued.reason), True, ""
    word = {"RUNNING": "running", "COMPLETING": "ending", "SUSPENDED": "suspended"}.get(
        queued.state, queued.state.lower()
    )
    return word, "", True, queued.left


def _told(sent: Sent) -> str:
    """The last line of a job's log, as the end of a reason."""
    with contextlib.suppress(OSError), sent.log.open("rb") as log:
        log.seek(max(0, sent.log.stat().st_size - 4000))
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        return f"; last in its log: {lines[-1][:300]}" if lines else ""
    return ""


def _ends(noted: Sequence[Record]) -> list[Record]:
    """The records that a job did not come to a good end, and is not to be started again."""
    return [one for one in noted if one["kind"] == "end" and one.get("how") in _BAD]


def _waits(reason: str) -> str:
    return {
        "Dependency": "for other jobs",
        "DependencyNeverSatisfied": "for jobs that failed",
        "Resources": "for nodes",
        "Priority": "for its turn",
        "BeginTime": "",
        "None": "",
    }.get(reason, reason)


def _is_over(noted: Sequence[Record]) -> bool:
    """Whether the records alone say how a job ended, so that the queue need not be asked."""
    last = _last(noted)
    return any(
        one.get("how") == "complete" or (one.get("how") == "canceled" and one.get("restart") == last)
        for one in noted
        if one["kind"] == "end"
    )


def _last(noted: Sequence[Record]) -> int:
    """The number of the latest start, 0 if there was none."""
    return max((one.get("restart") or 0 for one in noted if one["kind"] == "start"), default=0)


def is_held(folder: Path) -> bool:
    """Whether a process works on a folder, as its lock says: a job's, or a run."""
    with contextlib.suppress(OSError), (folder / ".lock").open("r+") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
    return False
