import pytest
import torch

from pretext.backbones.alexnet import AlexNet
from pretext.errors import UserError

WEIGHTS_AND_BIASES = (
    (96 * 1 * 11 * 11 + 96)
    + (256 * 48 * 5 * 5 + 256)  # two groups: half of 96
    + (384 * 256 * 3 * 3 + 384)
    + (384 * 192 * 3 * 3 + 384)
    + (256 * 192 * 3 * 3 + 256)
    + (4096 * 256 * 6 * 6 + 4096)
    + (4096 * 4096 + 4096)
)


def sizes(net: AlexNet, pixels: int) -> dict[str, int]:
    with torch.no_grad():
        features = net.eval()(torch.rand(1, 1, pixels, pixels) * 100)
    assert all(maps.shape[-1] == maps.shape[-2] for maps in features.values())
    return {stage: maps.shape[-1] for stage, maps in features.items()}


def test_parameters_are_those_of_the_layer_table() -> None:
    with torch.device("meta"):
        net = AlexNet()
    assert sum(parameter.numel() for parameter in net.parameters()) == WEIGHTS_AND_BIASES == 56_844_992


def test_published_sizes_and_one_state_dict_for_both_geometries() -> None:
    pretrain, test = AlexNet("pretrain"), AlexNet("test")
    assert sizes(pretrain, 180) == {
        "conv1": 45,
        "conv2": 23,
        **dict.fromkeys(("conv3", "conv4", "conv5", "pool5", "fc6", "fc7"), 12),
    }
    assert sizes(test, 227) == {
        "conv1": 55,
        "conv2": 27,
        **dict.fromkeys(("conv3", "conv4", "conv5"), 13),
        "pool5": 6,
        "fc6": 1,
        "fc7": 1,
    }
    assert [stage.stride for stage in pretrain.stages] == [4, 8, 16, 16, 16, 16, 16, 16]
    assert [stage.stride for stage in test.stages] == [4, 8, 16, 16, 16, 32, 32, 32]
    test.load_state_dict(pretrain.state_dict(), strict=True)
    image = torch.rand(1, 1, 230, 230) * 100
    with torch.no_grad():
        wide, narrow = pretrain(image)["conv1"], test(image[..., 3:, 3:].contiguous())["conv1"]
    # Padding 5 starts the windows at -5, -1, 3: from the third on they lie inside, as without padding.
    assert torch.allclose(wide[..., 2:57, 2:57], narrow, atol=1e-3)


def test_without_batch_norm_the_names_of_the_weights_stay() -> None:
    with torch.device("meta"):
        absorbed, normed = AlexNet(batch_norm=False), AlexNet()
    assert dict(absorbed.named_parameters()).keys() == dict(normed.named_parameters()).keys()
    assert not any("running" in name for name in absorbed.state_dict())
    assert sum("running_mean" in name for name in normed.state_dict()) == 7


def test_lightness_is_centered_at_50() -> None:
    net = AlexNet().eval()
    with torch.no_grad():
        gray = net(torch.full((1, 1, 64, 64), 50.0))["conv1"]
    # Only an input of zeros looks the same inside and at the zero-padded border.
    assert torch.equal(gray, gray[..., :1, :1].expand_as(gray))


def test_mistakes_are_said_in_one_line() -> None:
    with torch.device("meta"):
        net = AlexNet("test")
        with pytest.raises(UserError, match=r"227 x 227 pixels or more, not 226 x 300"):
            net(torch.empty(1, 1, 226, 300))
        with pytest.raises(UserError, match="'tset': use one of pretrain, test"):
            AlexNet("tset")  # type: ignore[arg-type]


def test_the_net_of_vissl_ends_at_pool5_and_scales_in_batch_norm() -> None:
    net = AlexNet("test", affine=True, fully_connected=False)
    assert sizes(net, 227) == {"conv1": 55, "conv2": 27, **dict.fromkeys(("conv3", "conv4", "conv5"), 13), "pool5": 6}
    assert [stage.name for stage in net.stages][-1] == "pool5"
    assert sum(name.endswith("1.weight") for name, _ in net.named_parameters()) == 5
    assert sizes(net, 67)["pool5"] == 1
    with pytest.raises(UserError, match="67 x 67 pixels or more, not 66 x 66"):
        sizes(net, 66)
