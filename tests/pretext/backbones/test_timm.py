from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from tiers import one_fast
from torch import nn
from torchvision.models.resnet import Bottleneck

from pretext.backbones import build_backbone
from pretext.backbones.from_timm import TimmBackbone
from pretext.color import lightness_to_gray, rgb_to_lightness
from pretext.errors import UserError


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_models_of_a_fixed_size_take_small_crops(name: str) -> None:
    net = TimmBackbone(name).eval()
    for pixels in (64, 96):
        for stage, maps in zip(net.stages, net(torch.zeros(2, 1, pixels, pixels)).values(), strict=True):
            assert maps.shape == (2, stage.channels, pixels // stage.stride, pixels // stage.stride)


def test_channels_last_models_come_out_channels_first() -> None:
    net = TimmBackbone("swin_tiny_patch4_window7_224").eval()
    assert net.channels_last
    assert [maps.shape[1] for maps in net(torch.zeros(1, 1, 64, 96)).values()] == [96, 192, 384, 768]


def test_arguments_reach_timm() -> None:
    dilated = TimmBackbone("resnet18", output_stride=8)
    assert [stage.stride for stage in dilated.stages] == [2, 4, 8, 8, 8]
    chosen = TimmBackbone("test_vit", out_indices=(0, 2, 5))
    assert [stage.name for stage in chosen.stages] == ["blocks_0", "blocks_2", "blocks_5"]
    fixed = TimmBackbone("volo_d1_224", img_size=96).eval()
    last = fixed.stages[-1]
    assert fixed(torch.zeros(1, 1, 96, 96))[last.name].shape == (1, last.channels, 96 // last.stride, 96 // last.stride)


def test_stage_names_can_name_submodules() -> None:
    for name in ("convnext_atto", "crossvit_tiny_240", "coat_tiny"):
        names = [stage.name for stage in TimmBackbone(name).stages]
        assert len(set(names)) == len(names)
        assert not any("." in stage for stage in names)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_rgb_weights_see_a_gray_image_as_before(name: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rgb = timm.create_model(name, num_classes=7).eval()
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": rgb.state_dict()}, file)
    else:
        safetensors.torch.save_file(rgb.state_dict(), file)
    ours = TimmBackbone(name, weights=file).eval()

    lightness = torch.rand(2, 1, 160, 160) * 100
    mean, std = ours.lightness_mean / 100, ours.lightness_std / 100
    with torch.no_grad():
        expected = rgb.forward_intermediates(
            ((lightness / 100 - mean) / std).expand(-1, 3, -1, -1), intermediates_only=True
        )[-1]
        last = ours(lightness)[ours.stages[-1].name]
    assert torch.allclose(last, expected, atol=1e-4)


def test_normalization_is_that_of_the_weights_and_is_kept() -> None:
    with_tag = TimmBackbone("test_vit.r160_in1k")
    assert with_tag.lightness_mean.item() == pytest.approx(100 * sum(timm.get_pretrained_cfg("test_vit").mean) / 3)
    assert {"lightness_mean", "lightness_std"} < set(with_tag.state_dict())


def test_a_wrong_file_is_said_in_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "none.pth"
    text = tmp_path / "text.pth"
    text.write_text("not weights")
    other = tmp_path / "other.pth"
    torch.save(timm.create_model("test_vit").state_dict(), other)
    reshaped = tmp_path / "reshaped.pth"
    state = timm.create_model("test_resnet").state_dict()
    torch.save({key: tensor[:1] for key, tensor in state.items() if tensor.ndim}, reshaped)
    for file, words in (
        (missing, "no such file"),
        (text, "need a .safetensors file"),
        (other, "test_resnet has no weight cls_token"),
        (reshaped, "is it another model's file?"),
    ):
        with pytest.raises(UserError) as error:
            TimmBackbone("test_resnet", weights=file)
        assert words in one_line(error)
        assert str(file) in one_line(error)


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("ran",)


def test_a_file_cannot_run_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "evil.pth"
    torch.save({"conv1.weight": Code()}, file)
    with pytest.raises(UserError):
        TimmBackbone("test_resnet", weights=file)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("resnet19", {}, "did you mean resnet18"),
        ("timm/alexnet", {}, "no backbone is named 'alexnet'"),
        ("alexnett", {}, "did you mean alexnet"),
        ("qqqqqqqq", {}, "timm.list_models()"),
        ("resnet18.nope", {}, "resnet18.a1_in1k"),
        ("test_resnet", {"depth": 3}, "depth"),
        ("test_vit", {"depht": 3}, "depht"),
        ("test_vit", {"out_indices": (9,)}, "out of range"),
        ("alexnet", {"depth": 3}, "geometry, batch_norm"),
    ],
)
def test_a_wrong_name_or_argument_is_said_in_one_line(name: str, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as error:
        build_backbone(name, **arguments)
    assert words in one_line(error)


def test_a_model_without_stages_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:  # as timm 1.0.20 for CrossViT
        raise RuntimeError("features_only not implemented for Vision Transformer models.\nmore")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(UserError) as error:
        TimmBackbone("crossvit_tiny_240")
    assert "cannot be a backbone: features_only not implemented" in one_line(error)


@pytest.mark.parametrize(("name", "pixels"), [("test_vit", 100), ("volo_d1_224", 96), ("cait_xxs24_224", 64)])
def test_a_size_that_the_model_cannot_take_is_said_in_one_line(name: str, pixels: int) -> None:
    net = TimmBackbone(name)
    with pytest.raises(UserError) as error:
        net(torch.zeros(1, 1, pixels, pixels))
    assert f"cannot take {pixels} x {pixels} pixels" in one_line(error)


def test_the_last_stage_can_keep_its_resolution(tmp_path: Path) -> None:
    """As VISSL builds its ResNet for colorization: torchvision's, with layer4 made at stride 1."""
    torch.manual_seed(0)
    reference = torchvision.models.resnet50(weights=None)
    reference.inplanes = 1024
    reference.layer4 = reference._make_layer(Bottleneck, 512, 3, stride=1)
    reference.eval()
    for module in reference.modules():  # else all layers behave alike
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, 0, 0.1)
    file = tmp_path / "weights.pth"
    torch.save(reference.state_dict(), file)
    ours = build_backbone("resnet50", weights=file, last_stride=1).eval()
    plain = build_backbone("resnet50", weights=file).eval()
    plain.load_state_dict(ours.state_dict(), strict=True)
    assert [stage.stride for stage in plain.stages] == [2, 4, 8, 16, 32]
    assert [stage.stride for stage in ours.stages] == [2, 4, 8, 16, 16]

    lightness = torch.rand(2, 1, 64, 64) * 100
    with torch.no_grad():
        normed = ((lightness - ours.lightness_mean) / ours.lightness_std).expand(-1, 3, -1, -1)
        expected = {}
        x = expected["act1"] = reference.relu(reference.bn1(reference.conv1(normed)))
        x = reference.maxpool(x)
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = expected[name] = getattr(reference, name)(x)
        features = ours(lightness)
        assert features["layer4"].shape == (2, 2048, 4, 4)
        assert plain(lightness)["layer4"].shape == (2, 2048, 2, 2)
    for name, maps in features.items():
        assert (maps - expected[name]).abs().max() <= 1e-5 * expected[name].abs().max(), name


@pytest.mark.parametrize("name", ["resnet18", "resnet26d", "resnetaa50", "regnety_002", "resnetv2_50"])
def test_only_the_last_stride_changes(name: str) -> None:
    with torch.device("meta"):
        plain, kept = TimmBackbone(name), TimmBackbone(name, last_stride=1)
        sizes = [maps.shape[-1] for maps in kept(torch.zeros(1, 1, 96, 96)).values()]
    assert kept.state_dict().keys() == plain.state_dict().keys()
    assert kept.stages[:-1] == plain.stages[:-1]
    assert kept.stages[-1].stride == plain.stages[-2].stride
    assert sizes == [96 // stage.stride for stage in kept.stages]
    assert all(module.dilation == (1, 1) for module in kept.modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_vit", {}),
        ("convnext_atto", {}),
        ("efficientnet_b0", {}),
        ("swin_tiny_patch4_window7_224", {}),
        ("vgg11", {}),
        ("resnetblur18", {}),
        ("resnet18", {"output_stride": 16}),
        ("timm/resnet18", {"last_stride": 3}),
    ],
)
def test_a_stride_that_cannot_be_removed_is_said_in_one_line(name: str, arguments: dict[str, int]) -> None:
    with torch.device("meta"), pytest.raises(UserError) as error:
        build_backbone(name, **{"last_stride": 1, **arguments})
    words = "last_stride is 3: it must be 1" if "last_stride" in arguments else "leave out last_stride"
    assert words in one_line(error)


@pytest.fixture(
    scope="module",
    params=[pytest.param("vgg11", marks=pytest.mark.slow), "test_resnet", "test_vit"],
)
def rgb_net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, str]:
    """A model of RGB with weights of a size that matters, and its file."""
    torch.manual_seed(0)
    net = timm.create_model(request.param, num_classes=7).eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias, 0, 0.1)
    file = tmp_path_factory.mktemp("rgb") / "weights.safetensors"
    safetensors.torch.save_file(net.state_dict(), file)
    return net, file, request.param


