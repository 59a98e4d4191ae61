"""A study's page: one HTML file that asks the network for nothing. What comes from outside is escaped."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pretint.study.plan import PRETRAIN, call_of
from pretint.study.report import charts
from pretint.study.report.collect import HEALTH, Board, Findings, Line
from pretint.study.report.color_scores import Colors
from pretint.study.report.figures import Figures
from pretint.study.report.full_table import board_line, cited, full_sheet, published_of
from pretint.study.report.tables import best_of, color_number, minutes, p_text, took
from transfer.bootstrap import MEASURES, Estimate
from transfer.layout import Cell, Number
from transfer.report.render import image, rendered
from transfer.report.result_facts import facts, made
from transfer.table import Network, Section

_TEMPLATE = Path(__file__).with_name("study.html.jinja")
_HEAVY = 1_200_000  # bytes of the sheet of images
_SURE = 0.05


class Difference(NamedTuple):
    """What stands under a number: how far it is from that of the variant that it is compared with."""

    number: Number
    against: str
    p: str
    """After Holm's correction; empty where nothing is tested."""
    sure: bool
    over_seeds: Number | None


class Shown(NamedTuple):
    """A cell of the main table."""

    number: Cell | None
    row: str
    difference: Difference | None
    remark: str
    """What is missing."""


def page(folder: Path, found: Findings, colors: Sequence[Colors], figures: Figures) -> bytes:
    """The page.

    Args:
        folder: of the study.
        found: what its cells say.
        colors: the joint scores of colors.
        figures: sample images.
    """
    plan = found.plan
    drawn = charts.looks(found)
    scored = [one for one in colors if one.metric]
    return rendered(
        _TEMPLATE,
        name=folder.resolve().name,
        path=str(folder),
        about=plan.about,
        seeds=plan.seeds,
        baselines=[variant for variant in found.variants if variant in plan.against.values()],
        best=_headline(found),
        tests=found.tests,
        sure=_SURE,
        header=[*((board.evaluation, _of(board)) for board in found.boards), *map(_of_colors, scored)],
        rows=[_row(found, variant, scored) for variant in found.variants],
        keys={variant: look.color for variant, look in drawn.items()},
        boards=[_board(found, board, drawn, f"evaluation-{at}") for at, board in enumerate(found.boards, 1)],
        colors=[_colored(one) for one in colors],
        figures=figures,
        image=image(figures.file, _HEAVY) if figures.file else None,
        health_names=[HEALTH[key] for key in HEALTH if any(key in one.values for one in found.health.values())],
        health=_health(found),
        costs={variant: found.costs[variant] for variant in found.variants if variant in found.costs},
        remarks=found.remarks,
        took=took(found),
        minutes=minutes,
        devices=len({cost.device for cost in found.costs.values()}),
        differing={key: {v: _word(value) for v, value in told.items()} for key, told in plan.differing.items()},
        trained=[v for v in found.variants if any(v in told for told in plan.differing.values())],
        missing=[(", ".join(names), reason) for reason, names in found.reasons.items()],
        unfinished=len(found.missing),
        cells=len({cell.key for cell in plan.cells}),
        commands=_commands(found),
        call=call_of(plan),
        recipes={file: yaml.safe_dump(settings, sort_keys=False) for file, settings in plan.recipes.items()},
    )


def _headline(found: Findings) -> dict[str, Any] | None:
    """The best variant of the first evaluation, beside what it is compared with."""
    for board in found.boards:
        line = board_line(board, best_of(board))
        if line and line.number and board.first:
            return {
                "variant": line.variant,
                "board": board.evaluation,
                "measure": MEASURES[board.first.metric],
                "score": line.number.score,
                "row": line.row,
                "difference": _difference(found, line),
            }
    return None


def _row(found: Findings, variant: str, scored: Sequence[Colors]) -> dict[str, Any]:
    cells = [_cell(found, board, variant) for board in found.boards]
    for one in scored:
        cells.append(Shown(color_number(found, one, variant), "", _color_difference(one, variant), ""))
    cost = found.costs.get(variant)
    return {"variant": variant, "cells": cells, "minutes": minutes(cost.seconds) if cost else ""}


