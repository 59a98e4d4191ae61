"""Charts of results in the report: numbers with intervals in, inline SVG out; see ``transfer.report.charts``."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from transfer.bootstrap import Estimate
from transfer.report.charts import (
    GRID,
    INK,
    MUTED,
    PRETRAINED,
    RANDOM,
    STYLE,
    WIDTH,
    as_svg,
    finite,
    new_axes,
    step_axis,
    thinned,
)
from transfer.report.published import Published

COLORS: dict[str, tuple[str, ...]] = {
    "random": (RANDOM, "#4d545b", "#aab1b8"),
    "pretrained": (PRETRAINED, "#56b4e9", "#7b5ea7", "#00507a"),
    "supervised": ("#d55e00", "#e69f00", "#8c3d00"),
    "published": ("#00795a", "#66a61e", "#00402f"),
}
"""Shades by kind of network: shades of one kind may look alike, kinds may not, for any color vision."""

STYLES: tuple[tuple[str, str], ...] = (("-", "o"), ("--", "s"), (":", "D"), ("-.", "^"))
"""Dashes and markers, in order of use."""
_BEHIND = "#9aa1a9"  # of published rows
_BAND = 0.16  # opacity
MATH: dict[str, Any] = {"parse_math": False}
"""Settings for texts from outside: a name with dollar signs is no formula."""
LETTERS = 24
"""Letters of a stage's name, at most."""
_ROOM = 2.2  # stages' widths, right of the last stage, for the names of published rows


class ChartLine(NamedTuple):
    """A line of a chart."""

    label: str
    scores: Sequence[Estimate | None]
    """One for each place on the axis, in [0, 1]; None leaves a gap."""
    color: str
    style: int = 0
    """Index of the dashes and markers; lines of one style have a property in common."""
    ringed: int | None = None
    """The place of the score that was chosen."""


def color_of(kind: str, rank: int = 0) -> str:
    """Return the color of a network, by its kind and its rank within the kind."""
    shades = COLORS.get(kind, COLORS["published"])
    return shades[rank % len(shades)]


def shorten(name: str, letters: int) -> str:
    """Return a name cut in its middle: the beginning identifies the run, the end its seed and step."""
    return name if len(name) <= letters else f"{name[: letters // 2 - 2]}...{name[1 - letters // 2 :]}"


