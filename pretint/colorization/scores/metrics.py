"""Measures of colored images that need no network: AuC, squared error, SSIM, colorfulness, Frechet distance.

The AuC measures how near predicted colors are to the true ones, over all thresholds at once.

Source: Zhang, Isola and Efros, ECCV 2016, section 3.1 (raw accuracy): the share of pixels whose predicted ab lies
within a threshold t of the true ab (L2 distance), for t from 0 to 150, as a curve whose area is normalized; and its
class-rebalanced variant, in which the weight of each pixel is the inverse frequency of its true color bin (equation 4
with lambda = 0). The bins are always the published 313, so that a number does not depend on the bins with which the
network was trained.

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

from pretext.errors import UserError

LARGEST = 150
"""The last threshold, in Lab units."""
WHOLE = 2 * LARGEST
"""The area that a pixel without error adds."""

Sums = NDArray[np.int64]
FeatureRows = NDArray[np.floating]

_SIGMA, _RADIUS = 1.5, 5  # the window of 11 x 11 of Wang et al. 2004
_C1, _C2 = 0.01**2, 0.03**2


def pixel_areas(errors: Tensor) -> Tensor:
    """Return the area that each pixel adds, in 1 / 300: int64 of the shape of ``errors`` (L2 in ab, unscaled, >= 0)."""
    return torch.where(errors > 0, (WHOLE + 1 - 2 * errors.ceil()).clamp_min(0), WHOLE).long()


def areas_by_bin(ab: Tensor, truth: Tensor, bins: Tensor, n_bins: int) -> Tensor:
    """Sum the areas of images by the true bin of the pixels.

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
    """Sum whole numbers, (B, h, w), of every image by bin, (B, h, w): (B, Q), int64."""
    sums = torch.zeros(len(bins), n_bins, dtype=torch.int64, device=bins.device)
    return sums.scatter_add_(1, bins.flatten(1), values.flatten(1))


def raw_auc(areas: Sums, pixels: Sums) -> NDArray[np.float64]:
    """Return the AuC of each image, in which every pixel has the same weight.

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
    """Return the AuC of all images, in which every pixel has the weight of its true bin.

    Args:
        areas: (N, Q), of ``areas_by_bin``.
        pixels: (N, Q), how many there are.
        times: (N, R), how often each image counts in each of R resamples; a column of ones counts each image once.
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
            values: NDArray[np.float64] = np.where(count > 0, area / count, 0).sum(1) / (count > 0).sum(1)
        else:
            values = area @ weights[occurs] / (count @ weights[occurs])
    return values


def squared_error(rgb: Tensor, truth: Tensor) -> Tensor:
    """Return the squared difference, averaged over pixels and the three channels.

    Args:
        rgb: (B, 3, H, W), uint8.
        truth: the same.

    Returns:
        (B,), float64, in [0, 255^2].

    Raises:
        UserError: the two are not of one shape.
    """
    _check_shapes(rgb, truth)
    difference = rgb.int() - truth.int()
    return (difference * difference).flatten(1).sum(1).double() / difference[0].numel()


