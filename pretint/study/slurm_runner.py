"""A study's cells as jobs on a cluster."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pretext.engine.progress import say
from pretext.engine.signals import Ending, stop_requests
from pretint.study.cells import Shelf
from pretint.study.local_runner import Standing, Standings, Word, as_left
from pretint.study.plan import Cell

if TYPE_CHECKING:
    from slurm.records import Sent
    from slurm.words import Item

_ASK_EVERY = 5.0  # seconds between two looks at the queue
_PATIENCE = 600.0  # seconds in which Slurm may not answer
_LATE = 60.0  # seconds in which what a finished job wrote may not be seen here yet


def items(cells: Sequence[Cell], shelf: Shelf, retry: bool) -> "list[Item]":
    """The jobs that are still to be sent: cells that are neither finished nor in the queue.

    Args:
        cells: each after the one that it needs.
        shelf: where they lie.
        retry: send those again that failed, and what waited for them.

    Raises:
        ClusterError: Slurm does not answer.
    """
    from slurm.words import Item  # which needs submitit

    found = standings(cells, shelf)
    sent: dict[str, Item] = {}
    for cell in {cell.key: cell for cell in cells}.values():
        word = found[cell.key].word
        if word == Word.WAITING or (retry and word in (Word.FAILED, Word.BLOCKED)) or word == Word.STOPPED:
            before = found[cell.after].word if cell.after else Word.FINISHED
            if before in (Word.FAILED, Word.BLOCKED) and cell.after not in sent:
                continue
            after = () if before == Word.FINISHED else (next(one for one in cells if one.key == cell.after).place,)
            shelf.forgive(cell)
            sent[cell.key] = Item(cell.words, cell.place, after, cell.ask)
    return list(sent.values())


def standings(cells: Sequence[Cell], shelf: Shelf) -> dict[str, Standing]:
    """How all cells stand, by what they left and by the jobs that were sent.

    Raises:
        ClusterError: Slurm does not answer.
    """
    jobs = _jobs(shelf)
    found = as_left(cells, shelf)
    for cell in cells:
        standing = found[cell.key]
        before = found[cell.after].word if cell.after else Word.FINISHED
        if standing.word == Word.FINISHED:
            continue
        if cell.place in jobs:
            found[cell.key] = jobs[cell.place]
        elif standing.word == Word.WAITING and before in (Word.FAILED, Word.BLOCKED):
            found[cell.key] = Standing(Word.BLOCKED)
    return found


def queue(shelf: Shelf) -> Callable[[], Collection[str]]:
    """Tells the names of the folders that jobs in the queue work on, or will; while the cluster is silent, the last.

    What it returns raises ClusterError if the cluster does not answer at the first call.
    """
    known: list[Collection[str]] = []

    def ask() -> Collection[str]:
        if not shelf.jobs.is_dir():
            return ()
        from slurm.cluster import ClusterError

        try:
            known[:] = [{name for name, job in _jobs(shelf).items() if job.word in (Word.RUNNING, Word.ELSEWHERE)}]
        except ClusterError as error:
            if not known:
                raise ClusterError(f"{error}; if no job of {shelf.jobs} is left, move that folder away") from error
            say(f"{error}; asking again")
        return known[0]

    return ask


def follow(cells: Sequence[Cell], shelf: Shelf) -> Iterator[tuple[Standings, Ending]]:
    """How all stand, every few seconds, until no job is left in the queue or it is asked to stop; jobs go on then.

    Raises:
        ClusterError: Slurm does not answer.
    """
    from slurm.cluster import ClusterError

    found, answered = standings(cells, shelf), time.monotonic()
    with stop_requests() as asked:
        while True:
            ending = asked()
            yield found, ending
            if ending or not any(one.word in (Word.RUNNING, Word.ELSEWHERE) for one in found.values()):
                return
            waited = time.monotonic()
            while time.monotonic() - waited < _ASK_EVERY and not asked():
                time.sleep(0.2)
            try:
                found, answered = standings(cells, shelf), time.monotonic()
            except ClusterError as error:
                if time.monotonic() - answered > _PATIENCE:
                    raise
                say(f"{error}; asking again")


def _ended(sent: "Sent") -> float:
    """When a job said last that it ended, seconds since 1970."""
    from slurm.records import attempts

    return max((one["time"] for one in attempts(Path(sent.folder)) if one["kind"] == "end"), default=sent.submitted)


def _jobs(shelf: Shelf) -> Mapping[str, Standing]:
    """By the name of the folder that each works on."""
    if not shelf.jobs.is_dir():
        return {}
    from slurm.states import states

    found = {}
    for job in states(shelf.jobs):
        if job.live:
            share = job.done / job.total if job.total else 0.0
            word = Word.RUNNING if job.word in ("running", "ending") else Word.ELSEWHERE
            said = job.doing if word == Word.RUNNING else f"{job.word} {job.why}".strip()
            found[job.sent.name] = Standing(word, share, job.left, said)
        elif job.word == "complete" and time.time() - _ended(job.sent) < _LATE:
            found[job.sent.name] = Standing(Word.RUNNING, 1.0)  # a shared disk may show it late
        elif job.word == "not run":
            found[job.sent.name] = Standing(Word.BLOCKED, said=job.why)
        elif job.word == "stopped":
            found[job.sent.name] = Standing(Word.STOPPED)
        else:
            said = "ended well, but left nothing" if job.word == "complete" else job.why or job.word
            found[job.sent.name] = Standing(Word.FAILED, said=said)
    return found
