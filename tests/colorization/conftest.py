"""What the tests of colorization share."""

from pathlib import Path

import pytest
from colorize_files import write_checkpoint


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small network at random weights."""
    return write_checkpoint(tmp_path_factory.mktemp("model") / "x.pt")
