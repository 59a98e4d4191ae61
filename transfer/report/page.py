"""The report: one page about the training and the results of a run, to read or to send.

The page is one HTML file that loads nothing from the network. Paths, keys and class names come from
outside, so the template escapes everything except our own charts.
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
from transfer.report.render import image, newest_samples, render_page
from transfer.report.result_charts import Course, color_of, courses_chart
from transfer.report.result_panels import headline, result_panels
from transfer.report.trainings import result_file, words_of
from transfer.results import read_result

_RULES = {"score": "", "11_points": "11 points", "all_points": "all points", "COCO": "COCO"}
"""The keys of held-out scores in a journal, with the names of their rules."""


def write_report(run: Path) -> Path:
    """Write RUN/report.html: the results, the curves, the samples and the settings of a run.

    Args:
        run: a pretraining run; or a fine-tuning run, RUN/finetuned/NAME, whose page shows that one network and task.

    Returns:
        The file.

    Raises:
        UserError: there is no run, or a file in it cannot be read or has been damaged.
    """
    settings = run_settings(run)
    records = read_journal(run)
    steps = setting(settings, "training", "steps")
    # Images that training skipped, and annotations that were corrected: key and reason, each once.
    skipped = dict.fromkeys((str(record["key"]), str(record["reason"])) for record in of_kind(records, "skipped"))
    groups = {str(name): values for name, values in settings.items() if isinstance(values, dict)}
    groups["other"] = {name: value for name, value in settings.items() if not isinstance(value, dict)}
    calls: dict[str, Any] | None = None  # the times of the job's calls, with the facts and versions of the last one
    if starts := of_kind(records, "start"):
        last = starts[-1]
        calls = {
            "resumed": [record["step"] for record in starts[1:]],
            "first": _start_time(starts[0]),
            "last": _start_time(last),
            "facts": {name: _text(last[name]) for name in last if name not in ("kind", "step", "time", "versions")},
            "versions": {name: _text(value) for name, value in last["versions"].items()},
        }
    facts: dict[str, Any] = {
        "name": run.resolve().name,
        "path": str(run),
        "loss": loss_panel(settings, records),
        "speed": speed_panels(records),
        "samples": newest_samples(run),
        "skipped": list(skipped),
        "settings": {
            group: {str(name): _text(value) for name, value in values.items()}
            for group, values in groups.items()
            if values
        },
        "calls": calls,
        "done": max((record["step"] for record in of_kind(records, "step")), default=0),
        "total_steps": steps if isinstance(steps, int) else None,
    }
    if "task" in settings:
        page = render_page("finetuned.html.jinja", **facts, **_finetuning_facts(run, settings, records))
    else:
        page = render_page("report.html.jinja", **facts, **_pretraining_facts(run, settings, records))
    path = run / "report.html"
    write_atomically(path, page)
    return path


def _pretraining_facts(run: Path, settings: Settings, records: Sequence[Record]) -> dict[str, Any]:
    """Return the facts that only the page of a pretraining run shows."""
    panels = result_panels([read_result(path) for path in sorted((run / "results").glob("*.json"))])
    source = setting(settings, "data", "source")
    if isinstance(source, dict):  # a mixture: its sources with their weights, on one line
        source = ", ".join(f"{name} ({weight:g})" for name, weight in source.items())
    return {
        "probe_command": f"pretint probe {shlex.quote(str(run))} --train FOLDER --test FOLDER",
        "training_facts": {
            "Backbone": setting(settings, "backbone", "name"),
            "Objective": setting(settings, "objective", "name"),
            "Images": source,
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


def _finetuning_facts(run: Path, settings: Settings, records: Sequence[Record]) -> dict[str, Any]:
    """Return the facts that only the page of a fine-tuning run shows: one network, on one task.

    Raises:
        UserError: the result or the images cannot be read.
    """
    file = result_file(run)
    result = None if file is None else read_result(file)
    trained = f"above {settings['freeze_to']}" if settings.get("freeze_to") else "all"
    health = of_kind(records, "health")
    steps = [record["step"] for record in health]
    values = {rule: column(health, key) for key, rule in _RULES.items()}
    known = {rule: finite(steps, scores)[1] for rule, scores in values.items()}
    newest = {rule: float(scores[-1]) for rule, scores in known.items() if len(scores)}
    held_out = None
    if newest:
        courses = [
            Course(rule or "held out", steps, values[rule], color_of("pretrained", at), at)
            for at, rule in enumerate(newest)
        ]
        chart = courses_chart("held-out", "Score on held-out images over steps", courses, dots=True, percent=True)
        held_out = {"svg": Markup(chart), "newest": newest, "from_start": steps[0] == 0}
    return {
        "task": str(settings["task"]),
        "network": setting(settings, "network", "name"),
        "trained": words_of(trained),
        "training_facts": {
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
        "scores": held_out,
        "tested": image(run / "samples" / "test.png"),
    }


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(inner)}" for name, inner in value.items()) or "none"
    return str(value)


def _start_time(record: Record) -> str:
    return f"{datetime.fromtimestamp(record['time'], UTC):%Y-%m-%d %H:%M} UTC"
