"""The report's panels of trainings: charts and images of pretraining and fine-tuning, made from their journals.

A panel without records is empty, because a report may also be written for a run of another version. The run
RUN/finetuned/NAME made the result RUN/results/NAME.json; a result of a network without a run is next to the folder
``finetuned``.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pretext.engine.journal import read_journal
from pretext.engine.run import Settings
from pretext.gamut import STEP, STEP_RANGE, bin_centers
from pretext.store import Record
from transfer.columns import Column
from transfer.report.charts import (
    COLORS,
    LIGHT,
    STYLES,
    Curve,
    FloatArray,
    finite,
    loss_chart,
    recall_map,
    running_median,
    shorten,
    steps_chart,
)
from transfer.report.render import image
from transfer.results import Result

MOST_SHEETS = 24
"""Sheets on a page, at most."""

_ROOM = 3_300_000  # bytes of all sheets of a page, before they are written as text
_DRAWN = 12  # curves of a chart
_LETTERS = 34  # of a name in a chart's legend
_STAGE = "accuracy_"  # of the online probe's records, before a stage's name
_SHADES = ("#e8a33d", "#d97b16", "#b4570a", "#7f3a06", "#4d2203")
"""Colors that no result uses: the online probe is not a result."""
_ERROR = "error_"  # of the records of cross-channel prediction, before a channel's name
_RANK = {"RankMe": {"RankMe": "rankme"}}
_COLOR_HEALTH = {
    "Saturation": {"predicted": "saturation"},
    "Entropy": {"predicted": "entropy"},
    "Accuracy": {"plain": "accuracy", "rebalanced": "accuracy_rebalanced"},
    "Recall": {"common bins": "recall_common", "rare bins": "recall_rare"},
}
"""The charts of color health: the records' keys, by the names of their curves."""
_RULES = ("", "11 points", "all points", "COCO")
"""The rules of held-out scores in a journal."""


def of_kind(records: Sequence[Record], kind: str) -> list[Record]:
    """Return the records of a kind, in order."""
    return [record for record in records if record.get("kind") == kind]


def setting(settings: Settings, group: str, name: str) -> Any:
    """Return a setting; None if there is none."""
    values = settings.get(group)
    return values.get(name) if isinstance(values, dict) else None


def loss_panel(records: Sequence[Record]) -> dict[str, Any] | None:
    """Return the charts of loss and learning rate; None if no step has a finite loss."""
    training, health = of_kind(records, "step"), of_kind(records, "health")
    steps, losses = _column(training, "step"), _column(training, "loss")
    if not any(map(math.isfinite, losses)):
        return None
    held_out = _column(health, "loss")
    svg, outside = loss_chart(steps, losses, _column(health, "step"), held_out)
    return {
        "svg": svg,
        "outside": outside,
        "looked": any(map(math.isfinite, held_out)),
        "held_out": held_out[-1] if held_out and math.isfinite(held_out[-1]) else None,
        "rate_svg": steps_chart("rate", "Learning rate over steps", [Curve("", steps, _column(training, "lr"))]),
    }


def health_panel(settings: Settings, records: Sequence[Record]) -> dict[str, Any] | None:
    """Return the charts of color health, or of another method's accuracy, with their latest values; None without any.

    The newest recall per bin is among them, with how many bins occur and are ever predicted.
    """
    health = of_kind(records, "health")
    steps = _column(health, "step")
    step = setting(settings, "objective", "bin_step")
    if type(step) is not int or not STEP_RANGE[0] <= step <= STEP_RANGE[1]:
        step = STEP  # runs of versions without this setting have the published value
    bins = len(bin_centers(step))
    references = {
        "Saturation": (1.0, "as colorful as the originals"),
        "Entropy": (math.log(bins), f"ln {bins} = {math.log(bins):.2f}"),
    }
    shown = _RANK | (_COLOR_HEALTH if method_of(settings) == "colorization" else _other_health(health))
    charts = []
    for title, keys in shown.items():
        known = {label: finite(steps, _column(health, key)) for label, key in keys.items()}
        curves = [
            Curve(label, *points, style=at, marked=True)
            for at, (label, points) in enumerate(known.items())
            if len(points[0])
        ]
        if curves:
            latest = [(curve.label if len(keys) > 1 else "", known[curve.label][1][-1]) for curve in curves]
            svg = steps_chart(title, f"{title} over steps", curves, reference=references.get(title))
            charts.append({"name": title, "latest": latest, "svg": svg})
    recall = None
    for record in health:
        if isinstance(record.get("recall"), list) and len(record["recall"]) == bins:
            values = _numbers(record["recall"])
            recall = {
                "step": record["step"],
                "values": values,
                "occur": sum(map(math.isfinite, values)),
                "met": sum(value > 0 for value in values),
            }
    if recall:
        recall["svg"] = recall_map(recall["values"], step)
    return {"charts": charts, "recall": recall, "bins": bins} if charts else None