def psnr(error: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of ``squared_error``, 10 log10(255^2 / error); infinite for 0."""
    return 10 * torch.log10(255.0**2 / error.double())


def ssim(rgb: Tensor, truth: Tensor) -> Tensor:
    """Return the structural similarity (Wang et al., IEEE TIP 2004), averaged over R, G and B.

    Gaussian window of sigma 1.5, cut off at 11 x 11, covariances of the population, K1 = 0.01, K2 = 0.03, a range of
    255; the mean over all windows that lie in the image. That is scikit-image's ``structural_similarity`` with
    ``gaussian_weights=True, use_sample_covariance=False``.

    Args:
        rgb: (B, 3, H, W), uint8, H and W at least 11.
        truth: the same.

    Returns:
        (B,), float64, in [-1, 1].

    Raises:
        UserError: the two are not of one shape, or smaller than the window.
    """
    _check_shapes(rgb, truth)
    if min(rgb.shape[-2:]) < 2 * _RADIUS + 1:
        raise UserError(f"SSIM needs images of {2 * _RADIUS + 1} pixels or more a side, not {tuple(rgb.shape[-2:])}")
    results = []
    for image, real in zip(rgb, truth, strict=True):
        # In single precision, dark flat areas would be off by 1e-4: squares of means are subtracted.
        x, y = image.double() / 255, real.double() / 255
        mx, my, xx, yy, xy = _blur(torch.stack((x, y, x * x, y * y, x * y)))
        vx, vy, covariance = xx - mx * mx, yy - my * my, xy - mx * my
        both = (2 * mx * my + _C1) * (2 * covariance + _C2)
        similarity: Tensor = both / ((mx * mx + my * my + _C1) * (vx + vy + _C2))
        results.append(similarity.mean())
    return torch.stack(results)


def colorfulness(rgb: Tensor, absolute: bool = False) -> Tensor:
    """Return M3 of Hasler and Suesstrunk ("Measuring colorfulness in natural images", Proc. SPIE 5007, 2003).

    With rg = R - G and yb = (R + G) / 2 - B, both on the scale of 255, it is
    sqrt(var(rg) + var(yb)) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2), variances of the population.

    Args:
        rgb: (B, 3, H, W), uint8.
        absolute: take |rg| and |yb| in place of rg and yb, before mean and variance, as the evaluation code of DDColor
            and others does. The number differs.

    Returns:
        (B,), float64, 0 for gray images.
    """
    red, green, blue = rgb.flatten(2).int().unbind(1)
    # Twice, so that they are whole numbers: their sums are exact, and gray is exactly 0.
    axes = torch.stack((2 * (red - green), red + green - 2 * blue), 1)
    axes = axes.abs() if absolute else axes
    count = axes.shape[2]
    total, squares = axes.sum(2).double() / 2, (axes.long() ** 2).sum(2).double() / 4
    means = total / count
    variances = (squares / count - means**2).clamp_min(0)
    result: Tensor = variances.sum(1).sqrt() + 0.3 * (means**2).sum(1).sqrt()
    return result


def _blur(maps: Tensor) -> Tensor:
    """Filter maps, (..., H, W), by the window, where it lies in the image: (..., H - 10, W - 10)."""
    at = torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64)
    window = torch.exp(-(at**2) / (2 * _SIGMA**2))
    weights = (window / window.sum()).tolist()
    flat = maps.flatten(0, -3)
    height, width = (side - 2 * _RADIUS for side in maps.shape[-2:])
    pieces = []
    # Sums of shifted maps. One by one they stay in the cache of a processor: three times as fast as all at once.
    for piece in flat.split(1 if flat.device.type == "cpu" else len(flat)):
        across = piece[..., :width] * weights[0]
        for shift, weight in enumerate(weights[1:], 1):
            across.add_(piece[..., shift : shift + width], alpha=weight)
        down = across[..., :height, :] * weights[0]
        for shift, weight in enumerate(weights[1:], 1):
            down.add_(across[..., shift : shift + height, :], alpha=weight)
        pieces.append(down)
    return torch.cat(pieces).view(*maps.shape[:-2], height, width)


def _check_shapes(rgb: Tensor, truth: Tensor) -> None:
    if rgb.shape != truth.shape:
        raise UserError(
            f"images of {tuple(rgb.shape[-2:])} and {tuple(truth.shape[-2:])} pixels cannot be compared; "
            "bring them to one size"
        )


def frechet_distance(first: FeatureRows, second: FeatureRows) -> float:
    """Return the Frechet distance between two sets of features, as in FID (Heusel et al., NeurIPS 2017).

    It is |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)) of the Gaussians fitted to the sets (Dowson and Landau
    1982). S are the covariances of the sample (divided by n - 1), as in the published code. With C the centered rows
    divided by sqrt(n - 1), S = C' C, and the trace of the root is the sum of the singular values of C1 C2': no matrix
    root is taken, nothing is added to a singular covariance, and fewer rows than features are cheaper, not worse.

    The estimate from n rows is too large on average, by about a constant over n (Chong and Forsyth, CVPR 2020):
    compare only numbers of the same n.

    Args:
        first: (n1, D), n1 >= 2.
        second: (n2, D), n2 >= 2.

    Raises:
        UserError: fewer than two rows.
    """
    if min(len(first), len(second)) < 2:
        raise UserError(f"a Frechet distance needs two images on each side, not {len(first)} and {len(second)}")
    means, factors = [], []
    for rows in (first, second):
        exact = rows.astype(np.float64)
        mean = exact.mean(0)
        factor = (exact - mean) / np.sqrt(len(rows) - 1)  # factor' factor is the covariance
        if len(factor) > factor.shape[1]:  # at most D rows
            factor = np.linalg.qr(factor, mode="r")
        means.append(mean)
        factors.append(factor)
    cross = float(np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum())
    spread = sum(float(np.square(factor).sum()) for factor in factors)
    return max(0.0, float(np.square(means[0] - means[1]).sum()) + spread - 2 * cross)
