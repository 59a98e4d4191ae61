"""Results of fine-tuning where all results are shown: one column, numbers by class, comparisons."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detections import make_images
from fake_results import answers, ranking, result, row, written
from rich.console import Console

from pretext.errors import UserError
from transfer.bootstrap import centered
from transfer.columns import columns
from transfer.compare import compare, compare_paths, comparison_lines
from transfer.metrics import BoxAP, Detections, MeanIoU, Row, make_row
from transfer.results import Result, write_result
from transfer.table import TableSettings, format_tables, tables

CLASSES = ("cat", "dog", "fish", "newt")


def trained(stage: str, weights: int, seed: int = 0) -> list[Row]:
    """Three rows of one detector; no image shows the last class."""
    found, truth = make_images(np.random.default_rng(0), 40, 3)
    rng = np.random.default_rng(seed + 1)
    said = [(one[0], rng.random(len(one[1])).astype(np.float32), one[2]) for one in found]
    boxes = Detections.of(said, truth, 4)
    rules = ("11 points", "all points", "COCO")
    return [make_row(stage, rule, weights, "", {}, None, [BoxAP(boxes, rule)]) for rule in rules]  # type: ignore[arg-type]


def tuned(name: str = "color", seed: int = 0, stage: str = "all", weights: int = 900, **changed: Any) -> Result:
    rows = trained(stage, weights, seed + weights)
    known = {"rows": rows, "mode": "fine-tuned", "protocol": "detection", "classes": CLASSES, "n_holdout": 0}
    return result(name, seed, **(known | changed))


def text(lines: Any) -> str:
    console = Console(width=200, file=io.StringIO())
    for line in lines:
        console.print(line, crop=False)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_what_was_trained_stands_in_one_column() -> None:
    parts = [tuned(), tuned(stage="above conv5", weights=100), tuned(stage="above conv3", weights=400)]
    again = tuned(stage="above conv5", weights=100)
    (column,) = columns([*parts, again])
    wanted = [
        f"{stage}, {rule}"
        for stage in ("above conv5", "above conv3", "all")
        for rule in ("11 points", "all points", "COCO")
    ]
    assert list(column.names) == wanted and len(column.results) == 1 and column.best is None
    assert column.cells["above conv3, COCO"].score == parts[2].rows[2].score
    assert column.first.cost.seconds == sum(part.cost.seconds for part in parts)
    assert column.first.cost.images_per_second == pytest.approx(parts[0].cost.images_per_second)
    others = tuned("random", stage="above conv4", weights=200), tuned("random")
    (grid,) = [section.grid for section in tables([*parts, *others]).sections]
    assert [name for name, _ in grid.rows][2:6] == [
        "above conv5, COCO",
        "above conv4, 11 points",
        "above conv4, all points",
        "above conv4, COCO",
    ]
    other = tables([tuned("random"), *parts[1:], parts[0]]).sections[0].grid
    assert [name for name, _ in other.rows] == wanted, "all is last, whichever network has more rows"


def test_seeds_of_fine_tuning_are_joined() -> None:
    made = [
        tuned(f"color-{seed}", seed, stage, weights, group="g")
        for seed in range(2)
        for stage, weights in (("all", 900), ("above conv4", 5))
    ]
    (column,) = columns(made)
    assert len(column.results) == 2 and column.names[0] == "above conv4, 11 points"
    cell = column.cells["all, COCO"]
    values = [made[at].rows[2].outcomes[0].value for at in (0, 2)]
    assert cell.score.value == pytest.approx(np.mean(values)) and cell.over_seeds == pytest.approx(
        np.std(values, ddof=1)
    )
    with pytest.raises(UserError, match="has other rows than"):
        columns(made[:3])


def test_frozen_features_still_count_once() -> None:
    few = result(rows=[row("conv1", answers(0.5, 0))])
    assert [one.names for one in columns([few, result()])] == [("conv1", "conv2", "conv3")]


def test_numbers_by_class() -> None:
    made = tuned()
    first, *_ = tables([made], per_class=True).sheets
    assert first.title == (
        "detection, all, 11 points: average precision of boxes by class on 40 test images of photos/test, %"
    )
    assert first.grid.header == ("objects", "color") and [name for name, _ in first.grid.rows] == list(CLASSES)
    outcome = made.rows[0].outcomes[0]
    assert isinstance(outcome, BoxAP)
    for at, (_, (count, cell)) in enumerate(first.grid.rows[:3]):
        assert count == f"{outcome.positives[at]:,}"
        assert cell.score == centered(float(outcome.per_class()[at]), outcome.resampled_classes[at])  # type: ignore[union-attr]
    assert first.grid.rows[3] == ("newt", ("0", "")), "a class that no image shows has no number"
    shown = text(format_tables([made], TableSettings(per_class=True)))
    assert shown.count("by class on") == 3 and shown.count("images with all their boxes") == 1
    for kind in ("markdown", "latex"):
        assert text(format_tables([made], TableSettings(kind, per_class=True))).count("newt") == 3  # type: ignore[arg-type]


def test_numbers_by_class_as_csv() -> None:
    made = [tuned(f"color-{seed}", seed, group="g") for seed in range(2)]
    written = "\n".join(map(str, format_tables(made, TableSettings("csv", per_class=True))))
    lines = list(csv.DictReader(io.StringIO(str(written))))
    assert len(lines) == 3 * 3 and [line["class"] for line in lines[:3]] == list(CLASSES[:3])
    line = next(one for one in lines if (one["variant"], one["class"]) == ("COCO", "dog"))
    each = [one.rows[2].outcomes[0].per_class()[1] for one in made]  # type: ignore[attr-defined]
    assert float(line["value"]) == pytest.approx(np.mean(each))
    assert float(line["sd_over_seeds"]) == pytest.approx(np.std(each, ddof=1))
    assert float(line["low"]) < float(line["value"]) < float(line["high"]) and line["metric"] == "AP"


def test_multi_label_and_masks_have_numbers_by_class_and_top_1_has_not() -> None:
    several = result(
        rows=[row("conv1", ranking(0.5, 0)), row("conv2", [ranking(1.0, 1), ranking(1.0, 2)], None, "4 shots")]
    )
    counts = np.random.default_rng(0).integers(0, 99, (20, 4, 4))
    masks = result(rows=[row("all", MeanIoU(counts), None)], mode="fine-tuned", classes=CLASSES, protocol="masks")
    found = tables([several, masks], per_class=True)
    assert [sheet.grid.header[0] for sheet in found.sheets] == ["images", "images", "pixels"]
    assert found.sheets[1].grid.rows[0][1][1].spread is not None  # type: ignore[union-attr]
    assert "average precision by class" in found.sheets[0].title
    assert "masks, all: intersection over union by class" in written(found, "markdown")
    assert tables([result(), several], per_class=True).sheets == tables([several], per_class=True).sheets
    with pytest.raises(
        UserError, match=r"^color: no numbers by class.*top-1 accuracy stores .*; leave out --per-class"
    ) as caught:
        tables([result()], per_class=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no results to show"):
        tables([], per_class=True)


def test_comparison() -> None:
    first, second = tuned("random", kind="random"), tuned("color", 1)
    found = compare([[first], [second]])
    assert [line.name for line in found.pairs[0].lines] == ["all, 11 points", "all, all points", "all, COCO"]
    line = found.pairs[0].lines[0]
    assert line.gap.difference.value == pytest.approx(line.second.value - line.first.value)
    assert line.gap.test == "swaps of images" and 0 < line.gap.p <= 1
    shown = text(comparison_lines(found))
    assert "mean average precision of boxes on 40 test images" in shown
    with pytest.raises(UserError, match="other metric"):
        compare([[first], [result(rows=[row("all", answers(0.5, 0, 40))], protocol="detection", n_holdout=0)]])


def test_files_are_compared(tmp_path: Path) -> None:
    """Each stage was a job of its own; the row that both networks have is compared."""
    for at, one in enumerate((tuned(), tuned(stage="above conv4", weights=5), tuned("random", 1, kind="random"))):
        write_result(tmp_path / f"{at}.json", one)
    found = compare_paths([f"random:{tmp_path}", str(tmp_path)])
    assert [line.name for line in found.pairs[0].lines] == ["all, 11 points", "all, all points", "all, COCO"]
    assert found.pairs[0].left_out[0] == "above conv4, 11 points"
