"""The report: one page that says what a run learned, to read or to send.

The page is one HTML file that asks the network for nothing. Paths, keys and class names come from
outside: the template escapes whatever is not a chart of our own.
"""

import base64
import io
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from pretext.engine.journal import Record, read_journal
from pretext.engine.run import Settings, run_settings
from pretext.errors import UserError
from pretext.files import write_atomically
from transfer.intervals import MEASURES, Estimate
from transfer.report.panels import (
    health_panels,
    loss_panel,
    of_kind,
    online_panel,
    recall_panel,
    setting,
    speed_panels,
    supervised,
)
from transfer.report.published import STAGES
from transfer.report.result_panels import headline, result_panels
from transfer.results import read_result

LISTED = 50
"""At most so many skipped pictures are listed."""

_WIDEST = 1600  # pixels; wider pictures, and those of more bytes than the next line says, are made smaller
_HEAVY = 2_000_000


def write_report(run: Path) -> Path:
    """Write RUN/report.html: the results, the curves, the samples and the settings of a run.

    Returns:
        The file.

    Raises:
        UserError: there is no run, or a file in it cannot be read or has been damaged.
    """
    settings = run_settings(run)
    records = read_journal(run)
    panels = result_panels([read_result(path) for path in sorted((run / "results").glob("*.json"))])
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval, "points": points, "count": count, "signs": signs}
    page = environment.get_template("report.html.jinja").render(
        name=run.resolve().name,
        path=str(run),
        probe_command=f"pretint probe {shlex.quote(str(run))}",
        pretint=version("pretint"),
        measures=MEASURES,
        progress=_progress(settings, records),
        main=headline(panels),
        panels=panels,
        published_stages=STAGES,
        loss=loss_panel(settings, records),
        supervised=supervised(settings),
        health=health_panels(settings, records),
        recall=recall_panel(records),
        online=online_panel(settings, records),
        speed=speed_panels(records),
        held_out=any(record.get("held_out") for record in of_kind(records, "start")),
        samples=_newest_samples(run),
        coloured=_picture(run / "coloured" / "sheet.png"),
        skipped=list({str(record["key"]): str(record["reason"]) for record in of_kind(records, "skipped")}.items()),
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


def signs(text: str) -> str:
    """The signs of a table's number as they are printed."""
    return text.replace("+-", "\N{PLUS-MINUS SIGN}").replace("-", "\N{MINUS SIGN}")


def count(number: int) -> str:
    """8000 -> 8,000."""
    return f"{number:,}"


def _progress(settings: Settings, records: Sequence[Record]) -> dict[str, Any]:
    done = max((record["step"] for record in of_kind(records, "step")), default=0)
    asked = setting(settings, "training", "steps")
    return {
        "done": done,
        "asked": asked if isinstance(asked, int) else None,
        "facts": {
            "Backbone": setting(settings, "backbone", "name"),
            "Objective": setting(settings, "objective", "name"),
            "Pictures": _sources(setting(settings, "data", "source")),
            "Batch": setting(settings, "training", "batch_size"),
            "Seed": settings.get("seed"),
        },
    }


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
    starts = of_kind(records, "start")
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


def _sources(named: Any) -> Any:
    """The sources of a mixture with their weights, on one line; a single source as it is."""
    return ", ".join(f"{name} ({weight:g})" for name, weight in named.items()) if isinstance(named, dict) else named
