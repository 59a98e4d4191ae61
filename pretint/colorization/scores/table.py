"""Scores with intervals, and their table: in the terminal, as CSV, Markdown and LaTeX, and as a JSON file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from pretext.files import write_atomically
from pretext.store import Record, seal
from pretint.colorization.scores.ledger import ScoreRecord
from pretint.colorization.scores.metrics import Sums, balanced_auc, frechet_distance, psnr, raw_auc
from transfer.bootstrap import SLOW_RESAMPLES, Estimate, Floats, accuracy, centered, difference, percentiles, resamples
from transfer.layout import WIDTH, Number, OutputFormat, Sheet, TableCell, TableGrid, format_sheets
from transfer.long_table import difference_record, make_frame
from transfer.result_format import read_sealed

FORMAT = "pretint scores 3"


class ScoreMetric(NamedTuple):
    """A metric, and how it is shown."""

    key: str
    """In the JSON file and in the CSV."""
    title: str
    about: str
    better: int
    """1: greater is better, -1: less is, 0: neither."""
    scale: float = 1
    digits: int = 1


class ScoreRow(NamedTuple):
    """A line of the table: a method with its scores, by the key of the metric."""

    method: str
    about: str
    identity: dict[str, Any]
    scores: dict[str, Estimate]
    """The interval is nan where there is none."""
    differences: dict[str, Estimate]
    """To the method that all others are compared with, on the same images; empty for that method itself."""
    spreads: dict[str, float] = {}  # noqa: RUF012
    """Standard deviations over seeds, if the line has several."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of methods on the same images."""

    lines: tuple[ScoreRow, ...]
    metrics: tuple[ScoreMetric, ...]
    against: str
    """The method that all others are compared with."""
    facts: dict[str, Any]
    """Facts of the images (name, digest, size, how many were scored and left out) and of the job (seed, versions)."""
    footer: tuple[str, ...]
    notes: tuple[str, ...]
    """The metrics that are missing, and why; and warnings about networks."""
    skipped: tuple[tuple[str, str], ...]
    """Images that cannot be read: key and reason."""
    file: Path

    @property
    def title(self) -> str:
        """The title of the table."""
        facts = self.facts
        return f"color on {facts['n']:,} images of {facts['images']}, at {facts['size']} x {facts['size']} px"

    @property
    def sheets(self) -> list[Sheet]:
        """The scores, and their differences to the scores of one method."""
        scored = [metric for metric in self.metrics if any(metric.key in line.scores for line in self.lines)]
        best: dict[str, str] = {}
        for metric in [metric for metric in scored if metric.better]:
            lines = [line for line in self.lines if line.method != "truth" and metric.key in line.scores]
            if lines:
                best[metric.key] = max(lines, key=lambda line: metric.better * line.scores[metric.key].value).method
        rows = [
            (line.method, tuple(_cell(metric, line, best.get(metric.key) == line.method) for metric in scored))
            for line in self.lines
        ]
        sheets = [
            Sheet(self.title, TableGrid("method", tuple(m.title for m in scored), tuple(rows), "score"), self.footer)
        ]
        compared = [metric for metric in scored if any(metric.key in line.differences for line in self.lines)]
        if compared:
            gaps = [
                (line.method, tuple(_cell(metric, line, signed=True) for metric in compared))
                for line in self.lines
                if line.differences
            ]
            grid = TableGrid("method", tuple(metric.title for metric in compared), tuple(gaps), "score")
            about = ("[..]: of the paired difference, from the same resamples of the same images",)
            sheets.append(Sheet(f"differences: method minus {self.against}", grid, about))
        return sheets

    def format(self, how: OutputFormat = "terminal", width: int = WIDTH) -> list[str | Table]:
        """Return lines and tables to print: see ``transfer.layout.format_sheets``."""
        return format_sheets(self.sheets, how, lambda: make_frame(self.records()), width)

    def records(self, lines: Sequence[ScoreRow] | None = None) -> list[Record]:
        """Return the scores of lines, by default of all, as rows of the long table; its other columns are the facts."""
        facts = {
            _COLUMNS.get(key, key): value for key, value in self.facts.items() if not isinstance(value, dict | list)
        }
        records = []
        for line in self.lines if lines is None else lines:
            for key, score in line.scores.items():
                gap = line.differences.get(key)
                record = {**facts, "network": line.method, "protocol": "score", "metric": key, **score._asdict()}
                record |= {"sd_over_seeds": line.spreads.get(key), "weights": line.identity.get("weights")}
                record |= {"about": line.about, **(difference_record(self.against, gap) if gap else {})}
                records.append(record)
        return records

    def to_plain(self) -> Record:
        """Return plain values, of which ``parse_scores`` makes the scores again; None: infinite, or no interval."""
        methods = [
            line._asdict()
            | {
                part: {
                    key: [v if math.isfinite(v) else None for v in score] for key, score in getattr(line, part).items()
                }
                for part in ("scores", "differences")
            }
            for line in self.lines
        ]
        names = ("facts", "against", "footer", "notes", "skipped")
        abouts = {metric.key: metric.about for metric in self.metrics}
        return {**{name: getattr(self, name) for name in names}, "metrics": abouts, "methods": methods}

    def write(self) -> None:
        """Write the file, as JSON. Raises UserError."""
        write_atomically(self.file, seal({"format": FORMAT, **self.to_plain()}))


