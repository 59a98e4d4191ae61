"""What the tests of studies share."""

from pathlib import Path

import pytest
from evaluating import pictures

SMALL = """
about: Does it run?
settings:
  data.source: "{pictures}/train"
  crop.size: 16
  objective: {stride: 4, prior_pictures: 20}
  training: {steps: 6, batch_size: 8, warmup: 1}
  machine: {workers: 0, device: cpu}
variants:
  random: {network: random}
  L2: {objective.name: regression}
  rebalanced:
baseline: random
seeds: [0, 1]
evaluations:
  neighbours: {command: knn, train: "{pictures}/train", test: "{pictures}/test"}
  colour: {command: score, pictures: "{pictures}/test", size: 16}
places: {pictures: ""}
"""


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``train`` and ``test``: three classes of small pictures that differ."""
    folder = tmp_path_factory.mktemp("sets")
    pictures(folder / "train", 1)
    pictures(folder / "test", 2)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The file of a study whose cells take seconds."""
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    return file
