"""Rows of a result: one stage, with its outcomes and the number that they give together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transfer.bootstrap import Estimate
from transfer.metrics.metric import Outcome


@dataclass(frozen=True)
class Row:
    """One stage by one variant of a protocol; made by ``judged_row``."""

    stage: str
    """The frozen stage that was judged; of fine-tuning what was trained: "all", "above conv4"."""
    variant: str
    """What else tells it from others: "", "k=20", "4 shots", "11 points"."""
    dims: int
    """Of the features; of fine-tuning how many weights were trained, those of the head among them."""
    pooling: str
    chosen: dict[str, Any]
    """What was chosen on the held-out part: learning rate, penalty, C, ...; plain values."""
    holdout: float | None
    """The score on the held-out part that chose it, in [0, 1]."""
    outcomes: tuple[Outcome, ...] = field(compare=False)
    """One; of low-shot rows one per sample of the training images."""
    score: Estimate
    """Mean over the outcomes, with its interval over test images."""

    @property
    def name(self) -> str:
        """ "conv4", or "conv4, k=20"."""
        return f"{self.stage}, {self.variant}" if self.variant else self.stage

    @property
    def spread(self) -> float | None:
        """Standard deviation over samples; None where there is one."""
        return deviation([outcome.value for outcome in self.outcomes])


def judged_row(
    stage: str,
    variant: str,
    dims: int,
    pooling: str,
    chosen: dict[str, Any],
    holdout: float | None,
    outcomes: Sequence[Outcome],
) -> Row:
    """A row with its score computed from the outcomes."""
    return Row(stage, variant, dims, pooling, chosen, holdout, tuple(outcomes), joint_score([outcomes]))


def joint_score(seeds: Sequence[Sequence[Outcome]]) -> Estimate:
    """Mean over seeds of the mean over samples; the images are resampled for all of them at once.

    Args:
        seeds: of each seed its outcomes, all on the same images.
    """
    return type(seeds[0][0]).joint(seeds)


def seed_scores(seeds: Sequence[Sequence[Outcome]]) -> list[float]:
    """Of each seed the mean over its outcomes."""
    return [float(np.mean([outcome.value for outcome in outcomes])) for outcomes in seeds]


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample; None of fewer than two numbers."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
