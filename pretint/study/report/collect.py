"""From a study's finished cells to its numbers: a board for every evaluation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from pretext.engine.journal import Record, read_journal, training_seconds
from pretext.engine.run import Settings, run_settings
from pretext.errors import UserError
from pretint.study.cells import Shelf
from pretint.study.plan import PRETRAIN, Cell, Plan
from transfer.bootstrap import holm
from transfer.columns import Cell as Number
from transfer.columns import Column, Gap, tested_gap
from transfer.metrics import deviation
from transfer.results import Result, read_result, require_comparable

HEALTH = {
    "loss": "loss",
    "saturation": "saturation",
    "entropy": "entropy",
    "accuracy": "accuracy",
    "accuracy_rebalanced": "accuracy, rebalanced",
    "recall_common": "recall, common bins",
    "recall_rare": "recall, rare bins",
}
"""What a journal says of colors on images that are looked at, and how it is called."""

_USUAL_NEIGHBORS = "k=20"


class Line(NamedTuple):
    """A variant on a board."""

    variant: str
    column: Column | None
    """Its results, a seed each; None if none is finished."""
    row: str
    """The row that stands for it: the one that held-out images chose, or the board's rule."""
    missing: tuple[int, ...]
    """Seeds that are not finished."""
    gap: Gap | None
    """Its row minus the row of the variant that it is compared with."""
    adjusted: float | None
    """p of this gap after Holm's correction for all that the study's boards test."""

    @property
    def number(self) -> Number | None:
        """Its number: mean over seeds, interval over test images, deviation over seeds."""
        return self.column.cells[self.row] if self.column else None


class Board(NamedTuple):
    """What all variants are worth by one evaluation."""

    evaluation: str
    lines: tuple[Line, ...]
    rule: str
    """How the row that stands for a variant is found."""
    error: str
    """Why there are no numbers; empty if there are."""

    @property
    def first(self) -> Result | None:
        """A result, for what all have in common."""
        return next((line.column.first for line in self.lines if line.column), None)


class Cost(NamedTuple):
    """What a variant's pretraining took, on average over its finished seeds."""

    seconds: float
    steps: int
    images: int
    device: str


class Health(NamedTuple):
    """What a variant's colors were like when its trainings looked at them last."""

    values: dict[str, tuple[float, float | None]]
    """By key of ``HEALTH``: mean over seeds, and deviation over them, None of one."""
    step: int
    seeds: int
    held_out: int
    """How many images were looked at that are never trained on; 0 if it were some of those of training."""


class Missing(NamedTuple):
    """A cell that is not finished."""

    cell: Cell
    reason: str


@dataclass(frozen=True)
class Findings:
    """All that is known of a study."""

    plan: Plan
    boards: tuple[Board, ...]
    """One for each evaluation but those of colors."""
    costs: dict[str, Cost]
    """By variant, of those that are pretrained."""
    tests: int
    """How many gaps Holm's correction is for."""
    health: dict[str, Health]
    """By variant, of those that learn to color."""
    missing: tuple[Missing, ...]
    remarks: tuple[str, ...] = ()
    """Which finished runs count neither in costs nor in health, or not in costs, and why."""

    @property
    def reasons(self) -> dict[str, list[str]]:
        """Names of the cells that are missing, by why."""
        found: dict[str, list[str]] = {}
        for one in self.missing:
            found.setdefault(one.reason, []).append(one.cell.name)
        return found

    @property
    def variants(self) -> list[str]:
        """Those that others are compared with first, else as they were written."""
        named = [*self.plan.against.values()]
        return sorted(self.plan.variants, key=lambda variant: variant not in named)


def gather(plan: Plan, shelf: Shelf) -> Findings:
    """What the finished cells of a study say. Those that are not finished are missing, and said to be."""
    drafts = [_board(plan, shelf, name) for name, asked in plan.evaluations.items() if asked.get("command") != "score"]
    tested = [line.gap.p for board in drafts for line in board.lines if line.gap]
    adjusted = iter(holm(tested))
    boards = tuple(
        board._replace(
            lines=tuple(line._replace(adjusted=next(adjusted) if line.gap else None) for line in board.lines)
        )
        for board in drafts
    )
    runs, remarks = _runs(plan, shelf)
    each = {variant: [run for run in runs if run.cell.variant == variant] for variant in plan.variants}
    costs = {variant: cost for variant, own in each.items() if (cost := _cost(own))}
    health = {variant: one for variant, own in each.items() if (one := _health(own))}
    return Findings(plan, boards, costs, len(tested), health, tuple(_missing(plan, shelf)), tuple(remarks))


def _missing(plan: Plan, shelf: Shelf) -> list[Missing]:
    """Each cell once, and why."""
    found = []
    failed: dict[str, str] = {}
    for cell in {cell.key: cell for cell in plan.cells}.values():
        if shelf.finished(cell):
            continue
        failure = shelf.failure(cell)
        if failure:
            failed[cell.key] = cell.name
            reason = f"failed: {failure.said}" if failure.said else f"failed with code {failure.code}"
        elif damage := shelf.damage(cell):
            reason = damage
        elif cell.after in failed:
            reason = f"{failed[cell.after]} failed, which it needs"
        else:
            reason = "not finished"
        found.append(Missing(cell, reason))
    return found


