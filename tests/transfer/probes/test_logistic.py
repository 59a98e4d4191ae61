"""Logistic regression against scikit-learn's, and the choice of its penalty."""

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from transfer.probes.heads import Linear
from transfer.probes.logistic import choose_logistic, fit_linear
from transfer.probes.sweep import score
from transfer.protocols import PROTOCOLS, LogisticProtocol

PROTOCOL = cast(LogisticProtocol, PROTOCOLS["logistic"])


def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    centers = np.random.default_rng(0).normal(size=(3, 12))
    features = centers[labels] + 1.5 * rng.normal(size=(count, 12))
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


def zero(classes: int, dims: int) -> Linear:
    return Linear(torch.zeros(classes, dims), torch.zeros(classes), torch.zeros(dims), torch.ones(dims))


@pytest.mark.parametrize("penalty", [0.1, 0.001])
def test_equals_scikit_learn(penalty: float) -> None:
    x, y = data(400, 1)
    mine = fit_linear(x, y, zero(3, 12), penalty, iterations=500, tolerance=1e-7)
    theirs = LogisticRegression(C=1 / (len(x) * penalty), tol=1e-8, max_iter=5000).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(mine.scores(x).softmax(1), theirs.predict_proba(x.numpy()), atol=2e-3)


def test_several_labels_equal_scikit_learn_class_by_class_without_those_that_are_not_counted() -> None:
    x, labels = data(400, 1)
    y = torch.nn.functional.one_hot(labels, 3).to(torch.int8)
    y[::7, 1] = -1
    mine = fit_linear(x, y, zero(3, 12), 0.01, iterations=500, tolerance=1e-7)
    for one in range(3):
        counted = (y[:, one] >= 0).numpy()
        theirs = LogisticRegression(C=1 / (len(x) * 0.01), tol=1e-8, max_iter=5000)
        theirs.fit(x.numpy()[counted], y.numpy()[counted, one])
        np.testing.assert_allclose(mine.scores(x)[:, one], theirs.decision_function(x.numpy()), atol=5e-3)


def test_the_penalty_is_chosen_on_the_held_out_part() -> None:
    (x, y), (held_x, held_y) = data(60, 1), data(40, 2)
    noise = torch.randn(100, 300, generator=torch.Generator().manual_seed(0))
    x, held_x = torch.cat((x, noise[:60]), 1), torch.cat((held_x, noise[60:]), 1)
    protocol = replace(PROTOCOL, penalties=(3.0, 1.0, 1e-6))
    classifier, penalty, found = choose_logistic((x, y), (held_x, held_y), 3, protocol)
    mean, scale = x.mean(0), 1 / x.std(0, correction=0)
    tried, shares = zero(3, 312), []
    for one in protocol.penalties:
        tried = fit_linear((x - mean) * scale, y, tried, one, protocol.iterations)
        shares.append(score(tried.scores((held_x - mean) * scale), held_y))
    assert found == pytest.approx(max(shares)) and penalty == protocol.penalties[int(np.argmax(shares))]
    every = torch.cat((x, held_x))
    mean, scale = every.mean(0), 1 / every.std(0, correction=0)
    again = fit_linear((every - mean) * scale, torch.cat((y, held_y)), zero(3, 312), penalty, 500, 1e-7)
    right = (classifier.scores(every).argmax(1) == again.scores((every - mean) * scale).argmax(1)).float().mean()
    assert right > 0.97  # fitted again to all
