"""The report page, from run directories in the real formats."""

import html
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from browser import measure_layout
from fake_results import row
from finished_runs import add_both_results, add_result, make_new_run, make_trained_run, right_answers, write_journal
from html_page import Page
from PIL import Image

from pretext.engine.journal import Journal, read_journal
from pretext.errors import UserError
from transfer.report import page as report
from transfer.report import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<script>alert(1)</script>"


def test_whole_report(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path / "first", skipped=1)
    add_both_results(run)
    before = {path for path in run.rglob("*") if path.is_file()}
    assert write_report(run) == run / "report.html"
    assert {path for path in run.rglob("*") if path.is_file()} - before == {run / "report.html"}
    page = Page(run / "report.html")
    assert (
        "After 40 steps the best frozen stage, conv5, classifies 66.2 % [63.3, 69.1] of 1,000 test images; "
        "the same network at random initialization 54.6 % [51.5, 57.7] (its best stage, conv2). "
        "The difference is +11.6 points [9.7, 13.6]."
    ) in page.text
    for piece in (
        "Training is complete: 40 of 40 steps.",
        "Protocol modern, cached, on images/val : 2 classes, 9,469 training images; seed 0; in brackets: 95%",
        "the row of each network that did best on 946 training images held out for it",
        "Best against best, cached: first, conv5, minus random, conv2: +11.6 points [9.7, 13.6].",
        "stage dims random first conv2 9,600 54.6 [51.5, 57.7] 56.1 [53.1, 59.1]",
        "conv5 9,600 47.8 [44.7, 50.8] 66.2 [63.3, 69.1]",
        "modern: all images are looked at",
        "top-1 accuracy, in percent, on 1,000 test images",
        "1,000 images of images/val, 2 classes; SHA-256 bbbbbbbbbbbb",
        "9,469 images of images/train; SHA-256 aaaaaaaaaaaa; 8,523 to learn from, 946 held out, which choose",
        "Split holdout 10%, seed 0 (SHA-256 cccccccccccc)",
        "Seeds seed 0",
        "random: random alexnet; first: pretrained alexnet, step 40",
        "the middle square, 100 % of the shorter side, at 96 x 96 pixels",
        "Precision float32 Features kept as float16",
        "12 s 10 s 80 1.0 GB 1 MB",
        "SHA-256 dddddddddddd",
        "00.json",
        "tench, church",
        "photos/test/cat/9.jpg truncated",
        "held out, last: 4.123",
        "Saturation 0.817",
        "Entropy 4.170",
        "ln 313 = 5.75",
        "common bins 0.100",
        "1 image could not be read.",
        "train/000.jpg truncated",
        "Begun 2026-11-22 22:08 UTC; resumed 1 time, last at step 1",
        "torch 2.11.0",
        "prior_images 2000",
        "images at step 40",
    ):
        assert piece in page.text, piece
    assert "None" not in page.text.replace("None.", "") and "nan" not in page.text
    assert page.tags.count("svg") == 6 and page.tags.count("img") == 1


def watched(run: Path, *, skipped: int = 0) -> Path:
    """A trained run whose journal also holds what newer versions write."""
    make_trained_run(run, skipped=skipped)
    recall: list[float] = [math.nan] * 313
    recall[100:104] = [0.0, 0.25, 1.0, 0.5]
    journal = Journal(run, 40)
    for step in (20, 40):
        measures = {"saturation": 0.8, "accuracy": step / 100, "accuracy_rebalanced": 0.123}
        journal.write(
            "health", step, loss=4.0, recall_common=0.1, recall_rare=0.2, entropy=4.0, recall=recall, **measures
        )
        journal.write("online", step, chance=0.1, accuracy_conv1=0.3, accuracy_conv2=math.nan)
    for step in range(1, 41):
        waiting = math.nan if step == 1 else 0.031 + (step == 7) / 2
        journal.write("speed", step, images_per_second=1234.0 + 10 * (step % 3 - 1), waiting=waiting)
    journal.close()
    return run


