"""Hints sampled from the truth, as the publication of the user-hint network tests it.

Source: Zhang et al., "Real-time user-guided image colorization with learned deep priors", SIGGRAPH 2017, and its
released code: patches of 6 x 6 pixels, each given the mean of the true ab in it; their corners from a normal
distribution around the middle, a quarter of the picture wide, clipped to the picture.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

PATCH = 6


class Hints(NamedTuple):
    """What a network that takes hints is given."""

    ab: Tensor
    """(B, 2, H, W), unscaled; 0 where there is no hint."""
    mask: Tensor
    """(B, 1, H, W), 1 where there is one, else 0."""


def sample_hints(truth: Tensor, indices: list[int], count: int, seed: int) -> Hints:
    """Hints for pictures, which depend on the seed and each picture's index alone.

    Args:
        truth: (B, 2, H, W), ab, unscaled, at least 6 x 6.
        indices: of the pictures, in their source.
        count: of hints. The first n of more are the same as if only n were asked for.
        seed: any whole number from 0.
    """
    ab, mask = torch.zeros_like(truth), torch.zeros_like(truth[:, :1])
    for row, index in enumerate(indices):
        for top, left in corners(truth.shape[-2:], count, seed, index):
            at = (row, slice(None), slice(top, top + PATCH), slice(left, left + PATCH))
            ab[at] = truth[at].mean((1, 2), keepdim=True)
            mask[at] = 1
    return Hints(ab, mask)


def corners(size: torch.Size, count: int, seed: int, index: int) -> list[tuple[int, int]]:
    """The top left corners, (y, x), of the patches of a picture."""
    rng = np.random.default_rng((seed, index))
    free = np.array(size, np.float64) - PATCH
    drawn = rng.normal((free + 1) / 2, (free + 1) / 4, (count, 2))
    return [(int(y), int(x)) for y, x in np.clip(drawn, 0, free)]
