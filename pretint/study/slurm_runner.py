"""Run the cells of a study as jobs on a cluster."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from pretext.engine.progress import say
from pretext.engine.signals import ExitStatus, catch_signals
from pretint.study.cells import CellStore, StudyCell
from pretint.study.local_runner import CellStatus, CellStatuses, Status, initial_states

_ASK_EVERY = 5.0  # seconds between two queries of the queue
_PATIENCE = 600.0  # seconds that Slurm may take to answer again
_LATE = 60.0  # seconds until the files of a complete job must be visible here


def jobs_to_send(cells: Sequence[StudyCell], shelf: CellStore, retry: bool) -> "list[tuple[StudyCell, list[str]]]":
    """Return the cells that are neither finished nor in the queue, each with the names of the jobs that it waits for.

    Args:
        cells: each after the one that it needs.
        shelf: folder of the cells.
        retry: send failed cells again, and those that waited for them.

    Raises:
        ClusterError: Slurm does not answer.
    """
    states = read_states(cells, shelf)
    to_send: dict[str, tuple[StudyCell, list[str]]] = {}
    for cell in {cell.key: cell for cell in cells}.values():
        word = states[cell.key].word
        if word == Status.WAITING or (retry and word in (Status.FAILED, Status.BLOCKED)) or word == Status.STOPPED:
            before = states[cell.after].word if cell.after else Status.FINISHED
            if before in (Status.FAILED, Status.BLOCKED) and cell.after not in to_send:
                continue
            after = [] if before == Status.FINISHED else [next(c for c in cells if c.key == cell.after).place]
            shelf.clear_failure(cell)
            to_send[cell.key] = (cell, after)
    return list(to_send.values())


def read_states(cells: Sequence[StudyCell], shelf: CellStore) -> dict[str, CellStatus]:
    """Return the states of all cells, by their files and by the jobs that were sent.

    Raises:
        ClusterError: Slurm does not answer.
    """
    jobs = _jobs(shelf)
    states = initial_states(cells, shelf)
    for cell in cells:
        standing = states[cell.key]
        before = states[cell.after].word if cell.after else Status.FINISHED
        if standing.word == Status.FINISHED:
            continue
        if cell.place in jobs:
            states[cell.key] = jobs[cell.place]
        elif standing.word == Status.WAITING and before in (Status.FAILED, Status.BLOCKED):
            states[cell.key] = CellStatus(Status.BLOCKED)
    return states


def queue(shelf: CellStore) -> Callable[[], Collection[str]]:
    """Return a function that returns the names of the folders that jobs in the queue work on, or will work on.

    While the cluster does not answer, it returns the last ones. It raises ClusterError if the cluster does not answer
    the first call.
    """
    known: list[Collection[str]] = []

    def ask() -> Collection[str]:
        if not shelf.jobs.is_dir():
            return ()
        from slurm.cluster import ClusterError

        try:
            known[:] = [{name for name, job in _jobs(shelf).items() if job.word in (Status.RUNNING, Status.ELSEWHERE)}]
        except ClusterError as error:
            if not known:
                raise ClusterError(f"{error}; if no job of {shelf.jobs} is left, move that folder away") from error
            say(f"{error}; asking again")
        return known[0]

    return ask


def follow(cells: Sequence[StudyCell], shelf: CellStore) -> Iterator[tuple[CellStatuses, ExitStatus]]:
    """Yield the states of all cells, every few seconds, until no job is in the queue or a stop is requested.

    The jobs continue after that.

    Raises:
        ClusterError: Slurm does not answer.
    """
    from slurm.cluster import ClusterError

    states, answered = read_states(cells, shelf), time.monotonic()
    with catch_signals() as requested:
        while True:
            ending = requested()
            yield states, ending
            if ending or not any(state.word in (Status.RUNNING, Status.ELSEWHERE) for state in states.values()):
                return
            waited = time.monotonic()
            while time.monotonic() - waited < _ASK_EVERY and not requested():
                time.sleep(0.2)
            try:
                states, answered = read_states(cells, shelf), time.monotonic()
            except ClusterError as error:
                if time.monotonic() - answered > _PATIENCE:
                    raise
                say(f"{error}; asking again")


def _jobs(shelf: CellStore) -> Mapping[str, CellStatus]:
    """Return the states of the jobs that were sent, by the name of the folder that each works on."""
    if not shelf.jobs.is_dir():
        return {}
    from slurm.records import attempts
    from slurm.states import states

    jobs = {}
    for job in states(shelf.jobs):
        if job.live:
            share = job.done / job.total if job.total else 0.0
            word = Status.RUNNING if job.word in ("running", "ending") else Status.ELSEWHERE
            message = job.doing if word == Status.RUNNING else f"{job.word} {job.why}".strip()
            jobs[job.sent.name] = CellStatus(word, share, job.left, message)
            continue
        if job.word == "complete":
            ends = [record["time"] for record in attempts(Path(job.sent.folder)) if record["kind"] == "end"]
            if time.time() - max(ends, default=job.sent.submitted) < _LATE:
                jobs[job.sent.name] = CellStatus(Status.RUNNING, 1.0)  # a shared disk may show its files late
                continue
        if job.word == "not run":
            jobs[job.sent.name] = CellStatus(Status.BLOCKED, said=job.why)
        elif job.word == "stopped":
            jobs[job.sent.name] = CellStatus(Status.STOPPED)
        else:
            message = (
                "the job ended without an error, but made no files" if job.word == "complete" else job.why or job.word
            )
            jobs[job.sent.name] = CellStatus(Status.FAILED, said=message)
    return jobs
