"""Scores as a table: in the terminal, as CSV, Markdown and LaTeX; and as the JSON file that is kept."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.table import Table

from pretext.escape import csv_text
from transfer.bootstrap import Estimate
from transfer.layout import WIDTH, Cell, Grid, Number, Sheet

FORMAT = "pretint scores 1"
Shown = Literal["terminal", "csv", "markdown", "latex"]


class Metric(NamedTuple):
    """A measure, and how it is shown."""

    key: str
    """In the JSON file and in the CSV."""
    title: str
    about: str
    better: int
    """1: greater is better, -1: less is, 0: neither."""
    scale: float = 1
    digits: int = 1


class Line(NamedTuple):
    """A method with its scores, by the key of the metric."""

    method: str
    about: str
    identity: dict[str, Any]
    scores: dict[str, Estimate]
    """The interval is nan where there is none."""
    differences: dict[str, Estimate]
    """To the method that all are compared with, on the same images; empty for itself."""
    spreads: dict[str, float] = {}  # noqa: RUF012
    """Standard deviations over seeds, where several stand in one line."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What methods scored on the same images."""

    lines: tuple[Line, ...]
    metrics: tuple[Metric, ...]
    against: str
    """The method that all others are compared with."""
    facts: dict[str, Any]
    """About the images: name, digest, size, how many were scored and left out; and how: seed, versions."""
    footer: tuple[str, ...]
    notes: tuple[str, ...]
    """What was asked for, or could be, and is not there."""
    skipped: tuple[tuple[str, str], ...]
    """Images that cannot be read: key and reason."""
    file: Path

    @property
    def title(self) -> str:
        """What is shown."""
        facts = self.facts
        return f"color on {facts['n']:,} images of {facts['images']}, at {facts['size']} x {facts['size']} px"

    @property
    def sheets(self) -> list[Sheet]:
        """The scores, and what each differs by from one of the methods."""
        known = [metric for metric in self.metrics if any(metric.key in line.scores for line in self.lines)]
        best = {metric.key: self._best(metric) for metric in known}
        rows = [
            (
                line.method,
                tuple(
                    _cell(metric, line.scores, best[metric.key] == line.method, spreads=line.spreads)
                    for metric in known
                ),
            )
            for line in self.lines
        ]
        header = tuple(metric.title for metric in known)
        sheets = [Sheet(self.title, Grid("method", header, tuple(rows), "score"), self.footer)]
        others = [line for line in self.lines if line.differences]
        compared = [metric for metric in known if any(metric.key in line.differences for line in others)]
        if others and compared:
            gaps = tuple(
                (line.method, tuple(_cell(metric, line.differences, signed=True) for metric in compared))
                for line in others
            )
            grid = Grid("method", tuple(metric.title for metric in compared), gaps, "score")
            about = ("[..]: of the paired difference, from the same resamples of the same images",)
            sheets.append(Sheet(f"differences: method minus {self.against}", grid, about))
        return sheets

    def shown(self, how: Shown = "terminal", width: int = WIDTH) -> list[str | Table]:
        """Lines and tables to print.

        Args:
            how: for the terminal; csv, a line for each number with all that it depends on, not in percent; markdown;
                latex (booktabs).
            width: that a table keeps to in the terminal, where it can.
        """
        if how == "terminal":
            return [line for sheet in self.sheets for line in sheet.terminal(width)]
        text = self.csv() if how == "csv" else "\n".join(getattr(sheet, how)() for sheet in self.sheets)
        return list(text.removesuffix("\n").split("\n"))

    def csv(self) -> str:
        """One line for each number."""
        names = ["method", "metric", "value", "low", "high", "against", "difference", "difference_low"]
        facts = {key: value for key, value in self.facts.items() if not isinstance(value, (dict, list))}
        rows: list[list[object]] = []
        for line in self.lines:
            for metric in self.metrics:
                if metric.key not in line.scores:
                    continue
                gap = line.differences.get(metric.key)
                numbers = [*line.scores[metric.key], self.against if gap else "", *(gap or ("", "", ""))]
                about = [line.about, line.identity.get("checkpoint", "")]
                plain = ["" if isinstance(one, float) and math.isnan(one) else one for one in numbers]
                rows.append([line.method, metric.key, *plain, *about, *facts.values()])
        return csv_text([*names, "difference_high", "about", "checkpoint", *facts], rows)

    def json(self) -> bytes:
        """The content of the file that is kept; null stands for what is infinite, or has no interval."""
        found = {
            "format": FORMAT,
            **self.facts,
            "metrics": {metric.key: metric.about for metric in self.metrics},
            "against": self.against,
            "methods": [
                {
                    "method": line.method,
                    "about": line.about,
                    "identity": line.identity,
                    "scores": {key: _plain(value) for key, value in line.scores.items()},
                    "differences": {key: _plain(value) for key, value in line.differences.items()},
                    "spreads": line.spreads,
                }
                for line in self.lines
            ],
            "footer": self.footer,
            "notes": self.notes,
            "skipped": self.skipped,
        }
        return json.dumps(found, indent=1, allow_nan=False).encode()

    def _best(self, metric: Metric) -> str | None:
        """The best method, the truth aside."""
        there = [line for line in self.lines if line.method != "truth" and metric.key in line.scores]
        if not metric.better or not there:
            return None
        return max(there, key=lambda line: metric.better * line.scores[metric.key].value).method


def _cell(
    metric: Metric,
    scores: dict[str, Estimate],
    best: bool = False,
    signed: bool = False,
    spreads: Mapping[str, float] | None = None,
) -> Cell:
    if metric.key not in scores:
        return ""
    spread = (spreads or {}).get(metric.key)
    number = Number(scores[metric.key], spread, best, signed, metric.scale, metric.digits)
    low, high = number.score[1:]
    return number if math.isfinite(low) and low < high else number.value


def _plain(estimate: Estimate) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in estimate._asdict().items()}


def titles(metrics: Sequence[Metric]) -> list[str]:
    """What each column of the table is, a line each."""
    return [f"{metric.title}: {metric.about}" for metric in metrics]
