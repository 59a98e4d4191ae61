"""The report: one page that says what a run learned, to read or to send.

The page is one HTML file that asks the network for nothing. Paths, keys and class names come from
outside: the template escapes whatever is not a chart of our own.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretext.engine.journal import Record, read_journal
from pretext.engine.run import Settings, run_settings
from pretext.files import write_atomically
from transfer.report.facts import calls, groups, remarks, steps_done
from transfer.report.finetuned import finetuned_facts
from transfer.report.images import image, newest_samples
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
from transfer.report.render import rendered
from transfer.report.result_panels import headline, result_panels
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
