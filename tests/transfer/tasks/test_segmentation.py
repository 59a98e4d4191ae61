"""Segmentation: heads and losses on real images; crops stay aligned with their masks."""

import math
from fractions import Fraction
from math import ceil, floor
from pathlib import Path

import numpy as np
import pytest
import torch
from devkits import write_masks
from hypothesis import given
from hypothesis import strategies as st
from overfit import build_tiny, load_known_images, overfit_images
from PIL import Image
from torch.nn import functional as F

from pretext.data.batches import Subset, batches, stream
from pretext.data.order import uniforms
from pretext.errors import UserError
from transfer.labels.masks import MaskDataset, open_masked
from transfer.tasks.segmentation import (
    GRAY,
    Segment,
    SegmentationCrops,
    SegmentationExamples,
    SegmentationViews,
    SegmentHeadSettings,
    crop_with_mask,
    segmentation_view,
)

RGB = torch.randint(0, 256, (2, 3, 75, 91), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def head(kind: str, **settings: float) -> SegmentHeadSettings:
    return SegmentHeadSettings(kind=kind, width=16, **settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_over_fits_real_images(shared_data: Path) -> None:
    images = load_known_images(shared_data, 16, 96)
    network = Segment(build_tiny(), 21, head("fcn8", dropout=0.0))
    losses = overfit_images(network, lambda: network.loss(images.rgb, images.masks), 80, 3e-3)
    assert losses[-1] < 0.1 < 2 < losses[0]
    with torch.inference_mode():
        found = network(images.rgb, tuple(images.masks.shape[1:])).argmax(1)  # type: ignore[arg-type]
    counted = images.masks != 255
    truth, said = images.masks[counted], found[counted]
    shares = [((truth == one) & (said == one)).sum() / ((truth == one) | (said == one)).sum() for one in truth.unique()]
    assert len(shares) > 6 and float(torch.stack(shares).mean()) > 0.93


@pytest.mark.slow
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
    network = Segment(build_tiny(name), 21, head(kind))
    assert {own.split(".")[0] for own, _ in network.named_parameters()} == {"features", "head"}
    with torch.autocast("cpu", torch.bfloat16, enabled=name == "tiny"):
        logits = network(RGB)
        loss = network.loss(RGB, torch.randint(0, 21, (2, 75, 91), dtype=torch.uint8))
    assert logits.shape == (2, 21, 75, 91) and logits.dtype == loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(21), abs=0.7)
    loss.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())
    assert network.eval()(RGB, (33, 40)).shape == (2, 21, 33, 40)


def test_skips_add_up_as_defined() -> None:
    network = Segment(build_tiny("resnet18"), 3, head("fcn8")).eval()
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
    network = Segment(build_tiny(), 21, head("fcn32")).eval()
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
    network = Segment(build_tiny(), 2, head("fcn8", dropout=0.0))
    overfit_images(network, lambda: network.loss(rgb, mask), 60, 3e-3)
    half = F.interpolate(mask[:, None].float(), (48, 48)).squeeze(1).bool()
    with torch.inference_mode():
        for truth, found in (
            (mask.bool(), network(rgb, (96, 96)).argmax(1) == 1),
            (half, network(rgb, (48, 48)).argmax(1) == 1),
        ):
            assert float((truth & found).sum() / (truth | found).sum()) > 0.9


def test_frozen_features_stay() -> None:
    network = Segment(build_tiny().requires_grad_(False), 21, head("fcn8"))
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    overfit_images(network, lambda: network.loss(RGB, torch.full((2, 75, 91), 3)), 2, 1e-2)
    changed = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if name.startswith("head.")}


def test_what_cannot_be() -> None:
    with pytest.raises(
        UserError, match=r"fcn16: the backbone has no stage of stride 16 below that of its last stage, 16"
    ):
        Segment(build_tiny(), 21, head("fcn16"))
    with pytest.raises(UserError, match="fcn8: the backbone has no stage of stride 8"):
        Segment(build_tiny("vit_tiny_patch16_224"), 21, head("fcn8"))
    for name, value in (("dropout", 1.0), ("width", 0), ("rates", []), ("rates", [0, 6])):
        with pytest.raises(UserError, match=rf"head\.{name} is"):
            SegmentHeadSettings(**{name: value})  # type: ignore[arg-type]


def board(height: int, width: int, side: int = 1) -> np.ndarray:
    """A checkerboard of classes 0 and 20, squares of ``side`` pixels."""
    rows, columns = np.indices((height, width)) // side
    return ((rows + columns) % 2 * 20).astype(np.uint8)


