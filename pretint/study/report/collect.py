"""The numbers of a study, from its finished cells: a board for every evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from pretext.engine.journal import read_journal, training_seconds
from pretext.engine.run import Settings, run_settings
from pretext.errors import UserError
from pretext.store import Record
from pretint.study.cells import PRETRAIN, CellStore, StudyCell, StudyPlan
from transfer.bootstrap import deviation, holm
from transfer.columns import Column, Difference, test_difference
from transfer.columns import ColumnCell as Number
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
"""Diagnostics of colors in a run's journal, and their names in tables."""

_USUAL_NEIGHBORS = "k=20"


class TableRow(NamedTuple):
    """A variant on a board."""

    variant: str
    column: Column | None
    """Its results, a seed each; None if none is finished."""
    row: str
    """The selected row: chosen on held-out images, or fixed by the board's rule."""
    missing: tuple[int, ...]
    """Seeds that are not finished."""
    gap: Difference | None
    """Its row minus the row of the variant that it is compared with."""
    adjusted: float | None
    """p of this gap after Holm's correction for all gaps on the study's boards."""

    @property
    def number(self) -> Number | None:
        """Its number: mean over seeds, interval over test images, deviation over seeds."""
        return self.column.cells[self.row] if self.column else None


class EvaluationTable(NamedTuple):
    """The results of all variants by one evaluation."""

    evaluation: str
    lines: tuple[TableRow, ...]
    rule: str
    """How the selected row of a variant is chosen."""
    error: str
    """Why there are no numbers; empty if there are."""

    @property
    def first(self) -> Result | None:
        """One of the results, for the facts that all share; None without results."""
        return next((line.column.first for line in self.lines if line.column), None)


class StudyCost(NamedTuple):
    """The cost of a variant's pretraining, on average over its finished seeds."""

    seconds: float
    steps: int
    images: int
    device: str


class ColorDiagnostics(NamedTuple):
    """Diagnostics of a variant's colors at the last validation of its trainings."""

    values: dict[str, tuple[float, float | None]]
    """By key of ``HEALTH``: mean over seeds, and standard deviation over them; None for one seed."""
    step: int
    seeds: int
    held_out: int
    """Number of these images if they are never trained on; 0 if they are training images."""


class Missing(NamedTuple):
    """A cell that is not finished."""

    cell: StudyCell
    reason: str


@dataclass(frozen=True)
class StudyResults:
    """All results of a study."""

    plan: StudyPlan
    boards: tuple[EvaluationTable, ...]
    """One for each evaluation, except evaluations of colors."""
    costs: dict[str, StudyCost]
    """By variant, for the pretrained variants."""
    tests: int
    """Number of gaps in Holm's correction."""
    health: dict[str, ColorDiagnostics]
    """By variant, for those that learn to color."""
    ranks: dict[str, dict[int, float]]
    """RankMe at the last validation of each training, by variant and seed."""
    missing: tuple[Missing, ...]
    remarks: tuple[str, ...] = ()
    """The finished runs that are left out of costs, or of costs and health, with reasons."""

    @property
    def reasons(self) -> dict[str, list[str]]:
        """Names of the missing cells, by reason."""
        names: dict[str, list[str]] = {}
        for missing in self.missing:
            names.setdefault(missing.reason, []).append(missing.cell.name)
        return names

    @property
    def variants(self) -> list[str]:
        """The variants: first those that others are compared with, then the others as they were written."""
        baselines = [*self.plan.against.values()]
        return sorted(self.plan.variants, key=lambda variant: variant not in baselines)


