"""Absorbed batch norm, against the network that has it."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from trained_networks import batch_norms, compute_features, load_photographs, open_trained_network

from pretext.backbones import build_backbone
from pretext.errors import UserError
from transfer.adapt import AdaptSettings, adapt
from transfer.networks import Network

ABSORBED = AdaptSettings(batch_norm="absorbed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "alone"),
    [
        ("random:tiny", 0),
        ("random:alexnet", 0),
        ("random:vgg", 7),  # after ReLUs
        ("random:siggraph17", 9),
        ("random:resnet18", 0),
        ("random:resnet50d", 0),
        ("timm:resnet18:random", 0),
        ("random:timm/efficientnet_b0", 0),  # timm's norms hold their activation
        ("random:densenet121", 62),  # norm, ReLU, convolution; of what was joined
    ],
)
def test_the_features_stay(spec: str, alone: int) -> None:
    network, rgb = open_trained_network(spec), load_photographs(2)
    adapted = adapt(network, ABSORBED).eval()
    before, after = compute_features(network.module, rgb), compute_features(adapted, rgb)
    assert list(before) == list(after)
    for name, value in before.items():
        assert torch.allclose(value, after[name], rtol=0, atol=1e-4 * float(value.abs().max())), name
    assert not batch_norms(adapted)
    found = list(adapted.notes)
    assert [int(note.split()[0]) for note in found] == ([alone] if alone else [])


def test_what_is_absorbed_is_the_released_formula() -> None:
    """W / sigma and (b - mu) / sigma, sigma the root of the variance and eps; loads into the net without norms."""
    network = open_trained_network("random:alexnet")
    adapted = adapt(network, ABSORBED)
    state = {name.removeprefix("features.backbone."): value for name, value in adapted.state_dict().items()}
    had = {name.removeprefix("backbone."): value for name, value in network.module.state_dict().items()}
    build_backbone("alexnet", batch_norm=False).load_state_dict(state)
    for layer in ("conv1", "conv2", "fc7"):
        sigma = (had[f"{layer}.1.running_var"] + 1e-5).sqrt()
        assert torch.allclose(state[f"{layer}.0.weight"], had[f"{layer}.0.weight"] / sigma[:, None, None, None])
        shifted = (had[f"{layer}.0.bias"] - had[f"{layer}.1.running_mean"]) / sigma
        assert torch.allclose(state[f"{layer}.0.bias"], shifted, atol=1e-6)


class Odd(nn.Module):
    """All in which a norm may stand to a layer."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm2d, **arguments: bool) -> None:
        super().__init__()
        self.shared = nn.Conv2d(3, 6, 3)
        self.first, self.second = norm(6, **arguments), norm(6, **arguments)
        self.grouped = nn.Sequential(nn.ConvTranspose2d(6, 6, 2, 2, groups=3, bias=False), norm(6, **arguments))
        self.peeked, self.after_peek = nn.Conv2d(6, 6, 1), norm(6, **arguments)
        self.unused = norm(6, **arguments)

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        x = self.shared(rgb.float() / 255 if rgb.dtype == torch.uint8 else rgb)
        both = self.first(x) + self.second(x)
        again = self.first(both)
        peeked = self.peeked(self.grouped(again))
        return {"a": self.after_peek(peeked), "b": peeked}


def odd(module: nn.Module) -> Network:
    network = open_trained_network("random:tiny", 16)
    stages = tuple(stage._replace(name=name) for stage, name in zip(network.stages, "ab", strict=False))
    module.stages = stages  # type: ignore[assignment]
    for norm in batch_norms(module):
        if norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
            with torch.no_grad():
                norm.weight.uniform_(0.5, 2)
                norm.bias.uniform_(-1, 1)
    return dataclasses.replace(network, module=module.eval(), stages=stages)


def test_a_layer_that_others_see_too_is_left_as_it_is() -> None:
    network, rgb = odd(Odd()), load_photographs(2, 16)
    adapted = adapt(network, ABSORBED).eval()
    for name, value in compute_features(network.module, rgb).items():
        assert torch.allclose(value, compute_features(adapted, rgb)[name], atol=1e-4)
    inner = adapted.features
    assert isinstance(inner, Odd)
    assert isinstance(inner.grouped[1], nn.Identity)
    assert {type(part) for part in (inner.first, inner.second, inner.after_peek)} == {nn.Conv2d}
    assert adapted.notes == ("3 batch norms, such as first, became separate layers: no layer could absorb them",)


def test_a_norm_without_statistics_is_an_error() -> None:
    with pytest.raises(UserError, match=r"^random:tiny: batch norm first keeps no statistics to absorb"):
        adapt(odd(Odd(track_running_stats=False)), ABSORBED)


class Flat(nn.Module):
    """A norm of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 6), nn.BatchNorm1d(6)

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        x = self.layer((rgb.float() / 255 if rgb.dtype == torch.uint8 else rgb).movedim(1, -1))
        x = self.norm(x.flatten(0, 2)).view_as(x).movedim(-1, 1)
        return {"a": x, "b": x}


def test_a_norm_of_tokens_is_an_error() -> None:
    with pytest.raises(UserError, match=r"^random:tiny: the input of a batch norm is not a map"):
        adapt(odd(Flat()), ABSORBED)
