"""Processes that work for another one end when that is killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from waits import PATIENCE, wait_until

from pretext.errors import UserError
from transfer.probes.process_pool import map_forked

WORK = """
import numpy as np
from transfer.probes.process_pool import map_forked
for number, (name, value) in enumerate(map_forked(lambda name: np.zeros(1), [str(one) for one in range(10**6)], 3)):
    if number == 20:
        print("at work", flush=True)
"""


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
def test_workers_do_not_outlive_a_killed_parent(blow: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None and parent.stdout.readline() == b"at work\n"
    parent.send_signal(blow)
    parent.communicate(timeout=PATIENCE)  # which waits for all that hold its output open
    assert parent.returncode == -blow


def test_a_process_that_is_killed_is_one_line() -> None:
    with pytest.raises(UserError, match="that worked on b was killed"):
        list(map_forked(lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == "b" else np.zeros(1), "abc", 2))  # type: ignore[func-returns-value, return-value]


def test_processes_end_when_the_one_that_began_them_is_killed(tmp_path: Path) -> None:
    def work(name: str) -> NDArray[np.float64]:
        (tmp_path / str(os.getpid())).touch()
        if name == "d":
            os.kill(os.getppid(), signal.SIGKILL)
        return np.zeros(1)

    parent = multiprocessing.get_context("fork").Process(target=lambda: list(map_forked(work, "abcdef", 2)))
    parent.start()
    parent.join()
    assert parent.exitcode == -signal.SIGKILL

    def alive() -> list[Path]:
        stats = [Path("/proc", file.name, "stat") for file in tmp_path.iterdir()]
        return [stat for stat in stats if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"]

    wait_until(lambda: not alive(), "the processes end", describe=alive)
    assert len(list(tmp_path.iterdir())) >= 1


def test_what_a_process_raises_is_raised_here_and_no_process_stays() -> None:
    before = multiprocessing.active_children()

    def work(name: str) -> NDArray[np.float64]:
        if name == "c":
            raise UserError(f"{name} is bad")
        return np.full(3, ord(name), np.float64)

    with pytest.raises(UserError, match="c is bad"):
        list(map_forked(work, "abcdef", 2))
    found = dict(map_forked(work, "abdef", 3))
    assert {name: value.tolist() for name, value in found.items()} == {name: [ord(name)] * 3 for name in "abdef"}
    assert multiprocessing.active_children() == before
