"""Color health of predictors whose output is known, against loops over pixels."""

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pretext.backbones import Backbone
from pretext.backbones.contract import Stage
from pretext.color import rgb_to_ab
from pretext.engine.device import ComputeConfig
from pretext.gamut import Gamut, bin_centers
from pretext.methods.colorization import Colorizer, color_health, common_bins
from pretext.methods.objectives import Classification, Objective, Regression
from pretext.prior import rebalancing_weights

CPU = ComputeConfig(torch.device("cpu"), "fp32", 0)
STRIDE = 2


class Fixed(Backbone):
    """Gives prepared outputs, one batch after the other."""

    def __init__(self, outputs: list[Tensor]) -> None:
        super().__init__()
        self.outputs = list(outputs)
        self.stages = (Stage("fixed", outputs[0].shape[1], STRIDE),)

    def forward(self, lightness: Tensor) -> dict[str, Tensor]:
        return {"fixed": self.outputs.pop(0)}


def predictor(outputs: list[Tensor], objective: Objective) -> Colorizer:
    colorizer = Colorizer(Fixed(outputs), objective, STRIDE)
    nn.init.dirac_(colorizer.head.weight)
    nn.init.zeros_(colorizer.head.bias)  # type: ignore[arg-type]
    return colorizer.eval()


def images() -> list[Tensor]:
    """Batches of two and of one image in five colors; in the second image only the grays."""
    random = np.random.default_rng(0)
    palette = np.array([[200, 40, 30], [30, 60, 200], [90, 160, 60], [128, 128, 128], [60, 60, 60]], dtype=np.uint8)
    chosen = random.integers(0, 5, (3, 12, 16))
    chosen[1] = chosen[1] % 2 + 3
    rgb = torch.from_numpy(palette[chosen]).permute(0, 3, 1, 2)
    return [rgb[:2], rgb[2:]]


def truth(batch: Tensor) -> Tensor:
    return rgb_to_ab(batch[..., ::STRIDE, ::STRIDE])


def pixels(batches: list[Tensor]) -> np.ndarray:
    return np.concatenate([batch.double().movedim(1, -1).reshape(-1, batch.shape[1]).numpy() for batch in batches])


def nearest(ab: np.ndarray) -> int:
    return int(((bin_centers() - ab) ** 2).sum(1).argmin())


def recalls(true: np.ndarray, decoded: np.ndarray) -> list[float]:
    """Per bin, by a loop; nan where it does not occur."""
    found: dict[int, list[bool]] = defaultdict(list)
    for one, other in zip(true, decoded, strict=True):
        found[nearest(one)].append(nearest(one) == nearest(other))
    return [sum(found[index]) / len(found[index]) if index in found else math.nan for index in range(313)]


def check_recalls(health: dict[str, Any], true: np.ndarray, decoded: np.ndarray) -> None:
    expected = recalls(true, decoded)
    assert health["recall"] == pytest.approx(expected, nan_ok=True)
    for key, asked in (("recall_common", True), ("recall_rare", False)):
        shares = [one for index, one in enumerate(expected) if one == one and (index in COMMON) == asked]
        assert 0 < health[key] < 1
        assert health[key] == pytest.approx(sum(shares) / len(shares), abs=1e-5)


def accuracies(true: np.ndarray, named: list[int]) -> tuple[float, float]:
    """Plain and rebalanced accuracy by a loop; the weights by the formula of the paper, lambda = 1/2."""
    frequency = prior().numpy()
    weights = 1 / (0.5 * frequency + 0.5 / 313)  # every bin of prior() occurs
    weights /= (frequency * weights).sum()
    right, weighed, total = 0, 0.0, 0.0
    for one, bin_ in zip(true, named, strict=True):
        weight = float(weights[nearest(one)])
        right += nearest(one) == bin_
        weighed += weight * (nearest(one) == bin_)
        total += weight
    return right / len(true), weighed / total


def prior() -> Tensor:
    """Gray and one color of the images are common, the other two rare."""
    frequency = torch.full((313,), 1e-4, dtype=torch.float64)
    frequency[nearest(np.zeros(2))] = 0.5
    frequency[nearest(truth(torch.tensor([30, 60, 200], dtype=torch.uint8)[:, None, None])[:, 0, 0].numpy())] = 0.4
    return frequency / frequency.sum()


COMMON = {int(index) for index in prior().topk(2).indices}


