"""The one training loop."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from pretext.engine import ranks
from pretext.engine.interrupt import Ending, stop_requests
from pretext.engine.journal import Journal, Silence, skipped_pictures
from pretext.engine.learner import Learner
from pretext.engine.nonfinite import keep_evidence
from pretext.engine.progress import progress
from pretext.engine.run import keep_checkpoint, newest_checkpoint
from pretext.errors import SaidElsewhere, UserError
from pretext.pictures.batches import Samples, batches

_NOTED_EVERY = 20
T = TypeVar("T")


def train(
    run: Path,
    learner: Learner,
    samples: Samples,
    look: Callable[[Journal], None],
    facts: dict[str, Any],
    stored: dict[str, Any],
    skipped: Sequence[tuple[str, str]] = (),
) -> Ending:
    """Train from where the learner stands to the end, writing the run's journal and checkpoints.

    Step s sees the samples s * batch_size and on, shared out among the processes in that order. All
    processes run this; the first alone writes.

    Args:
        run: its folder, held by the caller.
        learner: what is trained.
        samples: where batches come from.
        look: called now and then, on the first process only, to journal how the network does.
        facts: journaled at the start of every call, such as versions.
        stored: what a checkpoint holds besides the learner's state (settings, colour contract).
        skipped: key and reason of pictures that are known to be unreadable, for the journal.

    Returns:
        How it ended; unless it is complete, with a checkpoint written.

    Raises:
        UserError: the loss is no longer finite, the disk is full, no picture can be read, another
            process is gone.
    """
    training, machine, first = learner.training, learner.machine, ranks.is_first()
    if learner.done >= training.steps:
        return Ending.COMPLETE

    known = {key for key, _ in skipped_pictures(run)}
    pending: list[tuple[int, float, Tensor, Tensor]] = []  # losses stay on the device until they are noted
    bad = list(skipped)
    clock = _Clock()
    begun = newest_checkpoint(run) is not None

    def keep() -> None:
        journal.flush()  # before the checkpoint: the journal is never behind it
        keep_checkpoint(run, {**learner.state(), **stored})

    def note() -> None:
        for key, reason in ranks.gathered(bad):
            if key not in known:
                known.add(key)
                journal.write("skipped", learner.done, key=key, reason=reason)
        bad.clear()
        losses = ranks.averaged(torch.stack([loss for _, _, loss, _ in pending])).tolist()
        norms = torch.stack([norm for *_, norm in pending]).tolist()
        for (step, rate, *_), loss, norm in zip(pending, losses, norms, strict=True):
            if not abs(loss) + norm < float("inf"):  # nan too
                said = f"{run}: the loss is {loss} and its gradient's norm {norm} at step {step}"
                if not first:
                    raise SaidElsewhere(said)
                evidence = keep_evidence(run, step, loss, norm, training, samples, stored["settings"])
                raise UserError(
                    f"{said}; see where it began: pretint replay {evidence}, and start a new run with a lower "
                    "training.lr or with training.precision fp32"
                )
            journal.write("step", step, loss=loss, lr=rate, gradient_norm=norm)
        rate, waiting = clock.lap(len(pending) * training.batch_size)
        journal.write("speed", learner.done, pictures_per_second=rate, waiting=waiting)
        journal.flush()
        advance(len(pending), f"loss {losses[-1]:.3f}, {waiting:.0%} waiting for data")
        pending.clear()

    with (
        closing(Journal(run, learner.done if begun else None) if first else Silence()) as journal,
        stop_requests() as asked_to_stop,
        progress(run.name, training.steps, "pictures", learner.done, weight=training.batch_size)
        if first
        else nullcontext(lambda more, remark: None) as advance,
    ):
        journal.write(
            "start", learner.done, time=time.time(), device=str(learner.place.device), processes=ranks.world(), **facts
        )
        if first and not begun:
            look(journal)
            keep()
        share = range(ranks.rank() * learner.share, (ranks.rank() + 1) * learner.share)
        source = batches(
            samples, training.batch_size, learner.done, training.steps, learner.place.workers, positions=share
        )
        clock.lap(0)
        for batch in clock.waiting(source):
            loss, norm = learner.step(batch.rgb)
            pending.append((learner.done, learner.rate, loss, norm))
            bad += batch.skipped

            stop = Ending(ranks.agree(asked_to_stop()))
            last = learner.done == training.steps
            look_due = learner.done % machine.evaluate_every == 0 or last
            keep_due = learner.done % machine.checkpoint_every == 0 or last or stop != Ending.COMPLETE
            if learner.done % _NOTED_EVERY == 0 or look_due or keep_due:
                note()
            if first and look_due:
                look(journal)
            if first and keep_due:
                keep()
            if look_due or keep_due:
                clock.lap(0)
            if stop != Ending.COMPLETE and not last:
                return stop
    return Ending.COMPLETE


class _Clock:
    """How fast it goes, and how much of that time is spent waiting for pictures."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._waited = 0.0

    def waiting(self, things: Iterator[T]) -> Iterator[T]:
        """The same things; the time until each comes counts as waiting."""
        while True:
            began = time.perf_counter()
            try:
                thing = next(things)
            except StopIteration:
                return
            self._waited += time.perf_counter() - began
            yield thing

    def lap(self, pictures: int) -> tuple[float, float]:
        """Pictures per second and the share of waiting since the last lap."""
        now = time.perf_counter()
        seconds = max(now - self._began, 1e-9)
        share = min(1.0, self._waited / seconds)
        self._began, self._waited = now, 0.0
        return pictures / seconds, share
