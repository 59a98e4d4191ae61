"""How much memory a job takes, how much there is, and what is said when it runs out."""

import contextlib
import errno
import multiprocessing
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from pretext.errors import UserError

# In the texts of torch's CPU allocator, of CUDA's libraries, and of errors that a data worker hands over.
_SHORTAGE = re.compile(
    r"can't allocate memory|not enough memory|out of memory|cannot allocate memory|bad_alloc|ALLOC_FAILED|MemoryError"
    r"|unable to (?:allocate|mmap)|shared memory",
    re.IGNORECASE,
)
_AMOUNT = re.compile(r"allocate ([\d.]+) ?(bytes|[KMGTPE]iB)")


def forget_peak(device: torch.device) -> None:
    """Let ``peak`` and ``device_peak`` begin anew (that of the host: on Linux; elsewhere it is since the start)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if device.type == "cuda":
        torch.cuda.init()  # before it there are no statistics to reset
        torch.cuda.reset_peak_memory_stats(device)


def peak() -> int:
    """The most memory that this process held resident, bytes: Python and torch included."""
    with contextlib.suppress(OSError):
        return _kilobytes(Path("/proc/self/status"), "VmHWM") * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_peak(device: torch.device) -> int | None:
    """The most memory that torch's tensors took on a GPU, bytes; None on other devices."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def of_children() -> int:
    """What the processes that this one started hold for themselves alone, bytes; 0 where the system does not say."""
    total = 0
    for child in multiprocessing.active_children():
        rollup = Path(f"/proc/{child.pid}/smaps_rollup")
        with contextlib.suppress(OSError):  # it may have ended
            total += (_kilobytes(rollup, "Private_Clean") + _kilobytes(rollup, "Private_Dirty")) * 1024
    return total


def available(device: torch.device) -> int:
    """Memory that can still be taken where ``device`` computes, bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
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
    """Within it, or in a function that it decorates, memory that runs out is a mistake of the user's, in one line.

    Args:
        remedy: what to change, such as "lower workers".

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
    """Where memory ran out, and for how much, as far as the error says it."""
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
