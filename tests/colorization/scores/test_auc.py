"""AuC against its definition: thresholds one by one, weights pixel by pixel."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pretext.gamut import Gamut, bin_centers
from pretint.colorization.scores.auc import areas_by_bin, balanced_auc, pixel_areas, raw_auc, sums_by_bin


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


def test_a_image_drawn_twice_counts_twice() -> None:
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
