"""Published weights: the same features as the published nets, written down here once more; every key accounted for."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from tiers import one_fast
from torch import Tensor
from torch.nn import functional as F

from pretext.data.bundled import save_test_parts
from pretext.engine.checkpoint import load_checkpoint
from pretext.engine.run import find_checkpoint
from pretext.errors import UserError
from pretext.gamut import bin_centers
from pretext.pretrained import load_pretrained
from pretext.weights.importer import ImportSettings, import_weights, load_release
from pretint.colorization import ColorizeSettings, colorize

Weights = dict[str, Tensor]


def convolution(weights: Weights, name: str, inputs: int, outputs: int, kernel: int) -> None:
    scale = (2 / (inputs * kernel**2)) ** 0.5
    weights[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel) * scale
    weights[f"{name}.bias"] = torch.randn(outputs) * 0.1


def norm(weights: Weights, name: str, channels: int, counter: bool = True) -> None:
    weights[f"{name}.weight"] = torch.rand(channels) + 0.5
    weights[f"{name}.bias"] = torch.randn(channels) * 0.1
    weights[f"{name}.running_mean"] = torch.randn(channels) * 0.1
    weights[f"{name}.running_var"] = torch.rand(channels) + 0.5
    if counter:
        weights[f"{name}.num_batches_tracked"] = torch.tensor(3)


WIDTHS = {1: (64,) * 2, 2: (128,) * 2, 3: (256,) * 3, **dict.fromkeys((4, 5, 6, 7), (512,) * 3)}


def blocks(first: int) -> Weights:
    weights: Weights = {}
    before = first
    for block, widths in WIDTHS.items():
        for position, width in enumerate(widths):
            convolution(weights, f"model{block}.{2 * position}", before, width, 3)
            before = width
        norm(weights, f"model{block}.{2 * len(widths)}", before)
    return weights


def transposed(weights: Weights, name: str, inputs: int, outputs: int) -> None:
    weights[f"{name}.weight"] = torch.randn(inputs, outputs, 4, 4) * (1 / (4 * inputs)) ** 0.5
    weights[f"{name}.bias"] = torch.randn(outputs) * 0.1


def eccv16() -> Weights:
    weights = blocks(1)
    transposed(weights, "model8.0", 512, 256)
    for position in (2, 4):
        convolution(weights, f"model8.{position}", 256, 256, 3)
    convolution(weights, "model8.6", 256, 313, 1)
    weights["model_out.weight"] = torch.from_numpy(bin_centers().T.copy()).float()[:, :, None, None] / 110
    return weights


def siggraph17() -> Weights:
    weights = blocks(4)
    for name, inputs, outputs in (("8", 512, 256), ("9", 256, 128), ("10", 128, 128)):
        transposed(weights, f"model{name}up.0", inputs, outputs)
    for name, inputs, outputs in (("3short8", 256, 256), ("2short9", 128, 128), ("1short10", 64, 128)):
        convolution(weights, f"model{name}.0", inputs, outputs, 3)
    for name, width in (("8.1", 256), ("8.3", 256), ("9.1", 128), ("10.1", 128)):
        convolution(weights, f"model{name}", width, width, 3)
    norm(weights, "model8.5", 256)
    norm(weights, "model9.3", 128)
    convolution(weights, "model_class.0", 256, 529, 1)
    convolution(weights, "model_out.0", 128, 2, 1)
    return weights


def vissl_alexnet() -> Weights:
    weights: Weights = {}
    for block, inputs, outputs, kernel in (
        (0, 1, 96, 11), (2, 48, 256, 5), (4, 256, 384, 3), (5, 192, 384, 3), (6, 192, 256, 3),
    ):  # fmt: skip
        convolution(weights, f"_feature_blocks.{block}.0", inputs, outputs, kernel)
        norm(weights, f"_feature_blocks.{block}.1", outputs, counter=False)
    weights["_feature_blocks.0.0.weight"] /= 25  # of an input of tens
    return weights


def vissl_net() -> torchvision.models.ResNet:
    net = torchvision.models.resnet50(weights=None)
    net.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    net.fc = torch.nn.Identity()
    net.layer4[0].conv2.stride = net.layer4[0].downsample[0].stride = (1, 1)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.3, 0.7)
            torch.nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
    return net.eval()


def vissl_resnet(net: torchvision.models.ResNet | None = None) -> Weights:
    state = (net or vissl_net()).state_dict()
    return {f"_feature_blocks.{name}": value for name, value in state.items() if "num_batches" not in name}


def run_block(x: Tensor, w: Weights, name: str, places: tuple[int, ...], stride: int = 1, dilation: int = 1) -> Tensor:
    """Convolutions with ReLU, the last one strided, then batch norm two places on, if there is one."""
    for place in places:
        step = stride if place == places[-1] else 1
        key = f"{name}.{place}"
        x = F.relu(F.conv2d(x, w[f"{key}.weight"], w[f"{key}.bias"], step, padding=dilation, dilation=dilation))
    return run_norm(x, w, f"{name}.{places[-1] + 2}")


def run_norm(x: Tensor, w: Weights, name: str) -> Tensor:
    if f"{name}.running_mean" not in w:
        return x
    return F.batch_norm(x, *(w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))


def run_conv(x: Tensor, w: Weights, name: str) -> Tensor:
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=w[f"{name}.weight"].shape[-1] // 2)


def run_up(x: Tensor, w: Weights, name: str) -> Tensor:
    return F.conv_transpose2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1)


def run_eccv16(lightness: Tensor, w: Weights) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The stages, the distribution and ab before the enlargement by 4: paper section 3, released eccv16.py."""
    x, stages = (lightness - 50) / 100, {}
    for block in range(1, 8):
        places = (0, 2) if block < 3 else (0, 2, 4)
        stride, dilation = 2 if block < 4 else 1, 2 if block in (5, 6) else 1
        x = stages[f"conv{block}"] = run_block(x, w, f"model{block}", places, stride, dilation)
    x = stages["conv8"] = run_block(F.relu(run_up(x, w, "model8.0")), w, "model8", (2, 4))
    softmax = torch.softmax(run_conv(x, w, "model8.6"), dim=1)
    return stages, softmax, 110 * F.conv2d(softmax, w["model_out.weight"])


