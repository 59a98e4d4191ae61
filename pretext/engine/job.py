"""What all training jobs share: resume a run or start it, and validate it now and then."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from pretext.engine import distributed
from pretext.engine.checkpoint import load_checkpoint
from pretext.engine.device import Place
from pretext.engine.journal import Journal
from pretext.engine.run import held_run, resumed_checkpoint
from pretext.engine.trainer import Learner
from pretext.files import write_png

State = dict[str, Any]


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
