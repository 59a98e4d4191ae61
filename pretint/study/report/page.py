"""The report of a study: one HTML page, and its tables as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.table import Table

from pretext.files import write_atomically
from pretint.study.cells import PLAN, PRETRAIN, CellStore, read_plan
from pretint.study.report import charts
from pretint.study.report.collect import HEALTH, EvaluationTable, StudyResults, TableRow, collect_results
from pretint.study.report.colors import ColorScores, Figures, colors, figures
from pretint.study.report.table import (
    Sheets,
    best_of,
    board_line,
    cited,
    color_number,
    csv_of,
    full_sheet,
    minutes,
    p_text,
    published_of,
    sheets,
    took,
)
from transfer.bootstrap import METRIC_TITLES, Estimate
from transfer.layout import WIDTH, Number, TableCell
from transfer.report.render import image, render_page
from transfer.report.result_facts import facts, provenance
from transfer.table import Section, TableNetwork

_TEMPLATE = Path(__file__).with_name("study.html.jinja")
_HEAVY = 1_200_000  # bytes of the sheet of images
_SURE = 0.05


class DifferenceRow(NamedTuple):
    """The difference under a number, from the number of the variant that it is compared with."""

    number: Number
    against: str
    p: str
    """After Holm's correction; empty where nothing is tested."""
    sure: bool
    over_seeds: Number | None


class MainTableCell(NamedTuple):
    """A cell of the main table."""

    number: TableCell | None
    row: str
    difference: DifferenceRow | None
    remark: str
    """What is missing."""


class StudyReport(NamedTuple):
    """A report that was written."""

    files: list[Path]
    sheets: Sheets

    def terminal(self, width: int = WIDTH) -> list[str | Table]:
        """Return its first tables for the terminal: the files have all."""
        return [line for sheet in self.sheets.brief for line in sheet.terminal(width)]


def read_results(folder: Path) -> StudyResults:
    """Return the results of the study in a folder, without its colors.

    Raises:
        UserError: there is no study.
    """
    return collect_results(read_plan(folder / PLAN), CellStore(folder.parent))


def write_study_report(folder: Path) -> StudyReport:
    """Write a study's report: report.html, report.md, report.tex, report.csv.

    Raises:
        UserError: there is no study, or its report cannot be written.
    """
    results, shelf = read_results(folder), CellStore(folder.parent)
    colored = colors(results.plan, shelf, folder)
    tables = sheets(results, colored)
    texts = {
        "html": page(folder, results, colored, figures(results.plan, shelf, folder)),
        "md": "\n".join(sheet.markdown() for sheet in tables.all).encode(),
        "tex": "\n".join(sheet.latex() for sheet in tables.all).encode(),
        "csv": csv_of(results, colored).encode(),
    }
    files = [folder / f"report.{ending}" for ending in texts]
    for file, text in zip(files, texts.values(), strict=True):
        write_atomically(file, text)
    return StudyReport(files, tables)


def page(folder: Path, results: StudyResults, colors: Sequence[ColorScores], figures: Figures) -> bytes:
    """Return the page; it loads nothing from the network, and what comes from outside is escaped.

    Args:
        folder: folder of the study.
        results: its results.
        colors: the joint scores of colors.
        figures: sample images.
    """
    plan = results.plan
    drawn = charts.looks(results)
    scored = [one for one in colors if one.metric]
    header = [
        (board.evaluation, f"{METRIC_TITLES[board.first.metric]}, %" if board.first else "") for board in results.boards
    ]
    header += [(one.evaluation, f"{one.metric.title}, %") for one in scored if one.metric]
    health_keys = [key for key in HEALTH if any(key in health.values for health in results.health.values())]
    health = [
        {
            "variant": variant,
            "values": [values.values.get(key) for key in health_keys],
            "step": values.step,
            "seeds": values.seeds,
            "held_out": values.held_out,
        }
        for variant in results.variants
        if (values := results.health.get(variant))
    ]
    cells = {cell.key: cell for cell in plan.cells}.values()
    groups = {  # in the order in which the commands can be called, each once
        "Pretraining": [cell for cell in cells if cell.command == PRETRAIN],
        "Evaluations": [cell for cell in cells if cell.command != PRETRAIN],
    }
    return render_page(
        _TEMPLATE,
        name=folder.resolve().name,
        path=str(folder),
        about=plan.about,
        seeds=plan.seeds,
        baselines=[variant for variant in results.variants if variant in plan.against.values()],
        best=_headline(results),
        tests=results.tests,
        sure=_SURE,
        header=header,
        rows=[_row(results, variant, scored) for variant in results.variants],
        keys={variant: look.color for variant, look in drawn.items()},
        boards=[_board(results, board, drawn, f"evaluation-{at}") for at, board in enumerate(results.boards, 1)],
        colors=[
            {
                "name": one.evaluation,
                "remark": one.remark,
                "sheets": one.scores.sheets if one.scores else [],
                "against": one.against,
                "about": one.about,
                "notes": one.scores.notes if one.scores else (),
            }
            for one in colors
        ],
        figures=figures,
        image=image(figures.file, _HEAVY) if figures.file else None,
        health_names=[HEALTH[key] for key in health_keys],
        health=health,
        costs={variant: results.costs[variant] for variant in results.variants if variant in results.costs},
        remarks=results.remarks,
        took=took(results),
        minutes=minutes,
        devices=len({cost.device for cost in results.costs.values()}),
        differing={key: {v: _word(value) for v, value in values.items()} for key, values in plan.differing.items()},
        trained=[v for v in results.variants if any(v in values for values in plan.differing.values())],
        missing=[(", ".join(names), reason) for reason, names in results.reasons.items()],
        unfinished=len(results.missing),
        cells=len(cells),
        commands=[(title, [cell.call["line"] for cell in group]) for title, group in groups.items() if group],
        call=plan.call,
        recipes={file: yaml.safe_dump(settings, sort_keys=False) for file, settings in plan.recipes.items()},
    )


