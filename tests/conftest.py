"""What several tests share."""

import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import browser
from evaluations import train_tiny_run
from hypothesis import settings
from processes import Launcher
from xdist.scheduler import LoadScopeScheduling

__all__ = ["browser"]

# There is no deadline: no test judges how long something takes, and a busy machine must not fail one.
settings.register_profile("default", max_examples=20, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") == "true" else "default"))


def pytest_configure() -> None:
    """One thread in each process, here and in those that a test starts: as many processes run as there are cores."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


class FileScheduling(LoadScopeScheduling):
    """Gives each process whole files, whose tests share fixtures, and one process all that use the virtual cluster.

    The marks xdist_group would say the same, but pytest 9.2 and xdist 3.8 ignore them together.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "slurm" if "/slurm/" in file else file


LONGEST = (
    "tests/slurm/",
    "tests/test_artifacts",
    "tests/transfer/test_finetune",
    "tests/pretext/engine/test_distributed",
    "tests/transfer/test_many_classes",
    "tests/transfer/test_evaluation",
    "tests/study/test_local_runner",
    "tests/pretext/backbones/",
    "tests/study/test_interrupted",
    "tests/transfer/tasks/",
    "tests/test_",
    "tests/pretext/engine/",
    "tests/pretext/weights/",
    "tests/transfer/test_disk_usage",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes (--no-loadscope-reorder): no process waits for one of them at the end."""
    items.sort(
        key=lambda item: next((at for at, name in enumerate(LONGEST) if item.nodeid.startswith(name)), len(LONGEST))
    )


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileScheduling:
    return FileScheduling(config, log)


@pytest.fixture(scope="module", autouse=True)
def memory_given_back() -> Iterator[None]:
    """After each file: several processes run, each of which would keep the most that any of its files has needed."""
    yield
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the checkout: skips where it is missing, but fails in CI."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs {folder}")
        pytest.skip(f"needs {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of four steps on the built-in tiles, to be read only: a test that writes to it copies it."""
    run = train_tiny_run(tmp_path_factory.mktemp("tiny") / "run")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    yield run
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before, "a test has written to it"


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Starts commands as processes of their own, to be interrupted and killed."""
    made = Launcher(tmp_path_factory.mktemp("logs"))
    yield made
    made.close()
