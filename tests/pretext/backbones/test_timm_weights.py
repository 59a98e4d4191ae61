"""Files of weights for timm's models: which are this model's, and which of several networks in a file is meant."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from pretext.backbones.from_timm import TimmBackbone, TimmColor
from pretext.errors import UserError
from pretext.recipe import PretrainSettings, build_network
from pretext.settings import settings_from
from transfer.networks import open_network

Weights = dict[str, Tensor]


def shapes_of(name: str, **arguments: object) -> Weights:
    """A state dict of the right names and shapes that takes no space: zeros, each stored once."""
    with torch.device("meta"):
        state = timm.create_model(name, **arguments).state_dict()
    return {key: torch.zeros(()).expand(value.shape) for key, value in state.items()}


def refusal(name: str, file: str | Path, **arguments: object) -> str:
    with torch.device("meta"), pytest.raises(UserError) as error:
        TimmBackbone(name, weights=file, **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def prefixed(weights: Weights, prefix: str) -> Weights:
    return {f"{prefix}{key}": value for key, value in weights.items()}


def without(weights: Weights, *words: str) -> Weights:
    return {key: value for key, value in weights.items() if not any(word in key for word in words)}


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet").eval()


@pytest.fixture(scope="module")
def weights(resnet: nn.Module) -> Weights:
    return dict(resnet.state_dict())


def assert_loaded(file: str | Path, resnet: nn.Module) -> None:
    """The file's weights are those of the network in color, feature by feature."""
    net = TimmColor("test_resnet", weights=file).eval()
    rgb = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = resnet.forward_intermediates((rgb - net.rgb_mean) / net.rgb_std, intermediates_only=True)[-1]
        torch.testing.assert_close(net(rgb)[net.stages[-1].name], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "other", "key"),
    [
        ("resnet18", "resnet34", "layer1.2.conv1.weight"),
        ("resnet50", "resnet101", "layer3.6.conv1.weight"),
        ("resnet50", "seresnet50", "layer1.0.se.fc1.weight"),
        ("convnext_tiny", "convnext_small", "stages.2.blocks.9.gamma"),
        ("resnet18", "resnet18d", "conv1.0.weight"),
        ("resnet34", "resnet18", "layer1.2.conv1.weight"),
        ("resnet18d", "resnet18", "conv1.weight"),
        ("vit_tiny_patch16_224", "vit_small_patch16_224", "cls_token"),
        ("vit_small_patch32_224", "vit_small_patch16_224", "pos_embed"),
        ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "dist_token"),
        ("wide_resnet50_2", "resnet50", "layer1.0.conv1.weight"),
        ("swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224", "layers.2.blocks.6.norm1.weight"),
    ],
)
def test_another_models_file_is_refused(model: str, other: str, key: str, tmp_path: Path) -> None:
    torch.save(shapes_of(other), tmp_path / "other.pth")
    message = refusal(model, tmp_path / "other.pth")
    assert f"timm's {model}" in message and key in message and str(tmp_path / "other.pth") in message


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights,
        lambda weights: without(weights, "fc."),
        lambda weights: weights | {"fc.weight": torch.zeros(7, 3), "fc.bias": torch.zeros(7)},
        lambda weights: without(weights, "num_batches_tracked"),
        lambda weights: without(weights, "fc.") | {"fc.0.weight": torch.zeros(2, 2), "fc.2.weight": torch.zeros(2)},
        lambda weights: {"state_dict": weights, "epoch": 3, "arch": "x"},
        lambda weights: {key: value.half() if value.is_floating_point() else value for key, value in weights.items()},
    ],
    ids=["whole", "no head", "other classes", "no counters", "another head", "wrapped", "half"],
)
def test_the_models_own_file_is_taken(change: Callable[[Weights], object], weights: Weights, tmp_path: Path) -> None:
    torch.save(change(weights), tmp_path / "own.pth")
    net = TimmColor("test_resnet", weights=tmp_path / "own.pth").net.state_dict()
    for key, value in net.items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, weights[key], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("vgg11", "densenet121", "inception_v3")),
        "mobilenet_v2",
    ],
)
def test_torchvisions_files_of_the_same_networks(name: str, tmp_path: Path) -> None:
    quiet = {"init_weights": False} if name == "inception_v3" else {}
    with torch.device("meta"):
        state = getattr(torchvision.models, name)(weights=None, **quiet).state_dict()
    torch.save({key: torch.zeros(()).expand(value.shape) for key, value in state.items()}, tmp_path / "x.pth")
    if name == "mobilenet_v2":  # of other names, and timm knows none of them
        assert "has no weight features.0.0.weight" in refusal("mobilenetv2_100", tmp_path / "x.pth")
    else:
        TimmBackbone(name, weights=tmp_path / "x.pth")


@pytest.mark.parametrize(
    "prefix",
    ["backbone.", "model.", "module.", "module.encoder_q.", "teacher.backbone.", "_orig_mod.", "_orig_mod.module.net."],
)
def test_a_common_prefix_is_taken_off_and_said(
    prefix: str, resnet: nn.Module, weights: Weights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(prefixed(weights, prefix), tmp_path / "x.pth")
    assert_loaded(tmp_path / "x.pth", resnet)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "x.pth") in line and f"'{prefix}' was removed" in line
    torch.save(weights, tmp_path / "plain.pth")
    assert_loaded(tmp_path / "plain.pth", resnet)
    assert not capsys.readouterr().err


