"""The online probe: against scikit-learn, on images whose answer is known, and without a trace in the model."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import Ridge, RidgeClassifier
from torch import Tensor, nn

from pretext.backbones import Backbone, build_backbone
from pretext.backbones.contract import Stage
from pretext.data import open_labeled
from pretext.engine.device import ComputeConfig
from pretext.errors import ImageError, UserError
from pretext.online import PENALTY, OnlineProbe, OnlineSettings, ridge

CPU = ComputeConfig(torch.device("cpu"), "fp32", 0)


class Shades:
    """A labeled source in memory: class k is a gray of its own, with a little noise."""

    def __init__(self, labels: list[int], bad: tuple[int, ...] = (), classes: int = 3) -> None:
        self.labels, self.bad = labels, bad
        self.classes = [f"shade {label}" for label in range(classes)]
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        self.reads.append(index)
        if index in self.bad:
            raise ImageError(self.key(index), "damaged")
        noise = np.random.default_rng(index).integers(-9, 10, (20, 24, 3))
        return Image.fromarray((50 + 60 * self.labels[index] + noise).astype(np.uint8))

    def key(self, index: int) -> str:
        return f"{index}.png"


class Twofold(Backbone):
    """One stage that shows lightness, a blind one, and one of a dead network."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = (Stage("seeing", 2, 1), Stage("blind", 4, 2), Stage("broken", 1, 1))
        self.dropout = nn.Dropout(0.9)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, lightness: Tensor) -> dict[str, Tensor]:
        seeing = self.norm(self.dropout(lightness))
        return {
            "seeing": torch.cat((seeing, seeing**2), dim=1),
            "blind": torch.ones(len(lightness), 4, 5, 5),
            "broken": lightness * math.nan,
        }


def shades(count: int = 100) -> list[int]:
    """Labels of three classes, of which the middle one is the most frequent."""
    return [(0, 1, 1, 2)[index % 4] for index in range(count)]


@pytest.mark.parametrize("classes", [2, 5])
def test_ridge_is_that_of_scikit_learn(classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (120,), generator=generator)
    features = torch.randn(160, 30, generator=generator) * torch.logspace(-1, 2, 30) + 7
    features[:120, 0] += labels
    weight, bias = ridge(features[:120], labels, classes)
    fitted = features[:120].double().numpy()
    alpha = PENALTY * len(fitted) * fitted.var(0).mean()
    reference = Ridge(alpha=alpha).fit(fitted, np.eye(classes)[labels])
    np.testing.assert_allclose(weight.T, reference.coef_, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(bias, reference.intercept_, rtol=1e-8)
    classifier = RidgeClassifier(alpha=alpha).fit(fitted, labels)
    named = (features.double() @ weight + bias).argmax(1)
    assert len(set(named.tolist())) > 1
    assert named.tolist() == classifier.predict(features.double().numpy()).tolist()


def test_ridge_does_not_depend_on_the_scale_of_the_features() -> None:
    features, labels = torch.randn(60, 8, generator=torch.Generator().manual_seed(1)), torch.arange(60) % 4
    (small, _), (large, _) = ridge(features, labels, 4), ridge(features * 1000, labels, 4)
    torch.testing.assert_close(small, large * 1000)


def test_ridge_on_more_dimensions_than_images_and_on_constant_ones() -> None:
    features, labels = torch.randn(9, 50, generator=torch.Generator().manual_seed(2)), torch.arange(9) % 3
    weight, bias = ridge(features, labels, 3)
    assert ((features.double() @ weight + bias).argmax(1) == labels).all()
    weight, bias = ridge(torch.full((8, 5), 3.0), torch.tensor([0, 1, 1, 1, 1, 2, 2, 0]), 3)
    assert not weight.any() and bias.tolist() == [0.25, 0.5, 0.25]


def test_what_each_stage_shows() -> None:
    source = Shades(shades())
    probe = OnlineProbe(source, OnlineSettings(images=80), 16, seed=0)
    judged = [source.labels[index] for index in probe.test_indices]
    found = probe(Twofold(), CPU)
    assert list(found) == ["chance", "accuracy_seeing", "accuracy_blind", "accuracy_broken"]
    assert found["accuracy_seeing"] == 1
    assert found["chance"] == found["accuracy_blind"] == judged.count(1) / len(judged)
    assert 0 < found["chance"] < 1 and math.isnan(found["accuracy_broken"])


def test_parts_are_disjoint_and_fixed_by_the_seed() -> None:
    source = Shades(shades(200))
    probes = [OnlineProbe(source, OnlineSettings(images=100), 8, seed) for seed in (0, 0, 1)]
    for probe in probes:
        assert (len(probe.train_indices), len(probe.test_indices)) == (80, 20)
        assert len({*probe.train_indices, *probe.test_indices}) == 100
    assert probes[0].train_indices == probes[1].train_indices and probes[0].test_indices == probes[1].test_indices
    assert set(probes[0].test_indices) != set(probes[2].test_indices)
    assert max(probes[0].train_indices) > 150, "drawn from all of the source"
    assert len(source.reads) == 300, "every image is read once"
    probes[0](Twofold(), CPU)
    assert len(source.reads) == 300


def test_images_that_cannot_be_read_move_no_other() -> None:
    whole = OnlineProbe(Shades(shades()), OnlineSettings(), 8, seed=0)
    bad = (whole.train_indices[3], whole.test_indices[0], whole.train_indices[40])
    holed = OnlineProbe(Shades(shades(), bad), OnlineSettings(), 8, seed=0)
    assert holed.train_indices == [index for index in whole.train_indices if index not in bad]
    assert holed.test_indices == whole.test_indices[1:]
    assert sorted(holed.skipped) == sorted((f"{index}.png", "damaged") for index in bad)
    assert holed(Twofold(), CPU)["accuracy_seeing"] == 1


def test_leaves_no_trace_in_the_training() -> None:
    probe = OnlineProbe(Shades(shades()), OnlineSettings(), 16, seed=0)
    for backbone in (build_backbone("tiny"), Twofold()):
        backbone.train()
        next(iter(backbone.children())).eval()  # frozen by the user
        modes = [module.training for module in backbone.modules()]
        state, random = copy.deepcopy(backbone.state_dict()), torch.get_rng_state()
        first = probe(backbone, CPU)
        assert [module.training for module in backbone.modules()] == modes and True in modes and False in modes
        assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())
        assert all(weight.grad is None and weight.requires_grad for weight in backbone.parameters())
        assert torch.equal(torch.get_rng_state(), random)
        assert probe(backbone, CPU) == pytest.approx(first, rel=0, abs=0, nan_ok=True)


