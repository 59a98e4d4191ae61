"""Segmentation: heads of FCN and DeepLab, the loss that leaves 255 out, on real images."""

import math
from pathlib import Path

import pytest
import torch
from fitting import fit, known, tiny
from torch.nn import functional as F

from pretext.errors import UserError
from transfer.tasks.segmentation import Segment, SegmentHeadSettings

RGB = torch.randint(0, 256, (2, 3, 75, 91), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def head(kind: str, **settings: float) -> SegmentHeadSettings:
    return SegmentHeadSettings(kind=kind, width=16, **settings)  # type: ignore[arg-type]


def test_over_fits_real_images(shared_data: Path) -> None:
    images = known(shared_data, 16, 96)
    network = Segment(tiny(), 21, head("fcn8", dropout=0.0))
    losses = fit(network, lambda: network.loss(images.rgb, images.masks), 80, 3e-3)
    assert losses[-1] < 0.1 < 2 < losses[0]
    with torch.inference_mode():
        found = network.predict(images.rgb, tuple(images.masks.shape[1:]))  # type: ignore[arg-type]
    counted = images.masks != 255
    truth, said = images.masks[counted], found[counted]
    shares = [((truth == one) & (said == one)).sum() / ((truth == one) | (said == one)).sum() for one in truth.unique()]
    assert len(shares) > 6 and float(torch.stack(shares).mean()) > 0.93


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("fcn32", "tiny"),
        ("fcn8", "tiny"),
        ("fcn16", "resnet18"),
        ("fcn8", "resnet18"),
        ("deeplab", "tiny"),
        ("fcn32", "alexnet"),
    ],
)
def test_heads_on_odd_sizes(kind: str, name: str) -> None:
    network = Segment(tiny(name), 21, head(kind))
    assert {own.split(".")[0] for own, _ in network.named_parameters()} == {"features", "head"}
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(RGB)
        loss = network.loss(RGB, torch.randint(0, 21, (2, 75, 91), dtype=torch.uint8))
    assert logits.shape == (2, 21, 75, 91) and logits.dtype == loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(21), abs=0.7)
    loss.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())
    found = network.eval().predict(RGB, (33, 40))
    assert found.shape == (2, 33, 40) and found.dtype == torch.uint8


def test_skips_add_up_as_defined() -> None:
    network = Segment(tiny("resnet18"), 3, head("fcn8")).eval()
    assert list(network.grids) == ["layer4", "layer3", "layer2"]
    for score in (network.head["layer3"], network.head["layer2"]):
        torch.nn.init.normal_(score.inner.weight)  # type: ignore[union-attr, arg-type]
    rgb = torch.rand(1, 3, 129, 193)  # one more than a multiple of 32: corners lie on corners
    scores = {
        name: network.head[name](values) for name, values in network.features(rgb).items() if name in network.grids
    }
    joined = scores["layer4"]
    for finer in (scores["layer3"], scores["layer2"]):
        joined = F.interpolate(joined, finer.shape[2:], mode="bilinear", align_corners=True) + finer
    expected = F.interpolate(joined, (129, 193), mode="bilinear", align_corners=True)
    torch.testing.assert_close(network(rgb), expected, atol=1e-4, rtol=1e-4)


def test_pixels_that_do_not_count() -> None:
    network = Segment(tiny(), 21, head("fcn32")).eval()
    torch.nn.init.normal_(network.head["conv5"][1].inner.weight)  # type: ignore[index, union-attr, arg-type]
    mask = torch.randint(0, 21, (2, 75, 91))
    mask[:, 20:50] = 255
    logits = network(RGB).movedim(1, -1)
    expected = F.cross_entropy(logits[mask != 255], mask[mask != 255])
    torch.testing.assert_close(network.loss(RGB, mask), expected)
    torch.testing.assert_close(network.loss(RGB, mask.to(torch.uint8)), expected)
    nothing = network.loss(RGB, torch.full_like(mask, 255))
    nothing.backward()
    assert nothing.item() == 0 and all(bool((w.grad == 0).all()) for w in network.parameters() if w.grad is not None)


def test_a_square_is_found_where_it_is() -> None:
    torch.manual_seed(0)
    rgb = torch.full((8, 3, 96, 96), 40, dtype=torch.uint8)
    mask = torch.zeros(8, 96, 96, dtype=torch.uint8)
    for number in range(8):
        x, y = torch.randint(0, 64, (2,)).tolist()
        rgb[number, :, y : y + 32, x : x + 32], mask[number, y : y + 32, x : x + 32] = 220, 1
    network = Segment(tiny(), 2, head("fcn8", dropout=0.0))
    fit(network, lambda: network.loss(rgb, mask), 60, 3e-3)
    half = F.interpolate(mask[:, None].float(), (48, 48)).squeeze(1).bool()
    with torch.inference_mode():
        for truth, found in (
            (mask.bool(), network.predict(rgb, (96, 96)) == 1),
            (half, network.predict(rgb, (48, 48)) == 1),
        ):
            assert float((truth & found).sum() / (truth | found).sum()) > 0.9


def test_frozen_features_stay() -> None:
    network = Segment(tiny().requires_grad_(False), 21, head("fcn8"))
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    fit(network, lambda: network.loss(RGB, torch.full((2, 75, 91), 3)), 2, 1e-2)
    changed = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if name.startswith("head.")}


def test_what_cannot_be() -> None:
    with pytest.raises(UserError, match=r"fcn16: the backbone has no stage of stride 16 under its last one's, 16"):
        Segment(tiny(), 21, head("fcn16"))
    with pytest.raises(UserError, match="fcn8: the backbone has no stage of stride 8"):
        Segment(tiny("vit_tiny_patch16_224"), 21, head("fcn8"))
    for name, value in (("dropout", 1.0), ("width", 0), ("rates", []), ("rates", [0, 6])):
        with pytest.raises(UserError, match=rf"head\.{name} is"):
            SegmentHeadSettings(**{name: value})  # type: ignore[arg-type]
