"""Tables: the right numbers side by side, whole on every terminal, and nothing from outside gets out of its cell."""

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_results import STAGES, answers, ranking, result, row, written
from rich.console import Console
from rich.table import Table

from pretext.errors import UserError
from transfer.bootstrap import accuracy, estimate_mean
from transfer.columns import columns
from transfer.layout import WIDTH
from transfer.results import Result
from transfer.table import Tables, tables

HOSTILE = "\x1b[31m[bold]a|b_c & 50% {x} \\y ~ ^ <script> #`*\u202e"


def printed(found: Tables, console_width: int = 60, **options: Any) -> str:
    """As the command line prints it, on a terminal that is too narrow."""
    console = Console(width=console_width, file=io.StringIO(), **options)
    for line in found.format():
        console.print(line, markup=False, highlight=False, soft_wrap=True, emoji=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def records(found: Tables) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(written(found, "csv"))))


def seeds(name: str, count: int = 3, **changed: Any) -> list[Result]:
    return [result(f"{name}{seed}", seed, **changed) for seed in range(count)]


def test_one_network() -> None:
    made = result()
    text = printed(tables([made]))
    assert "modern: top-1 accuracy on 400 test images of photos/test, %" in text
    for one in made.rows:
        value, low, high = (f"{100 * number:.1f}" for number in one.score)
        assert re.search(rf"{one.stage} +{value} \[{low}, {high}\]", text)
    for words in (
        "[..]: 95% percentile bootstrap over test images, 10,000 resamples",
        "modern: all images are looked at",
        "labels of 1,000 of 1,000 training images of photos/train; 100 of them held out, which chose settings and",
        "split: holdout 10%, seed 0 (cccccccc)",
        "color: pretrained alexnet, seed 0, step 1,000, seen at 96 px, best conv3",
    ):
        assert words in text, words
    assert "+-" not in text and "gap" not in text


def test_the_best_row_is_bold() -> None:
    rows = [row("conv1", answers(0.9, 0), 0.3), row("conv2", answers(0.2, 1), 0.6)]
    found = tables([result(rows=rows)])
    bold = [
        line for line in printed(found, force_terminal=True, color_system="standard").splitlines() if "\x1b[1m" in line
    ]
    assert len([line for line in bold if "conv" in line]) == 1 and any("conv2" in line for line in bold)
    best = f"{100 * rows[1].score.value:.1f}"
    assert f"**{best}**" in written(found, "markdown") and rf"\textbf{{{best}}}" in written(found, "latex")
    assert [line["best"] for line in records(found)] == ["False", "True"]


def test_seeds_are_joined() -> None:
    made = seeds("color")
    found = tables([*made, *seeds("random", kind="random")])
    line = next(line for line in records(found) if (line["network"], line["stage"]) == ("color", "conv2"))
    correct = np.array([one.rows[1].outcomes[0].correct for one in made])
    assert float(line["value"]) == pytest.approx(correct.mean())
    assert (float(line["low"]), float(line["high"])) == estimate_mean(correct.mean(0))[1:]
    assert float(line["sd_over_seeds"]) == pytest.approx(correct.mean(1).std(ddof=1))
    assert (line["seeds"], line["n_seeds"], line["n"]) == ("0;1;2", "3", "400")
    assert line["weights"].split(";") == [one.network.weights for one in made]
    assert line["split_sha256"] == "c" * 64 and line["protocol"] == "modern" and line["test_digest"] == "b" * 64
    text = printed(found)
    assert f"{100 * correct.mean():.1f}" in text and f"+-{100 * correct.mean(1).std(ddof=1):.1f}" in text
    assert "+-: standard deviation over seeds" in text
    assert "color: pretrained alexnet, 3 seeds (0, 1, 2), step 1,000" in text
    assert "random: random alexnet, 3 seeds (0, 1, 2), seen" in text


def test_the_best_row_of_several_seeds() -> None:
    held = ((0.5, 0.4), (0.1, 0.5), (0.5, 0.4))
    made = [
        result(f"color{seed}", seed, [row(s, answers(0.5, seed), h) for s, h in zip(STAGES, pair, strict=False)])
        for seed, pair in enumerate(held)
    ]
    assert [one.best for one in made] == ["conv1", "conv2", "conv1"]
    assert columns(made)[0].best == "conv2", "on average"


def test_one_network_twice_counts_once() -> None:
    first, again = result("random", kind="random"), result("random", kind="random")
    (column,) = columns([first, again, result("random1", 1, kind="random")])
    assert len(column.results) == 2