def run_siggraph17(
    lightness: Tensor, w: Weights, hints: Tensor | None = None, mask: Tensor | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """The stages and ab; without hints the release feeds zeros."""
    hints = torch.zeros(len(lightness), 2, *lightness.shape[2:]) if hints is None else hints
    mask = torch.zeros_like(lightness) if mask is None else mask
    x, stages = torch.cat(((lightness - 50) / 100, hints / 110, mask), 1), {}
    for block in range(1, 8):
        places, dilation = (0, 2) if block < 3 else (0, 2, 4), 2 if block in (5, 6) else 1
        x = stages[f"conv{block}"] = run_block(x, w, f"model{block}", places, dilation=dilation)
        x = x[:, :, ::2, ::2] if block < 4 else x
    x = F.relu(run_up(x, w, "model8up.0") + run_conv(stages["conv3"], w, "model3short8.0"))
    x = stages["conv8"] = run_block(x, w, "model8", (1, 3))
    x = F.relu(run_up(x, w, "model9up.0") + run_conv(stages["conv2"], w, "model2short9.0"))
    x = stages["conv9"] = run_block(x, w, "model9", (1,))
    x = F.relu(run_up(x, w, "model10up.0") + run_conv(stages["conv1"], w, "model1short10.0"))
    x = stages["conv10"] = F.leaky_relu(run_conv(x, w, "model10.1"), 0.2)
    return stages, 110 * torch.tanh(run_conv(x, w, "model_out.0"))


def run_alexnet(lightness: Tensor, w: Weights) -> dict[str, Tensor]:
    x, stages = lightness - 50, {}
    for number, block, stride, padding, groups in (
        (1, 0, 4, 0, 1), (2, 2, 1, 2, 2), (3, 4, 1, 1, 1), (4, 5, 1, 1, 2), (5, 6, 1, 1, 2),
    ):  # fmt: skip
        key = f"_feature_blocks.{block}"
        x = F.conv2d(x, w[f"{key}.0.weight"], w[f"{key}.0.bias"], stride, padding, groups=groups)
        x = stages[f"conv{number}"] = F.relu(run_norm(x, w, f"{key}.1"))
        x = F.max_pool2d(x, 3, 2) if number in (1, 2, 5) else x
    return {**stages, "pool5": x}


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert (found[name] - value).abs().max() <= 1e-5 * value.abs().max(), name


@pytest.fixture(scope="module")
def lightness() -> Tensor:
    return torch.rand(2, 1, 64, 72, generator=torch.Generator().manual_seed(5)) * 100


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Weights]]:
    """One file of every release, wrapped as published."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("published")
    found = {}
    for make, wrap in (
        (eccv16, lambda weights: weights),
        (siggraph17, lambda weights: weights),
        (vissl_alexnet, lambda weights: {"model_state_dict": weights}),
        (
            vissl_resnet,
            lambda weights: {"classy_state_dict": {"base_model": {"model": {"trunk": weights, "heads": []}}}},
        ),
    ):
        weights: Weights = make()
        path = folder / f"{make.__name__}.pth"
        torch.save(wrap(weights), path)
        found[make.__name__] = (path, weights)
    return found


Files = dict[str, tuple[Path, Weights]]


@torch.no_grad()
def test_eccv16(files: Files, lightness: Tensor, tmp_path: Path) -> None:
    file, weights = files["eccv16"]
    done = import_weights(file, tmp_path / "run")
    assert len(done.used) == len(weights) - 1 and done.aside == ["model_out.weight"] and not done.absent
    colorizer = load_pretrained(tmp_path / "run").colorizer
    stages, softmax, ab = run_eccv16(lightness, weights)
    close(colorizer.backbone(lightness), stages)
    logits = colorizer(lightness)
    assert torch.allclose(torch.softmax(logits / 0.38, 1), softmax, atol=1e-5)
    assert torch.allclose(colorizer.objective.decode(logits), ab, atol=1e-3)  # of up to 110
    kept = load_checkpoint(find_checkpoint(tmp_path / "run"))["aside"]
    assert torch.equal(kept["model_out.weight"], weights["model_out.weight"])


@torch.no_grad()
def test_eccv16_with_its_bins_in_another_order(files: Files, lightness: Tensor, tmp_path: Path) -> None:
    shuffled = dict(files["eccv16"][1])
    order = torch.randperm(313)
    for name in ("model8.6.weight", "model8.6.bias"):
        shuffled[name] = shuffled[name][order]
    shuffled["model_out.weight"] = shuffled["model_out.weight"][:, order].contiguous()
    safetensors.torch.save_file(shuffled, tmp_path / "x.safetensors")
    done = import_weights(tmp_path / "x.safetensors", tmp_path / "run")
    assert "their order was changed" in done.notes[0]
    colorizer = load_pretrained(tmp_path / "run").colorizer
    _, _, ab = run_eccv16(lightness, shuffled)
    assert torch.allclose(colorizer.objective.decode(colorizer(lightness)), ab, atol=1e-3)


@torch.no_grad()
def test_siggraph17(files: Files, lightness: Tensor, tmp_path: Path) -> None:
    file, weights = files["siggraph17"]
    assert sum(value.numel() for name, value in weights.items() if "running" not in name and value.ndim) == 34_187_027
    done = import_weights(file, tmp_path / "run")
    assert done.aside == ["model_class.0.weight", "model_class.0.bias"]
    colorizer = load_pretrained(tmp_path / "run").colorizer
    stages, ab = run_siggraph17(lightness, weights)
    close(colorizer.backbone(lightness), stages)
    assert torch.allclose(colorizer.colorize(lightness), ab, atol=1e-3)
    kept = load_checkpoint(find_checkpoint(tmp_path / "run"))["aside"]
    assert torch.equal(kept["model_class.0.weight"], weights["model_class.0.weight"])


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("center", [0.0, 0.5])
def test_siggraph17_with_hints(center: float, files: Files, lightness: Tensor, tmp_path: Path) -> None:
    """What the file's own code is fed where a hint is, and where none is: mask 1 and 0, less its center."""
    file, weights = files["siggraph17"]
    done = import_weights(file, tmp_path / "run", ImportSettings(mask_center=center))
    assert any(f"minus {center:g}" in line for line in done.notes)
    colorizer = load_pretrained(tmp_path / "run").colorizer
    mask = torch.zeros_like(lightness)
    mask[..., 20:26, 30:36] = 1
    hints = mask * torch.tensor([40.0, -25.0])[:, None, None]
    _, ab = run_siggraph17(lightness, weights, hints, mask - center)
    assert torch.allclose(colorizer.colorize(lightness, hints=hints, mask=mask), ab, atol=1e-3)
    _, ab = run_siggraph17(lightness, weights, mask=torch.full_like(mask, -center))
    assert torch.allclose(colorizer.colorize(lightness), ab, atol=1e-3)


