"""The fusion net against a second, plain statement of its published layers."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pretext.backbones.fusion import Fusion
from pretext.errors import UserError

# Iizuka et al. 2016, table 1: inputs, outputs, kernel, stride.
LOW = [(1, 64, 3, 2), (64, 128, 3, 1), (128, 128, 3, 2), (128, 256, 3, 1), (256, 256, 3, 2), (256, 512, 3, 1)]
MIDDLE = [(512, 512, 3, 1), (512, 256, 3, 1)]
GLOBAL = [(512, 512, 3, 2), (512, 512, 3, 1), (512, 512, 3, 2), (512, 512, 3, 1)]
CONNECTED = [(7 * 7 * 512, 1024), (1024, 512), (512, 256)]
FUSION = (256 + 256, 256)
COLOR = [(256, 128), (128, 64), (64, 64), (64, 32)]


@pytest.fixture(scope="module")
def net() -> Fusion:
    torch.manual_seed(0)
    net = Fusion().eval()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point() and ".1." in name:  # batch norms that do something
                value.uniform_(0.5, 1.5)
    return net


def apply(net: Fusion, name: str, x: Tensor, kernel: int = 3, stride: int = 1) -> Tensor:
    w = {key.removeprefix(f"layers.{name}."): v for key, v in net.state_dict().items() if f".{name}." in key}
    if x.ndim == 2:
        x = F.linear(x, w["0.weight"].flatten(1), w["0.bias"])
    else:
        x = F.conv2d(x, w["0.weight"], w["0.bias"], stride, kernel // 2)
    return F.relu(F.batch_norm(x, w["1.running_mean"], w["1.running_var"], w["1.weight"], w["1.bias"]))


def plain(net: Fusion, lightness: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    x, features = (lightness - 50) / 100, {}
    whole = F.interpolate(x, (224, 224), mode="bilinear", antialias=True)
    for number, (_, _, kernel, stride) in enumerate(LOW, 1):
        x = features[f"low{number}"] = apply(net, f"low{number}", x, kernel, stride)
        whole = apply(net, f"low{number}", whole, kernel, stride)
    for number, (_, _, kernel, stride) in enumerate(GLOBAL, 1):
        whole = apply(net, f"global{number}", whole, kernel, stride)
    for number in (1, 2):
        x = features[f"mid{number}"] = apply(net, f"mid{number}", x)
        whole = apply(net, f"vector{number}", whole.flatten(1))
    last = apply(net, "vector3", whole)
    y = torch.cat((x, last[:, :, None, None].repeat(1, 1, *x.shape[2:])), 1)
    y = features["fusion"] = apply(net, "fusion", y, kernel=1)
    y = features["color1"] = apply(net, "color1", y)
    y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
    y = features["color2"] = apply(net, "color2", y)
    y = features["color3"] = apply(net, "color3", y)
    y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
    features["color4"] = apply(net, "color4", y)
    return features, whole


def test_parameters_are_those_of_the_table() -> None:
    with torch.device("meta"):
        net = Fusion()
    convolutions = LOW + MIDDLE + GLOBAL + [(a, b, 3, 1) for a, b in COLOR] + [(*FUSION, 1, 1)]
    weights = sum(k * k * a * b for a, b, k, _ in convolutions) + sum(a * b for a, b in CONNECTED)
    outputs = sum(b for _, b, *_ in convolutions) + sum(b for _, b in CONNECTED)
    expected = weights + 3 * outputs  # a bias, a scale and a shift each
    assert sum(p.numel() for p in net.parameters()) == expected == 42_182_240


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (224, 224)])
def test_it_computes_the_published_layers(net: Fusion, size: tuple[int, int]) -> None:
    lightness = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(1)) * 100
    expected, vector = plain(net, lightness)
    features, found = net.with_vector(lightness)
    assert list(features) == list(expected) == [stage.name for stage in net.stages]
    assert found.shape == (2, net.vector_channels) == (2, 512)
    torch.testing.assert_close(found, vector, rtol=1e-3, atol=1e-4)
    for name, value in expected.items():
        torch.testing.assert_close(features[name], value, rtol=1e-3, atol=1e-4, msg=name)


@torch.no_grad()
def test_every_place_knows_of_the_whole_image() -> None:
    torch.manual_seed(0)
    net = Fusion(global_size=32, width=0.1).eval()
    dark = torch.full((1, 1, 64, 64), 20.0)
    dark[..., :16, :16] = 60
    light = dark.clone()
    light[..., 48:, 48:] = 95  # far beyond what a place's own convolutions see
    one, other = net(dark), net(light)
    assert torch.equal(one["mid1"][..., :3, :3], other["mid1"][..., :3, :3])
    assert not torch.allclose(one["fusion"][..., :3, :3], other["fusion"][..., :3, :3])


@torch.no_grad()
@pytest.mark.parametrize("size", [(33, 47), (8, 9), (1, 1)])
def test_sides_of_any_length(size: tuple[int, int]) -> None:
    net = Fusion(global_size=32, width=0.05).eval()
    for stage, maps in zip(net.stages, net(torch.rand(1, 1, *size) * 100).values(), strict=True):
        assert maps.shape == (1, stage.channels, *(-(-side // stage.stride) for side in size)), stage


@pytest.mark.parametrize("arguments", [{"global_size": 100}, {"global_size": 0}, {"width": 0}, {"width": "wide"}])
def test_what_cannot_be_built(arguments: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"backbone fusion: {next(iter(arguments))}"):
        Fusion(**arguments)
