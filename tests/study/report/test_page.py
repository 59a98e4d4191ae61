"""A study's report, against the results that it is of."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from browser import measure_layout
from finished_runs import write_journal
from finished_studies import STEPS, change_results, finished_study
from html_page import Page
from PIL import Image
from rich.console import Console

import pretint.cli
from pretext.engine.journal import read_journal
from pretext.errors import UserError
from pretext.store import seal, unseal
from pretint.study import write_study_report
from pretint.study.cells import PLAN, read_plan
from pretint.study.report.page import read_results
from transfer import columns
from transfer.bootstrap import holm
from transfer.columns import Column
from transfer.results import Cost, read_result, write_result

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<script>alert(1)</script>"


def columns_of(folder: Path, variants: int = 3, evaluation: int = 0, seeds: int = 2) -> list[Column]:
    """What was written to the results of each variant, read again."""
    found = []
    for number in range(variants):
        files = [
            next((folder.parent / "results").glob(f"{number}-{seed}-{evaluation}.*/*.json")) for seed in range(seeds)
        ]
        found.append(Column(str(number), tuple(map(read_result, files))))
    return found


def shown(folder: Path) -> str:
    console = Console(width=100)
    with console.capture() as caught:
        for line in write_study_report(folder).terminal():
            console.print(line)
    return caught.get()


def test_the_numbers_are_those_of_the_results_in_all_formats(tmp_path: Path) -> None:
    folder = finished_study(tmp_path)
    assert [file.name for file in write_study_report(folder).files] == [
        f"report.{one}" for one in ("html", "md", "tex", "csv")
    ]
    base, *others = columns_of(folder)
    gaps = [columns.test_difference(base, other, "conv3", "conv3") for other in others]
    page, text = Page(folder / "report.html"), (folder / "report.md").read_text()
    latex, lines = (folder / "report.tex").read_text(), list(csv.DictReader((folder / "report.csv").open()))
    for name, column in zip(("random", "L2", "rebalanced"), (base, *others), strict=True):
        cell = column.cells["conv3"]
        value, spread = f"{100 * cell.score.value:.1f}", f"{100 * (cell.over_seeds or 0):.1f}"
        interval = f"[{100 * cell.score.low:.1f}, {100 * cell.score.high:.1f}]"
        bold = f"**{value}**" if name == "rebalanced" else value
        assert f"| {name} | {bold} {interval} +-{spread} |" in text
        assert f"{value} ±{spread} {interval} conv3" in page.text
        assert f"{{\\scriptsize {interval}$\\pm${spread}}}" in latex.replace(" $\\pm$", "$\\pm$")
        (line,) = [one for one in lines if one["network"] == name and one["shown"] == "True"]
        assert (line["stage"], line["seeds"], float(line["value"])) == ("conv3", "0;1", cell.score.value)
        assert sum(one["network"] == name for one in lines) == 3
    for name, gap, adjusted in zip(("L2", "rebalanced"), gaps, holm([gap.p for gap in gaps]), strict=True):
        assert gap.over_seeds
        p = "<0.0001" if adjusted < 1e-4 else f"{adjusted:.4f}"
        signed = [f"{100 * one:+.1f}" for one in (*gap.difference, *gap.over_seeds[1:])]
        assert f"| {name} - random | {signed[0]} [{signed[1]}, {signed[2]}] |" in text
        assert f"{name} {p}" in text.replace("\\<", "<")
        assert f"{name} \\[{signed[3]}, {signed[4]}\\]" in text
        minus = [one.replace("-", "\N{MINUS SIGN}") for one in signed]
        said = f"p < {p[1:]}" if p.startswith("<") else f"p = {p}"
        assert f"{minus[0]} [{minus[1]}, {minus[2]}] {said} seeds: [{minus[3]}, {minus[4]}]" in page.text
        (line,) = [one for one in lines if one["network"] == name and one["shown"] == "True"]
        assert [float(line[key]) for key in ("difference", "difference_low", "difference_high")] == [*gap.difference]
        assert (float(line["p_holm"]), line["tests"], line["against"]) == (adjusted, "2", "random")
        assert float(line["difference_over_seeds_high"]) == gap.over_seeds.high
    assert "after Holm's correction for 2 tests" in page.text
    assert max(map(len, shown(folder).splitlines())) <= 100


def test_cost_and_health_are_means_over_seeds(tmp_path: Path) -> None:
    folder = finished_study(tmp_path)
    found = read_results(folder)
    assert "random" not in found.costs
    assert found.costs["L2"].seconds == pytest.approx(STEPS * 10 / 0.5)
    assert found.costs["L2"].images == STEPS * 10
    health = found.health["L2"]
    assert health.values == {"loss": (4.5, pytest.approx(0.5**0.5)), "saturation": (0.8, 0.0)}
    assert (health.step, health.seeds, health.held_out) == (STEPS, 2, 256)
    write_study_report(folder)
    page = Page(folder / "report.html")
    assert "L2 4.500 ±0.707 0.800 ±0.000 7 2" in page.text
    assert "on images that are never trained on: mean over seeds" in page.text
    assert "L2 2.3 7 70 cpu" in page.text
    assert "pretint probe runs/0-0.000000000000 --out=results/0-0-0.000000000000 '--train=a b'" in page.text
    assert "objective.name regression regression" in page.text


def test_evaluations_take_their_mean_over_seeds(tmp_path: Path) -> None:
    folder = finished_study(tmp_path, evaluations=("probe", "neighbors"), without=("rebalanced 1 probe",))
    for number, seed, seconds in ((1, 0, 60.0), (1, 1, 201.0), (2, 0, 2.9)):
        change_results(tmp_path, f"{number}-{seed}-0.*", cost=Cost(seconds, 1.0, 1.0, 0, 0, "a GPU"))
    write_study_report(folder)
    lines = list(csv.DictReader((folder / "report.csv").open()))
    took = {(one["network"], one["evaluation"]): float(one["seconds"]) for one in lines}
    assert len(took) == 6
    assert (took["L2", "probe"], took["rebalanced", "probe"]) == (130.5, 2.9)
    assert took["random", "neighbors"] == 12.5
    for row in ("| random | 0.2 | 0.2 |", "| L2 | 2.2 | 0.2 |", "| rebalanced | \\<0.1 | 0.2 |"):
        assert row in (folder / "report.md").read_text()
    assert "rebalanced & \\textless{}0.1 & 0.2" in (folder / "report.tex").read_text()
    page = Page(folder / "report.html")
    assert "variant probe neighbors random 0.2 0.2 L2 2.2 0.2 rebalanced <0.1 0.2" in page.text
    assert "mean over seeds; on cpu, a GPU" in page.text
    assert "The time of scoring colors is not kept" not in page.text


def test_what_is_missing_is_said_with_its_reason(tmp_path: Path) -> None:
    folder = finished_study(
        tmp_path, without=("L2 1 probe", "rebalanced 0", "rebalanced 0 probe", "rebalanced 1 probe")
    )
    (tmp_path / "logs").mkdir()
    told = {"code": 1, "said": f"pretint: {HOSTILE}"}
    (tmp_path / "logs" / "2-0.000002000000.failed").write_bytes(seal(told))
    write_study_report(folder)
    page, text = Page(folder / "report.html"), (folder / "report.md").read_text()
    assert "Cells finished 6 of 10" in page.text
    assert f"rebalanced 0 failed: pretint: {HOSTILE}" in page.text
    assert "rebalanced 0 probe rebalanced 0 failed, which it needs" in page.text
    assert "L2 1 probe, rebalanced 1 probe not finished" in page.text
    assert "without seed 1" in page.text
    assert "rebalanced missing" in page.text
    assert re.search(r"\| rebalanced \| missing \|", text)
    assert "missing: L2 1 probe, rebalanced 1 probe: not finished" in text
    assert "script" not in page.tags
    assert "missing: rebalanced 0: failed: pretint: \\<script\\>" in text


def test_nothing_is_finished_yet(tmp_path: Path) -> None:
    cells = [f"{name} 0{end}" for name in ("random", "L2") for end in ("", " probe", " color")]
    folder = finished_study(tmp_path, {"random": 0.3, "L2": 0.4}, (0,), without=tuple(cells), colors=True)
    write_study_report(folder)
    page = Page(folder / "report.html")
    assert "Cells finished 0 of 4" in page.text
    assert page.text.count("Nothing is finished") == 2
    assert "No variant that colors is finished" in page.text


def test_a_damaged_result_is_missing_with_its_reason(tmp_path: Path) -> None:
    folder = finished_study(tmp_path, colors=True)
    torn, scores = (next((tmp_path / "results").glob(one)) for one in ("1-0-0.*/*.json", "2-1-1.*/*.json"))
    torn.write_bytes(torn.read_bytes()[:400])
    scores.write_text("")
    write_study_report(folder)
    page, text = Page(folder / "report.html"), (folder / "report.md").read_text()
    assert "Cells finished 12 of 14" in page.text
    assert f"L2 0 probe {torn}: not a result, or damaged" in page.text and "without seed 0" in page.text
    assert f"rebalanced 1 color {scores}: not scores, or damaged" in page.text
    assert "| L2 | " in text and "missing: L2 0 probe: " in text
    lines = list(csv.DictReader((folder / "report.csv").open()))
    seeds = {(one["network"], one["evaluation"]): one["seeds"] for one in lines}
    assert (seeds["L2", "probe"], seeds["L2", "color"], seeds["rebalanced", "color"]) == ("1", "0;1", "0")


SILENT = "minutes of L2 0: no journal there, or none that tells the speed"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("journal.jsonl", None, SILENT),
        ("journal.jsonl", '{"kind": "start", "step": 0, "held_out": 5}', SILENT),
        ("settings.yaml", "{}", "settings.yaml holds no training.batch_size; restore the file if it was edited"),
        ("settings.yaml", "training: {batch_size: 10}\nmethod: 5", "settings.yaml holds no method.name"),
    ],
)
def test_what_a_damaged_run_does_not_tell_does_not_count(
    tmp_path: Path, name: str, text: str | None, said: str
) -> None:
    folder = finished_study(tmp_path)
    (damaged,) = (tmp_path / "runs").glob(f"1-0.*/{name}")
    if text is None:
        damaged.unlink()
    else:
        damaged.write_text(text)
        if name == "journal.jsonl":
            write_journal(damaged.parent, [json.loads(text)])
    write_study_report(folder)
    costs = read_results(folder).costs
    assert costs["L2"] == costs["rebalanced"], "the mean of what is told"
    page, shown = Page(folder / "report.html").text, (folder / "report.md").read_text().replace("\\", "")
    assert all("L2 0: " in one and said in one for one in (page, shown))
    (other,) = (tmp_path / "runs").glob("1-1.*/journal.jsonl")
    other.write_text("")
    assert "L2" not in read_results(folder).costs
    write_study_report(folder)


def test_checkpoints_that_are_not_the_runs_own_do_not_count(tmp_path: Path) -> None:
    folder = finished_study(tmp_path)
    for at, run in enumerate(sorted((tmp_path / "runs").iterdir())):
        (run / "checkpoints" / ("9x.pt", f"{STEPS:08}_copy.pt")[at % 2]).touch()
    assert not read_results(folder).missing
    for run in (tmp_path / "runs").iterdir():
        (run / "checkpoints" / f"{STEPS:08}.pt").unlink()
    assert len(read_results(folder).missing) == 4


def test_a_row_that_a_variant_does_not_have_falls_back(tmp_path: Path) -> None:
    folder = finished_study(tmp_path)
    plan = unseal((folder / "plan.json").read_bytes())
    for asked, rows, rule in (
        ("nope", {"conv3"}, "nope, as the study's file says; random, L2, rebalanced: no such row, so the usual one"),
        ("conv2", {"conv2"}, "conv2, as the study's file says"),
    ):
        plan["evaluations"]["probe"]["row"] = asked
        (folder / "plan.json").write_bytes(seal(plan))
        write_study_report(folder)
        (board,) = read_results(folder).boards
        assert ({line.row for line in board.lines}, board.rule, board.error) == (rows, rule, "")
        assert f"row: {rule}" in (folder / "report.md").read_text().replace("\\", "")
    for file in (tmp_path / "results").glob("1-*/*.json"):
        made = read_result(file)
        write_result(file, replace(made, rows=(made.rows[0], made.rows[2])))
    (board,) = read_results(folder).boards
    assert [line.row for line in board.lines] == ["conv2", "conv3", "conv2"] and "; L2: no such row" in board.rule


def test_a_folder_of_studies_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished_study(tmp_path)
    for asked in (tmp_path, folder / "plan.json"):
        assert pretint.cli.main(["report", str(asked)]) == 2
        line = capsys.readouterr().err.strip()
        assert line == f"pretint: {asked}: neither a run nor a study; name one: {folder}"


def test_results_of_different_images_are_no_table(tmp_path: Path) -> None:
    folder = finished_study(tmp_path)
    file = next((tmp_path / "results").glob("2-0-0.*/*.json"))
    write_result(file, replace(read_result(file), test_digest="f" * 64))
    write_study_report(folder)
    assert "These results cannot be shown in one table: " in Page(folder / "report.html").text
    assert "probe cannot be shown in one table: " in (folder / "report.md").read_text()


def test_colors_are_compared_with_the_variant_that_the_study_names(tmp_path: Path) -> None:
    folder = finished_study(tmp_path, colors=True)
    plan = unseal((folder / "plan.json").read_bytes())
    plan["evaluations"]["color"]["against"] = "rebalanced"
    (folder / "plan.json").write_bytes(seal(plan))
    write_study_report(folder)
    lines = [one for one in csv.DictReader((folder / "report.csv").open()) if one["metric"] == "auc_balanced"]
    assert [one["against"] for one in lines] == ["rebalanced", ""]
    assert "differences: method minus rebalanced" in (folder / "report.md").read_text()


def test_colors_join_seeds_are_kept_and_outlive_the_networks(tmp_path: Path) -> None:
    folder = finished_study(tmp_path, colors=True)
    write_study_report(folder)
    text = (folder / "report.md").read_text()
    assert "| variant | probe | color, AuC balanced | minutes |" in text
    kept = json.loads((folder / "colors.json").read_text())["evaluations"]["color"]["scores"]
    methods = {one["method"]: one for one in kept["methods"]}
    assert list(methods) == ["L2", "rebalanced", "gray", "random", "truth"]
    (line,) = [one for one in text.splitlines() if one.startswith("| random |") and "missing" not in one][:1]
    assert line.count("[") == 1, "the baseline of random colors is not the variant of that name"
    score = methods["L2"]["scores"]["auc_balanced"]
    value, low, high = (100 * one for one in score)
    number = f"{value:.1f} [{low:.1f}, {high:.1f}]"
    assert f"{number} +-{100 * methods['L2']['spreads']['auc_balanced']:.1f}" in text.replace("**", "")
    lines = [one for one in csv.DictReader((folder / "report.csv").open()) if one["metric"] == "auc_balanced"]
    assert [(one["network"], one["seeds"]) for one in lines] == [("L2", "0;1"), ("rebalanced", "0;1")]
    assert [float(one["value"]) for one in lines] == [
        methods[v]["scores"]["auc_balanced"][0] for v in ("L2", "rebalanced")
    ]
    assert [one["against"] for one in lines] == ["", "L2"]
    page = Page(folder / "report.html")
    assert "color AuC balanced, %" in page.text
    with Image.open(folder / "figures.png") as sheet:
        assert sheet.width > 600
    assert [one for one in page.addresses if one.startswith("data:image/")]

    before = {name: (folder / name).read_bytes() for name in ("report.md", "report.html", "colors.json")}
    for run in (tmp_path / "runs").iterdir():
        (run / "checkpoints" / f"{STEPS:08}.pt").write_bytes(b"")
    write_study_report(folder)
    assert {name: (folder / name).read_bytes() for name in before} == before, "nothing is opened again"

    plan = unseal((folder / "plan.json").read_bytes())
    plan["cells"] = [one for one in plan["cells"] if (one["variant"], one["seed"]) != ("rebalanced", 1)]
    (folder / "plan.json").write_bytes(seal(plan))
    write_study_report(folder)
    page = Page(folder / "report.html")
    assert "These are of an earlier time, as they cannot be scored anew: " in page.text
    (folder / "colors.json").unlink()
    (folder / "figures.png").unlink()
    write_study_report(folder)
    page = Page(folder / "report.html")
    assert "Cannot be scored: " in page.text
    assert "They cannot be had: " in page.text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    names = {HOSTILE: 0.3, "a&b $x$ \\[": 0.5}
    folder = finished_study(tmp_path, names, evaluations=(f"probe{HOSTILE}",), about=f"{HOSTILE} & more", test=HOSTILE)
    write_study_report(folder)
    page = Page(folder / "report.html")
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) > 5
    assert all(address.startswith(("#", "data:image/")) for address in page.addresses)
    assert "<script" not in (folder / "report.md").read_text().replace("\\<script", "")
    assert not re.search(r"(?<!\\)&b", (folder / "report.tex").read_text())


def test_no_study_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plan\.json: not the plan of a study"):
        write_study_report(tmp_path)
    (tmp_path / "plan.json").write_text('{"cells": 3}')
    with pytest.raises(UserError, match="run pretint study again"):
        write_study_report(tmp_path)


def test_no_horizontal_scroll_and_no_request_in_a_browser(browser: "Browser", tmp_path: Path) -> None:
    names = {f"a-long-name-of-a-variant-{number}" * 2: 0.3 + number / 20 for number in range(7)}
    folder = finished_study(tmp_path, names, (0,), ("probe", "neighbors", "shots", "detection"))
    write_study_report(folder)
    for width in (400, 1100):
        assert measure_layout(browser, folder / "report.html", width) == (width, [])


def test_rankme_is_ranked_among_runs_of_one_backbone(tmp_path: Path) -> None:
    ranks = {"a": (10.0, 31.0), "b": (20.0, 22.0), "c": (30.0, 21.0), "d": (900.0, 901.0), "e": (700.0, 702.0)}
    folder = finished_study(tmp_path, {"random": 0.3, "a": 0.4, "b": 0.5, "c": 0.6, "d": 0.45, "e": 0.55})
    plan = read_plan(folder / PLAN)
    backbones = {variant: "tiny" if variant in "abc" else "alexnet" for variant in ranks}
    replace(plan, differing={"backbone.name": backbones}).write(folder / PLAN)
    for variant, values in ranks.items():
        for cell, value in zip(plan.of(variant, ""), values, strict=True):
            run = tmp_path / cell.folder
            health = {"kind": "health", "step": STEPS, "loss": 4.0, "rankme": value}
            write_journal(run, [*read_journal(run)[:-1], health])
    write_study_report(folder)
    expected = []
    for group in ("abc", "de"):
        scores = [
            100 * result.row("conv3").score.value
            for variant in group
            for result in columns_of(folder, 6)["-abcde".index(variant)].results
        ]
        expected.append(spearman([value for variant in group for value in ranks[variant]], scores))
    text = Page(folder / "report.html").text.replace("\N{MINUS SIGN}", "-")
    both = f"probe: {expected[0]:.2f} over 6 runs, {expected[1]:.2f} over 4 runs, each group of one backbone"
    assert f"Spearman's correlation with {both}" in text


def spearman(xs: list[float], ys: list[float]) -> float:
    """Pearson's correlation of ranks, ties sharing their mean rank."""
    ranks = [[(sum(b < a for b in values) + sum(b <= a for b in values)) / 2 for a in values] for values in (xs, ys)]
    return float(np.corrcoef(*ranks)[0, 1])
