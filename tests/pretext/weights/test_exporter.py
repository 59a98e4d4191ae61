"""What is exported computes the same features, in other programs too."""

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from safetensors import safe_open
from skimage.color import rgb2lab
from torch import Tensor

import pretint.cli
from pretext.backbones.contract import BackboneSettings, FromRgb
from pretext.color import rgb_to_lightness
from pretext.data import Folder
from pretext.data.batches import center_crop
from pretext.engine.checkpoint import load_checkpoint, save_checkpoint
from pretext.errors import UserError
from pretext.methods.objectives import ObjectiveSettings
from pretext.pretrained import color_contract, load_pretrained
from pretext.recipe import PretrainSettings, build_colorizer
from pretext.settings import to_plain
from pretext.weights.exporter import ExportSettings, export
from pretext.weights.plain_modules import TOLERANCE, affine_lightness, largest_difference

PRIOR = torch.arange(1, 314, dtype=torch.float64) / (313 * 157)
Checkpoint = Callable[..., Path]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Writes a checkpoint of that backbone, at weights as they are after some steps."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def write(name: str, stride: int = 8, **arguments: Any) -> Path:
        path = folder / f"{name}{sorted(arguments.items())}{stride}.pt"
        if not path.exists():
            torch.manual_seed(0)
            objective = ObjectiveSettings(stride=stride)
            settings = PretrainSettings(backbone=BackboneSettings(name, arguments), objective=objective)
            colorizer = build_colorizer(settings, PRIOR).train()
            with torch.no_grad():
                for _ in range(3):  # gives batch norm statistics that are not 0 and 1
                    colorizer(torch.rand(4, 1, 64, 64) * 100)
            state = {
                "step": 7,
                "settings": to_plain(settings),
                "color": color_contract(settings, PRIOR),
                "model": colorizer.state_dict(),
            }
            save_checkpoint(path, state)
        return path

    return write


@pytest.fixture(scope="module")
def rgb() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))


def features(model: Path, lightness: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return load_pretrained(model).colorizer.backbone(lightness)


def close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def loaded(file: Path) -> Any:
    """The module that the code in a file's metadata makes."""
    with safe_open(file, framework="pt") as opened:
        code = json.loads(opened.metadata()["pretint"])["code"]
    names: dict[str, Any] = {"timm": timm, "torchvision": torchvision, "torch": torch, "safetensors": safetensors}
    exec("\n".join(code).replace(f'"{file.name}"', repr(str(file))), names)  # our own code, as a user pastes it
    return names["model"].eval()


@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_as_safetensors(checkpoint: Checkpoint, rgb: Tensor, whole: bool, tmp_path: Path) -> None:
    model, file = checkpoint("tiny"), tmp_path / "x.safetensors"
    export(model, file, ExportSettings(part="colorizer" if whole else "backbone"))
    before, after = load_pretrained(model), load_pretrained(file)
    assert after.settings == before.settings and after.step == 7 and torch.equal(after.prior, PRIOR)
    assert after.has_head is whole
    lightness = rgb_to_lightness(rgb)
    close(features(file, lightness)["conv5"], features(model, lightness)["conv5"])
    if whole:
        assert torch.equal(after.colorizer(lightness), before.colorizer(lightness))
        states = load_checkpoint(model), load_checkpoint(file)
        assert states[0]["model"].keys() == states[1]["model"].keys()
        assert {**states[0]["color"], "prior": 0} == {**states[1]["color"], "prior": 0}
    else:
        with pytest.raises(UserError, match="no color head"):
            after.colorizer.colorize(lightness)
        with pytest.raises(UserError, match="no color head; export their backbone"):
            export(file, tmp_path / "y.safetensors", ExportSettings(part="colorizer"))
        export(file, tmp_path / "y.safetensors", ExportSettings())


def test_where_there_is_a_moving_average_that_is_exported(checkpoint: Checkpoint, tmp_path: Path) -> None:
    state = load_checkpoint(checkpoint("tiny"))
    state["average"] = {name: value.clone() for name, value in state["model"].items()}
    state["average"]["head.bias"] += 1
    model, file = tmp_path / "averaged.pt", tmp_path / "x.safetensors"
    save_checkpoint(model, state)
    export(model, file, ExportSettings())
    before, after = load_pretrained(model).colorizer, load_pretrained(file).colorizer
    assert torch.equal(after.head.bias, before.head.bias) and not torch.equal(
        after.head.bias, state["model"]["head.bias"]
    )


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", {}),
        ("resnet18", {"last_stride": 1}),
        ("test_convnext", {}),
        ("test_efficientnet", {"drop_path_rate": 0.1}),
        ("test_vit", {"out_indices": (1, 4)}),
    ],
)
@torch.no_grad()
def test_a_plain_timm_module(checkpoint: Checkpoint, rgb: Tensor, name: str, arguments: Any, tmp_path: Path) -> None:
    model, file = checkpoint(name, **arguments), tmp_path / "x.safetensors"
    export(model, file, ExportSettings("timm"))
    lightness = rgb_to_lightness(rgb)
    published = timm.get_pretrained_cfg(name)
    mean, std = np.mean(published.mean), np.mean(published.std)
    own = features(model, lightness)
    indices = list(load_pretrained(model).colorizer.backbone.net.feature_info.out_indices)  # type: ignore[union-attr]
    fed = ((lightness / 100 - mean) / std).float()
    found = loaded(file).forward_intermediates(fed, indices=indices, intermediates_only=True)
    for value, expected in zip(found, own.values(), strict=True):
        close(value, expected)


