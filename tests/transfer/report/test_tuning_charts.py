"""The charts of fine-tuning, read as SVG."""

import math
import re

import pytest

from tests.transfer.report.test_result_charts import bar
from transfer.bootstrap import Estimate
from transfer.report.result_charts import Line
from transfer.report.tuning_charts import Course, courses_chart, dots_chart

BLUE, GRAY = "#0072b2", "#7d858e"


def dots(svg: str, color: str) -> list[tuple[float, float]]:
    """Places of a network's dots, in the order of the rows; the legend's is not among them."""
    found = re.findall(rf'<use xlink:href="#\w+" x="(\S+)" y="(\S+)" style="[^"]*stroke: {color}', svg)
    return [(float(x), float(y)) for x, y in found][:-1]


def test_dots_are_in_proportion_and_rows_from_the_top() -> None:
    lines = [Line("ours", [bar(0.2), bar(0.6)], BLUE), Line("$random$", [bar(0.4), None], GRAY)]
    svg = dots_chart("chart", "mAP", ["above conv3", "all"], lines)
    (first, second), (other, *_) = dots(svg, BLUE), dots(svg, GRAY)
    assert other[0] - first[0] == pytest.approx((second[0] - first[0]) / 2, rel=1e-3)
    assert first[1] < other[1] < second[1], "a row's networks stand together"
    assert "nan" not in svg and ">$random$<" in svg and ">above conv3<" in svg and ">mAP, %<" in svg
    bars = re.findall(rf'd="M (\S+) \S+\s+L (\S+) \S+\s*"[^>]*stroke: {BLUE}; stroke-width: 1.6', svg)
    assert float(bars[0][1]) - float(bars[0][0]) == pytest.approx((second[0] - first[0]) / 10, rel=1e-2)


def test_an_axis_does_not_make_much_of_nothing() -> None:
    svg = dots_chart("chart", "AP", ["all"], [Line("ours", [Estimate(0.0, 0.0, 1e-5)], BLUE)])
    assert ">0.0<" in svg and ">0.8<" in svg
    assert ">1.0<" in courses_chart("c", "c", [Course("ours", [0, 1], [0.0, 1e-6], BLUE)], dots=True, percent=True)


def test_courses_are_named_and_long_ones_stay_small() -> None:
    steps = list(range(50_000))
    courses = [Course(f"run-{n}", steps, [1 / (1 + step) for step in steps], BLUE, n) for n in range(4)]
    svg = courses_chart("loss", "Training loss", [*courses, Course("<$x$>", [1, 2], [math.nan, 2.0], GRAY)], dots=False)
    assert (
        len(svg) < 400_000 and all(f">run-{n}<" in svg for n in range(4)) and "&lt;$x$&gt;" in svg and "nan" not in svg
    )
