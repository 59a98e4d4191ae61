"""The panels of results: charts, tables and facts of an evaluation, for the page of a run or of a study."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from pretext.errors import UserError
from transfer.bootstrap import METRIC_TITLES
from transfer.columns import Column, evaluations, row_names, score_difference
from transfer.protocols import PROTOCOLS
from transfer.report.charts import ChartLine, dots_chart, looks_of, shorten, shots_chart, stages_chart
from transfer.report.panels import sheets_of, trainings_panel, words_of
from transfer.report.published import published
from transfer.report.render import to_text
from transfer.results import Result
from transfer.table import Section, tables

MOST = 12
"""The most lines in a chart."""
LETTERS = 26
"""Letters of a network's name in a chart's legend, at most."""

Looks = Mapping[Column, tuple[str, int]]
"""Color and style of every column in charts."""

_KINDS = ("random", "pretrained", "supervised", "published")  # from left to right
_SHOTS = re.compile(r"(\d+) shots?")
_NEIGHBORS = ("k=20", "k=200")  # what others report


def result_panels(results: Sequence[Result], alone: bool = False) -> list[dict[str, Any]]:
    """Return a panel for every evaluation: first those on all labels, in the order of the list of protocols.

    Args:
        results: of any number of evaluations.
        alone: leave out the training of fine-tuned networks and the test images, which the page shows elsewhere.
    """
    order = {name: at for at, name in enumerate(PROTOCOLS)}
    groups = sorted(
        evaluations(results),
        key=lambda group: (-group[0].fraction, order.get(group[0].protocol, len(order)), group[0].test),
    )
    kinds = {kind: at for at, kind in enumerate(_KINDS)}
    sheets = {} if alone else sheets_of(results)
    panels = []
    for number, group in enumerate(groups, 1):
        # A result of few stages must not hide one of all stages, of the same network.
        group.sort(key=lambda result: (kinds.get(result.network.kind, len(kinds)), -len(result.rows)))
        first, anchor = group[0], f"evaluation-{number}"
        name, _, path = first.test.rpartition(":")
        parts = PurePath(path).parts
        source = name if ":" in name else first.test if name or len(parts) < 3 else "/".join(parts[-2:])
        share = f", {100 * first.fraction:g}\N{NO-BREAK SPACE}% of the labels" if first.fraction < 1 else ""
        title = f"{first.protocol} on {source}{share}"
        try:
            section = tables(group).sections[0]
        except UserError as error:
            panels.append({"id": anchor, "title": title, "first": first, "error": str(error), "headline": None})
            continue
        by_network = looks_of(network.modes[0].first.network.kind for network in section.networks)
        looks = {
            column: look for network, look in zip(section.networks, by_network, strict=True) for column in network.modes
        }
        panel = evaluation_panel(anchor, title, section, looks)
        if first.mode == "fine-tuned":
            panel["results"] = group
            if not alone:
                colors = {column: color for column, (color, _) in looks.items()}
                panel["trainings"] = trainings_panel(anchor, group, colors, sheets)
        panels.append(panel)
    return panels


def headline(panels: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the first row of the page: of the newest weights, preferably with a chosen stage and a reference."""
    headlines = [panel["headline"] for panel in panels if panel["headline"]]
    return max(
        headlines,
        key=lambda row: (row["column"].first.network.step, row["chosen"], row["reference"] is not None),
        default=None,
    )


