"""What holds for every backbone, whoever wrote it."""

from collections.abc import Iterator

import pytest
import torch

from pretext.backbones import BACKBONES, Backbone, TimmBackbone, build_backbone
from pretext.backbones.contract import FromRgb, Inputs, channel_count
from pretext.color import rgb_to_ab, rgb_to_lightness
from pretext.errors import UserError

TIMM = (
    "resnet18",
    "convnext_atto",
    "efficientnet_b0",
    "mobilenetv3_small_100",
    "vit_tiny_patch16_224",
    "timm/test_nfnet",
    "test_vit2",
)


COLOR = ("tiny", "alexnet", "resnet18", "vit_tiny_patch16_224")
CASES: list[tuple[str, Inputs]] = [
    *((name, "rgb" if name == "split_brain" else "lightness") for name in (*BACKBONES, *TIMM)),
    *((name, reads) for name in COLOR for reads in ("rgb", "ab")),  # type: ignore[misc]
]
SCALES = {"lightness": 100, "rgb": 1, "ab": 50}


@pytest.fixture(scope="module", params=CASES, ids=[f"{name}-{reads}" for name, reads in CASES])
def named(request: pytest.FixtureRequest) -> Iterator[tuple[str, Backbone]]:
    torch.manual_seed(0)
    name, reads = request.param
    yield name, build_backbone(name, inputs=reads)


def example(net: Backbone, count: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(count, channel_count(net.inputs), height, width) * SCALES[net.inputs]


def test_forward_returns_the_declared_stages(named: tuple[str, Backbone]) -> None:
    net = named[1].eval()
    lightness = example(net, 1, 96, 128)
    before = lightness.clone()
    with torch.no_grad():
        features = net(lightness)
    assert torch.equal(lightness, before)
    assert list(features) == [stage.name for stage in net.stages]
    for stage in net.stages:
        batch, channels, height, width = features[stage.name].shape
        assert (batch, channels) == (1, stage.channels), stage
        assert abs(height - 96 / stage.stride) < 1, stage
        assert abs(width - 128 / stage.stride) < 1, stage


def test_gradients_reach_every_parameter_from_the_last_stage(named: tuple[str, Backbone]) -> None:
    net = named[1].train()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():  # a residual branch that starts at zero passes no gradient on yet
                parameter.fill_(0.1)
    last = net(example(net, 2, 64, 64))[net.stages[-1].name]
    (last * torch.randn_like(last)).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # A bias just before batch norm has none by construction.
        assert parameter.ndim < 2 or parameter.grad.any(), name
    net.zero_grad()


def test_a_state_dict_makes_the_same_net(named: tuple[str, Backbone]) -> None:
    name, net = named
    torch.manual_seed(2)
    copy = build_backbone(name, inputs=net.inputs)
    assert copy.stages == net.stages
    copy.load_state_dict(net.state_dict(), strict=True)
    lightness = example(net, 1, 64, 64)
    with torch.no_grad():
        ours, theirs = net.eval()(lightness), copy.eval()(lightness)
    assert all(torch.equal(ours[stage.name], theirs[stage.name]) for stage in net.stages)


def test_other_channels_are_refused(named: tuple[str, Backbone]) -> None:
    with torch.no_grad(), pytest.raises((RuntimeError, ValueError), match=r"channels|size|shape|values to unpack"):
        named[1].eval()(torch.rand(1, 3 if named[1].inputs != "rgb" else 4, 64, 64))


def test_what_it_reads_is_made_from_color(named: tuple[str, Backbone]) -> None:
    rgb = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    makes = {"lightness": rgb_to_lightness, "ab": rgb_to_ab, "rgb": lambda rgb: rgb / 255}
    net = named[1].eval()
    with torch.no_grad():
        expected = net(makes[net.inputs](rgb))
        for given in (rgb, rgb / 255):
            for name, features in FromRgb(net)(given).items():
                torch.testing.assert_close(features, expected[name], rtol=1e-3, atol=1e-4)


def test_timm_names_and_ours() -> None:
    with torch.device("meta"):
        for name in ("test_resnet", "timm/test_resnet", "test_resnet.r160_in1k"):
            assert isinstance(build_backbone(name), TimmBackbone)
        assert not any(isinstance(build_backbone(name), TimmBackbone) for name in BACKBONES)


def test_widths_of_tiny() -> None:
    wide = build_backbone("tiny", widths=[4, 8, 8, 16, 64])
    assert [stage.channels for stage in wide.stages] == [4, 8, 8, 16, 64]
    features = wide.eval()(torch.full((1, 1, 32, 32), 50.0))
    assert [one.shape[1] for one in features.values()] == [4, 8, 8, 16, 64]
    for wrong in ([1, 2, 3], [1, 2, 3, 4, 0], "abcde", 5):
        with pytest.raises(UserError, match="give five whole numbers"):
            build_backbone("tiny", widths=wrong)