@pytest.mark.parametrize("arguments", [{}, {"last_stride": 1}])
@torch.no_grad()
def test_a_plain_torchvision_module(checkpoint: Checkpoint, rgb: Tensor, arguments: Any, tmp_path: Path) -> None:
    model, file = checkpoint("resnet18", **arguments), tmp_path / "x.safetensors"
    export(model, file, ExportSettings("torchvision"))
    lightness = rgb_to_lightness(rgb)
    own = features(model, lightness)["layer4"]
    net = loaded(file)
    assert type(net) is torchvision.models.ResNet
    close(net((lightness - 44.9) / 22.6), own.mean((2, 3)))


@torch.no_grad()
def test_rgb_folded_into_a_bias_is_the_affine_lightness(checkpoint: Checkpoint, rgb: Tensor, tmp_path: Path) -> None:
    """A ViT's first convolution has a bias and no padding: there folding is exact but for L itself."""
    model, file = checkpoint("test_vit"), tmp_path / "x.safetensors"
    export(model, file, ExportSettings("timm", input="folded"))
    published = timm.get_pretrained_cfg("test_vit")
    means, stds = (torch.tensor(values)[:, None, None] for values in (published.mean, published.std))
    net = loaded(file)
    found = net.forward_intermediates((rgb - means) / stds, indices=[5], intermediates_only=True)[-1]
    close(found, features(model, affine_lightness().lightness(rgb))["blocks_5"])


@torch.no_grad()
def test_rgb_folded_into_batch_norm_differs_at_the_border_only(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model, file = checkpoint("resnet18"), tmp_path / "x.safetensors"
    export(model, file, ExportSettings("torchvision", input="folded"))
    rgb = torch.rand(1, 3, 64, 64)
    means, stds = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    net = loaded(file)
    found = net.relu(net.bn1(net.conv1((rgb - means[:, None, None]) / stds[:, None, None])))
    expected = features(model, affine_lightness().lightness(rgb))["act1"]
    close(found[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])
    assert not torch.allclose(found[..., 0, :], expected[..., 0, :], atol=1e-3)
    names = net.state_dict().keys() ^ torchvision.models.resnet18().state_dict().keys()
    assert names == {"fc.weight", "fc.bias"}  # a plain module, all of whose layers are as made


def test_the_affine_lightness_is_near_on_real_images(shared_data: Path) -> None:
    folder = Folder(shared_data / "imagenet-sample")
    images = np.stack([center_crop(folder.read(index), 96) for index in range(0, len(folder), 10)])
    true = torch.from_numpy(rgb2lab(images)[..., 0])
    near = affine_lightness().lightness(torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255)[:, 0]
    assert (near - true).square().mean().sqrt() < 2.5
    assert abs((near - true).mean()) < 0.6
    slopes = affine_lightness().rgb
    assert slopes[1] > slopes[0] > slopes[2] > 0


def test_nan_in_either_output_fails_the_comparison() -> None:
    good, bad = torch.ones(3), torch.tensor([1.0, torch.nan, 1.0])
    assert largest_difference([(good, good), (2 * good, good)]) == 1
    for pair in ((bad, good), (good, bad), (bad, bad)):
        for pairs in ([pair, (good, good)], [(good, good), pair]):
            assert not largest_difference(pairs) <= TOLERANCE


@torch.no_grad()
def test_an_rgb_front_end(checkpoint: Checkpoint) -> None:
    backbone = load_pretrained(checkpoint("tiny")).colorizer.backbone
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), dtype=np.uint8)
    lightness = torch.from_numpy(rgb2lab(pixels)[..., :1]).permute(0, 3, 1, 2).float()
    for given in (torch.from_numpy(pixels), torch.from_numpy(pixels).float() / 255):
        found = FromRgb(backbone)(given.permute(0, 3, 1, 2))
        close(found["conv5"], backbone(lightness)["conv5"])


