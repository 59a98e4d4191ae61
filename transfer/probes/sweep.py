"""A sweep of linear classifiers of many settings, stages and poolings, trained together in one pass over the images.

The score on held-out training images decides which half is dropped during training, and which classifier wins.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transfer.metrics.classification import mean_average_precision
from transfer.probes.heads import Heads, Linear, Setting
from transfer.protocols import LinearProtocol

_MAX_OUTPUTS = 2**15  # outputs of all classifiers of a cell; with more, the logits of a chunk are computed in pieces
_MAX_LOGITS = 2**24  # logits of a piece


class FeatureKey(NamedTuple):
    """One kind of features."""

    stage: str
    pooling: str


class BestHead(NamedTuple):
    """The best classifier of a stage."""

    cell: FeatureKey
    chosen: dict[str, float]
    """Its setting, by name."""
    holdout: float | None
    """Its score on the held-out images; None where there are none."""
    classifier: Linear


Fed = tuple[Mapping[FeatureKey, Tensor], Tensor]
"""A step's features by cell, and its targets."""
Held = Callable[[FeatureKey], Iterator[Tensor]]
"""The features of the held-out images, in pieces."""


class ProbeSweep:
    """All classifiers that are trained on the same batches, from the first step to a winner for every stage.

    Args:
        heads: by cell; a stage's winner is chosen among its poolings and settings.
        protocol: the protocol of the training.
        steps: the number of steps of the whole training.
        held: features of the held-out images.
        held_targets: their targets, as in ``Heads.step``; empty if no images are held out: then a stage may have
            only one cell with one classifier.
    """

    def __init__(
        self, heads: dict[FeatureKey, Heads], protocol: LinearProtocol, steps: int, held: Held, held_targets: Tensor
    ) -> None:
        self.heads, self.protocol, self.steps = heads, protocol, steps
        self.held, self.held_targets = held, held_targets
        self.done = 0
        self._rungs = {max(1, math.ceil(rung * steps)) for rung in protocol.rungs} - {steps}

    def run(self, feed: Iterable[Fed], after: Callable[[], None]) -> list[BestHead]:
        """Train to the end, and return the winner of every stage.

        Args:
            feed: the batches from step ``done`` on.
            after: called after every step; training can continue from the ``state`` at that time.
        """
        for features, targets in feed:
            if self.done in self._rungs:
                # Keep the better half of the classifiers of every stage.
                better: dict[FeatureKey, list[int]] = {}
                for stage in self._stages():
                    ranked = self._ranked(stage)
                    for _, cell, head in ranked[: (len(ranked) + 1) // 2]:
                        better.setdefault(cell, []).append(head)
                self.heads = {cell: heads for cell, heads in self.heads.items() if cell in better}
                for cell, heads in self.heads.items():
                    heads.keep(sorted(better[cell]))
            factor = rate_factor(self.protocol, self.done, self.steps)
            for cell, heads in self.heads.items():
                heads.step(features[cell], targets, factor)
            self.done += 1
            after()
        assert self.done == self.steps
        winners = []
        for stage in self._stages():
            if len(self.held_targets):
                score, cell, head = self._ranked(stage)[0]
                heads = self.heads[cell]
                winners.append(BestHead(cell, heads.settings[head]._asdict(), score, heads.classifier(head)))
            else:
                ((cell, heads),) = ((cell, heads) for cell, heads in self.heads.items() if cell.stage == stage)
                assert len(heads) == 1, "a choice needs held-out images"
                winners.append(BestHead(cell, heads.settings[0]._asdict(), None, heads.classifier(0)))
        return winners

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on, besides protocol and images."""
        return {"done": self.done, "heads": [[*cell, heads.state()] for cell, heads in self.heads.items()]}

    def load(self, state: dict[str, Any]) -> None:
        """Restore a ``state``."""
        self.done = state["done"]
        states = {FeatureKey(stage, pooling): inner for stage, pooling, inner in state["heads"]}
        self.heads = {cell: heads for cell, heads in self.heads.items() if cell in states}
        for cell, heads in self.heads.items():
            heads.load(states[cell])

    def _stages(self) -> list[str]:
        return list(dict.fromkeys(cell.stage for cell in self.heads))

    def _ranked(self, stage: str) -> list[tuple[float, FeatureKey, int]]:
        """Return the classifiers of a stage, the best first; classifiers of equal score in the order of the grid."""
        scores = [
            (score, cell, head)
            for cell in self.heads
            if cell.stage == stage
            for head, score in enumerate(self._held_out_scores(cell))
        ]
        return sorted(scores, key=lambda entry: -entry[0])

    def _held_out_scores(self, cell: FeatureKey) -> list[float]:
        """Return the score of every classifier of a cell on the held-out images; -1 where one has diverged."""
        heads, truth = self.heads[cell], self.held_targets
        if heads.multilabel:
            logits = torch.cat([heads.scores(chunk) for chunk in self.held(cell)])
            return [score(one, truth) for one in logits.unbind(1)]
        right, finite = torch.zeros(len(heads), device=truth.device), torch.ones_like(truth[:1]).bool()
        at = 0
        # The logits of all classifiers may not fit in memory; with many classes not even for one chunk.
        outputs = len(heads) * heads.classes
        piece_rows = sys.maxsize if outputs <= _MAX_OUTPUTS else max(1, _MAX_LOGITS // outputs)
        for piece in (piece for chunk in self.held(cell) for piece in chunk.split(piece_rows)):
            logits = heads.scores(piece)
            right += (logits.argmax(2) == truth[at : at + len(piece), None]).sum(0)
            low, high = logits.aminmax(dim=2)  # nan if any is nan; isfinite of all logits would copy them
            finite = finite & (low.isfinite() & high.isfinite()).all(0)
            at += len(piece)
        shares: list[float] = torch.where(finite, right / len(truth), -1.0).tolist()
        return shares


def score(logits: Tensor, targets: Tensor) -> float:
    """Return accuracy or, for multi-label targets (N, C), mean average precision; -1 for logits that diverged."""
    if not bool(logits.isfinite().all()):
        return -1.0
    if targets.ndim == 2:
        return mean_average_precision(logits.cpu().numpy(), targets.cpu().numpy())
    return float((logits.argmax(1) == targets).double().mean())


def rate_factor(protocol: LinearProtocol, step: int, steps: int) -> float:
    """Return the factor of the learning rate at a step."""
    share = step / steps
    if protocol.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    return 0.1 ** sum(share >= milestone for milestone in protocol.milestones)


def grid(protocol: LinearProtocol, batch_size: int) -> list[Setting]:
    """Return the settings that a protocol tries, with learning rates scaled to the batch size."""
    return [Setting(rate * batch_size / 256, decay) for rate in protocol.rates for decay in protocol.weight_decays]


def steps_of(protocol: LinearProtocol, images: int) -> tuple[int, int]:
    """Return the steps and the batch size of a training on this number of images."""
    batch_size = min(protocol.batch_size, images)
    return max(protocol.least_steps, math.ceil(protocol.epochs * images / batch_size)), batch_size


def positions(step: int, batch_size: int, images: int, order: Callable[[int], NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the positions of the images of a step: the orders of all epochs, joined and cut into batches."""
    start, stop = step * batch_size, (step + 1) * batch_size
    first, last = start // images, (stop - 1) // images
    parts: Sequence[NDArray[np.int64]] = [order(epoch) for epoch in range(first, last + 1)]
    return np.concatenate(parts)[start - first * images : stop - first * images]
