"""The learning rate is the one that is asked for, and nonsense is refused."""

from typing import Any

import pytest
import torch

from pretext.engine.trainer import MachineSettings, TrainingSettings, optimizer_and_schedule
from pretext.errors import UserError


def rates(training: TrainingSettings) -> list[float]:
    optimizer, schedule = optimizer_and_schedule(torch.nn.Linear(1, 1), training)
    found = []
    for step in range(training.steps):
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


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
