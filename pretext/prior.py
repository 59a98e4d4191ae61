"""The prior: how often each color bin occurs, smoothed; and the rebalancing weights that follow from it.

Paper section 2.2: w is inversely proportional to (1 - lambda) p + lambda / Q, scaled so that its
expectation under the prior p is 1. The prior is smoothed with the Gaussian of the soft targets: it is
their mean over the pixels (the authors' description of their file).
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pretext.codebook import Codebook
from pretext.errors import UserError
from pretext.gamut import Gamut


def estimate_prior(batches_ab: Iterable[Tensor], gamut: Gamut | Codebook) -> Tensor:
    """Estimate the smoothed frequency of every bin.

    Args:
        batches_ab: (B, 2, h, w) tensors, unscaled, or values for a codebook; at least one pixel in all.
        gamut: the gamut or codebook; it gives the soft targets, and so the smoothing (K and sigma).

    Returns:
        (Q,), float64, adds up to 1. Bins that no pixel comes near are 0.
    """
    total = torch.zeros(len(gamut), dtype=torch.float64)
    for ab in batches_ab:
        target = gamut.encode(ab)
        total.index_add_(0, target.bins.flatten().cpu(), target.weights.flatten().double().cpu())
    assert total.sum() > 0, "a prior needs pixels"
    return total / total.sum()


def rebalancing_weights(prior: Tensor, uniform: float = 0.5) -> Tensor:
    """Return the weight of every bin (paper equation 4).

    Args:
        prior: (Q,), adds up to 1.
        uniform: the paper's lambda in [0, 1]: how much of the uniform distribution is mixed in; 1 gives
            every bin the weight 1.

    Returns:
        (Q,), of the prior's type, with expectation 1 under the prior. As in the released code the
        uniform part is spread over the bins that occur, and a bin that never does takes the weight
        that its zero prior gives it; with ``uniform=0`` such a bin gets the weight 0.
    """
    occurs = prior > 0
    mixed = (1 - uniform) * prior + uniform / int(occurs.sum())
    weights = torch.where(mixed > 0, 1 / mixed.clamp_min(torch.finfo(prior.dtype).tiny), 0)
    return weights / (prior * weights).sum()


def load_prior(path: Path, gamut: Gamut) -> Tensor:
    """Load a prior, (Q,), float64, sum 1, from a ``.npy`` file, such as the published ``prior_probs.npy`` of 313.

    Raises:
        UserError: the file is missing, is no such array, or holds no distribution.
    """
    try:
        with path.open("rb") as file:
            prior = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise UserError(f"prior {path}: not a readable .npy file ({' '.join(str(error).split())})") from error
    if prior.shape != (len(gamut),) or prior.dtype.kind != "f":
        raise UserError(
            f"prior {path}: holds {prior.dtype} {prior.shape}; a prior is one float for each of the {len(gamut)} bins "
            f"of step {gamut.step}"
        )
    prior = prior.astype(np.float64)
    if not (np.isfinite(prior).all() and (prior >= 0).all() and prior.sum() > 0):
        raise UserError(f"prior {path}: its numbers are no frequencies (negative, not finite, or all zero)")
    return torch.from_numpy(prior / prior.sum())
