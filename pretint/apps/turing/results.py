"""The results of a study: how often each algorithm passes for real, and with which images.

They are shown on its page and in a terminal, and downloaded as CSV and JSON.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pretext.escape import csv_text
from pretint.apps.turing.store import ShownPair, Store
from transfer.bootstrap import RESAMPLES, Estimate, percentiles

ABOUT = (
    f"95% percentile interval of a two-level bootstrap, {RESAMPLES:,} resamples: participants, then trials "
    "within each; where all answers are alike, Clopper and Pearson's bound for as many answers as "
    "participants"
)
"""A description of the interval."""

_AT_ONCE = 2**21  # numbers drawn at once


class Answer(NamedTuple):
    """One scored answer."""

    participant: int
    algorithm: int
    pair: int
    fooled: bool
    """Whether the real image was called fake."""


class FoolingRate(NamedTuple):
    """The fooling rate of an algorithm."""

    estimate: Estimate
    error: float
    """Standard error: the resamples' standard deviation."""
    participants: int
    trials: int


class FooledImage(NamedTuple):
    """The answers on an image: how many were fooled by it."""

    pair: int
    fooled: int
    trials: int


def fooling_rate(fooled: ArrayLike, trials: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> FoolingRate:
    """Return the share of trials in which participants took the fake for real: 0.5 if all of them guess.

    The bootstrap of the released study tool (AMT_Real_vs_Fake, process_csv.py): participants are drawn with
    replacement, then as many trials as each has of its own. To draw n trials, of which a share p
    fooled, is to draw a binomial number; that is done here.

    Args:
        fooled: (P,), the number of trials that fooled each participant.
        trials: (P,), the number of trials that each participant answered, at least 1.
        resamples: the number of resamples.
        seed: the seed of the draws.
    """
    k, n = np.asarray(fooled, dtype=np.int64), np.asarray(trials, dtype=np.int64)
    assert len(k) == len(n) > 0 and (n > 0).all() and (k >= 0).all() and (k <= n).all()
    value = float(k.sum() / n.sum())
    if k.sum() in (0, n.sum()):
        reach = 1 - 0.025 ** (1 / len(k))  # one participant's answers are not independent: each counts as one
        low, high = (0.0, reach) if value == 0 else (1 - reach, 1.0)
        return FoolingRate(Estimate(value, low, high), 0.0, len(k), int(n.sum()))
    rng, at_once = np.random.default_rng(seed), max(1, _AT_ONCE // len(k))
    draws: list[NDArray[np.float64]] = []
    for start in range(0, resamples, at_once):
        who = rng.integers(0, len(k), (min(at_once, resamples - start), len(k)))
        draws.append(rng.binomial(n[who], (k / n)[who]).sum(1) / n[who].sum(1))
    drawn = np.concatenate(draws)
    return FoolingRate(percentiles(value, drawn), float(drawn.std()), len(k), int(n.sum()))


def rate_of(answers: Iterable[Answer], algorithm: int) -> FoolingRate | None:
    """Return the fooling rate of one algorithm; None without answers."""
    trials, fooled = Counter[int](), Counter[int]()
    for answer in answers:
        if answer.algorithm == algorithm:
            trials[answer.participant] += 1
            fooled[answer.participant] += answer.fooled
    return fooling_rate([fooled[who] for who in trials], list(trials.values())) if trials else None


def judged_images(answers: Iterable[Answer], algorithm: int) -> list[FooledImage]:
    """Return the images of one algorithm that have answers, the most convincing first."""
    trials, fooled = Counter[int](), Counter[int]()
    for answer in answers:
        if answer.algorithm == algorithm:
            trials[answer.pair] += 1
            fooled[answer.pair] += answer.fooled
    images = [FooledImage(pair, fooled[pair], count) for pair, count in trials.items()]
    # By the rule of succession: a few answers do not outrank many.
    return sorted(images, key=lambda image: (-(image.fooled + 1) / (image.trials + 2), -image.trials, image.pair))


def extremes(judged: Sequence[FooledImage], count: int) -> tuple[list[FooledImage], list[FooledImage]]:
    """Return the most and the least convincing images, at most ``count`` each, none in both."""
    half = min(count, len(judged) // 2)
    most = list(judged[: max(half, min(count, 1, len(judged)))])
    return most, list(reversed(judged[len(judged) - half :]))


_EXTREMES = 6


def summary(store: Store) -> dict[str, Any]:
    """Return the content of the results page."""
    rows, people = store.rows(), store.participants()
    scored = [row for row in rows if not row.practice]
    answers = [Answer(row.participant, row.algorithm, row.pair, row.fooled) for row in scored if row.counts]
    algorithms = []
    for index, name in enumerate(store.facts.names):
        judged = judged_images(answers, index)
        most, least = extremes(judged, _EXTREMES)
        algorithms.append(
            {
                "index": index,
                "name": name,
                "rate": rate_of(answers, index),
                "joined": sum(algorithm == index for algorithm, _ in people),
                "finished": sum(algorithm == index and done for algorithm, done in people),
                "judged": judged,
                "most": most,
                "least": least,
            }
        )
    rates: list[FoolingRate] = [algorithm["rate"] for algorithm in algorithms if algorithm["rate"] is not None]  # type: ignore[misc]
    top = 0.6 if all(rate.estimate.high <= 0.6 for rate in rates) else 1.0
    return {
        "algorithms": algorithms,
        "names": store.names,
        "joined": len(people),
        "finished": sum(done for _, done in people),
        "answers": len(scored),
        "late": sum(not row.on_time for row in scored),
        "color_blind": sum(row.on_time and row.vision == "no" for row in scored),
        "top": top,
        "ticks": [round(top * step / 6 * 100) for step in range(7)] if top < 1 else [0, 25, 50, 75, 100],
        "about": ABOUT,
        "now": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    }


def results_json(store: Store) -> dict[str, Any]:
    """Return the results as plain values."""
    results = summary(store)
    algorithms = []
    for algorithm in results["algorithms"]:
        rate: FoolingRate | None = algorithm["rate"]
        algorithms.append(
            {
                "name": algorithm["name"],
                "fooling_rate": rate and rate.estimate.value,
                "interval": rate and [rate.estimate.low, rate.estimate.high],
                "standard_error": rate and rate.error,
                "participants": rate.participants if rate else 0,
                "trials": rate.trials if rate else 0,
                "joined": algorithm["joined"],
                "finished": algorithm["finished"],
                "images": [
                    {"name": store.names[pair], "fooled": fooled, "trials": trials}
                    for pair, fooled, trials in algorithm["judged"]
                ],
            }
        )
    left_out = {"not_shown_as_long_as_they_should_be": results["late"], "color_vision": results["color_blind"]}
    facts = {name: value for name, value in asdict(store.facts).items() if name != "token"}
    study = {"study": facts | {"pairs": len(store.names)}, "interval": ABOUT, "answers": results["answers"]}
    return study | {"left_out": left_out, "algorithms": algorithms}


def result_lines(store: Store) -> list[str]:
    """Return the results as lines for a terminal."""
    results = summary(store)
    lines = [
        f"{results['joined']} participants, {results['finished']} of them finished; {results['answers']} scored answers"
    ]
    for algorithm in results["algorithms"]:
        rate: FoolingRate | None = algorithm["rate"]
        if rate is None:
            lines.append(f"{algorithm['name']}: no answers yet")
            continue
        value, low, high = (f"{100 * number:.1f}" for number in rate.estimate)
        lines.append(
            f"{algorithm['name']}: taken for real in {value}% [{low}, {high}], standard error {100 * rate.error:.1f}; "
            f"{rate.participants} participants, {rate.trials} trials"
            + (" (the interval of one participant says nothing about other people)" if rate.participants < 2 else "")
        )
    left_out = [(results["late"], "not shown for the right time"), (results["color_blind"], "color vision")]
    lines += [f"left out: {count} answers ({why})" for count, why in left_out if count]
    return [*lines, f"interval: {ABOUT}"]


def answers_csv(store: Store) -> str:
    """Return all answers as CSV, one a line. No cell begins like a formula of a spreadsheet."""
    about = ("participant", "vision", "algorithm", "trial", "practice", "image", "fake", "chosen", "fooled", "on_time")
    lines: list[list[Any]] = []
    for row in store.rows():
        cells: list[Any] = [row.participant, row.vision, store.facts.names[row.algorithm], row.number]
        cells += [int(row.practice), store.names[row.pair]]
        cells += ["first" if first else "second" for first in (row.fake_first, row.chose_first)]
        cells += [int(row.fooled), int(row.on_time), int(row.counts)]
        times = (datetime.fromtimestamp(seconds, UTC) for seconds in (row.seen_at, row.answered_at))
        lines.append([*cells, *(time.isoformat(timespec="milliseconds") for time in times), *row.shown])
    return csv_text((*about, "counts", "seen_at", "answered_at", *ShownPair._fields), lines, end="\r\n")
