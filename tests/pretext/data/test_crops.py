"""Crops against their definition, and settings that make none."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_dataset import Array
from PIL import Image

from pretext.data.batches import CropSettings, center_crop, random_crop
from pretext.data.order import uniforms
from pretext.errors import UserError


def ramp(width: int, height: int) -> Image.Image:
    """Red is x, green is y: a crop tells where it is from."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack((x, y, 0 * x), -1).astype(np.uint8))


def shown_box(crop: Array) -> tuple[float, float, float, float]:
    """Left, top, width, height shown of a ``ramp``, to 2 pixels as levels are rounded. Negative width: mirrored."""
    size = len(crop)
    inner = slice(2, -2)  # the filter stops at the image's border
    centers = np.arange(size)[inner] + 0.5
    (w, left), (h, top) = (
        np.polyfit(centers / size, line[inner] + 0.5, 1)
        for line in (crop[..., 0].mean(0, dtype=float), crop[..., 1].mean(1, dtype=float))
    )
    return left, top, w, h


@pytest.mark.parametrize("flip", [0.0, 1.0])
@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=5, max_size=5))
def test_five_numbers_are_area_ratio_left_top_and_mirror(flip: float, numbers: list[float]) -> None:
    width, height = 250, 200
    crop = CropSettings(size=48, area=(0.1, 0.4), ratio=(0.75, 4 / 3), flip=flip)
    left, top, w, h = shown_box(random_crop(ramp(width, height), crop, np.array(numbers)))
    area = (0.1 + 0.3 * numbers[0]) * width * height
    ratio = 0.75 * (16 / 9) ** numbers[1]
    expected_w, expected_h = math.sqrt(area * ratio), math.sqrt(area / ratio)
    expected_left, expected_top = (width - expected_w) * numbers[2], (height - expected_h) * numbers[3]
    if flip:
        expected_left, expected_w = expected_left + expected_w, -expected_w
    assert (left, top, w, h) == pytest.approx((expected_left, expected_top, expected_w, expected_h), abs=2)


def test_distribution_of_crops() -> None:
    crop = CropSettings(size=32, area=(0.1, 0.4), ratio=(0.5, 2.0), flip=0.3)
    image = ramp(256, 256)
    boxes = np.array([shown_box(random_crop(image, crop, uniforms(0, t, 5))) for t in range(800)])
    left, top, w, h = boxes.T
    mirrored = w < 0
    assert mirrored.mean() == pytest.approx(0.3, abs=0.05)
    left, w = np.where(mirrored, left + w, left), np.abs(w)
    shares = {
        "area": (w * h / 256**2 - 0.1) / 0.3,
        "ratio": (np.log2(w / h) + 1) / 2,
        "left": left / (256 - w),
        "top": top / (256 - h),
    }
    for name, values in shares.items():  # Kolmogorov and Smirnov's distance to the uniform distribution
        distance = np.abs(np.sort(values) - (np.arange(800) + 0.5) / 800).max()
        assert distance < 1.95 / math.sqrt(800), name  # one in 1000
    correlation = np.corrcoef([*shares.values(), mirrored])[np.triu_indices(5, 1)]
    assert np.abs(correlation).max() < 4 / math.sqrt(800)


def test_crop_is_plain_resizing() -> None:
    random = np.random.default_rng(1)
    square = Image.fromarray(random.integers(0, 256, (60, 60, 3), dtype=np.uint8))
    everything = CropSettings(size=60, area=(1, 1), ratio=(1, 1), flip=0)
    numbers = np.array([0.3, 0.7, 0.2, 0.9, 0.5])
    assert (random_crop(square, everything, numbers) == np.asarray(square)).all()
    mirror = CropSettings(size=60, area=(1, 1), ratio=(1, 1), flip=1)
    assert (random_crop(square, mirror, numbers) == np.asarray(square)[:, ::-1]).all()
    smaller = CropSettings(size=20, area=(1, 1), ratio=(1, 1), flip=0)
    expected = np.asarray(square.resize((20, 20), Image.Resampling.BILINEAR))
    assert (random_crop(square, smaller, numbers) == expected).all()
    # A quarter of the area, from the middle: cut out, then resized; but the filter sees beyond the cut.
    quarter = CropSettings(size=10, area=(0.25, 0.25), ratio=(1, 1), flip=0)
    got = random_crop(square, quarter, np.array([0, 0, 0.5, 0.5, 0.5]))
    cut = square.crop((15, 15, 45, 45)).resize((10, 10), Image.Resampling.BILINEAR)
    assert np.abs(got.astype(int) - np.asarray(cut))[1:-1, 1:-1].max() <= 1
    # Shrunk a lot, in two steps: nearly the same, for less work.
    y, x = np.mgrid[0:1000, 0:1000]
    waves = 127 + 60 * (np.sin(x / 130) + np.cos(y / 90))
    large = Image.fromarray(np.stack([waves] * 3, -1).astype(np.uint8))
    expected = np.asarray(large.resize((20, 20), Image.Resampling.BILINEAR))
    assert np.abs(random_crop(large, smaller, numbers).astype(int) - expected).max() <= 2


