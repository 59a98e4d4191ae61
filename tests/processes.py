"""Real processes that train, to be interrupted, killed, and started in numbers."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from waits import PATIENCE, wait_until

from pretext.engine.journal import read_journal
from pretext.engine.run import newest_checkpoint


class StartedProcess:
    """A process of the launcher."""

    def __init__(self, launcher: "Launcher", pid: int, log: Path) -> None:
        self.launcher, self.pid, self.log = launcher, pid, log
        self.code: int | None = None

    def signal(self, number: int) -> None:
        """Send a signal to the process alone, and let it go on if it is stopped."""
        os.kill(self.pid, number)
        os.kill(self.pid, signal.SIGCONT)

    def signal_group(self, number: int) -> None:
        """Send a signal to the process and its workers, as a terminal does, and let it go on if it is stopped."""
        os.killpg(self.pid, number)
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process with its workers: nobody says goodbye."""
        os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for the end of the process, which goes on if it is stopped; return its exit code."""
        if self.code is None:
            deadline = time.monotonic() + PATIENCE
            while self.runs() and time.monotonic() < deadline:
                if self.is_stopped():
                    os.kill(self.pid, signal.SIGCONT)
                time.sleep(0.01)
            if self.runs():
                self.kill()
                self.launcher.request({"wait": self.pid})
                pytest.fail(f"not over after {PATIENCE:.0f} seconds: {self.output}")
            self.code = int(self.launcher.request({"wait": self.pid}))
        return self.code

    def runs(self) -> bool:
        """Whether it has not ended; it may be stopped."""
        return self._state() not in ("", "Z")

    def is_stopped(self) -> bool:
        """Whether a signal has stopped it, see ``hold_at`` of ``Launcher.start``."""
        return self._state() == "T"

    def _state(self) -> str:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return ""

    @property
    def output(self) -> str:
        """All that it has printed so far."""
        return self.log.read_text(errors="replace")


class Launcher:
    """Starts processes without waiting for torch each time; several can find each other as torchrun's do."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        command = [sys.executable, str(Path(__file__).with_name("fork_server.py"))]
        self.env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        env = {**os.environ, **self.env}
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()

    def request(self, request: dict[str, object]) -> str:
        """Send a request to the fork server; return its answer."""
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return self.server.stdout.readline()

    def start(
        self,
        *words: str | Path,
        env: dict[str, str] | None = None,
        code: str = "",
        folder: Path | str = "",
        hold_at: int | None = None,
        is_written: bool = True,
    ) -> StartedProcess:
        """Start ``pretint WORDS``, or Python code with these arguments; the log has all that it prints.

        With ``hold_at`` it stops itself at its first checkpoint at or after that step, once that is written or, with
        ``is_written=False``, before it is: so it cannot end before a test interrupts it.
        """
        log = self._new_file("log")
        hold = [] if hold_at is None else [hold_at, is_written]
        return StartedProcess(self, self._start(words, code, folder, env, hold, Path(os.devnull), log, log), log)

    def run(
        self,
        *words: str | Path,
        data: bytes = b"",
        env: dict[str, str] | None = None,
        code: str = "",
        folder: Path | str = "",
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run the same to its end, with ``data`` on its standard input."""
        files = [self._new_file(kind) for kind in ("in", "out", "log")]
        files[0].write_bytes(data)
        status = StartedProcess(self, self._start(words, code, folder, env, [], *files), files[2]).wait()
        return subprocess.CompletedProcess(words, status, files[1].read_bytes(), files[2].read_bytes())

    def _start(
        self,
        words: tuple[str | Path, ...],
        code: str,
        folder: Path | str,
        env: dict[str, str] | None,
        hold: list[int],
        *files: Path,
    ) -> int:
        request = {
            "start": [str(word) for word in words],
            "code": code,
            "env": {**os.environ, **self.env, **(env or {})},
            "folder": str(folder),
            "hold": hold,
            "files": [str(file) for file in files],
        }
        return int(self.request(request))

    def _new_file(self, kind: str) -> Path:
        self.count += 1
        file = self.folder / f"{self.count}.{kind}"
        file.touch()
        return file

    def start_ranks(self, world: int, *words: str | Path, hold_at: int | None = None) -> list[StartedProcess]:
        """Start the processes of one run; the first may be held, see ``start``."""
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        shared |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        return [
            self.start(
                *words,
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                hold_at=None if rank else hold_at,
            )
            for rank in range(world)
        ]


def _free_port() -> int:
    """Below 10,000, from where neither outgoing connections nor jobs on the virtual cluster take theirs."""
    while True:
        port = random.randrange(5_000, 10_000)
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port


class TrainedRun:
    """What a run wrote, to be compared with another."""

    def __init__(self, run: Path) -> None:
        self.run = run

    @property
    def losses(self) -> list[tuple[int, float]]:
        return [(record["step"], record["loss"]) for record in read_journal(self.run) if record["kind"] == "step"]

    @property
    def health(self) -> list[dict[str, object]]:
        return [record for record in read_journal(self.run) if record["kind"] == "health"]

    @property
    def state(self) -> dict[str, torch.Tensor]:
        path = newest_checkpoint(self.run)
        assert path is not None
        state = torch.load(path, weights_only=True)
        return {**state["model"], **{f"average {name}": value for name, value in state.get("average", {}).items()}}

    def wait_for_step(self, step: int, process: StartedProcess) -> None:
        """Wait until a checkpoint at or after ``step`` is there; fail if the process ends before."""

        def is_there() -> bool:
            assert process.runs(), f"it ended before step {step}: {process.output}"
            newest = newest_checkpoint(self.run)
            return newest is not None and int(newest.stem) >= step

        wait_until(is_there, f"step {step} of {self.run}", describe=lambda: process.output, every=0.005)

    def same_as(self, other: "TrainedRun") -> None:
        """To the bit."""
        hexed = [[(step, float.hex(loss)) for step, loss in run.losses] for run in (self, other)]
        assert hexed[0] == hexed[1]
        mine, theirs = self.state, other.state
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        assert self.health == other.health
