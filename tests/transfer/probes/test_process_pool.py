"""Processes that work for another one end when that is killed."""

import signal
import subprocess
import sys

import pytest

WORK = """
import numpy as np
from transfer.probes.process_pool import forked
for number, (name, value) in enumerate(forked(lambda name: np.zeros(1), [str(one) for one in range(10**6)], 3)):
    if number == 20:
        print("at work", flush=True)
"""


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
def test_workers_do_not_outlive_a_killed_parent(blow: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None and parent.stdout.readline() == b"at work\n"
    parent.send_signal(blow)
    parent.communicate(timeout=60)  # which waits for all that hold its output open
    assert parent.returncode == -blow