def collect_results(plan: StudyPlan, shelf: CellStore) -> StudyResults:
    """Collect the results of a study's finished cells; list the others as missing."""
    drafts = [_board(plan, shelf, name) for name, entry in plan.evaluations.items() if entry.get("command") != "score"]
    tested = [line.gap.p for board in drafts for line in board.lines if line.gap]
    adjusted = iter(holm(tested))
    boards = tuple(
        board._replace(
            lines=tuple(line._replace(adjusted=next(adjusted) if line.gap else None) for line in board.lines)
        )
        for board in drafts
    )
    runs, remarks = list[_Run](), list[str]()
    for cell in [cell for cell in plan.cells if cell.command == PRETRAIN and shelf.is_finished(cell)]:
        folder = shelf.folder(cell)
        try:
            settings = run_settings(folder, {"training.batch_size": int, "method.name": str})
            runs.append(_Run(cell, settings, read_journal(folder)))
        except UserError as error:
            remarks.append(f"without minutes and color health of {cell.name}: {error}")
    silent = [run.cell.name for run in runs if not run.seconds]
    if silent:
        remarks.append(f"without minutes of {', '.join(silent)}: no journal there, or none that tells the speed")
    costs, health, ranks = {}, {}, {}
    for variant in plan.variants:
        finished = [run for run in runs if run.cell.variant == variant]
        if timed := [run for run in finished if run.seconds]:
            devices = [str(start.get("device")) for run in timed for start in run.records if start["kind"] == "start"]
            seconds, steps = fmean(run.seconds for run in timed), timed[0].cell.steps
            costs[variant] = StudyCost(seconds, steps, steps * timed[0].batch, ", ".join(dict.fromkeys(devices)))
        if ranked := {run.cell.seed: run.rank for run in finished if run.rank is not None}:
            ranks[variant] = ranked
        colored = [run for run in finished if run.settings["method"]["name"] == "colorization"]
        looks = [record for run in colored for record in [r for r in run.records if r["kind"] == "health"][-1:]]
        if looks:
            values = {}
            for key in HEALTH:
                # The journal writes NaN as null.
                if numbers := [look[key] for look in looks if look.get(key) is not None]:
                    values[key] = fmean(numbers), deviation(numbers)
            starts = [record for run in colored for record in run.records if record["kind"] == "start"]
            held_out = max((start["held_out"] for start in starts), default=0)
            health[variant] = ColorDiagnostics(values, int(looks[0]["step"]), len(looks), held_out)
    missing: list[Missing] = []
    failed: dict[str, str] = {}
    for cell in {cell.key: cell for cell in plan.cells}.values():
        if shelf.is_finished(cell):
            continue
        if failure := shelf.failure(cell):
            failed[cell.key] = cell.name
            reason = f"failed: {failure.said}" if failure.said else f"failed with code {failure.code}"
        elif damage := shelf.damage(cell):
            reason = damage
        elif cell.after in failed:
            reason = f"{failed[cell.after]} failed, which it needs"
        else:
            reason = "not finished"
        missing.append(Missing(cell, reason))
    return StudyResults(plan, boards, costs, len(tested), health, ranks, tuple(missing), tuple(remarks))


def _board(plan: StudyPlan, shelf: CellStore, evaluation: str) -> EvaluationTable:
    requested = plan.evaluations[evaluation].get("row", "")
    by_variant: dict[str, list[Result]] = {}
    missing: dict[str, list[int]] = {}
    for variant in plan.variants:
        for cell in plan.of(variant, evaluation):
            results = [read_result(path) for path in shelf.results(cell)]
            if results:
                by_variant.setdefault(variant, []).append(results[-1])
            else:
                missing.setdefault(variant, []).append(cell.seed)
    rule, error = "", ""
    columns: dict[str, Column] = {}
    try:
        require_comparable([result for results in by_variant.values() for result in results])
        columns = {variant: Column(variant, each_once(results)) for variant, results in by_variant.items()}
        rows = {variant: row_of(column, requested) for variant, column in columns.items()}
    except UserError as stop:
        error, columns, rows = str(stop), {}, {}
    if requested:
        without = [variant for variant, row in rows.items() if row != requested]
        other = f"; {', '.join(without)}: no such row, so the usual one" if without else ""
        rule = f"{requested}, as the study's file says{other}" if columns else ""
    elif columns and all(column.best for column in columns.values()):
        rule = "chosen on held-out training images"
    elif columns:
        rule = f"fixed beforehand: {', '.join(dict.fromkeys(rows.values()))}"
    lines = []
    for variant in [variant for variant in plan.variants if variant in by_variant or variant in missing]:
        against = plan.against.get(variant, "")
        gap = (
            test_difference(columns[against], columns[variant], rows[against], rows[variant])
            if variant in columns and against in columns and against != variant
            else None
        )
        seeds = tuple(missing.get(variant, ()))
        lines.append(TableRow(variant, columns.get(variant), rows.get(variant, ""), seeds, gap, None))
    return EvaluationTable(evaluation, tuple(lines), rule, error)


def each_once(results: Sequence[Result]) -> tuple[Result, ...]:
    """Return results without repetitions: for several seeds, published networks without a seed have a single result."""
    return tuple({(result.network.weights, result.seed): result for result in results}.values())


def row_of(column: Column, requested: str) -> str:
    """Return the selected row of a column.

    Args:
        column: results of a variant.
        requested: the row that the study's file names; empty if it names none. A column without it uses its default.
    """
    if requested in column.names:
        return requested
    if column.best is not None:
        return column.best
    last = [row for row in column.first.rows if row.stage == column.first.rows[-1].stage]
    usual = [row for row in last if row.variant == _USUAL_NEIGHBORS]
    return (usual or last)[0].name


class _Run(NamedTuple):
    """A finished pretraining, from its files."""

    cell: StudyCell
    settings: Settings
    records: list[Record]

    @property
    def rank(self) -> float | None:
        """RankMe at the last validation; None if the journal has none."""
        looks = [record.get("rankme") for record in self.records if record["kind"] == "health"]
        return looks[-1] if looks else None

    @property
    def batch(self) -> int:
        """Images in a step."""
        return int(self.settings["training"]["batch_size"])

    @property
    def seconds(self) -> float:
        """Duration; 0 if its journal has no record of it."""
        return training_seconds(self.records, self.batch)
