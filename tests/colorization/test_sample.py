"""Drawings have the predicted distribution at every place, and are smooth between places."""

import math

import numpy as np
import pytest
import torch

from pretext.gamut import Gamut, bin_centers
from pretint.colorization.sample import draw, entropy, quantile_fields


def test_fields_are_uniform_at_every_place_and_smooth() -> None:
    fields = quantile_fields(4000, (12, 17), seed=3)
    assert fields.shape == (4000, 12, 17) and float(fields.min()) >= 0 and float(fields.max()) <= 1
    for level in (0.1, 0.5, 0.8):  # 5 standard deviations of a share of 4000
        assert float(((fields < level).float().mean(0) - level).abs().max()) < 5 * math.sqrt(level * (1 - level) / 4000)
    one = quantile_fields(2, (256, 256), seed=0)
    assert float((one[..., 1:] - one[..., :-1]).abs().max()) < 0.05, "neighbors are alike"
    assert float(one.std()) > 0.15, "but not all places are"
    assert torch.equal(one, quantile_fields(2, (256, 256), seed=0))
    assert not torch.equal(one, quantile_fields(2, (256, 256), seed=1))


@pytest.mark.parametrize(("temperature", "step"), [(1.0, 10), (0.38, 10), (0.38, 20), (1.0, 15)])
def test_drawn_as_often_as_predicted(temperature: float, step: int) -> None:
    bins = len(bin_centers(step))
    logits = (3 * torch.randn(bins, generator=torch.Generator().manual_seed(1)))[None, :, None, None]
    quantiles = torch.rand(2, 300, 300, generator=torch.Generator().manual_seed(2))
    ab = draw(logits.expand(1, bins, 300, 300), quantiles, temperature, step)
    nearest = torch.cdist(ab[0].flatten(1).T, torch.from_numpy(bin_centers(step)).float(), p=float("inf"))
    counts = torch.bincount(nearest.argmin(1), minlength=bins) / 90_000
    expected = torch.softmax(logits[0, :, 0, 0] / temperature, 0)
    deviation = (expected * (1 - expected) / 90_000).sqrt()
    assert float(((counts - expected).abs() / (deviation + 2e-5)).max()) < 5
    assert float(nearest.min(1).values.max()) <= step / 2 + 0.01, "no color lies outside the squares of the bins"
    mean = Gamut(step=step).annealed_mean(logits, temperature)
    assert float((ab.mean((2, 3), keepdim=True) - mean).abs().max()) < 5 * 40 / 300, "their mean is the annealed mean"


def test_one_certain_color_is_drawn_always() -> None:
    logits = torch.full((1, 313, 2, 2), -1e4)
    logits[:, 200] = 0
    ab = draw(logits, torch.tensor([0.0, 0.3, 0.999, 1.0]).view(1, 2, 2).expand(2, 2, 2))
    assert float((ab - torch.from_numpy(bin_centers()[200]).float().view(1, 2, 1, 1)).abs().max()) <= 5.001
    assert float(entropy(logits).abs().max()) < 1e-5


def test_entropy() -> None:
    logits = torch.randn(2, 313, 3, 4)
    p = torch.softmax(logits, 1).numpy()
    assert np.allclose(entropy(logits), -(p * np.log(p)).sum(1), atol=1e-5)
    assert np.allclose(entropy(torch.zeros(1, 313, 1, 1)), math.log(313), atol=1e-5)
