"""What holds for every backbone, whoever wrote it."""

from collections.abc import Iterator

import pytest
import torch

from pretext.backbones import BACKBONES, Backbone, TimmBackbone, build_backbone
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


@pytest.fixture(scope="module", params=[*BACKBONES, *TIMM])
def named(request: pytest.FixtureRequest) -> Iterator[tuple[str, Backbone]]:
    torch.manual_seed(0)
    yield request.param, build_backbone(request.param)


def test_forward_returns_the_declared_stages(named: tuple[str, Backbone]) -> None:
    net = named[1].eval()
    lightness = torch.rand(1, 1, 96, 128) * 100
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
    last = net(torch.rand(2, 1, 64, 64) * 100)[net.stages[-1].name]
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
    copy = build_backbone(name)
    assert copy.stages == net.stages
    copy.load_state_dict(net.state_dict(), strict=True)
    lightness = torch.rand(1, 1, 64, 64) * 100
    with torch.no_grad():
        ours, theirs = net.eval()(lightness), copy.eval()(lightness)
    assert all(torch.equal(ours[stage.name], theirs[stage.name]) for stage in net.stages)


def test_color_is_refused(named: tuple[str, Backbone]) -> None:
    with torch.no_grad(), pytest.raises(RuntimeError, match="channels"):
        named[1].eval()(torch.rand(1, 3, 64, 64))


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
