"""Columns of a table: the results of one network in one mode, at one or more seeds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from pretext.errors import UserError
from transfer.bootstrap import Estimate, deviation, welch
from transfer.metrics import Metric, Row, Weighted, joint_score, seed_scores
from transfer.results import Cost, Mode, Result, comparison_facts


class ColumnCell(NamedTuple):
    """One number of a table."""

    score: Estimate
    """Mean over seeds (and samples), with its interval over test images."""
    over_seeds: float | None
    """Standard deviation over seeds; None if there is one seed."""
    over_samples: float | None
    """Mean over seeds of the standard deviation over low-shot samples."""
    holdout: float | None


class ClassCell(NamedTuple):
    """The number of one class."""

    name: str
    positives: int
    """The number of objects, or of images, of this class in the test images."""
    cell: ColumnCell | None
    """None where the class has no number."""


class Difference(NamedTuple):
    """A paired difference between two networks."""

    difference: Estimate
    p: float
    test: str
    """Name of the test that gave p."""
    over_seeds: Estimate | None
    """Welch's interval, which is valid for other seeds, too; None if a side has fewer than two seeds."""


@dataclass(frozen=True, eq=False)
class Column:
    """One network in one mode, at one or more seeds; made by ``columns``."""

    label: str
    results: tuple[Result, ...]

    @property
    def first(self) -> Result:
        """The first result; the facts that all results share are read from it."""
        return self.results[0]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of its rows, in order."""
        return tuple(row.name for row in self.first.rows)

    def rows(self, name: str) -> list[Row]:
        """Return the row of that name, for every seed."""
        return [result.row(name) for result in self.results]

    def outcomes(self, name: str) -> list[Sequence[Metric]]:
        """Return the outcomes on the test images, for every seed."""
        return [row.outcomes for row in self.rows(name)]

    @cached_property
    def cells(self) -> dict[str, ColumnCell]:
        """Its numbers by name of row."""
        cells = {}
        for name in self.names:
            rows, outcomes = self.rows(name), self.outcomes(name)
            spreads = [row.spread for row in rows if row.spread is not None]
            holdouts = [row.holdout for row in rows if row.holdout is not None]
            cells[name] = ColumnCell(
                score=rows[0].score if len(rows) == 1 else joint_score(outcomes),
                over_seeds=deviation(seed_scores(outcomes)),
                over_samples=float(np.mean(spreads)) if spreads else None,
                holdout=float(np.mean(holdouts)) if len(holdouts) == len(rows) else None,
            )
        return cells

    def classes(self, name: str) -> list[ClassCell]:
        """Return a row's number for each class; its outcomes must be of a kind that has them (``Weighted``)."""
        outcomes = self.outcomes(name)
        first = outcomes[0][0]
        assert isinstance(first, Weighted)
        by_seed = [
            [outcome.per_class() for outcome in of_seed if isinstance(outcome, Weighted)] for of_seed in outcomes
        ]
        means = np.array([np.mean(scores, axis=0) for scores in by_seed])
        spreads = [np.std(scores, axis=0, ddof=1) for scores in by_seed if len(scores) > 1]
        cells = []
        for at, score in enumerate(type(first).joint_classes(outcomes)):
            over_samples = float(np.mean([spread[at] for spread in spreads])) if spreads else None
            cells.append(ColumnCell(score, deviation(means[:, at].tolist()), over_samples, None))
        return [
            ClassCell(name, positives, cell if np.isfinite(cell.score.value) else None)
            for name, positives, cell in zip(self.first.classes, first.positives.tolist(), cells, strict=True)
        ]

    @cached_property
    def best(self) -> str | None:
        """The row that did best on the held-out images, on average over seeds; None if these choose nothing."""
        if any(result.best is None for result in self.results):
            return None
        rows = {name: [row.holdout for row in self.rows(name)] for name in self.names}
        holdouts = {name: float(np.mean(scores)) for name, scores in rows.items() if None not in scores}  # type: ignore[arg-type]
        return max(holdouts, key=holdouts.__getitem__) if holdouts else None

    @property
    def seeds(self) -> str:
        """The seeds, as text."""
        networks = sorted({result.network.seed for result in self.results})
        evaluation_seeds = sorted({result.seed for result in self.results})
        words = [f"{_seeds(networks)} of the network" if len(evaluation_seeds) > 1 else _seeds(networks)]
        if len(evaluation_seeds) > 1:  # then the spread is not only the spread of training
            words.append(f"{_seeds(evaluation_seeds)} of the evaluation")
        return ", ".join(words)


