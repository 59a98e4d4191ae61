"""A network in training, one step at a time: its settings, weights, optimizer, schedule and moving average."""

import contextlib
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pretext import roles
from pretext.data.batches import WorkerStart
from pretext.data.order import mix
from pretext.engine import distributed
from pretext.engine.device import ComputeConfig, Precision, autocast
from pretext.engine.memory import is_memory_shortage, recompute_activations
from pretext.engine.sync_norm import synchronize_norms
from pretext.errors import UserError

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3


@dataclass
class TrainingSettings:
    """How a network is trained.

    Args:
        steps: number of optimizer steps.
        batch_size: images per step, over all processes.
        micro_batch: images that a process computes at once (gradient accumulation); 0 computes its whole share
            of the batch at once. Batch norm uses the statistics of one micro-batch.
        optimizer: adam, adamw (weight decay decoupled) or sgd (with momentum).
        lr: peak learning rate.
        betas: adam's decay rates of the first and second moment; the first is sgd's momentum.
        nesterov: use Nesterov momentum with sgd. Caffe, and most papers that used Caffe, had plain momentum.
        weight_decay: L2 penalty added to the gradient, as Caffe does (adamw: decoupled). The loss is a
            mean over pixels, so the paper's 1e-3 on a sum over 44 x 44 pixels is about 5e-7 here.
        decay_biases: apply weight decay also to biases and to the scales and shifts of norms.
        bias_rate: the learning rate of biases, scales and shifts, as a multiple of lr.
        clip: largest norm of the gradient; 0 does not clip.
        schedule: learning-rate schedule after the warm-up: cosine (to 0) or multistep.
        warmup: steps of linear warm-up.
        milestones: steps at which multistep multiplies the learning rate by decay_rate.
        decay_rate: factor of the learning rate at each milestone.
        ema: decay of the exponential moving average of the weights; 0 keeps none. If there is one, it is
            validated and transferred. It warms up, as timm's ModelEmaV3 does.
        batch_norm: statistics over the images of each process (local), or over those of all processes
            (synchronized). With one process both are the same.
        precision: bf16 runs the network in bfloat16 (weights and loss stay float32); auto uses bf16 if the
            device supports it natively, else fp32.
    """

    steps: int = roles.science(10_000)
    batch_size: int = roles.science(64)
    micro_batch: int = roles.science(0)
    optimizer: Literal["adam", "adamw", "sgd"] = roles.science("adam")
    lr: float = roles.science(2e-3)
    betas: tuple[float, float] = roles.science((0.9, 0.99))
    nesterov: bool = roles.science(True)
    weight_decay: float = roles.science(0.0)
    decay_biases: bool = roles.science(True)
    bias_rate: float = roles.science(1.0)
    clip: float = roles.science(5.0)
    schedule: Literal["cosine", "multistep"] = roles.science("cosine")
    warmup: int = roles.science(100)
    milestones: list[int] = roles.science(list)
    decay_rate: float = roles.science(0.1)
    ema: float = roles.science(0.0)
    batch_norm: Literal["local", "synchronized"] = roles.science("local")
    precision: Precision = roles.science("auto")

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "lr"):
            if not getattr(self, name) > 0:  # nan too
                raise UserError(f"training.{name} is {getattr(self, name)}: it must be above 0")
        for name in ("weight_decay", "clip", "warmup", "micro_batch", "bias_rate"):
            if not getattr(self, name) >= 0:
                raise UserError(f"training.{name} is {getattr(self, name)}: it must not be negative")
        if self.batch_size > 2**20:
            raise UserError(f"training.batch_size is {self.batch_size}: it must be at most {2**20}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"training.betas is {list(self.betas)}: both must lie in [0, 1)")
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise UserError(f"training.micro_batch is {self.micro_batch}: it must divide batch_size, {self.batch_size}")
        if not 0 <= self.ema < 1:
            raise UserError(f"training.ema is {self.ema}: it must lie in [0, 1)")
        if not 0 < self.decay_rate <= 1:
            raise UserError(f"training.decay_rate is {self.decay_rate}: it must lie in (0, 1]")
        if self.nesterov and self.optimizer == "sgd" and not self.betas[0]:
            raise UserError(
                "training.nesterov needs momentum: set the first of training.betas above 0, or nesterov to false"
            )
        if not all(math.isfinite(value) for value in (self.lr, self.weight_decay, self.clip)):
            raise UserError("training.lr, training.weight_decay and training.clip must be finite")
        if self.warmup >= self.steps:
            raise UserError(
                f"training.warmup is {self.warmup}: it must be less than training.steps, {self.steps}; lower it"
            )
        if self.milestones != sorted(set(self.milestones)) or not all(0 < at < self.steps for at in self.milestones):
            raise UserError(f"training.milestones is {self.milestones}: give steps in order, each below {self.steps}")
        if (self.schedule == "multistep") != bool(self.milestones):
            raise UserError("training.milestones and training.schedule multistep need each other: set both, or neither")

    def share(self, processes: int) -> int:
        """Return how many images of a batch each process computes.

        Raises:
            UserError: the processes cannot share the batch evenly, in whole micro-batches.
        """
        share, rest = divmod(self.batch_size, processes)
        if rest or share % max(1, self.micro_batch):
            pieces = f", in micro-batches of {self.micro_batch}," if self.micro_batch else ""
            raise UserError(
                f"training.batch_size is {self.batch_size}: {processes} processes cannot share it{pieces} evenly; "
                "start another number of processes, or change training.batch_size"
            )
        return share


@dataclass
class MachineSettings:
    """Settings that may change when a run is resumed: they do not change its result.

    Args:
        device: auto (the GPU if there is one), cpu, cuda, cuda:1, ...
        workers: processes that decode images; -1 starts 1 for a CPU and up to 12 for a GPU.
        worker_start: how workers are started: fork, spawn, forkserver, or default (Python's default), see Python's
            multiprocessing. Forked workers start at once and share the list of images.
        cache: MiB of decoded images that all workers together may keep in memory.
        checkpoint_every: steps between two checkpoints.
        evaluate_every: steps between two validations on held-out images.
        compile: compile the step with torch.compile: the start takes minutes longer, then steps are faster.
        channels_last: use the channels_last memory format, which is faster in most kernels.
        checkpoint_activations: keep only the input of each block of the network, and compute the other
            activations again in the backward pass (activation checkpointing): less memory, more time.
        wandb: PROJECT or ENTITY/PROJECT of Weights & Biases that mirrors the journal; empty for none.
    """

    device: str = roles.machine("auto")
    workers: int = roles.machine(-1)
    worker_start: WorkerStart = roles.machine("default")
    cache: int = roles.machine(1024)
    checkpoint_every: int = roles.machine(500)
    evaluate_every: int = roles.machine(500)
    compile: bool = roles.machine(False)
    channels_last: bool = roles.machine(True)
    checkpoint_activations: bool = roles.machine(False)
    wandb: str = roles.machine("")

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "evaluate_every"):
            if getattr(self, name) < 1:
                raise UserError(f"machine.{name} is {getattr(self, name)}: it must be at least 1")
        if self.compile and self.checkpoint_activations:
            raise UserError("machine.compile and machine.checkpoint_activations cannot be used together: set only one")
        if not -1 <= self.workers <= 256 or self.cache < 0:
            raise UserError("machine.workers must lie in [-1, 256], and machine.cache must not be negative")


