"""The Frechet distance against its formula with a matrix root."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from pretext.errors import UserError
from pretint.colorization.scores.frechet import frechet_distance


def by_formula(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    covariances = [np.cov(rows, rowvar=False) for rows in (first, second)]
    means = first.mean(0) - second.mean(0)
    root = sqrtm(covariances[0] @ covariances[1])
    return float(means @ means + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(np.real(root)))


def rows(count: int, width: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width))


@pytest.mark.parametrize(("first", "second", "width"), [(200, 300, 12), (50, 20, 12), (13, 12, 12)])
def test_it_is_its_formula(first: int, second: int, width: int) -> None:
    one, other = rows(first, width, 1), rows(second, width, 2)
    assert frechet_distance(one, other) == pytest.approx(by_formula(one, other), rel=1e-6)


def test_with_fewer_rows_than_features_it_is_that_of_the_span() -> None:
    one, other = rows(6, 5, 1), rows(7, 5, 2)
    axes = np.linalg.qr(np.random.default_rng(3).normal(size=(40, 5)))[0].T  # the same rows in a space of 40
    assert frechet_distance(one @ axes, other @ axes) == pytest.approx(by_formula(one, other), rel=1e-6)


def test_gaussians_whose_distance_is_known() -> None:
    # On a line: (m1 - m2)^2 + (s1 - s2)^2.
    one, other = np.array([[0.0], [2.0]]), np.array([[10.0], [14.0], [18.0]])
    assert frechet_distance(one, other) == pytest.approx(13.0**2 + (np.sqrt(2) - 4) ** 2)


def test_of_the_same_rows_and_symmetric() -> None:
    one, other = rows(30, 8, 1).astype(np.float32), rows(9, 8, 2).astype(np.float32)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one))


def test_it_is_biased_upwards_by_few_rows() -> None:
    rng = np.random.default_rng(1)
    few, many = (np.mean([frechet_distance(*rng.normal(size=(2, n, 4))) for _ in range(40)]) for n in (10, 80))
    assert few > 4 * many > 0, "both are of one distribution, whose distance to itself is 0"


def test_one_row_is_refused() -> None:
    with pytest.raises(UserError, match="two images"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))
