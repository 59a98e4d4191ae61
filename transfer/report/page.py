"""The report: one page that says what a run learned, to read or to send.

The page is one HTML file that asks the network for nothing. Paths, keys and class names come from
outside: the template escapes whatever is not a chart of our own.
"""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pretext.engine.journal import Record, read_journal
from pretext.engine.run import Settings, run_settings
from pretext.files import write_atomically
from transfer.report.charts import finite
from transfer.report.panels import (
    column,
    health_panels,
    loss_panel,
    of_kind,
    online_panel,
    recall_panel,
    setting,
    speed_panels,
    supervised,
)
from transfer.report.render import image, newest_samples, rendered
from transfer.report.result_charts import Course, color_of, courses_chart
from transfer.report.result_panels import headline, result_panels
from transfer.report.trainings import result_file, words_of
from transfer.results import read_result


def write_report(run: Path) -> Path:
    """Write RUN/report.html: the results, the curves, the samples and the settings of a run.

    Args:
        run: of pretraining; or of fine-tuning, RUN/finetuned/NAME, whose page is of that one network on that task.

    Returns:
        The file.

    Raises:
        UserError: there is no run, or a file in it cannot be read or has been damaged.
    """
    settings = run_settings(run)
    records = read_journal(run)
    facts: dict[str, Any] = {
        "name": run.resolve().name,
        "path": str(run),
        "loss": loss_panel(settings, records),
        "speed": speed_panels(records),
        "samples": newest_samples(run),
        "skipped": remarks(records),
        "settings": groups(settings),
        "calls": calls(records),
        **steps_done(settings, records),
    }
    if "task" in settings:
        page = rendered("finetuned.html.jinja", **facts, **finetuned_facts(run, settings, records))
    else:
        page = rendered("report.html.jinja", **facts, **_pretraining_facts(run, settings, records))
    path = run / "report.html"
    write_atomically(path, page)
    return path


def _pretraining_facts(run: Path, settings: Settings, records: Sequence[Record]) -> dict[str, Any]:
    """What is said of a pretraining alone."""
    panels = result_panels([read_result(path) for path in sorted((run / "results").glob("*.json"))])
    return {
        "probe_command": f"pretint probe {shlex.quote(str(run))} --train FOLDER --test FOLDER",
        "asked_for": {
            "Backbone": setting(settings, "backbone", "name"),
            "Objective": setting(settings, "objective", "name"),
            "Images": _sources(setting(settings, "data", "source")),
            "Batch": setting(settings, "training", "batch_size"),
            "Seed": settings.get("seed"),
        },
        "main": headline(panels),
        "panels": panels,
        "supervised": supervised(settings),
        "health": health_panels(settings, records),
        "recall": recall_panel(settings, records),
        "online": online_panel(settings, records),
        "held_out": any(record.get("held_out") for record in of_kind(records, "start")),
        "colored": image(run / "colored" / "sheet.png"),
    }


def _sources(named: Any) -> Any:
    """The sources of a mixture with their weights, on one line; a single source as it is."""
    return ", ".join(f"{name} ({weight:g})" for name, weight in named.items()) if isinstance(named, dict) else named


_RULES = {"score": "", "11_points": "11 points", "all_points": "all points", "COCO": "COCO"}
"""The keys of held-out scores in a journal, with the names of what they count by."""


def finetuned_facts(run: Path, settings: Settings, records: Sequence[Record]) -> dict[str, Any]:
    """What is said besides what is said of every run.

    Raises:
        UserError: the result or the images cannot be read.
    """
    file = result_file(run)
    result = None if file is None else read_result(file)
    trained = f"above {settings['freeze_to']}" if settings.get("freeze_to") else "all"
    return {
        "task": str(settings["task"]),
        "network": setting(settings, "network", "name"),
        "trained": words_of(trained),
        "asked_for": {
            "Backbone": setting(settings, "network", "backbone"),
            "Trained": "all of it" if trained == "all" else trained,
            "Protocol": settings.get("protocol"),
            "Learns from": settings.get("train"),
            "Judged on": settings.get("test"),
            "Batch": setting(settings, "training", "batch_size"),
            "Seed": settings.get("seed"),
        },
        "result": result,
        "panels": [] if result is None else result_panels([result], alone=True),
        "scores": _scores(records),
        "tested": image(run / "samples" / "test.png"),
    }


def _scores(records: Sequence[Record]) -> dict[str, Any] | None:
    """The scores on held-out images: chart, and the newest of each rule."""
    looks = of_kind(records, "health")
    steps = [record["step"] for record in looks]
    values = {rule: column(looks, key) for key, rule in _RULES.items()}
    known = {rule: finite(steps, of_rule)[1] for rule, of_rule in values.items()}
    shown = {rule: float(found[-1]) for rule, found in known.items() if len(found)}
    if not shown:
        return None
    courses = [
        Course(rule or "held out", steps, values[rule], color_of("pretrained", at), at) for at, rule in enumerate(shown)
    ]
    chart = courses_chart("held-out", "Score on held-out images over steps", courses, dots=True, percent=True)
    return {"svg": Markup(chart), "newest": shown, "from_start": steps[0] == 0}


def steps_done(settings: Settings, records: Sequence[Record]) -> dict[str, int | None]:
    """How many steps were taken, and how many were asked for, if that is known."""
    asked = setting(settings, "training", "steps")
    done = max((record["step"] for record in of_kind(records, "step")), default=0)
    return {"done": done, "asked": asked if isinstance(asked, int) else None}


def groups(settings: Settings) -> dict[str, dict[str, str]]:
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


def calls(records: Sequence[Record]) -> dict[str, Any] | None:
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


def remarks(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Key and reason of what was skipped in training, or was mended, each once."""
    return list(dict.fromkeys((str(one["key"]), str(one["reason"])) for one in of_kind(records, "skipped")))
