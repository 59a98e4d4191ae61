"""The colors of a study's variants: the scores of all that color on the same images, seeds joined.

They need the networks and the images. What was found is kept in the study's folder, so that it is made anew only when
more is finished, and can still be shown when the images are gone.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.settings import Positional, parse_command
from pretint.colorization.scores.job import ScoreSettings, score
from pretint.colorization.scores.table import METRICS, Line, Metric, Scores
from pretint.study.cells import Shelf
from pretint.study.plan import Cell, Plan
from transfer.bootstrap import Estimate

MEASURE = "auc_balanced"
"""The one that stands in a study's table."""
KEPT = "colors.json"
_SCORES = "scores"  # a folder in the study's: what is known of each image by those that are no run
_FORMAT = "pretint study colors 1"


class Colors(NamedTuple):
    """What all variants that color scored by one evaluation."""

    evaluation: str
    scores: Scores | None
    """A line for each variant, and for the baselines; None if there are none."""
    remark: str
    """Why there are none, or why they are those of an earlier time; empty else."""
    seeds: dict[str, tuple[int, ...]]
    """By variant, those that are joined."""

    @property
    def against(self) -> str:
        """The variant that the others are compared with."""
        return self.scores.against if self.scores else ""

    @property
    def metric(self) -> Metric | None:
        """What stands in the study's table."""
        return next((one for one in self.scores.metrics if one.key == MEASURE), None) if self.scores else None

    def line(self, variant: str) -> Line | None:
        """A variant's; a baseline that is called like one is none."""
        if not self.scores or variant not in self.seeds:
            return None
        return next((line for line in self.scores.lines if line.method == variant), None)

    @property
    def about(self) -> str:
        """What the measure is that stands in the study's table."""
        if not self.scores or not self.metric:
            return ""
        whole = next((one.about.removesuffix(", %") for one in self.scores.metrics if one.key == "auc"), "")
        return f"{self.metric.title}, {whole}, {self.metric.about.removeprefix('the same, ')}; {self.scores.title}"


def colors(plan: Plan, shelf: Shelf, folder: Path) -> tuple[Colors, ...]:
    """The scores of every evaluation of colors, as far as they can be had.

    Args:
        plan: its cells.
        shelf: of the cells.
        folder: of the study; what is found is kept there.
    """
    kept = _read(folder / KEPT)
    names = [name for name, asked in plan.evaluations.items() if asked.get("command") == "score"]
    found = []
    for name in names:
        finished = _finished(plan, shelf, name)
        against = _compared_with(plan, name, list(finished))
        of = [against, {variant: [[cell.seed, cell.key] for cell in cells] for variant, cells in finished.items()}]
        remark = ""
        if not finished:
            found.append(Colors(name, None, "nothing is finished", {}))
            continue
        if _known(name, kept.get(name), "") is None or kept[name]["of"] != of:
            try:
                told = json.loads(_scored(plan, shelf, finished, against, folder).json())
                kept[name] = {"of": of, "scores": told}
                write_atomically(folder / KEPT, json.dumps({"format": _FORMAT, "evaluations": kept}).encode())
            except UserError as error:
                remark = str(error)
        found.append(_known(name, kept.get(name), remark) or Colors(name, None, f"cannot be scored: {remark}", {}))
    return tuple(found)


def _finished(plan: Plan, shelf: Shelf, evaluation: str) -> dict[str, list[Cell]]:
    """By variant, if any of its seeds is."""
    there = {
        variant: [cell for cell in plan.of(variant, evaluation) if shelf.finished(cell)] for variant in plan.variants
    }
    return {variant: cells for variant, cells in there.items() if cells}


def _compared_with(plan: Plan, evaluation: str, variants: list[str]) -> str:
    """The one that the study's file names; else the one that most are compared with, if it colors; else the first."""
    asked = str(plan.evaluations[evaluation].get("against", ""))
    if asked in variants:
        return asked
    named = Counter(plan.against[variant] for variant in variants if plan.against.get(variant) in variants)
    return named.most_common(1)[0][0] if named else next(iter(variants), "")


def _scored(plan: Plan, shelf: Shelf, finished: dict[str, list[Cell]], against: str, folder: Path) -> Scores:
    runs = {cell.key: str(shelf.folder(cell)) for cell in plan.cells}
    seeds = {variant: [runs[cell.after] for cell in cells] for variant, cells in finished.items()}
    first = next(iter(finished.values()))[0]
    _, settings = parse_command(
        "pretint score", "", ScoreSettings, [Positional("networks", "", nargs="+", kind=str)], first.words[1:]
    )
    settings.out, settings.against = str(folder / _SCORES), against
    return score([run for group in seeds.values() for run in group], settings, seeds)


def _read(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        return dict(told["evaluations"]) if told["format"] == _FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _known(name: str, kept: Any, remark: str) -> Colors | None:
    """The colors that the kept file holds, see ``Scores.json``; None if there are none, or they are damaged.

    Args:
        name: of the evaluation.
        kept: what the file has under it.
        remark: why they are not of today.
    """
    try:
        seeds = {str(of): tuple(int(seed) for seed, _ in cells) for of, cells in kept["of"][1].items()}
        told = dict(kept["scores"])
        abouts, lines = told.pop("metrics"), told.pop("methods")
        against, footer, notes, skipped = (told.pop(key) for key in ("against", "footer", "notes", "skipped"))
        scores = Scores(
            tuple(_line(line) for line in lines),
            tuple(metric._replace(about=str(abouts[metric.key])) for metric in METRICS if metric.key in abouts),
            str(against),
            told,
            tuple(map(str, footer)),
            tuple(map(str, notes)),
            tuple((str(key), str(reason)) for key, reason in skipped),
            Path(),
        )
        again = f"these are of an earlier time, as they cannot be scored anew: {remark}" if remark else ""
        return Colors(name, scores, again, seeds)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None


def _line(told: dict[str, Any]) -> Line:
    scores, differences = (
        {key: _estimate(one) for key, one in told[part].items()} for part in ("scores", "differences")
    )
    spreads = {key: float(one) for key, one in told["spreads"].items()}
    return Line(str(told["method"]), str(told["about"]), told["identity"], scores, differences, spreads)


def _estimate(told: dict[str, float | None]) -> Estimate:
    value = math.inf if told["value"] is None else float(told["value"])
    low, high = (math.nan if told[key] is None else float(told[key] or 0) for key in ("low", "high"))
    return Estimate(value, low, high)