def read_scores(path: Path) -> Scores:
    """Read the scores from a file.

    Raises:
        UserError: the file cannot be read, holds no scores, or is damaged.
    """
    return read_sealed(path, FORMAT, "scores", lambda content: parse_scores(content, path))


def parse_scores(content: Record, file: Path) -> Scores:
    """Return the scores in plain values; any exception means that the content is not sound."""
    content = dict(content)
    methods, abouts = content.pop("methods"), content.pop("metrics")

    def estimates(plain: dict[str, Any]) -> dict[str, Estimate]:
        return {
            key: Estimate(math.inf if value is None else value, *(math.nan if end is None else end for end in ends))
            for key, (value, *ends) in plain.items()
        }

    lines = [
        ScoreRow(**method | {part: estimates(method[part]) for part in ("scores", "differences")}) for method in methods
    ]
    metrics = tuple(metric._replace(about=abouts[metric.key]) for metric in METRICS if metric.key in abouts)
    footer, notes = (tuple(content.pop(name)) for name in ("footer", "notes"))
    skipped = tuple((key, reason) for key, reason in content.pop("skipped"))
    return Scores(
        lines=tuple(lines), metrics=metrics, footer=footer, notes=notes, skipped=skipped, file=file, **content
    )


def _cell(metric: ScoreMetric, line: ScoreRow, best: bool = False, signed: bool = False) -> TableCell:
    scores = line.differences if signed else line.scores
    if metric.key not in scores:
        return ""
    spread = None if signed else line.spreads.get(metric.key)
    number = Number(scores[metric.key], spread, best, signed, metric.scale, metric.digits)
    return number if math.isfinite(number.score.low) and number.score.low < number.score.high else number.value


def titles(metrics: Sequence[ScoreMetric]) -> list[str]:
    """Return a line for each column of the table that describes it."""
    return [f"{metric.title}: {metric.about}" for metric in metrics]


INTERVAL = (
    f"[..]: 95% percentile bootstrap over images, {SLOW_RESAMPLES:,} resamples; of AuC balanced centered on the number "
    "(a resample lacks some rare bins); top-1 as the probes' (10,000 resamples); FID has none"
)

METRICS = (
    ScoreMetric("auc", "AuC", "area under the share of pixels within t of the true ab, t = 0..150, %", 1, 100),
    ScoreMetric(
        "auc_balanced", "AuC balanced", "the same, each pixel by the inverse frequency of its true bin, %", 1, 100
    ),
    ScoreMetric("psnr", "PSNR", "dB, 8-bit sRGB, squared error over R, G and B; mean over images", 1, digits=2),
    ScoreMetric("ssim", "SSIM", "Wang et al. 2004, of R, G and B each, averaged", 1, digits=3),
    ScoreMetric("lpips", "LPIPS", "", -1, digits=3),
    ScoreMetric("cf", "CF", "colorfulness, Hasler and Suesstrunk 2003", 0),
    ScoreMetric("cf_abs", "CF abs", "the variant that takes absolute values first; not comparable with CF", 0),
    ScoreMetric("fid_same", "FID same", "to the truth of the same images", -1, digits=2),
    ScoreMetric("fid_disjoint", "FID disjoint", "to other images", -1, digits=2),
    ScoreMetric("top1", "top-1", "", 1, 100),
)
_COLUMNS = {"images": "test", "digest": "test_digest", "size": "view_size", "seed": "evaluation_seeds"}
"""The columns of the long table for facts that have another name there."""
_MEANS = ("auc", "psnr", "ssim", "lpips", "cf", "cf_abs")


class MethodOutcomes(NamedTuple):
    """The outcomes of a method on N images."""

    areas: Sums
    """(N, Q), see ``pretint.colorization.scores.metrics``."""
    values: dict[str, Floats]
    """The values of every image, (N,), by metric."""
    right: NDArray[np.bool_] | None
    features: NDArray[np.float32] | None
    """(N, D)."""


class RealFeatures(NamedTuple):
    """Features of real images that a method's are compared with."""

    same: NDArray[np.float32]
    """The features of the same images, (N, D)."""
    disjoint: NDArray[np.float32] | None
    """The features of others; without them a method's odd images are compared with the truth of the even ones."""


