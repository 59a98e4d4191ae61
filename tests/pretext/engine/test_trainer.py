"""One training step, in every way in which it may be computed."""

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.backbones import build_backbone
from pretext.engine.device import ComputeConfig
from pretext.engine.memory import blocks
from pretext.engine.trainer import MachineSettings, Trainer, TrainingSettings, build_optimizer
from pretext.errors import UserError
from pretext.gamut import Gamut
from pretext.methods.colorization import Colorizer
from pretext.methods.objectives import Classification

PLACE = ComputeConfig(torch.device("cpu"), "fp32", 0)
TRAINING = TrainingSettings(steps=50, warmup=0, batch_size=8, lr=1e-2, precision="fp32")
UNLABELED = torch.full((8,), -1)


class Line(nn.Module):
    """A network small enough to compute by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0, 0.5]]))
        self.bias = nn.Parameter(torch.tensor([0.25]))
        self.drop = nn.Dropout(0.5)

    def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
        return F.linear(self.drop(rgb.float().mean((2, 3)) / 255), self.weight, self.bias).square().mean()


def images(count: int = 8, size: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def colorizer(name: str, **arguments: Any) -> Colorizer:
    torch.manual_seed(0)
    return Colorizer(build_backbone(name, **arguments), Classification(Gamut(5)), 8)


def learned(network: nn.Module, steps: int = 5, machine: MachineSettings | None = None, **training: Any) -> Trainer:
    trainer = Trainer(network, replace(TRAINING, **training), machine or MachineSettings(), PLACE, seed=3)
    for _ in range(steps):
        trainer.step(images(), UNLABELED)
    return trainer


def same(one: nn.Module, other: nn.Module, **tolerance: float) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], **{"rtol": 0, "atol": 0, **tolerance}, msg=name)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_decay_and_rate_of_biases(optimizer: Any) -> None:
    training = replace(TRAINING, optimizer=optimizer, weight_decay=0.1, decay_biases=False, bias_rate=2.0)
    network = Line().eval()
    made = build_optimizer(network, training)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    assert torch.equal(network.bias, torch.tensor([0.25])), "biases do not decay"
    before = torch.tensor([[1.0, -2.0, 0.5]])
    if optimizer == "adam":  # the penalty is part of the gradient, whose size Adam takes away
        torch.testing.assert_close(network.weight.data, before - 0.01 * before.sign())
    else:
        factor = 1 - 0.01 * 0.1 * (1 if optimizer == "adamw" else 1.9)  # nesterov: 1 + momentum
        torch.testing.assert_close(network.weight.data, before * factor)
    network.bias.grad, network.weight.grad = torch.ones(1), torch.zeros(1, 3)
    fresh = build_optimizer(network, training)
    bias = network.bias.item()
    fresh.step()
    if optimizer != "sgd":
        assert bias - network.bias.item() == pytest.approx(0.02, rel=1e-4)


def test_the_moving_average_by_its_definition() -> None:
    network = Line().eval()
    trainer = Trainer(network, replace(TRAINING, ema=0.7), MachineSettings(), PLACE, seed=0)
    expected = network.weight.detach().clone()
    for step in range(1, 20):
        trainer.step(images(), UNLABELED)
        decay = 0.0 if step == 1 else min(0.7, 1 - step ** (-2 / 3))
        expected = decay * expected + (1 - decay) * network.weight.detach()
        assert isinstance(trainer.judged, Line)
        torch.testing.assert_close(trainer.judged.weight.data, expected)
    assert not torch.equal(network.weight, trainer.judged.weight)


@pytest.mark.parametrize("name", ["test_convnext", "test_vit"])
def test_micro_batches_add_up_to_the_batch(name: str) -> None:
    arguments = {"img_size": 32} if name == "test_vit" else {}
    whole, pieces = (learned(colorizer(name, **arguments), micro_batch=size) for size in (0, 2))
    same(whole.network, pieces.network, atol=2e-4)


def test_what_a_step_draws_does_not_depend_on_the_past() -> None:
    """Dropout draws from (seed, step): a step computed again after others is the same step."""
    one, other = learned(Line(), 6), learned(Line(), 3)
    again = Trainer(Line(), TRAINING, MachineSettings(), PLACE, seed=3)
    again.load(other.state(), "here")
    torch.rand(5)
    for _ in range(3):
        again.step(images(), UNLABELED)
    same(one.network, again.network)


@pytest.mark.parametrize("name", ["tiny", "test_resnet", "test_vit", "fusion", "autoencoder"])
def test_activations_computed_again_change_nothing(name: str) -> None:
    arguments: dict[str, Any] = {"test_vit": {"img_size": 32, "drop_path_rate": 0.3}}.get(name, {})
    if name in ("fusion", "autoencoder"):
        arguments = {"width": 0.05, **({"global_size": 64} if name == "fusion" else {})}
    assert list(blocks(build_backbone(name, **arguments)))
    kept = learned(colorizer(name, **arguments), ema=0.9)
    again = learned(colorizer(name, **arguments), machine=MachineSettings(checkpoint_activations=True), ema=0.9)
    same(kept.network, again.network)
    same(kept.judged, again.judged)


@pytest.mark.parametrize(
    ("name", "count"),
    [("alexnet", 7), ("vgg", 8), ("resnet50", 16), ("convnext_tiny", 21), ("vit_small_patch16_224", 12)],
)
def test_blocks_are_those_a_reader_would_name(name: str, count: int) -> None:
    with torch.device("meta"):
        assert len(list(blocks(build_backbone(name)))) == count


@pytest.mark.slow
def test_compiled_is_the_same_to_float_tolerance() -> None:
    # Not Adam, whose first steps are the signs of gradients however small.
    plain, compiled = (
        learned(
            colorizer("tiny").to(memory_format=torch.channels_last),
            steps=3,
            optimizer="sgd",
            machine=MachineSettings(compile=on),
        )
        for on in (False, True)
    )
    same(plain.network, compiled.network, atol=1e-5, rtol=1e-4)


def test_a_state_of_another_network_is_refused() -> None:
    state = learned(Line(), 1).state()
    with pytest.raises(UserError, match="here: its newest checkpoint does not fit the network"):
        learned(colorizer("tiny"), 0).load(state, "here")
    with pytest.raises(UserError, match="average"):
        learned(Line(), 0, ema=0.5).load(state, "here")


def test_settings_that_exclude_each_other() -> None:
    with pytest.raises(UserError, match="set only one"):
        MachineSettings(compile=True, checkpoint_activations=True)
    with pytest.raises(UserError, match="must divide"):
        TrainingSettings(batch_size=10, micro_batch=4)
    with pytest.raises(UserError, match="ema"):
        TrainingSettings(ema=1.0)


class Boxes(nn.Module):
    """Learns from dicts; its head may be quicker, its first layer is frozen."""

    rates: ClassVar[dict[str, float]] = {"head.": 10.0}

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.first = nn.Linear(3, 3), nn.Linear(3, 1), nn.Linear(3, 3).requires_grad_(False)

    def loss(self, rgb: Tensor, labels: list[dict[str, Tensor]]) -> Tensor:
        said = self.head(self.body(self.first(rgb.float().mean((2, 3)) / 255)))
        return torch.stack(
            [(one - label["wanted"].sum()).square() for one, label in zip(said, labels, strict=True)]
        ).mean()


def test_labels_of_any_kind_in_micro_batches() -> None:
    labels = [{"wanted": torch.arange(float(number))} for number in range(8)]
    losses = []
    for micro in (0, 2):
        torch.manual_seed(1)
        trainer = Trainer(Boxes(), replace(TRAINING, micro_batch=micro), MachineSettings(), PLACE, seed=3)
        losses.append(torch.stack([trainer.step(images(), labels)[0] for _ in range(5)]))
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_rates_of_parts_and_frozen_ones(decay: float) -> None:
    network = Boxes()
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    training = replace(TRAINING, optimizer="sgd", nesterov=False, betas=(0.9, 0.0), bias_rate=2.0, weight_decay=decay)
    made = build_optimizer(network, training)
    for weight in network.parameters():
        weight.grad = torch.ones_like(weight) if weight.requires_grad else None
    made.step()
    rates = {"body.weight": 1, "body.bias": 2, "head.weight": 10, "head.bias": 20, "first.weight": 0, "first.bias": 0}
    for name, weight in network.named_parameters():
        wanted = before[name] - 0.01 * rates[name] * (1 + decay * before[name])
        torch.testing.assert_close(weight.data, wanted, msg=name)


def test_plain_momentum() -> None:
    network, plain = Line().eval(), Line().eval()
    made = build_optimizer(network, replace(TRAINING, optimizer="sgd", nesterov=False, betas=(0.9, 0.0)))
    reference = torch.optim.SGD(plain.parameters(), 0.01, momentum=0.9)
    for _ in range(4):
        for one, optimizer in ((network, made), (plain, reference)):
            optimizer.zero_grad()
            one.loss(images(), UNLABELED).backward()
            optimizer.step()
    same(network, plain, rtol=1e-6, atol=1e-7)
    with pytest.raises(UserError, match="nesterov needs momentum"):
        replace(TRAINING, optimizer="sgd", betas=(0.0, 0.9))
