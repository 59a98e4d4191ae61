"""The report: one page that says what a run learned, to read or to send.

The page is one HTML file that asks the network for nothing. Paths, keys and class names come from
outside: the template escapes whatever is not a chart of our own.
"""

import base64
import io
import math
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from pretext.engine.journal import Record, read_journal
from pretext.engine.run import Settings, run_settings
from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.gamut import bin_centres
from pretext.health import COMMON_MASS
from transfer.charts import Curve, health_chart, loss_chart, rate_chart, stages_chart
from transfer.intervals import Estimate
from transfer.results import Probe, read_probe

LISTED = 50
"""At most so many skipped pictures are listed."""

_WIDEST = 1600  # pixels; wider pictures, and those of more bytes than the next line says, are made smaller
_HEAVY = 2_000_000
_LOSSES = {
    "rebalanced": "cross-entropy over the colour bins, each pixel weighted by how rare its colour is, in nats",
    "plain": "cross-entropy over the colour bins, in nats",
    "regression": "half the squared distance to the true ab, in units of 110 squared",
}


def write_report(run: Path) -> Path:
    """Write RUN/report.html: the probes, the curves, the samples and the settings of a run.

    Returns:
        The file.

    Raises:
        UserError: there is no run, or a file in it cannot be read or has been damaged.
    """
    settings = run_settings(run)
    records = read_journal(run)
    probes = [read_probe(path) for path in sorted((run / "probes").glob("*.json"))]
    main = max(probes, key=lambda probe: probe.step, default=None)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval, "points": points, "count": count}
    page = environment.get_template("report.html.jinja").render(
        name=run.resolve().name,
        path=str(run),
        probe_command=f"pretint probe {shlex.quote(str(run))}",
        pretint=version("pretint"),
        progress=_progress(settings, records),
        main=main,
        probes=[(probe, _stages_svg(probe)) for probe in probes],
        loss=_loss(settings, records),
        health=_health(records),
        held_out=any(record.get("held_out") for record in _of_kind(records, "start")),
        samples=_newest_samples(run),
        coloured=_picture(run / "coloured" / "sheet.png"),
        skipped=list({str(record["key"]): str(record["reason"]) for record in _of_kind(records, "skipped")}.items()),
        listed=LISTED,
        settings=_groups(settings),
        calls=_calls(records),
    )
    path = run / "report.html"
    write_atomically(path, page.encode("utf-8", "replace"))
    return path


def percent(fraction: float) -> str:
    """0.6618 -> 66.2 %, not broken across lines."""
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"


def points(fraction: float) -> str:
    """A difference with its sign, in percentage points: 0.116 -> +11.6."""
    return f"{100 * fraction:+.1f}".replace("-", "\N{MINUS SIGN}")


def interval(bar: Estimate) -> str:
    """[64.7, 67.7], in percent."""
    return f"[{100 * bar.low:.1f}, {100 * bar.high:.1f}]".replace("-", "\N{MINUS SIGN}")


def count(number: int) -> str:
    """8000 -> 8,000."""
    return f"{number:,}"


def _of_kind(records: Sequence[Record], kind: str) -> list[Record]:
    return [record for record in records if record.get("kind") == kind]


def _setting(settings: Settings, group: str, name: str) -> Any:
    """One setting; None where there is none: a report is also written of a run of another version."""
    values = settings.get(group)
    return values.get(name) if isinstance(values, dict) else None


def _column(records: Sequence[Record], name: str) -> list[float]:
    values = (record.get(name) for record in records)
    return [float(value) if isinstance(value, (int, float)) else math.nan for value in values]


def _progress(settings: Settings, records: Sequence[Record]) -> dict[str, Any]:
    done = max((record["step"] for record in _of_kind(records, "step")), default=0)
    asked = _setting(settings, "training", "steps")
    return {
        "done": done,
        "asked": asked if isinstance(asked, int) else None,
        "facts": {
            "Backbone": _setting(settings, "backbone", "name"),
            "Objective": _setting(settings, "objective", "name"),
            "Pictures": _setting(settings, "data", "source"),
            "Batch": _setting(settings, "training", "batch_size"),
            "Seed": settings.get("seed"),
        },
    }


def _stages_svg(probe: Probe) -> Markup:
    return Markup(
        stages_chart(
            [stage.name for stage in probe.stages],
            [stage.random for stage in probe.stages],
            [stage.pretrained for stage in probe.stages],
            (probe.best_random.name, probe.best_pretrained.name),
        )
    )