def evaluations(results: Sequence[Result]) -> list[list[Result]]:
    """Group results that may share one table; each group keeps the order of ``results``."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(repr(comparison_facts(result)), []).append(result)
    return list(groups.values())


def columns(results: Sequence[Result]) -> list[Column]:
    """Return comparable results as columns, one for each network and mode, in the order of their first results.

    If a network was evaluated twice with the same seed (a random reference of two runs, or once with some stages only),
    only the result with more rows counts. If a network was fine-tuned several times, each time from another stage on,
    it has the rows of all; rows with the fewest trained weights come first.

    Raises:
        UserError: seeds of one network have different rows.
    """
    by_column: dict[tuple[str, Mode, int], dict[tuple[str, int], Result]] = {}
    for result in results:
        by_seed = by_column.setdefault((result.network.group, result.mode, result.view_size), {})
        seed = result.network.weights, result.seed
        before = by_seed.get(seed)
        if before is None or (before.mode != "fine-tuned" and len(result.rows) > len(before.rows)):
            by_seed[seed] = result
            continue
        known = {row.name for row in before.rows}
        added = [row for row in result.rows if row.name not in known]
        if before.mode == "fine-tuned" and added:
            parts = before.cost, result.cost
            seconds = sum(part.seconds for part in parts)
            cost = Cost(
                seconds,
                sum(part.extraction_seconds for part in parts),
                sum(part.seconds * part.images_per_second for part in parts) / seconds if seconds else 0.0,
                max(part.peak_bytes for part in parts),
                sum(part.cache_bytes for part in parts),
                " + ".join(dict.fromkeys(part.device for part in parts)),
            )
            rows = tuple(sorted((*before.rows, *added), key=lambda row: row.dims))
            by_seed[seed] = replace(before, rows=rows, cost=cost)
    groups = [
        tuple(sorted(group.values(), key=lambda result: (result.network.seed, result.seed)))
        for group in by_column.values()
    ]
    for first, *others in groups:
        for other in others:
            if [row.name for row in other.rows] != [row.name for row in first.rows]:
                raise UserError(
                    f"{other.file or other.network.name} has other rows than {first.file or first.network.name}, "
                    "but both are seeds of one network; evaluate both again with the same settings"
                )
    return [Column(label, group) for label, group in zip(_labels(groups), groups, strict=True)]


def score_difference(first: Column, second: Column, name: str, other: str) -> Estimate:
    """Return row ``other`` of the second column minus row ``name`` of the first, on the same images."""
    before, after = first.outcomes(name), second.outcomes(other)
    return type(before[0][0]).gap(before, after)


def test_difference(first: Column, second: Column, name: str, other: str) -> Difference:
    """Return the difference of ``score_difference``, with a test that it is 0 for the networks as they are.

    One outcome each of top-1: McNemar's test. Several: sign flips of each image's difference. Mean average
    precision and the like: swaps of the two networks' predictions for each image; seed i is paired with seed i, and
    if one side has fewer seeds, its seeds are used again in turn, so that each counts as often.
    """
    sides = first.outcomes(name), second.outcomes(other)
    before, after = ([outcome for outcomes in side for outcome in outcomes] for side in sides)
    p, test = type(before[0]).tested(before, after)
    difference = score_difference(first, second, name, other)
    return Difference(difference, p, test, welch(*(seed_scores(side) for side in sides)))


def row_names(table: Sequence[Column]) -> list[str]:
    """Return the names of all rows, in order; for fine-tuning, those with the fewest trained weights come first.

    Args:
        table: its columns.
    """
    names = list(dict.fromkeys(name for column in table for name in column.names))
    if any(column.first.mode != "fine-tuned" for column in table):
        return names
    weights = {name: max(column.first.row(name).dims for column in table if name in column.names) for name in names}
    return sorted(names, key=weights.__getitem__)


def _seeds(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"seed {numbers[0]}"
    return f"{len(numbers)} seeds ({', '.join(map(str, numbers))})"


def _labels(groups: Sequence[Sequence[Result]]) -> list[str]:
    """Return a name for each group of seeds; equal names get a suffix with a property that differs.

    The name is the common prefix of the names of all seeds, without "seed" and its separator; else the first name.
    The two modes of one network have the same name, because the mode is shown elsewhere.
    """
    labels = []
    for group in groups:
        names = [result.network.name for result in group]
        alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
        start = "".join(letters[0] for letters in alike)
        start = re.sub(r"([-_. =]+(seed|s)?[-_. =]*\d*|seed\d*)$", "", start)
        labels.append(names[0] if len(set(names)) == 1 else start or names[0])
    keys = [(group[0].network.group, group[0].view_size) for group in groups]
    for at in range(len(groups)):
        same = {keys[i]: groups[i][0] for i in range(len(groups)) if labels[i] == labels[at]}
        if len(same) < 2:
            continue
        candidates = [
            {key: f"{r.network.kind}" for key, r in same.items()},
            {key: f"{r.network.backbone}" for key, r in same.items()},
            {key: f"step {r.network.step:,}" for key, r in same.items()},
            {key: f"{r.view_size} px" for key, r in same.items()},
            {key: f"{r.network.group[:6]}, {r.view_size} px" for key, r in same.items()},
        ]
        suffixes = next(words for words in candidates if len(set(words.values())) == len(same))
        for i in [i for i in range(len(groups)) if labels[i] == labels[at] and i != at]:
            labels[i] = f"{labels[i]} ({suffixes[keys[i]]})"
        labels[at] = f"{labels[at]} ({suffixes[keys[at]]})"
    return labels
