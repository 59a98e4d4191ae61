"""Several sources mixed by weight: which of them a run's sample t comes from, a pure function of t."""

from collections.abc import Sequence
from functools import lru_cache

from pretext.data.order import image_index, mix, permuted

BLOCK = 1000
"""Samples over which the shares come out exactly; a weight counts in thousandths."""

_KEY = 0x3117


def quotas(weights: Sequence[float]) -> list[int]:
    """How many of ``BLOCK`` samples each source gives: its share, rounded (largest remainders), at least 1."""
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
    """The source and the image in it that sample ``t`` reads.

    Every block of ``BLOCK`` samples holds its quota of each source, in an order of its own. The samples of
    one source, taken by themselves, go through it in permutations, epoch by epoch.

    Args:
        seed: of the run.
        t: number of the sample.
        sizes: images in each source.
        counts: ``quotas`` of the weights.
    """
    if len(sizes) == 1:
        return 0, image_index(seed, t, sizes[0])
    block, position = divmod(t, BLOCK)
    part, number = _arrangement(mix(seed ^ _KEY, block), tuple(counts))[position]
    return part, image_index(mix(seed, part), block * counts[part] + number, sizes[part])


@lru_cache(maxsize=8)
def _arrangement(key: int, counts: tuple[int, ...]) -> list[tuple[int, int]]:
    """Of every position in a block: its source, and how many of that source's come before it."""
    owners = [part for part, count in enumerate(counts) for _ in range(count)]
    before = [0] * len(counts)
    arranged = []
    for position in range(BLOCK):
        part = owners[permuted(position, BLOCK, key)]
        arranged.append((part, before[part]))
        before[part] += 1
    return arranged
