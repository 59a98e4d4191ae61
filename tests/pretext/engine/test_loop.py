"""The learning rate is the one that is asked for, and nonsense is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from timm.scheduler import create_scheduler_v2

from pretext.engine.trainer import MachineSettings, TrainingSettings, build_optimizer, learning_rate, set_learning_rate
from pretext.errors import UserError


def rates(training: TrainingSettings) -> list[float]:
    return [learning_rate(training, step) for step in range(training.steps)]


@pytest.mark.parametrize(
    "training",
    [
        TrainingSettings(steps=1000, lr=2e-3, warmup=100),
        TrainingSettings(steps=7, lr=0.3, warmup=0),
        TrainingSettings(steps=50, lr=0.1, warmup=3, schedule="multistep", milestones=[2, 20, 41], decay_rate=0.3),
    ],
)
def test_rates_are_those_of_timm_to_the_bit(training: TrainingSettings) -> None:
    layers = torch.nn.ModuleList([torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)])
    optimizer = build_optimizer(layers, replace(training, bias_rate=2.0))
    reference = torch.optim.SGD([{"params": [torch.zeros(1)], "lr_scale": scale} for scale in (1.0, 2.0)], training.lr)
    schedule, _ = create_scheduler_v2(
        reference,
        sched=training.schedule,
        num_epochs=training.steps,
        warmup_epochs=training.warmup,
        warmup_lr=training.lr / max(1, training.warmup),
        decay_milestones=[at + 1 for at in training.milestones],  # timm decays a step early
        decay_rate=training.decay_rate,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    for step in range(training.steps + 1):
        set_learning_rate(optimizer, training, step)
        schedule.step_update(step)
        ours, theirs = ([group["lr"] for group in one.param_groups] for one in (optimizer, reference))
        assert ours == theirs


def test_cosine_after_a_linear_warm_up() -> None:
    found = rates(TrainingSettings(steps=100, lr=0.5, warmup=10))
    assert found[:10] == pytest.approx([0.05 + 0.045 * step for step in range(10)])
    expected = [0.25 * float(1 + torch.cos(torch.tensor(torch.pi * step / 100))) for step in range(10, 100)]
    assert found[10:] == pytest.approx(expected, abs=1e-7)
    assert found[-1] < 0.001 * 0.5


def test_multistep_decays_after_its_milestones() -> None:
    found = rates(TrainingSettings(steps=9, lr=1.0, warmup=0, schedule="multistep", milestones=[4, 6], decay_rate=0.1))
    assert found == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01])


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": -1},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
        {"clip": -1.0},
        {"warmup": 10_000},
        {"schedule": "multistep"},
        {"milestones": [5]},
        {"schedule": "multistep", "milestones": [6, 4]},
        {"schedule": "multistep", "milestones": [-1]},
        {"schedule": "multistep", "milestones": [5], "decay_rate": 0.0},
    ],
    ids=str,
)
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"training\."):
        TrainingSettings(**wrong)


@pytest.mark.parametrize("wrong", [{"checkpoint_every": 0}, {"evaluate_every": 0}, {"workers": -2}, {"cache": -1}])
def test_nonsense_of_the_machine_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"machine\."):
        MachineSettings(**wrong)
