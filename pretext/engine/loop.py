"""The training loop that every job shares, and the start and resumption of its run."""

import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from pretext.data.batches import AugmentedDataset, Batch, batches
from pretext.engine import distributed
from pretext.engine.checkpoint import load_checkpoint
from pretext.engine.device import ComputeConfig
from pretext.engine.journal import Journal, NullJournal, skipped_images
from pretext.engine.progress import Advance, progress
from pretext.engine.run import checkpoint_to_resume, lock_run, newest_checkpoint, write_checkpoint, write_evidence
from pretext.engine.signals import ExitStatus, catch_signals
from pretext.engine.trainer import Trainer
from pretext.errors import ReportedElsewhere, UserError
from pretext.files import write_png

State = dict[str, Any]

LOG_EVERY = 20
"""The journal gets a record of the speed at least every so many steps."""


@contextmanager
def resume_or_start(
    run: Path,
    settings: dict[str, Any],
    place: ComputeConfig,
    build: Callable[[State | None, ComputeConfig], Trainer],
    check: Callable[[Path, State], None],
    free: Collection[str],
    defaults: dict[str, Any] | None = None,
) -> Iterator[Trainer]:
    """Lock a run's folder and yield the trainer. If the run has a checkpoint, the newest one is loaded.

    All processes call this. Only the first one locks the folder and picks the checkpoint.

    Args:
        run: the run's folder.
        settings: the run's settings as plain values, see ``pretext.engine.run.lock_run``.
        place: device, precision and workers; a resumed run keeps the precision that it began with.
        build: makes the trainer. It gets the state to resume from, or None for a new run. It must not load the state.
        check: gets a checkpoint's file and its state, and raises a ``UserError`` if this run cannot resume from it.
        free: see ``lock_run``.
        defaults: see ``lock_run``.

    Raises:
        UserError: the folder cannot be used, its checkpoints are damaged, or one does not fit.
    """
    with ExitStack() as lock:
        distributed.on_rank_zero(lambda: lock.enter_context(lock_run(run, settings, free, defaults)))
        checkpoint = distributed.broadcast_from_rank_zero(lambda: checkpoint_to_resume(run))
        state = None
        if checkpoint is not None:
            state = load_checkpoint(checkpoint)
            check(checkpoint, state)
            place = place._replace(precision=state["precision"])
        trainer = build(state, place)
        if state is not None:
            trainer.load(state, run)
        del state  # as large as the network and its optimizer
        yield trainer


class Validation:
    """The network's state on held-out images: scores for the journal, and a sheet of images under ``samples/``.

    Args:
        run: the run's folder.
        trainer: its ``judged`` network is evaluated.
        evaluate: gets that network in eval mode. It returns the values of journal records by their kind
            (such as "health"), and a contact sheet or None.
    """

    def __init__(
        self,
        run: Path,
        trainer: Trainer,
        evaluate: Callable[[nn.Module], tuple[dict[str, dict[str, Any]], Image.Image | None]],
    ) -> None:
        self.run, self.trainer, self.evaluate = run, trainer, evaluate

    def __call__(self, journal: Journal) -> None:
        step = self.trainer.done
        with distributed.alone():  # the first process alone validates
            records, sheet = self.evaluate(self.trainer.judged.eval())
        if sheet is not None:
            path = self.run / "samples" / f"{step:08d}.png"
            write_png(path, sheet)
            journal.image("samples", step, path.read_bytes(), *sheet.size)
        for kind, values in records.items():
            journal.write(kind, step, **values)
        self.trainer.network.train()


def train(
    run: Path,
    trainer: Trainer,
    samples: AugmentedDataset,
    validate: Callable[[Journal], None],
    stop_signal: Callable[[], ExitStatus],
    facts: dict[str, Any],
    stored: dict[str, Any],
    skipped: Sequence[tuple[str, str]] = (),
    replayable: bool = True,
    title: str = "",
) -> ExitStatus:
    """Train to the last step, and write the run's journal and checkpoints.

    Step s trains on the samples from s * batch_size to (s + 1) * batch_size - 1. The processes share them in that
    order. All processes run this; only the first one writes.

    Args:
        run: the run's folder, locked by the caller.
        trainer: the weights, the optimizer and the learning-rate schedule, at the step to continue from.
        samples: the training images.
        validate: writes validation records to the journal; called every ``machine.evaluate_every`` steps, on the
            first process only.
        stop_signal: returns which signal from the machine has requested a stop, see ``catch_signals``. Ctrl-C is
            handled here.
        facts: values that are journaled at the start of every call, such as versions.
        stored: values that a checkpoint holds besides the trainer's state (settings, color contract).
        skipped: key and reason of images that are known to be unreadable, for the journal.
        replayable: whether ``pretint replay`` can compute a step of such a run again.
        title: the title of the progress bar; by default the folder's name.

    Returns:
        How training ended. A training that was stopped has written a checkpoint.

    Raises:
        UserError: the loss is no longer finite, the disk is full, no image can be read, or another
            process has ended.
    """
    training, machine, is_first = trainer.training, trainer.machine, distributed.is_rank_zero()
    if trainer.done >= training.steps:
        return ExitStatus.COMPLETE
    resumed = newest_checkpoint(run) is not None
    with (
        closing(
            Journal(run, trainer.done if resumed else None, machine.wandb) if is_first else NullJournal()
        ) as journal,
        catch_signals(signal.SIGINT) as interrupt,
        progress(title or run.name, training.steps, "images", trainer.done, weight=training.batch_size)
        if is_first
        else nullcontext(lambda more, remark: None) as advance,
    ):
        log = _TrainLog(run, trainer, samples, stored, journal, advance, list(skipped), replayable)
        journal.write(
            "start",
            trainer.done,
            time=time.time(),
            device=str(trainer.place.device),
            processes=distributed.world_size(),
            **facts,
        )
        if is_first and not resumed:
            validate(journal)
            log.save_checkpoint()
        loader = batches(
            samples,
            training.batch_size,
            trainer.done,
            training.steps,
            trainer.place.workers,
            positions=range(distributed.rank() * trainer.share, (distributed.rank() + 1) * trainer.share),
            pinned=trainer.place.device.type == "cuda",
            worker_start=machine.worker_start,
        )
        for batch in log.time_loading(loader):
            loss, norm = trainer.step(batch.rgb, batch.labels)
            log.steps.append((trainer.done, trainer.rate, loss, norm, trainer.parts))
            log.skipped += batch.skipped

            step = trainer.done
            stop = ExitStatus(distributed.all_reduce_max(max(stop_signal(), interrupt())))
            is_last = step == training.steps
            validation_due = step % machine.evaluate_every == 0 or is_last
            checkpoint_due = step % machine.checkpoint_every == 0 or is_last or stop != ExitStatus.COMPLETE
            if step % LOG_EVERY == 0 or validation_due or checkpoint_due:
                log.log_metrics()
            if is_first and validation_due:
                validate(journal)
            if is_first and checkpoint_due:
                log.save_checkpoint()
            if validation_due or checkpoint_due:
                log.restart_clock()
            if stop != ExitStatus.COMPLETE and not is_last:
                distributed.all_reduce_max(0)  # wait until all is saved: torchrun ends the others when one exits
                return stop
    return ExitStatus.COMPLETE


