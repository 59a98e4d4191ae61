"""The job that probes: what a linear classifier can read from each stage of a frozen network."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pretext.data.batches import CropSettings, Samples, batches
from pretext.data.order import mix, permutation
from pretext.data.source import LabeledSource, digest_of_keys
from pretext.engine.device import autocast
from pretext.engine.memory import available
from pretext.engine.progress import progress
from pretext.errors import UserError
from transfer.evaluation import EvaluationSettings, Task, evaluate
from transfer.features import calibrate_batch_norm
from transfer.features.pool import pool
from transfer.features.rows import Rows
from transfer.metrics import Row, judged_row
from transfer.probes.heads import Heads, Linear, Setting
from transfer.probes.logistic import choose_logistic
from transfer.probes.sweep import Cell, Contest, Fed, Winner, grid, positions, steps_of
from transfer.protocols import LinearProtocol, LogisticProtocol, ProbeProtocol, find_protocol
from transfer.results import Mode, Result

Order = Callable[[int], NDArray[np.int64]]
"""Of an epoch: the images that teach, by their place among these."""


_KEPT = 2**22  # places of images in epochs, 8 bytes each


@dataclass
class ProbeSettings(EvaluationSettings):
    """What linear probes are fitted on, and how.

    Args:
        protocol: modern, zhang2016, splitbrain, goyal2019, or logistic: see docs/evaluation.md.
        mode: cached trains the classifiers on features of one view of each image, which are kept on disk: fast;
            augmented on fresh crops, computed again for every epoch; both, to see the gap.
    """

    protocol: str = "modern"
    mode: Literal["cached", "augmented", "both"] = "cached"


def probe(networks: Sequence[str], settings: ProbeSettings) -> list[Result]:
    """Judge frozen networks by linear classifiers on every stage.

    Called again it goes on from where it was interrupted, and reads back what is done.

    Args:
        networks: runs, or other networks, see ``transfer.networks.open_network``.
        settings: on what, how.

    Returns:
        A result for every network and mode.

    Raises:
        UserError: see the message.
    """
    protocol = find_protocol(settings.protocol, ProbeProtocol)
    if isinstance(protocol, LogisticProtocol):
        if settings.mode != "cached":
            raise UserError(f"mode is {settings.mode}: protocol logistic needs all features at once; take cached")
        return evaluate(networks, settings, protocol, "cached", partial(_logistic, protocol=protocol))
    assert isinstance(protocol, LinearProtocol)
    modes: list[Mode] = ["cached", "augmented"] if settings.mode == "both" else [settings.mode]
    return [
        result
        for mode in modes
        for result in evaluate(networks, settings, protocol, mode, partial(_linear, protocol=protocol, mode=mode))
    ]


def _linear(task: Task, protocol: LinearProtocol, mode: Mode) -> list[Row]:
    """Rows of a protocol of gradient descent.

    From kept features the stages are trained one after the other, which needs the features of one at a time; on
    fresh crops all together, so that each crop passes through the network once.
    """
    fit, held = task.split.fit, task.split.held
    steps, batch_size = steps_of(protocol, len(fit))
    # Every stage has the same epochs: of few images they are all kept.
    order: Order = lru_cache(maxsize=max(2, _KEPT // len(fit)))(
        lambda epoch: permutation(len(fit), mix(task.seed, epoch))
    )
    stages = task.stages
    groups = [[stage] for stage in stages] if mode == "cached" else [stages]
    state = task.partial.load()
    winners: list[Winner] = [_unpacked(one) for one in state.get("winners", [])]
    begun: dict[str, Any] | None = state.get("contest")
    done = len(winners) * steps + (begun["done"] if begun else 0)
    with progress(f"{task.network.name}, {mode}", len(groups) * steps, "steps", done) as advance:
        for group in groups[len(winners) :]:
            cells = [Cell(stage, rule) for stage in group for rule in _distinct(task, stage, protocol.poolings)]
            rows = {cell: Rows(task.train.matrix(*cell), task.place.device) for cell in cells}
            heads = {cell: _heads(task, protocol, rows[cell], grid(protocol, batch_size)) for cell in cells}
            contest = Contest(heads, protocol, steps, partial(_held, rows, held), _targets(task, held))
            if begun:
                contest.load(begun)
                begun = None

            def after(contest: Contest = contest) -> None:
                advance(1, "")
                task.partial.offer(lambda: {"winners": [_packed(one) for one in winners], "contest": contest.state()})

            if mode == "cached":
                fed = _kept_views(task, rows, contest, batch_size, order)
            else:
                fed = _fresh_views(task, protocol, contest, batch_size, order)
            winners.extend(contest.run(fed, after))
    return [_row(task, winner) for winner in winners]


def _logistic(task: Task, protocol: LogisticProtocol) -> list[Row]:
    """Rows of a protocol of logistic regression."""
    fit, held = task.split.fit, task.split.held
    stages = task.stages
    winners: list[Winner] = [_unpacked(one) for one in task.partial.load().get("winners", [])]
    with progress(f"{task.network.name}, logistic", len(stages), "stages", len(winners)) as advance:
        for stage in stages[len(winners) :]:
            found = []
            for rule in protocol.poolings:
                rows = Rows(task.train.matrix(stage, rule), task.place.device)
                needed = 3 * 4 * rows.dims * (len(fit) + len(held))
                if needed > available(task.place.device):
                    raise UserError(
                        f"protocol logistic needs {needed / 1e9:.0f} GB for the features of {stage} at once, more than "
                        "there is; take protocol modern"
                    )
                classifier, penalty, score = choose_logistic(
                    (rows[fit], _targets(task, fit)),
                    (rows[held], _targets(task, held)),
                    len(task.targets.classes),
                    protocol,
                )
                found.append(Winner(Cell(stage, rule), {"penalty": penalty}, score, classifier))
            winners.append(max(found, key=lambda winner: winner.holdout or 0.0))
            task.partial.offer(lambda: {"winners": [_packed(one) for one in winners]})
            advance(1, "")
    return [_row(task, winner) for winner in winners]


def _distinct(task: Task, stage: str, rules: Sequence[str]) -> list[str]:
    """Of poolings that come to the same, as all do that leave a stage one place, the first."""
    kinds: dict[int, str] = {}
    for rule in rules:
        kinds.setdefault(task.train.dims(stage, rule), rule)
    return list(kinds.values())


def _held(rows: dict[Cell, Rows], held: NDArray[np.int64], cell: Cell) -> Iterator[Tensor]:
    return rows[cell].chunks(held)


def _heads(task: Task, protocol: LinearProtocol, rows: Rows, settings: Sequence[Setting]) -> Heads:
    targets = task.targets
    heads = Heads(
        rows.dims,
        len(targets.classes),
        settings,
        protocol.scaling,
        protocol.momentum,
        protocol.nesterov,
        targets.multilabel,
        task.place.device,
    )
    if protocol.scaling == "standardize":
        heads.standardize(*rows.statistics(task.split.fit))
    return heads


def _targets(task: Task, indices: NDArray[np.int64]) -> Tensor:
    """Of training images, on the device."""
    return torch.from_numpy(task.targets.train.labels[indices]).to(task.place.device)


def _kept_views(task: Task, rows: dict[Cell, Rows], contest: Contest, batch_size: int, order: Order) -> Iterator[Fed]:
    """Batches of kept features, from the step at which the contest stands."""
    fit = task.split.fit
    for step in range(contest.done, contest.steps):
        chosen = fit[positions(step, batch_size, len(fit), order)]
        yield {cell: rows[cell][chosen] for cell in contest.heads}, _targets(task, chosen)


@torch.no_grad()
def _fresh_views(
    task: Task, protocol: LinearProtocol, contest: Contest, batch_size: int, order: Order
) -> Iterator[Fed]:
    """Features of batches of fresh crops, likewise; the same images in the same order."""
    fit, place, module = task.split.fit, task.place, task.network.module.to(task.place.device)
    calibrate_batch_norm(task.network, task.targets.train, task.view, place)  # not yet, where features were kept
    crop = CropSettings(task.view.size, protocol.area, protocol.aspect, protocol.flip)
    samples = Samples([_Picked(task.targets.train, fit, protocol.square)], crop, task.seed)
    for step, batch in enumerate(
        batches(samples, batch_size, contest.done, contest.steps, place.workers), contest.done
    ):
        if batch.skipped:
            raise UserError(f"{': '.join(batch.skipped[0])}: it could be read before; were images changed meanwhile?")
        with autocast(place):
            rgb = batch.rgb.to(place.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            stages = module(rgb)
        features = {cell: pool(stages[cell.stage].float(), cell.pooling) for cell in contest.heads}
        yield features, _targets(task, fit[positions(step, batch_size, len(fit), order)])


class _Picked:
    """Some images of a source, perhaps only their middle squares: a source."""

    def __init__(self, source: LabeledSource, indices: NDArray[np.int64], square: bool) -> None:
        self.source, self.indices, self.square = source, indices, square

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        image = self.source.read(int(self.indices[index]), shorter)
        if not self.square:
            return image
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.crop((left, top, left + side, top + side))

    def key(self, index: int) -> str:
        return self.source.key(int(self.indices[index]))

    def digest(self) -> str:
        return digest_of_keys(self)


def _row(task: Task, winner: Winner) -> Row:
    """A stage's line: its winner's answers on the test images, read here and nowhere else."""
    rows = Rows(task.test.matrix(*winner.cell), task.place.device)
    logits = torch.cat([winner.classifier.scores(chunk) for chunk in rows.chunks(task.tested)]).cpu().numpy()
    stage, pooling = winner.cell
    return judged_row(stage, "", rows.dims, pooling, winner.chosen, winner.holdout, [task.outcome(stage, logits)])


def _packed(winner: Winner) -> dict[str, Any]:
    """A winner as a checkpoint holds it."""
    return {
        "cell": list(winner.cell),
        "chosen": winner.chosen,
        "holdout": winner.holdout,
        "classifier": list(winner.classifier),
    }


def _unpacked(kept: dict[str, Any]) -> Winner:
    return Winner(Cell(*kept["cell"]), kept["chosen"], kept["holdout"], Linear(*kept["classifier"]))