def test_a_mask_is_centered_only_where_there_is_one(files: Files, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes no hints, so leave mask_center out"):
        import_weights(files["eccv16"][0], tmp_path / "run", ImportSettings(mask_center=0.5))
    with pytest.raises(UserError, match="mask_center is 2"):
        ImportSettings(mask_center=2)
    assert not (tmp_path / "run").exists()


@torch.no_grad()
def test_vissl_alexnet(files: Files, tmp_path: Path) -> None:
    file, weights = files["vissl_alexnet"]
    done = import_weights(file, tmp_path / "run")
    assert len(done.used) == len(weights) and len(done.absent) == 5 and not done.has_head
    lightness = torch.rand(2, 1, 99, 120) * 100
    backbone = load_pretrained(tmp_path / "run").colorizer.backbone
    close(backbone(lightness), run_alexnet(lightness, weights))


@torch.no_grad()
def test_vissl_resnet(lightness: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = vissl_net()
    torch.save({"model_state_dict": vissl_resnet(net)}, tmp_path / "x.torch")
    import_weights(tmp_path / "x.torch", tmp_path / "run")
    pretrained = load_pretrained(tmp_path / "run")
    assert not pretrained.has_head and pretrained.settings.backbone.name == "resnet50"
    x = net.relu(net.bn1(net.conv1(lightness - 50)))
    stages = {"act1": x}
    x = net.maxpool(x)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        x = stages[name] = net.get_submodule(name)(x)
    assert stages["layer4"].shape[2:] == stages["layer3"].shape[2:]
    close(pretrained.colorizer.backbone(lightness), stages)


def test_a_trunk_colors_nothing_and_says_so(files: Files, tmp_path: Path) -> None:
    import_weights(files["vissl_alexnet"][0], tmp_path / "run")
    save_test_parts(tmp_path / "images")
    with pytest.raises(UserError, match="these weights have no color head"):
        colorize(tmp_path / "run", [tmp_path / "images"], ColorizeSettings(tmp_path / "out"))


def cut(weights: Weights) -> None:
    del weights["model3.2.bias"]


def added(weights: Weights) -> None:
    weights |= {f"more.{number}": torch.zeros(1) for number in range(6)}


def reshaped(weights: Weights) -> None:
    weights["model1.0.weight"] = torch.zeros(64, 3, 3, 3)


def infinite(weights: Weights) -> None:
    weights["model7.0.bias"] = torch.full((512,), torch.nan)


def other_bins(weights: Weights) -> None:
    weights["model_out.weight"] = weights["model_out.weight"] * 0.9


def renamed(weights: Weights) -> None:
    for name in list(weights):
        weights[name.replace("model", "net")] = weights.pop(name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut, r"1 missing \(model3.2.bias\)"),
        (added, r"6 unknown \(more.0, more.1, more.2, more.3, and 2 more\)"),
        (reshaped, r"1 of another shape \(model1.0.weight \(64, 3, 3, 3\), not \(64, 1, 3, 3\)\)"),
        (infinite, r"1 not finite \(model7.0.bias\)"),
        (other_bins, "its color bins .* are not the 313 of the paper"),
        (renamed, "weights of no known release"),
    ],
)
def test_less_or_more_than_all_is_refused(
    files: Files, change: Callable[[Weights], None], words: str, tmp_path: Path
) -> None:
    weights = dict(files["eccv16"][1])
    change(weights)
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(UserError, match=words) as error:
        import_weights(tmp_path / "x.pth", tmp_path / "run")
    assert str(tmp_path / "x.pth") in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


