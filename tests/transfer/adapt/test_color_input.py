"""Color for networks of lightness, against what it is to be: nothing at the start, and never for gray images."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trained_networks import compute_features, load_photographs, open_trained_network, take_steps

from pretext.backbones.contract import Backbone, FromRgb, Stage
from pretext.color import rgb_to_lab
from pretext.errors import UserError
from transfer.adapt import AdaptSettings, adapt
from transfer.adapt.color_input import WithColor


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        "random:tiny",
        "random:vgg",
        "random:siggraph17",  # has inputs for hints beside
        "random:resnet18",
        "random:tf_efficientnet_b0",  # pads as TensorFlow does
        "random:convnext_atto",
        "random:resnetv2_50x1_bit",  # standardizes its weights
        "random:vit_tiny_patch16_224",
    ],
)
def test_ab_joins_and_changes_nothing_at_first(spec: str) -> None:
    size = 224 if "vit" in spec else 64
    network, rgb = open_trained_network(spec, size), load_photographs(2, size)
    gray = rgb.float().mean(1, keepdim=True).byte().expand(-1, 3, -1, -1)
    adapted = adapt(network, AdaptSettings(color=True, batch_norm="frozen")).eval()
    before = compute_features(network.module, rgb)
    after = compute_features(adapted, rgb)
    assert all(torch.equal(before[name], after[name]) for name in before)
    adapted(rgb)[network.stages[0].name].square().mean().backward()
    joined = [module for module in adapted.modules() if isinstance(module, WithColor)]
    assert len(joined) == 1
    gradient = joined[0].ab.weight.grad
    assert gradient is not None and gradient.flatten(1).norm(dim=1).gt(0).any()
    # Filters that have learned see color, but not in gray images, whether bytes or floats.
    with torch.no_grad():
        joined[0].ab.weight.normal_(generator=torch.Generator().manual_seed(0))
    first, last = network.stages[0].name, network.stages[-1].name
    assert not torch.allclose(before[first], compute_features(adapted, rgb)[first], rtol=1e-2)
    assert torch.equal(compute_features(network.module, gray)[last], compute_features(adapted, gray)[last])
    assert torch.equal(compute_features(network.module, gray / 255)[last], compute_features(adapted, gray / 255)[last])


def test_ab_is_in_the_units_of_lightness() -> None:
    """Against the definition, for a network that divides L by 50."""
    network, rgb = open_trained_network("random:tiny"), load_photographs(2)
    adapted = adapt(network, AdaptSettings(color=True, batch_norm="absorbed")).eval()
    joined = next(module for module in adapted.modules() if isinstance(module, WithColor))
    with torch.no_grad():
        joined.ab.weight.normal_(generator=torch.Generator().manual_seed(0))
    lab = rgb_to_lab(rgb)
    weight = torch.cat((joined.lightness.weight, joined.ab.weight), dim=1)
    scaled = torch.cat(((lab[:, :1] - 50) / 50, lab[:, 1:] / 50), dim=1)
    expected = F.conv2d(scaled, weight, joined.lightness.bias, stride=2, padding=1).relu()
    assert torch.allclose(compute_features(adapted, rgb)["conv1"], expected, atol=1e-4)


def test_training_moves_the_filters_and_bfloat16_works() -> None:
    adapted, rgb = adapt(open_trained_network("random:tiny"), AdaptSettings(color=True)), load_photographs(4)
    joined = next(module for module in adapted.modules() if isinstance(module, WithColor))
    with torch.autocast("cpu", torch.bfloat16):
        take_steps(adapted, rgb)
    assert joined.ab.weight.abs().min() > 0


def test_what_sees_color_already_is_left() -> None:
    network = open_trained_network("timm:resnet18:random")
    adapted = adapt(network, AdaptSettings(color=True, freeze_to="layer1"))
    assert not any(isinstance(module, WithColor) for module in adapted.modules())
    assert not adapted.notes


def test_a_frozen_first_layer_is_said() -> None:
    adapted = adapt(open_trained_network("random:tiny"), AdaptSettings(color=True, freeze_to="conv1"))
    assert adapted.notes == ("frozen to conv1, it cannot learn to see color",)


class Tokens(Backbone):
    """Its first layer is linear, of each pixel."""

    stages = (Stage("tokens", 4, 1),)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(1, 4)
        self.second = nn.Conv2d(4, 4, 1)

    def forward(self, lightness: Tensor) -> dict[str, Tensor]:
        return {"tokens": self.second(self.first(lightness.movedim(1, -1)).movedim(-1, 1))}


def test_a_first_layer_that_is_no_convolution_is_an_error() -> None:
    network = dataclasses.replace(
        open_trained_network("random:tiny"), module=FromRgb(Tokens()).eval(), stages=Tokens.stages
    )
    with pytest.raises(UserError, match=r"^random:tiny: its first layer is not a convolution, .* leave color out$"):
        adapt(network, AdaptSettings(color=True))
