"""The one training loop."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn

from pretext.engine.device import Place, Precision, autocast
from pretext.engine.interrupt import stop_requests
from pretext.engine.journal import Journal, skipped_pictures
from pretext.engine.progress import progress
from pretext.engine.run import keep_checkpoint
from pretext.errors import UserError
from pretext.pictures.batches import Samples, batches
from pretext.pictures.order import mix


@dataclass
class TrainingSettings:
    """How a network is trained.

    Args:
        steps: optimizer steps in all.
        batch_size: pictures a step.
        lr: peak learning rate of Adam.
        betas: Adam's decay rates of the first and second moment.
        weight_decay: L2 penalty added to the gradient (not decoupled), as Caffe does; the loss is a
            mean over pixels, so the paper's 1e-3 on a sum over 44 x 44 pixels is about 5e-7 here.
        clip: largest norm of the gradient; 0 does not clip.
        schedule: of the learning rate after the warm-up: cosine to 0, or multistep.
        warmup: steps of linear warm-up.
        milestones: after so many steps multistep multiplies the rate by decay_rate.
        decay_rate: see milestones.
        precision: bf16 runs the network in bfloat16 (weights and loss stay float32); auto takes it
            where the device computes in it natively.
    """

    steps: int = 10_000
    batch_size: int = 64
    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 5.0
    schedule: Literal["cosine", "multistep"] = "cosine"
    warmup: int = 100
    milestones: list[int] = field(default_factory=list)
    decay_rate: float = 0.1
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "lr"):
            if not getattr(self, name) > 0:  # nan too
                raise UserError(f"training.{name} is {getattr(self, name)}: it must be above 0")
        for name in ("weight_decay", "clip", "warmup"):
            if not getattr(self, name) >= 0:
                raise UserError(f"training.{name} is {getattr(self, name)}: it must not be negative")
        if self.batch_size > 2**20:
            raise UserError(f"training.batch_size is {self.batch_size}: at most {2**20}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"training.betas is {list(self.betas)}: both must lie in [0, 1)")
        if not 0 < self.decay_rate <= 1:
            raise UserError(f"training.decay_rate is {self.decay_rate}: it must lie in (0, 1]")
        if not all(math.isfinite(value) for value in (self.lr, self.weight_decay, self.clip)):
            raise UserError("training.lr, training.weight_decay and training.clip must be finite")
        if self.warmup >= self.steps:
            raise UserError(f"training.warmup is {self.warmup}: it must be less than training.steps, {self.steps}")
        if self.milestones != sorted(set(self.milestones)) or not all(0 < at < self.steps for at in self.milestones):
            raise UserError(f"training.milestones is {self.milestones}: give steps in order, each below {self.steps}")
        if (self.schedule == "multistep") != bool(self.milestones):
            raise UserError("training.milestones go with training.schedule multistep, and only with it: give both")


@dataclass
class MachineSettings:
    """What may change between two calls on a run without changing its result.

    Args:
        device: auto (the GPU if there is one), cpu, cuda, cuda:1, ...
        workers: processes that decode pictures; -1 takes 1 beside a CPU and up to 12 beside a GPU.
        cache: MiB of decoded pictures that all workers together may keep in memory.
        checkpoint_every: steps between two checkpoints.
        evaluate_every: steps between two looks at the colour health of held-out pictures.
    """

    device: str = "auto"
    workers: int = -1
    cache: int = 1024
    checkpoint_every: int = 500
    evaluate_every: int = 500

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "evaluate_every"):
            if getattr(self, name) < 1:
                raise UserError(f"machine.{name} is {getattr(self, name)}: it must be at least 1")
        if not -1 <= self.workers <= 256 or self.cache < 0:
            raise UserError("machine.workers must lie in [-1, 256], and machine.cache must not be negative")


_NOTED_EVERY = 20


def train(
    run: Path,
    model: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    samples: Samples,
    evaluate: Callable[[int], dict[str, float]],
    training: TrainingSettings,
    machine: MachineSettings,
    place: Place,
    facts: dict[str, Any],
    stored: dict[str, Any],
    state: dict[str, Any] | None,
    skipped: Sequence[tuple[str, str]] = (),
) -> bool:
    """Train ``model`` from where ``state`` stands to the end, writing the run's journal and checkpoints.

    Step s sees the samples s * batch_size and on, draws its random numbers from (seed, s), and has a
    learning rate that depends on s alone: what is computed does not depend on interruptions.

    Args:
        run: its folder, held by the caller.
        model: on the place's device; changed in place.
        loss_of: (B, 3, H, W) uint8 pictures on the device -> scalar.
        samples: where batches come from; their seed is also that of the steps.
        evaluate: called with the number of steps done; what it returns is journaled as "health".
        training: how.
        machine: how often to save and to evaluate.
        place: where, at which precision.
        facts: journaled at the start of every call, such as versions.
        stored: what a checkpoint holds besides the state (settings, colour contract).
        state: of the newest checkpoint, or None.
        skipped: key and reason of pictures that are known to be unreadable, for the journal.

    Returns:
        Whether the training is complete; False if it was asked to stop, with a checkpoint written.

    Raises:
        UserError: the loss is no longer finite, the disk is full, no picture can be read.
    """
    optimizer, schedule = _optimizer_and_schedule(model, training)
    done = 0
    if state is not None:
        done = state["step"]
        try:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{run}: its newest checkpoint does not fit the network ({reason})") from error
    if done >= training.steps:
        return True

    known = {key for key, _ in skipped_pictures(run)}
    pending: list[tuple[int, float, Tensor, Tensor]] = []  # losses stay on the device until they are noted

    def skip(bad: Iterable[tuple[str, str]]) -> None:
        for key, reason in bad:
            if key not in known:
                known.add(key)
                journal.write("skipped", done, key=key, reason=reason)

    def note() -> None:
        for step, lr, loss, norm in pending:
            if not (loss.isfinite() and norm.isfinite()):
                raise UserError(
                    f"{run}: the loss is {float(loss)} and its gradient's norm {float(norm)} at step {step}; start a "
                    "new run with a lower training.lr or with training.precision fp32"
                )
            journal.write("step", step, loss=float(loss), lr=lr, gradient_norm=float(norm))
        journal.flush()
        advance(len(pending), f"loss {float(loss):.3f}")
        pending.clear()

    def look() -> None:
        model.eval()
        journal.write("health", done, **evaluate(done))
        model.train()

    with (
        closing(Journal(run, done)) as journal,
        stop_requests() as asked_to_stop,
        progress(run.name, training.steps, "pictures", done, weight=training.batch_size) as advance,
    ):
        journal.write("start", done, time=time.time(), device=str(place.device), **facts)
        skip(skipped)
        if done == 0:
            look()
        for batch in batches(samples, training.batch_size, done, training.steps, place.workers):
            torch.manual_seed(mix(samples.seed, done))
            schedule.step_update(done)
            try:
                with autocast(place):
                    loss = loss_of(batch.rgb.to(place.device, non_blocking=True))
                loss.backward()
            except (RuntimeError, ValueError) as error:  # crops too small for the network, no memory, ...
                raise UserError(f"{run}: step {done + 1} cannot be computed: {' '.join(str(error).split())}") from error
            norm = nn.utils.clip_grad_norm_(model.parameters(), training.clip or math.inf)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
            skip(batch.skipped)
            pending.append((done, optimizer.param_groups[0]["lr"], loss.detach(), norm))

            stop = asked_to_stop()
            last = done == training.steps
            due = done % machine.evaluate_every == 0 or last
            keep = done % machine.checkpoint_every == 0 or last or stop
            if done % _NOTED_EVERY == 0 or due or keep:
                note()
            if due:
                look()
            if keep:
                journal.flush()  # before the checkpoint: the journal is never behind it
                keep_checkpoint(run, done, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **stored})
            if stop:
                break
    return done == training.steps


def _optimizer_and_schedule(model: nn.Module, training: TrainingSettings) -> tuple[torch.optim.Optimizer, Scheduler]:
    """Adam, and a learning rate that is a function of the step alone."""
    optimizer = torch.optim.Adam(
        model.parameters(), training.lr, training.betas, weight_decay=training.weight_decay, fused=True
    )
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=training.schedule,
        num_epochs=training.steps,
        warmup_epochs=training.warmup,
        warmup_lr=training.lr / max(1, training.warmup),  # not 0, which would waste the first step
        decay_milestones=[at + 1 for at in training.milestones],  # timm decays a step early
        decay_rate=training.decay_rate,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return optimizer, schedule
