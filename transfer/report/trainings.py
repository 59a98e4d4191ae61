"""How the networks of an evaluation were fine-tuned: their losses, held-out scores, and what they answer to images.

A result RUN/results/NAME.json was made by the run RUN/finetuned/NAME; one that is no run's lies beside the folder
``finetuned``.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from pretext.engine.journal import Record, read_journal
from transfer.columns import Column
from transfer.report.charts import finite, running_median
from transfer.report.panels import column, of_kind
from transfer.report.render import image
from transfer.report.result_charts import Course, courses_chart, shortened
from transfer.results import Result

MOST_SHEETS = 24
"""Of a page."""

_ROOM = 3_300_000  # bytes of all sheets of a page, before they are written as text
_DRAWN = 12  # courses of a chart
_LETTERS = 34  # of a name in a chart's legend


class Training(NamedTuple):
    """One result of fine-tuning, and the run that it is of."""

    result: Result
    label: str
    """Of its network; with what was trained, and the seed, where these tell it from others."""
    color: str
    style: int
    folder: Path


def folder_of(result: Result) -> Path:
    """The run that a result of fine-tuning was made by, whether or not it is still there."""
    file = Path(result.file)
    home = file.parent.parent if file.parent.name == "results" else file.parent
    return home / "finetuned" / file.stem


def result_file(run: Path) -> Path | None:
    """The result that a run of fine-tuning has led to, if it has."""
    run = run.resolve()
    home, name = run.parent.parent, f"{run.name}.json"
    return next((file for file in (home / "results" / name, home / name) if file.is_file()), None)


def sheets_of(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """The sheets of test images by file of result: the newest weights first, and so light that a page holds all."""
    tuned = [result for result in results if result.mode == "fine-tuned" and result.file]
    tuned.sort(key=lambda result: -result.network.step)
    found = [(one.file, path) for one in tuned if (path := folder_of(one) / "samples" / "test.png").is_file()]
    shown = found[:MOST_SHEETS]
    drawn = ((file, image(path, _ROOM // len(shown))) for file, path in shown)
    return {file: sheet for file, sheet in drawn if sheet is not None}


def trainings(group: Sequence[Result], columns: Sequence[Column], colors: Sequence[str]) -> list[Training]:
    """The trainings of an evaluation, by column, those of which the least was trained first.

    Args:
        group: its results.
        columns: what they were joined to.
        colors: of every column.
    """
    trained = list(dict.fromkeys(row.stage for column in columns for row in column.first.rows))
    found = []
    for of_column, color in zip(columns, colors, strict=True):
        first = of_column.first
        own = [r for r in group if (r.network.group, r.view_size) == (first.network.group, first.view_size)]
        seeds = {(result.network.seed, result.seed) for result in own}
        for result in sorted(own, key=lambda one: trained.index(one.rows[0].stage)):
            stage = result.rows[0].stage
            words = [of_column.label, words_of(stage) if len(trained) > 1 else ""]
            words += [f"seed {result.network.seed}/{result.seed}" if len(seeds) > 1 else ""]
            style = trained.index(stage)
            found.append(Training(result, ", ".join(filter(None, words)), color, style, folder_of(result)))
    return found


def words_of(trained: str) -> str:
    """What was trained, in words: "all" is said to be of the network."""
    return "all trained" if trained == "all" else f"trained {trained}"


def trainings_panel(anchor: str, found: Sequence[Training], sheets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Charts of the losses and of the held-out scores; the sheets of test images, where most was trained first.

    Args:
        anchor: of the evaluation.
        found: its trainings.
        sheets: see ``sheets_of``.
    """
    journals = [(one, read_journal(one.folder)) for one in found if (one.folder / "journal.jsonl").is_file()]
    losses = [_loss(one, records) for one, records in journals[:_DRAWN]]
    scores = [_score(one, records) for one, records in journals[:_DRAWN]]
    variant = found[0].result.rows[0].variant if found else ""
    return {
        "loss": _chart(f"{anchor}-loss", "Training loss over steps", losses),
        "score": _chart(f"{anchor}-held-out", "Score on held-out images over steps", scores, percent=True),
        "variant": variant,
        "left_out": max(0, len(journals) - _DRAWN),
        "sheets": [
            {"label": one.label, "words": words_of(one.result.rows[0].stage), "image": sheets[one.result.file]}
            for one in sorted(found, key=lambda one: -one.style)
            if one.result.file in sheets
        ],
        "sheets_left_out": sum(
            one.result.file not in sheets and (one.folder / "samples" / "test.png").is_file() for one in found
        ),
    }


def score_key(variant: str) -> str:
    """Under which the journal has a row's score on the held-out images."""
    return re.sub(r"\W+", "_", variant or "score")


def _loss(one: Training, records: Sequence[Record]) -> Course:
    taken = of_kind(records, "step")
    x, y = finite([record["step"] for record in taken], column(taken, "loss"))
    return Course(shortened(one.label, _LETTERS), *(running_median(x, y) if len(x) else (x, y)), one.color, one.style)


def _score(one: Training, records: Sequence[Record]) -> Course:
    looks = of_kind(records, "health")
    values = column(looks, score_key(one.result.rows[0].variant))
    return Course(shortened(one.label, _LETTERS), [record["step"] for record in looks], values, one.color, one.style)


def _chart(name: str, title: str, courses: Sequence[Course], percent: bool = False) -> Markup | None:
    shown = [course for course in courses if len(finite(course.steps, course.values)[0])]
    return Markup(courses_chart(name, title, shown, dots=percent, percent=percent)) if shown else None
