"""The report's panels of training: charts and their captions, made from the journal of a run.

A panel without records is empty, because a report may also be written for a run of another version.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from markupsafe import Markup

from pretext.engine.journal import Record
from pretext.engine.run import Settings
from pretext.gamut import STEP, STEP_RANGE, bin_centers
from pretext.methods.diagnostics import COMMON_MASS
from transfer.report.charts import (
    Curve,
    health_chart,
    loss_chart,
    online_chart,
    rate_chart,
    recall_map,
    speed_chart,
)

_STAGE = "accuracy_"  # of the online probe's records, before a stage's name
_LOSSES = {
    "rebalanced": "cross-entropy over the color bins, each pixel weighted by how rare its color is, in nats",
    "plain": "cross-entropy over the color bins, in nats",
    "regression": "half the squared distance to the true ab, in units of 110 squared",
    "labels": "cross-entropy over the classes, in nats",
}
_TASKS = {
    "classify": "cross-entropy of the predictions, in nats",
    "detect": "the losses of all parts of the detector, of class and of box, added up",
    "segment": "cross-entropy over the classes, mean over the pixels that count, in nats",
}
_Panel = tuple[str, dict[str, str], tuple[float, str] | None, str]
"""Title, the records' keys by the names of their curves, a line to compare with, and how to read it."""
_COLOR: tuple[_Panel, ...] = (  # the panel of entropy, which depends on the bins, comes after the first
    (
        "Saturation",
        {"predicted": "saturation"},
        (1.0, "as colorful as the originals"),
        "Mean chroma of the predicted colors divided by that of the true ones. At 1 the images are as "
        "colorful as the originals; near 0 the network avoids errors by predicting gray; above 1 its colors are too "
        "strong.",
    ),
    (
        "Accuracy",
        {"plain": "accuracy", "rebalanced": "accuracy_rebalanced"},
        None,
        "Share of the pixels whose most probable color bin (of a regression: the bin of the predicted color) is "
        "the true one. Plain accuracy is high for a network that predicts only the common grays; rebalanced, a pixel "
        "counts more if its true color is rarer. Both mean the same for every objective.",
    ),
    (
        "Recall",
        {"common bins": "recall_common", "rare bins": "recall_rare"},
        None,
        "Share of the pixels of a true color bin for which the network predicts this bin, averaged over bins. The "
        f"common bins are the most frequent, which together hold {100 * COMMON_MASS:.0f} % of the pixels. If rare "
        "bins stay at 0, the network never predicts an unusual color.",
    ),
)
_CLASSIFIER: tuple[_Panel, ...] = (
    (
        "Accuracy",
        {"accuracy": "accuracy"},
        None,
        "Share of the images whose class is predicted correctly, measured from time to time to see whether the network "
        "still learns. The probes measure the quality of its features.",
    ),
)


def _bin_step(settings: Settings) -> int:
    """Return the Lab units between the color bins; runs of versions without this setting have the published value."""
    step = setting(settings, "objective", "bin_step")
    return step if type(step) is int and STEP_RANGE[0] <= step <= STEP_RANGE[1] else STEP


def of_kind(records: Sequence[Record], kind: str) -> list[Record]:
    """Return the records of a kind, in order."""
    return [record for record in records if record.get("kind") == kind]


def setting(settings: Settings, group: str, name: str) -> Any:
    """Return a setting; None if there is none."""
    values = settings.get(group)
    return values.get(name) if isinstance(values, dict) else None


def loss_panel(settings: Settings, records: Sequence[Record]) -> dict[str, Any] | None:
    """Return the charts of loss and learning rate; None if no step has a finite loss."""
    training, health = of_kind(records, "step"), of_kind(records, "health")
    losses = column(training, "loss")
    if not any(map(math.isfinite, losses)):
        return None
    steps = [record["step"] for record in training]
    held_out = column(health, "loss")
    chart = loss_chart(steps, losses, [record["step"] for record in health], held_out)
    return {
        "svg": Markup(chart.svg),
        "outside": chart.outside,
        "what": _TASKS.get(str(settings.get("task")))
        or _LOSSES.get(str(setting(settings, "objective", "name")), "the objective"),
        "looked": bool(_finite(held_out)),
        "held_out": held_out[-1] if _finite(held_out[-1:]) else None,
        "rate_svg": Markup(rate_chart(steps, column(training, "lr"))),
    }


