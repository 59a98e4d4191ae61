"""Results that stand in one column: one network in one mode, its seeds joined."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from pretext.errors import UserError
from transfer.bootstrap import Estimate, welch
from transfer.metrics import Outcome, Row, Weighted, deviation, joint_score, seed_scores
from transfer.results import Cost, Mode, Result, evaluation


class Cell(NamedTuple):
    """One number of a table."""

    score: Estimate
    """Mean over seeds (and samples), with its interval over test images."""
    over_seeds: float | None
    """Standard deviation over seeds; None of one seed."""
    over_samples: float | None
    """Mean over seeds of the standard deviation over low-shot samples."""
    holdout: float | None


class ClassCell(NamedTuple):
    """One class's number."""

    name: str
    positives: int
    """How many there are to be found in the test images."""
    cell: Cell | None
    """None where the class has no number."""


class Gap(NamedTuple):
    """A paired difference."""

    difference: Estimate
    p: float
    test: str
    """What gave p."""
    over_seeds: Estimate | None
    """Welch's interval, which holds for other seeds too; None of fewer than two seeds on a side."""


@dataclass(frozen=True, eq=False)
class Column:
    """One network in one mode, at one or more seeds; made by ``columns``."""

    label: str
    results: tuple[Result, ...]

    @property
    def first(self) -> Result:
        """What all of them have in common is read from this one."""
        return self.results[0]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Its rows, in order."""
        return tuple(row.name for row in self.first.rows)

    def rows(self, name: str) -> list[Row]:
        """The row of a name, of every seed."""
        return [result.row(name) for result in self.results]

    def outcomes(self, name: str) -> list[Sequence[Outcome]]:
        """Of every seed, what the test images said."""
        return [row.outcomes for row in self.rows(name)]

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """Its numbers by name of row."""
        return {name: self._cell(name) for name in self.names}

    def classes(self, name: str) -> list[ClassCell]:
        """A row's number by class; the outcomes are of a kind that has them."""
        outcomes = self.outcomes(name)
        first = outcomes[0][0]
        assert isinstance(first, Weighted)
        each = [[one.per_class() for one in of_seed if isinstance(one, Weighted)] for of_seed in outcomes]
        means = np.array([np.mean(of_seed, axis=0) for of_seed in each])
        spreads = [np.std(of_seed, axis=0, ddof=1) for of_seed in each if len(of_seed) > 1]
        cells = []
        for at, score in enumerate(type(first).joint_classes(outcomes)):
            over_samples = float(np.mean([spread[at] for spread in spreads])) if spreads else None
            cells.append(Cell(score, deviation(means[:, at].tolist()), over_samples, None))
        named = zip(self.first.classes, first.positives.tolist(), cells, strict=True)
        return [ClassCell(of, n, cell if np.isfinite(cell.score.value) else None) for of, n, cell in named]

    @cached_property
    def best(self) -> str | None:
        """The row that did best on the held-out parts, on average over seeds; None where that chooses nothing."""
        if any(result.best is None for result in self.results):
            return None
        rows = {name: [row.holdout for row in self.rows(name)] for name in self.names}
        holdouts = {name: float(np.mean(each)) for name, each in rows.items() if None not in each}  # type: ignore[arg-type]
        return max(holdouts, key=holdouts.__getitem__) if holdouts else None

    @property
    def seeds(self) -> str:
        """Which seeds are joined, in words."""
        networks = sorted({result.network.seed for result in self.results})
        asked = sorted({result.seed for result in self.results})
        words = [f"{_seeds(networks)} of the network" if len(asked) > 1 else _seeds(networks)]
        if len(asked) > 1:  # the spread is then not, or not only, that of training
            words.append(f"{_seeds(asked)} of the evaluation")
        return ", ".join(words)

    def _cell(self, name: str) -> Cell:
        rows, outcomes = self.rows(name), self.outcomes(name)
        score = rows[0].score if len(rows) == 1 else joint_score(outcomes)
        spreads = [row.spread for row in rows if row.spread is not None]
        holdouts = [row.holdout for row in rows if row.holdout is not None]
        return Cell(
            score,
            deviation(seed_scores(outcomes)),
            float(np.mean(spreads)) if spreads else None,
            float(np.mean(holdouts)) if len(holdouts) == len(rows) else None,
        )


