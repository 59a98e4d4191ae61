"""Memory: how much a job uses, how much is available, the message when it runs out, and how to save it.

``recompute_activations`` saves memory (activation checkpointing): it computes the inner features of a deep network
again in the backward pass, and does not store them.
"""

import contextlib
import errno
import multiprocessing
import re
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from pretext.errors import UserError

Contexts = Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]
# Parts of the messages of torch's CPU allocator, of CUDA's libraries, and of errors in data workers.
_SHORTAGE = re.compile(
    r"can't allocate memory|not enough memory|out of memory|cannot allocate memory|bad_alloc|ALLOC_FAILED|MemoryError"
    r"|unable to (?:allocate|mmap)|shared memory",
    re.IGNORECASE,
)
_AMOUNT = re.compile(r"allocate ([\d.]+) ?(bytes|[KMGTPE]iB)")


def reset_peak_memory(device: torch.device) -> None:
    """Reset ``peak_memory`` (on Linux only; elsewhere it counts from the start) and ``device_peak_memory``."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if device.type == "cuda":
        torch.cuda.init()  # before it there are no statistics to reset
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory() -> int:
    """Return the peak of this process's resident memory, Python and torch included, in bytes."""
    with contextlib.suppress(OSError):
        return _kilobytes(Path("/proc/self/status"), "VmHWM") * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_peak_memory(device: torch.device) -> int | None:
    """Return the peak of the memory of torch's tensors on a GPU, in bytes; None on other devices."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def children_memory() -> int:
    """Return the private memory of the child processes of this one, in bytes; 0 if it is unknown."""
    total = 0
    for child in multiprocessing.active_children():
        rollup = Path(f"/proc/{child.pid}/smaps_rollup")
        with contextlib.suppress(OSError):  # it may have ended
            total += (_kilobytes(rollup, "Private_Clean") + _kilobytes(rollup, "Private_Dirty")) * 1024
    return total


def available_memory(device: torch.device) -> int:
    """Return the memory that is still available where ``device`` computes, in bytes."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch keeps what was freed
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    room = sys.maxsize
    with contextlib.suppress(OSError):
        room = _kilobytes(Path("/proc/meminfo"), "MemAvailable") * 1024
    with contextlib.suppress(OSError, ValueError):  # in a container or a cluster's job; ValueError: "max", no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        room = min(room, limit - used)
    return room


def is_memory_shortage(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in this process or in a data worker."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):  # also torch.OutOfMemoryError, which a GPU's allocator raises
        return isinstance(error, torch.OutOfMemoryError) or _SHORTAGE.search(str(error)) is not None
    return isinstance(error, MemoryError)


@contextlib.contextmanager
def explain_memory_shortage(remedy: str) -> Iterator[None]:
    """Turn an out-of-memory error into a ``UserError``, as a context manager or as a decorator.

    Args:
        remedy: advice for the user, such as "lower workers".

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_memory_shortage(error):
            raise
        raise UserError(f"{describe_memory_shortage(error)}; {remedy}") from error


def describe_memory_shortage(error: BaseException) -> str:
    """Return where memory ran out and how much more was needed, as far as the error contains it."""
    text = str(error)
    where = ""
    if "DataLoader worker" in text:
        where = " in a process that decodes images"
    elif isinstance(error, torch.OutOfMemoryError) or "CUDA" in text:
        where = " on the GPU"
    amount = _AMOUNT.search(text)
    if amount is None:
        return f"out of memory{where}"
    value, unit = amount.groups()
    size = f"{float(value) / 1e9:,.2f} GB" if unit == "bytes" else f"{value} {unit}"
    return f"out of memory{where}: {size} more were needed"


def _kilobytes(path: Path, field: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise FileNotFoundError(field)


def recompute_activations(network: nn.Module) -> int:
    """Store only the input of each block of a network, and compute the other activations again for the gradient.

    A block is an element of a sequence of modules that have submodules: a residual block, a transformer block, a
    stage of the paper's networks. Results are identical to the bit: the same random numbers are drawn again, and
    batch norms count a batch once.

    Args:
        network: changed in place; its state dict does not change.

    Returns:
        The number of blocks.
    """
    block_list = list(blocks(network))
    for block in block_list:
        block.forward = _CheckpointedForward(block, block.forward)
    return len(block_list)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the elements of the innermost sequences of modules, in order."""
    # The module is a sequence by its type, or if most of its children are sequences.
    children = list(module.children())
    sequences = sum(isinstance(child, nn.Sequential) for child in children)
    is_sequence = isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) or (
        len(children) > 1 and sequences > len(children) / 2
    )
    for child in children:
        inner = list(blocks(child))
        if inner:
            yield from inner
        elif is_sequence and any(True for _ in child.children()):
            yield child


class _CheckpointedForward:
    """The forward pass of a block, checkpointed."""

    def __init__(self, block: nn.Module, forward: Callable[..., Any]) -> None:
        self.forward = forward
        norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
        self.contexts: Contexts = lambda: (nullcontext(), _freeze_statistics(norms))

    def __call__(self, *inputs: Any, **named_inputs: Any) -> Any:
        return checkpoint(self.forward, *inputs, use_reentrant=False, context_fn=self.contexts, **named_inputs)


@contextmanager
def _freeze_statistics(norms: list[_BatchNorm]) -> Iterator[None]:
    """Freeze the running statistics of the norms while the context lasts; their outputs do not change."""
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]  # type: ignore[union-attr]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)  # type: ignore[union-attr]
