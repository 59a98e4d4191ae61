"""AuC: how near predicted colors come to the true ones, over all ways to say "near" at once.

Source: Zhang, Isola and Efros, ECCV 2016, section 3.1 (raw accuracy): the share of pixels whose predicted ab lies
within a threshold t of the true ab (L2 distance), for t from 0 to 150, as a curve whose area is normalized; and its
class-rebalanced variant, in which each pixel weighs by the inverse frequency of its true color bin (equation 4 with
lambda = 0). The bins are the published 313, whatever bins a network was trained with: a number must not depend on how
the network that it judges divides colors.

With e the error of a pixel, F(t) is the share, by weight, of the pixels with e <= t. The curve is taken at the 151
thresholds t = 0, 1, ..., 150 and joined by straight lines:

    AuC = (F(0) / 2 + F(1) + ... + F(149) + F(150) / 2) / 150

That is linear in the pixels: one of error 0 adds 300 / 300 of its weight, one of 0 < e <= 150 adds
(301 - 2 ceil(e)) / 300, any other nothing. So sums of whole numbers, by true bin, hold the curve's area exactly,
whatever the weights turn out to be.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGEST = 150
"""The last threshold, in Lab units."""
WHOLE = 2 * LARGEST
"""What a pixel of no error adds to ``areas``."""

Sums = NDArray[np.int64]


def pixel_areas(errors: Tensor) -> Tensor:
    """What each pixel adds to the area, in 1 / 300: int64 of the shape of ``errors`` (L2 in ab, unscaled, >= 0)."""
    return torch.where(errors > 0, (WHOLE + 1 - 2 * errors.ceil()).clamp_min(0), WHOLE).long()


def areas_by_bin(ab: Tensor, truth: Tensor, bins: Tensor, n_bins: int) -> Tensor:
    """Areas of images, summed by the true bin of the pixels.

    Args:
        ab: (B, 2, h, w), predicted, unscaled.
        truth: the same, true.
        bins: (B, h, w), int64: the bin nearest to the truth.
        n_bins: Q.

    Returns:
        (B, Q), int64, in 1 / 300 pixel.
    """
    return sums_by_bin(pixel_areas((ab - truth).norm(dim=1)), bins, n_bins)


def sums_by_bin(values: Tensor, bins: Tensor, n_bins: int) -> Tensor:
    """(B, Q), int64: whole numbers, (B, h, w), of every image, summed by bin, (B, h, w)."""
    sums = torch.zeros(len(bins), n_bins, dtype=torch.int64, device=bins.device)
    return sums.scatter_add_(1, bins.flatten(1), values.flatten(1))


def raw_auc(areas: Sums, pixels: Sums) -> NDArray[np.float64]:
    """Every pixel weighs the same.

    Args:
        areas: (N, Q), of ``areas_by_bin``.
        pixels: (N, Q), how many there are.

    Returns:
        (N,), in [0, 1], of every image; all have the same size, so that their mean is the AuC of all pixels.
    """
    shares: NDArray[np.float64] = areas.sum(1) / (WHOLE * pixels.sum(1))
    return shares


def balanced_auc(
    areas: Sums, pixels: Sums, times: NDArray[np.floating], weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Every pixel weighs as its true bin does.

    Args:
        areas: (N, Q), of ``areas_by_bin``.
        pixels: (N, Q), how many there are.
        times: (N, R), how often each image counts, in R resamples; a column of ones is the images as they are.
        weights: (Q,), per pixel: the inverse of a prior. None takes the inverse frequency among the pixels that are
            counted, so that every bin that occurs weighs the same, and a bin that does not occur nothing.

    Returns:
        (R,), in [0, 1]; nan where no pixel has weight.
    """
    occurs = pixels.any(0)
    counted = times.T.astype(np.float64)
    area, count = counted @ areas[:, occurs] / WHOLE, counted @ pixels[:, occurs]  # (R, bins that occur)
    with np.errstate(invalid="ignore", divide="ignore"):
        if weights is None:
            found = np.where(count > 0, area / count, 0).sum(1) / (count > 0).sum(1)
        else:
            found = area @ weights[occurs] / (count @ weights[occurs])
    result: NDArray[np.float64] = found
    return result