WRAPPINGS: dict[str, Callable[[Weights], object]] = {
    "model": lambda weights: {"model": weights, "epoch": 3},
    "state_dict": lambda weights: {"state_dict": weights},
    "compiled": lambda weights: {f"_orig_mod.{name}": value for name, value in weights.items()},
    "parallel": lambda weights: {"netG": {f"module.{name}": value for name, value in weights.items()}},
    "beside": lambda weights: {"model": weights, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
}


@torch.no_grad()
@pytest.mark.parametrize(
    ("release", "wrapping"),
    one_fast(
        ("eccv16", "compiled"),
        [("eccv16", "compiled"), ("siggraph17", "model"), *(("vissl_alexnet", wrapping) for wrapping in WRAPPINGS)],
    ),
)
def test_what_stands_before_all_names_is_taken_off(
    files: Files, release: str, wrapping: str, lightness: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, weights = files[release]
    torch.save(WRAPPINGS[wrapping](weights), tmp_path / "x.pth")
    done = import_weights(tmp_path / "x.pth", tmp_path / "run")
    assert any("was removed from the names" in line for line in done.lines())
    lightness = lightness if release != "vissl_alexnet" else torch.rand(1, 1, 99, 120) * 100
    backbone = load_pretrained(tmp_path / "run").colorizer.backbone
    close(backbone(lightness), load_release(plain).colorizer.backbone(lightness))
    capsys.readouterr()
    direct = load_release(tmp_path / "x.pth").colorizer.backbone
    assert "was removed from the names" in capsys.readouterr().err
    close(backbone(lightness), direct(lightness))


@pytest.mark.slow
def test_one_of_several_networks_is_named(files: Files, lightness: Tensor, tmp_path: Path) -> None:
    weights = files["eccv16"][1]
    other = {name: value if name == "model_out.weight" else value * 0.5 for name, value in weights.items()}
    torch.save({"model": weights, "model_ema": other}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="holds 2 networks, model, model_ema; name one after the file") as error:
        import_weights(tmp_path / "x.pth", tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
    import_weights(Path(f"{tmp_path / 'x.pth'}#model_ema"), tmp_path / "run")
    state = load_pretrained(tmp_path / "run").colorizer.state_dict()
    assert torch.equal(state["backbone.model1.0.weight"], other["model1.0.weight"])
    save_test_parts(tmp_path / "images")
    for part in ("model", "model_ema"):
        colorize(
            f"{tmp_path / 'x.pth'}#{part}", [tmp_path / "images"], ColorizeSettings(tmp_path / part, size=32, batch=8)
        )
    first, second = (sorted((tmp_path / part).glob("*.png")) for part in ("model", "model_ema"))
    assert first and [path.read_bytes() for path in first] != [path.read_bytes() for path in second]


class Evil:
    trace = ""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {Evil.trace}",)


@pytest.mark.parametrize("kind", ["none", "empty", "text", "folder", "pickle", "code", "torn", "safetensors", "list"])
def test_what_is_no_file_of_weights_is_refused_and_not_run(files: Files, kind: str, tmp_path: Path) -> None:
    path, Evil.trace = tmp_path / "x.pth", str(tmp_path / "ran")
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("weights")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "code":
        torch.save({"state_dict": files["vissl_alexnet"][1], "config": Evil()}, path)
    elif kind == "torn":
        path.write_bytes(files["vissl_alexnet"][0].read_bytes()[:50_000])
    elif kind == "safetensors":
        path = tmp_path / "x.safetensors"
        path.write_bytes(b"\x10\0\0\0\0\0\0\0{not json")
    elif kind == "list":
        torch.save([1, 2], path)
    with pytest.raises(UserError, match=str(path)) as error:
        import_weights(path, tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()
    if kind == "code":
        assert "reading that would run code" in str(error.value)


def test_a_place_that_is_taken_or_cannot_be_written(files: Files, tmp_path: Path) -> None:
    file = files["vissl_alexnet"][0]
    (tmp_path / "text").write_text("x")
    with pytest.raises(UserError, match="exists; name a new folder"):
        import_weights(file, tmp_path / "text")
    with pytest.raises(UserError, match="exists; name a new folder"):
        import_weights(file, tmp_path)
    with pytest.raises(UserError, match="cannot write"):
        import_weights(file, tmp_path / "text" / "run")
    assert (tmp_path / "text").read_text() == "x"