@dataclass
class _TrainLog:
    """The steps since the last log, on every process. The first process writes them to the journal."""

    run: Path
    trainer: Trainer
    samples: AugmentedDataset
    stored: dict[str, Any]
    journal: Journal
    advance: Advance
    skipped: list[tuple[str, str]]
    replayable: bool
    steps: list[tuple[int, float, Tensor, Tensor, dict[str, Tensor]]] = field(default_factory=list)
    """Losses stay on the device until they are logged."""

    def __post_init__(self) -> None:
        self._journaled = set(skipped_images(self.run)) if distributed.is_rank_zero() else set()
        self.restart_clock()

    def restart_clock(self) -> None:
        """Measure the speed of training from now on."""
        self._started, self._waited = time.perf_counter(), 0.0

    def time_loading(self, loader: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the loader's batches, and add up the time spent waiting for them."""
        self.restart_clock()
        while True:
            wait_start = time.perf_counter()
            try:
                batch = next(loader)
            except StopIteration:
                return
            self._waited += time.perf_counter() - wait_start
            yield batch

    def log_metrics(self) -> None:
        """Journal the added steps, with the mean loss over all processes, and show the progress.

        Raises:
            UserError: a loss or a gradient is not finite. The batch and the checkpoint before it are saved first.
        """
        step_now, training = self.trainer.done, self.trainer.training
        for key, reason in distributed.all_gather_objects(self.skipped):
            if (key, reason) not in self._journaled:
                self._journaled.add((key, reason))
                self.journal.write("skipped", step_now, key=key, reason=reason)
        names = [*self.steps[0][-1]]  # of the loss's parts, the same in every step
        means = torch.stack([torch.stack([loss, *parts.values()]) for _, _, loss, _, parts in self.steps])
        norms = torch.stack([norm for *_, norm, _ in self.steps]).tolist()
        losses, *parts = distributed.all_reduce_mean(means).T.tolist()
        named = [dict(zip(names, values, strict=True)) for values in zip(*parts, strict=True)] or [{}] * len(losses)
        for (step, rate, *_), loss, norm, more in zip(self.steps, losses, norms, named, strict=True):
            if abs(loss) + norm < float("inf"):  # false of nan too
                self.journal.write("step", step, loss=loss, lr=rate, gradient_norm=norm, **more)
                continue
            message = f"{self.run}: the loss is {loss} and the gradient norm is {norm} at step {step}"
            if not distributed.is_rank_zero():
                raise ReportedElsewhere(message)
            evidence = write_evidence(self.run, step, loss, norm, training, self.samples, self.stored["settings"])
            where = (
                f"to see which module caused it, run pretint replay {evidence}"
                if self.replayable
                else f"the images are in {evidence}"
            )
            raise UserError(
                f"{message}; {where}; then start a new run with a lower training.lr or with training.precision fp32"
            )
        count = len(self.steps)
        seconds = max(time.perf_counter() - self._started, 1e-9)
        waiting = min(1.0, self._waited / seconds)
        self.restart_clock()
        speed = count * training.batch_size / seconds
        self.journal.write("speed", step_now, images_per_second=speed, waiting=waiting)
        self.journal.flush()
        self.advance(count, f"loss {losses[-1]:.3f}, {waiting:.0%} waiting for data")
        self.steps.clear()
        self.skipped.clear()

    def save_checkpoint(self) -> None:
        """Write a checkpoint."""
        self.journal.flush()  # first: the journal must hold every step of a checkpoint
        write_checkpoint(self.run, {**self.trainer.state(), **self.stored})
