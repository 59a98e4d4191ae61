"""RankMe against its equations."""

import math

import numpy as np
import pytest
import torch

from pretext.rankme import rankme


def test_it_is_the_exponential_of_an_entropy() -> None:
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9)
    values = np.linalg.svd(features.numpy().astype(np.float64), compute_uv=False)
    shares = values / values.sum() + 1e-7
    assert rankme(features) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))


def test_known_ranks() -> None:
    assert rankme(torch.eye(6)) == pytest.approx(6, rel=1e-4)
    one = torch.outer(torch.arange(1.0, 10), torch.ones(5))
    assert rankme(one) == pytest.approx(1, rel=1e-3)
    assert rankme(torch.zeros(4, 3)) == 1
    assert math.isnan(rankme(torch.full((4, 3), math.nan)))