ENDS = st.sampled_from([0.0, 2.0**-53, 0.5, 1 - 2.0**-53])


@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.lists(ENDS | st.floats(0, 1, exclude_max=True), min_size=5, max_size=5),
    st.sampled_from([(0.01, 0.02), (0.35, 1.0), (1.0, 1.0)]),
    st.sampled_from([(0.75, 4 / 3), (0.01, 100.0), (20.0, 20.0)]),
)
def test_crops_lie_inside(
    width: int, height: int, numbers: list[float], area: tuple[float, float], ratio: tuple[float, float]
) -> None:
    crop = CropSettings(size=7, area=area, ratio=ratio)
    got = random_crop(Image.new("RGB", (width, height), (200, 100, 50)), crop, np.array(numbers))
    assert got.shape == (7, 7, 3) and got.dtype == np.uint8
    assert (got == (200, 100, 50)).all()  # Pillow refuses a box that ends outside


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 2), (2500, 1700)])
def test_crops_of_odd_images(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (1, 2, 3))
    for t in range(8):
        for edge in (1, 64):
            got = random_crop(image, CropSettings(size=edge), uniforms(0, t, 5))
            assert got.shape == (edge, edge, 3)
            assert (got == (1, 2, 3)).all()


def test_a_part_that_does_not_fit_is_narrowed() -> None:
    crop = CropSettings(size=40, area=(0.9, 0.9), ratio=(1, 1), flip=0)
    left, top, w, h = shown_box(random_crop(ramp(200, 80), crop, np.array([0.5, 0.5, 0.25, 0.5, 0.5])))
    side = math.sqrt(0.9 * 200 * 80)  # 120: higher than the image
    assert (left, top, w, h) == pytest.approx(((200 - side) / 4, 0, side, 80), abs=1.2)


def test_center_crop() -> None:
    random = np.random.default_rng(2)
    for height, width in ((64, 101), (101, 64), (64, 64)):
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        top, left = (height - 64) // 2, (width - 64) // 2
        square = image[top : top + 64, left : left + 64]
        assert (center_crop(Image.fromarray(image), 64) == square).all()
        expected = Image.fromarray(square).resize((16, 16), Image.Resampling.BICUBIC)
        got = center_crop(Image.fromarray(image), 16)
        assert np.abs(got.astype(int) - np.asarray(expected))[2:-2, 2:-2].max() <= 1
    assert center_crop(Image.new("RGB", (1, 9)), 5).shape == (5, 5, 3)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": -3},
        {"area": (0.0, 1.0)},
        {"area": (-0.2, 1.0)},
        {"area": (0.8, 0.3)},
        {"area": (0.5, 1.5)},
        {"area": (NAN, 1.0)},
        {"area": (0.5, NAN)},
        {"ratio": (0.0, 1.0)},
        {"ratio": (-1.0, 1.0)},
        {"ratio": (2.0, 1.0)},
        {"ratio": (NAN, 1.0)},
        {"ratio": (1.0, NAN)},
        {"ratio": (1.0, INF)},
        {"flip": -0.1},
        {"flip": 1.1},
        {"flip": NAN},
    ],
    ids=str,
)
def test_nonsense_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"crop\.{next(iter(wrong))}"):
        CropSettings(**wrong)


def test_settings_at_their_limits() -> None:
    CropSettings(size=1, area=(1.0, 1.0), ratio=(2.0, 2.0), flip=0)
    CropSettings(area=(1e-3, 1.0), ratio=(0.1, 10.0), flip=1)


def test_squashed_crops_are_crops_of_a_squashed_image() -> None:
    """The publications resize to a square first; a quarter of the square is half of each side of the image."""
    ramp = np.zeros((40, 80, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(80)[None] * 3, np.arange(40)[:, None] * 6
    crop = CropSettings(size=20, area=(0.25, 0.25), ratio=(1, 1), flip=0, squash=True)
    found = random_crop(Image.fromarray(ramp), crop, np.array([0.5, 0.5, 0.0, 0.0, 1.0]))
    expected = Image.fromarray(ramp).resize((20, 20), Image.Resampling.BILINEAR, box=(0, 0, 40, 20))
    assert np.array_equal(found, np.asarray(expected))
