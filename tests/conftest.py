"""What several tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from browsing import browser
from evaluating import train_tiny_run
from hypothesis import settings
from launching import Launcher

__all__ = ["browser"]

# There is no deadline: no test judges how long something takes, and a busy machine must not fail one.
settings.register_profile("default", max_examples=20, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") == "true" else "default"))


def pytest_configure() -> None:
    """One thread in each process, here and in those that a test starts: as many processes run as there are cores."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of one file in one process, and those of the virtual cluster in one: they share fixtures."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        group = "cluster" if "cluster" in fixtures else str(item.path.relative_to(Path(__file__).parent))
        item.add_marker(pytest.mark.xdist_group(group))


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
