"""The charts of all reports: numbers in, inline SVG out.

Every chart is drawn for a width of 440 CSS pixels, so that it is readable on a phone; a wider page puts two charts side
by side. The same numbers give the same bytes.
"""

import html
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from pretext.color import lab_to_rgb
from pretext.gamut import STEP, bin_centers
from transfer.bootstrap import Estimate
from transfer.report.published import Published

INK, MUTED, GRID = "#1f2328", "#59636e", "#e6e8eb"
RANDOM, PRETRAINED = "#7d858e", "#0072b2"  # blue and gray differ for every kind of color vision
LIGHT = "#a9cfe6"  # a light PRETRAINED, for the background
COLORS: dict[str, tuple[str, ...]] = {
    "random": (RANDOM, "#4d545b", "#aab1b8"),
    "pretrained": (PRETRAINED, "#56b4e9", "#7b5ea7", "#00507a"),
    "supervised": ("#d55e00", "#e69f00", "#8c3d00"),
    "published": ("#00795a", "#66a61e", "#00402f"),
}
"""Shades by kind of network: shades of one kind may look alike, kinds may not, for any color vision."""
STYLES: tuple[tuple[str, str], ...] = (("-", "o"), ("--", "s"), (":", "D"), ("-.", "^"))
"""Dashes and markers, in order of use."""
LETTERS = 24
"""Letters of a stage's name, at most."""

_WIDTH, _HEIGHT = 440, 250
_LEGEND_LINE = 17  # pixels
_MARKED = 60  # a curve of more points is drawn without markers
_DRAWN = 600  # columns of a chart; a curve of more points is drawn as the range of each column
_SHOWN_LIGHTNESS = 65.0  # L at which a bin's color is shown: here most bins are inside of sRGB
_BEHIND = "#9aa1a9"  # of published rows
_PUBLISHED_ROOM = 2.2  # stages' widths, right of the last stage, for the names of published rows
_LEAST = 1.0  # percentage points that an axis spans at least, so that tiny differences do not look large
_TICKS = [1, 2, 2.5, 5, 10]
_NOTHING = Estimate(math.nan, math.nan, math.nan)
_STYLE = FilePath(__file__).with_name("charts.mplstyle")

FloatArray = NDArray[np.float64]


class Curve(NamedTuple):
    """A measure over the steps of a training."""

    label: str
    """Its name in the legend; empty leaves it out."""
    steps: ArrayLike
    """Ascending."""
    values: ArrayLike
    """One for each step; what is not finite is left out."""
    color: str = PRETRAINED
    style: int = 0
    """Index of the dashes and markers; markers of the first style are filled."""
    width: float = 1.6
    """Of the line; 0 draws markers alone."""
    marked: bool = False
    """Whether the values have markers, if they are few."""


class ChartLine(NamedTuple):
    """The scores of a network."""

    label: str
    scores: Sequence[Estimate | None]
    """One for each place on the axis, in [0, 1]; None leaves a gap."""
    color: str
    style: int = 0
    """Index of the dashes and markers; lines of one style have a property in common."""
    ringed: int | None = None
    """The place of the selected score."""