def test_a_perfect_predictor() -> None:
    outputs = [truth(batch) / 110 for batch in images()]
    health = color_health(predictor(outputs, Regression()), images(), prior(), CPU)
    recall = health.pop("recall")
    occur = {nearest(ab) for ab in pixels([truth(batch) for batch in images()])}
    assert [1.0 if index in occur else None for index in range(313)] == [one if one == one else None for one in recall]
    assert health == {
        "loss": pytest.approx(0, abs=1e-9),
        "saturation": pytest.approx(1, abs=1e-5),
        "accuracy": 1,
        "accuracy_rebalanced": 1,
        "recall_common": 1,
        "recall_rare": 1,
    }


def test_a_gray_predictor() -> None:
    outputs = [torch.zeros_like(truth(batch)) for batch in images()]
    health = color_health(predictor(outputs, Regression()), images(), prior(), CPU)
    assert health["saturation"] == 0
    assert health["recall_common"] == 0.5  # gray, and not blue
    assert health["recall_rare"] == 0


def test_half_the_color() -> None:
    outputs = [truth(batch) / 220 for batch in images()]
    health = color_health(predictor(outputs, Regression()), images(), prior(), CPU)
    assert health["saturation"] == pytest.approx(0.5, abs=1e-5)


def test_regression_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    # Errors of half a bin, so that some pixels keep their bin and others do not.
    outputs = [(truth(batch) + torch.randn(truth(batch).shape, generator=generator) * 5) / 110 for batch in images()]
    health = color_health(predictor(outputs, Regression()), images(), prior(), CPU)
    true, decoded = pixels([truth(batch) for batch in images()]), pixels(outputs) * 110
    counts = np.repeat([1, 0, 1], len(true) // 3)  # the second image is gray
    loss = (((true - decoded) / 110) ** 2).sum(1) / 2 * counts
    assert health["loss"] == pytest.approx(loss.mean(), rel=1e-4)
    saturation = np.linalg.norm(decoded, axis=1).mean() / np.linalg.norm(true, axis=1).mean()
    assert health["saturation"] == pytest.approx(saturation, rel=1e-4)
    check_recalls(health, true, decoded)
    plain, rebalanced = accuracies(true, [nearest(ab) for ab in decoded])
    assert (health["accuracy"], health["accuracy_rebalanced"]) == pytest.approx((plain, rebalanced))


def test_classification_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(2)
    gamut = Gamut(neighbors=5)
    outputs = []
    for batch in images():
        target = gamut.encode(truth(batch))
        logits = torch.randn(len(batch), 313, *target.nearest.shape[1:], generator=generator)
        toward = 12 * torch.rand(target.nearest.shape, generator=generator)
        outputs.append(logits.scatter_add(1, target.bins[:, :1], toward[:, None]))
    weights = rebalancing_weights(prior())
    health = color_health(predictor(outputs, Classification(gamut, weights)), images(), prior(), CPU)

    true, logits = pixels([truth(batch) for batch in images()]), pixels(outputs)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    annealed = np.exp(log_p / 0.38)
    decoded = annealed @ bin_centers() / annealed.sum(1, keepdims=True)
    entropy = -(np.exp(log_p) * log_p).sum(1)
    losses = []
    for one, predicted in zip(true, log_p, strict=True):
        squared = ((bin_centers() - one) ** 2).sum(1)
        bins = squared.argsort()[:5]
        soft = np.exp(-squared[bins] / 50)
        losses.append(-(soft / soft.sum() * predicted[bins]).sum() * float(weights[bins[0]]))
    counts = np.repeat([1, 0, 1], len(true) // 3)
    assert health["loss"] == pytest.approx((np.array(losses) * counts).mean(), rel=1e-4)
    assert health["entropy"] == pytest.approx(entropy.mean(), rel=1e-4)
    saturation = np.linalg.norm(decoded, axis=1).mean() / np.linalg.norm(true, axis=1).mean()
    assert health["saturation"] == pytest.approx(saturation, rel=1e-4)
    check_recalls(health, true, decoded)
    plain, rebalanced = accuracies(true, [int(one.argmax()) for one in logits])
    assert 0 < plain < 1 and abs(plain - rebalanced) > 0.01
    assert plain != np.mean([nearest(a) == nearest(b) for a, b in zip(true, decoded, strict=True)])
    assert (health["accuracy"], health["accuracy_rebalanced"]) == pytest.approx((plain, rebalanced))


def test_entropy_of_knowing_nothing_and_everything() -> None:
    for scale, entropy in ((0.0, math.log(313)), (1e4, 0.0)):
        outputs = [torch.zeros(len(batch), 313, 6, 8) for batch in images()]
        for output in outputs:
            output[:, 7] = scale
        health = color_health(predictor(outputs, Classification(Gamut())), images(), prior(), CPU)
        assert health["entropy"] == pytest.approx(entropy, abs=1e-5)


def test_other_bins_are_those_of_the_objective() -> None:
    gamut = Gamut(neighbors=1, step=20)
    outputs = []
    for batch in images():
        target = gamut.encode(truth(batch))
        logits = torch.zeros(len(batch), 101, *target.nearest.shape[1:])
        outputs.append(logits.scatter(1, target.bins, 99.0))
    uniform = torch.full((101,), 1 / 101, dtype=torch.float64)
    health = color_health(predictor(outputs, Classification(gamut)), images(), uniform, CPU)
    assert health["accuracy"] == health["accuracy_rebalanced"] == 1
    points = pixels([truth(batch) for batch in images()])
    occurring = np.unique(((points[:, None] - bin_centers(20)) ** 2).sum(2).argmin(1))
    assert len(health["recall"]) == 101
    assert np.flatnonzero(np.array(health["recall"]) == 1).tolist() == occurring.tolist()


def test_how_images_are_batched_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(3)
    every = torch.cat(images())
    outputs = torch.randn(3, 313, 6, 8, generator=generator) * 5
    results = []
    for size in (1, 2, 3):
        colorizer = predictor(list(outputs.split(size)), Classification(Gamut()))
        results.append(color_health(colorizer, every.split(size), prior(), CPU))
    recall, *others = (result.pop("recall") for result in results)
    assert all(other == pytest.approx(recall, nan_ok=True) for other in others)
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert results[0] == pytest.approx(results[2], rel=1e-5)


def test_accuracies_of_the_same_guess_do_not_depend_on_the_objective() -> None:
    """Not on its own rebalancing either: a plain and a rebalanced classification are comparable."""
    outputs = [torch.randn(len(batch), 313, 6, 8, generator=torch.Generator().manual_seed(4)) for batch in images()]
    for output, batch in zip(outputs, images(), strict=True):  # right on the left half, and surely so
        output[..., :4].scatter_add_(
            1,
            Gamut(1).encode(truth(batch)).bins[..., :4],
            torch.full((1, 1, 6, 4), 99.0).expand(len(batch), -1, -1, -1),
        )
    gamut, weights = Gamut(), rebalancing_weights(prior(), uniform=0.1)
    named = [gamut.centers[output.argmax(1)].movedim(-1, 1) / 110 for output in outputs]
    found = [
        color_health(predictor(given, objective), images(), prior(), CPU)
        for given, objective in (
            (outputs, Classification(gamut)),
            (outputs, Classification(gamut, weights)),
            (named, Regression()),
        )
    ]
    for key in ("accuracy", "accuracy_rebalanced"):
        assert found[0][key] > 0.4
        assert found[1][key] == found[2][key] == found[0][key]


def test_what_the_data_cannot_tell_is_nan() -> None:
    black = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    assert not truth(black).any()
    health = color_health(predictor([torch.ones(1, 2, 2, 2)], Regression()), [black], prior(), CPU)
    assert math.isnan(health["saturation"])
    assert math.isnan(health["recall_rare"])
    assert health["recall_common"] == 0


@pytest.mark.parametrize(
    ("frequencies", "common"),
    [
        ([0.1, 0.55, 0.05, 0.3], [1, 3]),
        ([0.1, 0.55, 0.15, 0.2], [1, 2, 3]),  # 0.75 is not enough
        ([0.85, 0.05, 0.05, 0.05], [0]),
        ([0.0, 0.0, 0.0, 1.0], [3]),
        ([0.25, 0.25, 0.25, 0.25], [0, 1, 2, 3]),
    ],
)
def test_common_bins_hold_four_fifths(frequencies: list[float], common: list[int]) -> None:
    bins = common_bins(torch.tensor(frequencies, dtype=torch.float64))
    assert bins.dtype == torch.bool
    assert bins.nonzero().flatten().tolist() == common
