"""The table of every row, against the results that it is of."""

import csv
from pathlib import Path
from typing import Any

import pytest
from fake_results import answers, row
from finished_studies import LEVELS, change_results, finished_study
from html_page import Page
from rich.console import Console

from pretext.store import seal, unseal
from pretint.study import write_study_report
from pretint.study.report import table as table_module
from pretint.study.report.page import read_results
from pretint.study.report.table import full_sheet
from transfer.layout import Number, Sheet
from transfer.metrics import Row
from transfer.report.published import TABLES

IMAGENET: dict[str, Any] = {"n_test": 50_000, "classes": tuple(f"n{number:08}" for number in range(1000))}


def full(folder: Path) -> Sheet | None:
    found = read_results(folder)
    return full_sheet(found, found.boards[0])


def stages(count: int = 5, images: int = 400) -> tuple[Row, ...]:
    return tuple(row(f"conv{at}", answers(0.2 + at / 50, at, images), at / 10) for at in range(1, count + 1))


def test_every_row_of_every_variant_is_in_all_files_and_not_in_the_terminal(tmp_path: Path) -> None:
    folder = finished_study(tmp_path)
    done = write_study_report(folder)
    (board,) = read_results(folder).boards
    cells = {line.variant: line.column.cells for line in board.lines if line.column}
    assert tuple(cells) == tuple(LEVELS)
    text, page = (folder / "report.md").read_text(), Page(folder / "report.html").text
    latex = (folder / "report.tex").read_text()
    assert "| stage | random | L2 | rebalanced |" in text
    for stage in ("conv1", "conv2", "conv3"):
        named = [
            (
                f"{100 * cell.score.value:.1f}",
                f"[{100 * cell.score.low:.1f}, {100 * cell.score.high:.1f}]",
                f"{100 * (cell.over_seeds or 0):.1f}",
            )
            for cell in (of[stage] for of in cells.values())
        ]
        bold, small = ("**{}**", "\\textbf{{{}}}") if stage == "conv3" else ("{}", "{}")
        markdown = [f"{bold.format(value)} {interval} +-{spread}" for value, interval, spread in named]
        assert f"| {stage} | {' | '.join(markdown)} |" in text
        of_latex = [f"{small.format(value)} {{\\scriptsize {bar} $\\pm${spread}}}" for value, bar, spread in named]
        assert f"{stage} & {' & '.join(of_latex)} \\\\" in latex
        html = [f"{value} ±{spread} {interval}" for value, interval, spread in named]
        assert f"{stage} {' '.join(html)}" in page
    console = Console(width=100)
    with console.capture() as caught:
        for line in done.terminal():
            console.print(line)
    assert "conv2" not in caught.get()
    assert "color health" not in caught.get()


def test_one_row_says_no_more_than_the_table(tmp_path: Path) -> None:
    folder = finished_study(tmp_path, {"random": 0.3, "L2": 0.5})
    change_results(tmp_path, rows=stages(1))
    assert full(folder) is None
    write_study_report(folder)
    assert "every row" not in (folder / "report.md").read_text()
    assert "Every row" not in Page(folder / "report.html").text


@pytest.mark.parametrize("count", [2, 5])
def test_of_many_rows_those_are_shown_that_are_like_the_one_of_the_table(tmp_path: Path, count: int) -> None:
    folder = finished_study(tmp_path, {"random": 0.3, "L2": 0.5}, (0,))
    ks = (5, 10, 20, 100)
    rows = [
        row(f"conv{at}", answers(0.2 + at / 50 + k / 1000, at, 400), None, f"k={k}")
        for at in range(1, count + 1)
        for k in ks
    ]
    change_results(tmp_path, rows=tuple(rows))
    sheet = full(folder)
    assert sheet
    names = [name for name, _ in sheet.grid.rows]
    shown = ks if count == 2 else (20,)
    assert names == [f"conv{at}, k={k}" for at in range(1, count + 1) for k in shown]
    assert any("5 of 20 rows" in line for line in sheet.footer) == (count == 5)
    assert [name for name, (first, _) in sheet.grid.rows if isinstance(first, Number) and first.best] == [
        f"conv{count}, k=20"
    ]
    write_study_report(folder)
    assert sum(one["network"] == "L2" for one in csv.DictReader((folder / "report.csv").open())) == 4 * count


