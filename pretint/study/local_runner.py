"""A study's cells as processes of this machine, some at a time."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from pretext.engine.signals import Ending, stop_requests
from pretint.study.cells import Failure, Shelf
from pretint.study.plan import PRETRAIN, Cell

_STOPPED = {Ending.PREEMPTED, Ending.INTERRUPTED, Ending.TERMINATED, -signal.SIGTERM, -signal.SIGINT, -signal.SIGUSR2}
_LOOK_EVERY = 0.2  # seconds
_ASK_EVERY = 10.0  # seconds between two looks at a cluster's queue


class Word(StrEnum):
    """How a cell stands."""

    FINISHED = "finished"
    RUNNING = "running"
    ELSEWHERE = "elsewhere"
    """Another process, or a job on a cluster, works on it."""
    WAITING = "waiting"
    STOPPED = "stopped"
    FAILED = "failed"
    BLOCKED = "blocked"
    """What it needs has failed."""


class Standing(NamedTuple):
    """How a cell stands, and what is to be said of it."""

    word: Word
    share: float = 0.0
    """Of what it does just now, in [0, 1]."""
    left: float | None = None
    """Seconds until that is done, as it says."""
    said: str = ""
    """What it does, or why it failed."""


Standings = Mapping[str, Standing]
"""By a cell's key."""


@dataclass
class _Work:
    cell: Cell
    process: "subprocess.Popen[bytes]"
    place: int
    """Of those that run at the same time: 0, 1, ..."""


def as_left(cells: Iterable[Cell], shelf: Shelf) -> dict[str, Standing]:
    """How cells stand by what they left: finished, failed or waiting.

    A pretraining whose network is damaged is done again if another cell waits for it.
    """
    found: dict[str, Standing] = {}
    by_key = {cell.key: cell for cell in cells}
    for cell in by_key.values():
        failure = shelf.failure(cell)
        waiting = _failed(failure) if failure else Standing(Word.WAITING)
        found[cell.key] = Standing(Word.FINISHED) if shelf.finished(cell) else waiting
    for cell in by_key.values():
        needed = by_key.get(cell.after)
        waits = found[cell.key].word == Word.WAITING and needed is not None and needed.command == PRETRAIN
        if waits and found[cell.after].word == Word.FINISHED and not shelf.check_network(by_key[cell.after]):
            found[cell.after] = Standing(Word.WAITING)
    return found


def run_here(
    cells: Sequence[Cell], shelf: Shelf, parallel: int, retry: bool, sent: Callable[[], Collection[str]] = tuple
) -> "Iterator[tuple[Standings, Ending]]":
    """Do the cells that are not finished, each when what it needs is.

    Yields, several times a second and once at the end, how all stand. The last ending says whether it was asked to
    stop: then every command was told to save itself, and has. A cell that failed in an earlier call is tried again only
    if that is asked for.

    Args:
        cells: each after the one that it needs; those of one key are one.
        shelf: where they lie.
        parallel: how many may run at the same time.
        retry: try those again that failed.
        sent: names of the folders that jobs on a cluster work on; these are left to them.

    Raises:
        UserError: nothing can be written.
        ClusterError: jobs were sent from here, and the cluster does not answer at the first look.
        KeyboardInterrupt: a second Ctrl-C; the commands were ended at once, and lose what came after their checkpoint.
    """
    unique = list({cell.key: cell for cell in cells}.values())
    for cell in unique if retry else ():
        shelf.forgive(cell)
    found = as_left(unique, shelf)
    work: list[_Work] = []
    told = Ending.COMPLETE
    waits = any(standing.word == Word.WAITING for standing in found.values())
    queued, looked = sent() if waits else (), time.monotonic()
    with stop_requests() as asked:
        try:
            while True:
                _collect(work, shelf, found)
                if (ending := asked()) and ending != told:
                    told = ending
                    for one in work:
                        one.process.send_signal(signal.SIGTERM)
                if time.monotonic() - looked > _ASK_EVERY:
                    queued, looked = sent(), time.monotonic()
                if not told:
                    _start(unique, shelf, found, work, parallel, queued)
                for one in work:
                    found[one.cell.key] = _running(shelf, one.cell)
                yield dict(found), told
                unsettled = any(standing.word in (Word.WAITING, Word.ELSEWHERE) for standing in found.values())
                if not work and (told or not unsettled):
                    return
                time.sleep(_LOOK_EVERY)
        finally:
            for one in work:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(one.process.pid, signal.SIGKILL)  # with its workers: it leads a session of its own
            for one in work:
                one.process.wait()