def test_what_newer_journals_hold(tmp_path: Path) -> None:
    page = Page(write_report(watched(tmp_path / "run")))
    for piece in (
        "Accuracy plain 0.400; rebalanced 0.123",
        "Recall of every bin step 40",
        "Of 313 bins 4 occur in these images; at least one pixel is right in 3 of them.",
        "does not occur",
        "Online probe a trend, not a result",
        "online accuracy, %",
        "Images a second median 1,234",
        "Waiting for data median 3.1 %",
    ):
        assert piece in page.text, piece
    assert page.tags.count("svg") == 10 and "nan" not in page.text
    online = page.source[page.source.index("<h2>Online probe") : page.source.index("<h2>Samples")]
    assert "conv1" in online and "<table" not in online
    assert not re.search(r"[0-9] ?%|0\.[0-9]", re.sub(r"<svg.*?</svg>", "", online, flags=re.DOTALL)), "no numbers"


def test_older_journals_have_none_of_it(tmp_path: Path) -> None:
    page = Page(write_report(make_trained_run(tmp_path / "run")))
    assert not re.search("Accuracy|every bin|Online probe|Speed|Waiting", page.text)


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "health", "recall": [0.5, None]},
        {"kind": "health", "recall": None, "accuracy": None},
        {"kind": "health", "recall": "all", "accuracy": "high"},
        {"kind": "online"},
        {"kind": "online", "accuracy_conv1": None, "chance": 0.1},
        {"kind": "speed"},
        {"kind": "speed", "images_per_second": None, "waiting": "long"},
    ],
)
def test_records_that_say_nothing_are_passed_over(tmp_path: Path, record: dict[str, Any]) -> None:
    run = make_new_run(tmp_path / "run")
    write_journal(run, [{"step": 5, **record}])
    page = Page(write_report(run))
    assert "svg" not in page.tags
    assert not re.search("every bin|Online probe|Speed", page.text)


@pytest.mark.parametrize("step", [0, 40])
def test_a_single_look(tmp_path: Path, step: int) -> None:
    run = make_new_run(tmp_path / "run")
    records: list[dict[str, Any]] = [
        {"kind": "health", "step": step, "accuracy": 0.0, "recall": [0.0] * 313},
        {"kind": "online", "step": step, HOSTILE: 1.0, f"accuracy_$x${HOSTILE}": 0.5},
        {"kind": "speed", "step": step, "waiting": 0},
    ]
    write_journal(run, records)
    page = Page(write_report(run))
    assert page.tags.count("svg") == 4 and "script" not in page.tags
    assert page.text.count(f"$x${HOSTILE}") == 1 and "median 0.0 %" in page.text
    assert "Images a second" not in page.text


def test_one_file_that_asks_for_nothing(tmp_path: Path) -> None:
    run = watched(tmp_path / "first")
    add_both_results(run)
    page = Page(write_report(run))
    assert page.addresses and all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"@import|url\(\s*(?!#)[^)]|https?://", re.sub(r"base64,[^\"]+", "", page.source))
    assert len(page.identifiers) == len(set(page.identifiers))
    targets = {address[1:] for address in page.addresses if address.startswith("#")}
    assert targets | set(re.findall(r"url\(#([^)]+)\)", page.source)) <= set(page.identifiers)


