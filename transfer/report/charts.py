"""The report's charts: numbers in, inline SVG out.

Every chart is drawn for a width of 440 CSS pixels, so that it is readable on a phone; a wider page puts two charts side
by side. The same numbers give the same bytes.
"""

import html
import io
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from pretext.color import lab_to_rgb
from pretext.gamut import STEP, bin_centers

INK, MUTED, GRID = "#1f2328", "#59636e", "#e6e8eb"
CELL = "#eceef0"
RANDOM, PRETRAINED = "#7d858e", "#0072b2"  # blue and gray differ for every kind of color vision
LIGHT = "#a9cfe6"  # a light PRETRAINED, for the background
ONLINE = "YlOrBr"  # a color map, light to dark, that no result uses: the online probe is not a result

WIDTH, _HEIGHT, _LOW = 440, 250, 170
_SHOWN_LIGHTNESS = 65.0  # L at which a bin's color is shown: here most bins are inside of sRGB
_DOTTED = 60  # a curve of more points is drawn without dots
_DRAWN = 600  # columns of a chart; a curve of more points is drawn as the range of each column
STYLE = {
    "svg.fonttype": "none",  # text stays text: selectable, in the page's font
    "font.family": "DejaVu Sans",  # for measuring only, and wider than what the page uses
    "font.size": 11.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "figure.constrained_layout.use": True,
}

FloatArray = NDArray[np.float64]


class Curve(NamedTuple):
    """A curve of a chart."""

    label: str
    values: ArrayLike
    """One for each step; what is not finite is left out."""
    strong: bool = True
    """Whether it has filled dots and a full line; otherwise open dots and dashes."""


class LossChart(NamedTuple):
    """The chart of the loss, and how many steps lie outside of its frame."""

    svg: str
    outside: int


def loss_chart(steps: ArrayLike, loss: ArrayLike, held_steps: ArrayLike, held_loss: ArrayLike) -> LossChart:
    """Draw the loss of every step, its running median, and the held-out loss.

    Args:
        steps: ascending; at least one has a finite loss.
        loss: one per step; what is not finite is left out.
        held_steps: steps at which held-out images were looked at.
        held_loss: their loss.
    """
    x, y = finite(steps, loss)
    held_x, held_y = finite(held_steps, held_loss)
    middle_x, middle_y = running_median(x, y)
    spread = 8 * float(np.median(np.abs(y - np.interp(x, middle_x, middle_y))))
    inside = (y >= middle_y.min() - spread) & (y <= middle_y.max() + spread)
    framed = np.concatenate([y[inside], middle_y, held_y])
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes()
        axes.plot(*thinned(x, y), color=LIGHT, lw=0.8, label="every step")
        axes.plot(middle_x, middle_y, color=PRETRAINED, lw=1.8, label="running median")
        if len(held_x):
            axes.plot(held_x, held_y, "o", color=INK, ms=4, mec="white", mew=0.6, label="held out", zorder=4)
        margin = 0.04 * float(np.ptp(framed)) or 0.01
        axes.set_ylim(framed.min() - margin, framed.max() + margin)
        step_axis(axes)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, handlelength=1.6)
        return LossChart(as_svg(figure, "loss", "Training loss over steps"), int((~inside).sum()))


def rate_chart(steps: ArrayLike, rate: ArrayLike) -> str:
    """Draw the learning rate of every step."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes()
        axes.plot(*thinned(*finite(steps, rate)), color=PRETRAINED, lw=1.6)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        step_axis(axes)
        return as_svg(figure, "rate", "Learning rate over steps")


def health_chart(name: str, steps: ArrayLike, curves: Sequence[Curve], line: tuple[float, str] | None = None) -> str:
    """Draw a measure of color health over steps.

    Args:
        name: what is shown, for those who cannot see it.
        steps: ascending.
        curves: at least one of them with a finite value.
        line: a value to compare with, and its label.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes()
        for curve in curves:
            face, dashes = (PRETRAINED, "-") if curve.strong else ("white", "--")
            axes.plot(
                *(points := finite(steps, curve.values)),
                dashes,
                marker="o" if len(points[0]) <= _DOTTED else None,
                ms=4,
                mfc=face,
                color=PRETRAINED,
                lw=1.4,
                label=curve.label,
                clip_on=False,  # a dot at 0 is whole
            )
        if line is not None:
            value, label = line
            axes.axhline(value, color=INK, lw=1, ls=(0, (2, 2)), label=label)
        _from_zero(axes)
        axes.yaxis.set_major_locator(MaxNLocator(6))
        step_axis(axes)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, handlelength=1.6)
        return as_svg(figure, name, f"{name} over steps")


