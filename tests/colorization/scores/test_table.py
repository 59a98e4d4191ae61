"""The table in every format, and the command that prints it."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from small_scores import Make

import pretint.cli
from pretint.colorization.scores.table import METRICS, MethodOutcomes, ScoreRow, Scores, Summary, known
from transfer.bootstrap import Estimate

NAN = float("nan")


def scores() -> Scores:
    own = {
        "auc": Estimate(0.9, 0.89, 0.91),
        "psnr": Estimate(24.431, 24.0, 24.9),
        "ssim": Estimate(0.9234, 0.92, 0.93),
        "fid_same": Estimate(12.345, NAN, NAN),
    }
    truth = {
        "auc": Estimate(1, 1, 1),
        "psnr": Estimate(float("inf"), NAN, NAN),
        "ssim": Estimate(1, 1, 1),
        "fid_same": Estimate(0, NAN, NAN),
    }
    gray = own | {"auc": Estimate(0.88, 0.87, 0.89), "fid_same": Estimate(20, NAN, NAN)}
    lines = (
        ScoreRow("mine_1", "a network", {"weights": "abc"}, own, {}),
        ScoreRow("gray", "none", {}, gray, {"auc": Estimate(-0.02, -0.03, -0.01), "psnr": Estimate(0, -0.5, 0.5)}),
        ScoreRow("truth", "itself", {}, truth, {"auc": Estimate(0.1, 0.09, 0.11)}),
    )
    facts = {"images": "folder", "digest": "d", "size": 64, "n": 10, "versions": {"x": "1"}}
    return Scores(lines, METRICS, "mine_1", facts, ("n is 10",), ("LPIPS is left out",), (), Path("x.json"))


def printed(lines: list[object], width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_in_the_terminal() -> None:
    text = printed(list(scores().format()))
    rows = [[part.strip() for part in line.split("  ") if part.strip()] for line in text.splitlines()]
    assert ["method", "AuC", "PSNR", "SSIM", "FID same"] in rows, "without those that nobody has"
    assert ["mine_1", "90.0 [89.0, 91.0]", "24.43 [24.00, 24.90]", "0.923 [0.920, 0.930]", "12.35"] in rows
    assert ["truth", "100.0", "inf", "1.000", "0.00"] in rows, "what is so by definition has no interval"
    assert ["differences: method minus mine_1"] in rows
    assert ["gray", "-2.0 [-3.0, -1.0]", "+0.00 [-0.50, +0.50]"] in rows


def test_a_narrow_terminal_turns_it() -> None:
    text = printed(list(scores().format(width=60)), 60)
    assert text.splitlines()[2].split() == ["score", "mine_1", "gray", "truth"]


def test_markdown_and_latex() -> None:
    markdown, latex = ("\n".join(map(str, scores().format(how))) for how in ("markdown", "latex"))
    assert isinstance(markdown, str) and isinstance(latex, str)
    assert "| method | AuC | PSNR | SSIM | FID same |" in markdown
    assert r"| mine\_1 | **90.0** \[89.0, 91.0\]".replace(r"\[", "[").replace(r"\]", "]") in markdown, (
        "the best is bold"
    )
    assert latex.count(r"\begin{table}") == 2 and r"\textbf{90.0}" in latex and "$-$2.0" in latex


def test_csv_has_all_that_a_number_depends_on() -> None:
    text = "\n".join(map(str, scores().format("csv")))
    assert isinstance(text, str)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 12
    gray = next(row for row in rows if row["network"] == "gray" and row["metric"] == "auc")
    assert (gray["value"], gray["low"], gray["high"]) == ("0.88", "0.87", "0.89")
    assert (gray["against"], gray["difference"], gray["difference_high"]) == ("mine_1", "-0.02", "-0.01")
    assert (gray["n"], gray["view_size"], gray["test"]) == ("10", "64", "folder")
    fid = next(row for row in rows if row["metric"] == "fid_same")
    assert (fid["low"], fid["difference"], fid["weights"]) == ("", "", "abc")


def record(index: int, seed: int) -> dict[str, object]:
    rng = np.random.default_rng((index, seed))
    bins = sorted(rng.choice(313, 6, replace=False).tolist())
    pixels = rng.integers(1, 50, 6)
    found = {"index": index, "bins": bins, "pixels": pixels.tolist(), "areas": (pixels * 300 // 2).tolist()}
    return found | {"error": 10.0 + index, "ssim": rng.uniform(), "cf": 1.0, "cf_abs": 2.0}


def test_intervals_are_those_of_the_resampled_images() -> None:
    one, pixels = known([record(index, 0) for index in range(40)], 313, None)
    two = MethodOutcomes(one.areas // 2, {**one.values, "ssim": one.values["ssim"] + 0.1}, None, None)
    summary = Summary({"one": one, "two": two}, pixels)
    ssim = summary.scores("one")["ssim"]
    spread = one.values["ssim"].std() / np.sqrt(40)
    assert ssim.high - ssim.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    gap = summary.differences("two", "one")["ssim"]
    assert gap == pytest.approx((0.1, 0.1, 0.1)), "the same for every image: no spread"
    assert summary.differences("two", "one")["auc_balanced"].high < 0
    assert summary.scores("one")["cf"] == (1, 1, 1)


def test_the_command(make_run: Make, make_images: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, folder = make_run(tmp_path / "run"), make_images(tmp_path / "x", 4, gray=1)
    (folder / "bad.png").write_text("")
    words = ["score", str(run), "--images", str(folder), "--size", "24"]
    assert pretint.cli.main(words) == 0
    said = capsys.readouterr()
    assert f"color on 4 images of {folder}, at 24 x 24 px" in said.out
    assert "left out: 1 gray" in said.out and "bad.png: empty file" in said.out
    assert "FID is left out: name Inception's weights" in said.out
    file = next((run / "scores").glob("*.json"))
    assert f"scores: {file}" in said.out
    assert pretint.cli.main([*words, "--format", "csv"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("network,group,kind") and len(said.out.splitlines()) == 1 + 4 * 6
    assert "bad.png: empty file" in said.err and "scores: " in said.err
    assert pretint.cli.main(["score", str(run), "--size", "24"]) == 2
    assert capsys.readouterr().err.startswith("pretint: no images are named")