def supervised(settings: Settings) -> bool:
    """Return whether the run learned labels, not colors."""
    return bool(setting(settings, "objective", "name") == "labels")


def health_panels(settings: Settings, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the panels of color health, or of a classifier: title, latest value, chart, how to read it."""
    health = of_kind(records, "health")
    steps = [record["step"] for record in health]
    kinds = _CLASSIFIER
    if not supervised(settings):
        bins = len(bin_centers(_bin_step(settings)))
        entropy: _Panel = (
            "Entropy",
            {"predicted": "entropy"},
            (math.log(bins), f"ln {bins} = {math.log(bins):.2f}"),
            "How uncertain the network is about a pixel's color, in nats. The line is a uniform guess over all "
            f"{bins} color bins; a lower curve means less uncertainty. Near 0 the network predicts one color "
            "per pixel, which is good only if recall rises, too.",
        )
        kinds = (_COLOR[0], entropy, *_COLOR[1:])
    panels = []
    for name, keys, line, reading in kinds:
        values = {label: column(health, key) for label, key in keys.items()}
        finite = {label: _finite(numbers) for label, numbers in values.items()}
        latest = [(label if len(keys) > 1 else "", numbers[-1]) for label, numbers in finite.items() if numbers]
        if latest:
            curves = [Curve(label, numbers, strong=not at) for at, (label, numbers) in enumerate(values.items())]
            svg = Markup(health_chart(name, steps, curves, line))
            panels.append({"name": name, "latest": latest, "svg": svg, "reading": reading})
    return panels


def recall_panel(settings: Settings, records: Sequence[Record]) -> dict[str, Any] | None:
    """Return the newest recall per bin, and how many bins occur and are ever predicted."""
    step = _bin_step(settings)
    for record in reversed(of_kind(records, "health")):
        recall = record.get("recall")
        if isinstance(recall, list) and len(recall) == len(bin_centers(step)):
            values = _numbers(recall)
            occur = _finite(values)
            return {
                "step": record["step"],
                "svg": Markup(recall_map(values, step)),
                "bins": len(values),
                "occur": len(occur),
                "met": sum(value > 0 for value in occur),
            }
    return None


def online_panel(settings: Settings, records: Sequence[Record]) -> dict[str, Any] | None:
    """Return the chart of the online probe's accuracies; without a number, which could be mistaken for a result."""
    online = of_kind(records, "online")
    names = dict.fromkeys(name for record in online for name in record if name.startswith(_STAGE))
    stages = [Curve(name.removeprefix(_STAGE), column(online, name)) for name in names]
    if not any(_finite(column(online, name)) for name in names):
        return None
    chance = [math.nan, *_finite(column(online, "chance"))][-1]
    chart = online_chart([record["step"] for record in online], stages, chance)
    return {"svg": Markup(chart), "source": setting(settings, "online", "source")}


def speed_panels(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the panels of speed and of the time spent waiting for data: title, median, chart."""
    speed = of_kind(records, "speed")
    steps = [record["step"] for record in speed]
    panels = []
    for name, key, scale, unit, most in (
        ("Images a second", "images_per_second", 1, "", None),
        ("Waiting for data", "waiting", 100, "\N{NO-BREAK SPACE}%", 100),
    ):
        values = [scale * value for value in column(speed, key)]
        if numbers := _finite(values):
            middle = median(numbers)
            shown = f"{middle:,.0f}" if middle >= 10 else f"{middle:.1f}"
            panels.append({"name": name, "median": shown + unit, "svg": Markup(speed_chart(name, steps, values, most))})
    return panels


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def column(records: Sequence[Record], name: str) -> list[float]:
    """Return one value of every record; nan where there is no number."""
    return _numbers([record.get(name) for record in records])


def _numbers(values: Sequence[Any]) -> list[float]:
    return [float(value) if isinstance(value, (int, float)) else math.nan for value in values]
