"""Samples of colors from the distribution that a network predicts, and its entropy.

Independent colors for every pixel would look like noise. So a sample is a pair of smooth random fields of quantiles,
each uniform in [0, 1] at every pixel, and the color is the point of these quantiles: first of a, then of b given a
(the Knothe-Rosenblatt map). The colors of every pixel have exactly the predicted distribution, and neighboring pixels
with similar distributions get similar colors. To avoid steps of color, each bin is spread over its square of 10 x 10
Lab units (or the spacing of the bins); b may still have a step if a passes from one row of bins to the next.
"""

import math

import torch
from torch import Tensor

from pretext.gamut import STEP, TEMPERATURE, bin_centers

_PATCHES = 4  # patches of independent color along the shorter side


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of predicted distributions, (B, Q, h, w) -> (B, h, w), in nats: 0 to log Q."""
    logs = torch.log_softmax(logits.float(), dim=1)
    return -(logs.exp() * logs).sum(1)


def quantile_fields(count: int, size: tuple[int, int], seed: int, patches: float = _PATCHES) -> Tensor:
    """Return smooth random fields, every value of which is uniform in [0, 1]: (count, h, w).

    White noise on a coarse grid is interpolated by cubic B-splines, divided by its standard deviation at each pixel,
    and mapped by the normal distribution function.

    Args:
        count: the number of fields; they are independent.
        size: h, w.
        seed: the same fields for the same seed.
        patches: grid cells along the shorter side.
    """
    step = min(size) / patches
    generator = torch.Generator().manual_seed(seed)
    axes = [_spline(length, step) for length in size]
    noise = torch.randn(count, *(axis.shape[1] for axis in axes), generator=generator, dtype=torch.float64)
    smooth = torch.einsum("hi,cij,wj->chw", axes[0], noise, axes[1])
    deviation = axes[0].square().sum(1).sqrt()[:, None] * axes[1].square().sum(1).sqrt()
    fields: Tensor = torch.special.ndtr(smooth / deviation)
    return fields.float()


def draw(logits: Tensor, quantiles: Tensor, temperature: float = TEMPERATURE, step: int = STEP) -> Tensor:
    """Draw colors from predicted distributions.

    Args:
        logits: (B, Q, h, w).
        quantiles: (2, h, w) or (B, 2, h, w), in [0, 1]: for a, then b.
        temperature: 1 draws from the distribution itself; less sharpens it as for the annealed mean, which is then its
            mean.
        step: Lab units between the bins.

    Returns:
        (B, 2, h, w), ab, unscaled.
    """
    probabilities = torch.softmax(logits.float() / temperature, dim=1)
    batch, _, height, width = logits.shape
    places = torch.from_numpy(bin_centers(step) // step).to(logits.device)
    least = int(places.min())
    places = places - least
    side = int(places.max()) + 1  # of the grid that holds all bins
    grid = torch.zeros(batch, side * side, height, width, device=logits.device)
    grid[:, places[:, 0] * side + places[:, 1]] = probabilities
    grid = grid.view(batch, side, side, height, width)
    quantiles = quantiles.to(logits.device).expand(batch, 2, height, width)
    a, row = _invert_quantile(grid.sum(2), quantiles[:, :1])
    index = row[:, :, None].expand(-1, -1, side, -1, -1)
    conditional = grid.gather(1, index)[:, 0]  # b given a
    b, _ = _invert_quantile(conditional / conditional.sum(1, keepdim=True).clamp_min(1e-30), quantiles[:, 1:])
    return step * least + step * torch.cat((a, b), dim=1)


def _invert_quantile(probabilities: Tensor, quantile: Tensor) -> tuple[Tensor, Tensor]:
    """Return the point of a quantile, (B, 1, h, w), and its bin. Each bin is spread evenly over 1 around its number."""
    total = probabilities.cumsum(1)
    quantile = quantile.clamp_min(1e-7) * total[:, -1:]  # above 0, where bins lie that never occur; the last is about 1
    bin_ = (total < quantile).sum(1, keepdim=True).clamp_max(total.shape[1] - 1)
    mass = probabilities.gather(1, bin_)
    inside = 1 - (total.gather(1, bin_) - quantile) / mass.clamp_min(1e-30)
    return bin_ + inside.clamp(0, 1) - 0.5, bin_


def _spline(length: int, step: float) -> Tensor:
    """Return the weights of cubic B-splines with knots every ``step`` pixels: (length, knots), float64."""
    knots = math.ceil(length / step) + 3
    place = (torch.arange(length, dtype=torch.float64) + 0.5) / step + 1
    distance = (place[:, None] - torch.arange(knots, dtype=torch.float64)).abs()
    near = 2 / 3 - distance.square() + distance**3 / 2
    far = (2 - distance).clamp_min(0) ** 3 / 6
    return torch.where(distance < 1, near, far)
