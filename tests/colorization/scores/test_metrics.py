"""Measures of RGB images against scikit-image and against their formulas."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pretext.data import Folder
from pretext.errors import UserError
from pretint.colorization.scores.images import planes, square
from pretint.colorization.scores.metrics import colorfulness, psnr, squared_error, ssim

Pixels = NDArray[np.uint8]


def noise(seed: int, shape: tuple[int, int] = (37, 52)) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def blurred(image: Pixels, seed: int) -> Pixels:
    moved = image.astype(int) + np.random.default_rng(seed).integers(-20, 21, image.shape)
    return np.asarray(np.clip(moved, 0, 255), np.uint8)


CASES = [
    (noise(1), noise(2)),
    (noise(1), blurred(noise(1), 3)),
    (skimage.data.astronaut()[100:220, 60:200], blurred(skimage.data.astronaut()[100:220, 60:200], 4)),
    (np.full((20, 20, 3), 7, np.uint8), np.full((20, 20, 3), 9, np.uint8)),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_psnr_and_ssim_are_those_of_scikit_image(case: int) -> None:
    first, second = CASES[case]
    one, other = planes([first]), planes([second])
    expected = structural_similarity(
        first, second, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(one, other).tolist() == pytest.approx([expected], abs=1e-9)
    assert psnr(squared_error(one, other)).tolist() == pytest.approx(
        [peak_signal_noise_ratio(first, second, data_range=255)], abs=1e-9
    )


def test_the_same_image() -> None:
    same = planes([noise(5)])
    assert ssim(same, same).tolist() == [1.0]
    assert squared_error(same, same).tolist() == [0.0]
    assert psnr(squared_error(same, same)).tolist() == [float("inf")]


def test_a_batch_is_its_images() -> None:
    first, second = planes([noise(1), noise(2)]), planes([noise(3), noise(4)])
    for measure in (squared_error, ssim):
        whole = measure(first, second).tolist()
        assert whole == [float(measure(first[i : i + 1], second[i : i + 1])[0]) for i in range(2)]


def by_formula(image: Pixels, absolute: bool) -> float:
    red, green, blue = image.astype(np.float64).reshape(-1, 3).T
    rg, yb = red - green, 0.5 * (red + green) - blue
    if absolute:
        rg, yb = np.abs(rg), np.abs(yb)
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


@pytest.mark.parametrize("absolute", [False, True])
def test_colorfulness_is_its_formula(absolute: bool) -> None:
    images = [noise(1), noise(2), skimage.data.coffee()[:37, :52]]
    found = colorfulness(planes(images), absolute).tolist()
    assert found == pytest.approx([by_formula(each, absolute) for each in images], rel=1e-12)


def test_gray_has_no_colorfulness_and_the_two_differ() -> None:
    gray = np.repeat(noise(1)[..., :1], 3, axis=2)
    assert colorfulness(planes([gray])).tolist() == [0.0]
    both = [float(colorfulness(planes([noise(1)]), absolute)[0]) for absolute in (False, True)]
    assert both[0] > both[1] + 1


def test_of_real_images(shared_data: Path) -> None:
    folder = Folder(shared_data / "imagenet-sample")
    images = [square(folder.read(index), 96) for index in (0, 5, 9)]
    others = [blurred(each, 1) for each in images]
    expected = [
        structural_similarity(
            a, b, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for a, b in zip(images, others, strict=True)
    ]
    assert ssim(planes(images), planes(others)).tolist() == pytest.approx(expected, abs=1e-9)
    for absolute in (False, True):
        expected = [by_formula(each, absolute) for each in images]
        assert colorfulness(planes(images), absolute).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("measure", [squared_error, ssim])
def test_sizes_that_differ_are_refused(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(UserError, match=r"\(37, 52\) and \(37, 40\) pixels"):
        measure(planes([noise(1)]), planes([noise(1, (37, 40))]))


def test_too_small_for_the_window() -> None:
    with pytest.raises(UserError, match="11 pixels"):
        ssim(planes([noise(1, (10, 40))]), planes([noise(2, (10, 40))]))
