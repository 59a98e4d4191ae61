"""The one training loop, and what starts or resumes a run for it."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from pretext.data.batches import Batch, Examples, batches
from pretext.engine import distributed
from pretext.engine.checkpoint import load_checkpoint
from pretext.engine.device import Place
from pretext.engine.journal import Journal, Silence, skipped_images
from pretext.engine.progress import Advance, progress
from pretext.engine.run import held_run, keep_checkpoint, keep_evidence, newest_checkpoint, resumed_checkpoint
from pretext.engine.signals import Ending, stop_requests
from pretext.engine.trainer import Learner
from pretext.errors import SaidElsewhere, UserError
from pretext.files import write_png

State = dict[str, Any]

_NOTED_EVERY = 20


@contextmanager
def resume_or_start(
    run: Path,
    settings: dict[str, Any],
    place: Place,
    build: Callable[[State | None, Place], Learner],
    check: Callable[[Path, State], None],
    defaults: dict[str, Any] | None = None,
) -> Iterator[Learner]:
    """Lock a run's folder and yield the learner, at the newest checkpoint if the run has one.

    All processes call this; the first alone locks the folder and picks the checkpoint.

    Args:
        run: the run's folder.
        settings: of the run, plain values, see ``pretext.engine.run.held_run``.
        place: where to compute; a resumed run keeps the precision that it began with.
        build: makes the learner. It gets the state to resume from, or None to start, and does not load it.
        check: refuses, by a ``UserError``, a checkpoint (its file and its state) that this run cannot resume from.
        defaults: see ``held_run``.

    Raises:
        UserError: the folder cannot be used, its checkpoints are damaged, or one does not fit.
    """
    with ExitStack() as lock:
        distributed.on_first(lambda: lock.enter_context(held_run(run, settings, defaults)))
        checkpoint = distributed.from_first(lambda: resumed_checkpoint(run))
        state = None
        if checkpoint is not None:
            state = load_checkpoint(checkpoint)
            check(checkpoint, state)
            place = place._replace(precision=state["precision"])
        learner = build(state, place)
        if state is not None:
            learner.load(state, run)
        del state  # as large as the network and its optimizer
        yield learner


class Validation:
    """The network's state on held-out images: scores for the journal, and a sheet of images under ``samples/``.

    Args:
        run: the run's folder.
        learner: its ``judged`` network is evaluated.
        evaluate: returns, of that network in eval mode, the values of journal records by their kind
            (such as "health"), and a contact sheet or None.
    """

    def __init__(
        self,
        run: Path,
        learner: Learner,
        evaluate: Callable[[nn.Module], tuple[dict[str, dict[str, Any]], Image.Image | None]],
    ) -> None:
        self.run, self.learner, self.evaluate = run, learner, evaluate

    def __call__(self, journal: Journal) -> None:
        step = self.learner.done
        records, sheet = self.evaluate(self.learner.judged.eval())
        if sheet is not None:
            path = self.run / "samples" / f"{step:08d}.png"
            write_png(path, sheet)
            journal.image("samples", step, path.read_bytes(), *sheet.size)
        for kind, values in records.items():
            journal.write(kind, step, **values)
        self.learner.network.train()


def train(
    run: Path,
    learner: Learner,
    samples: Examples,
    look: Callable[[Journal], None],
    warned: Callable[[], Ending],
    facts: dict[str, Any],
    stored: dict[str, Any],
    skipped: Sequence[tuple[str, str]] = (),
    replayable: bool = True,
    title: str = "",
) -> Ending:
    """Train from where the learner stands to the end, writing the run's journal and checkpoints.

    Step s sees the samples s * batch_size and on, shared out among the processes in that order. All
    processes run this; the first alone writes.

    Args:
        run: its folder, held by the caller.
        learner: what is trained.
        samples: where batches come from.
        look: called now and then, on the first process only, to journal how the network does.
        warned: which signal of a machine has asked to stop, see ``stop_requests``; Ctrl-C is watched for here.
        facts: journaled at the start of every call, such as versions.
        stored: what a checkpoint holds besides the learner's state (settings, color contract).
        skipped: key and reason of images that are known to be unreadable, for the journal.
        title: of the progress, if not the folder's name.
        replayable: whether ``pretint replay`` can compute a step of such a run again.

    Returns:
        How it ended; unless it is complete, with a checkpoint written.

    Raises:
        UserError: the loss is no longer finite, the disk is full, no image can be read, another
            process is gone.
    """
    training, machine, first = learner.training, learner.machine, distributed.is_first()
    if learner.done >= training.steps:
        return Ending.COMPLETE
    begun = newest_checkpoint(run) is not None
    with (
        closing(Journal(run, learner.done if begun else None) if first else Silence()) as journal,
        stop_requests(signal.SIGINT) as interrupted,
        progress(title or run.name, training.steps, "images", learner.done, weight=training.batch_size)
        if first
        else nullcontext(lambda more, remark: None) as advance,
    ):
        books = _Books(run, learner, samples, stored, journal, advance, skipped, replayable)
        journal.write(
            "start",
            learner.done,
            time=time.time(),
            device=str(learner.place.device),
            processes=distributed.world(),
            **facts,
        )
        if first and not begun:
            look(journal)
            books.keep()
        for batch in books.waiting_for(
            batches(
                samples,
                training.batch_size,
                learner.done,
                training.steps,
                learner.place.workers,
                positions=range(distributed.rank() * learner.share, (distributed.rank() + 1) * learner.share),
                pinned=learner.place.device.type == "cuda",
                worker_start=machine.worker_start,
            )
        ):
            loss, norm = learner.step(batch.rgb, batch.labels)
            books.add(loss, norm, batch.skipped)

            stop = Ending(distributed.agree(max(warned(), interrupted())))
            last = learner.done == training.steps
            look_due = learner.done % machine.evaluate_every == 0 or last
            keep_due = learner.done % machine.checkpoint_every == 0 or last or stop != Ending.COMPLETE
            if learner.done % _NOTED_EVERY == 0 or look_due or keep_due:
                books.note()
            if first and look_due:
                look(journal)
            if first and keep_due:
                books.keep()
            if look_due or keep_due:
                books.lap()
            if stop != Ending.COMPLETE and not last:
                distributed.agree(0)  # nobody leaves before all is saved: torchrun would end the others
                return stop
    return Ending.COMPLETE


class _Books:
    """What happened since it was last noted, on every process, and what the first process writes of it."""

    def __init__(
        self,
        run: Path,
        learner: Learner,
        samples: Examples,
        stored: dict[str, Any],
        journal: Journal,
        advance: Advance,
        skipped: Sequence[tuple[str, str]],
        replayable: bool,
    ) -> None:
        self.run, self.learner, self.samples, self.stored = run, learner, samples, stored
        self.replayable = replayable
        self.journal, self.advance = journal, advance
        self._steps: list[tuple[int, float, Tensor, Tensor]] = []  # losses stay on the device until they are noted
        self._bad = list(skipped)
        self._known = set(skipped_images(run)) if distributed.is_first() else set()
        self._began, self._waited = time.perf_counter(), 0.0

    def waiting_for(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time until each comes counts as waiting."""
        self.lap()
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.perf_counter() - began
            yield batch

    def add(self, loss: Tensor, norm: Tensor, skipped: Sequence[tuple[str, str]]) -> None:
        """A step, and the images that it could not read."""
        self._steps.append((self.learner.done, self.learner.rate, loss, norm))
        self._bad += skipped

    def note(self) -> None:
        """Journal what was added, of all processes.

        Raises:
            UserError: a loss or a gradient is not finite; the evidence is kept.
        """
        done = self.learner.done
        for key, reason in distributed.gathered(self._bad):
            if (key, reason) not in self._known:
                self._known.add((key, reason))
                self.journal.write("skipped", done, key=key, reason=reason)
        losses = distributed.averaged(torch.stack([loss for _, _, loss, _ in self._steps])).tolist()
        norms = torch.stack([norm for *_, norm in self._steps]).tolist()
        for (step, rate, *_), loss, norm in zip(self._steps, losses, norms, strict=True):
            if not abs(loss) + norm < float("inf"):  # nan too
                raise self._ruin(step, loss, norm)
            self.journal.write("step", step, loss=loss, lr=rate, gradient_norm=norm)
        count = len(self._steps)
        rate, waiting = self.lap(count * self.learner.training.batch_size)
        self.journal.write("speed", done, images_per_second=rate, waiting=waiting)
        self.journal.flush()
        self.advance(count, f"loss {losses[-1]:.3f}, {waiting:.0%} waiting for data")
        self._steps.clear()
        self._bad.clear()

    def keep(self) -> None:
        """Write a checkpoint."""
        self.journal.flush()  # first: the journal is never behind a checkpoint
        keep_checkpoint(self.run, {**self.learner.state(), **self.stored})

    def lap(self, images: int = 0) -> tuple[float, float]:
        """Images per second and the share of waiting since the last lap."""
        now = time.perf_counter()
        seconds = max(now - self._began, 1e-9)
        share = min(1.0, self._waited / seconds)
        self._began, self._waited = now, 0.0
        return images / seconds, share

    def _ruin(self, step: int, loss: float, norm: float) -> UserError:
        said = f"{self.run}: the loss is {loss} and its gradient's norm {norm} at step {step}"
        if not distributed.is_first():
            return SaidElsewhere(said)
        settings = self.stored["settings"]
        evidence = keep_evidence(self.run, step, loss, norm, self.learner.training, self.samples, settings)
        where = f"see where it began: pretint replay {evidence}" if self.replayable else f"{evidence} has the images"
        return UserError(f"{said}; {where}, and start a new run with a lower training.lr or training.precision fp32")
