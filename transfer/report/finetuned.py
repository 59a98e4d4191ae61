"""What the page of a run of fine-tuning says: of one network, on one task."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pretext.engine.journal import Record
from pretext.engine.run import Settings
from transfer.report.charts import finite
from transfer.report.images import image
from transfer.report.panels import column, of_kind, setting
from transfer.report.result_charts import color_of
from transfer.report.result_panels import result_panels
from transfer.report.trainings import result_file, words_of
from transfer.report.tuning_charts import Course, courses_chart
from transfer.results import read_result

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
