"""What the tests of transfer share."""

from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from evaluations import write_class_images
from PIL import Image


@pytest.fixture(scope="session")
def class_folder() -> Callable[[Path], Path]:
    """Makes a folder of two classes with three images of noise each."""

    def make(root: Path) -> Path:
        rng = np.random.default_rng(crc32(root.name.encode()))  # no two folders hold the same images
        for name in ("cat", "dog"):
            (root / name).mkdir(parents=True)
            for index in range(3):
                noise = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
                noise.save(root / name / f"{index}.png")
        return root

    return make


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``train`` and ``test``: three classes of small images that differ."""
    folder = tmp_path_factory.mktemp("sets")
    write_class_images(folder / "train", 1)
    write_class_images(folder / "test", 2)
    return folder