def test_a_variant_without_a_row_has_none(tmp_path: Path) -> None:
    folder = finished_study(tmp_path, {"random": 0.3, "L2": 0.5}, (0,))
    change_results(tmp_path, "1-*", rows=stages(2))
    change_results(tmp_path, "0-*", rows=stages(4))
    sheet = full(folder)
    assert sheet
    assert [(name, bool(two)) for name, (_, two) in sheet.grid.rows] == [
        ("conv1", True), ("conv2", True), ("conv3", False), ("conv4", False)
    ]  # fmt: skip


def test_published_rows_stand_below_ours_where_the_protocol_is_theirs(tmp_path: Path) -> None:
    for protocol in ("zhang2016", "modern"):
        folder = finished_study(tmp_path / protocol, {"random": 0.3, "L2": 0.5}, (0,))
        change_results(tmp_path / protocol, rows=stages(5, 50_000), protocol=protocol, **IMAGENET)
        write_study_report(folder)
        page, text = Page(folder / "report.html"), (folder / "report.md").read_text()
        theirs = protocol == "zhang2016"
        assert ("RotNet" in page.text, "BiGAN" in page.text) == (False, theirs)
        assert ("| colorization | 12.5 | 24.5 | 30.4 | 31.5 | 30.3 |" in text) == theirs
        assert ("published, ImageNet: " in page.text) == theirs
        assert ("colorization 12.5 24.5 30.4 31.5 30.3" in page.text) == theirs
        assert ("- colorization: Zhang et al. 2016, as cited in" in text) == theirs
        assert ("7 published rows, with their sources" in page.text) == theirs
        ours = [one for one in text.splitlines() if one.startswith("| random | ") and one.count("[") == 5]
        assert len(ours) == theirs


def test_of_a_paper_that_says_but_its_best_stage_that_has_a_column(tmp_path: Path) -> None:
    folder = finished_study(tmp_path, {"random": 0.3, "L2": 0.5}, (0,))
    change_results(tmp_path, rows=stages(5, 50_000), protocol="goyal2019", **IMAGENET)
    sheet = full(folder)
    assert sheet
    assert sheet.grid.header == ("conv1", "conv2", "conv3", "conv4", "conv5", "best")
    rows = dict(sheet.grid.rows)
    assert rows["L2"][4] == rows["L2"][5]
    assert rows["jigsaw"] == ("", "", "", "", "", "34.8")
    assert all(len(cells) == 6 for cells in rows.values())
    write_study_report(folder)
    assert "| RotNet |  |  |  |  |  | 39.5 |" in (folder / "report.md").read_text()
    assert "RotNet: VISSL's model zoo; the best stage only; checked" in (folder / "report.tex").read_text()


def test_published_rows_of_detection_stand_by_their_own_rule_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (table,) = [one for one in TABLES if one.metric == "AP"]
    monkeypatch.setattr(table_module, "published", lambda *_: table)
    folder = finished_study(tmp_path, {"random": 0.3, "L2": 0.5}, (0,))
    rules = ("11 points", "all points")
    change_results(tmp_path, rows=[row("all", answers(0.3 + at / 10, at), None, rule) for at, rule in enumerate(rules)])
    plan = unseal((folder / "plan.json").read_bytes())
    plan["evaluations"]["probe"]["row"] = "all, 11 points"
    (folder / "plan.json").write_bytes(seal(plan))
    sheet = full(folder)
    assert sheet and sheet.grid.header == ("all, 11 points", "all, all points")
    assert dict(sheet.grid.rows)["random (Gaussian)"] == ("43.4", "")
    assert dict(sheet.grid.rows)["colorization, gray"] == ("46.1", "")