def test_of_all_stages_and_some_all_count() -> None:
    whole = result("random", kind="random")
    for both in ([whole, replace(whole, rows=whole.rows[-1:])], [replace(whole, rows=whole.rows[-1:]), whole]):
        (column,) = columns(both)
        assert list(column.names) == [row.name for row in whole.rows]


def test_probe_seeds_are_no_training_seeds() -> None:
    (column,) = columns([result("color", evaluation_seed=seed, weights="w") for seed in range(3)])
    assert column.seeds == "seed 0 of the network, 3 seeds (0, 1, 2) of the evaluation"


def test_cached_beside_augmented_with_their_gap() -> None:
    cached, augmented = (
        seeds("color", 2),
        [
            result(f"color{seed}", seed, [row(s, answers(0.7, 50 + seed), 0.5) for s in STAGES], mode="augmented")
            for seed in range(3)  # one seed more, which the gap must leave out
        ],
    )
    found = tables([*augmented, *cached, result("other")])
    gap = next(line for line in records(found) if line["mode"] == "augmented - cached" and line["stage"] == "conv1")
    sides = [np.mean([one.rows[0].outcomes[0].correct for one in side], axis=0) for side in (cached, augmented[:2])]
    wanted = estimate_mean(sides[1] - sides[0], lowest=-1)
    assert tuple(float(gap[key]) for key in ("value", "low", "high")) == pytest.approx(wanted)
    text = printed(found)
    places = [text.index(f"\n {words} ") for words in ("color cached", "color augmented", "color gap", "other cached")]
    assert places == sorted(places)
    assert "cached 2 seeds (0, 1), augmented 3 seeds (0, 1, 2), step 1,000" in text
    two = printed(tables([*augmented, *cached]))
    assert re.search(r"color +color +color *\n.* cached +augmented +gap", two)
    assert f"{100 * wanted.value:+.1f} [{100 * wanted.low:+.1f}, {100 * wanted.high:+.1f}]" in text
    assert "gap: augmented minus cached" in text
    assert len(records(found)) == 3 * 4


def many(count: int, stages: int, **changed: Any) -> list[Result]:
    rows = [row(f"conv{at + 1}", answers(0.5, at), 0.5) for at in range(stages)]
    return [result(f"network-{chr(97 + at)}", 0, rows, **changed) for at in range(count)]


@pytest.mark.parametrize(("count", "stages"), [(1, 5), (3, 5), (9, 3), (9, 5), (5, 12), (12, 20), (20, 20)])
def test_tables_are_printed_whole(count: int, stages: int) -> None:
    found = tables(many(count, stages))
    text = printed(found)
    parts = [line for line in found.format() if isinstance(line, Table)]
    for part in parts:
        assert part.width is not None and part.width <= WIDTH
    value, low, high = (f"{100 * number:.1f}" for number in accuracy(answers(0.5, 0).correct))
    assert len(re.findall(re.escape(f"[{low}, {high}]"), text)) >= count, "no interval is cut"
    assert text.count("network-a") >= 2 and "\u2026" not in text
    for at in range(stages):
        assert re.search(rf"\bconv{at + 1}\b", text)
    assert max(len(line.rstrip()) for line in text.splitlines() if "%" not in line and "labels" not in line) <= WIDTH
    assert value in text


def test_nine_networks_are_turned() -> None:
    found = tables(many(9, 3))
    (table,) = [line for line in found.format() if isinstance(line, Table)]
    assert len(table.rows) == 9 and len(table.columns) == 4
    assert written(found, "markdown").count("\n| network-") == 9


def test_a_long_name_is_not_squeezed() -> None:
    name = "a-very-long-name-" * 10
    assert name in printed(tables([result(name), result("b")]))


def test_other_rows_leave_cells_empty() -> None:
    first = result(rows=[row("conv1", answers(0.5, 0)), row("conv2", answers(0.5, 1))])
    second = result("resnet", rows=[row("stem", answers(0.5, 2)), row("conv2", answers(0.5, 3))], backbone="resnet18")
    found = tables([first, second])
    assert [name for name, _ in found.sections[0].grid.rows] == ["conv1", "conv2", "stem"]
    assert found.sections[0].grid.rows[2][1][0] == "" and len(records(found)) == 4


def test_other_evaluations_have_their_own_tables() -> None:
    made = [result(), result(protocol="knn"), result("b"), result(fraction=0.01), result(test_digest="e" * 64)]
    found = tables(made)
    assert [len(section.columns) for section in found.sections] == [2, 1, 1, 1]
    assert written(found, "latex").count(r"\begin{table}") == 4
    with pytest.raises(UserError, match="no results"):
        tables([])


