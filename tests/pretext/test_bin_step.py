"""Other numbers of color bins, from the recipe to what is made of the network."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pretext.color import rgb_to_lab
from pretext.data import Folder
from pretext.disk_usage import pretrain_disk
from pretext.engine.checkpoint import save_checkpoint
from pretext.engine.journal import read_journal
from pretext.engine.run import newest_checkpoint
from pretext.errors import UserError
from pretext.gamut import STEP, STEP_RANGE, bin_centers
from pretext.methods.objectives import ObjectiveSettings
from pretext.pretrain import pretrain
from pretext.pretrained import color_contract, load_pretrained
from pretext.recipe import PretrainSettings, build_colorizer
from pretext.settings import settings_from, to_plain
from pretext.weights.exporter import ExportSettings, export
from pretint.colorization import ColorizeSettings, ScoreSettings, colorize, score
from pretint.colorization.scores.images import planes, square
from transfer.report import write_report

COARSE, BINS = 20, 101


def settings(step: int = COARSE, **objective: Any) -> PretrainSettings:
    values: dict[str, Any] = {
        "data": {"source": "bundled"},
        "crop": {"size": 32},
        "objective": {"prior_images": 8, "bin_step": step, "sigma": step / 2, **objective},
        "training": {"steps": 4, "batch_size": 4, "warmup": 1},
        "machine": {"workers": 0, "checkpoint_every": 2, "evaluate_every": 2},
    }
    return settings_from(PretrainSettings, values, "test")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "coarse"
    assert not pretrain(folder, settings())
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(4):
        noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{seed}.png")
    return folder


def test_all_that_is_written_is_of_these_bins(run: Path) -> None:
    trained = load_pretrained(run)
    assert trained.prior.shape == (BINS,) and float(trained.prior.sum()) == pytest.approx(1)
    assert len(trained.colorizer.get_parameter("head.weight")) == BINS
    assert trained.colorizer.objective.get_buffer("weights").shape == (BINS,)
    health = [record for record in read_journal(run) if record["kind"] == "health"]
    assert len(health) == 3 and all(len(record["recall"]) == BINS for record in health)
    # At first the network knows nothing; its weights are random, so that it is not quite undecided.
    assert 0.9 * math.log(BINS) < health[0]["entropy"] <= math.log(BINS)


def test_resumed_it_computes_the_same(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    assert not pretrain(other, settings())
    path = newest_checkpoint(other)
    assert path is not None and path.name == "00000004.pt"
    path.unlink()
    assert not pretrain(other, settings())
    expected, found = load_pretrained(run).colorizer.state_dict(), load_pretrained(other).colorizer.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    with pytest.raises(UserError, match=r"objective.bin_step was 20, is now 10"):
        pretrain(other, settings(STEP, sigma=10.0))


def test_photographs_are_colored_and_colors_drawn(run: Path, images: Path, tmp_path: Path) -> None:
    how = ColorizeSettings(out=tmp_path / "out", samples=1, uncertainty=True, sheet=False)
    done = colorize(run, [images / "0.png"], how)
    assert not done.skipped and len(list((tmp_path / "out").glob("0*.png"))) == 3
    unsure = np.asarray(Image.open(tmp_path / "out" / "0-uncertainty.png"))
    assert unsure.min() > 200, "white is log 101: an untrained network knows next to nothing"


def test_the_balanced_auc_weighs_by_the_published_bins(run: Path, images: Path, tmp_path: Path) -> None:
    score([str(run)], ScoreSettings(images=str(images), size=32, out=str(tmp_path / "out")))
    lines = next((run / "scores").glob("coarse*.jsonl")).read_text().splitlines()
    records = [record for record in map(json.loads, lines) if "bins" in record]
    assert len(records) == 4
    for record in records:
        pixels = planes([square(Folder(images).read(record["index"]), 32)])
        ab = rgb_to_lab(pixels)[0, 1:].flatten(1).T.numpy()
        nearest = np.square(ab[:, None] - bin_centers()).sum(2).argmin(1)
        bins, counts = np.unique(nearest, return_counts=True)
        assert (record["bins"], record["pixels"]) == (bins.tolist(), counts.tolist())


def test_exported_it_gives_the_same_colors(run: Path, tmp_path: Path) -> None:
    lightness = 100 * torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    colorizer = load_pretrained(run).colorizer
    export(run, tmp_path / "x.safetensors", ExportSettings())
    again = load_pretrained(tmp_path / "x.safetensors").colorizer
    assert torch.equal(again.colorize(lightness), colorizer.colorize(lightness))


def test_the_report_shows_them(run: Path) -> None:
    page = write_report(run).read_text()
    assert "ln 101 = 4.62" in page and "uniform guess over all 101 color bins" in page and "Of 101 bins" in page


def test_the_plan_counts_them(run: Path) -> None:
    size = (run / "checkpoints" / "00000004.pt").stat().st_size
    (name, both), *_ = pretrain_disk(settings()).parts
    assert name.startswith("two checkpoints") and both == pytest.approx(2 * size, rel=1e-3)


def of_before(step: int) -> dict[str, Any]:
    """What a checkpoint of an untrained network holds, if its settings knew of no step."""
    asked = settings(step)
    prior = torch.full((asked.objective.bins,), 1 / asked.objective.bins, dtype=torch.float64)
    state = {"step": 7, "settings": to_plain(asked), "color": color_contract(asked, prior)}
    del state["settings"]["objective"]["bin_step"]
    return {**state, "model": build_colorizer(asked, prior).state_dict()}


def test_a_checkpoint_of_before_the_setting_has_the_published_bins(tmp_path: Path) -> None:
    state = of_before(STEP)
    save_checkpoint(tmp_path / "x.pt", state)
    found = load_pretrained(tmp_path / "x.pt")
    assert found.settings.objective.bin_step == STEP and len(found.prior) == 313
    assert torch.equal(found.colorizer.get_parameter("head.weight"), state["model"]["head.weight"])


def test_a_checkpoint_whose_bins_are_not_its_settings_is_refused(tmp_path: Path) -> None:
    state = of_before(COARSE)
    save_checkpoint(tmp_path / "x.pt", state)
    with pytest.raises(UserError, match=r"its color contract has bins [0-9a-f]{64}; this version needs 2a39983e"):
        load_pretrained(tmp_path / "x.pt")
    state["settings"]["objective"]["bin_step"] = COARSE
    save_checkpoint(tmp_path / "x.pt", state)
    assert len(load_pretrained(tmp_path / "x.pt").prior) == BINS
    state["color"]["prior"] = torch.full((313,), 1 / 313)
    save_checkpoint(tmp_path / "x.pt", state)
    with pytest.raises(UserError, match=r"its prior has 313 bins, but its settings have 101"):
        load_pretrained(tmp_path / "x.pt")


def test_a_prior_of_other_bins_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "prior.npy", np.full(313, 1 / 313))
    given = settings(prior=str(tmp_path / "prior.npy"))
    said = r"prior .*prior.npy: holds float64 \(313,\); a prior is one float for each of the 101 bins of step 20$"
    for job in (lambda: pretrain(tmp_path / "run", given), lambda: pretrain_disk(given)):
        with pytest.raises(UserError, match=said):
            job()
    np.save(tmp_path / "prior.npy", np.arange(1.0, BINS + 1))
    assert not pretrain(tmp_path / "run", given)
    expected = torch.arange(1, BINS + 1, dtype=torch.float64) / 5151
    torch.testing.assert_close(load_pretrained(tmp_path / "run").prior, expected)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"bin_step": 4}, r"objective.bin_step is 4: it must lie in \[5, 40\], Lab units"),
        ({"bin_step": 41}, "objective.bin_step is 41: it must lie in"),
        ({"bin_step": -10}, "objective.bin_step is -10: it must lie in"),
        ({"bin_step": 12.5}, "objective.bin_step"),
        ({"bin_step": "fine"}, "objective.bin_step"),
        ({"bin_step": 20, "name": "regression"}, "bin_step is for a classification of colors; objective.name is regr"),
        ({"bin_step": 20, "neighbors": 102}, r"objective.neighbors is 102: it must lie in \[1, 101\]"),
    ],
)
def test_steps_that_mean_nothing(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        settings_from(PretrainSettings, {"objective": values}, "test")
    assert "\n" not in str(caught.value)


def test_the_default_is_the_published_one() -> None:
    assert ObjectiveSettings().bins == 313 and ObjectiveSettings().gamut.step == STEP
    assert all(ObjectiveSettings(bin_step=step).bins >= 40 for step in (STEP_RANGE[0], STEP_RANGE[1]))