def evaluations(results: Sequence[Result]) -> list[list[Result]]:
    """The results by what may stand in one table, each in the order given."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(repr(evaluation(result)), []).append(result)
    return list(found.values())


def columns(results: Sequence[Result]) -> list[Column]:
    """Comparable results by network and mode, in the order in which they are met.

    A network that was judged twice with the same seed (a random reference of two runs; once some stages only)
    counts once, with the more rows. One that was fine-tuned several times, each time from another stage on, has the
    rows of all, those of which the least was trained first.

    Raises:
        UserError: seeds of one network have other rows.
    """
    found: dict[tuple[str, Mode, int], dict[tuple[str, int], Result]] = {}
    for result in results:
        joined = found.setdefault((result.network.group, result.mode, result.view_size), {})
        seed = result.network.weights, result.seed
        joined[seed] = _merged(joined[seed], result) if seed in joined else result
    groups = [tuple(sorted(group.values(), key=_by_seed)) for group in found.values()]
    for first, *others in groups:
        for other in others:
            if [row.name for row in other.rows] != [row.name for row in first.rows]:
                raise UserError(
                    f"{other.file or other.network.name} has other rows than {first.file or first.network.name}, "
                    "and they are seeds of one network; judge both again"
                )
    return [Column(label, group) for label, group in zip(_labels(groups), groups, strict=True)]


def score_gap(first: Column, second: Column, name: str, other: str) -> Estimate:
    """Row ``other`` of the second minus row ``name`` of the first, on the same images."""
    one, two = first.outcomes(name), second.outcomes(other)
    return type(one[0][0]).gap(one, two)


def tested_gap(first: Column, second: Column, name: str, other: str) -> Gap:
    """The difference of ``score_gap``, with a test that it is 0 for the networks as they are.

    One outcome each of top-1: McNemar's. Several: sign flips of each image's difference. Mean average
    precision and the like: swaps of what was said of each image; seed i goes with seed i, and where there are
    more of the one than of the other, those are gone through again, so that each counts as often.
    """
    one, two = first.outcomes(name), second.outcomes(other)
    all_one, all_two = ([outcome for outcomes in side for outcome in outcomes] for side in (one, two))
    tested = type(all_one[0]).tested(all_one, all_two)
    return Gap(score_gap(first, second, name, other), *tested, welch(seed_scores(one), seed_scores(two)))


def row_names(found: Sequence[Column]) -> list[str]:
    """The names of all rows, in the order in which they are met; of fine-tuning those first of which least was trained.

    Args:
        found: columns of one table.
    """
    names = list(dict.fromkeys(name for column in found for name in column.names))
    if any(column.first.mode != "fine-tuned" for column in found):
        return names
    weights = {name: max(column.first.row(name).dims for column in found if name in column.names) for name in names}
    return sorted(names, key=weights.__getitem__)


def _merged(one: Result, other: Result) -> Result:
    """Of one network at one seed."""
    if one.mode != "fine-tuned":
        return other if len(other.rows) > len(one.rows) else one
    added = [row for row in other.rows if row.name not in {known.name for known in one.rows}]
    if not added:
        return one
    parts = one.cost, other.cost
    seconds = sum(part.seconds for part in parts)
    cost = Cost(
        seconds,
        sum(part.extraction_seconds for part in parts),
        sum(part.seconds * part.images_per_second for part in parts) / seconds if seconds else 0.0,
        max(part.peak_bytes for part in parts),
        sum(part.cache_bytes for part in parts),
        " + ".join(dict.fromkeys(part.device for part in parts)),
    )
    return replace(one, rows=tuple(sorted((*one.rows, *added), key=lambda row: row.dims)), cost=cost)


def _by_seed(result: Result) -> tuple[int, int]:
    return result.network.seed, result.seed


def _seeds(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"seed {numbers[0]}"
    return f"{len(numbers)} seeds ({', '.join(map(str, numbers))})"


def _labels(groups: Sequence[Sequence[Result]]) -> list[str]:
    """A name for each group, told apart by whatever differs where the names are the same.

    The two modes of one network have the same name: the mode is shown besides.
    """
    labels = [_shared_name([result.network.name for result in group]) for group in groups]
    keys = [(group[0].network.group, group[0].view_size) for group in groups]
    for at in range(len(groups)):
        same = {keys[i]: groups[i][0] for i in range(len(groups)) if labels[i] == labels[at]}
        if len(same) < 2:
            continue
        told = [
            {key: f"{r.network.kind}" for key, r in same.items()},
            {key: f"{r.network.backbone}" for key, r in same.items()},
            {key: f"step {r.network.step:,}" for key, r in same.items()},
            {key: f"{r.view_size} px" for key, r in same.items()},
            {key: f"{r.network.group[:6]}, {r.view_size} px" for key, r in same.items()},
        ]
        words = next(words for words in told if len(set(words.values())) == len(same))
        for i in [i for i in range(len(groups)) if labels[i] == labels[at] and i != at]:
            labels[i] = f"{labels[i]} ({words[keys[i]]})"
        labels[at] = f"{labels[at]} ({words[keys[at]]})"
    return labels


def _shared_name(names: Sequence[str]) -> str:
    """What the names of several seeds begin with, without "seed" and what joins it; else the first."""
    if len(set(names)) == 1:
        return names[0]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    shared = "".join(letters[0] for letters in alike)
    shared = re.sub(r"([-_. =]+(seed|s)?[-_. =]*\d*|seed\d*)$", "", shared)
    return shared or names[0]