def looks_of(kinds: Iterable[str]) -> list[tuple[str, int]]:
    """Return color and style of networks, by their kinds: the shades of a kind, then these again in another style."""
    counts: Counter[str] = Counter()
    looks = []
    for kind in kinds:
        shades = COLORS.get(kind, COLORS["published"])
        looks.append((shades[counts[shades[0]] % len(shades)], counts[shades[0]] // len(shades)))
        counts[shades[0]] += 1
    return looks


def shorten(name: str, letters: int) -> str:
    """Return a name cut in its middle: the beginning identifies the run, the end its seed and step."""
    return name if len(name) <= letters else f"{name[: letters // 2 - 2]}...{name[1 - letters // 2 :]}"


def steps_chart(
    name: str,
    title: str,
    curves: Sequence[Curve],
    *,
    low: float | None = 0.0,
    high: float | None = None,
    unit: str = "",
    height: int = _HEIGHT,
    reference: tuple[float, str] | None = None,
) -> Markup:
    """Draw measures of trainings over their steps.

    Args:
        name: a name that is unique on the page.
        title: a description for readers who cannot see the chart.
        curves: at least one of them with a finite value.
        low: where the vertical axis begins; None lets the values decide.
        high: where it ends.
        unit: the name of the vertical axis; "%" spans at least one point.
        height: pixels of a chart with one line of legend.
        reference: a value to compare with, and its label.
    """
    named = [curve for curve in curves if curve.label]
    labels = [*(curve.label for curve in named), *([reference[1]] if reference else [])]
    handles: list[Any] = []
    with matplotlib.rc_context(fname=_STYLE):
        figure, axes = _new_axes(height + _LEGEND_LINE * (_legend_shape(labels)[0] - 1))
        for curve in curves:
            dashes, marker = STYLES[curve.style % len(STYLES)]
            x, y = finite(curve.steps, curve.values)
            look: dict[str, Any] = {
                "color": curve.color, "lw": curve.width, "ls": dashes if curve.width else "", "ms": 4,
                "marker": marker if curve.marked and len(x) <= _MARKED else "",
                "mfc": curve.color if curve.style == 0 else "white",
            }  # fmt: skip
            axes.plot(*thinned(x, y), clip_on=not curve.marked or not curve.width, **look)  # a dot at 0 is whole
            if curve.label:
                handles.append(Line2D([], [], **look))
        if reference:
            handles.append(axes.axhline(reference[0], color=INK, lw=1, ls=(0, (2, 2))))
        least = _LEAST if unit == "%" else 0.0
        axes.set_ylim(low, max(least, high or axes.get_ylim()[1]) if low is not None else high)
        axes.set_xlim(0, max(1.0, axes.get_xlim()[1]))  # a run that has only begun has an axis, too
        axes.yaxis.set_major_locator(MaxNLocator(max(4, height // 45), steps=_TICKS))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=_TICKS, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        _draw_legend(axes, handles, labels)
        return _as_svg(figure, name, title)


def loss_chart(steps: ArrayLike, loss: ArrayLike, held_steps: ArrayLike, held_loss: ArrayLike) -> tuple[Markup, int]:
    """Draw the loss of every step, its running median, and the held-out loss.

    Args:
        steps: ascending; at least one has a finite loss.
        loss: one per step; what is not finite is left out.
        held_steps: steps at which held-out images were looked at.
        held_loss: their loss.

    Returns:
        The chart, and how many steps lie outside of its frame.
    """
    x, y = finite(steps, loss)
    held_x, held_y = finite(held_steps, held_loss)
    middle_x, middle_y = running_median(x, y)
    spread = 8 * float(np.median(np.abs(y - np.interp(x, middle_x, middle_y))))
    inside = (y >= middle_y.min() - spread) & (y <= middle_y.max() + spread)
    framed = np.concatenate([y[inside], middle_y, held_y])
    margin = 0.04 * float(np.ptp(framed)) or 0.01
    curves = [Curve("every step", x, y, LIGHT, width=0.8), Curve("running median", middle_x, middle_y)]
    if len(held_x):
        curves.append(Curve("held out", held_x, held_y, INK, width=0, marked=True))
    low, high = framed.min() - margin, framed.max() + margin
    return steps_chart("loss", "Training loss over steps", curves, low=low, high=high), int((~inside).sum())


def recall_map(recall: ArrayLike, step: int = STEP) -> Markup:
    """Draw the recall of every color bin, at its place in the ab plane and in its own color.

    Args:
        recall: (Q,), in [0, 1]; nan where a bin does not occur.
        step: Lab units between the bins.
    """
    values, centers = np.asarray(recall, dtype=float), bin_centers(step).astype(float)
    lab = np.column_stack((np.full(len(centers), _SHOWN_LIGHTNESS), centers))
    colors = lab_to_rgb(torch.from_numpy(lab.T[:, :, None])).squeeze(-1).T.numpy()
    occurs = np.isfinite(values)
    full, dot = 0.92 * step, min(1.4, 0.14 * step)
    (left, low), (right, top) = centers.min(0) - step / 2, centers.max(0) + step / 2
    low -= 2  # for the key, in a corner that no color reaches
    with matplotlib.rc_context(fname=_STYLE):
        figure, axes = _new_axes(_WIDTH + 20)

        def squares(places: FloatArray, side: float, color: Any) -> None:
            corners = side / 2 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])
            codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
            path = Path((places[:, None] + corners).reshape(-1, 2), codes * len(places))
            axes.add_patch(PathPatch(path, fc=color, lw=0))

        squares(centers[~occurs], dot, RANDOM)
        for center, value, color in zip(centers[occurs], values[occurs], colors[occurs], strict=True):
            squares(center[None], full, 1 - 0.2 * (1 - color))
            squares(center[None], full * math.sqrt(value), color)
        key = np.array([[left + 10, low + 31], [left + 10, low + 19], [left + 10, low + 7]])
        squares(key[:2], 9.2, "#eceef0")
        squares(key[:1], 9.2, MUTED)
        squares(key[1:2], 9.2 * math.sqrt(0.1), MUTED)
        squares(key[2:], 1.4, RANDOM)
        for (x, y), label in zip(key, ("recall 100 %", "recall 10 %", "does not occur"), strict=True):
            axes.text(x + 8, y, label, va="center", color=INK, size=10)
        axes.set(xlim=(left, right), ylim=(low, top), aspect="equal")
        axes.set_xlabel("a: green to red")
        axes.set_ylabel("b: blue to yellow")
        axes.grid(visible=False)
        return _as_svg(figure, "recall", "Recall of every color bin over the ab plane")


def stages_chart(
    name: str, measure: str, stages: Sequence[str], lines: Sequence[ChartLine], rows: Sequence[Published] = ()
) -> Markup:
    """Draw the score of every stage, a line for each network, with a band for the interval.

    Args:
        name: a name that is unique on the page.
        measure: the name of the score, without its unit.
        stages: names, from the input on.
        lines: at least one.
        rows: published numbers, one for each of the stages, or one for the best of them; drawn thin, and named.
    """
    count, last = len(stages), len(stages) - 1
    stages = [shorten(stage, LETTERS) for stage in stages]
    slanted = sum(map(len, stages)) * 7 + 12 * count > (250 if rows else 380)
    turned: dict[str, Any] = {"rotation": 50 if count <= 12 else 90, "rotation_mode": "anchor", "ha": "right"}
    of_legend = _LEGEND_LINE * _legend_shape([line.label for line in lines])[0]
    height = (330 if rows else 250) + of_legend + (5 * max(map(len, stages)) if slanted else 0)
    with matplotlib.rc_context(fname=_STYLE):
        figure, axes = _new_axes(height)
        for line in lines:
            _draw_line(axes, np.arange(count), line)
        every = -(-count // 30)
        axes.set_xticks(
            range(0, count, every), labels=stages[::every], size=None if count <= 12 else 9,
            va="center" if slanted and count > 12 else "top", **(turned if slanted else {}),
        )  # fmt: skip
        low, high = _frame(axes, measure, lines, rows)
        axes.set_xlim(-0.35, last + 0.35 + (_PUBLISHED_ROOM if rows else 0))
        # Published names stand beside the last numbers, far enough apart to be readable.
        ordered = sorted(rows, key=lambda row: row.scores[-1])
        ends = 100 * np.array([row.scores[-1] for row in ordered])
        offsets = np.arange(len(ends)) * 12.5 * (high - low) / (height - 60 - of_legend)
        heights = isotonic_regression(ends - offsets).x + offsets if rows else ends
        for row, end, at in zip(ordered, ends, heights, strict=True):
            whole = len(row.scores) > 1
            places = np.arange(count) if whole else [0, last]
            axes.plot(places, 100 * np.array(row.scores) if whole else [end, end], "-" if whole else "--",
                      color=_BEHIND, lw=0.8, zorder=1)  # fmt: skip
            axes.plot([last, last + 0.28], [end, at], color=_BEHIND, lw=0.6)
            axes.text(last + 0.32, at, row.name, va="center", size=9.5, color=MUTED)
        _draw_legend(axes, *_handles(lines))
        return _as_svg(figure, name, f"{measure} of every stage, with 95 % intervals")


def shots_chart(
    name: str, measure: str, shots: Sequence[int], panels: Sequence[tuple[str, Sequence[ChartLine]]]
) -> Markup:
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
    legend = _handles(list({(line.label, line.color, line.style): line for line in lines}.values()))
    ticks: list[int] = []  # from the greatest down, where there is room
    for count in reversed(shots):
        if not ticks or count * (shots[-1] / shots[0]) ** 0.28 <= ticks[-1]:
            ticks.append(count)
    with matplotlib.rc_context({"font.size": 10.0}, _STYLE):
        figure, _ = _new_axes(60 + 18 * _legend_shape(legend[1])[0] + (190 if across == 1 else 130) * down)
        figure.clear()
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        for at, (axes, (stage, inner)) in enumerate(zip(grid.flat, panels, strict=False)):
            for line in inner:
                _draw_line(axes, np.asarray(shots, dtype=float), line, size=3)
            axes.set_title(shorten(stage, LETTERS), size=10, color=INK, pad=3)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(FixedLocator(list(map(float, ticks))))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.tick_params(labelbottom=at + across >= len(panels))
            axes.grid(visible=False, axis="x")
        _frame(grid[0, 0], "", lines)
        figure.supylabel(f"{measure}, %", size=10, color=MUTED)
        figure.supxlabel("positive images a class", size=10, color=MUTED)
        _draw_legend(figure, *legend, loc="outside upper left")
        return _as_svg(figure, name, f"{measure} of every stage against the number of images that teach a class")


def dots_chart(name: str, measure: str, rows: Sequence[str], lines: Sequence[ChartLine]) -> Markup:
    """Draw the score of every row, a dot for each network, with a bar for its interval.

    Args:
        name: a name that is unique on the page.
        measure: the name of the score, without its unit.
        rows: names, from the top.
        lines: at least one, of a network; its scores are one per row.
    """
    handles, labels = _handles(lines, joined=False)
    with matplotlib.rc_context(fname=_STYLE):
        figure, axes = _new_axes(55 + _LEGEND_LINE * _legend_shape(labels)[0] + (12 + 14 * len(lines)) * len(rows))
        for at, line in enumerate(lines):
            value, low, high = _percent(line)
            places = np.arange(len(rows)) - 0.5 + (at + 1) / (len(lines) + 1)
            axes.hlines(places, low, high, color=line.color, lw=1.6)
            axes.plot(value, places, zorder=3, **_look(line, joined=False))
        for edge in range(1, len(rows)):
            axes.axhline(edge - 0.5, color=GRID, lw=0.8)
        axes.set_yticks(range(len(rows)), labels=[shorten(row, LETTERS) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        low, high = _limits(lines)
        axes.set_xlim(low, max(high, low + _LEAST))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=_TICKS))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{measure}, %")
        _draw_legend(axes, handles, labels)
        return _as_svg(figure, name, f"{measure} of every network, with 95 % intervals")


def cost_chart(name: str, measure: str, minutes: Sequence[float], lines: Sequence[ChartLine]) -> Markup:
    """Draw the selected score of every network against its minutes of pretraining, with a bar for the interval.

    Args:
        name: a name that is unique on the page.
        measure: the name of the score, without its unit.
        minutes: one per line, not all 0.
        lines: at least one, with one score each.
    """
    handles, labels = _handles(lines, joined=False)
    with matplotlib.rc_context(fname=_STYLE):
        figure, axes = _new_axes(_HEIGHT + _LEGEND_LINE * (_legend_shape(labels)[0] - 1))
        for took, line in zip(minutes, lines, strict=True):
            value, low, high = _percent(line)
            axes.vlines(took, low, high, color=line.color, lw=1.6)
            axes.plot(took, value, zorder=3, **_look(line, joined=False))
        axes.set_xlim(-0.04 * max(minutes), 1.06 * max(minutes))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=_TICKS))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.set_xlabel("minutes of pretraining, a seed")
        _frame(axes, measure, lines)
        _draw_legend(axes, handles, labels)
        return _as_svg(figure, name, f"{measure} against minutes of pretraining")


def running_median(x: ArrayLike, y: ArrayLike, points: int = 400) -> tuple[FloatArray, FloatArray]:
    """Return the median of y in a window of a fortieth of all of them (21 at least), at up to ``points`` places."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if not len(y):
        return x, y
    half = max(10, len(y) // 80)
    centers = np.unique(np.linspace(0, len(y) - 1, points).round().astype(int))
    middle = [np.median(y[max(0, center - half) : center + half + 1]) for center in centers]
    return x[centers], np.array(middle)


def finite(x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return the points that have a finite height."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    keep = np.isfinite(y)
    return x[keep], y[keep]


def thinned(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the visible part of a long curve: the lowest and the highest point of every column of the chart."""
    if len(x) <= 2 * _DRAWN:
        return x, y
    edges = np.linspace(0, len(x), _DRAWN + 1).astype(int)
    places = {0, len(x) - 1}
    for start, end in pairwise(edges):
        places |= {start + int(y[start:end].argmin()), start + int(y[start:end].argmax())}
    at = sorted(places)
    return x[at], y[at]


def _new_axes(height: int) -> tuple[Figure, Axes]:
    """Return an empty chart of that many CSS pixels; draw with ``_STYLE``."""
    figure = Figure(figsize=(_WIDTH / 72, height / 72))
    return figure, figure.add_subplot()


def _look(line: ChartLine, joined: bool = True) -> dict[str, Any]:
    """Return the look of a network's markers, and of the line through them."""
    dashes, marker = STYLES[line.style % len(STYLES)]
    face = line.color if line.style == 0 else "white"
    return {"color": line.color, "ls": dashes if joined else "", "lw": 1.6, "marker": marker, "ms": 5, "mfc": face}


def _percent(line: ChartLine) -> FloatArray:
    """Return values, lower and upper ends: (3, places), in percent; nan for a gap."""
    return 100 * np.array([score or _NOTHING for score in line.scores], dtype=float).T


def _draw_line(axes: Axes, places: NDArray[Any], line: ChartLine, size: float = 5) -> None:
    """Draw line, markers and band; bars where a band would be invisible."""
    value, low, high = _percent(line)
    axes.fill_between(places, low, high, color=line.color, alpha=0.16, lw=0)
    if len(places) == 1:
        axes.vlines(places, low, high, color=line.color, lw=1.6)
    axes.plot(places, value, zorder=3, **(_look(line) | {"ms": size}))
    if line.ringed is not None:
        axes.plot(places[line.ringed], value[line.ringed], "o", ms=11, mfc="none", mec=line.color, mew=1.2, zorder=3)


def _limits(lines: Sequence[ChartLine], rows: Sequence[Published] = ()) -> tuple[float, float]:
    """Return the limits, in percent, of an axis that holds all intervals, published scores, and a little more."""
    edges = [edge for line in lines for score in line.scores if score for edge in score]
    edges += [score for row in rows for score in row.scores]
    low, high = 100 * min(edges), 100 * max(edges)
    margin = 0.05 * (high - low) or 1
    return max(low - margin, -margin), high + margin


def _frame(axes: Axes, measure: str, lines: Sequence[ChartLine], rows: Sequence[Published] = ()) -> tuple[float, float]:
    """Set and return the vertical axis of scores."""
    low, high = _limits(lines, rows)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=_TICKS))
    axes.grid(visible=False, axis="x")
    axes.set_ylabel(f"{measure}, %" if measure else "")
    return low, high


