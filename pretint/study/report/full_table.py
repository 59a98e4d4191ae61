"""A board in full: every row of every variant, and the published rows that may stand below them."""

import math
from collections.abc import Iterator, Sequence

from pretint.study.report.collect import Board, Findings, Line
from transfer.bootstrap import MEASURES
from transfer.columns import row_names
from transfer.layout import Cell, Grid, Number, Sheet
from transfer.report.published import Published, PublishedTable, published

ROWS = 8
"""A board of no more shows all; one of more, as k-NN at four k, those like the rows that stand for its variants."""
_BEST = "best"


def board_line(board: Board, variant: str) -> Line | None:
    """A variant's; None if it is not judged there."""
    return next((line for line in board.lines if line.variant == variant), None)


def published_of(board: Board) -> PublishedTable | None:
    """Published rows that a board may stand beside: its protocol, data and backbone are theirs."""
    results = [line.column.first for line in board.lines if line.column]
    return next((table for result in results if (table := published(result, *results))), None)


def cited(row: Published) -> str:
    """Where a published row is from."""
    remark = f"; {row.remark}" if row.remark else ""
    return f"{row.source}{remark}; {'checked' if row.verified else 'not verified'}"


def full_sheet(found: Findings, board: Board) -> Sheet | None:
    """Every row of every variant; None where the study's table says all.

    Rows are stages, as in the tables of results. With published rows it is the table of their papers: a line for each
    network, stages across, theirs below.

    Args:
        found: of the study.
        board: of an evaluation.
    """
    lines = [line for v in found.variants if (line := board_line(board, v)) and line.column]
    names, table = _rows(lines), published_of(board)
    if not board.first or (len(names) < 2 and not table):
        return None
    first = board.first
    corner = "trained" if first.mode == "fine-tuned" else "stage"
    rows = tuple((name, tuple(_number(line, name) for line in lines)) for name in names)
    grid = Grid(corner, tuple(line.variant for line in lines), rows, "variant")
    if table:
        grid = _with_published(grid, [_published_stage(lines, name) for name in names], lines, table)
    title = f"{board.evaluation}, every row: {MEASURES[first.metric]} on {first.n_test:,} test images, %"
    return Sheet(title, grid, tuple(_footer(board, lines, names, table)))


def _rows(lines: Sequence[Line]) -> list[str]:
    columns = [line.column for line in lines if line.column]
    names = row_names(columns)
    return names if len(names) <= ROWS else [name for name in names if _like_shown(lines, name)]


def _like_shown(lines: Sequence[Line], name: str) -> bool:
    """Whether a row is comparable with one that stands for a variant: of the same k, by the same rule."""
    columns = [line.column for line in lines if line.column]
    variants = {name: column.first.row(name).variant for column in columns for name in column.names}
    return variants[name] in {variants[line.row] for line in lines}


def _published_stage(lines: Sequence[Line], name: str) -> str:
    """What a row is of, in published tables; empty if its numbers are by another rule than those that are shown."""
    columns = (line.column for line in lines if line.column and name in line.column.names)
    return next(columns).first.row(name).stage if _like_shown(lines, name) else ""


def _number(line: Line, name: str) -> Cell:
    cell = line.column.cells.get(name) if line.column else None
    return Number(cell.score, cell.over_seeds, name == line.row) if cell else ""


def _with_published(grid: Grid, stages: Sequence[str], lines: Sequence[Line], table: PublishedTable) -> Grid:
    """Theirs below ours; of some papers only the best stage is known, which then has a column."""
    best = any(_of_best(row, table) for row in table.rows)
    ours = [
        (name, (*cells, *([_number(line, line.row)] if best else [])))
        for (name, cells), line in zip(grid.turned().rows, lines, strict=True)
    ]
    theirs = [(row.name, tuple(_scores(row, table, [*stages, *([_BEST] if best else [])]))) for row in table.rows]
    heading = (f"published, {table.data}:", ("",) * (len(stages) + best))
    header = (*(name for name, _ in grid.rows), *([_BEST] if best else []))
    return Grid(grid.across, header, (*ours, heading, *theirs), grid.corner, turns=False)


def _of_best(row: Published, table: PublishedTable) -> bool:
    return len(row.scores) < len(table.stages)


def _scores(row: Published, table: PublishedTable, places: Sequence[str]) -> list[str]:
    """In the columns of a grid; NaN is a number that was not published."""
    known = dict(zip([_BEST] if _of_best(row, table) else table.stages, row.scores, strict=True))
    told = (known.get(place, math.nan) for place in places)
    return ["" if math.isnan(score) else f"{100 * score:.1f}" for score in told]


def _footer(board: Board, lines: Sequence[Line], names: Sequence[str], table: PublishedTable | None) -> Iterator[str]:
    yield f"bold: the row that stands for a variant, {board.rule}"
    numbers = [_number(line, name) for line in lines for name in names]
    spread = any(isinstance(one, Number) and one.spread is not None for one in numbers)
    assert board.first
    yield f"[..]: {board.first.interval}" + ("; +-: standard deviation over seeds" if spread else "")
    every = {name for line in lines if line.column for name in line.column.names}
    if len(every) > len(names):
        yield f"{len(names)} of {len(every)} rows: those comparable with the bold ones; all are in report.csv"
    if table:
        yield from dict.fromkeys(f"{row.name}: {cited(row)}" for row in table.rows)
