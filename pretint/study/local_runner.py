"""Run the cells of a study as processes on this machine, several at the same time."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from pretext.engine.signals import ExitStatus, catch_signals
from pretext.files import write_atomically
from pretint.commands import seal_call
from pretint.study.cells import PRETRAIN, CellStore, Failure, StudyCell

_STOPPED = {
    ExitStatus.PREEMPTED,
    ExitStatus.INTERRUPTED,
    ExitStatus.TERMINATED,
    -signal.SIGTERM,
    -signal.SIGINT,
    -signal.SIGUSR2,
}
_LOOK_EVERY = 0.2  # seconds
_ASK_EVERY = 10.0  # seconds between two queries of a cluster's queue


class Status(StrEnum):
    """The state of a cell."""

    FINISHED = "finished"
    RUNNING = "running"
    ELSEWHERE = "elsewhere"
    """Another process, or a job on a cluster, works on it."""
    WAITING = "waiting"
    STOPPED = "stopped"
    FAILED = "failed"
    BLOCKED = "blocked"
    """The cell that it needs has failed."""


class CellStatus(NamedTuple):
    """The state of a cell, and its details."""

    word: Status
    share: float = 0.0
    """The share that is done of its current work, in [0, 1]."""
    left: float | None = None
    """Seconds until that is done, by its own estimate."""
    said: str = ""
    """What it does, or why it failed."""


CellStatuses = Mapping[str, CellStatus]
"""The states of cells, by their keys."""


@dataclass
class _Work:
    cell: StudyCell
    process: "subprocess.Popen[bytes]"
    place: int
    """The number of its slot among the cells that run at the same time: 0, 1, ..."""


def initial_states(cells: Iterable[StudyCell], shelf: CellStore) -> dict[str, CellStatus]:
    """Return the states of cells by their files: finished, failed or waiting.

    If the network of a pretraining is damaged, and another cell needs it, the pretraining counts as not finished.
    """
    states: dict[str, CellStatus] = {}
    by_key = {cell.key: cell for cell in cells}
    for cell in by_key.values():
        failure = shelf.failure(cell)
        waiting = _failed(failure) if failure else CellStatus(Status.WAITING)
        states[cell.key] = CellStatus(Status.FINISHED) if shelf.is_finished(cell) else waiting
    for cell in by_key.values():
        needed = by_key.get(cell.after)
        waits = states[cell.key].word == Status.WAITING and needed is not None and needed.command == PRETRAIN
        if waits and states[cell.after].word == Status.FINISHED and not shelf.check_network(by_key[cell.after]):
            states[cell.after] = CellStatus(Status.WAITING)
    return states


def run_here(
    cells: Sequence[StudyCell],
    shelf: CellStore,
    parallel: int,
    retry: bool,
    sent: Callable[[], Collection[str]] = tuple,
) -> "Iterator[tuple[CellStatuses, ExitStatus]]":
    """Run the cells that are not finished, each after the cell that it needs.

    Yields the states of all cells, several times a second and once at the end. The last exit status tells whether a
    stop was requested; then every command got the signal, saved its state and ended. A cell that failed in an earlier
    call is tried again only with ``retry``.

    Args:
        cells: each after the one that it needs; those of one key are one.
        shelf: folder of the cells.
        parallel: how many may run at the same time.
        retry: try failed cells again.
        sent: returns the names of the folders that jobs on a cluster work on; these cells are left to them.

    Raises:
        UserError: nothing can be written.
        ClusterError: jobs were sent from here, and the cluster does not answer the first query.
        KeyboardInterrupt: a second Ctrl-C; the commands were ended at once, and lose all work since their checkpoint.
    """
    unique = list({cell.key: cell for cell in cells}.values())
    for cell in unique if retry else ():
        shelf.clear_failure(cell)
    states = initial_states(unique, shelf)
    work: list[_Work] = []
    stop = ExitStatus.COMPLETE
    waits = any(standing.word == Status.WAITING for standing in states.values())
    queued, queried_at = sent() if waits else (), time.monotonic()
    with catch_signals() as requested:
        try:
            while True:
                for job in [job for job in work if job.process.poll() is not None]:
                    work.remove(job)
                    code = job.process.returncode
                    if code == 0 and shelf.is_finished(job.cell):
                        shelf.clear_failure(job.cell)
                        states[job.cell.key] = CellStatus(Status.FINISHED)
                    elif code in _STOPPED:
                        states[job.cell.key] = CellStatus(Status.STOPPED)
                    else:
                        states[job.cell.key] = _failed(shelf.write_failure(job.cell, code))
                if (ending := requested()) and ending != stop:
                    stop = ending
                    for job in work:
                        job.process.send_signal(signal.SIGTERM)
                if time.monotonic() - queried_at > _ASK_EVERY:
                    queued, queried_at = sent(), time.monotonic()
                if not stop:
                    _start_cells(unique, shelf, states, work, parallel, queued)
                for job in work:
                    states[job.cell.key] = _running(shelf, job.cell)
                yield dict(states), stop
                unsettled = any(standing.word in (Status.WAITING, Status.ELSEWHERE) for standing in states.values())
                if not work and (stop or not unsettled):
                    return
                time.sleep(_LOOK_EVERY)
        finally:
            for job in work:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(job.process.pid, signal.SIGKILL)  # with its workers: it leads a session of its own
            for job in work:
                job.process.wait()


def _start_cells(
    cells: Sequence[StudyCell],
    shelf: CellStore,
    states: dict[str, CellStatus],
    work: list[_Work],
    parallel: int,
    queued: Collection[str],
) -> None:
    """Start the cells that can be started; leave to another process what it has finished, or works on."""
    for cell in cells:
        standing = states[cell.key]
        if standing.word not in (Status.WAITING, Status.ELSEWHERE, Status.BLOCKED):
            continue
        before = states[cell.after].word if cell.after else Status.FINISHED
        if before in (Status.FAILED, Status.BLOCKED, Status.STOPPED):
            states[cell.key] = CellStatus(Status.STOPPED if before == Status.STOPPED else Status.BLOCKED)
            continue
        if before != Status.FINISHED or (len(work) >= parallel and standing.word == Status.WAITING):
            continue
        lock = None if cell.place in queued else shelf.lock(cell)
        if lock is None:
            states[cell.key] = _running(shelf, cell)._replace(word=Status.ELSEWHERE)
            continue
        try:
            if shelf.is_finished(cell):  # another process did it meanwhile
                states[cell.key] = CellStatus(Status.FINISHED)
            elif failure := shelf.failure(cell):
                states[cell.key] = _failed(failure)
            elif len(work) < parallel:
                place = next(at for at in range(parallel) if at not in [job.place for job in work])
                work.append(_Work(cell, _start_command(cell, shelf, lock, place, parallel), place))
                states[cell.key] = CellStatus(Status.RUNNING)
            else:
                states[cell.key] = CellStatus(Status.WAITING)
        finally:
            os.close(lock)


def _start_command(
    cell: StudyCell, shelf: CellStore, lock: int, place: int, parallel: int
) -> "subprocess.Popen[bytes]":
    """Start a cell's command, with its share of the cores and a GPU in turn."""
    environment = {**os.environ, "PRETINT_PROGRESS": str(shelf.file(cell, "progress").resolve())}
    cores = len(os.sched_getaffinity(0))
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // parallel)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [gpu for gpu in (visible or "").split(",") if gpu]
    if visible is None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
            gpus = [str(at) for at, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
    shelf.file(cell, "progress").unlink(missing_ok=True)
    file = shelf.file(cell, "call")
    write_atomically(file, seal_call(cell.call))
    with shelf.file(cell, "log").open("ab", buffering=0) as log:
        log.write(f"$ {cell.call['line']}\n".encode())
        return subprocess.Popen(
            [sys.executable, "-m", "pretint", "run", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=[lock],
            start_new_session=True,  # Ctrl-C goes to the study, which sends them a signal to save
        )


def _running(shelf: CellStore, cell: StudyCell) -> CellStatus:
    numbers = shelf.progress(cell)
    share = numbers["done"] / numbers["total"] if numbers.get("total") else 0.0
    return CellStatus(Status.RUNNING, share, numbers.get("left"), numbers.get("title", ""))


def _failed(failure: Failure) -> CellStatus:
    return CellStatus(Status.FAILED, said=failure.said or f"ended with code {failure.code}")
