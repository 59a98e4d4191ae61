"""What became of jobs: from their folders, and one look at the queue."""

import fcntl
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slurm import queue
from slurm.cluster import ClusterError
from slurm.records import Record, Sent, attempts, note, progress, read_sent

_ENDED = {
    "CANCELLED": "cancelled",
    "TIMEOUT": "ran out of time",
    "OUT_OF_MEMORY": "out of memory",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node failed",
    "DEADLINE": "ran out of time",
    "FAILED": "failed",
    "COMPLETED": "complete",
    "PREEMPTED": "preempted",
}
_FRESH = 60.0  # seconds in which a job that was just sent may not yet be in the queue's answer


class State(NamedTuple):
    """A job as it stands."""

    sent: Sent
    word: str
    """complete, failed, cancelled, not run, lost; or live: waiting, running, ending, requeued."""
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


def states(folder: Path) -> list[State]:
    """All jobs in a folder of jobs, the newest of each name, in the order in which they were sent.

    Raises:
        ClusterError: Slurm does not answer.
    """
    newest = {sent.name: sent for sent in read_sent(folder)}
    sent = sorted(newest.values(), key=lambda one: one.submitted)
    noted = {one.id: attempts(Path(one.folder)) for one in sent}
    open_ = [one.id for one in sent if one.executor == "slurm" and not _is_over(noted[one.id])]
    answer = queue.queued(open_) if open_ else {}
    found: dict[str, State] = {}
    for one in sent:
        found[one.id] = _state(one, noted[one.id], answer.get(one.id), found)
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
        if not fit and name != "all":
            there = ", ".join(state.sent.name for state in live[:10]) or "none"
            raise ClusterError(f"{name}: no live job in {folder} has this name or number (live: {there})")
        chosen += [state for state in fit if state not in chosen]
    queue.cancel([state.sent.id for state in chosen if state.sent.executor == "slurm"])
    for state in chosen:
        note(Path(state.sent.folder), kind="end", how="cancelled", restart=state.restarts, rank=-1)
        if state.sent.executor == "local":
            _end_local(state.sent)
    return chosen


def _state(sent: Sent, noted: Sequence[Record], queued: "queue.Queued | None", known: dict[str, State]) -> State:
    starts = [one for one in noted if one["kind"] == "start"]
    ends = [one for one in noted if one["kind"] == "end"]
    last = max((one.get("restart", 0) for one in starts), default=0)
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
        done=int(said.get("done") or 0),
        total=int(said.get("total") or 0),
        doing=str(said.get("title") or ""),
        left=said.get("left") if word == "running" else None,
        limit=limit,
        remark=str(said.get("remark") or ""),
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
    if any(one.get("how") == "cancelled" for one in ends):
        return "cancelled", "", False, ""
    final = next((one for one in ends if one.get("how") == "complete"), None) or next(
        (one for one in ends if one.get("how") in ("failed", "gave up") and one.get("restart") == last), None
    )
    if final is not None:
        word = "complete" if final["how"] == "complete" else "failed"
        return word, str(final.get("why", "")), False, ""
    if sent.executor != "slurm":
        if is_held(Path(sent.folder)) or (not noted and time.time() - sent.submitted < _FRESH):
            return "running", "", True, ""
        return "lost", "ended without a word; its log may say why", False, ""
    if queued is None:
        if time.time() - sent.submitted < _FRESH and not noted:
            return "waiting", "just sent", True, ""
        blame = [
            state.sent.name for state in known.values() if state.sent.id in sent.after and state.word != "complete"
        ]
        if not noted and blame:
            return "not run", f"waited for {', '.join(blame)}", False, ""
        return "lost", "left the queue without a word; its log may say why", False, ""
    if queued.state in _ENDED:
        word = _ENDED[queued.state]
        blame = [
            state.sent.name for state in known.values() if state.sent.id in sent.after and state.word != "complete"
        ]
        if not noted and blame:
            return "not run", f"waited for {', '.join(blame)}", False, ""
        if word == "complete":  # and it did not say so: the queue is ahead of the disk, or its runner never began
            return ("complete", "", False, "") if not noted else ("running", "", True, "")
        return (
            (word if word in ("cancelled",) else "failed"),
            "" if word == "cancelled" else f"Slurm: {word}",
            False,
            "",
        )
    if queued.state == "PENDING":
        word = "requeued" if noted else "waiting"
        return word, _waits(queued.reason), True, ""
    word = {"RUNNING": "running", "COMPLETING": "ending", "SUSPENDED": "suspended"}.get(
        queued.state, queued.state.lower()
    )
    return word, "", True, queued.left


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
    ends = [one for one in noted if one["kind"] == "end"]
    return any(one.get("how") in ("complete", "cancelled") for one in ends)


def is_held(folder: Path) -> bool:
    """Whether a process works on a folder, as its lock says: a job's, or a run."""
    try:
        with (folder / ".lock").open("r+") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _end_local(sent: Sent) -> None:
    try:
        os.kill(int(sent.id), signal.SIGTERM)  # submitit's controller, which passes it on
    except (OSError, ValueError) as error:
        raise ClusterError(f"{sent.name}: process {sent.id} cannot be ended ({error})") from error