def test_what_comes_from_outside_is_escaped(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "")
    run = make_trained_run(tmp_path / name)
    skipped = {"kind": "skipped", "step": 40, "key": HOSTILE, "reason": f'"{HOSTILE}'}
    write_journal(run, [*read_journal(run), skipped])
    stage = "--><b>$\\a$</b><![CDATA["
    add_result(
        run,
        HOSTILE,
        rows=[row(stage, right_answers(600))],
        **cast(
            "dict[str, Any]",
            dict.fromkeys(("protocol", "about", "train", "test", "split", "precision", "interval", "kind"), HOSTILE),
        ),
        classes=(HOSTILE, "a & b"),
        settings={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
        skipped=((HOSTILE, HOSTILE),),
    )
    page = Page(write_report(run))
    assert "script" not in page.tags and "b" not in page.tags
    assert html.escape(HOSTILE, quote=False) in page.source and "a & b" in page.text
    assert page.text.count(stage) == 3  # summary, table and, not taken for mathematics, chart


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    run = make_new_run(tmp_path / "broken-\udcff")
    assert "broken-?" in Page(write_report(run)).text


def test_run_that_has_just_begun(tmp_path: Path) -> None:
    run = make_new_run(tmp_path / "new run")
    page = Page(write_report(run))
    for piece in (
        "have not been evaluated yet",
        f"pretint probe '{run}'",
        "Training is not complete: 0 of 40 steps are done.",
        "The journal holds no step yet.",
        "The colors have not been evaluated yet",
        "There are no samples yet.",
    ):
        assert piece in page.text, piece
    assert "svg" not in page.tags


def test_first_step_alone(tmp_path: Path) -> None:
    run = make_new_run(tmp_path / "run")
    write_journal(run, [{"kind": "step", "step": 1, "loss": 4.5, "lr": 0.0, "gradient_norm": 1.0}])
    page = Page(write_report(run))
    assert "1 of 40 steps are done" in page.text and page.tags.count("svg") == 2


def test_health_of_a_regression_on_gray_images(tmp_path: Path) -> None:
    """No entropy, and nothing to compare the saturation with."""
    run = make_trained_run(tmp_path / "run")
    record = {"kind": "health", "step": 40, "loss": 0.1, "saturation": math.nan, "recall_common": 0.2, "recall_rare": 0}
    write_journal(run, [record])
    page = Page(write_report(run))
    assert "Recall common bins 0.200; rare bins 0.000" in page.text
    assert "Saturation" not in page.text and "Entropy" not in page.text


def test_at_most_fifty_skipped_images_are_listed(tmp_path: Path) -> None:
    run = make_new_run(tmp_path / "run")
    add_result(run, skipped=tuple((f"val/{number}.jpg", "empty") for number in range(51)))
    record = {"kind": "skipped", "step": 3, "reason": "truncated"}
    write_journal(run, [{**record, "key": f"train/{number}.jpg"} for number in [*range(62), 0]])
    page = Page(write_report(run))
    assert "62 images could not be read." in page.text and "And 12 more." in page.text
    assert "51 images skipped" in page.text and "And 1 more." in page.text
    assert page.text.count(".jpg truncated") == page.text.count(".jpg empty") == 50


def test_heavy_images_are_made_smaller(tmp_path: Path) -> None:
    run = make_new_run(tmp_path / "run")
    (run / "colored").mkdir()
    Image.new("RGB", (2000, 1500), "teal").save(run / "colored" / "sheet.png")
    page = Page(write_report(run))
    assert sum(address.startswith("data:image/jpeg") for address in page.addresses) == 1
    assert 'width="1600" height="1200"' in page.source


def test_same_run_same_bytes(tmp_path: Path) -> None:
    run = watched(tmp_path / "run")
    add_both_results(run)
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


@pytest.mark.parametrize("made", ["nothing", "folder", "file", "torn result", "other result", "damaged samples"])
def test_complaints_are_one_line(tmp_path: Path, made: str) -> None:
    run = tmp_path / "run"
    if made == "folder":
        run.mkdir()
    elif made == "file":
        run.write_text("x")
    elif made != "nothing":
        make_trained_run(run)
        add_both_results(run)
        first = run / "results" / "00.json"
        if made == "damaged samples":
            (run / "samples" / "00000040.png").write_bytes(b"no image")
        else:
            first.write_text(first.read_text()[:500] if made == "torn result" else '{"stages": []}')
    with pytest.raises(UserError) as caught:
        write_report(run)
    assert str(run) in str(caught.value) and "\n" not in str(caught.value)
    assert not run.is_dir() or not (run / "report.html").exists()


def test_a_failed_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_new_run(tmp_path / "run")
    old = write_report(run).read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        report.write_report(run)
    assert (run / "report.html").read_bytes() == old
    assert not list(run.glob(".*.part"))


@pytest.mark.slow
def test_no_horizontal_scroll_and_no_request_in_a_browser(browser: "Browser", tmp_path: Path) -> None:
    run = watched(tmp_path / ("a-long-name-" * 8), skipped=2)
    name = "a-name-of-a-network" * 5
    for mode in ("cached", "augmented"):
        add_both_results(run, train="/very" * 30, test="/very" * 30, mode=mode)
        add_result(run, name, mode=mode, kind="supervised", train="/very" * 30, test="/very" * 30)
    shares = {"conv1": 300, "layer2.a-long-name-of-a-stage": 400}
    rows = [row(stage, right_answers(share), None, f"k={k}") for stage, share in shares.items() for k in (10, 20, 200)]
    add_result(run, name, protocol="knn", rows=rows)
    file = write_report(run)
    for width in (400, 1000):
        assert measure_layout(browser, file, width) == (width, [])