class HasLoss(Protocol):
    """A module that computes its own loss.

    It may have two attributes. ``rates`` holds multiples of the learning rate by the prefix of the weights' names. If
    ``numbered`` is true, ``loss`` gets a third argument: the numbers of its samples in the run, (B,), int64, on its
    device. With random numbers drawn from (seed, number), its result is the same for any number of processes.
    """

    def loss(self, rgb: Tensor, labels: Any) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss, a scalar: over images, or over the parts of images that count; and its parts, if any.

        Args:
            rgb: (B, 3, H, W) or (B, views, 3, H, W), uint8, on the module's device.
            labels: (B,), int64, on the same device, -1 for an image without a label; or targets of another kind, see
                ``pretext.data.batches.Batch``.
        """
        ...


class Trainer:
    """A network, its optimizer, its learning-rate schedule and its moving average.

    A step's result depends only on the state, the images and the number of steps done: random numbers are
    drawn from (seed, step, position in the batch). So one process and several compute the same, up to the
    order in which floats are added. With batch norm or dropout this holds only if the micro-batch has a fixed size.

    Args:
        network: a module with a ``loss``, on the device of ``place``; changed in place.
        training: settings of the training.
        machine: settings of the computation.
        place: device and precision.
        seed: seed of the random numbers that steps draw.

    Raises:
        UserError: the processes cannot share the batch evenly, or the device does not support a setting.
    """

    def __init__(
        self, network: nn.Module, training: TrainingSettings, machine: MachineSettings, place: ComputeConfig, seed: int
    ) -> None:
        self.training, self.machine, self.place, self.seed = training, machine, place, seed
        self.share = training.share(distributed.world_size())
        self.done = 0
        self.parts: dict[str, Tensor] = {}
        """The parts of the last step's loss in this process, by name: scalars on the device."""
        if training.batch_norm == "synchronized" and distributed.world_size() > 1:
            network = synchronize_norms(network, place.device)
        self.network = network
        self.optimizer = build_optimizer(network, training)
        loss: nn.Module = _Loss(network)
        if machine.compile:
            loss = torch.compile(loss)  # type: ignore[assignment]
        if distributed.world_size() > 1:
            # All processes begin with the weights of the first one and average their gradients. Each has its own
            # batch-norm statistics; a checkpoint holds those of the first.
            devices = [place.device] if place.device.type == "cuda" else None
            with distributed.translate_errors(), warnings.catch_warnings():
                # torch 2.15 renames this argument; torch 2.11 does not know the new name
                warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
                loss = DistributedDataParallel(
                    loss, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
                )
        self._loss = loss
        self.average = moving_average(network, training.ema) if training.ema else None
        if machine.checkpoint_activations:
            recompute_activations(network)

    @property
    def judged(self) -> nn.Module:
        """The network to validate and to transfer: the moving average if there is one."""
        return self.network if self.average is None else self.average.module

    def step(self, rgb: Tensor, labels: Any, optimize: bool = True) -> tuple[Tensor, Tensor]:
        """Do one optimizer step on this process's share of a batch.

        Args:
            rgb: (share, 3, H, W) or (share, views, 3, H, W), uint8.
            labels: (share,), int64, -1 for an image without a label; or targets of another kind, see ``HasLoss``.
            optimize: False does not change the weights, and keeps their gradients so that the caller can read them.

        Returns:
            This process's loss and the norm of the gradient (before clipping), scalars on the device.

        Raises:
            UserError: the step cannot be computed, or another process has ended.
        """
        assert len(rgb) == len(labels) == self.share, (len(rgb), len(labels), self.share)
        set_learning_rate(self.optimizer, self.training, self.done)
        size = self.training.micro_batch or self.share
        first = distributed.rank() * self.share
        numbers = self.numbers()
        pieces = [
            (rgb[at : at + size], labels[at : at + size], numbers[at : at + size]) for at in range(0, self.share, size)
        ]
        total, self.parts = torch.zeros((), device=self.place.device), {}
        for number, piece in enumerate(pieces):
            torch.manual_seed(mix(mix(self.seed, self.done), first + number * size))
            try:
                # The processes exchange gradients once a step, with the last micro-batch.
                is_last = number + 1 == len(pieces)
                with (
                    distributed.translate_errors(),
                    self._loss.no_sync()
                    if isinstance(self._loss, DistributedDataParallel) and not is_last
                    else contextlib.nullcontext(),
                ):
                    with autocast(self.place):
                        loss, parts = self._loss(*_to_device(piece, self.place.device))
                        loss = loss / len(pieces)
                    loss.backward()
            except (RuntimeError, ValueError) as error:  # crops too small for the network, ...
                if is_memory_shortage(error):
                    raise  # the job knows which setting to lower, and reports it
                raise UserError(f"step {self.done + 1} cannot be computed: {' '.join(str(error).split())}") from error
            total += loss.detach()
            for name, part in parts.items():
                self.parts[name] = self.parts.get(name, 0) + part.detach() / len(pieces)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.training.clip or math.inf)
        if not optimize:
            return total, norm
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        if self.average is not None:
            self.average.update(self.network, step=self.done)
        return total, norm

    def numbers(self) -> Tensor:
        """Return the sample numbers, (share,), int64, of the next step in this process."""
        first = self.done * self.training.batch_size + distributed.rank() * self.share
        return torch.arange(first, first + self.share)

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, besides the settings."""
        average = {} if self.average is None else {"average": self.average.module.state_dict()}
        return {
            "step": self.done,
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **average,
        }

    def load(self, state: dict[str, Any], origin: object) -> None:
        """Load a ``state`` to resume from.

        Raises:
            UserError: the state does not fit this network; the message names ``origin``.
        """
        try:
            self.network.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average is not None:
                self.average.module.load_state_dict(state["average"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{origin}: its newest checkpoint does not fit the network ({reason})") from error
        self.done = state["step"]


class _Loss(nn.Module):
    """A module whose forward pass is the network's loss and its parts: DDP and torch.compile need one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

        self.numbered = bool(getattr(network, "numbered", False))

    def forward(self, rgb: Tensor, labels: Any, numbers: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = (rgb, labels, numbers) if self.numbered else (rgb, labels)
        loss = self.network.loss(*inputs)  # type: ignore[operator]
        return (loss, {}) if isinstance(loss, Tensor) else loss


def _to_device(values: Any, device: torch.device) -> Any:
    """Return tensors, also those in lists and dicts, on the device."""
    if isinstance(values, Tensor):
        return values.to(device, non_blocking=True)
    if isinstance(values, dict):
        return {name: _to_device(value, device) for name, value in values.items()}
    return [_to_device(value, device) for value in values]


def moving_average(network: nn.Module, decay: float) -> "ModelEmaV3":
    """Return the exponential moving average of a network's weights."""
    from timm.utils import ModelEmaV3  # not at the top: the import takes seconds

    return ModelEmaV3(network, decay=decay, use_warmup=True, foreach=True)


def learning_rate(training: TrainingSettings, step: int) -> float:
    """Return the learning rate of step ``step``, counted from 0: a function of the step alone.

    The numbers are those of timm's schedules, whose import takes seconds.
    """
    if step < training.warmup:
        first = training.lr / training.warmup  # not 0, which would waste the first step
        return first + step * ((training.lr - first) / training.warmup)
    if training.schedule == "multistep":
        return training.lr * training.decay_rate ** sum(step >= at for at in training.milestones)
    return 0.5 * training.lr * (1 + math.cos(math.pi * step / training.steps))


def set_learning_rate(optimizer: torch.optim.Optimizer, training: TrainingSettings, step: int) -> None:
    """Give each group of weights its learning rate of a step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(training, step) * group["lr_scale"]


def build_optimizer(network: nn.Module, training: TrainingSettings) -> torch.optim.Optimizer:
    """Return the optimizer of a network's weights, at the learning rates of the first step."""
    # Vectors (biases, scales and shifts of norms) may have another weight decay and learning rate.
    rates: dict[str, float] = getattr(network, "rates", {})
    groups = []
    for multiple in dict.fromkeys((1.0, *rates.values())):
        weights = [
            weight
            for name, weight in network.named_parameters()
            if weight.requires_grad and next((r for k, r in rates.items() if name.startswith(k)), 1.0) == multiple
        ]
        groups += [
            {
                "params": [weight for weight in weights if weight.ndim > 1],
                "weight_decay": training.weight_decay,
                "lr_scale": multiple,
            },
            {
                "params": [weight for weight in weights if weight.ndim <= 1],
                "weight_decay": training.weight_decay if training.decay_biases else 0.0,
                "lr_scale": training.bias_rate * multiple,
            },
        ]
    optimizer: torch.optim.Optimizer
    if training.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, training.lr, training.betas[0], nesterov=training.nesterov, fused=True)
    else:
        kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(groups, training.lr, training.betas, fused=True)
    set_learning_rate(optimizer, training, 0)
    return optimizer
