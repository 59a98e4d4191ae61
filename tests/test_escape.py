"""Names from outside do nothing to a terminal, a spreadsheet or a page of Markdown."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_results import result, written
from PIL import Image
from rich.console import Console
from rich.table import Table

import pretint.cli
from pretext.engine.progress import progress
from pretext.engine.progress import say as say_on_stderr
from pretext.escape import csv_text, escape_controls
from pretint.cli.output import complain, say, skips
from pretint.colorization.scores.table import ScoreMetric, Scores
from pretint.colorization.scores.table import ScoreRow as ScoreLine
from slurm.runner import _say
from transfer.bootstrap import Estimate
from transfer.table import TableSettings, format_tables, tables

HOSTILE = [
    "\x1b]0;owned\x07",
    "\x1b[31mred",
    "one\rtwo",
    "one\ntwo",
    "ab\u202ecod",
    "[bold]loud[/bold]",
    "[/]",
    "[link=http://example.org]x",
    ":smile:",
    "\udcff",
    "\x9b31m",
]
STEERING = "\x1b\x07\r\u202e\x9b"
BOLD = "[bold]loud[/bold]"


def harmless(text: str, lines: int | None = None) -> None:
    assert not set(STEERING) & set(text), ascii(text)
    if lines is not None:
        assert text.count("\n") == lines, ascii(text)


def test_only_what_steers_is_escaped() -> None:
    assert escape_controls("\x1b]0;x\x07\r\n\t\u202e\u2066") == r"\x1b]0;x\x07\r\n\t\u202e\u2066"
    for name in ("Bär 漢字 [x] a\N{NO-BREAK SPACE}b", "a\N{IDEOGRAPHIC SPACE}b", "", "\N{GRINNING FACE}"):
        assert escape_controls(name) == name


@pytest.mark.parametrize("name", HOSTILE)
def test_lines_on_the_terminal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("head", name)
    table.add_row(name, "1")
    say(f"run {name}: done", *skips([(name, f"cannot read {name}")]))
    complain(f"{name}: note")
    say_on_stderr(f"{name}: waiting")
    out, err = capsys.readouterr()
    harmless(out, 3)
    harmless(err, 2)
    assert escape_controls(name) in out and escape_controls(name) in err
    say(table)
    out, _ = capsys.readouterr()
    harmless(out)
    with progress(f"features of {name}", 2, "images") as advance:
        advance(2, f"loss of {name}")
    _, err = capsys.readouterr()
    harmless(err, 1)
    assert f"features of {escape_controls(name)}: 2/2" in err


def test_markup_prints_as_it_stands_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The progress bar of rich, which would read [/] as markup and fail."""
    file = io.StringIO()
    monkeypatch.setattr(
        "pretext.engine.progress.Console", lambda **_: Console(file=file, force_terminal=True, width=200)
    )
    for name in (BOLD, "[/]", "\x1b]0;owned\x07"):
        with progress(name, 1, "images") as advance:
            advance(1, name)
    assert BOLD in file.getvalue() and "[/]" in file.getvalue() and "\x1b]0;" not in file.getvalue()


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "\udcff"])
def test_errors_and_notes_of_commands(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["colorize", f"no {name}", "x.png"],
        ["pretrain", str(tmp_path / "run"), "--data.source", f"no {name}"],
        [f"command {name}"],
        ["report", f"no {name}"],
        ["table", f"no {name}"],
        ["pretrain", "run", "--config", f"no {name}"],
        ["submit", "--on", f"no {name}", "report", "x"],
    ):
        assert pretint.cli.main(words) == 2
        out, err = capsys.readouterr()
        harmless(err, 1)
        assert not out and "Traceback" not in err


def test_files_with_hostile_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for at, name in enumerate(HOSTILE[:-2]):
        (folder / f"bad {name.replace('/', '')}.png").write_text("no image")
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / f"{at}.png")
    words = [
        "--crop.size",
        "16",
        "--objective.stride",
        "4",
        "--objective.prior_images",
        "8",
        "--machine.workers",
        "0",
    ]
    words += [
        "--training.steps",
        "2",
        "--training.batch_size",
        "8",
        "--training.warmup",
        "1",
        "--data.source",
        str(folder),
    ]
    run = tmp_path / f"run {BOLD.replace('/', '')}\x1b[31m"
    assert pretint.cli.main(["pretrain", str(run), *words]) == 0
    assert pretint.cli.main(["colorize", str(run), str(folder), "--out", str(tmp_path / "out\x1b[31m")]) == 1
    out, err = capsys.readouterr()
    harmless(out)
    harmless(err)
    assert "[bold]loud[bold]" in out


def test_csv_cells() -> None:
    rows = [
        ["=1+1", -1.5, -2, None],
        ["-x", "@x", "+x", True],
        ["a,b", 'say "x"', "\t=1", " =1"],
        ["\r=1", "a\nb", "1-2", ""],
    ]
    text = csv_text(("=name", "number", "b", "c"), rows)
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read[0] == ["'=name", "number", "b", "c"]
    assert read[1:] == [
        ["'=1+1", "-1.5", "-2", ""],
        ["'-x", "'@x", "'+x", "True"],
        ["a,b", 'say "x"', "'\t=1", "' =1"],
        ["'\r=1", "a\nb", "1-2", ""],
    ]


@pytest.mark.parametrize(
    "name", ["=HYPERLINK(1)", "+x", "-x", "@x", "a|b", "a\\b", "<img src=x>", "a&b", "\x1b[31m", "$x$", "a\nb"]
)
def test_tables_of_results(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made = [replace(result(name), test=name, train=name), result("other")]
    found = tables(made[:1])
    cells = [cell for row in csv.reader(io.StringIO(written(found, "csv"))) for cell in row]
    assert not any(cell.startswith(("=", "+", "@")) for cell in cells)
    assert not any(cell.startswith("-") and not cell[1:2].isdigit() for cell in cells)
    say(*format_tables(made[:1], TableSettings("csv")))
    harmless(capsys.readouterr().out)
    row = next(line for line in written(found, "markdown").split("\n") if line.startswith("| stage"))
    assert row.replace(r"\|", "").count("|") == 3 and "<img" not in row.replace(r"\<", "")
    harmless(written(found, "markdown"))
    harmless(written(found, "latex"))


def test_a_table_of_scores_and_its_negative_numbers() -> None:
    metric = ScoreMetric("psnr", "PSNR", "decibels", 1, 1.0, 1)
    line = ScoreLine("=cmd|x", "-about", {"weights": "@x"}, {"psnr": Estimate(-1.5, -2.0, -1.0)}, {})
    scores = Scores(
        (line,), (metric,), "", {"prior": "+x", "images": "x", "size": 8, "n": 3}, (), (), (), Path("x.json")
    )
    (row,) = csv.DictReader(io.StringIO(written(scores, "csv")))
    assert (row["network"], row["about"], row["weights"], row["prior"]) == ("'=cmd|x", "'-about", "'@x", "'+x")
    assert (row["value"], row["low"], row["high"]) == ("-1.5", "-2.0", "-1.0")


def test_a_job_log(capfd: pytest.CaptureFixture[str]) -> None:
    _say("pretint report \x1b]0;owned\x07\nnext")
    harmless(capfd.readouterr().out, 1)
