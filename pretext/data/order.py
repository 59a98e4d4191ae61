"""The order of images in a run, and the random numbers of their augmentation: pure functions of (seed, t).

Sample t of a run reads image ``permutation(seed, t // N)[t % N]`` and draws its augmentation from a
counter-based generator keyed by (seed, t). So the whole data state of a run is one integer. It does
not depend on workers, processes or batch size, and any run can resume from any t.

Several sources can be mixed by weight. The source of sample t is a function of (seed, t), too.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_MASK = 2**64 - 1
_ROUNDS = 6
_LEAST_HALF = 4  # bits; a network over fewer does not reach all permutations of a toy source alike

BLOCK = 1000
"""Samples over which the shares are exact; a weight counts in thousandths."""

_BLOCK_KEY = 0x3117


def image_index(seed: int, t: int, count: int) -> int:
    """Return the image that sample ``t`` reads, among ``count``; every epoch is a permutation of its own."""
    epoch, position = divmod(t, count)
    return permute_index(position, count, key=mix(seed, epoch))


def permute_index(position: int, count: int, key: int) -> int:
    """Return the image of ``position`` under a keyed permutation of range(``count``), without building it.

    A Feistel network over the smallest even power of two that holds ``count``, walked until it lands
    inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002): less than four turns
    on average where ``count`` is above 64, and no memory.
    """
    assert 0 <= position < count
    if count == 1:
        return 0
    half = max(_LEAST_HALF, ((count - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = position >> half, position & low
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mix(key ^ _mix(right * _ROUNDS + turn)) & low)
        position = left << half | right
        if position < count:
            return position


def permutation(count: int, key: int) -> NDArray[np.int64]:
    """Return ``permute_index`` of every position in range(``count``), at once: int64 (count,)."""
    half = max(_LEAST_HALF, ((count - 1).bit_length() + 1) // 2)
    low, shift = np.uint64((1 << half) - 1), np.uint64(half)
    positions = np.arange(count, dtype=np.uint64)
    outside = np.arange(count if count > 1 else 0)
    while len(outside):
        left, right = positions[outside] >> shift, positions[outside] & low
        for turn in range(_ROUNDS):
            inner = _mix_array(right * np.uint64(_ROUNDS) + np.uint64(turn))
            left, right = right, left ^ (_mix_array(inner ^ np.uint64(key & _MASK)) & low)
        positions[outside] = left << shift | right
        outside = outside[positions[outside] >= count]
    return positions.astype(np.int64)


def uniforms(seed: int, t: int, count: int) -> np.ndarray:
    """Return ``count`` floats in [0, 1) for sample ``t``, float64.

    They come from the raw output of Philox, which numpy promises never to change. It makes no such promise for its
    distributions.
    """
    key = np.array([seed & _MASK, t], dtype=np.uint64)
    raw = np.random.Philox(key=key).random_raw(count)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mix(seed: int, number: int) -> int:
    """Return a 64-bit key made of a run's seed and a number, such as an epoch or a step."""
    return _mix(_mix(seed) ^ number)


def _mix(value: int) -> int:
    """Return the finalizer of splitmix64 (Steele, Lea, Flood 2014): 64 bits in, 64 well-mixed bits out."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31


def _mix_array(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return `_mix` of every value; products wrap around in uint64, which is intended."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


def quotas(weights: Sequence[float]) -> list[int]:
    """Return how many of ``BLOCK`` samples each source gives: its share, rounded (largest remainders), at least 1."""
    total = sum(weights)
    exact = [BLOCK * weight / total for weight in weights]
    counts = [max(1, int(share)) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda part: (counts[part] - exact[part], part))
    turn = 0
    while sum(counts) < BLOCK:
        counts[by_remainder[turn % len(counts)]] += 1
        turn += 1
    while sum(counts) > BLOCK:
        counts[counts.index(max(counts))] -= 1
    return counts


def locate(seed: int, t: int, sizes: Sequence[int], counts: Sequence[int]) -> tuple[int, int]:
    """Return the source and the image in it that sample ``t`` reads.

    Every block of ``BLOCK`` samples holds its quota of each source, in an order of its own. The samples of one source
    alone go through it in permutations, epoch by epoch.

    Args:
        seed: the seed of the run.
        t: the number of the sample.
        sizes: the number of images in each source.
        counts: the result of ``quotas`` for the weights.
    """
    if len(sizes) == 1:
        return 0, image_index(seed, t, sizes[0])
    block, position = divmod(t, BLOCK)
    part, number = _arrangement(mix(seed ^ _BLOCK_KEY, block), tuple(counts))[position]
    return part, image_index(mix(seed, part), block * counts[part] + number, sizes[part])


@lru_cache(maxsize=8)
def _arrangement(key: int, counts: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return, for every position in a block, its source and how many samples of that source come before it."""
    owners = [part for part, count in enumerate(counts) for _ in range(count)]
    before = [0] * len(counts)
    arrangement = []
    for position in range(BLOCK):
        part = owners[permute_index(position, BLOCK, key)]
        arrangement.append((part, before[part]))
        before[part] += 1
    return arrangement
