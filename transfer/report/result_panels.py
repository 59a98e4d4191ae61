"""The report's panels of results: charts, tables and their captions, made from results."""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from markupsafe import Markup

from pretext.errors import UserError
from transfer.bootstrap import METRIC_TITLES, Estimate
from transfer.columns import Column, evaluations, row_names, score_difference
from transfer.layout import TableCell
from transfer.protocols import PROTOCOLS
from transfer.report.published import published
from transfer.report.result_charts import ChartLine, color_of, dots_chart, shorten, shots_chart, stages_chart
from transfer.report.result_facts import cost, facts, flatten_settings, provenance
from transfer.report.trainings import sheets_of, trainings, trainings_panel, words_of
from transfer.results import Result
from transfer.table import Section, tables

_KINDS = ("random", "pretrained", "supervised", "published")  # from left to right
_MOST = 12  # lines of a chart
_LETTERS = 26  # of a network's name in a chart's legend
_SHOTS = re.compile(r"(\d+) shots?")
_NEIGHBORS = ("k=20", "k=200")  # what others report


class Headline(NamedTuple):
    """The selected row of a network, next to that of the same network at random weights."""

    column: Column
    name: str
    chosen: bool
    """Whether held-out images chose the row; if not, it is the last stage, or the row with the most trained weights."""
    reference: Column | None
    other: str
    """The row of the reference."""
    difference: Estimate | None
    """Paired: the network's score minus the reference's."""

    @property
    def score(self) -> Estimate:
        """The score of the network."""
        return self.column.cells[self.name].score

    @property
    def at_random(self) -> Estimate | None:
        """The score of the reference."""
        return None if self.reference is None else self.reference.cells[self.other].score

    @property
    def words(self) -> str:
        """For a fine-tuned network: the trained part, and the rule of the metric."""
        row = self.column.first.row(self.name)
        return ", ".join(filter(None, (words_of(row.stage), row.variant)))

    @property
    def tells_apart(self) -> bool:
        """Whether the interval of the difference excludes 0."""
        return self.difference is not None and not self.difference.low <= 0 <= self.difference.high


def result_panels(results: Sequence[Result], alone: bool = False) -> list[dict[str, Any]]:
    """Return a panel for every evaluation: first those on all labels, in the order of the list of protocols.

    Args:
        results: of any number of evaluations.
        alone: leave out the training of fine-tuned networks and the test images, which the page shows elsewhere.
    """
    protocols = list(PROTOCOLS)
    groups = sorted(
        evaluations(results),
        key=lambda group: (
            -group[0].fraction,
            protocols.index(group[0].protocol) if group[0].protocol in protocols else len(protocols),
            group[0].test,
        ),
    )
    sheets = {} if alone else sheets_of(results)
    return [_panel(f"evaluation-{number}", group, None if alone else sheets) for number, group in enumerate(groups, 1)]


def headline(panels: Sequence[dict[str, Any]]) -> Headline | None:
    """Return the first row of the page: of the newest weights, preferably with a chosen stage and a reference."""
    headlines: list[Headline] = [panel["headline"] for panel in panels if panel.get("headline")]
    return max(
        headlines,
        key=lambda row: (row.column.first.network.step, row.chosen, row.reference is not None),
        default=None,
    )


