"""The drawn distributions are those of resampling pictures, done literally."""

import numpy as np
import torch

from transfer.intervals import accuracy, difference


def literal(values: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(1)
    means = values[rng.integers(0, len(values), (20_000, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def test_accuracy_equals_resampling() -> None:
    correct = torch.rand(300, generator=torch.Generator().manual_seed(0)) < 0.7
    estimate = accuracy(correct)
    low, high = literal(correct.numpy().astype(float))
    assert estimate.value == correct.double().mean()
    assert abs(estimate.low - low) < 0.006 and abs(estimate.high - high) < 0.006


def test_difference_is_paired() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(300, generator=generator) < 0.7
    second = first ^ (torch.rand(300, generator=generator) < 0.1)  # mostly the same answers
    estimate = difference(first, second)
    low, high = literal(first.numpy().astype(float) - second.numpy().astype(float))
    assert estimate.value == (first.double() - second.double()).mean()
    assert abs(estimate.low - low) < 0.006 and abs(estimate.high - high) < 0.006
    apart = accuracy(first).high - accuracy(first).low
    assert estimate.high - estimate.low < apart, "pairing pays"


def test_certain_cases() -> None:
    right = torch.ones(50, dtype=torch.bool)
    assert accuracy(right) == (1, 1, 1)
    assert accuracy(~right) == (0, 0, 0)
    assert difference(right, right) == (0, 0, 0)
    assert difference(right, ~right) == (1, 1, 1)
    assert accuracy(right) == accuracy(right), "the same numbers at every call"