def test_seeds_with_other_rows() -> None:
    with pytest.raises(UserError, match="other rows"):
        tables([result("a0", 0), result("a1", 1, [row("conv1", answers(0.5, 0))])])


def test_names_are_told_apart() -> None:
    made = [
        result("random", kind="random", backbone="alexnet", group="1" * 16),
        result("random", kind="random", backbone="resnet18", group="2" * 16),
        result("x", step=10, group="3" * 16),
        result("x", step=20, group="4" * 16),
        result("run-seed0", 0, group="5" * 16),
        result("run-seed11", 11, group="5" * 16),
        result("y", group="6" * 16),
        result("y", group="6" * 16, view_size=64),
        result("resnet50-0", group="7" * 16),
        result("resnet50-1", 1, group="7" * 16),
    ]
    assert [column.label for column in columns(made)] == [
        "random (alexnet)",
        "random (resnet18)",
        "x (step 10)",
        "x (step 20)",
        "run",
        "y (96 px)",
        "y (64 px)",
        "resnet50",
    ]


def test_low_shot_and_map() -> None:
    rows = [row("conv5", [ranking(s, 10 * at + i) for i in range(3)], None, f"{k} shots") for at, (k, s) in enumerate([(1, 0.5), (8, 1.0)])]  # fmt: skip  # noqa: E501
    made = result(rows=rows)
    found = tables([made])
    line = records(found)[1]
    assert (line["stage"], line["variant"], line["metric"]) == ("conv5", "8 shots", "mAP")
    assert float(line["sd_over_samples"]) == pytest.approx(np.std([one.value for one in rows[1].outcomes], ddof=1))
    assert line["sd_over_seeds"] == "" and line["best"] == "False"
    text = printed(found)
    assert (
        "mean average precision" in text and "conv5, 8 shots" in text and "+-: standard deviation over samples" in text
    )
    joined = tables([made, result("color1", 1, rows)])
    assert float(records(joined)[1]["value"]) == pytest.approx(float(line["value"]))
    assert float(records(joined)[1]["low"]) == pytest.approx(float(line["low"])), "the same images were resampled"


def test_what_comes_from_outside_is_escaped() -> None:
    made = result(
        HOSTILE, rows=[row(HOSTILE, answers(0.5, 0)), row("[x]", answers(0.5, 1))], about=HOSTILE, test=HOSTILE
    )
    found = tables([made])
    text = printed(found)
    assert "\x1b" not in text and "\u202e" not in text and "[bold]a|b_c" in text and r"\x1b[31m" in text
    markdown = [line for line in written(found, "markdown").splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in markdown} == {3}
    assert "<script>" not in written(found, "markdown") and r"\[..\]: 95%" in written(found, "markdown")
    latex = written(found, "latex")
    assert r"b\_c \& 50\% \{x\} \textbackslash{}y \textasciitilde{} \textasciicircum{} \textless{}script" in latex
    assert not re.search(r"^\s*\[", latex, flags=re.MULTILINE), "a row that begins with [ would be an argument"
    assert not re.search(r"(?<!\\)[#%]", latex)
    assert records(found)[0]["network"] == HOSTILE


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX")
def test_latex_compiles(tmp_path: Path) -> None:
    made = [result(HOSTILE.replace("\u202e", "")), *seeds("color", 2), result("color0", mode="augmented")]
    (tmp_path / "a.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\\begin{document}\n"
        f"{written(tables(made), 'latex')}\\end{{document}}\n"
    )
    subprocess.run(["pdflatex", "-halt-on-error", "a.tex"], cwd=tmp_path, check=True, capture_output=True, timeout=600)


def test_latex_is_whole() -> None:
    latex = written(tables([*seeds("color_map", 2), result("b", mode="augmented"), result("b")]), "latex")
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 4 and {line.count(" & ") for line in rows} == {4}
    assert r"\begin{tabular}{lrrrr}" in latex and r"color\_map" in latex and r"$\pm$" in latex
    assert latex.count("{") == latex.count("}") and r"\toprule" in latex


def test_of_fine_tuning_held_out_images_choose_nothing() -> None:
    rows = [row("all", ranking(1.0, 1), None)]
    one = result(rows=rows, mode="fine-tuned", n_holdout=40, view_size=0)
    (section,) = tables([one]).sections
    assert any(
        line.endswith("; 40 of them held out, which were only looked at: nothing is chosen") for line in section.footer
    )
    assert section.grid.corner == "trained" and "seen at the images' own size" in section.footer[-1]
    assert tables([result()]).sections[0].grid.corner == "stage"