def _panel(anchor: str, group: Sequence[Result], sheets: dict[str, dict[str, Any]] | None) -> dict[str, Any]:
    """Return the facts of one evaluation for the page; ``sheets`` is None if the training is not shown."""
    kinds = {kind: place for place, kind in enumerate(_KINDS)}
    # A result of few stages must not hide one of all stages, of the same network.
    group = sorted(group, key=lambda result: (kinds.get(result.network.kind, len(kinds)), -len(result.rows)))
    first = group[0]
    tuned = first.mode == "fine-tuned"
    panel: dict[str, Any] = {
        "id": anchor,
        "title": f"{first.protocol} on {_short_source(first.test)}"
        + (f", {100 * first.fraction:g}\N{NO-BREAK SPACE}% of the labels" if first.fraction < 1 else ""),
        "first": first,
        "measure": METRIC_TITLES[first.metric],
        "tuned": tuned,
        "error": None,
        "trainings": None,
    }
    try:
        section = tables(group).sections[0]
    except UserError as error:
        return panel | {"error": str(error)}
    columns = section.columns
    if tuned and sheets is not None:
        panel["trainings"] = trainings_panel(anchor, trainings(group, columns, _colors(section)), sheets)
    by_class = []  # tables, one for each part that was trained, by the first of the rules
    if tuned and first.counted:
        rows = {row.name: row for column in columns for row in column.first.rows}
        rule = section.first.rows[0].variant
        by_class = [
            {"trained": words_of(rows[name].stage), "rule": rule, "grid": section.class_grid(name)}
            for name in row_names(columns)
            if rows[name].variant == rule
        ]
    several = len({column.first.mode for column in columns}) > 1
    colors = iter(_colors(section))
    header = []  # network, mode and color in the chart, for every column of the table
    for network in section.networks:
        for column in network.modes:
            header.append({"label": column.label, "mode": column.first.mode if several else "", "color": next(colors)})
        if network.gaps:
            header.append({"label": network.modes[0].label, "mode": "gap", "color": ""})
    return panel | {
        "by_class": by_class,
        "headline": _headline(columns),
        "figures": _figures(anchor, section),
        "published": published(*group),
        "header": header,
        "rows": _rows(section),
        "variants": any(row.variant for column in columns for row in column.first.rows),
        "shots": any(len(row.outcomes) > 1 for row in first.rows),
        "seeds": any(cell.over_seeds is not None for column in columns for cell in column.cells.values()),
        "marked": any(column.best is not None for column in columns),
        "gaps": any(network.gaps for network in section.networks),
        "facts": facts(section),
        "costs": [cost(column, result) for column in columns for result in column.results],
        "settings": flatten_settings(first.settings),
        "made": provenance(group if tuned else [result for column in columns for result in column.results]),
    }


def _headline(columns: Sequence[Column]) -> Headline | None:
    """Return the selected row of an evaluation: of the network at its newest weights, on cached features.

    The row is the best one, if held-out images chose one; else that of the last stage, with the fewest neighbors or the
    most shots. For a fine-tuned network it is the row with the most trained weights, by the first of the rules.
    """
    column = max(
        (column for column in columns if column.first.network.kind != "random"),
        key=lambda column: (
            column.first.network.step,
            not column.first.network.rescaled,
            column.first.mode == "cached",
        ),
        default=None,
    )
    if column is None:
        return None
    first = column.first
    chosen = column.best is not None
    if column.best is not None:
        name = column.best
    else:
        stages = [row.stage for row in first.rows]
        stage = "all" if first.mode == "fine-tuned" and "all" in stages else stages[-1]
        rows = [row for row in first.rows if row.stage == stage]
        usual = [row for row in rows if row.variant == _NEIGHBORS[0]]
        name = rows[0].name if first.mode == "fine-tuned" else (usual or rows)[-1].name
    references = [
        reference
        for reference in columns
        if (reference.first.network.kind, reference.first.mode) == ("random", first.mode)
        and reference.first.network.backbone == first.network.backbone
        and reference.first.network.rescaled == first.network.rescaled
    ]
    references.sort(key=lambda reference: reference.first.view_size != first.view_size)
    for reference in references:
        other = (reference.best or "") if chosen else name
        if other in reference.cells:
            return Headline(column, name, chosen, reference, other, score_difference(reference, column, other, name))
    return Headline(column, name, chosen, None, "", None)


