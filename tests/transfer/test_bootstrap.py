"""Intervals and tests against what they are by definition: literal resampling, all permutations, scikit-learn."""

from itertools import product

import numpy as np
import pytest
import torch
from fake_results import ranking, truth
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest, ttest_ind
from sklearn.metrics import average_precision_score

from transfer import bootstrap
from transfer.bootstrap import (
    accuracy,
    centered,
    difference,
    estimate_mean,
    holm,
    mcnemar,
    percentiles,
    sign_flip_p_value,
    welch,
)
from transfer.metrics.classification import (
    Ranking,
    average_precision,
    mean_average_precision,
    resampled_map,
    swaps,
)


def literal(values: NDArray[np.float64]) -> tuple[float, float]:
    rng = np.random.default_rng(1)
    means = values[rng.integers(0, len(values), (20_000, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def test_accuracy_equals_resampling() -> None:
    correct = np.random.default_rng(0).random(300) < 0.7
    estimate = accuracy(correct)
    assert estimate.value == correct.mean()
    assert estimate[1:] == pytest.approx(literal(correct.astype(float)), abs=0.006)
    assert accuracy(torch.from_numpy(correct)) == estimate == accuracy(correct), "the same numbers at every call"


def test_several_seeds_are_resampled_jointly() -> None:
    hard = np.random.default_rng(0).random(300)  # a hard image is hard for every seed
    values = np.mean([np.random.default_rng(seed).random(300) * 0.3 + hard < 0.8 for seed in range(3)], axis=0)
    estimate = estimate_mean(values)
    assert estimate.value == pytest.approx(values.mean(), abs=1e-12)
    assert estimate[1:] == pytest.approx(literal(values), abs=0.006)


def test_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means of real numbers too, drawn in several goes."""
    values = np.random.default_rng(0).random(200)
    monkeypatch.setattr(bootstrap, "_CELLS", 200 * 999)
    estimate = estimate_mean(values)
    assert estimate.value == pytest.approx(values.mean(), abs=1e-9)
    assert estimate[1:] == pytest.approx(literal(values), abs=0.003)


def test_difference_is_paired() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(300) < 0.7
    second = first ^ (rng.random(300) < 0.1)  # mostly the same answers
    estimate = difference(first, second)
    assert estimate.value == pytest.approx(first.mean() - second.mean(), abs=1e-12)
    assert estimate[1:] == pytest.approx(literal(first.astype(float) - second), abs=0.006)
    apart = accuracy(first).high - accuracy(first).low
    assert estimate.high - estimate.low < apart, "pairing pays"


def test_certain_cases_have_a_width() -> None:
    right = np.ones(50, dtype=bool)
    exact = binomtest(50, 50).proportion_ci(0.95, "exact")
    assert accuracy(right) == pytest.approx((1, exact.low, 1))
    assert accuracy(~right) == pytest.approx((0, 0, 1 - exact.low))
    assert difference(right, right) == pytest.approx((0, exact.low - 1, 1 - exact.low))
    assert difference(right, ~right)[0] == 1 and difference(right, ~right).high == 1
    assert accuracy(right[:1]) == pytest.approx((1, 0.025, 1))
    assert estimate_mean(np.full(30, 0.1 + 0.2 - 0.2)).low < 0.1 < estimate_mean(np.full(30, 0.1)).high


def test_coverage_of_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 2000)
    rng = np.random.default_rng(5)
    found = [accuracy(rng.random(400) < 0.6) for _ in range(600)]
    assert 0.925 < np.mean([one.low <= 0.6 <= one.high for one in found]) < 0.975


def test_coverage_of_a_difference_of_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 2000)
    rng = np.random.default_rng(6)
    inside = 0
    for _ in range(400):
        hard = rng.random((250, 1))
        first, second = ((rng.random((250, 3)) + hard < share).mean(1) for share in (1.1, 1.0))
        low, high = estimate_mean(second - first, lowest=-1)[1:]
        inside += low <= -0.095 <= high  # P(sum of two uniforms < 1) is 0.5, < 1.1 is 0.595
    assert 0.92 < inside / 400 < 0.975


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 10_000))
def test_average_precision_is_that_of_scikit_learn(count: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = rng.integers(-1, 2, count).astype(np.int8)
    scores = rng.integers(0, levels, count).astype(np.float32) / 7  # ties
    counted = known >= 0
    if not (known == 1).any():
        assert np.isnan(average_precision(scores, known))
        return
    wanted = average_precision_score(known[counted], scores[counted])
    assert average_precision(scores, known) == pytest.approx(wanted, abs=1e-12)
    weights = rng.integers(0, 4, count)
    if weights[known == 1].any():
        wanted = average_precision_score(known[counted], scores[counted], sample_weight=weights[counted])
        assert Ranking(scores, known).average_precision(weights[:, None].astype(float))[0] == pytest.approx(
            wanted, abs=1e-12
        )


def test_classes_without_a_positive_are_left_out() -> None:
    known = truth()
    scores = np.random.default_rng(0).random(known.shape)
    alone = mean_average_precision(scores[:, :2], known[:, :2])
    known[known[:, 2] == 1, 2] = 0
    assert mean_average_precision(scores, known) == alone


def test_resampled_map_is_literal_resampling(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = ranking(1.0, 0, truth(120, 4))
    scores, known = outcome.scores, outcome.truth
    assert scores is not None and known is not None
    known[:, 3] = np.where(np.arange(120) == 7, 1, 0)  # one positive: a third of the resamples have none
    draws = resampled_map(scores, known)
    rng = np.random.default_rng(0)
    for draw in draws[:50]:
        picked = rng.integers(0, 120, 120)
        each = []
        for scored, known_of in zip(scores[picked].T, known[picked].T, strict=True):
            if (known_of == 1).any():
                each.append(average_precision_score(known_of[known_of >= 0], scored[known_of >= 0]))
        assert draw == pytest.approx(np.mean(each), abs=1e-5)
    monkeypatch.setattr(bootstrap, "_CELLS", 120 * 77)
    assert np.allclose(resampled_map(scores, known), draws, atol=1e-6), "whatever is drawn at once"


def test_coverage_of_mean_average_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what the mean over many test sets is; uncentered intervals lie too high."""
    monkeypatch.setattr(bootstrap, "SLOW_RESAMPLES", 250)
    rng = np.random.default_rng(2)

    def drawn() -> tuple[NDArray[np.float64], NDArray[np.int8]]:
        known = (rng.random((400, 6)) < 0.08).astype(np.int8)
        return known + rng.normal(size=known.shape), known

    wanted = np.mean([mean_average_precision(*drawn()) for _ in range(400)])
    inside = high = 0
    for _ in range(150):
        scores, known = drawn()
        value, draws = mean_average_precision(scores, known), resampled_map(scores, known)
        one = centered(value, draws)
        inside += one.low <= wanted <= one.high
        high += percentiles(value, draws).low > wanted
    assert 0.88 < inside / 150 <= 1
    assert high > 150 * 0.05, "twice what the lower end of an interval may miss"


def test_a_centered_interval_stays_within_what_is_possible() -> None:
    draws = np.array([0.9, 1.0, 1.0, 1.0])
    assert centered(1.0, draws).high == 1
    assert centered(0.5, np.full(9, 0.7)) == (0.5, 0.5, 0.5)


def test_mcnemar_is_a_sign_test() -> None:
    first = np.array([1] * 10 + [0] * 2 + [1] * 30, dtype=bool)
    second = np.array([0] * 10 + [1] * 2 + [1] * 30, dtype=bool)
    assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(158 / 4096)  # (1 + 12 + 66) * 2 / 2^12
    assert mcnemar(first, first) == 1


def test_sign_flips_are_all_sign_flips() -> None:
    differences = np.array([1, 1 / 3, -1 / 3, 2 / 3, 1, 0, 0, 1 / 3, 1, -2 / 3])
    sums = np.array(list(product((-1, 1), repeat=10))) @ differences
    wanted = np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-9)
    assert sign_flip_p_value(differences) == pytest.approx(wanted, abs=0.005)
    assert sign_flip_p_value(-differences) == pytest.approx(wanted, abs=0.005)
    assert sign_flip_p_value(np.zeros(5)) == 1
    assert sign_flip_p_value(np.ones(60)) == 1 / (1 + bootstrap.FLIPS), "never 0"


def test_sign_flips_agree_with_mcnemar() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random(200) < 0.6, rng.random(200) < 0.5
    assert sign_flip_p_value(first * 1.0 - second) == pytest.approx(mcnemar(first, second), abs=0.005)


def swapped(
    one: NDArray[np.float64], other: NDArray[np.float64], known: NDArray[np.int8], which: NDArray[np.bool_]
) -> float:
    first, second = (np.where(which[:, None], a, b) for a, b in ((other, one), (one, other)))
    return mean_average_precision(first, known) - mean_average_precision(second, known)


def test_swaps_are_all_swaps() -> None:
    rng = np.random.default_rng(4)
    known = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [0, -1], [1, 0], [0, 1], [0, 0], [1, 0]], dtype=np.int8)
    one = np.argsort(np.argsort(known + 0.4 * rng.normal(size=known.shape), axis=0), axis=0).astype(float)
    other = np.argsort(np.argsort(rng.normal(size=known.shape), axis=0), axis=0).astype(float)
    # The rank of what is not counted is taken out, so that ranks are those of the others.
    for side in (one, other):
        side[:4, 1] -= side[:4, 1] > side[4, 1]
        side[5:, 1] -= side[5:, 1] > side[4, 1]
    every = [swapped(one, other, known, np.array(which)) for which in product((False, True), repeat=9)]
    wanted = np.mean(np.abs(every) >= abs(swapped(one, other, known, np.zeros(9, dtype=bool))) - 1e-9)
    assert swaps([(one, other)], known, draws=5000) == pytest.approx(wanted, abs=0.025)


