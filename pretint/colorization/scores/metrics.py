"""Measures of 8-bit RGB images that need no network: squared error, SSIM, colorfulness."""

import torch
from torch import Tensor

from pretext.errors import UserError

_SIGMA, _RADIUS = 1.5, 5  # the window of 11 x 11 of Wang et al. 2004
_C1, _C2 = 0.01**2, 0.03**2


def squared_error(rgb: Tensor, truth: Tensor) -> Tensor:
    """The mean over pixels and the three channels of the squared difference.

    Args:
        rgb: (B, 3, H, W), uint8.
        truth: the same.

    Returns:
        (B,), float64, in [0, 255^2].

    Raises:
        UserError: the two are not of one shape.
    """
    _of_one_shape(rgb, truth)
    difference = rgb.int() - truth.int()
    return (difference * difference).flatten(1).sum(1).double() / difference[0].numel()


def psnr(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / error), of ``squared_error``; infinite where that is 0."""
    return 10 * torch.log10(255.0**2 / error.double())


def ssim(rgb: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang et al., IEEE TIP 2004), of R, G and B each, averaged.

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
    _of_one_shape(rgb, truth)
    if min(rgb.shape[-2:]) < 2 * _RADIUS + 1:
        raise UserError(f"SSIM needs images of {2 * _RADIUS + 1} pixels or more a side, not {tuple(rgb.shape[-2:])}")
    return torch.stack([_ssim(one, other) for one, other in zip(rgb, truth, strict=True)])


def colorfulness(rgb: Tensor, absolute: bool = False) -> Tensor:
    """M3 of Hasler and Suesstrunk ("Measuring colorfulness in natural images", Proc. SPIE 5007, 2003).

    With rg = R - G and yb = (R + G) / 2 - B, both on the scale of 255, it is
    sqrt(var(rg) + var(yb)) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2), variances of the population.

    Args:
        rgb: (B, 3, H, W), uint8.
        absolute: take |rg| and |yb| in place of rg and yb, before mean and variance, as the evaluation code of DDColor
            and others does. It is another number.

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
    found: Tensor = variances.sum(1).sqrt() + 0.3 * (means**2).sum(1).sqrt()
    return found


def _ssim(rgb: Tensor, truth: Tensor) -> Tensor:
    # In single precision dark flat areas would be off by 1e-4: squares of means are taken off.
    x, y = rgb.double() / 255, truth.double() / 255
    mx, my, xx, yy, xy = _blurred(torch.stack((x, y, x * x, y * y, x * y)))
    vx, vy, covariance = xx - mx * mx, yy - my * my, xy - mx * my
    both = (2 * mx * my + _C1) * (2 * covariance + _C2)
    similarity: Tensor = both / ((mx * mx + my * my + _C1) * (vx + vy + _C2))
    return similarity.mean()


def _blurred(maps: Tensor) -> Tensor:
    """(..., H, W) by the window, where it lies in the image: (..., H - 10, W - 10)."""
    at = torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64)
    window = torch.exp(-(at**2) / (2 * _SIGMA**2))
    weights = (window / window.sum()).tolist()
    flat = maps.flatten(0, -3)
    height, width = (side - 2 * _RADIUS for side in maps.shape[-2:])
    pieces = []
    # Sums of shifted maps; one by one they stay in a processor's cache, where that is three times as fast as
    # all at once.
    for piece in flat.split(1 if flat.device.type == "cpu" else len(flat)):
        across = piece[..., :width] * weights[0]
        for shift, weight in enumerate(weights[1:], 1):
            across.add_(piece[..., shift : shift + width], alpha=weight)
        down = across[..., :height, :] * weights[0]
        for shift, weight in enumerate(weights[1:], 1):
            down.add_(across[..., shift : shift + height, :], alpha=weight)
        pieces.append(down)
    return torch.cat(pieces).view(*maps.shape[:-2], height, width)


def _of_one_shape(rgb: Tensor, truth: Tensor) -> None:
    if rgb.shape != truth.shape:
        raise UserError(
            f"images of {tuple(rgb.shape[-2:])} and {tuple(truth.shape[-2:])} pixels cannot be compared; "
            "bring them to one size"
        )
