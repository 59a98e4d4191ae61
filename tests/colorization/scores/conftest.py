"""What the tests of scores share."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small_scores import Make

from pretext.backbones.contract import BackboneSettings
from pretext.data.batches import CropSettings
from pretext.engine.checkpoint import save_checkpoint
from pretext.methods.objectives import ObjectiveSettings
from pretext.pretrained import color_contract
from pretext.recipe import PretrainSettings, build_colorizer
from pretext.settings import to_plain


@pytest.fixture(scope="session")
def make_run() -> Make:
    """Makes a run at random weights: of a backbone and an objective, at a seed."""

    def make(
        folder: Path, seed: int = 0, backbone: str = "tiny", objective: str = "regression", stride: int = 4
    ) -> Path:
        settings = PretrainSettings(
            backbone=BackboneSettings(name=backbone),
            objective=ObjectiveSettings(name=objective, stride=stride),  # type: ignore[arg-type]
            crop=CropSettings(size=32, area=(1.0, 1.0)),
            seed=seed,
        )
        prior = torch.full((313,), 1 / 313, dtype=torch.float64)
        state = {
            "step": 7,
            "settings": to_plain(settings),
            "color": color_contract(settings, prior),
            "model": build_colorizer(settings, prior).state_dict(),
        }
        save_checkpoint(folder / "checkpoints" / "00000007.pt", state)
        (folder / "settings.yaml").write_text(yaml.safe_dump(to_plain(settings)))
        return folder

    return make


@pytest.fixture(scope="session")
def make_images() -> Make:
    """Makes a folder of soft colored images of several sizes, and of gray ones."""

    def make(root: Path, count: int = 5, gray: int = 0, seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        root.mkdir(parents=True)
        for index in range(count + gray):
            coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
            if index >= count:
                coarse[:] = coarse[..., :1]
            side = (30 + 7 * index, 60 - 5 * index)
            Image.fromarray(coarse).resize(side, Image.Resampling.BICUBIC).save(root / f"{index:02}.png")
        return root

    return make


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Make) -> Path:
    """A folder of five colored images and two gray ones."""
    return make_images(tmp_path_factory.mktemp("sets") / "x", 5, gray=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_run: Make) -> Path:
    """A run at random weights, with what one file of tests scores of it."""
    return make_run(tmp_path_factory.mktemp("runs") / "plain", objective="plain")