def test_swaps_do_not_ask_for_units() -> None:
    known = truth(200)
    rng = np.random.default_rng(7)
    one, other = (known == 1) + rng.normal(size=known.shape), (known == 1) + rng.normal(size=known.shape)
    assert swaps([(one, other)], known) == swaps([(one, np.exp(5 * other) * 1e6)], known)
    assert swaps([(one, one)], known) == 1
    assert swaps([(one, 10 * one + 4 * (known == 1))], known) == 1 / (1 + bootstrap.SWAPS)


def test_level_of_swaps() -> None:
    rng = np.random.default_rng(8)
    known = truth(80)
    found = []
    for _ in range(120):
        shared = (known == 1) + rng.normal(size=known.shape)
        one, other = shared + rng.normal(size=known.shape), shared + rng.normal(size=known.shape)
        found.append(swaps([(one, other)], known, draws=99))
    assert 0.01 <= np.mean(np.array(found) <= 0.1) < 0.19


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_by_its_definition(p_values: list[float]) -> None:
    """Adjusted p of rank i, from the least: the greatest of (m - j + 1) p_j over ranks j up to i, at most 1."""
    adjusted = holm(p_values)
    ordered = sorted(p_values)
    m = len(ordered)
    for p, found in zip(p_values, adjusted, strict=True):
        rank = ordered.index(p)
        ties = ordered.count(p)
        wanted = [min(1, max((m - j) * ordered[j] for j in range(r + 1))) for r in range(rank, rank + ties)]
        assert any(found == pytest.approx(one) for one in wanted)
    rejected = 0  # the procedure itself: step down, and stop at the first that is not rejected
    while rejected < m and ordered[rejected] * (m - rejected) <= 0.05:
        rejected += 1
    assert sum(p <= 0.05 for p in adjusted) == rejected


def test_welch_is_that_of_scipy() -> None:
    first, second = [0.61, 0.63, 0.60], [0.66, 0.69, 0.64, 0.70]
    found = ttest_ind(second, first, equal_var=False).confidence_interval()
    assert welch(first, second) == pytest.approx((np.mean(second) - np.mean(first), found.low, found.high))
    assert welch([0.5], second) is None and welch([0.5, 0.5], [0.6, 0.6]) is None