def stages_chart(
    name: str, measure: str, stages: Sequence[str], lines: Sequence[ChartLine], rows: Sequence[Published] = ()
) -> str:
    """Draw the score of every stage, a line for each network, with a band for the interval.

    Args:
        name: a name that is unique on the page.
        measure: the name of the score, without its unit.
        stages: names, from the input on.
        lines: at least one.
        rows: published numbers, one for each of the stages, or one for the best of them; drawn thin, and named.
    """
    places = np.arange(len(stages))
    stages = [shorten(stage, LETTERS) for stage in stages]
    slanted = sum(len(stage) for stage in stages) * 7 + 12 * len(stages) > (250 if rows else 380)
    with matplotlib.rc_context(STYLE):
        of_legend = legend_lines(lines)
        height = (330 if rows else 250) + 17 * of_legend + (5 * max(map(len, stages)) if slanted else 0)
        figure, axes = new_axes(height)
        for row in rows:
            values = 100 * np.array(row.scores)
            if len(values) == 1:
                axes.hlines(values, 0, len(stages) - 1, color=_BEHIND, lw=0.8, ls="--")
            else:
                axes.plot(np.arange(len(stages)), values, color=_BEHIND, lw=0.8)
        for line in lines:
            _draw(axes, places, line)
        every = -(-len(stages) // 30)
        turned: dict[str, Any] = {"rotation": 50 if len(stages) <= 12 else 90, "rotation_mode": "anchor", "ha": "right"}
        axes.set_xticks(
            places[::every], labels=stages[::every], size=None if len(stages) <= 12 else 9,
            **MATH, **(turned if slanted else {}),
        )  # fmt: skip
        for tick in axes.get_xticklabels():
            tick.set_verticalalignment("center" if slanted and len(stages) > 12 else "top")
        _frame(axes, measure, lines, rows)
        axes.set_xlim(-0.35, len(stages) - 0.65 + (_ROOM if rows else 0))
        if rows:
            # Names beside the last numbers, far enough apart to be readable.
            ordered = sorted(rows, key=lambda row: row.scores[-1])
            ends = 100 * np.array([row.scores[-1] for row in ordered])
            low, high = axes.get_ylim()
            offsets = np.arange(len(ends)) * 12.5 * (high - low) / (height - 60 - 17 * of_legend)
            heights = isotonic_regression(ends - offsets).x + offsets
            last = len(stages) - 1
            for row, end, at in zip(ordered, ends, heights, strict=True):
                axes.plot([last, last + 0.28], [end, at], color=_BEHIND, lw=0.6)
                axes.text(last + 0.32, at, row.name, va="center", size=9.5, color=MUTED, **MATH)
        draw_legend(axes, lines, of_legend)
        return as_svg(figure, name, f"{measure} of every stage, with 95 % intervals")


def shots_chart(
    name: str, measure: str, shots: Sequence[int], panels: Sequence[tuple[str, Sequence[ChartLine]]]
) -> str:
    """Draw scores against the number of positive images per class: a small chart for each stage, on one scale.

    Args:
        name: a name that is unique on the page.
        measure: the name of the score, without its unit.
        shots: ascending.
        panels: stages with their lines, whose scores are one per number of shots.
    """
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    lines = [line for _, inner in panels for line in inner]
    met = list({(line.label, line.color, line.style): line for line in lines}.values())
    labels: list[int] = []  # from the greatest down, where there is room
    for count in reversed(shots):
        if not labels or count * (shots[-1] / shots[0]) ** 0.28 <= labels[-1]:
            labels.append(count)
    with matplotlib.rc_context({**STYLE, "font.size": 10.0}):
        of_legend = legend_lines(met)
        figure, _ = new_axes(60 + 18 * of_legend + (190 if across == 1 else 130) * down)
        figure.clear()
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for at, axes in enumerate(grid.flat):
            if at >= len(panels):
                axes.set_visible(False)
                continue
            stage, inner = panels[at]
            for line in inner:
                _draw(axes, np.asarray(shots, dtype=float), line, size=3)
            axes.set_title(shorten(stage, LETTERS), size=10, color=INK, pad=3, **MATH)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(FixedLocator(list(map(float, labels))))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.tick_params(labelbottom=at + across >= len(panels))
            axes.grid(visible=False, axis="x")
        _frame(grid[0, 0], "", lines)
        figure.supylabel(f"{measure}, %", size=10, color=MUTED)
        figure.supxlabel("positive images a class", size=10, color=MUTED)
        legend = figure.legend(
            *_handles(met), loc="outside upper left", ncols=legend_columns(met), borderaxespad=0.2,
            handlelength=2.2, columnspacing=1.2,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
        return as_svg(figure, name, f"{measure} of every stage against the number of images that teach a class")


def _draw(axes: Axes, places: "np.typing.NDArray[np.number]", line: ChartLine, size: float = 5) -> None:
    """Draw line, markers and band; bars where a band would be invisible."""
    nothing = Estimate(math.nan, math.nan, math.nan)
    value, low, high = 100 * np.array([score or nothing for score in line.scores], dtype=float).T
    dashes, marker = STYLES[line.style % len(STYLES)]
    axes.fill_between(places, low, high, color=line.color, alpha=_BAND, lw=0)
    if len(places) == 1:
        axes.vlines(places, low, high, color=line.color, lw=1.6)
    face = line.color if line.style == 0 else "white"
    axes.plot(places, value, dashes, marker=marker, ms=size, mfc=face, color=line.color, lw=1.6, zorder=3)
    if line.ringed is not None:
        axes.plot(places[line.ringed], value[line.ringed], "o", ms=11, mfc="none", mec=line.color, mew=1.2, zorder=3)


def _frame(axes: Axes, measure: str, lines: Sequence[ChartLine], rows: Sequence[Published] = ()) -> None:
    """Set axes that hold all intervals, and a little more."""
    axes.set_ylim(*limits(lines, [score for row in rows for score in row.scores]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(visible=False, axis="x")
    if measure:
        axes.set_ylabel(f"{measure}, %")


def limits(lines: Sequence[ChartLine], others: Sequence[float] = ()) -> tuple[float, float]:
    """Return the limits, in percent, of an axis that holds all intervals, some other scores, and a little more."""
    edges = [edge for line in lines for score in line.scores if score for edge in score] + [*others]
    low, high = 100 * min(edges), 100 * max(edges)
    margin = 0.05 * (high - low) or 1
    return max(low - margin, -margin), high + margin


def legend_columns(lines: Sequence[ChartLine]) -> int:
    """Return how many names fit on one line of the legend."""
    return max(1, min(len(lines), 3, WIDTH // (48 + 7 * max(len(line.label) for line in lines))))


def legend_lines(lines: Sequence[ChartLine]) -> int:
    """Return how many lines of text the legend takes."""
    return -(-len(lines) // legend_columns(lines))


def _handles(lines: Sequence[ChartLine], joined: bool = True) -> tuple[list[Line2D], list[str]]:
    handles = []
    for line in lines:
        dashes, marker = STYLES[line.style % len(STYLES)]
        face = line.color if line.style == 0 else "white"
        dashes = dashes if joined else ""
        handles.append(Line2D([], [], color=line.color, ls=dashes, marker=marker, ms=5, mfc=face, lw=1.6))
    return handles, [line.label for line in lines]


def draw_legend(axes: Axes, lines: Sequence[ChartLine], count: int, joined: bool = True) -> None:
    """Draw a legend above the chart, on ``count`` lines of text; for joined points, or for dots alone."""
    legend = axes.legend(
        *_handles(lines, joined), loc="lower left", bbox_to_anchor=(0, 1), ncols=-(-len(lines) // count),
        borderaxespad=0.2, handlelength=2.2, columnspacing=1.2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


_ROW, _DOT = 12, 14  # pixels that a row takes, and each of its dots
_LEAST = 1.0  # percentage points that an axis spans at least, so that tiny differences do not look large


class Course(NamedTuple):
    """A measure of one training, step by step."""

    label: str
    steps: ArrayLike
    values: ArrayLike
    """One for each step; what is not finite is left out."""
    color: str
    style: int = 0
    """Index of the dashes and markers."""


def dots_chart(name: str, measure: str, rows: Sequence[str], lines: Sequence[ChartLine]) -> str:
    """Draw the score of every row, a dot for each network, with a bar for its interval.

    Args:
        name: a name that is unique on the page.
        measure: the name of the score, without its unit.
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
        axes.set_yticks(range(len(rows)), labels=[shorten(row, LETTERS) for row in rows], **MATH)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        low, high = limits(lines)
        axes.set_xlim(low, max(high, low + _LEAST))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{measure}, %")
        draw_legend(axes, lines, of_legend, joined=False)
        return as_svg(figure, name, f"{measure} of every network, with 95 % intervals")


def courses_chart(name: str, title: str, courses: Sequence[Course], *, dots: bool, percent: bool = False) -> str:
    """Draw a measure of several trainings over their steps.

    Args:
        name: a name that is unique on the page.
        title: a description for readers who cannot see the chart.
        courses: at least one of them with a finite value.
        dots: whether every value is marked.
        percent: whether the values are scores, whose axis begins at 0.
    """
    with matplotlib.rc_context(STYLE):
        lines = [ChartLine(course.label, [], course.color, course.style) for course in courses]
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
