"""SimCLR and VICReg against their formulas, written out."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from finished_studies import write_images
from methods import build, images
from torch import Tensor

from pretext import pretrain
from pretext.errors import UserError
from pretext.methods.augment import augment
from pretext.methods.contrastive import SimCLR, VICReg, nt_xent, vicreg_terms
from pretext.recipe import PretrainSettings
from pretext.settings import settings_from


def projections(count: int = 9, dims: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(count, dims, generator=generator, dtype=torch.float64)
    return first, first + 0.5 * torch.randn(count, dims, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_nt_xent_is_equation_1(temperature: float) -> None:
    first, second = projections()
    views = [*first, *second]
    count, losses = len(first), []
    for i, view in enumerate(views):
        j = (i + count) % (2 * count)
        similar = [float(view @ other / (view.norm() * other.norm())) / temperature for other in views]
        losses.append(-math.log(math.exp(similar[j]) / sum(math.exp(s) for k, s in enumerate(similar) if k != i)))
    assert float(nt_xent(first, second, temperature)) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_vicreg_is_its_formulas() -> None:
    first, second = projections()
    count, dims = first.shape
    expected = {
        "invariance": sum(float((a - b).square().sum()) for a, b in zip(first, second, strict=True)) / count / dims,
        "variance": 0.0,
        "covariance": 0.0,
    }
    for view in (first, second):
        for i in range(dims):
            mean_i = float(view[:, i].mean())
            variance = sum((float(x) - mean_i) ** 2 for x in view[:, i]) / (count - 1)
            expected["variance"] += max(0.0, 1 - math.sqrt(variance + 1e-4)) / dims / 2
            for j in range(dims):
                if i != j:
                    mean_j = float(view[:, j].mean())
                    pairs = zip(view[:, i].tolist(), view[:, j].tolist(), strict=True)
                    covariance = sum((x - mean_i) * (y - mean_j) for x, y in pairs) / (count - 1)
                    expected["covariance"] += covariance**2 / dims
    found = {name: float(term) for name, term in vicreg_terms(first, second).items()}
    assert found == pytest.approx(expected, rel=1e-5)
    assert expected["variance"] > 0.01


@pytest.mark.parametrize("inputs", ["lightness", "rgb"])
def test_the_loss_is_that_of_two_views_of_each_image(inputs: str) -> None:
    method = build("simclr", {"temperature": 0.2, "hidden": 16, "dims": 8}, backbone={"inputs": inputs})
    assert isinstance(method, SimCLR)
    rgb, numbers = images(6, views=2), torch.arange(40, 46)
    loss = method.loss(rgb, torch.full((6,), -1), numbers)
    views = [augment(rgb[:, view], numbers, view, method.seed, method.augmentation) for view in (0, 1)]
    features = method.backbone(method.backbone.to_input(torch.cat(views)))["conv5"].mean((2, 3))
    projected = method.projector(features)
    torch.testing.assert_close(loss, nt_xent(projected[:6], projected[6:], 0.2))
    assert isinstance(loss, Tensor)
    loss.backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in method.parameters())


def test_vicreg_weighs_its_terms() -> None:
    method = build("vicreg", {"dims": 8, "invariance": 2.0, "variance": 3.0, "covariance": 5.0})
    assert isinstance(method, VICReg)
    loss, parts = method.loss(images(6, views=2), torch.full((6,), -1), torch.arange(6))
    terms = {name: float(part) for name, part in parts.items()}
    assert float(loss.detach()) == pytest.approx(
        2 * terms["invariance"] + 3 * terms["variance"] + 5 * terms["covariance"]
    )
    assert not any(part.requires_grad for part in parts.values())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"method": {"name": "simclr", "arguments": {"temperature": 0}}}, "temperature is 0: it must lie in"),
        ({"method": {"name": "simclr", "arguments": {"temperature": float("nan")}}}, "temperature is nan"),
        (
            {"method": {"name": "simclr", "arguments": {"temperature": "warm"}}},
            "temperature is 'warm': it must be",
        ),
        (
            {"method": {"name": "simclr", "arguments": {"tau": 1}}},
            "method simclr: .*tau.*takes: temperature, hid",
        ),
        ({"method": {"name": "simclr", "arguments": {"dims": 12.5}}}, "dims is 12.5: it must be a whole number"),
        ({"method": {"name": "simclr", "arguments": {"dims": 0}}}, "dims is 0: it must be at least 1"),
        ({"method": {"name": "vicreg", "arguments": {"variance": -1}}}, "variance is -1: it must lie in"),
        ({"method": {"name": "joined", "arguments": {"color_stage": ["a"]}}}, "it must be a text"),
        ({"method": {"name": "simclr"}, "training": {"batch_size": 1}}, "training.batch_size is 1: method simclr comp"),
        (
            {"method": {"name": "vicreg"}, "training": {"micro_batch": 32}},
            "training.micro_batch is 32: method vicreg compares all images of a batch",
        ),
        ({"method": {"name": "simcrl"}}, "method.name is simcrl: did you mean simclr?"),
        ({"backbone": {"inputs": "rgb"}}, "colorization cannot train a backbone that reads rgb"),
        ({"backbone": {"name": "vgg", "inputs": "rgb"}, "method": {"name": "simclr"}}, "vgg: it reads lightness only"),
        ({"method": {"name": "mae"}}, "mae trains plain vision transformers only"),
        ({"method": {"name": "split_brain"}}, "set backbone.name split_brain"),
        (
            {"method": {"name": "joined", "arguments": {"color_stage": "conv9"}}},
            "color_stage is conv9: there are",
        ),
        (
            {"method": {"name": "simclr"}, "augment": {"blur": [1.0, 0.5, 0.1]}},
            "augment.blur has 3 numbers: give one for all views, or one for each of the 2 of method simclr",
        ),
    ],
)
def test_what_means_nothing_is_said(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build("colorization", **values)


def test_a_wrong_argument_is_said_before_the_prior_is_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "find_prior", None)
    values = {
        "data": {"source": str(write_images(tmp_path / "images"))},
        "method": {"name": "joined", "arguments": {"color_weight": -1}},
        "machine": {"workers": 0, "device": "cpu"},
    }
    with pytest.raises(UserError, match="color_weight is -1: it must lie in"):
        pretrain.pretrain(tmp_path / "run", settings_from(PretrainSettings, values, "test"))
    assert not (tmp_path / "run").exists()
