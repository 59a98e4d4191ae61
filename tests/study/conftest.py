"""What the tests of studies share."""

from pathlib import Path

import pytest
from evaluations import write_class_images

SMALL = """
about: Does it run?
settings:
  data.source: "{images}/train"
  crop.size: 16
  objective: {stride: 4, prior_images: 20}
  training: {steps: 6, batch_size: 8, warmup: 1}
  machine: {workers: 0, device: cpu}
variants:
  random: {network: random}
  L2: {objective.name: regression}
  rebalanced:
baseline: random
seeds: [0, 1]
evaluations:
  neighbors: {command: knn, train: "{images}/train", test: "{images}/test"}
  color: {command: score, images: "{images}/test", size: 16}
places: {images: ""}
"""


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``train`` and ``test``: three classes of small images that differ."""
    folder = tmp_path_factory.mktemp("sets")
    write_class_images(folder / "train", 1)
    write_class_images(folder / "test", 2)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The file of a study whose cells take seconds."""
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    return file