def evaluation_panel(
    anchor: str, title: str, section: Section, looks: Looks, selected: Mapping[Column, str] | None = None
) -> dict[str, Any]:
    """Return the facts of one evaluation for a page.

    Args:
        anchor: a name that is unique on the page.
        title: its heading.
        section: its results.
        looks: the look of every column.
        selected: the row of every column that is emphasized; by default the one that held-out images chose.
    """
    columns, first = section.columns, section.first
    tuned = first.mode == "fine-tuned"
    if selected is None:
        selected = {column: column.best for column in columns if column.best is not None}
    rows = {row.name: row for column in columns for row in column.first.rows}
    by_class = []  # tables, one for each part that was trained, by the first of the rules
    if tuned and first.counted:
        rule = first.rows[0].variant
        names = [name for name in row_names(columns) if rows[name].variant == rule]
        by_class = [
            {
                "title": ", ".join(filter(None, (words_of(rows[name].stage), rule))) if rule or names[1:] else "",
                "grid": section.class_grid(name).flat(),
            }
            for name in names
        ]
    dims = "weights trained" if tuned else "dims"
    grid = section.grid
    grid = grid._replace(
        header=(dims, *grid.header),
        rows=tuple((name, (f"{rows[name].dims:,}", *cells)) for name, cells in grid.rows),
    )
    return {
        "id": anchor,
        "title": title,
        "first": first,
        "error": None,
        "tuned": tuned,
        "columns": columns,
        "headline": _headline(columns),
        "figures": _figures(anchor, columns, looks, selected),
        "published": published(first, *(result for column in columns for result in column.results)),
        "grid": grid.flat(),
        "keys": _keys(columns, looks),
        "selected": selected,
        "shots": any(len(row.outcomes) > 1 for row in first.rows),
        "seeds": any(cell.over_seeds is not None for column in columns for cell in column.cells.values()),
        "samples": any(cell.over_samples is not None for column in columns for cell in column.cells.values()),
        "gaps": any(network.gaps for network in section.networks),
        "by_class": by_class,
        "settings": _flatten(first.settings),
        "results": [result for column in columns for result in column.results],
        "trainings": None,
    }


def _keys(columns: Sequence[Column], looks: Looks) -> dict[str, str]:
    """Return the color of every column, by its name in a table."""
    colors = {column.label: looks[column][0] for column in columns}
    return colors | {f"{column.label}, {column.first.mode}": looks[column][0] for column in columns}


def _headline(columns: Sequence[Column]) -> dict[str, Any] | None:
    """Return the selected row of an evaluation: of the network at its newest weights, on cached features.

    The row is the best one, if held-out images chose one; else that of the last stage, with the fewest neighbors or the
    most shots. For a fine-tuned network it is the row with the most trained weights, by the first of the rules. Beside
    it stands that of the same network at random weights, with the paired difference.
    """
    networks = [column for column in columns if column.first.network.kind != "random"]
    if not networks:
        return None
    column = max(networks, key=lambda c: (c.first.network.step, not c.first.network.rescaled, c.first.mode == "cached"))
    first, name = column.first, column.best
    tuned = first.mode == "fine-tuned"
    if name is None:
        stages = [row.stage for row in first.rows]
        stage = "all" if tuned and "all" in stages else stages[-1]
        rows = [row for row in first.rows if row.stage == stage]
        usual = [row for row in rows if row.variant == _NEIGHBORS[0]]
        name = rows[0].name if tuned else (usual or rows)[-1].name
    row = first.row(name)
    facts: dict[str, Any] = {
        "column": column,
        "name": name,
        "chosen": column.best is not None,  # else it is the last stage, or the row with the most trained weights
        "score": column.cells[name].score,
        "words": ", ".join(filter(None, (words_of(row.stage), row.variant))) if tuned else name,
        "reference": None,
        "at_random": None,
        "other": "",
        "difference": None,
        "tells_apart": False,
    }

    def conditions(result: Result) -> tuple[Any, ...]:
        return result.mode, result.network.backbone, result.network.rescaled

    references = [c for c in columns if c.first.network.kind == "random" and conditions(c.first) == conditions(first)]
    for reference in sorted(references, key=lambda reference: reference.first.view_size != first.view_size):
        other = (reference.best or "") if column.best else name
        if other in reference.cells:
            difference = score_difference(reference, column, other, name)
            return facts | {
                "reference": reference,
                "at_random": reference.cells[other].score,
                "other": facts["words"] if tuned else other,
                "difference": difference,
                "tells_apart": not difference.low <= 0 <= difference.high,
            }
    return facts


