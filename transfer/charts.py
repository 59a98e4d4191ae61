"""The report's charts: numbers in, inline SVG out.

Every chart is drawn for a width of 440 CSS pixels, so that it is read on a phone as it is; the page
puts two beside each other where there is room. The same numbers give the same bytes.
"""

import html
import io
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from transfer.intervals import Estimate

INK, MUTED, GRID = "#1f2328", "#59636e", "#e6e8eb"
RANDOM, PRETRAINED = "#7d858e", "#0072b2"  # blue and gray differ for every kind of colour vision
LIGHT = "#a9cfe6"  # of PRETRAINED, for what lies behind

_WIDTH, _HEIGHT = 440, 250
_DRAWN = 600  # columns of a chart; a curve of more points is drawn as the range of each column
_STYLE = {
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

Floats = NDArray[np.float64]


class Curve(NamedTuple):
    """One of several curves in a chart."""

    label: str
    values: ArrayLike
    """One per step; what is not finite is left out."""
    strong: bool = True
    """Filled dots and a full line; otherwise open ones and dashes."""


def stages_chart(
    stages: Sequence[str], random: Sequence[Estimate], pretrained: Sequence[Estimate], best: tuple[str, str]
) -> str:
    """Accuracy per stage of the two networks, with intervals.

    Args:
        stages: names, from the input on.
        random: accuracies in [0, 1], one per stage.
        pretrained: the same of the pretrained network.
        best: the stages that were chosen, of random and pretrained; they are ringed.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(70 + 34 * len(stages))
        rows = np.arange(len(stages), dtype=float)
        for bars, colour, marker, label, shift, chosen in (
            (random, RANDOM, "s", "random initialisation", -0.14, best[0]),
            (pretrained, PRETRAINED, "o", "pretrained", 0.14, best[1]),
        ):
            value, low, high = (100 * np.array(part, dtype=float) for part in zip(*bars, strict=True))
            reach = np.maximum(0, [value - low, high - value])
            axes.errorbar(
                value,
                rows + shift,
                xerr=reach,
                fmt=marker,
                ms=5,
                color=colour,
                elinewidth=1.6,
                capsize=2.5,
                label=label,
            )
            at = list(stages).index(chosen)
            axes.plot(value[at], rows[at] + shift, "o", ms=11, mfc="none", mec=colour, mew=1.2)
        axes.set_yticks(rows, labels=list(stages), parse_math=False, color=INK)
        axes.set_ylim(len(stages) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel("accuracy on the test pictures, %")
        axes.legend(
            ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, handletextpad=0.3, columnspacing=1.4
        )
        axes.grid(visible=False, axis="y")
        return _svg(
            figure, "stages", "Accuracy of every stage, pretrained and at random initialisation, with intervals"
        )


class LossChart(NamedTuple):
    """The chart, and how many steps lie outside of its frame."""

    svg: str
    outside: int


def loss_chart(steps: ArrayLike, loss: ArrayLike, held_steps: ArrayLike, held_loss: ArrayLike) -> LossChart:
    """The loss of every step, its running median, and the held-out loss.

    Args:
        steps: ascending; at least one has a finite loss.
        loss: one per step; what is not finite is left out.
        held_steps: steps at which held-out pictures were looked at.
        held_loss: their loss.
    """
    x, y = _finite(steps, loss)
    held_x, held_y = _finite(held_steps, held_loss)
    middle_x, middle_y = running_median(x, y)
    spread = 8 * float(np.median(np.abs(y - np.interp(x, middle_x, middle_y))))
    inside = (y >= middle_y.min() - spread) & (y <= middle_y.max() + spread)
    framed = np.concatenate([y[inside], middle_y, held_y])
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes()
        axes.plot(*_thinned(x, y), color=LIGHT, lw=0.8, label="every step")
        axes.plot(middle_x, middle_y, color=PRETRAINED, lw=1.8, label="running median")
        if len(held_x):
            axes.plot(held_x, held_y, "o", color=INK, ms=4, mec="white", mew=0.6, label="held out", zorder=4)
        margin = 0.04 * float(np.ptp(framed)) or 0.01
        axes.set_ylim(framed.min() - margin, framed.max() + margin)
        _step_axis(axes)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, handlelength=1.6)
        return LossChart(_svg(figure, "loss", "Training loss over steps"), int((~inside).sum()))


def rate_chart(steps: ArrayLike, rate: ArrayLike) -> str:
    """The learning rate of every step."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes()
        axes.plot(*_thinned(*_finite(steps, rate)), color=PRETRAINED, lw=1.6)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        _step_axis(axes)
        return _svg(figure, "rate", "Learning rate over steps")


def health_chart(name: str, steps: ArrayLike, curves: Sequence[Curve], line: tuple[float, str] | None = None) -> str:
    """A measure of colour health over steps.

    Args:
        name: what is shown, for those who cannot see it.
        steps: ascending.
        curves: at least one of them with a finite value.
        line: a value to compare with, and its label.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes()
        for curve in curves:
            face, dashes = (PRETRAINED, "-") if curve.strong else ("white", "--")
            axes.plot(
                *_finite(steps, curve.values),
                dashes,
                marker="o",
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
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(6))
        _step_axis(axes)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, handlelength=1.6)
        return _svg(figure, name, f"{name} over steps")


def running_median(x: ArrayLike, y: ArrayLike, points: int = 400) -> tuple[Floats, Floats]:
    """The median of y in a window of a fortieth of all of them (21 at least), at up to ``points`` places."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    half = max(10, len(y) // 80)
    centres = np.unique(np.linspace(0, len(y) - 1, points).round().astype(int))
    middle = [np.median(y[max(0, centre - half) : centre + half + 1]) for centre in centres]
    return x[centres], np.array(middle)


def _axes(height: int = _HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH / 72, height / 72), facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    return figure, axes


def _step_axis(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(visible=False, axis="x")


def _finite(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    keep = np.isfinite(y)
    return x[keep], y[keep]


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """What the eye sees of a long curve: of every column of the chart the lowest and the highest point."""
    if len(x) <= 2 * _DRAWN:
        return x, y
    edges = np.linspace(0, len(x), _DRAWN + 1).astype(int)
    kept = {0, len(x) - 1}
    for start, end in pairwise(edges):
        kept |= {start + int(y[start:end].argmin()), start + int(y[start:end].argmax())}
    at = sorted(kept)
    return x[at], y[at]


def _svg(figure: Figure, name: str, label: str) -> str:
    """An <svg> element that scales with the page and shares no identifiers with others."""
    file = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>|<defs>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    start = text.index("<svg")
    box = re.search(r'viewBox="([-0-9. ]+)"', text)
    assert box is not None
    opening = f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(label)}">'
    return opening + text[text.index(">", start) + 1 :].strip()