def _handles(lines: Sequence[ChartLine], joined: bool = True) -> tuple[list[Line2D], list[str]]:
    """Return what a legend shows of networks, and their names."""
    return [Line2D([], [], **_look(line, joined)) for line in lines], [line.label for line in lines]


def _legend_shape(labels: Sequence[str]) -> tuple[int, int]:
    """Return how many lines of text a legend takes, and its columns, as many as fit."""
    for across in range(min(len(labels), 6), 1, -1):
        down = -(-len(labels) // across)
        columns = [max(map(len, labels[at : at + down])) for at in range(0, len(labels), down)]
        if sum(38 + 7 * letters for letters in columns) <= _WIDTH - 45:
            return down, len(columns)
    return max(1, len(labels)), 1


def _draw_legend(target: Axes | Figure, handles: Sequence[Any], labels: Sequence[str], **place: Any) -> None:
    """Draw a legend, above the chart if no other place is named."""
    if labels:
        place = place or {"loc": "lower left", "bbox_to_anchor": (0, 1)}
        target.legend(handles, labels, ncols=_legend_shape(labels)[1], **place)


def _as_svg(figure: Figure, name: str, label: str) -> Markup:
    """Return an <svg> element that scales with the page and shares no identifiers with others."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}, _STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>|<defs>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    start = text.index("<svg")
    box = re.search(r'viewBox="([-0-9. ]+)"', text)
    assert box is not None
    opening = f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(label)}">'
    return Markup(opening + text[text.index(">", start) + 1 :].strip())