def _figures(
    anchor: str, columns: Sequence[Column], looks: Looks, selected: Mapping[Column, str]
) -> list[dict[str, Any]]:
    """Return charts with their titles: of stages, of shots, beside published rows, or of trained parts."""
    first = columns[0].first
    tuned, measure = first.mode == "fine-tuned", METRIC_TITLES[first.metric]
    rows = {row.name: row for column in columns for result in column.results for row in result.rows}
    stages = list(dict.fromkeys(row.stage for row in rows.values()))
    variants = list(dict.fromkeys(row.variant for row in rows.values()))
    modes = list(dict.fromkeys(column.first.mode for column in columns))
    shots = {int(match[1]): variant for variant in variants if (match := _SHOTS.fullmatch(variant))}

    def lines(places: Sequence[str], shown: Sequence[str] = ("",)) -> list[ChartLine]:
        """Return a line for every column and variant, over the places of an axis: stages, or whole rows."""
        drawn = []
        for column in columns:
            (color, turn), mode = looks[column], column.first.mode
            for number, variant in enumerate(shown):
                names = [_name(place, variant) for place in places]
                scores = [column.cells[name].score if name in column.cells else None for name in names]
                words = [shorten(column.label, LETTERS), mode if len(modes) > 1 else "", variant]
                style = modes.index(mode) + len(modes) * (number + len(shown) * turn)
                ringed = names.index(selected[column]) if selected.get(column) in names else None
                if any(scores):
                    drawn.append(ChartLine(", ".join(filter(None, words)), scores, color, style, ringed))
        return drawn

    def figure(title: str, svg: str, count: int) -> dict[str, Any]:
        return {"title": title, "svg": svg, "left_out": max(0, count - MOST)}

    if len(shots) == len(variants):
        counts = sorted(shots)
        panels = [(stage, lines([f"{stage}, {shots[count]}" for count in counts])) for stage in stages]
        chart = shots_chart(anchor, measure, counts, [(stage, drawn[:MOST]) for stage, drawn in panels])
        return [figure("Every stage", chart, len(panels[0][1]))]
    if tuned or len(stages) == 1:  # where several rules count and several parts were trained, a chart of each rule
        charts = [(rule, [(stage, rule) for stage in stages]) for rule in variants]
        if len(stages) == 1:
            charts = [("", [(stages[0], variant) for variant in variants])]
        figures = []
        for number, (title, places) in enumerate(charts):
            names = {stage: words_of(stage) if tuned else stage for stage in stages}
            labels = [variant if len(stages) == 1 and variant else names[stage] for stage, variant in places]
            drawn = lines([_name(*place) for place in places])
            chart = dots_chart(f"{anchor}-{number}", measure, labels, drawn[:MOST])
            figures.append(figure(title, chart, len(drawn)))
        return figures
    shown = [rule for rule in _NEIGHBORS if rule in variants] or list(dict.fromkeys([variants[0], variants[-1]]))
    drawn = lines(stages, shown)
    figures = [figure("Every stage", stages_chart(anchor, measure, stages, drawn[:MOST]), len(drawn))]
    if table := published(first):
        drawn = lines(table.stages, shown)[:MOST]
        chart = stages_chart(f"{anchor}-published", measure, table.stages, drawn, table.rows)
        figures.append(figure(f"Beside published rows, {table.data}", chart, 0))
    return figures


def _name(stage: str, variant: str) -> str:
    return f"{stage}, {variant}" if variant else stage


def _flatten(settings: Mapping[str, Any], group: str = "") -> dict[str, str]:
    """Return settings by name, as text; a setting in a group is called "group.name"."""
    texts: dict[str, str] = {}
    for name, value in settings.items():
        inner = isinstance(value, dict) and value
        texts |= _flatten(value, f"{group}{name}.") if inner else {f"{group}{name}": to_text(value)}
    return texts