def recall_map(recall: ArrayLike, step: int = STEP) -> str:
    """Draw the recall of every color bin, at its place in the ab plane and in its own color.

    Args:
        recall: (Q,), in [0, 1]; nan where a bin does not occur.
        step: Lab units between the bins.
    """
    values, centers = np.asarray(recall, dtype=float), bin_centers(step).astype(float)
    lab = np.column_stack((np.full(len(centers), _SHOWN_LIGHTNESS), centers))
    colors = lab_to_rgb(torch.from_numpy(lab.T[:, :, None])).squeeze(-1).T.numpy()
    occurs = np.isfinite(values)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(WIDTH + 20)
        full, dot = 0.92 * step, min(1.4, 0.14 * step)
        axes.add_patch(PathPatch(_squares(centers[~occurs], dot), fc=RANDOM, lw=0))
        for center, value, color in zip(centers[occurs], values[occurs], colors[occurs], strict=True):
            axes.add_patch(PathPatch(_squares(center[None], full), fc=1 - 0.2 * (1 - color), lw=0))
            axes.add_patch(PathPatch(_squares(center[None], full * math.sqrt(value)), fc=color, lw=0))
        (left, low), (right, top) = centers.min(0) - step / 2, centers.max(0) + step / 2
        low -= 2  # for the key, in a corner that no color reaches
        key = np.array([[left + 10, low + 31], [left + 10, low + 19], [left + 10, low + 7]])
        axes.add_patch(PathPatch(_squares(key[:2], 9.2), fc=CELL, lw=0))
        axes.add_patch(PathPatch(_squares(key[:1], 9.2), fc=MUTED, lw=0))
        axes.add_patch(PathPatch(_squares(key[1:2], 9.2 * math.sqrt(0.1)), fc=MUTED, lw=0))
        axes.add_patch(PathPatch(_squares(key[2:], 1.4), fc=RANDOM, lw=0))
        for (x, y), label in zip(key, ("recall 100 %", "recall 10 %", "does not occur"), strict=True):
            axes.text(x + 8, y, label, va="center", color=INK, size=10)
        axes.set(xlim=(left, right), ylim=(low, top), aspect="equal")
        axes.set_xlabel("a: green to red")
        axes.set_ylabel("b: blue to yellow")
        axes.grid(visible=False)
        return as_svg(figure, "recall", "Recall of every color bin over the ab plane")


def online_chart(steps: ArrayLike, stages: Sequence[Curve], chance: float = math.nan) -> str:
    """Draw the online probe's accuracy of every stage over steps.

    Args:
        steps: ascending.
        stages: accuracies in [0, 1], from the input on.
        chance: the accuracy of a classifier that sees nothing; nan draws none.
    """
    fit = max(1, min(6, 400 // (36 + 7 * max(len(stage.label) for stage in stages))))
    lines = -(-len(stages) // fit)  # of the legend
    shades = matplotlib.colormaps[ONLINE](np.linspace(0.45, 0.95, len(stages)))
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(_HEIGHT + 18 * (lines - 1))
        for stage, shade in zip(stages, shades, strict=True):
            x, y = finite(steps, stage.values)
            line, marker = (":", "D") if len(x) <= _DOTTED else ("-", None)
            axes.plot(
                *thinned(x, 100 * y), line, marker=marker, ms=3.5, mfc="white", color=shade, lw=1.4, clip_on=False
            )
        legend = axes.legend(
            axes.lines, [stage.label for stage in stages], loc="lower left", bbox_to_anchor=(0, 1),
            ncols=-(-len(stages) // lines), borderaxespad=0.2, handlelength=1.8, columnspacing=1.2,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
        if math.isfinite(chance):
            axes.axhline(100 * chance, color=RANDOM, lw=1)
            axes.annotate(
                "chance", (1, 100 * chance), (0, 3), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
                ha="right", color=MUTED, size=10,
            )  # fmt: skip
        _from_zero(axes)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.set_ylabel("online accuracy, %")
        step_axis(axes)
        return as_svg(figure, "online", "Online probe, a trend and no result: accuracy of every stage over steps")


def speed_chart(name: str, steps: ArrayLike, values: ArrayLike, most: float | None = None) -> str:
    """Draw a measure of speed over steps, and its running median.

    Args:
        name: what is shown, for those who cannot see it.
        steps: ascending; at least one has a finite value.
        values: one per step.
        most: where the axis ends, if not a little above the greatest value.
    """
    x, y = finite(steps, values)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(_LOW)
        marker = "o" if len(x) <= _DOTTED else None
        axes.plot(*thinned(x, y), color=LIGHT, lw=0.8, marker=marker, ms=2.5, clip_on=False)
        axes.plot(*running_median(x, y), color=PRETRAINED, lw=1.8)
        _from_zero(axes)
        axes.set_ylim(0, most or 1.1 * float(y.max()) or 1)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.7g}"))
        step_axis(axes)
        return as_svg(figure, name, f"{name} over steps")


def running_median(x: ArrayLike, y: ArrayLike, points: int = 400) -> tuple[FloatArray, FloatArray]:
    """Return the median of y in a window of a fortieth of all of them (21 at least), at up to ``points`` places."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    half = max(10, len(y) // 80)
    centers = np.unique(np.linspace(0, len(y) - 1, points).round().astype(int))
    middle = [np.median(y[max(0, center - half) : center + half + 1]) for center in centers]
    return x[centers], np.array(middle)


def _squares(centers: FloatArray, side: float) -> Path:
    """Return squares as one path: (n, 2) -> n squares of that side."""
    corners = side / 2 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path((centers[:, None] + corners).reshape(-1, 2), codes * len(centers))


def new_axes(height: int = _HEIGHT) -> tuple[Figure, Axes]:
    """Return an empty chart of that many CSS pixels; draw within ``matplotlib.rc_context(STYLE)``."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    return figure, axes


def _from_zero(axes: Axes) -> None:
    """Let both axes begin at 0; that of steps reaches at least 1, for a run that has only begun."""
    axes.set_xlim(0, max(1.0, axes.get_xlim()[1]))
    axes.set_ylim(bottom=0)


def step_axis(axes: Axes) -> None:
    """Let the horizontal axis count steps."""
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(visible=False, axis="x")


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


def as_svg(figure: Figure, name: str, label: str) -> str:
    """Return an <svg> element that scales with the page and shares no identifiers with others."""
    file = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>|<defs>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    start = text.index("<svg")
    box = re.search(r'viewBox="([-0-9. ]+)"', text)
    assert box is not None
    opening = f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(label)}">'
    return opening + text[text.index(">", start) + 1 :].strip()
