"""Hints: drawn as the released code draws them, from (seed, sample number) alone."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pretext.data.order import mix
from pretext.errors import UserError
from pretext.methods.hints import HintSettings, sample_hints
from pretext.methods.uniforms import uniforms

NUMBERS = torch.tensor([0, 1, 2, 77, 2**31 + 5, 2**40])


def images(count: int, height: int = 24, width: int = 31) -> Tensor:
    return torch.rand(count, 2, height, width, generator=torch.Generator().manual_seed(3)) * 200 - 100


def published(ab: np.ndarray, number: int, seed: int, settings: HintSettings) -> tuple[np.ndarray, np.ndarray]:
    """``add_color_patches_rand_gt`` of the released training code, with the random numbers in our order."""
    key = mix(mix(seed, 0x41A75), number)
    draw = iter(range(10**6))

    def uniform() -> float:
        return (mix(key, next(draw)) >> 11) * 2.0**-53

    hints, mask = np.zeros_like(ab), np.zeros_like(ab[:1])
    if uniform() < settings.whole:
        return ab, np.ones_like(mask)
    # A loop that goes on with probability 1 - p: after n rounds with (1 - p)^n.
    left, rounds = 1 - uniform(), 0
    while left <= (1 - settings.stop) ** (rounds + 1):
        rounds += 1
    _, height, width = ab.shape
    for _ in range(rounds):
        side = min(settings.smallest + int(uniform() * (settings.largest - settings.smallest + 1)), height, width)
        at = []
        for length in (height, width):
            room = length - side
            middle, deviation = (room + 1) / 2, (room + 1) * settings.spread
            normal = middle + deviation * NormalDist().inv_cdf(uniform() + 2**-54)
            at.append(int(np.clip(normal, 0, room)))
        patch = (slice(None), slice(at[0], at[0] + side), slice(at[1], at[1] + side))
        hints[patch] = ab[patch].mean((1, 2), keepdims=True)
        mask[patch] = 1
    return hints, mask


def test_uniforms_are_those_of_the_order_of_images() -> None:
    for seed in (0, 5, 2**63 - 1, 2**64 - 1):
        found = uniforms(seed, NUMBERS, 7)
        expected = [[(mix(mix(seed, t), i) >> 11) * 2.0**-53 for i in range(7)] for t in NUMBERS.tolist()]
        assert found.tolist() == expected


@pytest.mark.parametrize(
    "settings",
    [
        HintSettings(),
        HintSettings(stop=0.03, smallest=3, largest=12, spread=0.5, whole=0.3),
        HintSettings(smallest=6, largest=6, spread=0.0, whole=0.0),
        HintSettings(largest=64),
    ],
)
@pytest.mark.parametrize("size", [(24, 31), (5, 40)])
def test_hints_by_the_released_code(settings: HintSettings, size: tuple[int, int]) -> None:
    numbers = torch.arange(60) * 1001
    ab = images(len(numbers), *size)
    hints, mask = sample_hints(ab, numbers, 11, settings)
    assert hints.dtype == mask.dtype == torch.float32
    for index, number in enumerate(numbers.tolist()):
        expected, there = published(ab[index].double().numpy(), number, 11, settings)
        np.testing.assert_array_equal(mask[index].numpy(), there)
        np.testing.assert_allclose(hints[index].numpy(), expected, atol=2e-4)


def test_a_sample_has_its_hints_wherever_it_is_computed() -> None:
    ab = images(len(NUMBERS))
    together = sample_hints(ab, NUMBERS, 1, HintSettings())
    for index in range(len(NUMBERS)):
        alone = sample_hints(ab[index : index + 1], NUMBERS[index : index + 1], 1, HintSettings())
        assert all(torch.equal(one[index], other[0]) for one, other in zip(together, alone, strict=True))
    others = sample_hints(ab, NUMBERS, 2, HintSettings())
    assert not torch.equal(together[1], others[1])


@pytest.mark.slow
def test_how_many_and_where() -> None:
    """4,000 samples of 1 x 1 hints: the counts are geometric, the places normal around the middle."""
    settings = HintSettings(largest=1)
    count = 4000
    ab = torch.ones(count, 2, 101, 101)
    _, mask = sample_hints(ab, torch.arange(count), 0, settings)
    number = mask.sum((1, 2, 3))
    whole = number == 101 * 101
    assert abs(whole.double().mean() - 0.01) < 4 * math.sqrt(0.01 / count)
    assert abs((number[~whole] == 0).double().mean() - 0.125) < 4 * math.sqrt(0.125 * 0.875 / count)
    assert 6.4 < number[~whole].double().mean() < 7.2  # 7, less those on the same pixel
    rows = mask[~whole].nonzero()[:, 2].double()
    inside = rows[(rows > 0) & (rows < 100)]
    assert abs(rows.mean() - 50) < 0.6
    assert 20 < inside.std() < 23  # 25.25, cut off at two deviations: 22.2


@pytest.mark.parametrize("count", [0, 1, 10])
def test_a_number_that_is_asked_for(count: int) -> None:
    ab = images(50, 64, 64)
    settings = HintSettings(smallest=2, largest=2, whole=1.0)
    hints, mask = sample_hints(ab, torch.arange(50), 0, settings, count)
    areas = mask.sum((1, 2, 3))
    assert (areas <= 4 * count).all() and areas.max() == 4 * count
    assert not (hints * (1 - mask)).any()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stop": 0.0}, "hints.stop"),
        ({"stop": 1.0}, "hints.stop"),
        ({"largest": 0}, "hints.largest"),
        ({"smallest": 5, "largest": 4}, "hints.smallest is 5"),
        ({"spread": float("nan")}, "hints.spread"),
        ({"whole": 1.5}, "hints.whole"),
    ],
)
def test_settings_out_of_range(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        HintSettings(**values)
