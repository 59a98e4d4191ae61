"""The report's panels of results: what was measured in; charts, tables and the words beside them out."""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from markupsafe import Markup

from pretext.errors import UserError
from transfer.bootstrap import MEASURES, Estimate
from transfer.columns import Column, evaluations, row_names, score_gap
from transfer.layout import Cell
from transfer.protocols import PROTOCOLS
from transfer.report.published import published
from transfer.report.result_charts import Line, color_of, dots_chart, shortened, shots_chart, stages_chart
from transfer.report.result_facts import cost, facts, flat, made
from transfer.report.trainings import sheets_of, trainings, trainings_panel, words_of
from transfer.results import Result
from transfer.table import Section, tables

_KINDS = ("random", "pretrained", "supervised", "published")  # from left to right
_MOST = 12  # lines of a chart
_LETTERS = 26  # of a network's name in a chart's legend
_SHOTS = re.compile(r"(\d+) shots?")
_NEIGHBORS = ("k=20", "k=200")  # what others report


class Said(NamedTuple):
    """The one row that speaks for a network, beside that of the same network at random weights."""

    column: Column
    name: str
    chosen: bool
    """Whether held-out images chose the row; if not, it is the last stage, or that of which most was trained."""
    reference: Column | None
    other: str
    """The row of the reference."""
    difference: Estimate | None
    """Paired: the network's minus the reference's."""

    @property
    def score(self) -> Estimate:
        """Of the network."""
        return self.column.cells[self.name].score

    @property
    def at_random(self) -> Estimate | None:
        """Of the reference."""
        return None if self.reference is None else self.reference.cells[self.other].score

    @property
    def words(self) -> str:
        """Of a fine-tuned network, what was trained, and the rule that counts."""
        row = self.column.first.row(self.name)
        return ", ".join(filter(None, (words_of(row.stage), row.variant)))

    @property
    def tells_apart(self) -> bool:
        """Whether the interval of the difference is without 0."""
        return self.difference is not None and not self.difference.low <= 0 <= self.difference.high


def result_panels(results: Sequence[Result], alone: bool = False) -> list[dict[str, Any]]:
    """A panel for every evaluation: those of all labels first, in the order of the list of protocols.

    Args:
        results: of any number of evaluations.
        alone: whether what led to them is shown elsewhere: the training of fine-tuned networks, and test images.
    """
    groups = sorted(evaluations(results), key=_order)
    sheets = {} if alone else sheets_of(results)
    return [_panel(f"evaluation-{number}", group, None if alone else sheets) for number, group in enumerate(groups, 1)]


def headline(panels: Sequence[dict[str, Any]]) -> Said | None:
    """What the page begins with: of the newest weights, the first that has a chosen stage and a reference, if any."""
    said: list[Said] = [panel["said"] for panel in panels if panel.get("said")]
    if not said:
        return None
    return max(said, key=lambda one: (one.column.first.network.step, one.chosen, one.reference is not None))


def _panel(anchor: str, group: Sequence[Result], sheets: dict[str, dict[str, Any]] | None) -> dict[str, Any]:
    # A result of few stages must not hide one of all stages, of the same network.
    group = sorted(group, key=lambda result: (_kind(result), -len(result.rows)))
    first = group[0]
    panel: dict[str, Any] = {
        "id": anchor,
        "title": f"{first.protocol} on {_short_source(first.test)}"
        + (f", {100 * first.fraction:g}\N{NO-BREAK SPACE}% of the labels" if first.fraction < 1 else ""),
        "first": first,
        "measure": MEASURES[first.metric],
        "tuned": first.mode == "fine-tuned",
        "error": None,
        "trainings": None,
    }
    try:
        section = tables(group).sections[0]
    except UserError as error:
        return panel | {"error": str(error)}
    columns = section.columns
    shown = first.mode == "fine-tuned" and sheets is not None
    return panel | {
        "trainings": trainings_panel(anchor, trainings(group, columns, _colors(section)), sheets or {})
        if shown
        else None,
        "by_class": _by_class(section) if first.mode == "fine-tuned" and first.counted else [],
        "said": _said(columns),
        "figures": _figures(anchor, section),
        "published": published(*group),
        "header": _header(section),
        "rows": _rows(section),
        "variants": any(row.variant for column in columns for row in column.first.rows),
        "shots": any(len(row.outcomes) > 1 for row in first.rows),
        "seeds": any(cell.over_seeds is not None for column in columns for cell in column.cells.values()),
        "marked": any(column.best is not None for column in columns),
        "gaps": any(network.gaps for network in section.networks),
        "facts": facts(section),
        "costs": [cost(column, result) for column in columns for result in column.results],
        "settings": flat(first.settings),
        "made": made(group if first.mode == "fine-tuned" else [one for column in columns for one in column.results]),
    }


