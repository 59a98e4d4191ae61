"""The threshold at which planted duplicates are counted, by its definition."""

import numpy as np
import pytest

from benchmarks.planted_duplicates import threshold_at


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_is_the_least_with_that_precision(seed: int) -> None:
    rng = np.random.default_rng(seed)
    own = rng.random(60) < 0.4
    cosines = np.round(rng.random(60) + 0.5 * own, 1).astype(np.float32)  # with ties
    possible = [value for value in cosines if own[cosines >= value].mean() >= 0.9]
    assert threshold_at(cosines, own, 0.9) == min(possible, default=float("inf"))
