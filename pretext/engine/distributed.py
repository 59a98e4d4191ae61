"""Several processes on one run: their ranks, and how they exchange values.

Start the processes with torchrun, or with another launcher that sets the same variables (RANK, WORLD_SIZE,
LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT). Without them there is one process, and the functions
here do nothing that costs time.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from pretext.engine.compiler import not_compiled
from pretext.errors import RankGone, ReportedElsewhere, UserError

T = TypeVar("T")

# The first process may estimate a prior, initialize by k-means or compile while the others wait for it.
_TIMEOUT = timedelta(minutes=30)

_alone = False


def rank() -> int:
    """Return the rank of this process among all processes."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def world_size() -> int:
    """Return the number of processes of the run."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def local_rank() -> int:
    """Return the rank of this process among those on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world_size() > 1 else 0


def local_world_size() -> int:
    """Return the number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world_size() > 1 else 1


def is_rank_zero() -> bool:
    """Whether this is the process that writes to the run."""
    return rank() == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Connect the processes while the context lasts. With one process this does nothing.

    Tensors on a GPU are sent by NCCL, all others by gloo.

    Raises:
        UserError: the processes cannot connect to each other.
    """
    if world_size() == 1:
        yield
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"process {rank()} of {world_size()} cannot join the others at {os.environ.get('MASTER_ADDR')}:"
            f"{os.environ.get('MASTER_PORT')} ({' '.join(str(error).split())[:200]}); check MASTER_ADDR and MASTER_PORT"
        ) from error
    try:
        yield
    except BaseException:
        if device.type != "cuda":  # NCCL would wait for work that the others will never do
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def broadcast_from_rank_zero(compute: Callable[[], T]) -> T:
    """Compute something on the first process, and return it on every process.

    Raises:
        UserError: ``compute`` raised it on the first process. The other processes raise ``ReportedElsewhere``.
    """
    if world_size() == 1:
        return compute()
    outcome: list[tuple[T | None, UserError | None]] = [(None, None)]
    if is_rank_zero():
        try:
            outcome = [(compute(), None)]
        except UserError as error:
            outcome = [(None, error)]
    with translate_errors():
        dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
    result, first_error = outcome[0]
    if first_error is not None:
        raise first_error if is_rank_zero() else ReportedElsewhere(str(first_error))
    return result  # type: ignore[return-value]


def on_rank_zero(compute: Callable[[], T]) -> T | None:
    """Compute something on the first process; the others wait and return None.

    Raises as ``broadcast_from_rank_zero``.
    """
    results: list[T] = []
    broadcast_from_rank_zero(lambda: results.append(compute()))
    return results[0] if results else None


def all_reduce_max(value: int) -> int:
    """Return the greatest of all processes' values, on every process."""
    if world_size() == 1:
        return value
    box = torch.tensor(value)
    with translate_errors():
        dist.all_reduce(box, dist.ReduceOp.MAX)
    return int(box)


def all_gather_objects(values: list[T]) -> list[T]:
    """Return the values of all processes in one list, on every process."""
    if world_size() == 1:
        return list(values)
    gathered_values: list[list[T]] = [[] for _ in range(world_size())]
    with translate_errors():
        dist.all_gather_object(gathered_values, values)
    return [value for rank_values in gathered_values for value in rank_values]


def all_reduce_mean(values: Tensor) -> Tensor:
    """Return the mean of all processes' values, on their device."""
    if world_size() > 1:
        with translate_errors():
            dist.all_reduce(values)
        values /= world_size()
    return values


@contextmanager
def alone() -> Iterator[None]:
    """Let ``gather_with_gradient`` and ``mean_with_gradient`` return this process's values: the others do not call."""
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


@not_compiled
def gather_with_gradient(values: Tensor) -> tuple[Tensor, int]:
    """Return the rows of all processes, (processes * B, ...), in the order of their ranks; and where its own begin.

    Its gradient reaches the rows of every process: each gets the sum of what all processes' losses give it. As
    DistributedDataParallel averages gradients, the mean of all losses is what is minimized.
    """
    if world_size() == 1 or _alone:
        return values, 0
    gathered: Tensor = _Gather.apply(values)
    return gathered, rank() * len(values)


@not_compiled
def mean_with_gradient(values: Tensor) -> Tensor:
    """Return the mean of all processes' values, with a gradient as that of ``gather_with_gradient``."""
    if world_size() == 1 or _alone:
        return values
    mean: Tensor = _Mean.apply(values)
    return mean


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        parts = [torch.empty_like(values) for _ in range(world_size())]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        upstream = upstream.clone(memory_format=torch.contiguous_format)  # autograd may use it elsewhere
        dist.all_reduce(upstream)
        return upstream.chunk(world_size())[rank()]


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return all_reduce_mean(values.clone())

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return all_reduce_mean(upstream.clone())


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn errors that the end of another process causes into a message of one line, while the context lasts.

    Raises:
        RankGone: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        if world_size() == 1 or not (isinstance(error, dist.DistError) or "gloo" in message or "onnection" in message):
            raise
        raise RankGone(
            f"process {rank()} of {world_size()}: another process of this run is gone "
            f"({' '.join(message.split())[:160]}); "
            "read its last message, and start all processes again: they resume from the newest checkpoint"
        ) from error
