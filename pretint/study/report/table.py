"""The results of a study as tables for the terminal, Markdown, LaTeX and CSV."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from pretext.store import Record
from pretint.study.report.collect import HEALTH, EvaluationTable, StudyResults, TableRow
from pretint.study.report.colors import ColorScores
from transfer.bootstrap import METRIC_TITLES, p_text
from transfer.columns import Column, row_names
from transfer.layout import Number, Sheet, TableCell, TableGrid, frame_csv
from transfer.long_table import difference_record, join, make_frame, make_record
from transfer.report.published import Published, PublishedTable, published

ROWS = 8
"""The largest number of rows for which a table shows all. A larger table shows rows comparable with selected rows."""
_BEST = "best"


class Sheets(NamedTuple):
    """The tables of a study."""

    results: list[Sheet]
    """The results of all variants, and their differences from the variant that each is compared with."""
    full: list[Sheet]
    """Every row of every evaluation; diagnostics of colors; the time of evaluations."""
    colors: list[Sheet]

    @property
    def brief(self) -> list[Sheet]:
        """The tables on the terminal."""
        return self.results + self.colors

    @property
    def all(self) -> list[Sheet]:
        """The tables in files."""
        return self.results + self.full + self.colors


def sheets(results: StudyResults, colors: Sequence[ColorScores] = ()) -> Sheets:
    """Return the results as tables."""
    full = [*(full_sheet(results, board) for board in results.boards), health_sheet(results), took(results)]
    return Sheets(
        [sheet for sheet in (_main(results, colors), _differences(results)) if sheet],
        [sheet for sheet in full if sheet],
        [sheet for one in colors if one.scores for sheet in one.scores.sheets],
    )


def board_line(board: EvaluationTable, variant: str) -> TableRow | None:
    """Return the line of a variant; None if it is not evaluated there."""
    return next((line for line in board.lines if line.variant == variant), None)


def best_of(board: EvaluationTable) -> str:
    """Return the variant with the greatest number; empty if fewer than two have one."""
    values = {line.variant: line.number.score.value for line in board.lines if line.number}
    return max(values, key=values.__getitem__) if len(values) > 1 else ""


def color_number(results: StudyResults, colors: ColorScores, variant: str) -> Number | None:
    """Return the number of a variant's colors in the study's main table."""
    line, metric = colors.line(variant), colors.metric
    if line is None or metric is None or metric.key not in line.scores:
        return None
    values = {v: other.scores[metric.key].value for v in results.variants if (other := colors.line(v))}
    best = len(values) > 1 and variant == max(values, key=values.__getitem__)
    return Number(line.scores[metric.key], line.spreads.get(metric.key), best, False, metric.scale, metric.digits)


def minutes(seconds: float) -> str:
    """Return a time in minutes, as text."""
    if seconds < 3:
        return "<0.1"
    return f"{seconds / 60:.1f}" if seconds < 6000 else f"{seconds / 60:,.0f}"


def _main(results: StudyResults, colors: Sequence[ColorScores]) -> Sheet:
    scored = [one for one in colors if one.metric]
    best = {board.evaluation: best_of(board) for board in results.boards}
    rows = []
    for variant in results.variants:
        cells: list[TableCell] = []
        for board in results.boards:
            line = board_line(board, variant)
            number = line.number if line else None
            bold = best[board.evaluation] == variant
            missing = "missing" if line and not board.error else ""
            cells.append(Number(number.score, number.over_seeds, bold) if number else missing)
        cells += [color_number(results, one, variant) or "" for one in scored]
        cost = results.costs.get(variant)
        rows.append((variant, (*cells, minutes(cost.seconds) if cost else "")))
    names = [board.evaluation for board in results.boards]
    names += [f"{one.evaluation}\n{one.metric.title}" for one in scored if one.metric]
    footer = [
        f"{board.evaluation} cannot be shown in one table: {board.error}" for board in results.boards if board.error
    ]
    interval = ""
    for board in results.boards:
        if first := board.first:
            interval = interval or f"[..]: {first.interval}; +-: standard deviation over seeds"
            footer.append(
                f"{board.evaluation}: protocol {first.protocol}, {METRIC_TITLES[first.metric]}, %, on {first.n_test:,} "
                f"test images of {first.test}; row: {board.rule}"
            )
            chosen = [f"{line.variant} {line.row}" for line in board.lines if line.column]
            footer.append(f"{board.evaluation}, rows shown: {', '.join(chosen)}")
    footer += [f"{one.evaluation}: {text}" for one in colors for text in (one.about, one.remark) if text]
    footer += [interval] if interval else []
    footer += [f"missing: {', '.join(cells)}: {reason}" for reason, cells in results.reasons.items()]
    footer += results.remarks
    for variant, cost in results.costs.items():
        footer.append(f"{variant}: {cost.steps:,} steps, {cost.images:,} images, {cost.device}")
    grid = TableGrid("variant", (*names, "minutes"), tuple(rows), "evaluation")
    return Sheet(results.plan.about or "study", grid, tuple(footer))


def _differences(results: StudyResults) -> Sheet | None:
    boards = [board for board in results.boards if board.first]
    rows = []
    for variant in results.variants:
        lines = [board_line(board, variant) for board in boards]
        cells = tuple(Number(line.gap.difference, signed=True) if line and line.gap else "" for line in lines)
        if any(cells):
            rows.append((f"{variant} - {results.plan.against[variant]}", cells))
    if not rows:
        return None
    about = ["[..]: 95% interval of the paired difference, on the same test images"]
    for board in boards:
        gaps = [(line, line.gap) for line in board.lines if line.gap]
        adjusted = [f"{line.variant} {p_text(line.adjusted)}" for line, _ in gaps if line.adjusted is not None]
        if adjusted:
            tests = "test" if results.tests == 1 else "tests"
            about.append(f"{board.evaluation}, p by Holm for {results.tests} {tests}: {', '.join(adjusted)}")
        intervals = [
            f"{line.variant} {Number(gap.over_seeds, signed=True).interval}" for line, gap in gaps if gap.over_seeds
        ]
        if intervals:
            about.append(
                f"{board.evaluation}, Welch's 95% interval of the difference over seeds: {', '.join(intervals)}"
            )
    names = tuple(board.evaluation for board in boards)
    return Sheet("differences", TableGrid("variant", names, tuple(rows), "evaluation"), tuple(about))


def health_sheet(results: StudyResults) -> Sheet | None:
    """Return the diagnostics of colors at the end of training; None if no variant colors."""
    if not results.health:
        return None
    keys = [key for key in HEALTH if any(key in health.values for health in results.health.values())]
    rows = []
    for variant in results.variants:
        if health := results.health.get(variant):
            cells = []
            for mean, spread in (health.values.get(key, (None, None)) for key in keys):
                plus = f" +-{spread:.3f}" if spread is not None else ""
                cells.append("" if mean is None else f"{mean:.3f}{plus}")
            rows.append((variant, tuple(cells)))
    about = (
        "at the last validation of training, mean over seeds; +-: standard deviation over seeds",
        "loss: compare only where the objective is the same",
    )
    return Sheet(
        "color health", TableGrid("variant", tuple(HEALTH[key] for key in keys), tuple(rows), "measure"), about
    )


def took(results: StudyResults) -> Sheet | None:
    """Return the minutes of every evaluation; None if nothing is finished."""
    boards = [board for board in results.boards if board.first]
    rows = []
    for variant in results.variants:
        lines = [board_line(board, variant) for board in boards]
        cells = tuple(minutes(_seconds(line.column)) if line and line.column else "" for line in lines)
        rows += [(variant, cells)] if any(cells) else []
    if not boards:
        return None
    columns = [line.column for board in boards for line in board.lines if line.column]
    devices = dict.fromkeys(result.cost.device for column in columns for result in column.results)
    about = f"mean over seeds; on {', '.join(devices)}"
    grid = TableGrid("variant", tuple(board.evaluation for board in boards), tuple(rows), "evaluation")
    return Sheet("minutes of an evaluation, a seed", grid, (about,))


def _seconds(column: Column) -> float:
    """Return the time of an evaluation, on average over its seeds."""
    return fmean(result.cost.seconds for result in column.results)


def published_of(board: EvaluationTable) -> PublishedTable | None:
    """Return published rows that a board may stand beside: they have its protocol, data and backbone."""
    results = [line.column.first for line in board.lines if line.column]
    return next((table for result in results if (table := published(result, *results))), None)


def cited(row: Published) -> str:
    """Return the source of a published row."""
    remark = f"; {row.remark}" if row.remark else ""
    return f"{row.source}{remark}; {'checked' if row.verified else 'not verified'}"


def full_sheet(results: StudyResults, board: EvaluationTable) -> Sheet | None:
    """Return every row of every variant; None where the study's main table shows all.

    Rows are stages, as in the tables of results. With published rows it is the table of their papers: a line for each
    network, stages across, published lines below.

    Args:
        results: results of the study.
        board: board of an evaluation.
    """
    lines = [line for v in results.variants if (line := board_line(board, v)) and line.column]
    columns = [line.column for line in lines if line.column]
    # Rows are alike if they are of the same variant: the same k, the same rule. Only those alike can be compared.
    variants = {name: column.first.row(name).variant for column in columns for name in column.names}
    shown = {variants[line.row] for line in lines}
    names = row_names(columns)
    if len(names) > ROWS:
        names = [name for name in names if variants[name] in shown]
    table = published_of(board)
    if not board.first or (len(names) < 2 and not table):
        return None
    first = board.first
    corner = "trained" if first.mode == "fine-tuned" else "stage"
    rows = tuple((name, tuple(_number(line, name) for line in lines)) for name in names)
    grid = TableGrid(corner, tuple(line.variant for line in lines), rows, "variant")
    spread = any(isinstance(cell, Number) and cell.spread is not None for _, cells in rows for cell in cells)
    footer = [f"bold: the selected row of a variant, {board.rule}"]
    footer.append(f"[..]: {first.interval}" + ("; +-: standard deviation over seeds" if spread else ""))
    if len(variants) > len(names):
        footer.append(
            f"{len(names)} of {len(variants)} rows: those comparable with the bold ones; all are in report.csv"
        )
    if table:
        by_name = {name: column.first.row(name).stage for column in reversed(columns) for name in column.names}
        stages = [by_name[name] if variants[name] in shown else "" for name in names]
        grid = _with_published(grid, stages, lines, table)
        footer += dict.fromkeys(f"{row.name}: {cited(row)}" for row in table.rows)
    title = f"{board.evaluation}, every row: {METRIC_TITLES[first.metric]} on {first.n_test:,} test images, %"
    return Sheet(title, grid, tuple(footer))


def _number(line: TableRow, name: str) -> TableCell:
    cell = line.column.cells.get(name) if line.column else None
    return Number(cell.score, cell.over_seeds, name == line.row) if cell else ""


def _with_published(
    grid: TableGrid, stages: Sequence[str], lines: Sequence[TableRow], table: PublishedTable
) -> TableGrid:
    """Return a grid with published lines below ours; some papers give only the best stage, which then has a column.

    Args:
        grid: our rows.
        stages: their stages in published tables; empty if a row is by another rule than those that are shown.
        lines: our variants.
        table: the published rows.
    """
    only_best = {row.name: len(row.scores) < len(table.stages) for row in table.rows}
    best = any(only_best.values())
    ours = [
        (name, (*cells, *([_number(line, line.row)] if best else [])))
        for (name, cells), line in zip(grid.turned().rows, lines, strict=True)
    ]
    theirs = []
    for row in table.rows:
        scores = dict(zip([_BEST] if only_best[row.name] else table.stages, row.scores, strict=True))
        values = [scores.get(stage, math.nan) for stage in [*stages, *([_BEST] if best else [])]]  # nan: not published
        theirs.append((row.name, tuple("" if math.isnan(value) else f"{100 * value:.1f}" for value in values)))
    heading = (f"published, {table.data}:", ("",) * (len(stages) + best))
    header = (*(name for name, _ in grid.rows), *([_BEST] if best else []))
    return TableGrid(grid.across, header, (*ours, heading, *theirs), grid.corner, turns=False)


def csv_of(results: StudyResults, colors: Sequence[ColorScores] = ()) -> str:
    """Return the long table: all rows of all variants; shown rows with their differences."""
    records: list[Record] = []
    for board in results.boards:
        for line in board.lines:
            for name, cell in line.column.cells.items() if line.column else ():
                assert line.column
                record = make_record(line.column, name, cell, evaluation=board.evaluation, shown=name == line.row)
                if name == line.row and (gap := line.gap):
                    record |= difference_record(results.plan.against[line.variant], gap.difference)
                    record |= {"p": gap.p, "p_holm": line.adjusted, "tests": results.tests}
                    if gap.over_seeds:
                        _, low, high = gap.over_seeds
                        record |= {"difference_over_seeds_low": low, "difference_over_seeds_high": high}
                records.append(record)
    for one in colors:
        for variant in results.variants:
            scored, shown = one.line(variant), one.metric.key if one.metric else ""
            for record in one.scores.records([scored]) if one.scores and scored else ():
                seeds = one.seeds[variant]
                record |= {"evaluation": one.evaluation, "shown": record["metric"] == shown}
                records.append(record | {"seeds": join(seeds), "n_seeds": len(seeds)})
    for record in records:
        if cost := results.costs.get(record["network"]):
            record["pretraining_seconds"] = cost.seconds
    return frame_csv(make_frame(records))