def _collect(work: list[_Work], shelf: Shelf, found: dict[str, Standing]) -> None:
    """What became of the commands that have ended."""
    for one in [one for one in work if one.process.poll() is not None]:
        work.remove(one)
        code = one.process.returncode
        if code == 0 and shelf.finished(one.cell):
            shelf.forgive(one.cell)
            found[one.cell.key] = Standing(Word.FINISHED)
        elif code in _STOPPED:
            found[one.cell.key] = Standing(Word.STOPPED)
        else:
            found[one.cell.key] = _failed(shelf.fail(one.cell, code))


def _start(
    cells: Sequence[Cell],
    shelf: Shelf,
    found: dict[str, Standing],
    work: list[_Work],
    parallel: int,
    queued: Collection[str],
) -> None:
    """Start what can be started; what another process has finished, or works on, is left to it."""
    for cell in cells:
        standing = found[cell.key]
        if standing.word not in (Word.WAITING, Word.ELSEWHERE, Word.BLOCKED):
            continue
        before = found[cell.after].word if cell.after else Word.FINISHED
        if before in (Word.FAILED, Word.BLOCKED, Word.STOPPED):
            found[cell.key] = Standing(Word.STOPPED if before == Word.STOPPED else Word.BLOCKED)
            continue
        if before != Word.FINISHED or (len(work) >= parallel and standing.word == Word.WAITING):
            continue
        lock = None if cell.place in queued else shelf.hold(cell)
        if lock is None:
            found[cell.key] = _running(shelf, cell)._replace(word=Word.ELSEWHERE)
            continue
        try:
            if shelf.finished(cell):  # another process did it meanwhile
                found[cell.key] = Standing(Word.FINISHED)
            elif failure := shelf.failure(cell):
                found[cell.key] = _failed(failure)
            elif len(work) < parallel:
                place = next(at for at in range(parallel) if at not in [one.place for one in work])
                work.append(_Work(cell, _process(cell, shelf, lock, place, parallel), place))
                found[cell.key] = Standing(Word.RUNNING)
            else:
                found[cell.key] = Standing(Word.WAITING)
        finally:
            os.close(lock)


def _process(cell: Cell, shelf: Shelf, lock: int, place: int, parallel: int) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PRETINT_PROGRESS": str(shelf.beside(cell, "progress").resolve())}
    cores = len(os.sched_getaffinity(0))
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // parallel)))
    if gpus := _gpus():
        environment["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
    shelf.beside(cell, "progress").unlink(missing_ok=True)
    with shelf.beside(cell, "log").open("ab", buffering=0) as log:
        log.write(f"$ pretint {shlex.join(cell.words)}\n".encode())
        return subprocess.Popen(
            [sys.executable, "-m", "pretint", *cell.words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=[lock],
            start_new_session=True,  # Ctrl-C is for the study, which tells them to save themselves
        )


def _gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES has for them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [one for one in named.split(",") if one]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
        return [str(at) for at, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
    return []


def _running(shelf: Shelf, cell: Cell) -> Standing:
    told = shelf.progress(cell)
    done, total, left = (told.get(name) for name in ("done", "total", "left"))
    share = done / total if isinstance(done, int) and isinstance(total, int) and total > 0 else 0.0
    said = f"{told.get('title', '')}"
    return Standing(Word.RUNNING, share, left if isinstance(left, (int, float)) else None, said)


def _failed(failure: Failure) -> Standing:
    return Standing(Word.FAILED, said=failure.said or f"ended with code {failure.code}")