def _board(plan: Plan, shelf: Shelf, evaluation: str) -> Board:
    asked = plan.evaluations[evaluation].get("row", "")
    found: dict[str, list[Result]] = {}
    missing: dict[str, list[int]] = {}
    for variant in plan.variants:
        for cell in plan.of(variant, evaluation):
            results = [read_result(path) for path in shelf.results(cell)]
            if results:
                found.setdefault(variant, []).append(results[-1])
            else:
                missing.setdefault(variant, []).append(cell.seed)
    there = [variant for variant in plan.variants if variant in found or variant in missing]
    rule, error = "", ""
    columns: dict[str, Column] = {}
    try:
        require_comparable([result for results in found.values() for result in results])
        columns = {variant: Column(variant, each_once(results)) for variant, results in found.items()}
        rows = {variant: row_of(column, asked) for variant, column in columns.items()}
    except UserError as stop:
        error, columns, rows = str(stop), {}, {}
    if columns:
        chosen = not asked and all(column.best for column in columns.values())
        rule = "chosen on held-out training images" if chosen else _said(asked, rows)
    lines = []
    for variant in there:
        against = plan.against.get(variant, "")
        gap = (
            tested_gap(columns[against], columns[variant], rows[against], rows[variant])
            if variant in columns and against in columns and against != variant
            else None
        )
        missed = tuple(missing.get(variant, ()))
        lines.append(Line(variant, columns.get(variant), rows.get(variant, ""), missed, gap, None))
    return Board(evaluation, tuple(lines), rule, error)


def each_once(results: Sequence[Result]) -> tuple[Result, ...]:
    """Networks that are not trained and evaluations without a seed are one, however many seeds were asked for."""
    return tuple({(result.network.weights, result.seed): result for result in results}.values())


def row_of(column: Column, asked: str) -> str:
    """The row that stands for a column.

    Args:
        column: of a variant.
        asked: the row that the study's file names; empty if it names none. A column without it has its usual one.
    """
    if asked in column.names:
        return asked
    if column.best is not None:
        return column.best
    last = [row for row in column.first.rows if row.stage == column.first.rows[-1].stage]
    usual = [row for row in last if row.variant == _USUAL_NEIGHBORS]
    return (usual or last)[0].name


def _said(asked: str, rows: dict[str, str]) -> str:
    if asked:
        without = [variant for variant, row in rows.items() if row != asked]
        other = f"; {', '.join(without)}: no such row, so the usual one" if without else ""
        return f"{asked}, as the study's file says{other}"
    return f"fixed beforehand: {', '.join(dict.fromkeys(rows.values()))}"


class _Run(NamedTuple):
    """A finished pretraining, as its files tell of it."""

    cell: Cell
    settings: Settings
    records: list[Record]

    @property
    def batch(self) -> int:
        """Images a step."""
        return int(self.settings["training"]["batch_size"])

    @property
    def seconds(self) -> float:
        """How long it took; 0 if its journal does not tell."""
        return training_seconds(self.records, self.batch)


def _runs(plan: Plan, shelf: Shelf) -> tuple[list[_Run], list[str]]:
    """Those that are finished; and what is to be said of their files."""
    found, remarks = [], []
    for cell in [cell for cell in plan.cells if cell.command == PRETRAIN and shelf.finished(cell)]:
        run = shelf.folder(cell)
        try:
            settings = run_settings(run, {"training.batch_size": int, "objective.name": str})
            found.append(_Run(cell, settings, read_journal(run)))
        except UserError as error:
            remarks.append(f"without minutes and color health of {cell.name}: {error}")
    silent = [run.cell.name for run in found if not run.seconds]
    if silent:
        remarks.append(f"without minutes of {', '.join(silent)}: no journal there, or none that tells the speed")
    return found, remarks


def _cost(runs: Sequence[_Run]) -> Cost | None:
    timed = [run for run in runs if run.seconds]
    if not timed:
        return None
    devices = [str(one.get("device")) for run in timed for one in run.records if one["kind"] == "start"]
    steps = timed[0].cell.steps
    seconds = fmean(run.seconds for run in timed)
    return Cost(seconds, steps, steps * timed[0].batch, ", ".join(dict.fromkeys(devices)))


def _health(runs: Sequence[_Run]) -> Health | None:
    looks: list[Record] = []
    held_out = 0
    for run in runs:
        if run.settings["objective"]["name"] == "labels":
            continue
        looks += [record for record in run.records if record["kind"] == "health"][-1:]
        told = [one.get("held_out") for one in run.records if one["kind"] == "start"]
        held_out = max([held_out, *(count for count in told if isinstance(count, int))])
    if not looks:
        return None
    values = {}
    for key in HEALTH:
        numbers = [look[key] for look in looks if isinstance(look.get(key), (int, float)) and math.isfinite(look[key])]
        if numbers:
            values[key] = fmean(numbers), deviation(numbers)
    return Health(values, int(looks[0]["step"]), len(looks), held_out)
