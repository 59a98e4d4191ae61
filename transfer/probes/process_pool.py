"""Independent pieces of work in forked processes, which see all that this one has in memory and copy none of it."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, wait

import numpy as np
from numpy.typing import NDArray

from pretext.errors import UserError

Piece = Callable[[str], NDArray[np.float64]]


def forked(work: Piece, names: Sequence[str], processes: int) -> Generator[tuple[str, NDArray[np.float64]], None, None]:
    """Each name and ``work(name)``, as they are finished; one by one in this process if it is to be the only one.

    The processes end with the iterator; if this one is killed, each ends after the piece it is at.

    Args:
        work: without effects, for they would be lost; with none of torch in it, which must not be forked at work.
        names: of the pieces, begun in this order.
        processes: how many at once.

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
                        f"a process that worked on {name} was killed, for lack of memory perhaps; take fewer at once"
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


def _serve(work: Piece, asked: Connection, inherited: Sequence[Connection]) -> None:
    """Do what is asked for until nobody is there to ask. Only the parent decides when to stop."""
    for end in inherited:  # a pipe whose other end is held here would never say that the parent is gone
        end.close()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2})
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            name = asked.recv()
            try:
                value: NDArray[np.float64] | Exception = work(name)
            except Exception as problem:
                value = problem
            asked.send(value)
