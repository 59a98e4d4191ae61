"""The recipes that are shipped: each can be read, says what it must, and builds its network."""

from pathlib import Path

import pytest
import torch
from tiers import one_fast

from pretext.methods.colorization import Colorizer
from pretext.methods.hints import HintSettings
from pretext.recipe import PretrainSettings, build_network
from pretext.settings import settings_file
from pretint.cli import commands

RECIPES = sorted(commands.RECIPES.glob("*.yaml"))
LAPTOP = commands.RECIPES / "laptop.yaml"
PAPER = [recipe for recipe in RECIPES if recipe.stem.startswith("paper_")]


def test_all_that_are_named_are_there() -> None:
    named = {"demo", "laptop", "paper_alexnet", "paper_vgg", "resnet50", "vit_small", "convnext_tiny", "modern"}
    named |= {"laptop_wide", "laptop_l2", "laptop_fusion", "laptop_autoencoder", "laptop_hints"}
    named |= {"paper_fusion", "paper_siggraph17", "vgg16_imagenet"}
    named |= {"rotation", "simclr", "vicreg", "mae", "split_brain", "joined", "joined_gray"}
    named |= {"simclr_resnet50", "vicreg_resnet50", "rotation_alexnet", "split_brain_alexnet", "mae_vit_base"}
    named |= {"joined_resnet50"}
    assert {recipe.stem for recipe in RECIPES} == named


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_opens_with_command_time_and_expectation(recipe: Path) -> None:
    head = []
    for line in recipe.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        assert len(line) <= 120
        head.append(line)
    text = "\n".join(head)
    assert "pretint pretrain" in text or "pretint demo" in text
    assert "# Time: " in text and "# To expect: " in text


@pytest.mark.parametrize("recipe", PAPER, ids=lambda recipe: recipe.stem)
def test_departures_are_listed(recipe: Path) -> None:
    assert "Departures from the publication" in recipe.read_text(encoding="utf-8")


@pytest.mark.parametrize("recipe", one_fast(LAPTOP, RECIPES), ids=lambda recipe: recipe.stem)
def test_builds_and_predicts_at_the_targets(recipe: Path) -> None:
    settings = settings_file(PretrainSettings, recipe)
    network, size = build_network(settings, torch.full((313,), 1 / 313)).eval(), settings.crop.size
    looked_at = network.backbone.fit_size(settings.view_size)
    assert abs(looked_at - settings.view_size) <= 16
    if not isinstance(network, Colorizer):
        rgb = torch.zeros(*((2, network.views) if network.views > 1 else (2,)), 3, size, size, dtype=torch.uint8)
        assert network.image_losses(rgb, torch.zeros(2).long(), torch.arange(2)).isfinite().all()
        return
    with torch.inference_mode():
        output = network(torch.full((1, 1, size, size), 50.0))
    side = -(-size // settings.objective.stride)
    channels = 2 if settings.objective.name == "regression" else 313
    assert output.shape == (1, channels, side, side)


def test_the_hints_are_the_published_ones() -> None:
    published = settings_file(PretrainSettings, commands.RECIPES / "paper_siggraph17.yaml").hints
    assert published == HintSettings(sampled=True, stop=1 / 8, smallest=1, largest=9, spread=1 / 4, whole=1 / 100)
    assert settings_file(PretrainSettings, commands.RECIPES / "laptop_hints.yaml").hints == published


@pytest.mark.parametrize(("name", "size", "stride"), [("paper_alexnet", 180, 8), ("paper_vgg", 176, 4)])
def test_weight_decay_is_the_published_one_for_a_mean(name: str, size: int, stride: int) -> None:
    """The released solver: 1e-3 on a loss that is summed over the points of the target."""
    settings = settings_file(PretrainSettings, commands.RECIPES / f"{name}.yaml")
    points = (-(-size // stride)) ** 2
    assert settings.training.weight_decay == pytest.approx(1e-3 / points, rel=2e-3)
    share = (size / 256) ** 2
    assert settings.crop.area == pytest.approx((share, share)) and settings.crop.squash
