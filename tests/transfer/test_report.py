"""The report page, from run directories in the real formats."""

import copy
import html
import json
import math
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from pretext.engine.journal import Journal
from pretext.errors import UserError
from pretext.recipe import PretrainSettings
from pretext.settings import plain
from transfer import report
from transfer.report import write_report

HOSTILE = "<script>alert(1)</script>"


def estimate(accuracy: float, half: float = 0.015) -> dict[str, float]:
    """As ``pretint probe`` writes it."""
    return {
        "accuracy": accuracy,
        "low": accuracy - half,
        "high": accuracy + half,
        "holdout_accuracy": accuracy,
        "penalty": 0.001,
    }


def difference(value: float, half: float = 0.017) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


PROBE: dict[str, Any] = {
    "protocol": "pooled-linear-1",
    "about": "Pooled features and a linear classifier.",
    "data": {
        "train": "pictures/train",
        "test": "pictures/val",
        "classes": ["tench", "church"],
        "n_fit": 8523,
        "n_holdout": 946,
        "n_train": 9469,
        "n_test": 3925,
    },
    "view_size": 96,
    "seed": 0,
    "pretraining_seed": 0,
    "step": 40,
    "interval": "95% percentile bootstrap over test pictures, 10000 resamples",
    "stages": [
        {
            "stage": stage,
            "dims": 4096,
            "random": estimate(random),
            "pretrained": estimate(pretrained),
            "difference": difference(pretrained - random),
        }
        for stage, random, pretrained in (("conv2", 0.546, 0.561), ("conv5", 0.478, 0.662))
    ],
    "best": {"random": "conv2", "pretrained": "conv5", "difference": difference(0.116)},
    "versions": {"torch": "2.11.0"},
    "skipped": [["val/damaged.jpg", "truncated: 3 bytes missing"]],
}


