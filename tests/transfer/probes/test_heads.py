"""Stacked classifiers against each of them alone, trained by torch's own layers and optimizer."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transfer.probes.heads import Heads, Scaling, Setting, loss

DIMS, CLASSES, STEPS = 14, 4, 30
GRID = [Setting(lr, decay) for lr in (0.003, 0.03, 0.1) for decay in (0.0, 0.02)]


def batches(multilabel: bool = False) -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(0)
    centers = 2 * torch.randn(CLASSES, DIMS, generator=drawn)
    found = []
    for _ in range(STEPS):
        labels = torch.randint(0, CLASSES, (16,), generator=drawn)
        features = 3 + centers[labels] + 1.5 * torch.randn(16, DIMS, generator=drawn)
        several = torch.randint(-1, 2, (16, CLASSES), generator=drawn, dtype=torch.int8)
        found.append((features, several if multilabel else labels))
    return found


def alone(setting: Setting, scaling: Scaling, nesterov: bool, multilabel: bool) -> nn.Sequential:
    """One classifier as anybody would write it."""
    first: nn.Module = nn.BatchNorm1d(DIMS, affine=False) if scaling == "batch" else nn.Identity()
    linear = nn.Linear(DIMS, CLASSES)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    network = nn.Sequential(first, linear)
    groups: list[dict[str, Any]] = [
        {"params": [linear.weight], "weight_decay": setting.weight_decay},
        {"params": [linear.bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=setting.lr, momentum=0.9, nesterov=nesterov)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, STEPS)
    for features, targets in batches(multilabel):
        optimizer.zero_grad()
        logits = network(features)
        if multilabel:
            counted = targets >= 0
            value = F.binary_cross_entropy_with_logits(logits[counted], targets[counted].float(), reduction="sum")
            value = value / len(features)
        else:
            value = F.cross_entropy(logits, targets)
        value.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("scaling", ["none", "batch"])
def test_each_is_what_it_would_be_alone(scaling: Scaling, nesterov: bool, multilabel: bool) -> None:
    heads = Heads(DIMS, CLASSES, GRID, scaling, nesterov=nesterov, multilabel=multilabel)
    for step, (features, targets) in enumerate(batches(multilabel)):
        heads.step(features, targets, 1 - 0.9 * step / STEPS)
    asked = batches()[3][0]
    scores = heads.scores(asked)
    for head, setting in enumerate(GRID):
        theirs = alone(setting, scaling, nesterov, multilabel)(asked).detach()
        torch.testing.assert_close(scores[:, head], theirs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(heads.classifier(head).scores(asked), scores[:, head], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_step_follows_the_gradient_of_the_loss(multilabel: bool) -> None:
    features, targets = batches(multilabel)[0]
    weight = torch.zeros(CLASSES, DIMS, requires_grad=True)
    loss(F.linear(features, weight), targets, multilabel).backward()
    heads = Heads(DIMS, CLASSES, [Setting(0.25, 0.0)], multilabel=multilabel)
    heads.step(features, targets, 1.0)
    assert weight.grad is not None
    torch.testing.assert_close(heads.weight, -0.25 * weight.grad)


def test_standardized_features_have_mean_0_and_deviation_1_and_constant_ones_stay_finite() -> None:
    features = torch.cat([one for one, _ in batches()])
    features[:, 5] = 7.0
    variance, mean = torch.var_mean(features.double(), 0, correction=0)
    heads = Heads(DIMS, DIMS, [Setting(0.1, 0.0)], "standardize")
    heads.standardize(mean, variance)
    heads.weight.copy_(torch.eye(DIMS))
    scaled = heads.scores(features).squeeze(1)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(DIMS), atol=1e-5, rtol=0)
    expected = torch.ones(DIMS)
    expected[5] = 0
    torch.testing.assert_close(scaled.std(0, correction=0), expected, atol=1e-5, rtol=0)


def test_one_that_diverges_leaves_the_others_alone() -> None:
    wild = Heads(DIMS, CLASSES, [Setting(0.1, 0.0), Setting(1e30, 1e30), Setting(0.01, 0.0)])
    tame = Heads(DIMS, CLASSES, [Setting(0.1, 0.0), Setting(0.02, 0.0), Setting(0.01, 0.0)])
    for features, targets in batches():
        wild.step(features, targets, 1.0)
        tame.step(features, targets, 1.0)
    scores = wild.scores(features)
    assert not scores[:, 1].isfinite().all()
    assert torch.equal(scores[:, ::2], tame.scores(features)[:, ::2])


def test_those_that_are_kept_go_on_as_if_nothing_was_dropped() -> None:
    whole, fewer = Heads(DIMS, CLASSES, GRID), Heads(DIMS, CLASSES, GRID)
    for step, (features, targets) in enumerate(batches()):
        if step == 10:
            fewer.keep([1, 4])
        whole.step(features, targets, 1.0)
        fewer.step(features, targets, 1.0)
    assert fewer.settings == [GRID[1], GRID[4]]
    torch.testing.assert_close(fewer.scores(features), whole.scores(features)[:, [1, 4]], atol=1e-4, rtol=1e-4)


def test_goes_on_from_a_state_to_the_bit() -> None:
    whole, first = (Heads(DIMS, CLASSES, GRID, "batch") for _ in range(2))
    for step, (features, targets) in enumerate(batches()):
        if step == 12:
            first.keep([0, 2, 5])
            state = first.state()
            first = Heads(DIMS, CLASSES, GRID, "batch")
            first.load(state)
            whole.keep([0, 2, 5])
        whole.step(features, targets, 1.0)
        first.step(features, targets, 1.0)
    assert torch.equal(first.weight, whole.weight) and torch.equal(first.bias, whole.bias)
    assert torch.equal(first.scores(features), whole.scores(features))
