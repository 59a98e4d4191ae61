"""The report's charts, read as SVG."""

import re

import numpy as np
import pytest
import torch

from pretext.color import lab_to_rgb
from pretext.gamut import bin_centers
from transfer.report.charts import Curve, loss_chart, recall_map, running_median, steps_chart


def test_running_median_follows_the_middle() -> None:
    steps = list(range(1000))
    x, y = running_median(steps, [value + (1e6 if value % 10 == 0 else 0) for value in steps])
    assert x[0] == 0 and x[-1] == 999
    inner = slice(20, -20)
    assert abs(y[inner] - x[inner]).max() < 4


def test_loss_chart_keeps_the_extremes_and_counts_what_it_cuts_off() -> None:
    loss = [3 + (step % 7) / 10 for step in range(50_000)]
    loss[31_111] = 1e5
    svg, outside = loss_chart(range(50_000), loss, [], [])
    assert outside == 1 and len(svg) < 100_000
    assert loss_chart([1, 2, 3], [2.0, 2.0, 2.0], [3], [2.0])[1] == 0


@pytest.mark.parametrize(("step", "at"), [(10, 150), (20, 50)])
def test_the_recall_map_fills_each_cell_by_its_recall(step: int, at: int) -> None:
    recall = np.full(len(bin_centers(step)), np.nan)
    areas = {}
    for value in (0.0, 0.25, 1.0):
        recall[at] = value
        svg = recall_map(recall, step)
        color = lab_to_rgb(torch.tensor([65.0, *bin_centers(step)[at]]).reshape(3, 1, 1)).flatten()
        fill = "#" + "".join(f"{round(255 * float(one)):02x}" for one in color)
        path = re.search(rf'<path d="([^"]*)"[^>]*style="fill: {fill}', svg)
        assert path is not None
        corners = np.array(re.findall(r"[ML] (\S+) (\S+)", path[1]), dtype=float)
        areas[value] = float(np.prod(np.ptp(corners, axis=0)))
    assert areas[0.0] == pytest.approx(0) and areas[0.25] == pytest.approx(areas[1.0] / 4, rel=1e-3)
    assert areas[1.0] > 1.5 * step**2, "square pixels"


def test_many_stages_and_many_looks() -> None:
    steps = list(range(0, 100_000, 100))
    stages = [Curve(f"blocks.{number}", steps, [0.1 + number / 40] * 1000, marked=True) for number in range(24)]
    svg = steps_chart("online", "Online probe", stages, reference=(0.1, "chance"))
    assert len(svg) < 500_000 and all(f">blocks.{number}<" in svg for number in range(24)) and ">chance<" in svg
