import pytest
import torch

from pretext.backbones.siggraph import Siggraph17

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