def known(
    records: Sequence[ScoreRecord], n_bins: int, features: NDArray[np.float32] | None
) -> tuple[MethodOutcomes, Sums]:
    """Return the outcomes in the records of a method, and the number of pixels of every true bin, (N, Q)."""
    areas, pixels = np.zeros((2, len(records), n_bins), np.int64)
    for row, record in enumerate(records):
        areas[row, record["bins"]] = record["areas"]
        pixels[row, record["bins"]] = record["pixels"]
    errors = torch.tensor([record["error"] for record in records], dtype=torch.float64)
    values = {"auc": raw_auc(areas, pixels), "psnr": psnr(errors).numpy()}
    for name in ("ssim", "lpips", "cf", "cf_abs"):
        if name in records[0]:
            values[name] = np.array([record[name] for record in records], np.float64)
    right = np.array([record["right"] for record in records], np.bool_) if "right" in records[0] else None
    return MethodOutcomes(areas, values, right, features), pixels


def average_outcomes(seeds: Sequence[MethodOutcomes]) -> MethodOutcomes:
    """Average the outcomes of several seeds of one method: every score is then the mean of theirs.

    Scores are sums over images, so the mean over seeds may be taken first. Top-1 classes and distances of
    features are no such sums, and are left out.
    """
    if len(seeds) == 1:
        return seeds[0]
    areas = np.mean([seed.areas for seed in seeds], axis=0)
    values = {key: np.mean([seed.values[key] for seed in seeds], axis=0) for key in seeds[0].values}
    return MethodOutcomes(areas, values, None, None)


class Summary:
    """Scores of methods on the same images. All share the same resamples, so that differences are paired.

    Args:
        methods: by name.
        pixels: (N, Q), of every true bin.
        weights: (Q,), of the bins, or None: see ``balanced_auc``.
        real: features to compare with, if there are features.
    """

    def __init__(
        self,
        methods: Mapping[str, MethodOutcomes],
        pixels: Sums,
        weights: Floats | None = None,
        real: RealFeatures | None = None,
    ) -> None:
        self._methods, self._real, self._count = methods, real, len(pixels)
        self._draws: dict[tuple[str, str], Floats] = {}
        self._points: dict[tuple[str, str], float] = {}
        once = np.ones((self._count, 1))
        for name, method in methods.items():
            keys = [key for key in _MEANS if key in method.values]
            values = np.stack([method.values[key] for key in keys])
            finite = np.isfinite(values).all(1, keepdims=True)
            usable = np.where(finite, values, 0)
            means = np.where(finite, resamples(usable.__matmul__, self._count) / self._count, np.nan)
            for key, draws in zip(keys, means, strict=True):
                self._points[name, key] = float(method.values[key].mean())
                self._draws[name, key] = draws
            balanced = partial(balanced_auc, method.areas, pixels, weights=weights)
            self._points[name, "auc_balanced"] = float(balanced(once)[0])
            self._draws[name, "auc_balanced"] = resamples(balanced, self._count)

    def scores(self, name: str) -> dict[str, Estimate]:
        """Return the scores of a method, by metric."""
        method = self._methods[name]
        draws_by_key = {key: draws for (method_name, key), draws in self._draws.items() if method_name == name}
        scores = {key: self._estimate(key, self._points[name, key], draws) for key, draws in draws_by_key.items()}
        if method.features is not None and self._real is not None:
            same, disjoint = self._real
            scores["fid_same"] = Estimate(frechet_distance(method.features, same), np.nan, np.nan)
            colored, real = (method.features, disjoint) if disjoint is not None else (method.features[::2], same[1::2])
            if min(len(colored), len(real)) >= 2:
                scores["fid_disjoint"] = Estimate(frechet_distance(colored, real), np.nan, np.nan)
        if method.right is not None:
            scores["top1"] = accuracy(method.right)
        return scores

    def spreads(self, names: Sequence[str]) -> dict[str, float]:
        """Return standard deviations of the scores of several methods (the seeds of one), by metric."""
        if len(names) < 2:
            return {}
        keys = [key for name, key in self._points if name == names[0]]
        spreads = {key: float(np.std([self._points[name, key] for name in names], ddof=1)) for key in keys}
        return {key: spread for key, spread in spreads.items() if np.isfinite(spread)}

    def differences(self, name: str, other: str) -> dict[str, Estimate]:
        """Return a method's scores minus another's, by metric, for the metrics that are averages over images."""
        differences = {}
        for (method_name, key), draws in self._draws.items():
            if method_name == name and (other, key) in self._draws:
                value = self._points[name, key] - self._points[other, key]
                if np.isfinite(value):
                    differences[key] = self._estimate(key, value, draws - self._draws[other, key], lowest=-1)
        first, second = self._methods[name].right, self._methods[other].right
        if first is not None and second is not None:
            differences["top1"] = difference(first, second)
        return differences

    @staticmethod
    def _estimate(key: str, value: float, draws: Floats, lowest: float = 0) -> Estimate:
        if not np.isfinite(draws).any():
            return Estimate(value, np.nan, np.nan)
        if np.ptp(draws) <= 1e-12 * max(1.0, abs(value)):  # the truth's, for one, is 1 by definition
            return Estimate(value, value, value)
        return centered(value, draws, lowest) if key == "auc_balanced" else percentiles(value, draws)