def _headline(results: StudyResults) -> dict[str, Any] | None:
    """Return the best variant of the first evaluation, with what it is compared with."""
    for board in results.boards:
        line = board_line(board, best_of(board))
        if line and line.number and board.first:
            return {
                "variant": line.variant,
                "board": board.evaluation,
                "measure": METRIC_TITLES[board.first.metric],
                "score": line.number.score,
                "row": line.row,
                "difference": _difference(results, line),
            }
    return None


def _row(results: StudyResults, variant: str, scored: Sequence[ColorScores]) -> dict[str, Any]:
    """Return a variant's row of the main table."""
    cells = []
    for board in results.boards:
        line = board_line(board, variant)
        if line is None or board.error or not line.number:
            cells.append(MainTableCell(None, "", None, "missing" if line and not board.error else ""))
            continue
        number = Number(line.number.score, line.number.over_seeds, best_of(board) == variant)
        remark = f"without seed {', '.join(map(str, line.missing))}" if line.missing else ""
        cells.append(MainTableCell(number, line.row, _difference(results, line), remark))
    for one in scored:
        scores, metric, difference = one.line(variant), one.metric, None
        gap: Estimate | None = scores.differences.get(metric.key) if scores and metric else None
        if gap is not None and metric is not None:
            number = Number(gap, None, False, True, metric.scale, metric.digits)
            difference = DifferenceRow(number, one.against, "", not gap.low <= 0 <= gap.high, None)
        cells.append(MainTableCell(color_number(results, one, variant), "", difference, ""))
    cost = results.costs.get(variant)
    return {"variant": variant, "cells": cells, "minutes": minutes(cost.seconds) if cost else ""}


def _difference(results: StudyResults, line: TableRow) -> DifferenceRow | None:
    if not line.gap or line.adjusted is None:
        return None
    over_seeds = Number(line.gap.over_seeds, signed=True) if line.gap.over_seeds else None
    number = Number(line.gap.difference, signed=True)
    sure = line.adjusted < _SURE
    return DifferenceRow(number, results.plan.against[line.variant], p_text(line.adjusted), sure, over_seeds)


def _board(
    results: StudyResults, board: EvaluationTable, drawn: dict[str, charts.LineStyle], anchor: str
) -> dict[str, Any]:
    """Return the section of an evaluation."""
    columns = [line.column for v in results.variants if (line := board_line(board, v)) and line.column]
    published = published_of(board)
    return {
        "id": anchor,
        "name": board.evaluation,
        "rule": board.rule,
        "error": board.error,
        "first": board.first,
        "measure": METRIC_TITLES[board.first.metric] if board.first else "",
        "stages": charts.stages(results, board, drawn, f"{anchor}-stages"),
        "cost": charts.cost(results, board, drawn, f"{anchor}-cost"),
        "published": published,
        "sources": [(row.name, cited(row)) for row in published.rows] if published else [],
        "full": sheet._replace(grid=sheet.grid.flat()) if (sheet := full_sheet(results, board)) else None,
        "facts": facts(Section(tuple(TableNetwork((column,), {}) for column in columns))) if columns else {},
        "made": provenance([result for column in columns for result in column.results]),
        "tests": sorted({line.gap.test for line in board.lines if line.gap}),
    }


def _word(value: Any) -> str:
    """Return the value of a setting as text."""
    if isinstance(value, list):
        return ", ".join(map(_word, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value in (None, "", {}) else str(value)