def _figures(anchor: str, section: Section) -> list[dict[str, Any]]:
    """Return charts with their captions: of stages, of shots, beside published rows, or of trained parts."""
    first, measure = section.first, METRIC_TITLES[section.first.metric]
    rows = {row.name: row for column in section.columns for result in column.results for row in result.rows}
    stages = list(dict.fromkeys(row.stage for row in rows.values()))
    variants = list(dict.fromkeys(row.variant for row in rows.values()))
    shots = {int(match[1]): variant for variant in variants if (match := _SHOTS.fullmatch(variant))}
    if len(shots) == len(variants):
        counts = sorted(shots)
        panels = [(stage, _lines(section, [f"{stage}, {shots[count]}" for count in counts])) for stage in stages]
        chart = shots_chart(anchor, measure, counts, [(stage, lines[:_MOST]) for stage, lines in panels])
        return [{"svg": Markup(chart), "left_out": _left_out(panels[0][1])}]
    if first.mode == "fine-tuned":  # where several rules count and several parts were trained, a chart of each rule
        if len(stages) == 1:
            charts = [("", [variant or words_of(stages[0]) for variant in variants], _names(stages, variants))]
        else:
            charts = [(rule, [words_of(stage) for stage in stages], _names(stages, [rule])) for rule in variants]
        figures = []
        for number, (title, labels, names) in enumerate(charts):
            lines = _lines(section, names)
            chart = dots_chart(f"{anchor}-{number}", measure, labels, lines[:_MOST])
            figures.append({"title": title, "svg": Markup(chart), "left_out": _left_out(lines)})
        return figures
    shown = [rule for rule in _NEIGHBORS if rule in variants] or list(dict.fromkeys([variants[0], variants[-1]]))
    lines = _lines(section, stages, shown)
    figures = [{"svg": Markup(stages_chart(anchor, measure, stages, lines[:_MOST])), "left_out": _left_out(lines)}]
    if table := published(first):
        lines = _lines(section, table.stages, shown)[:_MOST]
        chart = stages_chart(f"{anchor}-published", measure, table.stages, lines, table.rows)
        figures.append({"svg": Markup(chart), "left_out": 0})
    return figures


def _names(stages: Sequence[str], variants: Sequence[str]) -> list[str]:
    return [f"{stage}, {variant}" if variant else stage for stage in stages for variant in variants]


def _left_out(lines: Sequence[ChartLine]) -> int:
    return max(0, len(lines) - _MOST)


def _lines(section: Section, places: Sequence[str], variants: Sequence[str] = ("",)) -> list[ChartLine]:
    """Return a line for every column and variant, over the places of an axis: stages, or whole rows."""
    modes = list(dict.fromkeys(column.first.mode for column in section.columns))
    lines = []
    for column, color in zip(section.columns, _colors(section), strict=True):
        for number, variant in enumerate(variants):
            names = [f"{place}, {variant}" if variant else place for place in places]
            scores = [column.cells[name].score if name in column.cells else None for name in names]
            words = [shorten(column.label, _LETTERS), column.first.mode if len(modes) > 1 else "", variant]
            style = modes.index(column.first.mode) + len(modes) * number
            ringed = names.index(column.best) if column.best in names else None
            if any(scores):
                lines.append(ChartLine(", ".join(filter(None, words)), scores, color, style, ringed))
    return lines


def _colors(section: Section) -> list[str]:
    """Return the color of every column; the modes of a network share it."""
    colors, counts = [], dict.fromkeys(_KINDS, 0)
    for network in section.networks:
        kind = network.modes[0].first.network.kind
        colors += [color_of(kind, counts.get(kind, 0))] * len(network.modes)
        counts[kind] = counts.get(kind, 0) + 1
    return colors


def _rows(section: Section) -> list[dict[str, Any]]:
    """Return the rows of the table: stage (once for all of its variants), variant, cells."""
    known = {row.name: row for column in section.columns for row in column.first.rows}
    rows: list[dict[str, Any]] = []
    for name, cells in section.grid.rows:
        row = known[name]
        begins = not rows or rows[-1]["stage"] != row.stage
        shown: tuple[TableCell, ...] = cells
        rows.append({"stage": row.stage, "begins": begins, "variant": row.variant, "dims": row.dims, "cells": shown})
    for at, row_ in enumerate(rows):
        if row_["begins"]:
            row_["span"] = next((n for n, other in enumerate(rows[at + 1 :], 1) if other["begins"]), len(rows) - at)
    return rows


def _short_source(source: str) -> str:
    """Return the last two folders of a path; for other sources their name, without their folder."""
    name, _, path = source.rpartition(":")
    if ":" in name:
        return name
    parts = PurePath(path).parts
    return source if name or len(parts) < 3 else "/".join(parts[-2:])
