"""What follows from a recipe: the images to validate on."""

from pathlib import Path

import pytest

from pretext.data import Bundled
from pretext.data.source import DataSettings
from pretext.errors import UserError
from pretext.recipe import PretrainSettings, load_held_out, open_images


def test_all_that_a_mixture_holds_out_is_looked_at(tmp_path: Path) -> None:
    tiles = Bundled("train")
    for name in ("much", "little"):
        (tmp_path / name).mkdir()
        for index in range(100):
            tiles.read(index).save(tmp_path / name / f"{index:02}.png")
    mixture: dict[str, float] = {str(tmp_path / "much"): 0.8, str(tmp_path / "little"): 0.2}
    images = open_images(PretrainSettings(data=DataSettings(mixture, holdout=10)))
    assert [len(part) for part in images.held] == [8, 2]
    views = load_held_out(images, 10, 32)
    assert views.rgb.shape == (10, 3, 32, 32) and not views.skipped
    assert views.labels.tolist() == [-1] * 10, "nobody asked for labels"


def test_nothing_to_look_at_is_one_line(tmp_path: Path) -> None:
    for index in range(20):
        (tmp_path / f"{index:02}.png").write_bytes(b"no image")
    images = open_images(PretrainSettings(data=DataSettings(str(tmp_path), holdout=2)))
    with pytest.raises(UserError, match="none of 20 images can be read; the first: "):
        load_held_out(images, 256, 32)