def _loss(settings: Settings, records: Sequence[Record]) -> dict[str, Any] | None:
    taken, looks = _of_kind(records, "step"), _of_kind(records, "health")
    losses = _column(taken, "loss")
    if not any(map(math.isfinite, losses)):
        return None
    steps = [record["step"] for record in taken]
    held_out = _column(looks, "loss")
    chart = loss_chart(steps, losses, [record["step"] for record in looks], held_out)
    return {
        "svg": Markup(chart.svg),
        "outside": chart.outside,
        "what": _LOSSES.get(str(_setting(settings, "objective", "name")), "the objective"),
        "held_out": held_out[-1] if _finite(held_out[-1:]) else None,
        "rate_svg": Markup(rate_chart(steps, _column(taken, "lr"))),
    }


def _health(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The panels of colour health: title, latest value, chart, how to read it."""
    looks = _of_kind(records, "health")
    steps = [record["step"] for record in looks]
    most = math.log(len(bin_centres()))
    panels = []
    for name, keys, line, reading in (
        (
            "Saturation",
            {"predicted": "saturation"},
            (1.0, "as colourful as the originals"),
            "Mean chroma of the predicted colours divided by that of the true ones. At 1 the pictures are as "
            "colourful as the originals; towards 0 the network plays safe and stays gray; above 1 it overdoes it.",
        ),
        (
            "Entropy",
            {"predicted": "entropy"},
            (most, f"ln {len(bin_centres())} = {most:.2f}"),
            "How undecided the network is about a pixel's colour, in nats. The line is a uniform guess over all "
            f"{len(bin_centres())} colour bins; a lower curve is a surer network. Near 0 it has settled on one colour "
            "per pixel, which is good only if recall rises with it.",
        ),
        (
            "Recall",
            {"common bins": "recall_common", "rare bins": "recall_rare"},
            None,
            "Share of the pixels of a true colour bin that are given that very bin, averaged over bins. The common "
            f"bins are the most frequent, which together hold {100 * COMMON_MASS:.0f} % of the pixels. Rare bins that "
            "stay at 0 mean that the network never dares an unusual colour.",
        ),
    ):
        values = {label: _column(looks, key) for label, key in keys.items()}
        latest = [
            (label if len(keys) > 1 else "", found[-1])
            for label, column in values.items()
            if (found := _finite(column))
        ]
        if latest:
            curves = [Curve(label, column, strong=not number) for number, (label, column) in enumerate(values.items())]
            svg = Markup(health_chart(name, steps, curves, line))
            panels.append({"name": name, "latest": latest, "svg": svg, "reading": reading})
    return panels


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _newest_samples(run: Path) -> dict[str, Any] | None:
    path = max(filter(Path.is_file, (run / "samples").glob("[0-9]*.png")), default=None)
    return None if path is None else {"step": path.stem.lstrip("0") or "0", "picture": _picture(path)}


def _picture(path: Path) -> dict[str, Any] | None:
    """A PNG as a data URL, with its size; made smaller if it is too heavy to send. None if there is none."""
    if not path.is_file():
        return None
    try:
        data, kind = path.read_bytes(), "png"
        with Image.open(io.BytesIO(data)) as picture:
            size = picture.size
            if len(data) > _HEAVY or picture.width > _WIDEST:
                small = picture.convert("RGB")
                small.thumbnail((_WIDEST, 4 * _WIDEST), Image.Resampling.LANCZOS)
                buffer = io.BytesIO()
                small.save(buffer, "JPEG", quality=90, subsampling=0)  # colour at full resolution: it is what we show
                data, kind, size = buffer.getvalue(), "jpeg", small.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as a picture; make it again or move it away") from error
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"url": url, "width": size[0], "height": size[1]}


def _groups(settings: Settings) -> dict[str, dict[str, str]]:
    """Settings by group, as text; those of no group come last."""
    groups = {name: values for name, values in settings.items() if isinstance(values, dict)}
    groups["other"] = {name: value for name, value in settings.items() if not isinstance(value, dict)}
    return {
        str(group): {str(name): _text(value) for name, value in values.items()}
        for group, values in groups.items()
        if values
    }


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(inner)}" for name, inner in value.items()) or "none"
    return str(value)


def _calls(records: Sequence[Record]) -> dict[str, Any] | None:
    """The job's calls on this run: when, on what; the last one's facts and versions."""
    starts = _of_kind(records, "start")
    if not starts:
        return None
    last = starts[-1]
    versions = last.get("versions")
    return {
        "resumed": [record["step"] for record in starts[1:]],
        "first": _when(starts[0]),
        "last": _when(last),
        "facts": {name: _text(last[name]) for name in last if name not in ("kind", "step", "time", "versions")},
        "versions": {str(name): _text(value) for name, value in versions.items()} if isinstance(versions, dict) else {},
    }


def _when(record: Record) -> str:
    try:
        return f"{datetime.fromtimestamp(record['time'], UTC):%Y-%m-%d %H:%M} UTC"
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return "at an unknown time"
