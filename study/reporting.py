"""A study's findings as tables: for the terminal, Markdown, LaTeX and CSV; and as a page."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from colorization.scores.scoring import ScoreSettings, score
from colorization.scores.table import Scores
from pretext.errors import UserError
from pretext.files import write_atomically
from study.gathering import Board, Findings, gather
from study.plan import read_plan
from study.running import PLAN
from study.shelf import Shelf
from transfer.grid import WIDTH, Cell, Grid, Number, Sheet
from transfer.intervals import MEASURES


def findings(folder: Path) -> Findings:
    """What is known of the study in a folder.

    Raises:
        UserError: there is none, or a result cannot be read.
    """
    return gather(read_plan(folder / PLAN), Shelf(folder.parent))


def terminal(folder: Path, width: int = WIDTH) -> list[str | Table]:
    """The tables of a study, to print."""
    return [line for sheet in sheets(findings(folder)) for line in sheet.terminal(width)]


def write_study_report(folder: Path) -> list[Path]:
    """Write a study's report: report.md, report.tex, report.csv.

    Raises:
        UserError: there is no study, or a result cannot be read.
    """
    found = findings(folder)
    shown = sheets(found)
    texts = {
        "md": "\n".join(sheet.markdown() for sheet in shown),
        "tex": "\n".join(sheet.latex() for sheet in shown),
        "csv": _csv(found),
    }
    files = [folder / f"report.{ending}" for ending in texts]
    for file, text in zip(files, texts.values(), strict=True):
        write_atomically(file, text.encode())
    return files


def sheets(found: Findings) -> list[Sheet]:
    """What all variants are worth, and what each differs by from the one that it is compared with."""
    plan, boards = found.plan, [board for board in found.boards if board.first]
    rows, gaps = [], []
    for variant in plan.variants:
        numbers: list[Cell] = []
        differences: list[Cell] = []
        for board in boards:
            line = next((line for line in board.lines if line.variant == variant), None)
            number = line.number if line else None
            numbers.append(Number(number.score, number.over_seeds) if number else "")
            differences.append(Number(line.gap.difference, signed=True) if line and line.gap else "")
        cost = found.costs.get(variant)
        rows.append((variant, (*numbers, _minutes(cost.seconds) if cost else "")))
        if any(differences):
            gaps.append((f"{variant} - {plan.against[variant]}", tuple(differences)))
    names = tuple(board.evaluation for board in boards)
    title = plan.about or "study"
    main = Sheet(title, Grid("variant", (*names, "minutes"), tuple(rows), "evaluation"), tuple(_footer(found, boards)))
    if not gaps:
        return [main]
    about = (
        "[..]: 95% interval of the paired difference, on the same test pictures",
        *_significance(found, boards),
    )
    return [main, Sheet("differences", Grid("variant", names, tuple(gaps), "evaluation"), about)]


def colours(found: Findings, shelf: Shelf, evaluation: str) -> Scores:
    """The scores of all variants that colour, seeds joined.

    Raises:
        UserError: the pictures cannot be had any more.
    """
    asked = dict(found.plan.evaluations[evaluation])
    seeds = {
        variant: [cell.words[1] for cell in cells if shelf.finished(cell)]
        for variant in found.plan.variants
        if (cells := found.plan.of(variant, evaluation))
    }
    own = {key: value for key, value in asked.items() if key not in ("command", "config", "variants", "ask", "row")}
    models = [model for group in seeds.values() for model in group]
    if not models:
        raise UserError(f"{evaluation}: nothing is finished")
    return score(models, ScoreSettings(**own, out=str(shelf.root / "results")), seeds)


def _footer(found: Findings, boards: list[Board]) -> Iterator[str]:
    for board in boards:
        first = board.first
        assert first is not None
        yield (
            f"{board.evaluation}: protocol {first.protocol}, {MEASURES[first.metric]}, %, on {first.n_test:,} test "
            f"pictures of {first.test}; row: {board.rule}"
        )
        chosen = [f"{line.variant} {line.row}" for line in board.lines if line.column]
        yield f"{board.evaluation}, rows shown: {', '.join(chosen)}"
    if boards and boards[0].first:
        yield f"[..]: {boards[0].first.interval}; +-: standard deviation over seeds"
    missing = [f"{line.variant} {board.evaluation}" for board in boards for line in board.lines if line.missing]
    if missing:
        yield f"not finished: seeds of {', '.join(missing)}"
    for variant, cost in found.costs.items():
        yield f"{variant}: {cost.steps:,} steps, {cost.pictures:,} pictures, {cost.device}"


def _significance(found: Findings, boards: list[Board]) -> Iterator[str]:
    for board in boards:
        told = [
            f"{line.variant} {'<0.0001' if line.adjusted < 1e-4 else f'{line.adjusted:.4f}'}"
            for line in board.lines
            if line.gap and line.adjusted is not None
        ]
        if told:
            yield f"{board.evaluation}, p by Holm for {found.tests} tests: {', '.join(told)}"


def _csv(found: Findings) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["variant", "evaluation", "protocol", "row", "shown", "value", "low", "high", "over_seeds", "seeds", "n_test"]
    )
    for board in found.boards:
        for line in board.lines:
            for name, cell in line.column.cells.items() if line.column else ():
                assert line.column
                seeds = " ".join(str(result.network.seed) for result in line.column.results)
                first = line.column.first
                about = [line.variant, board.evaluation, first.protocol, name, name == line.row]
                over = "" if cell.over_seeds is None else cell.over_seeds
                writer.writerow([*about, *cell.score, over, seeds, first.n_test])
    return buffer.getvalue()


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"
