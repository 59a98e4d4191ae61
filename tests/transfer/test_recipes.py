"""The recipes of fine-tuning that are shipped: each is read by its task, says what it must and fits its networks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pretext.backbones import build_backbone
from pretext.backbones.contract import FromRgb
from pretext.settings import settings_file
from pretint.cli import commands
from transfer.tasks.classification import Classify, ClassifySettings
from transfer.tasks.detection import DetectSettings
from transfer.tasks.detection_head import Detector
from transfer.tasks.registry import TASKS
from transfer.tasks.segmentation import Segment, SegmentSettings
from transfer.tasks.task import FinetuneSettings

RECIPES = sorted((commands.RECIPES.parent / "transfer").glob("*.yaml"))
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "laptop": ("tiny", {}),
    "paper": ("alexnet", {"geometry": "pretrain"}),
    "modern": ("resnet50", {"last_stride": 1}),
}
"""The backbones that recipes of a kind are for, as our recipes of pretraining make them."""


def opened(recipe: Path) -> FinetuneSettings:
    return settings_file(TASKS[recipe.stem.partition("_")[2]].settings, recipe)


def test_every_task_has_one_of_every_kind() -> None:
    assert {recipe.stem for recipe in RECIPES} == {f"{kind}_{task}" for kind in NETWORKS for task in TASKS}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_opens_with_command_and_expectation(recipe: Path) -> None:
    kind, _, task = recipe.stem.partition("_")
    head = []
    for line in recipe.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        assert len(line) <= 120 or kind == "laptop"
        head.append(line)
    text = "\n".join(head)
    assert f"pretint finetune {task} " in text and f"--config configs/transfer/{recipe.name}" in text
    assert "# Time" in text and "o expect: " in text
    assert ("# Departures from the publication" in text) == (kind == "paper")
    assert opened(recipe).protocol == f"{kind}-{task}"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_what_it_sets_is_read(recipe: Path) -> None:
    """No group that another choice in the recipe makes idle."""
    settings = opened(recipe)
    words = {line.partition(":")[0].strip() for line in recipe.read_text(encoding="utf-8").splitlines()}
    if isinstance(settings, ClassifySettings):
        assert ("crop" in words, "jitter" in words) == (settings.way == "resized", settings.way == "jittered")
    if settings.training.optimizer != "sgd":
        assert "nesterov" not in words


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [one for one in RECIPES if "laptop" not in one.stem], ids=lambda recipe: recipe.stem)
def test_its_head_fits_the_backbone(recipe: Path) -> None:
    settings, (name, own) = opened(recipe), NETWORKS[recipe.stem.partition("_")[0]]
    trained = build_backbone(name, **own)
    features = FromRgb(build_backbone(name, **{**own, **settings.backbone}))
    assert trained.state_dict().keys() == features.backbone.state_dict().keys(), "the weights fit"
    network: nn.Module
    rgb, sizes = torch.randint(0, 256, (1, 3, 240, 256), dtype=torch.uint8), [(240, 256)]
    with torch.inference_mode():
        if isinstance(settings, DetectSettings):
            network = Detector(features, 20, settings.head).eval()
            assert len(network.predict(rgb, sizes, [torch.tensor([[20.0, 30.0, 200.0, 180.0]])])) == 1
        elif isinstance(settings, SegmentSettings):
            network = Segment(features, 21, settings.head).eval()
            assert network(rgb, (60, 64)).shape == (1, 21, 60, 64)
        else:
            assert isinstance(settings, ClassifySettings)
            network = Classify(features, 20, settings.head).eval()
            side = settings.size
            assert network(torch.zeros(1, 3, side, side, dtype=torch.uint8)).shape == (1, 20)


def recipe_of(name: str) -> FinetuneSettings:
    return opened(commands.RECIPES.parent / "transfer" / f"{name}.yaml")


def test_classification_takes_the_published_steps() -> None:
    """The released solver's 1e-3, 1e-6 and 10 are for a sum over the classes; the loss here is their mean."""
    training, classes = recipe_of("paper_classify").training, 20
    torch.manual_seed(0)
    start, slopes = torch.randn(classes), torch.randn(classes)

    def step(slope: Tensor, lr: float, decay: float, clip: float) -> Tensor:
        weight = nn.Parameter(start.clone())
        (weight * slope).sum().backward()
        nn.utils.clip_grad_norm_([weight], clip)
        torch.optim.SGD([weight], lr, training.betas[0], weight_decay=decay).step()
        return weight.detach() - start

    for scale in (1.0, 100.0):  # below and above the norm that is clipped
        ours = step(scale * slopes / classes, training.lr, training.weight_decay, training.clip)
        torch.testing.assert_close(ours, step(scale * slopes, 1e-3, 1e-6, 10.0))


def test_published_figures_of_the_paper() -> None:
    detect, segment = recipe_of("paper_detect"), recipe_of("paper_segment")
    assert isinstance(detect, DetectSettings) and isinstance(segment, SegmentSettings)
    assert detect.training.steps == segment.training.steps == 150_000
    assert detect.training.milestones == segment.training.milestones == [50_000, 100_000]
    assert (detect.training.batch_size * detect.head.rois, detect.head.positive, detect.head.overlap) == (
        128,
        0.25,
        0.3,
    )
    assert (detect.sizes.shorter, detect.size) == ([480, 576, 688, 864, 1200], 600)
    assert (segment.training.batch_size, segment.training.micro_batch) == (20, 1)
    assert not any(one.training.nesterov or one.training.warmup or one.holdout for one in (detect, segment))