@torch.no_grad()
@pytest.mark.slow
def test_an_onnx_graph_takes_any_number_and_size(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model, file = checkpoint("tiny"), tmp_path / "x.onnx"
    notes = export(model, file, ExportSettings("onnx", size=64)).notes
    assert "any x 1 x any x any" in notes[0]
    onnx.checker.check_model(onnx.load(file), full_check=True)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    backbone = load_pretrained(model).colorizer.backbone
    assert [output.name for output in session.get_outputs()] == [stage.name for stage in backbone.stages]
    for shape in ((1, 1, 50, 71), (5, 1, 96, 33)):
        lightness = torch.rand(shape) * 100
        found = session.run(None, {"lightness": lightness.numpy()})
        for value, expected in zip(found, backbone(lightness).values(), strict=True):
            close(torch.from_numpy(value), expected)


@pytest.mark.slow
@torch.no_grad()
def test_an_onnx_graph_from_rgb_to_ab(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model, file = checkpoint("tiny", stride=16), tmp_path / "x.onnx"
    export(model, file, ExportSettings("onnx", part="colorizer", input="rgb", size=64))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).random((3, 64, 64, 3)).astype(np.float32)
    rgb = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    (ab,) = session.run(["ab"], {"rgb": rgb.numpy()})
    colorizer = load_pretrained(model).colorizer
    lightness = torch.from_numpy(rgb2lab(pixels)[..., :1]).permute(0, 3, 1, 2).float()
    assert np.abs(ab - colorizer.objective.decode(colorizer(lightness)).numpy()).max() < 1e-2  # of up to 110


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("tiny", {"format": "timm"}, "backbone tiny is not a timm"),
        ("tiny", {"format": "torchvision"}, "backbone tiny is not a timm"),
        ("test_convnext", {"format": "torchvision"}, "torchvision has no ResNet called test_convnext"),
        ("resnet18", {"format": "timm", "input": "rgb"}, "format timm has no input rgb"),
        ("resnet18", {"format": "onnx", "input": "folded"}, "rgb, which is exact"),
        ("resnet18", {"input": "rgb"}, "pretext.FromRgb"),
        ("resnet18", {"format": "timm", "part": "colorizer"}, "no color head"),
        ("test_nfnet", {"format": "timm", "input": "folded"}, "needs a plain convolution"),
        ("tiny", {"size": -1}, "size is -1"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    checkpoint: Checkpoint, name: str, words: Any, message: str, tmp_path: Path
) -> None:
    model = checkpoint(name)
    with pytest.raises(UserError, match=message) as error:
        file = tmp_path / ("x.onnx" if words.get("format") == "onnx" else "x.safetensors")
        export(model, file, ExportSettings(**words))
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = checkpoint("tiny")
    (tmp_path / "x.safetensors").write_text("mine")
    for file, message in (
        (tmp_path / "x.safetensors", "exists; remove it"),
        (tmp_path / "x.pt", "must end in .safetensors; change the name or the format"),
        (tmp_path / "x.safetensors" / "y.safetensors", "cannot write"),
    ):
        with pytest.raises(UserError, match=message):
            export(model, file, ExportSettings())
    assert (tmp_path / "x.safetensors").read_text() == "mine"


def test_damaged_safetensors(checkpoint: Checkpoint, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    export(checkpoint("tiny"), file, ExportSettings())
    whole = file.read_bytes()
    tensors = safetensors.torch.load(whole)
    for content, message in (
        (whole[:-1000], "damaged"),
        (whole[:40], "damaged"),
        (b"", "damaged"),
        (safetensors.torch.save(tensors), "not a checkpoint of Pretint"),
        (safetensors.torch.save(tensors, {"format": "pretint checkpoint 2"}), "not a complete checkpoint"),
        (safetensors.torch.save(tensors, {"format": "pretint checkpoint 2", "step": "{"}), "damaged"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=message) as error:
            load_pretrained(file)
        assert "\n" not in str(error.value)


def test_without_onnx_the_extra_is_named(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"onnxruntime is not installed: pip install 'pretint\[export\]'"):
        export(checkpoint("tiny"), tmp_path / "x.onnx", ExportSettings("onnx"))


def test_the_commands(checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.safetensors"
    assert pretint.cli.main(["export", str(checkpoint("tiny")), str(file)]) == 0
    assert f"written: {file}" in capsys.readouterr().out
    assert pretint.cli.main(["import", str(file), str(tmp_path / "run")]) == 2
    assert "weights of no known release" in capsys.readouterr().err
    assert pretint.cli.main(["export", str(tmp_path / "none"), str(tmp_path / "y.safetensors")]) == 2
    assert "no such run or checkpoint" in capsys.readouterr().err
