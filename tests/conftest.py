"""What several tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import browser
from hypothesis import settings
from launching import Launcher

__all__ = ["browser"]

# No test judges how long something takes, and a busy machine must not fail one.
settings.register_profile("pretint", deadline=None)
settings.load_profile("pretint")


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
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Starts commands as processes of their own, to be interrupted and killed."""
    made = Launcher(tmp_path_factory.mktemp("logs"))
    yield made
    made.close()