def moco(weights: Weights) -> dict[str, object]:
    """As MoCo v2 saves: a query and a key encoder with an MLP for a head, and the queue."""
    trunk = without(weights, "fc.") | {"fc.0.weight": torch.ones(4, 4), "fc.2.weight": torch.ones(2, 4)}
    other = {key: value + 1 for key, value in trunk.items()}
    both = prefixed(trunk, "module.encoder_q.") | prefixed(other, "module.encoder_k.")
    return {
        "epoch": 200, "arch": "x", "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": []},
        "state_dict": both | {"module.queue": torch.ones(2, 8), "module.queue_ptr": torch.zeros(1)},
    }  # fmt: skip


def dino(weights: Weights) -> dict[str, object]:
    """As DINO saves: student and teacher, each a backbone and a head."""
    head = {"mlp.0.weight": torch.ones(4, 4), "last_layer.weight_v": torch.ones(4, 4)}
    trunk = without(weights, "fc.")
    other = {key: value + 1 for key, value in trunk.items()}
    return {
        "student": prefixed(other, "module.backbone.") | prefixed(head, "module.head."),
        "teacher": prefixed(trunk, "backbone.") | prefixed(head, "head."),
        "epoch": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("make", "parts", "titles"),
    [
        (moco, ["encoder_q", "module.encoder_q", "state_dict.module.encoder_q"], ["module.encoder_q", "encoder_k"]),
        (dino, ["teacher", "teacher.backbone"], ["student.module.backbone", "teacher.backbone"]),
        (lambda weights: {"model": weights, "model_ema": weights.copy()}, ["model"], ["model", "model_ema"]),
    ],
)
def test_one_of_several_networks_is_named(
    make: Callable[[Weights], object], parts: list[str], titles: list[str], resnet: nn.Module, weights: Weights,
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    file = tmp_path / "x.pth"
    torch.save(make(weights), file)
    message = refusal("test_resnet", file)
    assert "holds 2 networks" in message and all(title in message for title in titles) and "FILE#" in message
    for part in parts:
        assert_loaded(f"{file}#{part}", resnet)
        assert "was removed" in capsys.readouterr().err
    message = refusal("test_resnet", f"{file}#nobody")
    assert "holds no network named nobody" in message and titles[0] in message
    network = open_network(f"timm:test_resnet:{file}#{parts[0]}")
    assert network.name == f"timm:test_resnet:x#{parts[0]}"
    settings = settings_from(
        PretrainSettings, {"backbone": {"name": "test_resnet", "weights": f"{file}#{parts[0]}"}}, "test"
    )
    built = build_network(settings, torch.full((313,), 1 / 313), published=True).backbone.state_dict()
    first = next(value for value in built.values() if value.ndim == 4)
    torch.testing.assert_close(first, weights["conv1.0.weight"].sum(1, keepdim=True))


def test_what_lies_within_a_prefix_must_match(weights: Weights, tmp_path: Path) -> None:
    torch.save({"model": weights | {"neck.weight": torch.zeros(1)}, "other": torch.zeros(1)}, tmp_path / "x.pth")
    assert "has no weight neck.weight" in refusal("test_resnet", tmp_path / "x.pth")
    torch.save(prefixed(without(weights, "layer1.0.conv1"), "module."), tmp_path / "x.pth")
    assert "layer1.0.conv1.weight" in refusal("test_resnet", tmp_path / "x.pth")


def test_a_file_whose_name_holds_the_mark(resnet: nn.Module, weights: Weights, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "a#b.pth")
    assert_loaded(tmp_path / "a#b.pth", resnet)
    torch.save({"one": weights, "two": {key: value + 1 for key, value in weights.items()}}, tmp_path / "a#b.pth")
    assert_loaded(f"{tmp_path / 'a#b.pth'}#one", resnet)
    assert f"{tmp_path / 'none#b.pth'}: no such file" in refusal("test_resnet", tmp_path / "none#b.pth")


@pytest.mark.parametrize("wrap", [lambda weights: weights, lambda weights: {"teacher": prefixed(weights, "backbone.")}])
def test_metas_own_layout_of_dinov2_with_registers(wrap: Callable[[Weights], object], tmp_path: Path) -> None:
    """The position of the class token, a mask token and other names: timm's function for the model reads them."""
    torch.manual_seed(0)
    name = "vit_small_patch14_reg4_dinov2"
    full = timm.create_model(name, img_size=98, num_classes=0).eval()
    nn.init.normal_(full.reg_token)
    state = dict(full.state_dict())
    place = torch.randn(1, 1, 384)
    state["register_tokens"] = state.pop("reg_token")
    state["cls_token"] = state["cls_token"] - place
    state["pos_embed"] = torch.cat((place, state["pos_embed"]), 1)
    state["mask_token"] = torch.zeros(1, 384)
    torch.save(wrap(state), tmp_path / "x.pth")
    net = TimmColor(name, weights=tmp_path / "x.pth", img_size=98).eval()
    rgb = torch.rand(1, 3, 98, 98)
    with torch.no_grad():
        maps = full.forward_intermediates((rgb - net.rgb_mean) / net.rgb_std, indices=3, intermediates_only=True)
        for features, expected in zip(net(rgb).values(), maps, strict=True):
            assert (features - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert "has no weight" in refusal("vit_small_patch14_dinov2", tmp_path / "x.pth", img_size=98)


def test_positions_for_another_image_size_are_resized_as_timm_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "x.pth")
    net = TimmBackbone("test_vit", weights=tmp_path / "x.pth", img_size=96).eval()
    assert "another layout or image size" in capsys.readouterr().err
    expected = timm.create_model(
        "test_vit", img_size=96, pretrained=True, num_classes=0,
        pretrained_cfg_overlay={"state_dict": torch.load(tmp_path / "x.pth")},
    )  # fmt: skip
    torch.testing.assert_close(net.net.state_dict()["model.pos_embed"], expected.state_dict()["pos_embed"])
