"""The report: one page about the training and the results of a run, to read or to send.

The page is one HTML file that loads nothing from the network. Paths, keys and class names come from
outside, so the template escapes everything except our own charts.
"""

import shlex
from functools import partial
from pathlib import Path
from typing import Any

from pretext.engine.journal import read_journal
from pretext.engine.run import run_settings
from pretext.files import write_atomically
from pretext.methods.colorization import COMMON_MASS
from transfer.report.panels import (
    health_panel,
    held_out_panel,
    loss_panel,
    method_of,
    of_kind,
    online_panel,
    result_file,
    setting,
    speed_panels,
    words_of,
)
from transfer.report.render import image, newest_samples, render_page
from transfer.report.result_panels import headline, result_panels
from transfer.results import read_result


def write_report(run: Path) -> Path:
    """Write RUN/report.html: the results, the curves, the samples and the settings of a run.

    Args:
        run: a pretraining run; or a fine-tuning run, RUN/finetuned/NAME, whose page shows that one network and task.

    Returns:
        The file.

    Raises:
        UserError: there is no run, or a file in it cannot be read or has been damaged.
    """
    settings, records = run_settings(run), read_journal(run)
    task = str(settings["task"]) if "task" in settings else ""
    files = sorted((run / "results").glob("*.json"))
    if task:
        files = [file for file in [result_file(run)] if file]
    results = [read_result(file) for file in files]
    panels = result_panels(results, alone=bool(task))
    if task:
        trained = words_of(f"above {settings['freeze_to']}" if settings.get("freeze_to") else "all")
        facts: dict[str, Any] = {
            "result": results[0] if results else None,
            "trained": trained,
            "scores": held_out_panel(records),
            "tested": image(run / "samples" / "test.png"),
        }
    else:
        facts = {
            "probe_command": f"pretint probe {shlex.quote(str(run))} --train FOLDER --test FOLDER",
            "main": headline(panels),
            "method": method_of(settings),
            "colors": method_of(settings) == "colorization",
            "health": health_panel(settings, records),
            "online": online_panel(settings, records),
            "colored": image(run / "colored" / "sheet.png"),
        }
    groups = {str(group): values for group, values in settings.items() if isinstance(values, dict)}
    groups["other"] = {name: value for name, value in settings.items() if not isinstance(value, dict)}
    starts, steps = of_kind(records, "start"), setting(settings, "training", "steps")
    last = starts[-1] if starts else {}
    page = render_page(
        "run.html.jinja",
        name=run.resolve().name,
        path=str(run),
        task=task,
        panels=panels,
        loss=loss_panel(records),
        speed=speed_panels(records),
        samples=newest_samples(run),
        common=COMMON_MASS,
        held_out=any(record.get("held_out") for record in starts),
        # Images that training skipped, and annotations that were corrected: key and reason, each once.
        skipped=list(dict.fromkeys((str(one["key"]), str(one["reason"])) for one in of_kind(records, "skipped"))),
        settings=settings,
        get=partial(setting, settings),
        setting_groups=groups,
        starts=starts,  # one for each call of the job
        machine={name: value for name, value in last.items() if name not in ("kind", "step", "time", "versions")},
        done=max((record["step"] for record in of_kind(records, "step")), default=0),
        total_steps=steps if isinstance(steps, int) else None,
        **facts,
    )
    path = run / "report.html"
    write_atomically(path, page)
    return path
