"""Linear probes: a linear classifier on each stage of a frozen network, by gradient descent or logistic regression."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pretext import roles
from pretext.data.batches import CropSettings, TrainDataset, batches
from pretext.data.order import mix, permutation
from pretext.data.source import LabeledDataset, digest_of_keys
from pretext.engine.device import autocast
from pretext.engine.memory import available_memory
from pretext.engine.progress import progress
from pretext.errors import UserError
from transfer.evaluation import EvaluationSettings, EvaluationTask, evaluate
from transfer.features import Rows, calibrate_batch_norm
from transfer.features.pool import pool
from transfer.metrics import Row, make_row
from transfer.probes.heads import Heads, Linear, Setting, loss
from transfer.probes.sweep import BestHead, FeatureKey, Fed, ProbeSweep, grid, positions, score, steps_of
from transfer.protocols import LinearProtocol, LogisticProtocol, ProbeProtocol, find_protocol
from transfer.results import Mode, Result

Order = Callable[[int], NDArray[np.int64]]
"""Maps an epoch to its order of the images to fit to, by their place among these."""

_CACHED_PLACES = 2**22  # places of images in the cached epochs, 8 bytes each


@dataclass
class ProbeSettings(EvaluationSettings):
    """Data and options of linear probes.

    Args:
        protocol: modern, zhang2016, splitbrain, goyal2019, or logistic: see docs/evaluation.md.
        mode: cached trains the classifiers on features of one view of each image, which are kept on disk: fast;
            augmented on fresh crops, computed again for every epoch; both, to see the gap.
    """

    protocol: str = roles.science("modern")
    mode: Literal["cached", "augmented", "both"] = roles.science("cached")


def probe(networks: Sequence[str], settings: ProbeSettings) -> list[Result]:
    """Evaluate frozen networks by linear classifiers on every stage.

    A second call continues where the first was interrupted, and reads finished results back.

    Args:
        networks: runs, or other networks, see ``transfer.networks.open_network``.
        settings: the data and the protocol.

    Returns:
        A result for every network and mode, in order; with ``settings.reference``, the default, a run comes after its
        network at random weights. ``{row.stage: row.score.value for row in result.rows}`` is the accuracy by stage, in
        [0, 1].

    Raises:
        UserError: see the message.
    """
    protocol = find_protocol(settings.protocol, ProbeProtocol)
    if isinstance(protocol, LogisticProtocol):
        if settings.mode != "cached":
            raise UserError(f"mode is {settings.mode}: protocol logistic needs all features at once; use mode cached")
        return evaluate(networks, settings, protocol, "cached", partial(_logistic, protocol=protocol))
    assert isinstance(protocol, LinearProtocol)
    modes: list[Mode] = ["cached", "augmented"] if settings.mode == "both" else [settings.mode]
    return [
        result
        for mode in modes
        for result in evaluate(networks, settings, protocol, mode, partial(_linear, protocol=protocol, mode=mode))
    ]


def _linear(task: EvaluationTask, protocol: LinearProtocol, mode: Mode) -> list[Row]:
    """Return the rows of a protocol of gradient descent.

    On cached features the stages are trained one after the other, so that memory holds the features of one stage at a
    time. On fresh crops all stages are trained together, so that each crop passes through the network once.
    """
    fit, held = task.split.fit, task.split.held
    steps, batch_size = steps_of(protocol, len(fit))
    # Every stage has the same epochs: with few images they are all cached.
    order: Order = lru_cache(maxsize=max(2, _CACHED_PLACES // len(fit)))(
        lambda epoch: permutation(len(fit), mix(task.seed, epoch))
    )
    stages = task.stages
    groups = [[stage] for stage in stages] if mode == "cached" else [stages]
    state = task.partial.load()
    winners = _unpack(state.get("winners", []))
    begun: dict[str, Any] | None = state.pop("sweep", None)  # popped: it is as large as all classifiers
    done = len(winners) * steps + (begun["done"] if begun else 0)
    with progress(f"{task.network.name}, {mode}", len(groups) * steps, "steps", done) as advance:
        for group in groups[len(winners) :]:
            cells: list[FeatureKey] = []
            for stage in group:
                first: dict[int, str] = {}  # poolings of equal dimensions are equal, as for a map of one position
                for rule in protocol.poolings:
                    first.setdefault(task.train.dims(stage, rule), rule)
                cells += [FeatureKey(stage, rule) for rule in first.values()]
            rows = {cell: Rows(task.train.matrix(*cell), task.place.device) for cell in cells}
            settings = grid(protocol, batch_size)
            _require_memory(task, [rows[cell].dims for cell in cells], len(settings), batch_size)
            heads = {cell: _heads(task, protocol, rows[cell], settings) for cell in cells}

            def held_chunks(cell: FeatureKey, rows: dict[FeatureKey, Rows] = rows) -> Iterator[Tensor]:
                return rows[cell].chunks(held)

            sweep = ProbeSweep(heads, protocol, steps, held_chunks, _targets(task, held))
            if begun:
                sweep.load(begun)
                begun = None

            def after(sweep: ProbeSweep = sweep) -> None:
                advance(1, "")
                task.partial.offer(lambda: {"winners": _pack(winners), "sweep": sweep.state()})

            if mode == "cached":
                batches_of_features = _cached_batches(task, rows, sweep, batch_size, order)
            else:
                batches_of_features = _fresh_batches(task, protocol, sweep, batch_size, order)
            winners.extend(sweep.run(batches_of_features, after))
            # Free these before the next stage needs the memory.
            del rows, heads, held_chunks, sweep, after, batches_of_features
    return [_row(task, winner) for winner in winners]


def _logistic(task: EvaluationTask, protocol: LogisticProtocol) -> list[Row]:
    """Return the rows of a protocol of logistic regression."""
    fit, held = task.split.fit, task.split.held
    stages = task.stages
    winners = _unpack(task.partial.load().get("winners", []))
    with progress(f"{task.network.name}, logistic", len(stages), "stages", len(winners)) as advance:
        for stage in stages[len(winners) :]:
            candidates = []
            for rule in protocol.poolings:
                rows = Rows(task.train.matrix(stage, rule), task.place.device)
                count, classes = len(fit) + len(held), len(task.targets.classes)
                # Features, as they are and scaled; logits, their loss and its gradient; weights in L-BFGS's history.
                needed = 4 * (3 * rows.dims * count + 3 * classes * count + 26 * classes * rows.dims)
                if needed > available_memory(task.place.device):
                    raise UserError(
                        f"protocol logistic needs {needed / 1e9:.1f} GB for the features and logits of {stage} at "
                        "once, more than is free; use protocol modern"
                    )
                classifier, penalty, score = choose_logistic(
                    (rows[fit], _targets(task, fit)), (rows[held], _targets(task, held)), classes, protocol
                )
                candidates.append(BestHead(FeatureKey(stage, rule), {"penalty": penalty}, score, classifier))
            winners.append(max(candidates, key=lambda winner: winner.holdout or 0.0))
            task.partial.offer(lambda: {"winners": _pack(winners)})
            advance(1, "")
    return [_row(task, winner) for winner in winners]


def _require_memory(task: EvaluationTask, dims: Sequence[int], heads: int, batch_size: int) -> None:
    """Refuse classifiers that do not fit in memory.

    Args:
        task: the evaluation.
        dims: the dimensions of the features of each cell that is trained at the same time.
        heads: the number of classifiers of each cell.
        batch_size: the batch size of the training.

    Raises:
        UserError: they do not fit.
    """
    classes, free = len(task.targets.classes), available_memory(task.place.device)
    # Weights and their velocities; the logits of a batch and one copy.
    needed = 4 * heads * classes * (2 * sum(size + 1 for size in dims) + 2 * batch_size)
    if needed > free:
        remedy = "take protocol zhang2016, which trains one for each stage" if heads > 1 else "take a larger machine"
        if len(dims) > 2:
            remedy = "evaluate fewer stages at once by --stages"
        raise UserError(
            f"{task.network.name}: {heads * len(dims)} classifiers of {classes:,} classes need {needed / 1e9:.1f} GB, "
            f"and {free / 1e9:.1f} GB are free; {remedy}"
        )


def fit_linear(
    features: Tensor, targets: Tensor, start: Linear, penalty: float, iterations: int, tolerance: float = 1e-4
) -> Linear:
    """Fit logistic regression by L-BFGS: mean loss plus penalty / 2 times the squared weights.

    Args:
        features: (N, dims), scaled already.
        targets: as in ``Heads.step``.
        start: the initial classifier.
        penalty: the penalty on the weights, not on the bias. scikit-learn's C is 1 / (N * penalty).
        iterations: the limit.
        tolerance: the solver ends when no component of the gradient is greater (scikit-learn's default).

    Returns:
        The classifier, with ``start``'s scaling.
    """
    weight, bias = (part.clone().requires_grad_() for part in (start.weight, start.bias))
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, history_size=10, tolerance_grad=tolerance, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = torch.nn.functional.linear(features, weight, bias)
        value = loss(logits, targets, targets.ndim == 2) + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return start._replace(weight=weight.detach(), bias=bias.detach())


def choose_logistic(
    fit: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], classes: int, protocol: LogisticProtocol
) -> tuple[Linear, float, float]:
    """Fit with every penalty, choose on held-out images, fit again to all.

    Args:
        fit: features (N, dims) and targets of the images to fit to.
        held: the same of the held-out images.
        classes: the number of classes.
        protocol: the penalties to try, and the limit of iterations.

    Returns:
        The classifier, the penalty, and its score on the held-out images.
    """
    x, mean, scale = _standardize(fit[0])
    held_x = (held[0] - mean) * scale
    start = Linear(x.new_zeros(classes, x.shape[1]), x.new_zeros(classes), mean, scale)
    best_score, chosen, best = -math.inf, 0.0, start
    classifier = start
    for penalty in protocol.penalties:
        classifier = fit_linear(x, fit[1], classifier, penalty, protocol.iterations)
        held_score = score(torch.nn.functional.linear(held_x, classifier.weight, classifier.bias), held[1])
        if held_score > best_score:
            best_score, chosen, best = held_score, penalty, classifier
    x, mean, scale = _standardize(torch.cat((fit[0], held[0])))
    start = best._replace(mean=mean, scale=scale)
    return fit_linear(x, torch.cat((fit[1], held[1])), start, chosen, protocol.iterations), chosen, best_score


def _standardize(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return features with mean 0 and deviation 1, the mean that was subtracted, and the scale."""
    variance, mean = torch.var_mean(features, 0, correction=0)
    scale = torch.where(variance > 1e-12, variance, 1.0).rsqrt()
    return (features - mean) * scale, mean, scale


def _heads(task: EvaluationTask, protocol: LinearProtocol, rows: Rows, settings: Sequence[Setting]) -> Heads:
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


def _targets(task: EvaluationTask, indices: NDArray[np.int64]) -> Tensor:
    """Return the targets of training images, on the device."""
    return torch.from_numpy(task.targets.train.labels[indices]).to(task.place.device)


def _cached_batches(
    task: EvaluationTask, rows: dict[FeatureKey, Rows], sweep: ProbeSweep, batch_size: int, order: Order
) -> Iterator[Fed]:
    """Yield batches of cached features, from the sweep's current step on."""
    fit = task.split.fit
    for step in range(sweep.done, sweep.steps):
        chosen = fit[positions(step, batch_size, len(fit), order)]
        yield {cell: rows[cell][chosen] for cell in sweep.heads}, _targets(task, chosen)


@torch.no_grad()
def _fresh_batches(
    task: EvaluationTask, protocol: LinearProtocol, sweep: ProbeSweep, batch_size: int, order: Order
) -> Iterator[Fed]:
    """Yield the features of batches of fresh crops; the images have the same order as in ``_cached_batches``."""
    fit, place, module = task.split.fit, task.place, task.network.module.to(task.place.device)
    calibrate_batch_norm(
        task.network, task.targets.train, task.view, place
    )  # not done yet if all features were in the cache
    crop = CropSettings(task.view.size, protocol.area, protocol.aspect, protocol.flip)
    samples = TrainDataset([_Selection(task.targets.train, fit, protocol.square)], crop, task.seed)
    for step, batch in enumerate(batches(samples, batch_size, sweep.done, sweep.steps, place.workers), sweep.done):
        if batch.skipped:
            raise UserError(
                f"{': '.join(batch.skipped[0])}: the image could be read before; do not change images during a run"
            )
        with autocast(place):
            rgb = batch.rgb.to(place.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            stages = module(rgb)
        features = {cell: pool(stages[cell.stage].float(), cell.pooling) for cell in sweep.heads}
        yield features, _targets(task, fit[positions(step, batch_size, len(fit), order)])


class _Selection:
    """A dataset with some images of another one, whole or only their middle squares."""

    def __init__(self, source: LabeledDataset, indices: NDArray[np.int64], square: bool) -> None:
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


def _row(task: EvaluationTask, winner: BestHead) -> Row:
    """Return the row of a stage: its winner predicts the test images, which nothing else reads."""
    rows = Rows(task.test.matrix(*winner.cell), task.place.device)
    stage, pooling = winner.cell
    scores = (winner.classifier.scores(chunk).cpu().numpy() for chunk in rows.chunks(task.tested))
    outcome = task.outcome(np.concatenate([task.predictions(stage, part) for part in scores]))
    return make_row(stage, "", rows.dims, pooling, winner.chosen, winner.holdout, [outcome])


def _pack(winners: Sequence[BestHead]) -> list[Any]:
    """Return winners as plain values and tensors, for a checkpoint."""
    return [[list(best.cell), best.chosen, best.holdout, list(best.classifier)] for best in winners]


def _unpack(states: Sequence[Any]) -> list[BestHead]:
    return [BestHead(FeatureKey(*cell), chosen, held, Linear(*tensors)) for cell, chosen, held, tensors in states]
