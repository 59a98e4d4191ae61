"""Who wins, who is dropped, and that a sweep goes on from its state to the bit."""

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from transfer.probes.heads import Heads
from transfer.probes.sweep import BestHead, FeatureKey, Fed, ProbeSweep, grid, positions, rate_factor, score, steps_of
from transfer.protocols import PROTOCOLS, LinearProtocol

MODERN = cast(LinearProtocol, PROTOCOLS["modern"])
PROTOCOL = replace(MODERN, rates=(1e-5, 0.003, 0.1, 1e39), weight_decays=(0.0, 0.01), scaling="none")
CELLS = [FeatureKey("conv1", "mean"), FeatureKey("conv1", "average:2048"), FeatureKey("conv2", "mean")]
STEPS, CLASSES, DIMS = 48, 3, 10


class Data:
    """Features of three kinds: the first says nothing, the others something."""

    def __init__(self, several: bool = False) -> None:
        drawn = torch.Generator().manual_seed(1)
        labels = torch.randint(0, CLASSES, (600,), generator=drawn)
        centers = torch.randn(CLASSES, DIMS, generator=drawn)
        noise = {cell: 2 * torch.randn(600, DIMS, generator=drawn) for cell in CELLS}
        self.features = {cell: one + (centers[labels] if cell != CELLS[0] else 0) for cell, one in noise.items()}
        self.targets: Tensor = labels
        if several:
            self.targets = torch.nn.functional.one_hot(labels, CLASSES).to(torch.int8)
            self.targets[torch.rand(600, CLASSES, generator=drawn) < 0.1] = -1

    def fed(self, start: int) -> Iterator[Fed]:
        for step in range(start, STEPS):
            chosen = positions(step, 32, 500, lambda epoch: np.random.default_rng(epoch).permutation(500))
            yield {cell: one[chosen] for cell, one in self.features.items()}, self.targets[chosen]

    def sweep(self, protocol: LinearProtocol = PROTOCOL) -> ProbeSweep:
        several = self.targets.ndim == 2
        heads = {cell: Heads(DIMS, CLASSES, grid(protocol, 32), multilabel=several) for cell in CELLS}
        held = self.targets[500:]
        return ProbeSweep(heads, protocol, STEPS, lambda cell: iter(self.features[cell][500:].split(33)), held)

    def run(self, protocol: LinearProtocol = PROTOCOL) -> list[BestHead]:
        return self.sweep(protocol).run(self.fed(0), lambda: None)


@pytest.mark.parametrize("several", [False, True])
def test_the_winner_is_the_best_on_held_out_images_of_all_that_a_stage_has(several: bool) -> None:
    data = Data(several)
    protocol = replace(PROTOCOL, rungs=())
    sweep = data.sweep(protocol)
    winners = sweep.run(data.fed(0), lambda: None)
    assert [winner.cell.stage for winner in winners] == ["conv1", "conv2"]
    for winner in winners:
        every = {
            (cell, *heads.settings[head]): score(
                heads.classifier(head).scores(data.features[cell][500:]), data.targets[500:]
            )
            for cell, heads in sweep.heads.items()
            if cell.stage == winner.cell.stage
            for head in range(len(heads))
        }
        assert winner.holdout == pytest.approx(max(every.values()))
        assert every[winner.cell, winner.chosen["lr"], winner.chosen["weight_decay"]] == pytest.approx(winner.holdout)
    assert winners[0].cell == CELLS[1]
    assert winners[0].chosen["lr"] < 1  # not the one that diverged


def test_the_worse_half_of_a_stage_goes_at_every_rung() -> None:
    data = Data()
    protocol = replace(PROTOCOL, rungs=(0.25, 0.5))
    sweep = data.sweep(protocol)
    left: list[dict[str, int]] = []

    def count() -> None:
        names = {cell.stage for cell in sweep.heads}
        left.append(
            {name: sum(len(heads) for cell, heads in sweep.heads.items() if cell.stage == name) for name in names}
        )

    sweep.run(data.fed(0), count)
    assert [left[step] for step in (0, 11, 12, 23, 24, 47)] == [
        {"conv1": one, "conv2": other} for one, other in ((16, 8), (16, 8), (8, 4), (8, 4), (4, 2), (4, 2))
    ]


def test_dropping_the_worse_does_not_change_what_the_winner_has_learned() -> None:
    data = Data()
    pruned, whole = (data.run(replace(PROTOCOL, rungs=rungs)) for rungs in ((0.5, 0.75), ()))
    for one, other in zip(pruned, whole, strict=True):
        assert (one.cell, one.chosen) == (other.cell, other.chosen)
        torch.testing.assert_close(one.classifier.weight, other.classifier.weight)


@pytest.mark.parametrize("stop", [1, 6, 7, 30])
def test_goes_on_from_a_state_to_the_bit(stop: int) -> None:
    data = Data()
    whole, cut = data.run(), data.sweep()

    class Killed(Exception):
        pass

    def kill() -> None:
        if cut.done == stop:
            raise Killed

    with pytest.raises(Killed):
        cut.run(data.fed(0), kill)
    again = data.sweep()
    again.load(cut.state())
    for one, other in zip(again.run(data.fed(stop), lambda: None), whole, strict=True):
        assert one[:3] == other[:3]
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(one.classifier, other.classifier, strict=True))


def test_without_held_out_images_there_is_nothing_to_choose() -> None:
    data = Data()
    protocol = replace(PROTOCOL, rates=(0.01,), weight_decays=(0.0,), rungs=())
    sweep = data.sweep(protocol)
    sweep.heads.pop(CELLS[0])
    sweep.held_targets = sweep.held_targets[:0]
    winners = sweep.run(data.fed(0), lambda: None)
    assert [winner.holdout for winner in winners] == [None, None]


@pytest.mark.parametrize("name", ["modern", "zhang2016"])
def test_rates_are_those_of_torch_s_schedules(name: str) -> None:
    protocol, steps = cast(LinearProtocol, PROTOCOLS[name]), 140
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule: torch.optim.lr_scheduler.LRScheduler = (
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        if name == "modern"
        else torch.optim.lr_scheduler.MultiStepLR(optimizer, [40, 80, 120])
    )
    for step in range(steps):
        assert rate_factor(protocol, step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        schedule.step()


def test_steps_and_order_of_images() -> None:
    assert steps_of(cast(LinearProtocol, PROTOCOLS["zhang2016"]), 1_281_167) == (140_128, 256)
    assert steps_of(MODERN, 100) == (300, 100)
    seen = np.concatenate([positions(step, 7, 10, lambda epoch: np.arange(10) + 100 * epoch) for step in range(5)])
    assert seen.tolist() == [epoch * 100 + at for epoch in range(4) for at in range(10)][:35]


def test_a_score_of_what_diverged_is_below_all_others() -> None:
    assert score(torch.full((4, 2), torch.nan), torch.zeros(4, dtype=torch.int64)) == -1