def test_modes_come_back_after_an_error() -> None:
    probe = OnlineProbe(Shades(shades()), OnlineSettings(), 16, seed=0)
    backbone = Twofold().train()
    backbone.norm = nn.BatchNorm2d(7)
    with pytest.raises(RuntimeError):
        probe(backbone, CPU)
    assert all(module.training for module in backbone.modules())


@pytest.mark.slow
def test_random_features_of_real_images_are_above_chance(shared_data: Path) -> None:
    source = open_labeled(str(shared_data / "imagenette-96" / "train"))
    torch.manual_seed(0)
    backbone = build_backbone("tiny")
    found = OnlineProbe(source, OnlineSettings(images=1000), 64, seed=0)(backbone, CPU)
    assert set(found) == {"chance", *(f"accuracy_{stage.name}" for stage in backbone.stages)}
    assert found["chance"] < 0.15
    # Of 200 images, at a chance of 0.1, 0.18 lies nearly four standard deviations above.
    assert all(value > 0.18 for name, value in found.items() if name != "chance"), found


@pytest.mark.parametrize(
    ("labels", "classes", "images", "view_size", "bad", "complaint"),
    [
        ([0] * 20, 1, 20, 8, 0, r"one class only \(shade 0\)"),
        ([0, 1, 2], 9, 2000, 8, 0, "3 images of 9 classes"),
        (shades(), 9, 8, 8, 0, "8 images of 9 classes"),
        (shades(), 3, 100, 4096, 0, "at most 21 images fit in 1024 MiB"),
        (shades(), 3, 100, 8, 100, r"too few .* \(100 of 100 cannot be read\); raise online.images"),
        ([0] * 99 + [1], 2, 10, 8, 0, "too few images to train a classifier on two classes"),
    ],
)
def test_complaints_are_one_line(
    labels: list[int], classes: int, images: int, view_size: int, bad: int, complaint: str
) -> None:
    source = Shades(labels, tuple(range(bad)), classes)
    with pytest.raises(UserError, match=complaint) as caught:
        OnlineProbe(source, OnlineSettings("somewhere", images), view_size, seed=0)
    assert "\n" not in str(caught.value)


def test_settings_and_sources_without_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"online\.images is 1: "):
        OnlineSettings(images=1)
    Image.new("RGB", (9, 9)).save(tmp_path / "alone.png")
    with pytest.raises(UserError, match="no sub-folders; put labeled images in one sub-folder per class"):
        open_labeled(str(tmp_path))
