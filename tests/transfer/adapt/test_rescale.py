"""Rescaled networks, against the definitions of both parts."""

import copy
import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trained_networks import batch_norms, compute_features, load_photographs, open_trained_network, randomize_norms

from pretext.backbones.contract import Backbone, FromRgb, Stage
from pretext.errors import UserError
from transfer.adapt import Adapted, AdaptSettings, adapt
from transfer.adapt.rescale import calibrate
from transfer.networks import Network, open_network

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class AfterReLU(Backbone):
    """A chain whose batch norms follow ReLUs, as in the paper's color net, and remain layers."""

    stages = (Stage("one", 8, 1), Stage("two", 8, 2))

    def __init__(self) -> None:
        super().__init__()
        first = (nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.one = nn.Sequential(*first, nn.BatchNorm2d(8))
        self.two = nn.Sequential(nn.ConvTranspose2d(8, 8, 2, 2), nn.ReLU(), nn.MaxPool2d(4), nn.BatchNorm2d(8))

    def forward(self, lightness: Tensor) -> dict[str, Tensor]:
        one = self.one((lightness - 50) / 50)
        return {"one": one, "two": self.two(one)}


def after_relu() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = FromRgb(AfterReLU()).eval()
    return randomize_norms(dataclasses.replace(open_network("random:tiny"), module=module, stages=module.stages), 32)


def learned(network: Network) -> Network:
    """As if it were trained: its kind says so, and its layers have unlike scales."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in network.module.modules():
            if isinstance(layer, LAYERS):
                layer.weight *= math.exp(float(torch.randn((), generator=generator)))
    return dataclasses.replace(network, kind="pretrained")


def spread(network: nn.Module, rgb: Tensor) -> float:
    """The largest ratio of gradient to weights over the smallest, by their definition."""
    network = copy.deepcopy(network).eval().requires_grad_(True)
    end = list(network(rgb).values())[-1]
    end.backward(torch.randn(end.shape, generator=torch.Generator().manual_seed(0)))
    ratios = []
    for layer in network.modules():
        if isinstance(layer, LAYERS):
            assert layer.weight.grad is not None
            ratios.append(float((layer.weight.grad.square().mean() / layer.weight.detach().square().mean()).sqrt()))
    return max(ratios) / min(ratios)


@pytest.mark.parametrize("make", [lambda: open_trained_network("random:tiny"), after_relu], ids=["tiny", "after ReLU"])
def test_a_learned_chain_gives_the_same_up_to_a_factor(make: Callable[[], Network]) -> None:
    network, rgb = learned(make()), load_photographs(8, 32)
    absorbed = adapt(network, AdaptSettings(batch_norm="absorbed")).eval()
    rescaled = adapt(network, AdaptSettings(), rgb, rescaled=True).eval()
    before, after = compute_features(absorbed, rgb[:2]), compute_features(rescaled, rgb[:2])
    for name, value in before.items():
        factor = (value * after[name]).sum() / value.square().sum()
        assert torch.allclose(after[name], factor * value, rtol=0, atol=1e-3 * float(after[name].abs().max())), name
    deviation = compute_features(rescaled, rgb)[network.stages[-1].name].transpose(0, 1).flatten(1).std(1).mean()
    layers = sum(isinstance(module, LAYERS) for module in rescaled.modules())
    assert abs(math.log(deviation)) < 0.01 * layers  # of each ratio, 1% may be left
    assert spread(absorbed, rgb) > 3
    assert spread(rescaled, rgb) < 1.02


@pytest.mark.parametrize("spec", ["random:resnet18", "random:convnext_atto"])
def test_the_spread_comes_down_in_any_network(spec: str) -> None:
    network = learned(open_trained_network(spec))
    rescaled = adapt(network, AdaptSettings(), load_photographs(4, 32), rescaled=True)
    before, after = (float(word.rstrip(",")) for word in rescaled.notes[-1].split() if word[0].isdecimal())
    assert after < before / 3


@pytest.mark.parametrize(
    "spec", ["random:tiny", "random:resnet18", "random:timm/efficientnet_b0", "random:convnext_atto"]
)
def test_every_unit_of_random_weights_has_its_deviation(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within layers: standard deviation 1, and mean 0.1 where there is a bias, before anything is calibrated."""
    from transfer.adapt import rescale as rescaling

    monkeypatch.setattr(rescaling, "calibrate", lambda *_: (1.0, 1.0))
    network, rgb = open_trained_network(spec), load_photographs(8, 32)
    adapted = adapt(network, AdaptSettings(), rgb, rescaled=True).eval()
    assert not batch_norms(adapted)
    seen: dict[str, Tensor] = {}

    def note(name: str, _layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen.setdefault(name, output.clone())

    for name, layer in adapted.named_modules():
        if isinstance(layer, LAYERS):
            layer.register_forward_hook(partial(note, name))
    compute_features(adapted, rgb)
    for name, output in seen.items():
        layer = adapted.get_submodule(name)
        units = (output if isinstance(layer, nn.Linear) else output.movedim(1, -1)).flatten(0, -2).double()
        deviation = units.std(0, correction=0)
        alive = deviation > 1e-3
        assert torch.allclose(deviation[alive], torch.ones_like(deviation[alive]), atol=1e-3), name
        assert alive.double().mean() > 0.9, name
        if layer.bias is not None:
            assert torch.allclose(units.mean(0), torch.full_like(deviation, 0.1), atol=1e-3), name
    assert len(seen) >= 5


def test_random_weights_are_calibrated_too() -> None:
    network, rgb = open_trained_network("random:tiny"), load_photographs(16)
    assert spread(adapt(network, AdaptSettings(), rgb, rescaled=True), rgb) < 1.02
    assert spread(adapt(network, AdaptSettings(batch_norm="absorbed")), rgb) > 2


def test_the_end_is_the_last_stage_that_is_used() -> None:
    network, rgb = learned(open_trained_network("random:tiny")), load_photographs(8)
    absorbed = adapt(network, AdaptSettings(batch_norm="absorbed"))
    adapted: Adapted = adapt(network, AdaptSettings(), rgb, rescaled=True, used=("conv3", "conv2"))
    weights = [dict(one.named_parameters())["features.backbone.blocks.conv5.0.weight"] for one in (absorbed, adapted)]
    assert torch.equal(*weights)
    deviation = compute_features(adapted.eval(), rgb)["conv3"].transpose(0, 1).flatten(1).std(1).mean()
    assert 0.9 < deviation < 1.1


def test_no_images_and_dead_networks_are_errors() -> None:
    network = learned(open_trained_network("random:tiny"))
    with pytest.raises(UserError, match=r"^random:tiny: there are no images to rescale with"):
        adapt(network, AdaptSettings(), load_photographs(2)[:0], rescaled=True)
    with torch.no_grad():
        for weight in network.module.parameters():
            weight.zero_()
    with pytest.raises(UserError, match=r"^random:tiny: it cannot be rescaled"):
        adapt(network, AdaptSettings(), load_photographs(2), rescaled=True)
    with pytest.raises(UserError, match=r"it cannot be rescaled"):  # all its layers standardize their weights
        calibrate(open_trained_network("random:resnetv2_50x1_bit").module, load_photographs(1), "stages_3")
