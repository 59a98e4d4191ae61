"""The trainings of an evaluation's networks: their losses, held-out scores, and predictions for test images.

The run RUN/finetuned/NAME made the result RUN/results/NAME.json. A result of a network without a run is next to the
folder ``finetuned``.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from pretext.engine.journal import read_journal
from transfer.columns import Column
from transfer.report.charts import finite, running_median
from transfer.report.panels import column, of_kind
from transfer.report.render import image
from transfer.report.result_charts import Course, courses_chart, shorten
from transfer.results import Result

MOST_SHEETS = 24
"""Sheets on a page, at most."""

_ROOM = 3_300_000  # bytes of all sheets of a page, before they are written as text
_DRAWN = 12  # courses of a chart
_LETTERS = 34  # of a name in a chart's legend


class Training(NamedTuple):
    """A result of fine-tuning, and the run that made it."""

    result: Result
    label: str
    """Name of its network; with the trained part and the seed, if others have the same name."""
    color: str
    style: int
    folder: Path


def folder_of(result: Result) -> Path:
    """Return the run that made a result of fine-tuning, whether or not it still exists."""
    file = Path(result.file)
    home = file.parent.parent if file.parent.name == "results" else file.parent
    return home / "finetuned" / file.stem


def result_file(run: Path) -> Path | None:
    """Return the result file of a run of fine-tuning, if there is one."""
    run = run.resolve()
    home, name = run.parent.parent, f"{run.name}.json"
    return next((file for file in (home / "results" / name, home / name) if file.is_file()), None)


def sheets_of(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Return sheets of test images by result file: the newest weights first, small enough that a page holds all."""
    tuned = [result for result in results if result.mode == "fine-tuned" and result.file]
    tuned.sort(key=lambda result: -result.network.step)
    paths = {result.file: folder_of(result) / "samples" / "test.png" for result in tuned}
    shown = [(file, path) for file, path in paths.items() if path.is_file()][:MOST_SHEETS]
    sheets = {file: image(path, _ROOM // len(shown)) for file, path in shown}
    return {file: sheet for file, sheet in sheets.items() if sheet is not None}


def trainings(group: Sequence[Result], columns: Sequence[Column], colors: Sequence[str]) -> list[Training]:
    """Return the trainings of an evaluation, by column; those with the fewest trained weights come first.

    Args:
        group: its results.
        columns: the same, as columns.
        colors: the color of every column.
    """
    trained = list(dict.fromkeys(row.stage for column in columns for row in column.first.rows))
    runs = []
    for of_column, color in zip(columns, colors, strict=True):
        first = of_column.first
        results = [r for r in group if (r.network.group, r.view_size) == (first.network.group, first.view_size)]
        seeds = {(result.network.seed, result.seed) for result in results}
        for result in sorted(results, key=lambda result: trained.index(result.rows[0].stage)):
            stage = result.rows[0].stage
            words = [of_column.label, words_of(stage) if len(trained) > 1 else ""]
            words += [f"seed {result.network.seed}/{result.seed}" if len(seeds) > 1 else ""]
            style = trained.index(stage)
            runs.append(Training(result, ", ".join(filter(None, words)), color, style, folder_of(result)))
    return runs


def words_of(trained: str) -> str:
    """Return the name of the trained part for a caption; "all" means the whole network."""
    return "all trained" if trained == "all" else f"trained {trained}"


def trainings_panel(anchor: str, runs: Sequence[Training], sheets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return charts of losses and held-out scores, and the sheets of test images, with the most trained weights first.

    Args:
        anchor: the anchor of the evaluation on the page.
        runs: its trainings.
        sheets: see ``sheets_of``.
    """
    journals = [(run, read_journal(run.folder)) for run in runs if (run.folder / "journal.jsonl").is_file()]
    losses, scores = [], []
    for run, records in journals[:_DRAWN]:
        label = shorten(run.label, _LETTERS)
        steps, health = of_kind(records, "step"), of_kind(records, "health")
        x, y = finite([record["step"] for record in steps], column(steps, "loss"))
        losses.append(Course(label, *(running_median(x, y) if len(x) else (x, y)), run.color, run.style))
        # The journal's key of the row's score on the held-out images.
        key = re.sub(r"\W+", "_", run.result.rows[0].variant or "score")
        scores.append(Course(label, [record["step"] for record in health], column(health, key), run.color, run.style))
    return {
        "loss": _chart(f"{anchor}-loss", "Training loss over steps", losses),
        "score": _chart(f"{anchor}-held-out", "Score on held-out images over steps", scores, percent=True),
        "variant": runs[0].result.rows[0].variant if runs else "",
        "left_out": max(0, len(journals) - _DRAWN),
        "sheets": [
            {"label": run.label, "words": words_of(run.result.rows[0].stage), "image": sheets[run.result.file]}
            for run in sorted(runs, key=lambda run: -run.style)
            if run.result.file in sheets
        ],
        "sheets_left_out": sum(
            run.result.file not in sheets and (run.folder / "samples" / "test.png").is_file() for run in runs
        ),
    }


def _chart(name: str, title: str, courses: Sequence[Course], percent: bool = False) -> Markup | None:
    shown = [course for course in courses if len(finite(course.steps, course.values)[0])]
    return Markup(courses_chart(name, title, shown, dots=percent, percent=percent)) if shown else None
