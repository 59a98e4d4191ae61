"""How much memory a job takes, and how much there is."""

import contextlib
import multiprocessing
import resource
import sys
from pathlib import Path

import torch


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


def _kilobytes(path: Path, field: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise FileNotFoundError(field)
