"""Measures of colored images against their definitions, scikit-image and a matrix root."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pretext.data import Folder
from pretext.errors import UserError
from pretext.gamut import Gamut, bin_centers
from pretint.colorization.scores.images import planes, square
from pretint.colorization.scores.metrics import (
    areas_by_bin,
    balanced_auc,
    colorfulness,
    frechet_distance,
    pixel_areas,
    psnr,
    raw_auc,
    squared_error,
    ssim,
    sums_by_bin,
)


def area(errors: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """The definition: F(t) at 151 thresholds, joined by straight lines."""
    curve = [weights[errors <= t].sum() / weights.sum() for t in range(151)]
    return sum((one + other) / 2 for one, other in pairwise(curve)) / 150


@given(st.lists(st.one_of(st.floats(0, 300, width=32), st.integers(0, 300).map(float)), min_size=1, max_size=40))
def test_an_area_is_that_under_the_curve(errors: list[float]) -> None:
    found = pixel_areas(torch.tensor(errors)).double().mean() / 300
    assert float(found) == pytest.approx(area(np.array(errors), np.ones(len(errors))), abs=1e-12)


def test_of_no_error_and_of_all() -> None:
    assert pixel_areas(torch.tensor([0.0, 150.0, 150.001])).tolist() == [300, 1, 0]


def colors(seed: int, images: int = 5, side: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    truth = torch.randn(images, 2, side, side, generator=rng) * 30
    return truth + torch.randn(truth.shape, generator=rng) * 40, truth


def nearest(truth: torch.Tensor) -> NDArray[np.int64]:
    """By search over all bins."""
    points = truth.permute(0, 2, 3, 1).reshape(-1, 1, 2).numpy()
    return np.asarray(np.square(points - bin_centers()).sum(2).argmin(1))


@pytest.mark.parametrize("weighted", [False, True])
def test_raw_and_balanced_are_their_definitions(weighted: bool) -> None:
    ab, truth = colors(1)
    bins = Gamut(neighbors=1).encode(truth).nearest
    areas = areas_by_bin(ab, truth, bins, 313).numpy()
    pixels = sums_by_bin(torch.ones_like(bins), bins, 313).numpy()
    errors = (ab - truth).norm(dim=1).double().numpy()
    assert raw_auc(areas, pixels) == pytest.approx([area(each.ravel(), np.ones(each.size)) for each in errors])
    own = nearest(truth)
    of_bins = (
        np.random.default_rng(2).uniform(0.1, 9, 313)
        if weighted
        else 1 / np.maximum(np.bincount(own, minlength=313), 1)
    )
    found = balanced_auc(areas, pixels, np.ones((5, 1)), of_bins if weighted else None)
    assert found == pytest.approx([area(errors.ravel(), of_bins[own])])


def test_an_image_drawn_twice_counts_twice() -> None:
    ab, truth = colors(3)
    bins = Gamut(neighbors=1).encode(truth).nearest
    areas = areas_by_bin(ab, truth, bins, 313).numpy()
    pixels = sums_by_bin(torch.ones_like(bins), bins, 313).numpy()
    times = np.array([[2, 0], [0, 0], [1, 1], [0, 4], [1, 0]])
    drawn = [np.repeat(np.arange(5), column) for column in times.T]
    by_hand = [balanced_auc(areas[rows], pixels[rows], np.ones((len(rows), 1)))[0] for rows in drawn]
    assert balanced_auc(areas, pixels, times) == pytest.approx(by_hand)


def test_rare_colors_count_as_much_as_common_ones() -> None:
    truth = torch.zeros(1, 2, 10, 10)
    truth[0, :, 0, 0] = 60.0  # one pixel of a hundred
    bins = Gamut(neighbors=1).encode(truth).nearest
    pixels = sums_by_bin(torch.ones_like(bins), bins, 313).numpy()
    areas = areas_by_bin(torch.zeros_like(truth), truth, bins, 313).numpy()
    rare = (301 - 2 * 85) / 300  # 60 sqrt(2) = 84.9
    assert raw_auc(areas, pixels) == pytest.approx([0.99 + 0.01 * rare])
    assert balanced_auc(areas, pixels, np.ones((1, 1))) == pytest.approx([(1 + rare) / 2])


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


def frechet_by_formula(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    covariances = [np.cov(rows, rowvar=False) for rows in (first, second)]
    means = first.mean(0) - second.mean(0)
    root = sqrtm(covariances[0] @ covariances[1])
    return float(means @ means + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(np.real(root)))


def feature_rows(count: int, width: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width))


@pytest.mark.parametrize(("first", "second", "width"), [(200, 300, 12), (50, 20, 12), (13, 12, 12)])
def test_it_is_its_formula(first: int, second: int, width: int) -> None:
    one, other = feature_rows(first, width, 1), feature_rows(second, width, 2)
    assert frechet_distance(one, other) == pytest.approx(frechet_by_formula(one, other), rel=1e-6)


def test_with_fewer_rows_than_features_it_is_that_of_the_span() -> None:
    one, other = feature_rows(6, 5, 1), feature_rows(7, 5, 2)
    axes = np.linalg.qr(np.random.default_rng(3).normal(size=(40, 5)))[0].T  # the same rows in a space of 40
    assert frechet_distance(one @ axes, other @ axes) == pytest.approx(frechet_by_formula(one, other), rel=1e-6)


def test_gaussians_whose_distance_is_known() -> None:
    # On a line: (m1 - m2)^2 + (s1 - s2)^2.
    one, other = np.array([[0.0], [2.0]]), np.array([[10.0], [14.0], [18.0]])
    assert frechet_distance(one, other) == pytest.approx(13.0**2 + (np.sqrt(2) - 4) ** 2)


def test_of_the_same_rows_and_symmetric() -> None:
    one, other = feature_rows(30, 8, 1).astype(np.float32), feature_rows(9, 8, 2).astype(np.float32)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one))


def test_it_is_biased_upwards_by_few_rows() -> None:
    rng = np.random.default_rng(1)
    few, many = (np.mean([frechet_distance(*rng.normal(size=(2, n, 4))) for _ in range(40)]) for n in (10, 80))
    assert few > 4 * many > 0, "both are of one distribution, whose distance to itself is 0"


def test_one_row_is_refused() -> None:
    with pytest.raises(UserError, match="two images"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))
