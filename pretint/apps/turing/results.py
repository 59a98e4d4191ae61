"""What a study says: how often each algorithm passes for real, and with which images."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from transfer.bootstrap import RESAMPLES, Estimate, percentiles

ABOUT = (
    f"95% percentile interval of a two-level bootstrap, {RESAMPLES:,} resamples: participants, then trials "
    "within each; where all answers are alike, Clopper and Pearson's bound for as many answers as "
    "participants"
)
"""What the interval is."""

_AT_ONCE = 2**21  # numbers drawn at once


class Answer(NamedTuple):
    """One scored answer."""

    participant: int
    algorithm: int
    pair: int
    fooled: bool
    """Whether the real image was called fake."""


class Rate(NamedTuple):
    """How often participants were fooled."""

    estimate: Estimate
    error: float
    """Standard error: the resamples' standard deviation."""
    participants: int
    trials: int


class Judged(NamedTuple):
    """How often an image fooled."""

    pair: int
    fooled: int
    trials: int

    @property
    def score(self) -> float:
        """Rule of succession: so few answers do not outrank many."""
        return (self.fooled + 1) / (self.trials + 2)


def fooling_rate(fooled: ArrayLike, trials: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> Rate:
    """The share of trials in which participants took the fake for real, 0.5 where nobody can tell.

    The bootstrap of the released study tool (AMT_Real_vs_Fake, process_csv.py): participants are drawn with
    replacement, then as many trials as each has of its own. Drawing n trials of which a share p fooled is
    drawing a binomial number, which is what is drawn here.

    Args:
        fooled: of every participant, how many trials fooled, (P,).
        trials: of every participant, how many it answered, (P,), each at least 1.
        resamples: how many.
        seed: of the draws.
    """
    k, n = np.asarray(fooled, dtype=np.int64), np.asarray(trials, dtype=np.int64)
    assert len(k) == len(n) > 0 and (n > 0).all() and (k >= 0).all() and (k <= n).all()
    value = float(k.sum() / n.sum())
    if k.sum() in (0, n.sum()):
        reach = 1 - 0.025 ** (1 / len(k))  # one participant's answers are not independent: each counts as one
        low, high = (0.0, reach) if value == 0 else (1 - reach, 1.0)
        return Rate(Estimate(value, low, high), 0.0, len(k), int(n.sum()))
    rng, at_once = np.random.default_rng(seed), max(1, _AT_ONCE // len(k))
    draws: list[NDArray[np.float64]] = []
    for start in range(0, resamples, at_once):
        who = rng.integers(0, len(k), (min(at_once, resamples - start), len(k)))
        draws.append(rng.binomial(n[who], (k / n)[who]).sum(1) / n[who].sum(1))
    drawn = np.concatenate(draws)
    return Rate(percentiles(value, drawn), float(drawn.std()), len(k), int(n.sum()))


def rate_of(answers: Iterable[Answer], algorithm: int) -> Rate | None:
    """The fooling rate of one algorithm; None without answers."""
    fooled: dict[int, int] = {}
    trials: dict[int, int] = {}
    for answer in answers:
        if answer.algorithm == algorithm:
            trials[answer.participant] = trials.get(answer.participant, 0) + 1
            fooled[answer.participant] = fooled.get(answer.participant, 0) + answer.fooled
    if not trials:
        return None
    return fooling_rate([fooled[who] for who in trials], [trials[who] for who in trials])


def judged_images(answers: Iterable[Answer], algorithm: int) -> list[Judged]:
    """The images of one algorithm that were judged, the most convincing first."""
    counts: dict[int, list[int]] = {}
    for answer in answers:
        if answer.algorithm == algorithm:
            count = counts.setdefault(answer.pair, [0, 0])
            count[0] += answer.fooled
            count[1] += 1
    found = [Judged(pair, fooled, trials) for pair, (fooled, trials) in counts.items()]
    return sorted(found, key=lambda one: (-one.score, -one.trials, one.pair))


def extremes(judged: Sequence[Judged], count: int) -> tuple[list[Judged], list[Judged]]:
    """The most and the least convincing images, at most ``count`` each, none in both."""
    half = min(count, len(judged) // 2)
    most = list(judged[: max(half, min(count, 1, len(judged)))])
    return most, list(reversed(judged[len(judged) - half :]))
