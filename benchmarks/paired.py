"""Two ways to do the same, timed in turn within one process."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

Job = Callable[[], object]


class Spread(NamedTuple):
    """Of the rounds."""

    low: float
    median: float
    high: float


class Row(NamedTuple):
    """A comparison. A ratio above 1 says that ours is better; it is the median of the rounds' ratios."""

    what: str
    setting: str
    against: str
    unit: str
    ours: Spread | None
    plain: Spread | None
    ratio: Spread | None
    target: float | None = None
    remark: str = ""


def spread(values: list[float]) -> Spread:
    """Least, median, greatest."""
    return Spread(min(values), statistics.median(values), max(values))


def settle(device: torch.device) -> None:
    """Wait until the device has done all it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(job: Job, device: torch.device, times: int = 1, cpu: bool = False) -> float:
    """Of one call: by the clock, or, with ``cpu``, of all cores that this process had."""
    clock = time.process_time if cpu else time.perf_counter
    settle(device)
    began = clock()
    for _ in range(times):
        job()
    settle(device)
    return (clock() - began) / times


def paired(
    ours: Job, plain: Job, device: torch.device, rounds: int, cpu: bool = False
) -> tuple[list[float], list[float]]:
    """Seconds of both, round by round, each first in every other round; a call before is not timed.

    Short ones are repeated, so that a round takes at least a fifth of a second.
    """
    times = []
    for job in (ours, plain):
        job()
        times.append(max(1, round(0.2 / max(seconds(job, device), 1e-6))))
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in ((0, 1), (1, 0))[number % 2]:
            taken[which].append(seconds((ours, plain)[which], device, times[which], cpu))
    return taken


def in_turn(jobs: Mapping[str, Job], rounds: int) -> dict[str, list[float]]:
    """Seconds of several jobs on the CPU, round by round, in an order that turns; a call before is not timed."""
    for job in jobs.values():
        job()
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds):
        for name in list(jobs)[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            jobs[name]()
            taken[name].append(time.perf_counter() - began)
    return taken


def times_as_fast(
    what: str,
    setting: str,
    against: str,
    ours: list[float],
    plain: list[float],
    per: int = 0,
    target: float | None = None,
) -> Row:
    """A row of times: milliseconds, or, with ``per``, images/s of jobs that do so many."""
    ratio = spread([slow / quick for quick, slow in zip(ours, plain, strict=True)])
    if per:
        return Row(
            what,
            setting,
            against,
            "images/s",
            spread([per / one for one in ours]),
            spread([per / one for one in plain]),
            ratio,
            target,
        )
    milliseconds = [spread([1e3 * one for one in taken]) for taken in (ours, plain)]
    return Row(what, setting, against, "ms", milliseconds[0], milliseconds[1], ratio, target)


def skipped(what: str, why: object) -> Row:
    """A row that says what could not be measured."""
    return Row(what, "", "", "", None, None, None, remark=f"skipped: {why}")
