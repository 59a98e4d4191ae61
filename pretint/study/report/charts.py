"""The charts of a study, as inline SVG; see ``transfer.report.charts``."""

from collections.abc import Mapping
from typing import NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pretint.study.report.collect import EvaluationTable, StudyResults
from pretint.study.report.table import board_line, published_of
from transfer.bootstrap import METRIC_TITLES
from transfer.columns import row_names
from transfer.report.charts import STYLE, as_svg, new_axes
from transfer.report.published import STAGES
from transfer.report.result_charts import (
    COLORS,
    STYLES,
    ChartLine,
    color_of,
    dots_chart,
    draw_legend,
    legend_lines,
    limits,
    shorten,
    stages_chart,
)

MOST = 12
"""The most lines in a chart."""
_LETTERS = 26


class LineStyle(NamedTuple):
    """The look of a variant in all charts."""

    color: str
    style: int


class Chart(NamedTuple):
    """A figure of the page."""

    svg: Markup
    left_out: int
    """Number of variants left out, because a chart of too many lines is not readable."""


def looks(results: StudyResults) -> dict[str, LineStyle]:
    """Return the look of every variant: the kind of its network gives the hue."""
    count: dict[str, int] = {}
    by_variant = {}
    for variant in results.variants:
        lines = [board_line(board, variant) for board in results.boards]
        columns = [line.column for line in lines if line and line.column]
        kind = columns[0].first.network.kind if columns else "pretrained"
        rank = count.get(kind, 0)
        count[kind] = rank + 1
        by_variant[variant] = LineStyle(color_of(kind, rank), rank // len(COLORS.get(kind, COLORS["published"])))
    return by_variant


def stages(results: StudyResults, board: EvaluationTable, drawn: Mapping[str, LineStyle], anchor: str) -> Chart | None:
    """Draw the accuracy of every stage, a line for each variant; dots where there is only one stage."""
    columns = {v: line.column for v in results.variants if (line := board_line(board, v)) and line.column}
    if not columns or not board.first:
        return None
    rows = {name: column.first.row(name) for column in columns.values() for name in column.names}
    places = list(dict.fromkeys(rows[name].stage for name in row_names(list(columns.values()))))
    lines = []
    for variant, column in columns.items():
        line = board_line(board, variant)
        assert line is not None
        shown = column.first.row(line.row)
        # The row of every stage that is comparable with the one that is shown.
        by_stage = {row.stage: row.name for row in column.first.rows if row.variant == shown.variant}
        scores = [column.cells[by_stage[place]].score if place in by_stage else None for place in places]
        ringed = places.index(shown.stage) if len(places) > 1 else None
        lines.append(ChartLine(shorten(variant, _LETTERS), scores, *drawn[variant], ringed))
    measure = METRIC_TITLES[board.first.metric]
    shown_lines, left_out = lines[:MOST], max(0, len(lines) - MOST)
    if len(places) == 1:
        return Chart(Markup(dots_chart(anchor, measure, places, shown_lines)), left_out)
    table = published_of(board)
    behind = table.rows if table and tuple(places) == STAGES else ()
    return Chart(Markup(stages_chart(anchor, measure, places, shown_lines, behind)), left_out)


def cost(results: StudyResults, board: EvaluationTable, drawn: Mapping[str, LineStyle], anchor: str) -> Chart | None:
    """Draw the selected row against minutes of pretraining; random weights have 0 minutes."""
    points: list[tuple[float, ChartLine]] = []
    for variant in results.variants:
        line = board_line(board, variant)
        if not line or not line.column or not line.number:
            continue
        if variant in results.costs:
            took = results.costs[variant].seconds / 60
        elif line.column.first.network.kind == "random":
            took = 0.0
        else:
            continue
        points.append((took, ChartLine(shorten(variant, _LETTERS), [line.number.score], *drawn[variant])))
    if not board.first or not any(took for took, _ in points):
        return None
    measure = METRIC_TITLES[board.first.metric]
    points, left_out = points[:MOST], max(0, len(points) - MOST)
    lines = [point for _, point in points]
    with matplotlib.rc_context(STYLE):
        of_legend = legend_lines(lines)
        figure, axes = new_axes(240 + 17 * of_legend)
        for took, point in points:
            (score,) = point.scores
            assert score is not None
            face = point.color if point.style == 0 else "white"
            axes.vlines(took, 100 * score.low, 100 * score.high, color=point.color, lw=1.6)
            marker = STYLES[point.style % len(STYLES)][1]
            axes.plot(took, 100 * score.value, marker, ms=6, mfc=face, color=point.color, zorder=3)
        most = max(took for took, _ in points)
        axes.set_xlim(-0.04 * most, 1.06 * most)
        axes.set_ylim(*limits(lines))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.7g}"))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("minutes of pretraining, a seed")
        axes.set_ylabel(f"{measure}, %")
        draw_legend(axes, lines, of_legend, joined=False)
        return Chart(Markup(as_svg(figure, anchor, f"{measure} against minutes of pretraining")), left_out)
