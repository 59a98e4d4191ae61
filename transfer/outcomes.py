"""What the test pictures said of one stage, and the numbers that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.intervals import Estimate, Floats, centred, mean, mean_average_precision, resampled_map


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the test pictures said.

    Args:
        correct: which are answered right, bool (N,); of multi-class data.
        scores: float32 (N, C); of multi-label data. Read from a file these are ranks within each class,
            all that average precision depends on.
        truth: with scores: int8 (N, C), 1 present, 0 absent, -1 not counted.
    """

    correct: NDArray[np.bool_] | None = None
    scores: NDArray[np.float32] | None = None
    truth: NDArray[np.int8] | None = None

    def __post_init__(self) -> None:
        if self.correct is None:
            assert self.scores is not None and self.truth is not None and self.scores.shape == self.truth.shape
            assert np.isfinite(self.scores).all(), "scores must be finite"
        else:
            assert self.scores is None and self.correct.ndim == 1 and self.correct.dtype == np.bool_

    @cached_property
    def value(self) -> float:
        """Top-1 accuracy or mean average precision, in [0, 1]."""
        if self.correct is not None:
            return float(self.correct.mean())
        assert self.scores is not None and self.truth is not None
        return mean_average_precision(self.scores, self.truth)

    @cached_property
    def resampled(self) -> Floats:
        """Mean average precision of resamples: see ``resampled_map``."""
        assert self.scores is not None and self.truth is not None
        return resampled_map(self.scores, self.truth)


@dataclass(frozen=True)
class Row:
    """One stage by one variant of a protocol; made by ``judged_row``."""

    stage: str
    variant: str
    """What else tells it from others: "", "k=20", "4 shots"."""
    dims: int
    pooling: str
    chosen: dict[str, Any]
    """What was chosen on the held-out part: learning rate, penalty, C, ...; plain values."""
    holdout: float | None
    """The score on the held-out part that chose it, in [0, 1]."""
    outcomes: tuple[Outcome, ...] = field(compare=False)
    """One; of low-shot rows one per sample of the training pictures."""
    score: Estimate
    """Mean over the outcomes, with its interval over test pictures."""

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
    """Mean over seeds of the mean over samples; the pictures are resampled for all of them at once.

    Args:
        seeds: of each seed its outcomes, all on the same pictures.
    """
    if seeds[0][0].correct is not None:
        return mean(picture_means(seeds))
    return centred(float(np.mean(seed_scores(seeds))), resampled_means(seeds))


def seed_scores(seeds: Sequence[Sequence[Outcome]]) -> list[float]:
    """Of each seed the mean over its outcomes."""
    return [float(np.mean([outcome.value for outcome in outcomes])) for outcomes in seeds]


def picture_means(seeds: Sequence[Sequence[Outcome]]) -> Floats:
    """Of each picture how often it is answered right, over samples and seeds, in [0, 1]: (N,)."""
    each = [np.mean([_correct(outcome) for outcome in outcomes], axis=0) for outcomes in seeds]
    total: Floats = np.mean(each, axis=0)
    return total


def resampled_means(seeds: Sequence[Sequence[Outcome]]) -> Floats:
    """Of each resample of the pictures the mean average precision, over samples and seeds."""
    total: Floats = np.mean([np.mean([o.resampled for o in outcomes], axis=0) for outcomes in seeds], axis=0)
    return total


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample; None of fewer than two numbers."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _correct(outcome: Outcome) -> NDArray[np.bool_]:
    assert outcome.correct is not None
    return outcome.correct
