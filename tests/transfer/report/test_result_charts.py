"""Charts of results and of fine-tuning: positions in proportion, names that can be read."""

import math
import re
from itertools import pairwise

import pytest

from transfer.bootstrap import Estimate
from transfer.report.charts import (
    COLORS,
    ChartLine,
    Curve,
    dots_chart,
    looks_of,
    shorten,
    shots_chart,
    stages_chart,
    steps_chart,
)
from transfer.report.published import STAGES, TABLES, Published


def bar(value: float, half: float = 0.02) -> Estimate:
    return Estimate(value, value - half, value + half)


def markers(svg: str, color: str) -> list[float]:
    """Heights of a line's points, in pixels from the top."""
    path = re.search(rf'<path d="([^"]*)"[^>]*style="fill: none; stroke: {color}; stroke-width: 1.6', svg)
    assert path is not None
    return [float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", path[1])]


def test_points_and_bands_are_in_proportion() -> None:
    line = ChartLine("network", [bar(0.2), bar(0.4), bar(0.3)], "#0072b2")
    svg = stages_chart("chart", "top-1 accuracy", ["conv1", "conv2", "conv3"], [line])
    heights = markers(svg, "#0072b2")
    assert (heights[0] - heights[1]) / (heights[0] - heights[2]) == pytest.approx(2, rel=1e-3)
    use = re.search(r'<use xlink:href="#(\w+)" x="0" y="(\d+)" style="fill: #0072b2; fill-opacity: 0.16', svg)
    assert use is not None
    band = re.search(rf'<path id="{use[1]}" d="([^"]*)"', svg)
    assert band is not None
    edges = [float(y) + float(use[2]) for _, y in re.findall(r"[ML] (\S+) (\S+)", band[1])]
    assert max(edges) - heights[0] == pytest.approx((heights[0] - heights[1]) / 10, rel=1e-2)
    assert ">top-1 accuracy, %<" in svg and ">network<" in svg and all(f">conv{n}<" in svg for n in (1, 2, 3))


def test_intervals_that_miss_their_value_and_stages_that_are_missing() -> None:
    """A percentile bootstrap may miss its value, by a rounding error or more."""
    lines = [
        ChartLine("one", [Estimate(0.5, 0.51, 0.52), None], "#0072b2", ringed=0),
        ChartLine("two", [None, Estimate(1.0, 1.0, 1.0)], "#7d858e", style=1),
    ]
    for stages in (["only", "other"], ["$only$", "b" * 80]):
        svg = stages_chart("chart", "top-1 accuracy", stages, lines)
        assert svg.startswith("<svg viewBox=") and svg.endswith("</svg>") and "nan" not in svg
        assert all(f">{shorten(stage, 24)}<" in svg for stage in stages)
    alone = [line._replace(scores=[bar(0.5, 0)]) for line in lines]
    assert "nan" not in stages_chart("chart", "top-1 accuracy", ["only"], alone)


@pytest.mark.parametrize("protocol", ["zhang2016", "splitbrain", "goyal2019"])
def test_published_rows_are_named_without_overlap(protocol: str) -> None:
    for table in TABLES:
        rows = [one for one in table.rows if protocol in one.protocols]
        if not rows:
            continue
        line = ChartLine("ours", [bar(0.1 + at / 10) for at in range(5)], "#0072b2")
        svg = stages_chart("chart", "top-1 accuracy", STAGES, [line], rows)
        places = names(svg, rows)
        for upper, lower in pairwise(sorted(places.values())):
            assert lower - upper >= 10.5, "pixels"
        ends = {one.name: one.scores[-1] for one in rows}
        downwards = [ends[name] for name in sorted(places, key=places.__getitem__)]
        assert downwards == sorted(ends.values(), reverse=True)


def names(svg: str, rows: list[Published]) -> dict[str, float]:
    """Heights of the names of published rows."""
    found = {}
    for one in rows:
        (tag,) = re.findall(rf"<text ([^>]*)>{re.escape(one.name)}<", svg)
        place = re.search(r'translate\(\S+ (\S+)\)| y="(\S+)"', tag)
        assert place is not None
        found[one.name] = float(place[1] or place[2])
    return found


def test_few_shots_on_one_scale() -> None:
    shots = [1, 2, 4, 8, 16, 32, 64, 96]
    lines = [ChartLine("ours", [bar(0.1 + at / 20) for at in range(8)], "#0072b2")]
    other = ChartLine("not everywhere", [bar(0.1)] * 8, "#d55e00")
    svg = shots_chart(
        "chart", "mean average precision", shots, [(f"conv{n}", lines) for n in range(7)] + [("$x$", [other])]
    )
    assert all(f">conv{n}<" in svg for n in range(7)) and ">$x$<" in svg
    assert svg.count(">ours<") == svg.count(">not everywhere<") == 1
    assert ">96<" in svg and ">1<" in svg and ">64<" not in svg, "labels with room between them"
    assert shots_chart("chart", "top-1 accuracy", [4], [("fc", [lines[0]._replace(scores=[bar(0.5)])])])


def test_names_are_cut_in_the_middle() -> None:
    assert shorten("conv1", 22) == "conv1" and shorten("x" * 22, 22) == "x" * 22
    cut = shorten("a-run-of-a-long-name@9000", 22)
    assert cut == "a-run-of-...-name@9000" and len(cut) <= 22


def test_kinds_never_share_a_color() -> None:
    colors = [shade for shades in COLORS.values() for shade in shades]
    assert len(set(colors)) == len(colors)
    looks = looks_of(["random"] * 4 + ["of another version", "published"])
    assert looks[3] == (looks[0][0], 1) and looks[0] != looks[1], "the same shade again, in another style"
    assert [color for color, _ in looks[4:]] == [*COLORS["published"][:2]]


BLUE, GRAY = "#0072b2", "#7d858e"


def dots(svg: str, color: str) -> list[tuple[float, float]]:
    """Places of a network's dots, in the order of the rows; the legend's is not among them."""
    found = re.findall(rf'<use xlink:href="#\w+" x="(\S+)" y="(\S+)" style="[^"]*stroke: {color}', svg)
    return [(float(x), float(y)) for x, y in found][:-1]


def test_dots_are_in_proportion_and_rows_from_the_top() -> None:
    lines = [ChartLine("ours", [bar(0.2), bar(0.6)], BLUE), ChartLine("$random$", [bar(0.4), None], GRAY)]
    svg = dots_chart("chart", "mAP", ["above conv3", "all"], lines)
    (first, second), (other, *_) = dots(svg, BLUE), dots(svg, GRAY)
    assert other[0] - first[0] == pytest.approx((second[0] - first[0]) / 2, rel=1e-3)
    assert first[1] < other[1] < second[1], "a row's networks stand together"
    assert "nan" not in svg and ">$random$<" in svg and ">above conv3<" in svg and ">mAP, %<" in svg
    bars = re.findall(rf'd="M (\S+) \S+\s+L (\S+) \S+\s*"[^>]*stroke: {BLUE}; stroke-width: 1.6', svg)
    assert float(bars[0][1]) - float(bars[0][0]) == pytest.approx((second[0] - first[0]) / 10, rel=1e-2)


def test_an_axis_does_not_make_much_of_nothing() -> None:
    svg = dots_chart("chart", "AP", ["all"], [ChartLine("ours", [Estimate(0.0, 0.0, 1e-5)], BLUE)])
    assert ">0.0<" in svg and ">0.8<" in svg
    assert ">1<" in steps_chart("c", "c", [Curve("ours", [0, 1], [0.0, 1e-4], BLUE)], unit="%")


def test_curves_are_named_and_long_ones_stay_small() -> None:
    steps = list(range(50_000))
    curves = [Curve(f"run-{n}", steps, [1 / (1 + step) for step in steps], BLUE, n) for n in range(4)]
    svg = steps_chart("loss", "Training loss", [*curves, Curve("<$x$>", [1, 2], [math.nan, 2.0], GRAY)], low=None)
    assert (
        len(svg) < 400_000 and all(f">run-{n}<" in svg for n in range(4)) and "&lt;$x$&gt;" in svg and "nan" not in svg
    )
