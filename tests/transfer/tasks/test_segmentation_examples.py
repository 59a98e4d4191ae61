"""Examples of segmentation: every pixel of a crop keeps the class that it was drawn with."""

from fractions import Fraction
from math import ceil, floor
from pathlib import Path

import numpy as np
import pytest
import torch
from devkits import write_masks
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pretext.data.batches import Subset, batches, stream
from pretext.data.order import uniforms
from pretext.errors import UserError
from transfer.tasks.segmentation_examples import (
    GRAY,
    SegmentationCrops,
    SegmentationExamples,
    SegmentationViews,
    cropped,
    segmentation_view,
)
from transfer.voc.masks import Masked, open_masked


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
    rgb, classes = cropped(
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
    rgb, classes = cropped(image, mask, SegmentationCrops(size, 0, (scale, scale), 0), uniform)
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
def masked(tmp_path: Path) -> Masked:
    """Three images of large squares, 48 x 32 pixels."""
    write_masks(tmp_path / "VOC2012", {f"2008_{at:06}": board(32, 48, 8 + at) for at in range(3)})
    return open_masked(f"voc:2012:train:{tmp_path}")


def test_scaled_masks_stay_on_their_image(masked: Masked) -> None:
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


def test_batches_and_what_is_left_out(masked: Masked, tmp_path: Path) -> None:
    Image.fromarray(board(9, 9)).save(tmp_path / "VOC2012/SegmentationClass/2008_000001.png")
    examples = SegmentationExamples([masked], SegmentationCrops(16), seed=0)
    batch = next(batches(examples, 12, 0, 1, 0))
    assert batch.rgb.shape == (12, 3, 16, 16) and batch.labels.shape == (12, 16, 16)
    assert {key for key, _ in batch.skipped} == {"SegmentationClass/2008_000001.png"}
    views = [sample for batch in stream(SegmentationViews(masked), range(3), 2, 0) for sample in batch.labels]
    assert [int(label["index"]) for label in views] == [0, 2]
    assert all(np.array_equal(label["mask"], masked.mask(int(label["index"]))) for label in views)


def test_views(masked: Masked) -> None:
    own = segmentation_view(masked, 0)
    assert np.array_equal(own.permute(1, 2, 0).numpy(), np.asarray(masked.read(0)))
    sample = SegmentationViews(masked, shorter=64)[1]
    assert sample.rgb is not None and sample.rgb.shape == (3, 64, 96)
    assert sample.label["size"].tolist() == [64, 96] and sample.label["mask"].shape == (32, 48)
    crops = SegmentationCrops(8, shorter=16, scale=(1, 1), flip=0)
    rgb, _ = cropped(masked.read(0), Image.fromarray(masked.mask(0)), crops, np.zeros(4))
    want = segmentation_view(masked, 0, 16)[:, :8, :8].permute(1, 2, 0).numpy().astype(int)
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
