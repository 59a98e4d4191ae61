"""The Frechet distance between two sets of features, as FID takes it (Heusel et al., NeurIPS 2017)."""

import numpy as np
from numpy.typing import NDArray

from pretext.errors import UserError

Rows = NDArray[np.floating]


def frechet_distance(first: Rows, second: Rows) -> float:
    """|m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)) of the Gaussians fitted to two sets (Dowson and Landau 1982).

    S are the covariances of the sample (divided by n - 1), as in the published code. With C the centered rows divided by
    sqrt(n - 1), S = C' C, and the trace of the root is the sum of the singular values of C1 C2': no matrix root is
    taken, nothing is added to a singular covariance, and fewer rows than features are cheaper, not worse.

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
    means, factors = zip(*(_gaussian(rows) for rows in (first, second)), strict=True)
    cross = float(np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum())
    spread = sum(float(np.square(factor).sum()) for factor in factors)
    return max(0.0, float(np.square(means[0] - means[1]).sum()) + spread - 2 * cross)


def _gaussian(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean, (D,), and a matrix C with C' C the covariance, of at most D rows."""
    exact = rows.astype(np.float64)
    mean = exact.mean(0)
    centered = (exact - mean) / np.sqrt(len(rows) - 1)
    if len(centered) > centered.shape[1]:
        centered = np.linalg.qr(centered, mode="r")
    return mean, centered
