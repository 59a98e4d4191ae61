"""Which pairs a participant sees, in which order, and on which side the fake is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_ORDER, _ALGORITHM = 0, 1  # what is drawn: two streams of one seed


class Trial(NamedTuple):
    """What one trial shows."""

    pair: int
    """Index of the image."""
    fake_first: bool
    """Whether the colored one is on the left (above, where they are stacked)."""


def trials_of(seed: int, participant: int, pairs: int, count: int) -> list[Trial]:
    """A participant's trials, a function of the arguments alone.

    Args:
        seed: of the study.
        participant: its number in the study, from 0.
        pairs: how many there are.
        count: of the trials, practice included; at most ``pairs``, of which none is seen twice.

    Sides are tossed independently: were they balanced, who counts could tell the last ones.
    """
    rng = np.random.default_rng((seed, participant, _ORDER))
    order = rng.permutation(pairs)[:count]
    sides = rng.integers(0, 2, count)
    return [Trial(int(pair), bool(side)) for pair, side in zip(order, sides, strict=True)]


def next_algorithm(seed: int, participant: int, counts: Sequence[int]) -> int:
    """The algorithm that a new participant sees: one of those that have fewest participants, drawn at random.

    Args:
        seed: of the study.
        participant: its number in the study.
        counts: participants of every algorithm so far.
    """
    fewest = [index for index, count in enumerate(counts) if count == min(counts)]
    rng = np.random.default_rng((seed, participant, _ALGORITHM))
    return fewest[int(rng.integers(len(fewest)))]
