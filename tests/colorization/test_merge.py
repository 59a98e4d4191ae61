"""Joining against scikit-image in float64, and enlarging against F.interpolate."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.color import lab2rgb, rgb2lab

from pretint.colorization import merge
from pretint.colorization.merge import Enlarged, map_strips, merge_image, merge_rows


def defined(rows: np.ndarray, ab: np.ndarray) -> np.ndarray:
    """Levels, float64."""
    most = np.iinfo(rows.dtype).max
    rgb = rows / most if rows.ndim == 3 else np.repeat((rows / most)[..., None], 3, axis=2)
    lab = rgb2lab(rgb)
    lab[..., 1:] = ab.transpose(1, 2, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of colors that are clipped
        return np.asarray(lab2rgb(lab) * most)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("gray", [True, False])
@pytest.mark.parametrize("spread", [0, 4, 30, 110])
def test_the_nearest_level_to_scikit_images(dtype: type, gray: bool, spread: float) -> None:
    rng = np.random.default_rng(spread)
    shape = (64, 300) if gray else (64, 300, 3)
    rows = rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    rows[:20] //= 16  # shadows, where both curves of sRGB and of Lab are straight
    rows[20], rows[21] = 0, np.iinfo(dtype).max
    ab = rng.normal(0, spread, (2, 64, 300)).astype(np.float32)
    found = merge_rows(rows, ab)
    assert found.dtype == dtype and found.shape == (64, 300, 3)
    assert np.abs(found - defined(rows, ab)).max() <= 0.51


def test_every_gray_level_without_color_stays_itself() -> None:
    for dtype in (np.uint8, np.uint16):
        levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)[None]
        same = merge_rows(levels, np.zeros((2, 1, levels.shape[1]), np.float32))
        # The white of the matrix is not exactly that of the constants: scikit-image's own gray is a shade off too.
        assert np.abs(same.astype(int) - levels[..., None]).max() <= (1 if dtype == np.uint8 else 3)


@given(st.tuples(*[st.integers(1, 40)] * 4), st.integers(0, 99))
def test_enlarged_as_torch_does(shape: tuple[int, int, int, int], seed: int) -> None:
    h, w, height, width = shape
    ab = torch.randn(1, 2, h, w, generator=torch.Generator().manual_seed(seed)) * 50
    whole = torch.nn.functional.interpolate(ab.double(), (height, width), mode="bilinear", align_corners=False)[0]
    enlarged = Enlarged(ab, (width, height))
    middle = height // 2
    found = np.concatenate([enlarged.rows(*part) for part in ((0, middle), (middle, height)) if part[0] < part[1]], 1)
    assert np.abs(found - whole.numpy()).max() < 1e-3


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_image_is_its_strips(threads: int, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "_STRIP", 500)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(merge.os, "sched_getaffinity", lambda pid: range(8))
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (97, 61, 3), dtype=np.uint8)).convert(mode)
    ab = torch.randn(1, 2, 7, 5) * 20
    whole = merge_rows(np.asarray(image), Enlarged(ab, image.size).rows(0, 97))
    assert np.array_equal(np.asarray(merge_image(image, ab)), whole)
    strips = list(map_strips((61, 97), lambda top, bottom: (top, bottom)))
    assert strips[0][0] == 0 and strips[-1][1] == 97
    assert all(one[1] == other[0] for one, other in pairwise(strips))
