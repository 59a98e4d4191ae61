"""First weights from images, against their definitions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans
from timm.layers import StdConv2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

import pretext.initialization
from pretext.backbones import Backbone, build_backbone
from pretext.backbones.contract import BackboneSettings, Init
from pretext.color import rgb_to_lightness
from pretext.data.bundled import Bundled
from pretext.errors import UserError
from pretext.initialization import cluster_filters, initialize, sample_patches

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def real_images(count: int, side: int) -> Tensor:
    source = Bundled("train", side)
    chosen = [np.asarray(source.read(index * len(source) // count)) for index in range(count)]
    return rgb_to_lightness(torch.from_numpy(np.stack(chosen)).permute(0, 3, 1, 2))


def built(name: str, **arguments: Any) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_backbone(name, **arguments)


def directions(net: nn.Module) -> dict[str, Tensor]:
    """Unit filters of every layer, (units, weights of each)."""
    found = {}
    for name, layer in net.named_modules():
        if isinstance(layer, LAYERS):
            weight = layer.weight.detach()
            if isinstance(layer, nn.ConvTranspose2d):
                weight = weight.transpose(0, 1)
            found[name] = F.normalize(weight.flatten(1), dim=1)
    return found


def measured(net: nn.Module, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of every unit of every layer at its first use, in float64."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(layer: nn.Module, _: Any, output: Tensor) -> None:
            units = (output if isinstance(layer, nn.Linear) else output.transpose(1, -1)).double()
            units = units.reshape(-1, units.shape[-1])
            found.setdefault(name, (units.mean(0), units.std(0, correction=0)))

        return hook

    for name, layer in net.named_modules():
        if isinstance(layer, LAYERS):
            layer.register_forward_hook(note(name))
    net.eval()
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    with torch.no_grad():
        net(images)
    return found


@pytest.mark.parametrize("method", ["data", "kmeans"])
@pytest.mark.parametrize(
    ("name", "arguments", "count", "side"),
    [
        ("tiny", {}, 24, 64),
        pytest.param("vgg", {}, 8, 32, marks=pytest.mark.slow),
        pytest.param("alexnet", {"batch_norm": False}, 8, 48, marks=pytest.mark.slow),
        ("resnet18", {}, 12, 32),
        ("vit_tiny_patch16_224", {"img_size": 64, "depth": 4}, 16, 64),
        ("convnext_atto", {}, 16, 64),
    ],
)
def test_every_unit_has_its_mean_and_deviation(
    name: str, arguments: dict[str, Any], count: int, side: int, method: Init
) -> None:
    images, net = real_images(count, side), built(name, **arguments)
    before = directions(net)
    names = initialize(net, images.split(5), method, seed=0)
    layers = {path: layer for path, layer in net.named_modules() if isinstance(layer, LAYERS)}
    found = measured(net, images)
    assert list(names) == list(found)
    for path, (mean, std) in found.items():
        assert torch.allclose(std, torch.ones_like(std), atol=1e-4), path
        if layers[path].bias is not None:
            assert torch.allclose(mean, torch.full_like(mean, 0.1), atol=1e-4), path
    after = directions(net)
    kept = {path for path in before if (before[path] * after[path]).sum(1).min() > 1 - 1e-5}
    if method == "data":
        assert kept == set(before)
    elif name in ("tiny", "resnet18", "vit_tiny_patch16_224"):
        few = {path for path, layer in layers.items() if samples_of(layer, net, images) < len(layer.weight)}
        assert kept == few
        assert len(kept) <= len(before) / 2
    else:  # depthwise, transposed, fewer samples than units
        assert kept >= {path for path in before if "conv_dw" in path or path in ("model8.0", "fc6.0")}
        assert {"vgg": "model1.0", "alexnet": "conv1.0", "convnext_atto": "net.stem_0"}[name] not in kept


def samples_of(layer: nn.Module, net: nn.Module, images: Tensor) -> int:
    counts: list[int] = []
    hook = layer.register_forward_hook(
        lambda module, _, output: counts.append(
            output[..., 0].numel() if isinstance(module, nn.Linear) else output[:, 0].numel()
        )
    )
    with torch.no_grad():
        net(images)
    hook.remove()
    return counts[0]


def test_filters_are_the_centroids_of_whitened_patches() -> None:
    images, net = real_images(16, 32), built("tiny")
    initialize(net, [images], "kmeans", seed=7)
    patches = F.unfold((images - 50) / 50, 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 9).double().numpy()
    centered = patches - patches.mean(0)
    _, deviations, components = np.linalg.svd(centered / len(centered) ** 0.5, full_matrices=False)
    whitening = components.T / deviations
    white = centered @ whitening
    white /= np.linalg.norm(white, axis=1, keepdims=True)
    seed = int(torch.randint(2**31, (), generator=torch.Generator().manual_seed(7)))
    centroids = (
        MiniBatchKMeans(32, batch_size=320, n_init=1, random_state=seed).fit(white.astype(np.float32)).cluster_centers_
    )
    expected = F.normalize(torch.from_numpy(centroids @ whitening.T), dim=1)
    found = directions(net)["blocks.conv1.0"].double()
    assert (found * expected).sum(1).min() > 1 - 1e-4
    # Patches of real images have edges: not two of random filters agree with one of these.
    random = directions(built("tiny"))["blocks.conv1.0"].double()
    assert (found * random).sum(1).abs().max() < 0.99


@pytest.mark.parametrize("layer", [
    nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0)),
    nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2),
    nn.Conv2d(4, 6, 3, padding="same", dilation=2),
    nn.Conv2d(4, 6, 5, padding="valid"),
])  # fmt: skip
def test_patches_are_what_the_filters_see(layer: nn.Conv2d, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = torch.randn(3, 4, 11, 9)
    with torch.no_grad():
        output = layer(inputs) - layer.bias[:, None, None]
    patches = sample_patches(layer, inputs, torch.Generator())
    groups = layer.groups
    seen = torch.einsum("ngd,gud->ngu", patches, layer.weight.view(groups, 6 // groups, -1)).flatten(1)
    assert torch.allclose(seen, output.permute(0, 2, 3, 1).reshape(-1, 6), atol=1e-5)

    monkeypatch.setattr(pretext.initialization, "MOST_PATCHES", 20)
    some = sample_patches(layer, inputs, torch.Generator().manual_seed(3))
    where = (some.flatten(1)[:, None] == patches.flatten(1)).all(2).nonzero()[:, 1]
    assert len(some) == 20
    assert (where.diff() > 0).all()
    assert not torch.equal(some, sample_patches(layer, inputs, torch.Generator().manual_seed(4)))


def test_wide_patches_are_projected_and_still_told_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(8, 1500, generator=generator)
    kinds = torch.arange(400) % 8
    patches = centers[kinds] + 0.1 * torch.randn(400, 1500, generator=generator) + 5
    filters = cluster_filters(patches, 8, generator)
    assert filters is not None
    best = ((patches - patches.mean(0)) @ filters.T).argmax(1)
    kinds_of = [set(kinds[best == unit].tolist()) for unit in range(8)]
    assert sum(len(kinds) == 1 for kinds in kinds_of) >= 6  # k-means may split one kind and join two


@pytest.mark.parametrize("method", ["data", "kmeans"])
def test_the_weights_follow_from_images_and_seed(method: Init) -> None:
    images = real_images(12, 32)
    once, again, split, other = (built("tiny") for _ in range(4))
    state = torch.get_rng_state()
    initialize(once, [images], method, seed=1)
    initialize(again, [images], method, seed=1)
    initialize(split, images.split([1, 8, 3]), method, seed=1)
    initialize(other, [images], method, seed=2)
    assert torch.equal(state, torch.get_rng_state())
    for name, weight in once.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
        assert torch.allclose(weight, split.state_dict()[name], atol=1e-5), name
    same = all(torch.equal(a, b) for a, b in zip(once.parameters(), other.parameters(), strict=True))
    assert same == (method == "data")


def test_the_memory_format_changes_nothing() -> None:
    images = real_images(6, 32)
    nets = [built("tiny"), built("tiny").to(memory_format=torch.channels_last)]
    for net in nets:
        initialize(net, [images.to(memory_format=torch.channels_last)], "kmeans", seed=0)
    first = [directions(net)["blocks.conv1.0"] for net in nets]  # later ones may amplify another rounding
    assert (first[0] * first[1]).sum(1).min() > 1 - 1e-4
    layer = nets[1].get_submodule("blocks.conv2.0")
    assert isinstance(layer, nn.Conv2d)
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    for _, std in measured(nets[1], images).values():
        assert torch.allclose(std, torch.ones_like(std), atol=1e-3)


def test_statistics_and_mode_stay() -> None:
    net = built("resnet18").train()
    frozen = next(module for module in net.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    initialize(net, [real_images(4, 32)], "data", seed=0)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in net.named_buffers())
    assert all(module.training == (module is not frozen) for module in net.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


def test_random_leaves_the_network_as_it_is() -> None:
    net, untouched = built("tiny"), built("tiny")
    assert initialize(net, [], "random", seed=0) == ()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), untouched.parameters(), strict=True))


@pytest.mark.parametrize("method", ["data", "kmeans"])
@pytest.mark.parametrize("level", [50.0, 30.0])
def test_images_without_content_leave_no_nan(level: float, method: Init) -> None:
    images = torch.full((3, 1, 32, 32), level)
    for name in ("tiny", "vgg", "test_vit"):
        net = built(name)
        initialize(net, [images], method, seed=0)
        assert all(parameter.isfinite().all() for parameter in net.parameters()), name
        assert all(maps.isfinite().all() for maps in net.eval()(real_images(2, 32)).values()), name


class Twice(nn.Module):
    """One layer used twice, one that normalizes its own weights, and one that nothing calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.standard = StdConv2d(8, 8, 3, padding=1, bias=True)
        self.idle = nn.Linear(8, 8)
        self.tied = nn.Conv2d(8, 8, 3, padding=1)
        self.tied.weight = self.again.weight

    def forward(self, lightness: Tensor) -> Tensor:
        x = self.again(self.again(self.first((lightness - 50) / 50)))
        result: Tensor = self.tied(self.standard(x))
        return result