def begun(run: Path) -> Path:
    """A run in which nothing has happened yet."""
    run.mkdir(parents=True)
    settings = plain(PretrainSettings())
    settings["training"]["steps"] = 40
    (run / "settings.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return run


def trained(run: Path, *, skipped: int = 0) -> Path:
    """A run after its 40 steps, of which the first was called again."""
    begun(run)
    versions = {"torch": "2.11.0", "decoder": "Pillow"}
    records: list[dict[str, Any]] = [
        {
            "kind": "start",
            "step": at,
            "time": 1795385324.1 + at,
            "device": "cpu",
            "workers": 1,
            "held_out": 256,
            "versions": versions,
        }
        for at in (0, 1)
    ]
    for step in range(1, 41):
        loss = math.nan if step == 7 else 5 - step / 20 + step % 3 / 10
        records.append({"kind": "step", "step": step, "loss": loss, "lr": 0.002 / step, "gradient_norm": 1.0})
    records += [
        {"kind": "skipped", "step": 3, "key": f"train/{number:03d}.jpg", "reason": "truncated"}
        for number in range(skipped)
    ]
    for step in (20, 40):
        health = {"loss": 4.123, "saturation": 0.817, "recall_common": 0.1, "recall_rare": math.nan, "entropy": 4.17}
        records.append({"kind": "health", "step": step, **health})
    (run / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (run / "samples").mkdir()
    for step, colour in ((20, "gray"), (40, "orange")):
        Image.new("RGB", (900, 300), colour).save(run / "samples" / f"{step:08d}.png")
    return run


def add_probe(run: Path, name: str = "pooled-linear-1", **changes: Any) -> None:
    (run / "probes").mkdir(exist_ok=True)
    (run / "probes" / f"{name}.json").write_text(json.dumps({**copy.deepcopy(PROBE), **changes}))


class Page(HTMLParser):
    """What a browser would find: text, addresses, identifiers, tags."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.identifiers: list[str] = []
        self.tags: list[str] = []
        self.pieces: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.pieces).split())  # a no-break space is white space, too

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                self.addresses.append(value or "")
            if name == "id":
                self.identifiers.append(value or "")

    def handle_data(self, data: str) -> None:
        if not self.tags or self.tags[-1] != "style":
            self.pieces.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "style":
            self.tags.append("")


def test_whole_report(tmp_path: Path) -> None:
    run = trained(tmp_path / "first", skipped=1)
    add_probe(run)
    before = {path for path in run.rglob("*") if path.is_file()}
    assert write_report(run) == run / "report.html"
    assert {path for path in run.rglob("*") if path.is_file()} - before == {run / "report.html"}
    page = Page(run / "report.html")
    assert (
        "After 40 steps the best frozen stage, conv5, classifies 66.2 % [64.7, 67.7] of 3,925 test pictures; "
        "the same network at random initialisation 54.6 % [53.1, 56.1] (its best stage, conv2). "
        "The difference is +11.6 points [9.9, 13.3]."
    ) in page.text
    for piece in (
        "Training is complete: 40 of 40 steps.",
        "Protocol pooled-linear-1, 2 classes, 9,469 training pictures, pretraining seed 0",
        "95% percentile bootstrap over test pictures, 10000 resamples",
        "chosen on 946 training pictures held out",
        "conv5 4,096 47.8 [46.3, 49.3] 66.2 [64.7, 67.7] +18.4 [16.7, 20.1]",
        "tench, church",
        "val/damaged.jpg truncated: 3 bytes missing",
        "held out, last: 4.123",
        "Saturation 0.817",
        "Entropy 4.170",
        "ln 313 = 5.75",
        "common bins 0.100",
        "1 picture could not be read.",
        "train/000.jpg truncated",
        "Begun 2026-11-22 22:08 UTC; went on 1 time, last at step 1",
        "torch 2.11.0",
        "prior_pictures 2000",
        "pictures at step 40",
    ):
        assert piece in page.text, piece
    assert "None" not in page.text.replace("None.", "") and "nan" not in page.text
    assert page.tags.count("svg") == 6 and page.tags.count("img") == 1


def watched(run: Path, *, skipped: int = 0) -> Path:
    """A trained run whose journal also holds what newer versions write."""
    trained(run, skipped=skipped)
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
        journal.write("speed", step, pictures_per_second=1234.0 + 10 * (step % 3 - 1), waiting=waiting)
    journal.close()
    return run


def test_what_newer_journals_hold(tmp_path: Path) -> None:
    page = Page(write_report(watched(tmp_path / "run")))
    for piece in (
        "Accuracy plain 0.400; rebalanced 0.123",
        "Recall of every bin step 40",
        "Of 313 bins 4 occur in these pictures; at least one pixel is right in 3 of them.",
        "does not occur",
        "Online probe a trend, not a result",
        "online accuracy, %",
        "Pictures a second median 1,234",
        "Waiting for data median 3.1 %",
    ):
        assert piece in page.text, piece
    assert page.tags.count("svg") == 10 and "nan" not in page.text
    online = page.source[page.source.index("<h2>Online probe") : page.source.index("<h2>Samples")]
    assert "conv1" in online and "<table" not in online
    assert not re.search(r"[0-9] ?%|0\.[0-9]", re.sub(r"<svg.*?</svg>", "", online, flags=re.DOTALL)), "no numbers"


def test_older_journals_have_none_of_it(tmp_path: Path) -> None:
    page = Page(write_report(trained(tmp_path / "run")))
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
        {"kind": "speed", "pictures_per_second": None, "waiting": "long"},
    ],
)
def test_records_that_say_nothing_are_passed_over(tmp_path: Path, record: dict[str, Any]) -> None:
    run = begun(tmp_path / "run")
    (run / "journal.jsonl").write_text(json.dumps({"step": 5, **record}) + "\n")
    page = Page(write_report(run))
    assert "svg" not in page.tags
    assert not re.search("every bin|Online probe|Speed", page.text)


@pytest.mark.parametrize("step", [0, 40])
def test_a_single_look(tmp_path: Path, step: int) -> None:
    run = begun(tmp_path / "run")
    records: list[dict[str, Any]] = [
        {"kind": "health", "step": step, "accuracy": 0.0, "recall": [0.0] * 313},
        {"kind": "online", "step": step, HOSTILE: 1.0, f"accuracy_$x${HOSTILE}": 0.5},
        {"kind": "speed", "step": step, "waiting": 0},
    ]
    (run / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    page = Page(write_report(run))
    assert page.tags.count("svg") == 4 and "script" not in page.tags
    assert page.text.count(f"$x${HOSTILE}") == 1 and "median 0.0 %" in page.text
    assert "Pictures a second" not in page.text


def test_one_file_that_asks_for_nothing(tmp_path: Path) -> None:
    run = watched(tmp_path / "first")
    add_probe(run)
    page = Page(write_report(run))
    assert page.addresses and all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"@import|url\(\s*(?!#)[^)]|https?://", re.sub(r"base64,[^\"]+", "", page.source))
    assert len(page.identifiers) == len(set(page.identifiers))
    targets = {address[1:] for address in page.addresses if address.startswith("#")}
    assert targets | set(re.findall(r"url\(#([^)]+)\)", page.source)) <= set(page.identifiers)


def test_what_comes_from_outside_is_escaped(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "")
    run = trained(tmp_path / name)
    with (run / "journal.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "skipped", "step": 40, "key": HOSTILE, "reason": f'"{HOSTILE}'}) + "\n")
    probe = copy.deepcopy(PROBE)
    probe["data"] |= {"train": HOSTILE, "classes": [HOSTILE, "a & b"]}
    stage = "--><b>$\\alpha$</b><![CDATA["
    probe["stages"][1]["stage"] = probe["best"]["pretrained"] = stage
    add_probe(run, HOSTILE.replace("/", ""), **probe | {"protocol": HOSTILE, "interval": HOSTILE, "about": HOSTILE})
    page = Page(write_report(run))
    assert "script" not in page.tags and "b" not in page.tags
    assert html.escape(HOSTILE, quote=False) in page.source and "a & b" in page.text
    assert page.text.count(stage) == 4  # summary, table, caption and, not taken for mathematics, chart


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    run = begun(tmp_path / "broken-\udcff")
    assert "broken-?" in Page(write_report(run)).text


def test_run_that_has_just_begun(tmp_path: Path) -> None:
    run = begun(tmp_path / "new run")
    page = Page(write_report(run))
    for piece in (
        "no probe has been made",
        f"pretint probe '{run}'",
        "Training is not complete: 0 of 40 steps are done.",
        "The journal holds no step yet.",
        "The colours have not been looked at yet",
        "There are no samples yet.",
    ):
        assert piece in page.text, piece
    assert "svg" not in page.tags


def test_first_step_alone(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    (run / "journal.jsonl").write_text('{"kind": "step", "step": 1, "loss": 4.5, "lr": 0.0, "gradient_norm": 1.0}\n')
    page = Page(write_report(run))
    assert "1 of 40 steps are done" in page.text and page.tags.count("svg") == 2


def test_health_of_a_regression_on_gray_pictures(tmp_path: Path) -> None:
    """No entropy, and nothing to compare the saturation with."""
    run = trained(tmp_path / "run")
    record = {"kind": "health", "step": 40, "loss": 0.1, "saturation": math.nan, "recall_common": 0.2, "recall_rare": 0}
    (run / "journal.jsonl").write_text(json.dumps(record) + "\n")
    page = Page(write_report(run))
    assert "Recall common bins 0.200; rare bins 0.000" in page.text
    assert "Saturation" not in page.text and "Entropy" not in page.text


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.01, "+1.0 points [\N{MINUS SIGN}0.7, 2.7]; its interval includes 0, so this probe does not tell"),
        (-0.05, "\N{MINUS SIGN}5.0 points [\N{MINUS SIGN}6.7, \N{MINUS SIGN}3.3]: here pretraining does worse"),
    ],
)
def test_difference_in_words(tmp_path: Path, value: float, words: str) -> None:
    run = begun(tmp_path / "run")
    add_probe(run, best={**PROBE["best"], "difference": difference(value)})
    assert words in Page(write_report(run)).text


def test_the_summary_is_that_of_the_latest_probe(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    add_probe(run, "a", step=30, protocol="later")
    add_probe(run, "b", step=20, protocol="earlier")
    page = Page(write_report(run))
    assert "After 30 steps" in page.text and "The probe is of step 30." in page.text
    assert "Linear probe: later, step 30" in page.text and "Linear probe: earlier, step 20" in page.text


def test_at_most_fifty_skipped_pictures_are_listed(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    add_probe(run, skipped=[[f"val/{number}.jpg", "empty"] for number in range(51)])
    record = {"kind": "skipped", "step": 3, "reason": "truncated"}
    lines = [json.dumps({**record, "key": f"train/{number}.jpg"}) for number in [*range(62), 0]]
    (run / "journal.jsonl").write_text("\n".join(lines))
    page = Page(write_report(run))
    assert "62 pictures could not be read." in page.text and "And 12 more." in page.text
    assert "51 pictures skipped" in page.text and "And 1 more." in page.text
    assert page.text.count(".jpg truncated") == page.text.count(".jpg empty") == 50


def test_heavy_pictures_are_made_smaller(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    (run / "coloured").mkdir()
    Image.new("RGB", (2000, 1500), "teal").save(run / "coloured" / "sheet.png")
    page = Page(write_report(run))
    assert sum(address.startswith("data:image/jpeg") for address in page.addresses) == 1
    assert 'width="1600" height="1200"' in page.source


def test_same_run_same_bytes(tmp_path: Path) -> None:
    run = watched(tmp_path / "run")
    add_probe(run)
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


@pytest.mark.parametrize("made", ["nothing", "folder", "file", "torn probe", "other probe", "damaged samples"])
def test_complaints_are_one_line(tmp_path: Path, made: str) -> None:
    run = tmp_path / "run"
    if made == "folder":
        run.mkdir()
    elif made == "file":
        run.write_text("x")
    elif made != "nothing":
        trained(run)
        add_probe(run)
        probe = run / "probes" / "pooled-linear-1.json"
        if made == "damaged samples":
            (run / "samples" / "00000040.png").write_bytes(b"no picture")
        else:
            probe.write_text(probe.read_text()[:500] if made == "torn probe" else '{"stages": []}')
    with pytest.raises(UserError) as caught:
        write_report(run)
    assert str(run) in str(caught.value) and "\n" not in str(caught.value)
    assert not run.is_dir() or not (run / "report.html").exists()


def test_a_failed_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun(tmp_path / "run")
    old = write_report(run).read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        report.write_report(run)
    assert (run / "report.html").read_bytes() == old
    assert not list(run.glob(".*.part"))


@pytest.mark.skipif(shutil.which("chromium") is None and os.environ.get("CI") != "true", reason="needs chromium")
def test_no_horizontal_scroll_in_a_browser(tmp_path: Path) -> None:
    run = watched(tmp_path / ("a-long-name-" * 8), skipped=2)
    probe = copy.deepcopy(PROBE)
    probe["data"]["train"] = "/very" * 30
    add_probe(run, **probe)
    address = write_report(run).as_uri()
    widths = (400, 1000)
    frames = "".join(
        f'<iframe src="{address}" style="border:0;width:{width}px;height:600px"></iframe>' for width in widths
    )
    outer = tmp_path / "outer.html"
    outer.write_text(
        f"{frames}<p></p><script>onload = () => document.querySelector('p').textContent = 'found ' + "
        "[...document.querySelectorAll('iframe')].map(f => f.contentDocument.documentElement.scrollWidth)</script>"
    )
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --hide-scrollbars --allow-file-access-from-files "
        "--virtual-time-budget=5000 --dump-dom"
    )
    found = subprocess.run(
        ["chromium", *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", outer.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert f"found {widths[0]},{widths[1]}" in found
