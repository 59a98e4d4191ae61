"""A virtual cluster: how Slurm's own daemons are started and stopped on one machine."""

import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from .config import (
    PROGRAMS,
    VirtualClusterError,
    VirtualOptions,
    check_folder,
    missing_packages,
    write_config,
)
from .names import add_names, missing_names, remove_names
from .processes import daemon, kill_steps, stop

_CENTRAL = ("slurmctld", "slurmdbd", "mariadbd", "munged")
_UP = {"idle", "mixed", "allocated", "completing"}
_PATIENCE = 300.0  # seconds for one thing to happen that takes one or two on an idle machine
# Small: jobs are few here, and nothing is lost that a power cut would lose.
_DATABASE = [
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-file-size=8M",
    "--innodb-lock-wait-timeout=900",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-autoextend-increment=4",
    "--innodb-temp-data-file-path=ibtmp1:4M:autoextend",
    "--performance-schema=OFF",
    "--skip-log-bin",
    "--skip-name-resolve",
]


def default_folder() -> Path:
    """Where a cluster lives: ``$PRETINT_SLURM``, or ~/.cache/pretint/slurm."""
    return Path(os.environ.get("PRETINT_SLURM") or Path.home() / ".cache" / "pretint" / "slurm")


class VirtualCluster:
    """One virtual cluster; whether it runs is seen from its folder, so any process may take it down.

    Args:
        folder: for all its files, with a short path; the default as of ``default_folder``.
        options: what its nodes claim; ``up`` alone asks.

    Raises:
        VirtualClusterError: the folder's path is too long, or has characters Slurm cannot read. Any method may
            raise it, for a thing that does not work.
    """

    def __init__(self, folder: Path | None = None, options: VirtualOptions | None = None) -> None:
        self.folder = Path(folder or default_folder()).absolute()
        self.options = options or VirtualOptions()
        check_folder(self.folder)

    @property
    def environment(self) -> dict[str, str]:
        """What Slurm's commands need to find this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def up(self) -> None:
        """Start the cluster and wait until its nodes can be used; jobs that run are left alone.

        Raises:
            VirtualClusterError: packages are missing, a port is taken, the cluster runs with other options, or a
                daemon does not start.
        """
        if missing := missing_packages():
            raise VirtualClusterError(
                "a virtual cluster needs Slurm's daemons: apt-get install --no-install-recommends " + " ".join(missing)
            )
        with self._alone():
            options = self.folder / "options.json"
            wanted = json.dumps(asdict(self.options))
            if all(daemon(name, self._pids[name], self.folder) for name in _CENTRAL):
                if options.read_text() != wanted:
                    raise VirtualClusterError(f"{self.folder}: it runs with other options; take it down first")
                self._start_nodes()
                return
            self._down()  # what an accident left
            for port in self.options.ports:
                if _listens(port):
                    raise VirtualClusterError(f"port {port} is taken; give other ports with --port")
            options.write_text(wanted)
            try:
                self._start()
            except BaseException:
                self._down()
                raise

    def down(self) -> None:
        """Cancel all jobs and stop the daemons; what accounting knows is kept."""
        if self.folder.is_dir():
            with self._alone():
                self._down()

    def works(self) -> bool:
        """Whether all nodes can be used."""
        states = self.states()
        return bool(states) and _UP.issuperset(states.values())

    def states(self) -> dict[str, str]:
        """What Slurm says of each node, such as idle, allocated, down; with a * where it does not answer."""
        if daemon("slurmctld", self._pids["slurmctld"], self.folder) is None:
            return {}
        output = self._ask("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T")
        return dict(line.split(maxsplit=1) for line in output.splitlines())

    def kill(self, number: int) -> None:
        """Kill the daemon of node ``number`` (from 1): the node no longer answers, and its jobs run on."""
        stop("slurmd", self._node(number), self.folder, signal.SIGKILL)

    def crash(self, number: int) -> None:
        """Kill the daemon of node ``number`` and all its jobs' processes: what a power cut looks like."""
        self.kill(number)
        kill_steps(self.folder, f"n{number}")

    def start(self, number: int) -> None:
        """Start node ``number`` again and wait until it can be used."""
        file, name = self._node(number), f"n{number}"
        with self._alone():
            if daemon("slurmd", file, self.folder) is None:
                self._run("slurmd", "-N", name)
            self._wait(lambda: self.states().get(name) in _UP, f"node {name} does not come up")

    def lines(self) -> list[str]:
        """What runs, what Slurm says of the nodes, and the jobs."""
        pids = {label: daemon(label.partition("-")[0], file, self.folder) for label, file in self._pids.items()}
        lines = [f"{label:<12}{pid or '-'}" for label, pid in pids.items()]
        if pids["slurmctld"]:
            lines += [*self._ask("sinfo", "--Node", "--long").splitlines()[1:], *self._ask("squeue").splitlines()]
        return lines

    def remarks(self) -> list[str]:
        """What an ordinary user's cluster lacks, one line each."""
        return missing_names(self.folder, self.options.names)

    @property
    def _pids(self) -> dict[str, Path]:
        """Pid files by daemon, in the order in which they stop."""
        nodes = sorted(log.stem for log in (self.folder / "log").glob("slurmd-*.log"))  # also of one without a pid file
        return {name: self.folder / "run" / f"{name}.pid" for name in [*nodes, *_CENTRAL]}

    def _node(self, number: int) -> Path:
        if f"n{number}" not in self.states():
            raise VirtualClusterError(
                f"{self.folder}: no node {number} here; python -m tests.virtual_slurm status shows them"
            )
        return self.folder / "run" / f"slurmd-n{number}.pid"

    def _start(self) -> None:
        password = secrets.token_hex(12)
        write_config(self.folder, self.options, password)
        key = self.folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        add_names(self.folder, self.options.names)
        self._start_munge()
        self._start_accounting()
        self._run("slurmctld")
        self._listen(self.options.port, "slurmctld")
        self._start_nodes()

    def _start_nodes(self) -> None:
        for name in self.options.names:
            if daemon("slurmd", self.folder / "run" / f"slurmd-{name}.pid", self.folder) is None:
                (self.folder / "spool" / name).mkdir(exist_ok=True)
                self._run("slurmd", "-N", name)
        self._wait(self._ready, "the nodes do not come up")

    def _start_munge(self) -> None:
        munge, run = self.folder / "munge", self.folder / "run"
        # --force: the socket may lie below a folder that is its owner's alone
        files = {"key-file": munge / "key", "socket": munge / "socket", "pid-file": run / "munged.pid"}
        files |= {"log-file": self.folder / "log" / "munged.log", "seed-file": munge / "seed"}
        self._run("munged", "--force", "--num-threads=4", *(f"--{name}={path}" for name, path in files.items()))

    def _start_accounting(self) -> None:
        data, user = self.folder / "db", f"--user={self._ask('id', '-un').strip()}"
        common = ["--no-defaults", f"--datadir={data}", user, *_DATABASE]
        if not (data / "mysql" / "db.frm").exists():
            self._run("mariadb-install-db", *common, "--skip-test-db", "--auth-root-authentication-method=normal")
        options = [f"--socket={self.folder}/run/db", f"--pid-file={self.folder}/run/mariadbd.pid"]
        options += [
            "--bind-address=127.0.0.1",
            f"--port={self.options.port + 2}",
            f"--init-file={self.folder}/init.sql",
        ]
        # The only one that does not leave its terminal by itself.
        self._run("setsid", "--fork", "mariadbd", *common, *options, f"--log-error={self.folder}/log/mariadbd.log")
        self._listen(self.options.port + 2, "mariadbd")
        self._run("slurmdbd")
        self._listen(self.options.port + 1, "slurmdbd")
        # It answers when it has made its tables, and slurmctld ends without an answer.
        self._wait(lambda: bool(self._ask("sacctmgr", "--noheader", "show", "tres")), "slurmdbd does not answer")

    def _ready(self) -> bool:
        for name, state in self.states().items():
            if state.startswith("drain"):  # since before: a task that did not die
                self._ask("scontrol", "update", f"nodename={name}", "state=resume")
        return self.works()

    def _down(self) -> None:
        nodes = [label for label in self._pids if label.startswith("slurmd-")]
        if daemon("slurmctld", self._pids["slurmctld"], self.folder) is not None:
            self._cancel()
        for label, file in self._pids.items():
            stop(label.partition("-")[0], file, self.folder)
        for label in nodes:
            kill_steps(self.folder, label.removeprefix("slurmd-"))  # where Slurm could not
        remove_names(self.folder)

    def _cancel(self) -> None:
        ends = time.monotonic() + 20  # a node that does not answer keeps its jobs for ever
        canceled: set[str] = set()
        while (jobs := set(self._ask("squeue", "--noheader", "--format=%F").split())) and time.monotonic() < ends:
            if jobs - canceled:
                self._ask("scancel", *sorted(jobs - canceled))
                canceled |= jobs
            time.sleep(0.2)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two that start or stop the same cluster at once wait for each other."""
        for name in ("munge", "state", "spool", "log", "run", "db", "gpu"):
            (self.folder / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _bare(self) -> dict[str, str]:
        return {"PATH": PROGRAMS, "HOME": os.environ.get("HOME", "/"), "LC_ALL": "C", **self.environment}

    def _run(self, *words: str) -> None:
        """Run a program that makes itself a daemon.

        It gets nothing of the caller's environment, which would come to jobs, and nothing of its files, or who
        reads the caller's output would wait for the daemon to end.
        """
        log = self.folder / "log" / "start.log"
        with log.open("ab") as output:
            done = subprocess.run(
                words,
                env=self._bare(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
                umask=0o022,
            )
        if done.returncode:
            raise VirtualClusterError(f"{words[0]} failed with {done.returncode}; see {log}")

    def _ask(self, *words: str) -> str:
        """What a command prints; nothing if it fails."""
        try:
            return subprocess.run(
                words,
                env=self._bare(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=True,
                timeout=_PATIENCE,
            ).stdout
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return ""

    def _listen(self, port: int, name: str) -> None:
        self._wait(lambda: _listens(port), f"{name} does not listen at port {port}")

    def _wait(self, true: Callable[[], bool], otherwise: str) -> None:
        ends = time.monotonic() + _PATIENCE
        while not true():
            if time.monotonic() > ends:
                raise VirtualClusterError(f"{otherwise}; see {self.folder / 'log'}")
            time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0