def _order(group: Sequence[Result]) -> tuple[float, int, str]:
    names = list(PROTOCOLS)
    first = group[0]
    return -first.fraction, names.index(first.protocol) if first.protocol in names else len(names), first.test


def _kind(result: Result) -> int:
    kind = result.network.kind
    return _KINDS.index(kind) if kind in _KINDS else len(_KINDS)


def _said(columns: Sequence[Column]) -> Said | None:
    """Of the network at its newest weights; features that were kept before fresh crops."""
    trained = [column for column in columns if column.first.network.kind != "random"]
    column = max(trained, key=_standing, default=None)
    if column is None:
        return None
    name, chosen = _speaker(column)
    alike = [one for one in columns if one.first.network.kind == "random" and one.first.mode == column.first.mode]
    alike = [one for one in alike if one.first.network.backbone == column.first.network.backbone]
    alike = [one for one in alike if one.first.network.rescaled == column.first.network.rescaled]
    alike.sort(key=lambda one: one.first.view_size != column.first.view_size)
    for reference in alike:
        other = (reference.best or "") if chosen else name
        if other in reference.cells:
            return Said(column, name, chosen, reference, other, score_gap(reference, column, other, name))
    return Said(column, name, chosen, None, "", None)


def _standing(column: Column) -> tuple[int, bool, bool]:
    """What speaks for a network first: its newest weights, as they were, on features that were kept."""
    network = column.first.network
    return network.step, not network.rescaled, column.first.mode == "cached"


def _speaker(column: Column) -> tuple[str, bool]:
    """Its best row, if held-out images chose one; else the last stage's, of few neighbors or most shots.

    Of a fine-tuned network that of which most was trained, by the first of the rules.
    """
    if column.best is not None:
        return column.best, True
    stages = [row.stage for row in column.first.rows]
    most = "all" if column.first.mode == "fine-tuned" and "all" in stages else stages[-1]
    rows = [row for row in column.first.rows if row.stage == most]
    if column.first.mode == "fine-tuned":
        return rows[0].name, False
    usual = [row for row in rows if row.variant == _NEIGHBORS[0]]
    return (usual or rows)[-1].name, False


def _figures(anchor: str, section: Section) -> list[dict[str, Any]]:
    """Charts with their captions: of the stages or of the shots, and beside published rows; or of what was trained."""
    first, measure = section.first, MEASURES[section.first.metric]
    rows = {row.name: row for column in section.columns for result in column.results for row in result.rows}
    stages = list(dict.fromkeys(row.stage for row in rows.values()))
    variants = list(dict.fromkeys(row.variant for row in rows.values()))
    shots = {int(found[1]): variant for variant in variants if (found := _SHOTS.fullmatch(variant))}
    if len(shots) == len(variants):
        counts = sorted(shots)
        panels = [(stage, _lines(section, [f"{stage}, {shots[count]}" for count in counts])) for stage in stages]
        return [
            {"svg": Markup(shots_chart(anchor, measure, counts, _capped(panels))), "left_out": _left_out(panels[0][1])}
        ]
    if first.mode == "fine-tuned":
        return _tuned_figures(anchor, section, stages, variants)
    shown = [one for one in _NEIGHBORS if one in variants] or list(dict.fromkeys([variants[0], variants[-1]]))
    lines = _lines(section, stages, shown)
    figures = [{"svg": Markup(stages_chart(anchor, measure, stages, lines[:_MOST])), "left_out": _left_out(lines)}]
    if table := published(first):
        lines = _lines(section, table.stages, shown)[:_MOST]
        chart = stages_chart(f"{anchor}-published", measure, table.stages, lines, table.rows)
        figures.append({"svg": Markup(chart), "left_out": 0})
    return figures