def _cell(found: Findings, board: Board, variant: str) -> Shown:
    line = board_line(board, variant)
    if line is None or board.error:
        return Shown(None, "", None, "")
    seeds = ", ".join(map(str, line.missing))
    if not line.number:
        return Shown(None, "", None, "missing")
    number = Number(line.number.score, line.number.over_seeds, best_of(board) == variant)
    return Shown(number, line.row, _difference(found, line), f"without seed {seeds}" if seeds else "")


def _difference(found: Findings, line: Line) -> Difference | None:
    if not line.gap or line.adjusted is None:
        return None
    over = Number(line.gap.over_seeds, signed=True) if line.gap.over_seeds else None
    number = Number(line.gap.difference, signed=True)
    sure = line.adjusted < _SURE
    return Difference(number, found.plan.against[line.variant], p_text(line.adjusted), sure, over)


def _color_difference(one: Colors, variant: str) -> Difference | None:
    line, metric = one.line(variant), one.metric
    gap: Estimate | None = line.differences.get(metric.key) if line and metric else None
    if gap is None or metric is None:
        return None
    number = Number(gap, None, False, True, metric.scale, metric.digits)
    return Difference(number, one.against, "", not gap.low <= 0 <= gap.high, None)


def _of(board: Board) -> str:
    first = board.first
    return f"{MEASURES[first.metric]}, %" if first else ""


def _of_colors(one: Colors) -> tuple[str, str]:
    assert one.metric
    return one.evaluation, f"{one.metric.title}, %"


def _board(found: Findings, board: Board, drawn: dict[str, charts.Look], anchor: str) -> dict[str, Any]:
    columns = [line.column for v in found.variants if (line := board_line(board, v)) and line.column]
    table = published_of(board)
    return {
        "id": anchor,
        "name": board.evaluation,
        "rule": board.rule,
        "error": board.error,
        "first": board.first,
        "measure": MEASURES[board.first.metric] if board.first else "",
        "stages": charts.stages(found, board, drawn, f"{anchor}-stages"),
        "cost": charts.cost(found, board, drawn, f"{anchor}-cost"),
        "published": table,
        "sources": [(row.name, cited(row)) for row in table.rows] if table else [],
        "full": sheet._replace(grid=sheet.grid.flat()) if (sheet := full_sheet(found, board)) else None,
        "facts": facts(Section(tuple(Network((column,), {}) for column in columns))) if columns else {},
        "made": made([result for column in columns for result in column.results]),
        "tests": sorted({line.gap.test for line in board.lines if line.gap}),
    }


def _colored(one: Colors) -> dict[str, Any]:
    return {
        "name": one.evaluation,
        "remark": one.remark,
        "sheets": one.scores.sheets if one.scores else [],
        "against": one.against,
        "about": one.about,
        "notes": one.scores.notes if one.scores else (),
    }


def _health(found: Findings) -> list[dict[str, Any]]:
    keys = [key for key in HEALTH if any(key in one.values for one in found.health.values())]
    return [
        {
            "variant": variant,
            "values": [one.values.get(key) for key in keys],
            "step": one.step,
            "seeds": one.seeds,
            "held_out": one.held_out,
        }
        for variant in found.variants
        if (one := found.health.get(variant))
    ]


def _commands(found: Findings) -> list[tuple[str, list[str]]]:
    """In the order in which they can be called, each once."""
    each = {cell.key: cell for cell in found.plan.cells}.values()
    groups = (
        ("Pretraining", [cell for cell in each if cell.command == PRETRAIN]),
        ("Evaluations", [cell for cell in each if cell.command != PRETRAIN]),
    )
    return [(title, [shlex.join(("pretint", *cell.words)) for cell in cells]) for title, cells in groups if cells]


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_word, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value in (None, "", {}) else str(value)
