"""Where a machine is told of a virtual cluster: the names of its nodes, and the file that says where it is."""

import fcntl
import os
import socket
from pathlib import Path

HOSTS, LINK = Path("/etc/hosts"), Path("/etc/slurm/slurm.conf")


def add_names(folder: Path, nodes: list[str]) -> None:
    """Make the nodes' names resolve, and let Slurm's commands find the cluster without SLURM_CONF.

    torch.distributed finds the first task by the name of its node. A job that sends jobs may have dropped
    SLURM_CONF. Where the user may not write, or another cluster's link is in use, nothing happens.
    """
    _edit_hosts(add=_line(folder, nodes))
    if os.access(LINK.parent, os.W_OK) and not LINK.exists():  # nor does a link to what is gone
        LINK.unlink(missing_ok=True)
        LINK.symlink_to(folder / "slurm.conf")


def remove_names(folder: Path) -> None:
    """Undo ``add_names``; other lines and links stay."""
    _edit_hosts(remove=_mark(folder))
    if _linked(folder):
        LINK.unlink()


def missing_names(folder: Path, nodes: list[str]) -> list[str]:
    """What ``add_names`` could not do and jobs may miss, one line each."""
    remarks = []
    try:
        for name in nodes:
            socket.gethostbyname(name)
    except OSError:
        remarks.append(
            f"{name} does not resolve; jobs of several nodes need this line in {HOSTS}: {_line(folder, nodes)}"
        )
    if not _linked(folder):
        remarks.append(f"{LINK} is not of this cluster: jobs that send jobs must keep SLURM_CONF")
    return remarks


def _line(folder: Path, nodes: list[str]) -> str:
    return f"127.0.0.1 {' '.join(nodes)} {_mark(folder)}"


def _mark(folder: Path) -> str:
    return f"# virtual Slurm in {folder}"


def _linked(folder: Path) -> bool:
    return LINK.is_symlink() and LINK.readlink() == folder / "slurm.conf"


def _edit_hosts(add: str = "", remove: str = "") -> None:
    """Add a line, or remove those that end so; in place, as in a container the file cannot be replaced."""
    if not os.access(HOSTS, os.W_OK):
        return
    with HOSTS.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = file.read().splitlines()
        after = [line for line in before if not remove or not line.endswith(remove)]
        if add and add not in after:
            after.append(add)
        if after != before:
            file.seek(0)
            file.write("".join(f"{line}\n" for line in after))
            file.truncate()
