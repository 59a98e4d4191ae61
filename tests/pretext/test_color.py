"""Lab against scikit-image, over all of sRGB and far outside of it."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import lab2rgb, rgb2lab
from torch import Tensor

from pretext.color import lab_to_rgb, rgb_to_ab, rgb_to_lab, rgb_to_lightness

Array = np.ndarray[Any, Any]


def image(values: Array) -> Tensor:
    """(N, 3) as (3, 1, N)."""
    return torch.from_numpy(values).T[:, None]


def list_of(pixels: Tensor) -> Array:
    """(3, 1, N) as (N, 3)."""
    return pixels[:, 0].T.numpy()


def lab2rgb_quietly(lab: Array) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it counts the negative Z it clips
        result: Array = lab2rgb(lab)
    return result


@pytest.fixture(scope="module")
def grid() -> Array:
    """Every fifth level of each channel, both ends included, uint8 (N, 3)."""
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)


def test_lab_of_all_colors_is_that_of_scikit_image() -> None:
    green, blue = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")
    for first in range(0, 256, 8):
        red = np.arange(first, first + 8, dtype=np.uint8)[:, None, None]
        rgb = np.stack(np.broadcast_arrays(red, green, blue), -1).reshape(-1, 3)
        got = rgb_to_lab(image(rgb))
        assert got.dtype == torch.float32
        expected = rgb2lab(rgb.astype(np.float32) / 255)
        assert np.abs(list_of(got) - expected).max() < 1e-3, first


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-3), (np.float64, 1e-9)])
def test_lab_of_floats_is_that_of_scikit_image(grid: Array, dtype: type, tolerance: float) -> None:
    between = np.random.default_rng(0).random((50_000, 3))
    dark = between * 0.1  # where the transfer curve and the cube root change to lines
    rgb = np.concatenate((grid / 255, between, dark)).astype(dtype)
    got = rgb_to_lab(image(rgb))
    assert list_of(got).dtype == dtype
    assert np.abs(list_of(got) - rgb2lab(rgb.astype(np.float64))).max() < tolerance


def test_published_colors() -> None:
    rgb = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)
    lab = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86]]
    assert np.abs(list_of(rgb_to_lab(image(rgb))) - lab).max() < 0.01


@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 3), (2, 1, 2)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_any_leading_shape(leading: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    rgb = torch.randint(0, 256, (*leading, 3, 4, 5), generator=generator)
    rgb = rgb.byte() if dtype == torch.uint8 else (rgb / 255).to(dtype)
    as_floats = rgb / 255 if dtype == torch.uint8 else rgb
    pixels_last = as_floats.movedim(-3, -1).double().numpy()
    expected = torch.from_numpy(rgb2lab(pixels_last)).movedim(-1, -3)
    lab = rgb_to_lab(rgb)
    assert lab.shape == rgb.shape
    assert (lab - expected).abs().max() < 1e-3
    assert torch.equal(rgb_to_ab(rgb), lab[..., 1:, :, :])
    lightness = rgb_to_lightness(rgb)
    assert lightness.shape == (*leading, 1, 4, 5)
    assert torch.equal(lightness, lab[..., :1, :, :])
    back = lab_to_rgb(lab)
    assert back.shape == rgb.shape
    assert (back - as_floats).abs().max() < 1e-4


def test_memory_layout_does_not_matter() -> None:
    rgb = torch.randint(0, 256, (2, 3, 6, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    for other in (rgb.contiguous(memory_format=torch.channels_last), rgb.mT.contiguous().mT):
        assert (rgb_to_lab(other) - rgb_to_lab(rgb)).abs().max() < 2e-4
    assert (rgb_to_lab(rgb[..., ::2, ::3]) - rgb_to_lab(rgb)[..., ::2, ::3]).abs().max() < 2e-4


def test_rgb_of_lab_is_that_of_scikit_image_in_and_out_of_gamut() -> None:
    random = np.random.default_rng(3)
    lab = random.uniform((-5, -128, -128), (105, 128, 128), (100_000, 3))
    lab[:1000, 0] = 0
    lab[1000:2000, 0] = 100
    lab[2000:4000] = random.uniform((0, -8, -8), (12, 8, 8), (2000, 3))  # around the curves' linear parts
    expected = lab2rgb_quietly(lab)
    outside = ((expected == 0) | (expected == 1)).any(1).mean()
    assert 0.5 < outside < 0.95  # both kinds are there
    for values, tolerance in ((lab, 1e-9), (lab.astype(np.float32), 1e-4)):
        got = list_of(lab_to_rgb(image(values)))
        assert got.dtype == values.dtype
        assert got.min() == 0 and got.max() == 1
        assert np.abs(got - expected).max() < tolerance


def test_there_and_back(grid: Array) -> None:
    back = list_of(lab_to_rgb(rgb_to_lab(image(grid))))
    assert (np.rint(back * 255) == grid).all()
    exact = list_of(lab_to_rgb(rgb_to_lab(image(grid / 255.0))))
    assert np.abs(exact - grid / 255.0).max() < 2e-6  # the two transfer curves meet only to that


@given(st.tuples(*[st.floats(0, 1, width=32)] * 3))
def test_every_float_color(rgb: tuple[float, float, float]) -> None:
    value = np.array([rgb], dtype=np.float32)
    assert np.abs(list_of(rgb_to_lab(image(value))) - rgb2lab(value.astype(np.float64))).max() < 1e-3


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted(half: torch.dtype) -> None:
    rgb = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(4)).to(half)
    for convert in (rgb_to_lab, rgb_to_lightness, rgb_to_ab):
        assert convert(rgb).dtype == torch.float32
        assert torch.equal(convert(rgb), convert(rgb.float()))
    lab = rgb_to_lab(rgb).to(half)
    assert lab_to_rgb(lab).dtype == torch.float32
    assert torch.equal(lab_to_rgb(lab), lab_to_rgb(lab.float()))


def test_gradients() -> None:
    inside = torch.rand(3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 0.8 + 0.1
    assert torch.autograd.gradcheck(rgb_to_lab, inside.requires_grad_())
    assert torch.autograd.gradcheck(lab_to_rgb, rgb_to_lab(inside).detach().requires_grad_())


@pytest.mark.parametrize("level", [0.0, 1e-8, 0.04045, 1.0])
def test_gradients_at_the_ends_are_finite(level: float) -> None:
    rgb = torch.full((3, 1, 1), level, requires_grad=True)
    rgb_to_lab(rgb).sum().backward()
    assert rgb.grad is not None and rgb.grad.isfinite().all() and rgb.grad.any()
    lab = rgb_to_lab(rgb.detach()).requires_grad_()
    lab_to_rgb(lab).sum().backward()
    assert lab.grad is not None and lab.grad.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    rgb = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(6))
    for values in (rgb, rgb / 255, rgb.double() / 255):
        there = rgb_to_lab(values.cuda())
        assert there.is_cuda
        assert (there.cpu() - rgb_to_lab(values)).abs().max() < 1e-3
        assert (lab_to_rgb(there).cpu() - rgb / 255).abs().max() < 1e-4
