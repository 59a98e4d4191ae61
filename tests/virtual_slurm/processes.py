"""The processes of a virtual cluster, told from all others, and how they end."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def ours(pid: int, name: str, folder: Path) -> bool:
    """Whether the process runs, is the program ``name``, and was started for the cluster in ``folder``.

    A number in a pid file says nothing: the process may have ended and another been given its number.
    """
    try:
        if (PROC / str(pid) / "comm").read_text().strip() != name:
            return False
        environment = (PROC / str(pid) / "environ").read_bytes().split(b"\0")  # empty of one that has ended
    except OSError:
        return False
    return os.fsencode(f"SLURM_CONF={folder / 'slurm.conf'}") in environment


def daemon(name: str, file: Path, folder: Path) -> int | None:
    """The number of the daemon ``name`` of the cluster in ``folder`` that wrote this pid file, if it runs."""
    try:
        pid = int(file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return pid if ours(pid, name, folder) else None


def stop(name: str, file: Path, folder: Path, number: signal.Signals = signal.SIGTERM) -> None:
    """Signal a daemon, wait until it is gone, and remove its pid file; after 20 s it is killed."""
    pid = daemon(name, file, folder)
    ends = time.monotonic() + 20
    if pid is not None:
        _signal(pid, number)
        while ours(pid, name, folder):
            if time.monotonic() > ends:
                _signal(pid, signal.SIGKILL)
            time.sleep(0.05)
    file.unlink(missing_ok=True)


def kill_steps(folder: Path, node: str) -> None:
    """Kill what runs of jobs on a node: Slurm's own step daemons and all processes below them.

    A step daemon is known by its node's log, which it holds open.
    """
    log = str(folder / "log" / f"slurmd-{node}.log")
    steps = {pid for pid in _all() if ours(pid, "slurmstepd", folder) and log in _open_files(pid)}
    stopped: set[int] = set()
    while new := _tree(steps) - stopped:  # stopped first: none may have another child, or say how the others ended
        for pid in sorted(new):
            _signal(pid, signal.SIGSTOP)
        stopped |= new
    for pid in stopped:
        _signal(pid, signal.SIGKILL)


def _all() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def _open_files(pid: int) -> set[str]:
    files = set()
    with suppress(OSError):
        for entry in (PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                files.add(str(entry.readlink()))
    return files


def _tree(roots: set[int]) -> set[int]:
    """Those that run and everything below them."""
    children: dict[int, list[int]] = {}
    for pid in _all():
        with suppress(OSError):
            parent = int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(pid)
    tree, todo = set(), list(roots)
    while todo:
        pid = todo.pop()
        if pid not in tree:
            tree.add(pid)
            todo += children.get(pid, [])
    return tree


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
