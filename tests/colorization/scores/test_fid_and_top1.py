"""Scores that need another network: the Frechet distance of features, and the top-1 of a classifier."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from small_scores import SIZE, Make, metric_values, score_small
from timm.data import ImageNetInfo
from torch import Tensor

from pretext.data import Folder
from pretext.errors import UserError
from pretint.colorization.scores import evaluators
from pretint.colorization.scores.images import planes, square
from pretint.colorization.scores.metrics import frechet_distance


class Small(evaluators.FeatureExtractor):
    """Features of little width, in place of Inception's, whose file nobody has here."""

    width = 4
    about = "means of channels and the contrast"

    def forward(self, rgb: Tensor) -> Tensor:
        scaled = rgb.float() / 255
        return torch.cat((scaled.mean((2, 3)), scaled.std((1, 2, 3))[:, None]), 1)


@pytest.fixture
def small_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluators, "Inception", lambda file: Small())


def features(images: list[np.ndarray]) -> np.ndarray:
    return np.asarray(Small()(planes(images)).numpy())


@pytest.mark.usefixtures("small_features")
def test_frechet_to_the_same_and_to_disjoint_images(images: Path, make_images: Make, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    order = [int(i) for i in np.random.default_rng(0).permutation(7) if i < 5]
    truth = [square(Folder(images).read(index), SIZE) for index in order]
    halves = score_small([], images, inception="x", out=out)
    expected = frechet_distance(features(truth[::2]), features(truth[1::2]))
    assert metric_values(halves, "truth")["fid_same"] == pytest.approx(0, abs=1e-9)
    assert metric_values(halves, "truth")["fid_disjoint"] == pytest.approx(expected, rel=1e-5)
    assert metric_values(halves, "gray")["fid_same"] > metric_values(halves, "truth")["fid_same"] + 1e-6
    assert all(math.isnan(line.scores["fid_same"].low) for line in halves.lines)
    said = {metric.key: metric.about for metric in halves.metrics}
    assert "(3 and 2)" in said["fid_disjoint"] and "same 5 images" in said["fid_same"]
    assert all("biased" in said[key] for key in ("fid_same", "fid_disjoint"))
    others = make_images(tmp_path / "others", 4, gray=1, seed=9)
    real = [square(Folder(others).read(index), SIZE) for index in range(4)]
    for file in ("00.png", "01.png"):  # two that are scored lie among them
        (others / f"again-{file}").write_bytes((images / file).read_bytes())
    apart = score_small([], images, inception="x", out=out, disjoint=str(others))
    expected = frechet_distance(features(truth), features(real))
    assert metric_values(apart, "truth")["fid_disjoint"] == pytest.approx(expected, rel=1e-5)
    said = {metric.key: metric.about for metric in apart.metrics}
    assert "to 4 images of" in said["fid_disjoint"] and "(2 that are scored left out)" in said["fid_disjoint"]


@pytest.fixture
def labeled(tmp_path: Path, make_images: Make) -> Iterator[Path]:
    names = ImageNetInfo().label_names()
    for at, label in enumerate((7, 3)):
        make_images(tmp_path / "labeled" / names[label], 3, seed=at)
    yield tmp_path / "labeled"


def test_a_classifier_names_recolored_images(labeled: Path, tmp_path: Path) -> None:
    net = timm.create_model("test_resnet", num_classes=1000)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    word = f"test_resnet:{tmp_path / 'net.pth'}"
    found = score_small(["gray"], labeled, classifier=word, out=str(tmp_path / "out"))
    judge = evaluators.TopClass(word, [path.name for path in sorted(labeled.iterdir())])
    truth = np.stack([square(Folder(labeled).read(index), SIZE) for index in range(6)])
    right = judge(planes(list(truth)), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert metric_values(found, "truth")["top1"] == pytest.approx(float(right.double().mean()))
    shown = next(line for line in found.lines if line.method == "truth").differences
    assert "top1" in shown


def test_a_classifier_needs_labels(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sub-folder"):
        score_small(["gray"], images, classifier="test_resnet:x.pth", out=str(tmp_path))


def test_a_classifier_needs_one_label_an_image(shared_data: Path, tmp_path: Path) -> None:
    folder = next((shared_data / "voc-mini").rglob("VOC2007")).parent
    with pytest.raises(UserError, match="several classes an image; top-1 needs one"):
        score_small(["gray"], Path(f"voc:2007:test:{folder}"), classifier="test_resnet:x.pth", out=str(tmp_path))