@pytest.mark.parametrize("method", ["data", "kmeans"])
def test_layers_used_twice_or_not_at_all_or_out_of_reach(method: Init) -> None:
    torch.manual_seed(0)
    net, images = Twice(), real_images(6, 32)
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    assert initialize(net, [images], method, seed=0) == ("first", "again")
    for name in ("first", "again"):  # at the first use
        mean, std = measured(net, images)[name]
        assert torch.allclose(std, torch.ones_like(std), atol=1e-3)
        assert torch.allclose(mean, torch.full_like(mean, 0.1), atol=1e-3)
    assert torch.equal(net.idle.weight, before["idle.weight"])
    assert torch.equal(net.tied.bias, before["tied.bias"])
    assert torch.equal(net.standard.bias, before["standard.bias"])
    assert torch.equal(net.standard.weight, before["standard.weight"]) == (method == "data")


def test_transposed_convolutions_in_groups_are_scaled() -> None:
    torch.manual_seed(0)
    net, images = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ConvTranspose2d(6, 4, 4, 2, groups=2)), real_images(6, 32)
    assert initialize(net, [images], "kmeans", seed=0) == ("0", "1")
    assert all(torch.allclose(std, torch.ones_like(std), atol=1e-3) for _, std in measured(net, images).values())


def test_mistakes_are_said_in_one_line() -> None:
    net, images = built("tiny"), real_images(2, 32)
    broken = images.clone()
    broken[0, 0, 0, 0] = torch.nan
    for given, method, words in (
        ([images], "pca", "init is 'pca': use one of random, data, kmeans"),
        ([], "data", "no images"),
        ([images[:0]], "data", "no images"),
        ([images, images[..., 1:]], "kmeans", "2 shapes"),
        ([broken], "data", "not finite"),
    ):
        with pytest.raises(UserError, match=words) as error:
            initialize(net, given, method, seed=0)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    for settings, words in (
        (
            {"init": "kmeans", "weights": "resnet18.pth"},
            "backbone.init is kmeans, which would overwrite backbone.weights",
        ),
        ({"init_images": 0}, "backbone.init_images is 0"),
    ):
        with pytest.raises(UserError, match=words):
            BackboneSettings(**settings)  # type: ignore[arg-type]


def test_an_image_that_the_network_refuses_leaves_no_trace() -> None:
    net = built("test_vit")
    with pytest.raises(UserError, match="cannot take 33 x 33"):
        initialize(net, [torch.zeros(2, 1, 33, 33)], "data", seed=0)
    assert net.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