def _other_health(health: Sequence[Record]) -> dict[str, dict[str, str]]:
    """Return the charts of other methods: accuracy, recall of one or more groups of channels, each channel's error."""
    keys = [key for key in (health[-1] if health else {}) if isinstance(key, str)]
    recall = {key.removeprefix("recall_"): key for key in keys if key.startswith("recall")}
    errors = [key for key in keys if key.startswith(_ERROR)][:_DRAWN]
    charts = {"Accuracy": {"accuracy": "accuracy"}, "Recall of codes": recall}
    return charts | {f"Mean error of {key.removeprefix(_ERROR)}": {"error": key} for key in errors}


def method_of(settings: Settings) -> str:
    """Return the name of the run's method."""
    return str(setting(settings, "method", "name") or "colorization")


def online_panel(settings: Settings, records: Sequence[Record]) -> dict[str, Any] | None:
    """Return the chart of the online probe's accuracies; without a number, which could be mistaken for a result."""
    online = of_kind(records, "online")
    steps = _column(online, "step")
    names = list(dict.fromkeys(name for record in online for name in record if name.startswith(_STAGE)))
    curves = []
    for at, name in enumerate(names):
        values = [100 * value for value in _column(online, name)]
        shade = _SHADES[at * len(_SHADES) // len(names)]
        curves.append(Curve(name.removeprefix(_STAGE), steps, values, shade, at % len(STYLES), 1.4, marked=True))
    if not any(len(finite(steps, curve.values)[0]) for curve in curves):
        return None
    chance = [100 * value for value in _column(online, "chance") if math.isfinite(value)]
    svg = steps_chart(
        "online",
        "Online probe, a trend and no result: accuracy of every stage over steps",
        curves,
        unit="online accuracy, %",
        reference=(chance[-1], "chance") if chance else None,
    )
    return {"svg": svg, "source": setting(settings, "online", "source")}


def speed_panels(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the panels of speed and of the time spent waiting for data: title, median, chart."""
    speed = of_kind(records, "speed")
    panels = []
    for name, key, scale, unit in (
        ("Images a second", "images_per_second", 1, ""),
        ("Waiting for data", "waiting", 100, "\N{NO-BREAK SPACE}%"),
    ):
        x, y = finite(_column(speed, "step"), [scale * value for value in _column(speed, key)])
        if len(y):
            middle = median(y)
            curves = [Curve("", x, y, LIGHT, width=0.8, marked=True), Curve("", *running_median(x, y), width=1.8)]
            high = 100.0 if unit else 1.1 * float(y.max()) or 1.0
            svg = steps_chart(name, f"{name} over steps", curves, high=high, height=170)
            shown = f"{middle:,.0f}" if middle >= 10 else f"{middle:.1f}"
            panels.append({"name": name, "median": shown + unit, "svg": svg})
    return panels


def held_out_panel(records: Sequence[Record]) -> dict[str, Any] | None:
    """Return the chart of a fine-tuned network's scores on held-out images, and the newest; None without any."""
    health = of_kind(records, "health")
    known = {rule: _held_out(health, rule) for rule in _RULES}
    known = {rule: points for rule, points in known.items() if len(points[0])}
    if not known:
        return None
    curves = [
        Curve(rule or "held out", x, y, color, style, marked=True)
        for style, ((rule, (x, y)), color) in enumerate(zip(known.items(), COLORS["pretrained"], strict=False))
    ]
    svg = steps_chart("held-out", "Score on held-out images over steps", curves, unit="%", height=200)
    newest = {rule: float(y[-1]) for rule, (_, y) in known.items()}
    return {"svg": svg, "newest": newest, "from_start": health[0]["step"] == 0}


def result_file(run: Path) -> Path | None:
    """Return the result file of a run of fine-tuning, if there is one."""
    run = run.resolve()
    home, name = run.parent.parent, f"{run.name}.json"
    return next((file for file in (home / "results" / name, home / name) if file.is_file()), None)


def sheets_of(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Return sheets of test images by result file: the newest weights first, small enough that a page holds all."""
    tuned = sorted((r for r in results if r.mode == "fine-tuned" and r.file), key=lambda r: -r.network.step)
    paths = {result.file: _run_of(result) / "samples" / "test.png" for result in tuned}
    shown = [(file, path) for file, path in paths.items() if path.is_file()][:MOST_SHEETS]
    sheets = {file: image(path, _ROOM // len(shown)) for file, path in shown}
    return {file: sheet for file, sheet in sheets.items() if sheet is not None}


def words_of(trained: str) -> str:
    """Return the name of the trained part for a caption; "all" means the whole network."""
    return "all trained" if trained == "all" else f"trained {trained}"


def trainings_panel(
    anchor: str, group: Sequence[Result], colors: Mapping[Column, str], sheets: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return charts of losses and held-out scores, and the sheets of test images, with the most trained weights first.

    Args:
        anchor: the anchor of the evaluation on the page.
        group: the results of fine-tuning, one for each training.
        colors: the same as columns, with their colors.
        sheets: see ``sheets_of``.
    """
    parts = list(dict.fromkeys(row.stage for column in colors for row in column.first.rows))
    losses, scores, shown = list[Curve](), list[Curve](), list[tuple[int, dict[str, Any]]]()
    hidden = drawn = 0
    for column, color in colors.items():
        key = column.first.network.group, column.first.view_size
        results = [result for result in group if (result.network.group, result.view_size) == key]
        several = len({(result.network.seed, result.seed) for result in results}) > 1
        for result in sorted(results, key=lambda result: parts.index(result.rows[0].stage)):
            folder, row = _run_of(result), result.rows[0]
            style = parts.index(row.stage)
            words = [column.label, words_of(row.stage) if len(parts) > 1 else ""]
            words += [f"seed {result.network.seed}/{result.seed}" if several else ""]
            label = ", ".join(filter(None, words))
            if result.file in sheets:
                facts = {"label": label, "words": words_of(row.stage), "image": sheets[result.file]}
                shown.append((style, facts))
            hidden += result.file not in sheets and (folder / "samples" / "test.png").is_file()
            if not (folder / "journal.jsonl").is_file():
                continue
            drawn += 1
            if drawn > _DRAWN:
                continue
            records, label = read_journal(folder), shorten(label, _LETTERS)
            steps = of_kind(records, "step")
            loss = running_median(*finite(_column(steps, "step"), _column(steps, "loss")))
            score = _held_out(of_kind(records, "health"), row.variant)
            losses += [Curve(label, *loss, color, style, 1.5)] if len(loss[0]) else []
            scores += [Curve(label, *score, color, style, 1.5, marked=True)] if len(score[0]) else []
    loss_title, score_title = "Training loss over steps", "Score on held-out images over steps"
    return {
        "loss": steps_chart(f"{anchor}-loss", loss_title, losses, low=None, height=200) if losses else None,
        "score": steps_chart(f"{anchor}-held-out", score_title, scores, unit="%", height=200) if scores else None,
        "variant": next((column.first.rows[0].variant for column in colors), ""),
        "left_out": max(0, drawn - _DRAWN),
        "sheets": [facts for _, facts in sorted(shown, key=lambda one: -one[0])],
        "sheets_left_out": hidden,
    }


def _held_out(health: Sequence[Record], rule: str) -> tuple[FloatArray, FloatArray]:
    """Return steps and percent of the scores on held-out images by a rule."""
    x, y = finite(_column(health, "step"), _column(health, re.sub(r"\W+", "_", rule or "score")))
    return x, 100 * y


def _run_of(result: Result) -> Path:
    """Return the run that made a result of fine-tuning, whether or not it still exists."""
    file = Path(result.file)
    home = file.parent.parent if file.parent.name == "results" else file.parent
    return home / "finetuned" / file.stem


def _column(records: Sequence[Record], name: str) -> list[float]:
    """Return one value of every record; nan where there is no number."""
    return _numbers([record.get(name) for record in records])


def _numbers(values: Sequence[Any]) -> list[float]:
    return [float(value) if isinstance(value, (int, float)) else math.nan for value in values]
