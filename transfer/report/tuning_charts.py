"""The report's charts of fine-tuning: networks beside each other in, inline SVG out; see ``transfer.report.charts``."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from transfer.bootstrap import Estimate
from transfer.report.charts import GRID, STYLE, as_svg, finite, new_axes, step_axis, thinned
from transfer.report.result_charts import (
    LETTERS,
    MATH,
    STYLES,
    Line,
    draw_legend,
    legend_columns,
    legend_lines,
    limits,
    shortened,
)

_ROW, _DOT = 12, 14  # pixels that a row takes, and each of its dots
_LEAST = 1.0  # percentage points that an axis spans: less would make much of nothing


class Course(NamedTuple):
    """What one training's measure was, step by step."""

    label: str
    steps: ArrayLike
    values: ArrayLike
    """One per step; what is not finite is left out."""
    color: str
    style: int = 0
    """Which of the ways to draw."""


def dots_chart(name: str, measure: str, rows: Sequence[str], lines: Sequence[Line]) -> str:
    """Score of every row, a dot for each network, with a bar for its interval.

    Args:
        name: tells this chart from the others of a page.
        measure: what a score is, without its unit.
        rows: names, from the top.
        lines: at least one, of a network; its scores are one per row.
    """
    share = 1 / (len(lines) + 1)
    with matplotlib.rc_context(STYLE):
        of_legend = legend_lines(lines)
        figure, axes = new_axes(55 + 17 * of_legend + (_ROW + _DOT * len(lines)) * len(rows))
        for at, line in enumerate(lines):
            nothing = Estimate(math.nan, math.nan, math.nan)
            value, low, high = 100 * np.array([score or nothing for score in line.scores], dtype=float).T
            places = np.arange(len(rows)) - 0.5 + share * (at + 1)
            face = line.color if line.style == 0 else "white"
            axes.hlines(places, low, high, color=line.color, lw=1.6)
            marker = STYLES[line.style % len(STYLES)][1]
            axes.plot(value, places, marker, ms=6, mfc=face, color=line.color, zorder=3)
        for edge in range(1, len(rows)):
            axes.axhline(edge - 0.5, color=GRID, lw=0.8)
        axes.set_yticks(range(len(rows)), labels=[shortened(row, LETTERS) for row in rows], **MATH)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        low, high = limits(lines)
        axes.set_xlim(low, max(high, low + _LEAST))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{measure}, %")
        draw_legend(axes, lines, of_legend, joined=False)
        return as_svg(figure, name, f"{measure} of every network, with 95 % intervals")


def courses_chart(name: str, title: str, courses: Sequence[Course], *, dots: bool, percent: bool = False) -> str:
    """A measure of several trainings over their steps.

    Args:
        name: tells this chart from the others of a page.
        title: what is shown, for those who cannot see it.
        courses: at least one of them with a finite value.
        dots: whether every value is marked.
        percent: whether the values are scores, whose axis begins at 0.
    """
    with matplotlib.rc_context(STYLE):
        lines = [Line(course.label, [], course.color, course.style) for course in courses]
        across = legend_columns(lines)
        of_legend = -(-len(courses) // across)
        figure, axes = new_axes(180 + 17 * of_legend)
        handles = []
        for course in courses:
            dashes, marker = STYLES[course.style % len(STYLES)]
            x, y = thinned(*finite(course.steps, course.values))
            face = course.color if course.style == 0 else "white"
            look = {"ls": dashes, "marker": marker if dots else "", "ms": 4.5, "mfc": face, "lw": 1.5}
            axes.plot(x, 100 * y if percent else y, color=course.color, clip_on=not dots, **look)  # type: ignore[arg-type]
            handles.append(Line2D([], [], color=course.color, **look))  # type: ignore[arg-type]
        if percent:
            axes.set_ylim(0, max(_LEAST, axes.get_ylim()[1]))
            axes.set_ylabel("%")
        if dots:
            axes.set_xlim(0, max(1.0, axes.get_xlim()[1]))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        step_axis(axes)
        legend = axes.legend(
            handles, [course.label for course in courses], loc="lower left", bbox_to_anchor=(0, 1), ncols=across,
            borderaxespad=0.2, handlelength=2.2, columnspacing=1.2,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
        return as_svg(figure, name, title)
