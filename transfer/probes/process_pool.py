"""Independent tasks in forked processes, which share the memory of this process without a copy."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pretext.engine.progress import Advance
from pretext.errors import UserError

Values = NDArray[np.float64]


class Finished(NamedTuple):
    """The results of tasks that are finished."""

    results: dict[str, Values]
    """Small arrays, by the names of the tasks."""
    save: Callable[[], None] = lambda: None
    """Called after each new one. If it writes them to disk, a killed call can continue."""


def run_tasks(
    tasks: Mapping[str, Callable[[], Values]], finished: Finished, processes: int, advance: Advance
) -> list[Values]:
    """Return the results of all tasks, in order; run the tasks that are not finished, and store each result."""
    missing = [name for name in tasks if name not in finished.results]
    results = map_forked(lambda name: tasks[name](), missing, processes)
    with threadpool_limits(1), contextlib.closing(results):  # one core for each process
        for name, value in results:
            finished.results[name] = value
            finished.save()
            advance(1, "")
    return [finished.results[name] for name in tasks]


def map_forked(
    work: Callable[[str], Values], names: Sequence[str], processes: int
) -> Generator[tuple[str, Values], None, None]:
    """Yield each name and ``work(name)``, in the order in which they finish; with one process, run here one by one.

    The processes end with the iterator; if this process is killed, each ends after its current task.

    Args:
        work: a function without side effects, which would be lost; it must not use torch, which cannot be forked while
            it computes.
        names: the names of the tasks, started in this order.
        processes: how many run at once.

    Raises:
        UserError: a process was killed; or what ``work`` raises.
    """
    if min(processes, len(names)) <= 1:
        yield from ((name, work(name)) for name in names)
        return
    fork = multiprocessing.get_context("fork")
    waiting, busy = iter(names), dict[Connection, str]()
    workers, ends = [], list[Connection]()
    try:
        for name in (next(waiting) for _ in range(min(processes, len(names)))):
            ours, theirs = fork.Pipe()
            ends.append(ours)
            workers.append(fork.Process(target=_serve, args=(work, theirs, ends), daemon=True))
            workers[-1].start()
            theirs.close()
            ours.send(name)
            busy[ours] = name
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                name = busy.pop(ready)
                try:
                    value = ready.recv()
                except (EOFError, ConnectionError) as problem:
                    raise UserError(
                        f"a process that worked on {name} was killed, perhaps for lack of memory; use fewer processes"
                    ) from problem
                if isinstance(value, Exception):
                    raise value
                if (following := next(waiting, None)) is not None:
                    ready.send(following)
                    busy[ready] = following
                yield name, value
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()


def _serve(work: Callable[[str], Values], requests: Connection, inherited: Sequence[Connection]) -> None:
    """Run tasks until the parent closes the connection. Only the parent decides when to stop."""
    for end in inherited:  # if this process held a parent's end, no process would notice that the parent has ended
        end.close()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2})
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            name = requests.recv()
            try:
                value: Values | Exception = work(name)
            except Exception as problem:
                value = problem
            requests.send(value)
