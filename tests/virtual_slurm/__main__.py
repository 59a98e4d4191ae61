"""A real Slurm on this machine alone: ``python -m tests.virtual_slurm up``.

Slurm's own daemons, on virtual nodes n1, n2, ... that share this machine; on loopback only, without systemd or
cgroups, as root or as an ordinary user, whose jobs alone then run. To try jobs before they go to a cluster.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from .cluster import VirtualCluster
from .config import VirtualClusterError, VirtualOptions

DEFAULTS: dict[str, int] = asdict(VirtualOptions())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0, 1 from ``status`` of a cluster that does not work, or 2 after a line that says why."""
    parser = argparse.ArgumentParser("python -m tests.virtual_slurm", description="A real Slurm on this machine alone.")
    parser.add_argument("--folder", type=Path, help="for all its files [$PRETINT_SLURM, ~/.cache/pretint/slurm]")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start it")
    for name, default in DEFAULTS.items():
        up.add_argument(f"--{name}", type=int, default=default, help=f"[{default}]")
    texts = {"down": "cancel its jobs and stop it", "status": "what runs", "env": 'for eval "$(...)" in a shell'}
    texts |= {
        "kill": "kill the daemon of node N; its jobs run on",
        "crash": "cut node N's power",
        "start": "start node N",
    }
    for name, text in texts.items():
        command = commands.add_parser(name, help=text)
        if name in ("kill", "crash", "start"):
            command.add_argument("number", type=int, metavar="N")
    for command in commands.choices.values():
        command.add_argument("--folder", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    try:
        return _do(parsed)
    except VirtualClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _do(parsed: argparse.Namespace) -> int:
    options = VirtualOptions(**{name: getattr(parsed, name, default) for name, default in DEFAULTS.items()})
    cluster = VirtualCluster(parsed.folder, options)
    lines: list[str] = []
    if parsed.command == "up":
        cluster.up()
        lines = [*cluster.remarks(), f"up: {' '.join(options.names)}; export SLURM_CONF={cluster.folder}/slurm.conf"]
    elif parsed.command == "status":
        lines = cluster.lines()
    elif parsed.command == "env":
        lines = [f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()]
    elif parsed.command == "down":
        cluster.down()
    else:
        getattr(cluster, parsed.command)(parsed.number)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 1 if parsed.command == "status" and not cluster.works() else 0


if __name__ == "__main__":
    sys.exit(main())
