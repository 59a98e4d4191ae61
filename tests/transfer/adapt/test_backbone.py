"""Networks made ready for fine-tuning, trained for a few steps: what stays and what moves."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from trained_networks import batch_norms, compute_features, load_photographs, open_trained_network, take_steps

from pretext.backbones.contract import FromRgb
from pretext.errors import UserError
from transfer.adapt import Adapted, AdaptSettings, adapt
from transfer.adapt.backbone import BatchNorm


class Branches(nn.Module):
    """Two branches that share their beginning; the first stage sees one, the second both. One layer is used twice."""

    def __init__(self) -> None:
        super().__init__()
        stages = open_trained_network("random:tiny").stages
        self.stages = tuple(stage._replace(name=name) for stage, name in zip(stages, "ab", strict=False))
        self.shared = nn.Conv2d(3, 4, 3)
        self.left = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Dropout(0.5))
        self.right = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.twice = nn.Conv2d(4, 4, 1)
        self.after = nn.Dropout(0.5)

    def forward(self, rgb: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.shared(rgb.float() / 255 if rgb.dtype == torch.uint8 else rgb)
        right = self.right(x)  # called first, and not what stage a depends on
        a = self.twice(self.left(x))
        return {"a": a, "b": self.twice(right.relu()) + self.after(a)}


@pytest.mark.parametrize(
    ("spec", "stage", "later"),
    [
        ("random:tiny", "conv2", "conv3"),
        ("random:tiny", "conv5", ""),
        ("random:alexnet", "conv3", "conv4"),  # its norms have no parameters
        ("random:resnet18", "layer1", "layer2"),
        ("timm:resnet18:random", "layer2", "layer3"),
        ("random:timm/efficientnet_b0", "blocks_1", "blocks_2"),  # drops paths, squeezes
        ("random:vit_tiny_patch16_224", "blocks_10", "blocks_11"),
    ],
)
def test_what_a_stage_depends_on_stays_to_the_bit(spec: str, stage: str, later: str) -> None:
    size = 224 if "vit" in spec else 64
    rgb = load_photographs(4, size)
    network = open_trained_network(spec, size)
    before = compute_features(network.module, rgb)
    adapted = adapt(network, AdaptSettings(freeze_to=stage))
    names = [stage.name for stage in network.stages]
    if later:
        take_steps(adapted, rgb, 1 if "alexnet" in spec else 3)  # as many weights as all others together
    adapted.eval()
    after = compute_features(adapted, rgb)
    for name in names[: names.index(stage) + 1]:
        assert torch.equal(before[name], after[name]), name
    for name in names[names.index(stage) + 1 :]:
        assert not torch.allclose(before[name], after[name], rtol=1e-3), name
    assert not later or names[names.index(stage) + 1] == later
    # In training they are the same too: nothing is dropped, and no statistics of the batch are used.
    adapted.train()
    for name in names[: names.index(stage) + 1]:
        assert torch.equal(before[name], compute_features(adapted, rgb)[name]), name


def test_branches_are_told_apart() -> None:
    network = dataclasses.replace(
        open_trained_network("random:tiny"), module=Branches().eval(), stages=Branches().stages
    )
    network.view_size = 16
    adapted = adapt(network, AdaptSettings(freeze_to="a"))
    trained = {name for name, weight in adapted.features.named_parameters() if weight.requires_grad}
    assert trained == {"right.0.weight", "right.0.bias", "right.1.weight", "right.1.bias"}
    modes = {name: module.training for name, module in adapted.features.named_modules()}
    assert not any(modes[name] for name in ("shared", "left", "left.0", "left.1", "left.2", "twice"))
    assert all(modes[name] for name in ("", "right", "right.0", "right.1", "right.2", "after"))
    rgb = load_photographs(4, 16)
    before = compute_features(network.module, rgb)
    take_steps(adapted, rgb)
    after = compute_features(adapted.eval(), rgb)
    assert torch.equal(before["a"], after["a"])
    assert not torch.equal(before["b"], after["b"])


def test_only_what_a_used_stage_depends_on_is_trained() -> None:
    adapted = adapt(open_trained_network("random:tiny"), AdaptSettings(), used=("conv2", "conv4"))
    trained = {name.split(".")[3] for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert trained == {"conv1", "conv2", "conv3", "conv4"}
    rgb = load_photographs(2)
    adapted(rgb)["conv4"].sum().backward()
    assert all((weight.grad is not None) == weight.requires_grad for weight in adapted.parameters())


def test_frozen_batch_norm_keeps_its_statistics_and_trains_scale_and_shift() -> None:
    rgb = load_photographs(4)
    network = open_trained_network("random:tiny")
    adapted = adapt(network, AdaptSettings(batch_norm="frozen"))
    before = copy.deepcopy(adapted.state_dict())
    assert torch.equal(compute_features(adapted, rgb)["conv5"], compute_features(network.module, rgb)["conv5"])
    take_steps(adapted, rgb)
    for name, value in adapted.state_dict().items():
        still = "running" in name or "tracked" in name
        assert torch.equal(value, before[name]) == still, name
    trained = adapt(network, AdaptSettings())
    assert not torch.allclose(
        compute_features(trained, rgb)["conv5"], compute_features(network.module, rgb)["conv5"], rtol=1e-2
    )
    assert all(norm.training for norm in batch_norms(trained))
    assert not any(norm.training for norm in batch_norms(trained.eval()))


def test_the_network_itself_and_the_random_numbers_stay() -> None:
    network = open_trained_network("random:tiny")
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    drawn = torch.random.get_rng_state()
    adapted = adapt(network, AdaptSettings(batch_norm="absorbed", color=True), load_photographs(4), rescaled=True)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    take_steps(adapted, load_photographs(4))
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())
    assert not network.module.training
    assert not any(weight.requires_grad for weight in network.module.parameters())


@pytest.mark.parametrize(
    ("spec", "rescaled", "batch_norm"),
    [
        ("random:tiny", False, "train"),
        ("random:tiny", False, "frozen"),
        ("random:tiny", True, "train"),
        ("random:resnet18", False, "absorbed"),
    ],
)
def test_a_state_loads_without_images(spec: str, rescaled: bool, batch_norm: BatchNorm) -> None:
    network, rgb = open_trained_network(spec), load_photographs(4)
    settings = AdaptSettings(freeze_to=network.stages[0].name, batch_norm=batch_norm, color=True)
    made = adapt(network, settings, rgb, rescaled)
    take_steps(made, rgb, 1)
    other = adapt(network, settings, None, rescaled)
    other.load_state_dict(made.state_dict())
    for one, two in zip(made.named_parameters(), other.named_parameters(), strict=True):
        assert one[0] == two[0] and one[1].requires_grad == two[1].requires_grad
    assert other.still == made.still
    assert torch.equal(
        compute_features(made.eval(), rgb)[network.stages[-1].name],
        compute_features(other.eval(), rgb)[network.stages[-1].name],
    )


def test_a_copy_keeps_still_what_is_still() -> None:
    """As the moving average copies it."""
    adapted: Adapted = copy.deepcopy(adapt(open_trained_network("random:tiny"), AdaptSettings(freeze_to="conv2")))
    adapted.train()
    inner = adapted.features
    assert isinstance(inner, FromRgb)
    assert [norm.training for norm in batch_norms(adapted)] == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("settings", "used", "message"),
    [
        (AdaptSettings(freeze_to="conv9"), (), "random:tiny: it has no stage 'conv9': take one of conv1, conv2, conv3"),
        (AdaptSettings(), ("layer4",), "random:tiny: it has no stage 'layer4'"),
    ],
)
def test_an_unknown_stage_is_an_error(settings: AdaptSettings, used: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        adapt(open_trained_network("random:tiny"), settings, used=used)
    assert "\n" not in str(error.value)
