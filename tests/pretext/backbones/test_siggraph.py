import pytest
import torch

from pretext.backbones.siggraph import Siggraph17
from pretext.errors import UserError

CLASSES = 256 * 529 + 529
HEAD = 128 * 2 + 2


@pytest.fixture(scope="module")
def net() -> Siggraph17:
    torch.manual_seed(0)
    return Siggraph17().eval()


def test_parameters_are_the_published_number(net: Siggraph17) -> None:
    assert sum(parameter.numel() for parameter in net.parameters()) + HEAD + CLASSES == 34_187_027


def test_names_are_those_of_the_release(net: Siggraph17) -> None:
    modules = {name.rpartition(".")[0] for name in net.state_dict()}
    expected = {f"model{block}.{place}" for block in (1, 2) for place in (0, 2, 4)}
    expected |= {f"model{block}.{place}" for block in range(3, 8) for place in (0, 2, 4, 6)}
    expected |= {"model8up.0", "model9up.0", "model10up.0", "model3short8.0", "model2short9.0", "model1short10.0"}
    expected |= {"model8.1", "model8.3", "model8.5", "model9.1", "model9.3", "model10.1"}
    assert modules == expected


@torch.no_grad()
def test_no_hints_are_hints_of_zero_and_hints_act(net: Siggraph17) -> None:
    lightness = torch.rand(1, 1, 32, 32) * 100
    hints, mask = torch.zeros(1, 2, 32, 32), torch.zeros(1, 1, 32, 32)
    plain, zero = net(lightness)["conv10"], net.forward(lightness, hints, mask)["conv10"]
    assert torch.equal(plain, zero)
    hints[..., 8, 8], mask[..., 8, 8] = 55.0, 1.0
    assert not torch.allclose(net.forward(lightness, hints, mask)["conv10"], plain)


@pytest.mark.parametrize("size", [(33, 47), (8, 9), (1, 1)])
@torch.no_grad()
def test_sides_of_any_length(net: Siggraph17, size: tuple[int, int]) -> None:
    features = net(torch.rand(1, 1, *size) * 100)
    assert features["conv10"].shape[2:] == size
    for stage in net.stages:
        assert features[stage.name].shape[2:] == tuple(-(-side // stage.stride) for side in size)


@torch.no_grad()
def test_a_centered_mask_is_the_mask_less_its_center(net: Siggraph17) -> None:
    centered = Siggraph17(mask_center=0.5).eval()
    centered.load_state_dict(net.state_dict())
    lightness, hints = torch.rand(2, 1, 24, 24) * 100, torch.randn(2, 2, 24, 24) * 30
    mask = (torch.rand(2, 1, 24, 24) > 0.8).float()
    assert torch.equal(
        centered.forward(lightness, hints, mask)["conv10"], net.forward(lightness, hints, mask - 0.5)["conv10"]
    )
    none = torch.full_like(mask, -0.5)
    assert torch.equal(centered(lightness)["conv10"], net.forward(lightness, 0 * hints, none)["conv10"])


def test_a_narrower_net_has_the_same_layers() -> None:
    with torch.device("meta"):
        narrow, full = Siggraph17(width=0.25), Siggraph17()
    assert narrow.state_dict().keys() == full.state_dict().keys()
    for mine, own in zip(narrow.stages, full.stages, strict=True):
        assert (mine.name, 4 * mine.channels, mine.stride) == own
    for name, value in narrow.state_dict().items():
        expected = [side // 4 if side > 4 else side for side in full.state_dict()[name].shape]
        assert list(value.shape) == expected, name


@pytest.mark.parametrize("arguments", [{"mask_center": 2}, {"mask_center": "half"}, {"width": 0}])
def test_what_cannot_be_built(arguments: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"backbone siggraph17: {next(iter(arguments))}"):
        Siggraph17(**arguments)
