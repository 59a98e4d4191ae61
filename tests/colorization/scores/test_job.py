"""Scores as a whole: every number from its pixels, paired differences, seeds in one line, hints, real images."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import skimage.metrics
import torch
from small_scores import SIZE, Make, metric_values, score_small

from pretext.color import lab_to_rgb, rgb_to_lab
from pretext.data import Folder
from pretext.gamut import bin_centers
from pretext.pretrained import load_pretrained
from pretint.colorization import ScoreSettings, score
from pretint.colorization.scores.images import planes, square


def by_hand(ab: np.ndarray, rgb: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Every number of a method, from its ab (N, 2, S, S), its images and the true ones (N, S, S, 3)."""
    true_ab = rgb_to_lab(planes(list(truth)))[:, 1:].numpy()
    errors = np.sqrt(np.square(ab - true_ab).sum(1))
    points = true_ab.transpose(0, 2, 3, 1).reshape(-1, 1, 2)
    bins = np.square(points - bin_centers()).sum(2).argmin(1)

    def area(these: np.ndarray) -> float:
        curve = [(these <= t).mean() for t in range(151)]
        return float(np.trapezoid(curve) / 150)

    flat = errors.ravel()
    pairs = list(zip(rgb, truth, strict=True))
    ssim = skimage.metrics.structural_similarity
    how = {"channel_axis": 2, "data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    with np.errstate(divide="ignore"):
        psnr = [skimage.metrics.peak_signal_noise_ratio(b, a, data_range=255) for a, b in pairs]
    return {
        "auc": area(flat),
        "auc_balanced": float(np.mean([area(flat[bins == each]) for each in np.unique(bins)])),
        "psnr": float(np.mean(psnr)),
        "ssim": float(np.mean([ssim(a, b, **how) for a, b in pairs])),
    }


def test_every_number_is_that_of_its_pixels(run: Path, images: Path, tmp_path: Path) -> None:
    found = score_small([run], images, out=str(tmp_path / "out"), batch=2)
    assert [line.method for line in found.lines] == ["plain", "gray", "random", "truth"]
    assert (found.facts["n"], found.facts["n_gray"], found.facts["n_unread"]) == (5, 2, 0)
    source = Folder(images)
    order = [int(i) for i in np.random.default_rng(0).permutation(7) if i < 5]
    truth = np.stack([square(source.read(index), SIZE) for index in order])
    lab = rgb_to_lab(planes(list(truth)))
    own = load_pretrained(run).colorizer.colorize(lab[:, :1])
    colors = {"plain": own, "gray": torch.zeros_like(own), "random": lab[:, 1:].roll(-1, 0), "truth": lab[:, 1:]}
    for name, ab in colors.items():
        rgb = (lab_to_rgb(torch.cat((lab[:, :1], ab), 1)) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        expected = by_hand(ab.numpy(), truth if name == "truth" else rgb, truth)
        numbers = metric_values(found, name)
        assert {key: numbers[key] for key in expected} == pytest.approx(expected, abs=1e-6), name
        assert {"cf", "cf_abs"} <= numbers.keys() and "lpips" not in numbers
    assert metric_values(found, "truth")["auc"] == metric_values(found, "truth")["ssim"] == 1
    assert math.isinf(metric_values(found, "truth")["psnr"])


def test_bins_weighed_by_a_prior(run: Path, images: Path, tmp_path: Path) -> None:
    prior = np.random.default_rng(0).uniform(0.1, 1, 313)
    np.save(tmp_path / "prior.npy", prior / prior.sum())
    found = score_small([run], images, prior=str(tmp_path / "prior.npy"))
    uniform = np.full(313, 1 / 313)
    np.save(tmp_path / "uniform.npy", uniform)
    alike = score_small([run], images, prior=str(tmp_path / "uniform.npy"))
    assert metric_values(alike, "gray")["auc_balanced"] == pytest.approx(metric_values(alike, "gray")["auc"])
    assert metric_values(found, "gray")["auc_balanced"] != pytest.approx(metric_values(found, "gray")["auc"])
    assert "inverse of prior.npy" in next(metric.about for metric in found.metrics if metric.key == "auc_balanced")


def test_differences_are_paired(run: Path, images: Path) -> None:
    found = score_small([run], images, against="gray")
    gaps = {line.method: line.differences for line in found.lines}
    assert not gaps["gray"] and found.against == "gray"
    for key in ("auc", "auc_balanced", "ssim", "cf"):
        gap = gaps["truth"][key]
        assert gap.value == pytest.approx(metric_values(found, "truth")[key] - metric_values(found, "gray")[key])
        assert gap.low <= gap.value <= gap.high
    assert "psnr" not in gaps["truth"], "it is infinite"
    alone = next(line for line in found.lines if line.method == "plain").scores["ssim"]
    assert alone.low < alone.value < alone.high


def test_runs_of_one_name_are_shown_as_they_were_named(run: Path, make_run: Make, images: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "plain", seed=5, objective="plain")
    found = score_small([run, other], images)
    assert [line.method for line in found.lines][:2] == [str(run), str(other)]
    assert score_small([run, other], images, against=str(other)).against == str(other)
    again = score_small([run, f"{run}/", run / "checkpoints" / "00000007.pt"], images)
    assert [line.method for line in again.lines] == ["plain", "gray", "random", "truth"], "one network"


def test_seeds_stand_in_one_line(run: Path, make_run: Make, images: Path, tmp_path: Path) -> None:
    """As their mean, whose interval is that of the mean: of a seed and its copy it is the seed's own."""
    seeds = [make_run(tmp_path / f"seed{seed}", seed, objective="plain") for seed in (5, 6, 7)]
    copy = shutil.copytree(seeds[0], tmp_path / "copy")
    settings = ScoreSettings(images=str(images), size=SIZE, out=str(tmp_path / "out"), against="three")
    models = [str(model) for model in (*seeds, copy, run)]
    found = score(models, settings, {"three": models[:3], "twice": [models[0], models[3]]})
    assert [line.method for line in found.lines] == ["three", "twice", "plain", "gray", "random", "truth"]
    alone = [score_small([name], images).lines for name in models[:3]]
    apart = {
        name: next(one for one in lines if one.method == Path(name).name)
        for name, lines in zip(models[:3], alone, strict=True)
    }
    three, twice = found.lines[:2]
    for key, estimate in three.scores.items():
        each = [line.scores[key].value for line in apart.values()]
        assert estimate.value == pytest.approx(np.mean(each))
        assert three.spreads[key] == pytest.approx(np.std(each, ddof=1))
        assert twice.scores[key] == pytest.approx(apart[models[0]].scores[key])
        assert twice.spreads[key] == pytest.approx(0, abs=1e-12)
    assert not three.differences and found.against == "three"
    gap = twice.differences["auc"]
    assert gap.value == pytest.approx(twice.scores["auc"].value - three.scores["auc"].value)
    assert any("+-" in str(line) for line in found.format("markdown"))


def test_hints_help_to_know_the_truth(
    make_run: Make, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that repeats what it is told is the better the more it is told, and gray when it is told nothing."""
    from pretext.methods.colorization import Colorizer

    monkeypatch.setattr(Colorizer, "colorize", lambda self, lightness, temperature, ab, mask: ab * mask)
    run = make_run(tmp_path / "hinted", backbone="siggraph17", stride=1)
    words = [f"{run}@hints={count}" for count in (0, 1, 10)]
    found = score_small([*words, "scribbles@hints=1", "scribbles@hints=10"], images, most=6)
    none, one, ten = (metric_values(found, f"hinted@hints={count}") for count in (0, 1, 10))
    spread, well = metric_values(found, "scribbles@hints=1"), metric_values(found, "scribbles@hints=10")
    gray = metric_values(found, "gray")
    assert [none[key] for key in ("auc", "psnr", "ssim")] == [gray[key] for key in ("auc", "psnr", "ssim")]
    for key in ("auc", "psnr"):
        assert none[key] < one[key] < ten[key] < 1.5 * none[key] and max(spread[key], ten[key]) < well[key], key


def test_on_real_images(run: Path, shared_data: Path, tmp_path: Path) -> None:
    settings = ScoreSettings(images=str(shared_data / "imagenet-sample"), out=str(tmp_path), size=96, most=48)
    found = score([run], settings)
    numbers = {line.method: metric_values(found, line.method) for line in found.lines}
    assert found.facts["n"] + found.facts["n_gray"] == 48 and not found.skipped
    assert numbers["gray"]["auc"] > numbers["random"]["auc"], "as in the paper"
    assert numbers["gray"]["psnr"] > numbers["random"]["psnr"]
    assert 0.85 < numbers["gray"]["auc"] < 0.93 and 0.5 < numbers["gray"]["auc_balanced"] < 0.72
    assert numbers["gray"]["cf"] < 1 < 15 < numbers["truth"]["cf"]