def shades(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(np.repeat(mask[..., None] * 10, 3, 2))


@given(
    st.integers(0, 10**6),
    st.sampled_from([7, 16, 24]),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([(13, 20), (30, 17)]),
)
def test_a_checkerboard_of_pixels_stays_aligned(t: int, size: int, flip: float, shape: tuple[int, int]) -> None:
    mask = board(*shape)
    rgb, classes = crop_with_mask(
        shades(mask), Image.fromarray(mask), SegmentationCrops(size, 0, (1, 1), flip), uniforms(1, t, 4)
    )
    classes_array, pixels = np.asarray(classes), np.asarray(rgb)
    inside = classes_array != 255
    height, width = min(size, shape[0]), min(size, shape[1])
    assert inside[:height, :width].all() and inside.sum() == height * width
    assert (pixels[inside] == classes_array[inside][:, None] * 10).all() and (pixels[~inside] == GRAY).all()


@given(st.integers(0, 10**6), st.floats(0.3, 3.0), st.integers(3, 30))
def test_a_crop_is_one_of_the_scaled_image(t: int, scale: float, size: int) -> None:
    random = np.random.default_rng(t)
    image = Image.fromarray(random.integers(0, 256, (31, 44, 3), dtype=np.uint8))
    mask = Image.fromarray(random.integers(0, 21, (31, 44), dtype=np.uint8))
    uniform = uniforms(2, t, 4)
    rgb, classes = crop_with_mask(image, mask, SegmentationCrops(size, 0, (scale, scale), 0), uniform)
    whole = (round(44 * scale), round(31 * scale))
    left, top = (int(max(0, length - size + 1) * at) for length, at in zip(whole, uniform[1:3], strict=True))
    box = (left, top, min(left + size, whole[0]), min(top + size, whole[1]))
    want = np.asarray(image.resize(whole, Image.Resampling.BILINEAR).crop(box)).astype(int)
    found = np.asarray(rgb)[: want.shape[0], : want.shape[1]]
    assert np.abs(found - want).max() <= 2, "but for the rounding of the filter's weights"
    for x in range(box[2] - box[0]):
        for y in range(box[3] - box[1]):
            # Where the middle of the scaled pixel lies in the image; between two pixels either is the nearest.
            middle = (Fraction(2 * (left + x) + 1, 2) * 44 / whole[0], Fraction(2 * (top + y) + 1, 2) * 31 / whole[1])
            near = [
                {min(ceil(at) - 1, most - 1), min(floor(at), most - 1)}
                for at, most in zip(middle, (44, 31), strict=True)
            ]
            assert classes.getpixel((x, y)) in {mask.getpixel((column, row)) for column in near[0] for row in near[1]}


@pytest.fixture
def masked(tmp_path: Path) -> MaskDataset:
    """Three images of large squares, 48 x 32 pixels."""
    write_masks(tmp_path / "VOC2012", {f"2008_{at:06}": board(32, 48, 8 + at) for at in range(3)})
    return open_masked(f"voc:2012:train:{tmp_path}")


def test_scaled_masks_stay_on_their_image(masked: MaskDataset) -> None:
    examples = SegmentationExamples([Subset(masked, range(3), seed=1)], SegmentationCrops(40, 0, (0.5, 2.0)), seed=3)
    for t in range(30):
        sample = examples[t]
        assert sample.rgb is not None and sample.rgb.shape == (3, 40, 40) and sample.rgb.dtype == torch.uint8
        assert sample.label.shape == (40, 40) and sample.label.dtype == torch.uint8
        shade, counted = sample.rgb[0], sample.label != 255
        light, dark = counted & (shade > 180), counted & (shade < 20)  # near an edge a pixel has both shades, 0 and 200
        assert (sample.label[light] == 20).all() and (sample.label[dark] == 0).all()
        assert (light | dark).sum() > 0.3 * counted.sum() and light.any() and dark.any()
        assert torch.equal(sample.label, examples[t].label)


def test_batches_and_what_is_left_out(masked: MaskDataset, tmp_path: Path) -> None:
    Image.fromarray(board(9, 9)).save(tmp_path / "VOC2012/SegmentationClass/2008_000001.png")
    examples = SegmentationExamples([masked], SegmentationCrops(16), seed=0)
    batch = next(batches(examples, 12, 0, 1, 0))
    assert batch.rgb.shape == (12, 3, 16, 16) and batch.labels.shape == (12, 16, 16)
    assert {key for key, _ in batch.skipped} == {"SegmentationClass/2008_000001.png"}
    views = [sample for batch in stream(SegmentationViews(masked), range(3), 2, 0) for sample in batch.labels]
    assert [int(label["index"]) for label in views] == [0, 2]
    assert all(np.array_equal(label["mask"], masked.mask(int(label["index"]))) for label in views)


def test_views(masked: MaskDataset) -> None:
    own = segmentation_view(masked.read(0))
    assert np.array_equal(own.permute(1, 2, 0).numpy(), np.asarray(masked.read(0)))
    sample = SegmentationViews(masked, shorter=64)[1]
    assert sample.rgb is not None and sample.rgb.shape == (3, 64, 96)
    assert sample.label["size"].tolist() == [64, 96] and sample.label["mask"].shape == (32, 48)
    crops = SegmentationCrops(8, shorter=16, scale=(1, 1), flip=0)
    rgb, _ = crop_with_mask(masked.read(0), Image.fromarray(masked.mask(0)), crops, np.zeros(4))
    want = segmentation_view(masked.read(0), 16)[:, :8, :8].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(np.asarray(rgb) - want).max() <= 2, "a crop at scale 1 is of what is looked at"


def test_real_images(shared_data: Path) -> None:
    masked = open_masked(f"voc:2012:train:{shared_data / 'voc-mini' / 'VOCdevkit'}")
    examples = SegmentationExamples([masked], SegmentationCrops(96, 128), seed=0)
    alone, workers = (list(batches(examples, 8, 0, 2, count)) for count in (0, 1))
    assert all(
        torch.equal(a.rgb, b.rgb) and torch.equal(a.labels, b.labels) for a, b in zip(alone, workers, strict=True)
    )
    values = set(torch.cat([batch.labels for batch in alone]).unique().tolist())
    assert values <= {*range(21), 255} and len(values) > 4


@pytest.mark.parametrize(
    "given", [{"size": 0}, {"shorter": -1}, {"scale": (2.0, 1.0)}, {"scale": (0.0, 1.0)}, {"flip": -0.1}]
)
def test_settings_that_cannot_be(given: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"crops.{next(iter(given))} is "):
        SegmentationCrops(**given)  # type: ignore[arg-type]
