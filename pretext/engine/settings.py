"""The settings of a training and of the machine that computes it."""

import math
from dataclasses import dataclass
from typing import Literal

from pretext import roles
from pretext.data.batches import WorkerStart
from pretext.engine.device import Precision
from pretext.errors import UserError


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
            (synchronized; GPUs only). With one process both are the same.
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

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "evaluate_every"):
            if getattr(self, name) < 1:
                raise UserError(f"machine.{name} is {getattr(self, name)}: it must be at least 1")
        if self.compile and self.checkpoint_activations:
            raise UserError("machine.compile and machine.checkpoint_activations cannot be used together: set only one")
        if not -1 <= self.workers <= 256 or self.cache < 0:
            raise UserError("machine.workers must lie in [-1, 256], and machine.cache must not be negative")
