"""A real Slurm for the tests of jobs."""

import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from virtual_slurm.cluster import VirtualCluster
from virtual_slurm.config import VirtualOptions, missing_packages


@pytest.fixture(scope="session")
def cluster() -> Iterator[VirtualCluster]:
    """Two nodes of 4 CPUs and 2 pretended GPUs each: skips where Slurm is missing, but fails in CI.

    Its environment is that of the tests while it runs.
    """
    if missing := missing_packages():
        if os.environ.get("CI"):
            pytest.fail(f"CI needs the packages {' '.join(missing)}")
        pytest.skip(f"needs the packages {' '.join(missing)}")
    folder = Path(tempfile.mkdtemp(prefix="ps-"))  # short: sockets have short paths
    made = VirtualCluster(folder, VirtualOptions(gpus=2, port=_free_ports()))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("SLURM")]:
            patch.delenv(name)
        for name, value in made.environment.items():
            patch.setenv(name, value)
        try:
            made.up()
            yield made
        finally:
            made.down()
            shutil.rmtree(folder, ignore_errors=True)


def _free_ports() -> int:
    """The first of twenty, below those that the system gives away by itself."""
    while True:
        first = random.SystemRandom().randrange(17000, 32000, 20)
        try:
            for port in range(first, first + 20):
                with closing(socket.socket()) as tried:
                    tried.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