def _tuned_figures(
    anchor: str, section: Section, stages: Sequence[str], variants: Sequence[str]
) -> list[dict[str, Any]]:
    """A chart; where several rules count and several parts were trained, one of each rule."""
    measure = MEASURES[section.first.metric]
    if len(stages) == 1:
        charts = [("", [variant or words_of(stages[0]) for variant in variants], _names(stages, variants))]
    else:
        charts = [(rule, [words_of(stage) for stage in stages], _names(stages, [rule])) for rule in variants]
    figures = []
    for number, (title, rows, names) in enumerate(charts):
        lines = _lines(section, names)
        chart = dots_chart(f"{anchor}-{number}", measure, rows, lines[:_MOST])
        figures.append({"title": title, "svg": Markup(chart), "left_out": _left_out(lines)})
    return figures


def _names(stages: Sequence[str], variants: Sequence[str]) -> list[str]:
    return [f"{stage}, {variant}" if variant else stage for stage in stages for variant in variants]


def _by_class(section: Section) -> list[dict[str, Any]]:
    """Tables of the classes' numbers: one for each part that was trained, by the first of the rules."""
    rows = {row.name: row for column in section.columns for row in column.first.rows}
    first = section.first.rows[0].variant
    return [
        {"trained": words_of(rows[name].stage), "rule": first, "grid": section.class_grid(name)}
        for name in row_names(section.columns)
        if rows[name].variant == first
    ]


def _capped(panels: Sequence[tuple[str, Sequence[Line]]]) -> list[tuple[str, Sequence[Line]]]:
    return [(stage, lines[:_MOST]) for stage, lines in panels]


def _left_out(lines: Sequence[Line]) -> int:
    return max(0, len(lines) - _MOST)


def _lines(section: Section, places: Sequence[str], variants: Sequence[str] = ("",)) -> list[Line]:
    """A line for every column and variant, over the places of an axis: stages, or rows if there is no variant."""
    modes = list(dict.fromkeys(column.first.mode for column in section.columns))
    found = []
    for column, color in zip(section.columns, _colors(section), strict=True):
        for number, variant in enumerate(variants):
            names = [f"{place}, {variant}" if variant else place for place in places]
            scores = [column.cells[name].score if name in column.cells else None for name in names]
            words = [shortened(column.label, _LETTERS), column.first.mode if len(modes) > 1 else "", variant]
            style = modes.index(column.first.mode) + len(modes) * number
            ringed = names.index(column.best) if column.best in names else None
            if any(scores):
                found.append(Line(", ".join(filter(None, words)), scores, color, style, ringed))
    return found


def _colors(section: Section) -> list[str]:
    """Of every column; a network's modes share it."""
    colors, met = [], dict.fromkeys(_KINDS, 0)
    for network in section.networks:
        kind = network.modes[0].first.network.kind
        colors += [color_of(kind, met.get(kind, 0))] * len(network.modes)
        met[kind] = met.get(kind, 0) + 1
    return colors


def _header(section: Section) -> list[dict[str, str]]:
    """Of every column of the table: network, mode, and the color that it has in the chart."""
    several = len({column.first.mode for column in section.columns}) > 1
    colors = iter(_colors(section))
    found = []
    for network in section.networks:
        for column in network.modes:
            found.append({"label": column.label, "mode": column.first.mode if several else "", "color": next(colors)})
        if network.gaps:
            found.append({"label": network.modes[0].label, "mode": "gap", "color": ""})
    return found


def _rows(section: Section) -> list[dict[str, Any]]:
    """Of the table: stage (once for all of its variants), variant, cells."""
    known = {row.name: row for column in section.columns for row in column.first.rows}
    rows: list[dict[str, Any]] = []
    for name, cells in section.grid.rows:
        row = known[name]
        begins = not rows or rows[-1]["stage"] != row.stage
        shown: tuple[Cell, ...] = cells
        rows.append({"stage": row.stage, "begins": begins, "variant": row.variant, "dims": row.dims, "cells": shown})
    for at, row_ in enumerate(rows):
        if row_["begins"]:
            row_["span"] = next((n for n, other in enumerate(rows[at + 1 :], 1) if other["begins"]), len(rows) - at)
    return rows


def _short_source(source: str) -> str:
    """The last two folders of a path; of other sources their name, without where they lie."""
    name, _, path = source.rpartition(":")
    if ":" in name:
        return name
    parts = PurePath(path).parts
    return source if name or len(parts) < 3 else "/".join(parts[-2:])