@torch.no_grad()
def test_a_gray_image_is_seen_exactly_as_by_the_rgb_net(rgb_net: tuple[nn.Module, Path, str]) -> None:
    """From sRGB pixels to features, borders too: L -> its gray -> normalized as R, G and B each are."""
    net, file, name = rgb_net
    values = torch.randint(0, 256, (2, 1, 160, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    image = values.expand(-1, 3, -1, -1)
    published = timm.get_pretrained_cfg(name)
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (published.mean, published.std))
    seen = net.forward_intermediates((image / 255 - mean) / std, intermediates_only=True)
    expected = {maps.shape: maps for maps in seen}
    ours = TimmBackbone(name, weights=file, gray=True).eval()
    found = ours(rgb_to_lightness(image))
    for stage, maps in found.items():
        wanted = expected[maps.shape]
        if list(found).index(stage) == len(found) - 1:
            wanted = seen[-1]
        elif name == "test_vit":
            continue  # all its blocks have one shape
        assert (maps - wanted).abs().max() <= 2e-5 * wanted.abs().max(), stage
    folded = TimmBackbone(name, weights=file).eval()
    last = folded.stages[-1].name
    off = (folded(rgb_to_lightness(image))[last] - seen[-1]).abs().max() / seen[-1].abs().max()
    assert off > 1e-3, "one channel only comes near: else gray would buy nothing"


def test_l_and_its_gray_are_inverse() -> None:
    values = torch.arange(256, dtype=torch.float64).view(1, 1, 16, 16) / 255
    lightness = rgb_to_lightness(values.expand(-1, 3, -1, -1))
    torch.testing.assert_close(lightness_to_gray(lightness), values, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "stride"), one_fast(("vgg11", 8), [("vgg11", 8), ("vgg11_bn", 16), ("vgg11", 4), ("vgg11", 1)])
)
def test_a_dense_vgg_is_the_vgg_in_between(name: str, stride: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = TimmBackbone(name).eval()
    dense = TimmBackbone(name, output_stride=stride).eval()
    dense.load_state_dict(plain.state_dict(), strict=True)
    lightness = torch.rand(1, 1, 64, 96) * 100
    wanted, found = plain(lightness), dense(lightness)
    for own, finer in zip(plain.stages, dense.stages, strict=True):
        assert finer == own._replace(stride=min(own.stride, stride))
        step = own.stride // finer.stride
        assert found[own.name].shape[-2:] == (64 // finer.stride, 96 // finer.stride)
        close = found[own.name][..., ::step, ::step]
        assert (close - wanted[own.name]).abs().max() <= 1e-5 * wanted[own.name].abs().max(), own.name


def test_weights_that_cannot_be_fetched_are_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/nowhere")
    with pytest.raises(UserError) as error:
        TimmBackbone("vgg16", weights="published")
    assert "backbone.weights published, vgg16" in one_line(error) and "local file" in one_line(error)
