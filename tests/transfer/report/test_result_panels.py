"""What the report says and shows of results."""

import re
from pathlib import Path

import numpy as np
import pytest
from fake_results import answers, ranking, row, truth
from finished_runs import PHOTOS, add_result, make_new_run, make_trained_run, right_answers
from html_page import Page

from transfer.metrics import MeanIoU, make_row
from transfer.report import write_report
from transfer.report.published import STAGES


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (
            550,
            "+0.4 points [\N{MINUS SIGN}1.4, 2.2]; its interval includes 0, so this evaluation does not show",
        ),
        (
            450,
            "\N{MINUS SIGN}9.6 points [\N{MINUS SIGN}11.5, \N{MINUS SIGN}7.8]: here the pretrained network does worse",
        ),
    ],
)
def test_difference_in_words(tmp_path: Path, right: int, words: str) -> None:
    run = make_new_run(tmp_path / "run")
    add_result(run, rows=[row("conv5", right_answers(right, offset=40 if right == 550 else 0))])
    add_result(run, "random", rows=[row("conv5", right_answers(546))], kind="random")
    page = Page(write_report(run))
    assert words in page.text, re.search(r"The difference is [^:;]*", page.text)


def test_the_summary_is_that_of_the_newest_weights(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path / "run")
    add_result(run, "run@20", step=20, protocol="modern", group="a" * 16)
    add_result(run, "run@30", step=30, protocol="logistic", group="b" * 16)
    page = Page(write_report(run))
    assert "After 30 steps" in page.text and "The newest result is of step 30." in page.text
    assert re.findall(r"<h2>(\w+ on [^<]*)", page.source) == ["modern on images/val", "logistic on images/val"]
    assert page.text.count("of 1,000 test images.") == 1, "no reference, no difference"


def test_cached_and_augmented_stand_side_by_side_with_their_gap(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path / "run")
    for mode, more in (("cached", 0), ("augmented", 30)):
        add_result(run, shares=(500 + more, 600 - more), mode=mode)
        add_result(run, "random", (300 + more, 200 + more), mode=mode, kind="random", step=0)
    page = Page(write_report(run))
    assert "network conv2 conv5 dims 9,600 9,600 random, cached 30.0 [" in page.text
    for name, conv5 in (("cached", "60.0"), ("augmented", "57.0"), ("gap", "\u22123.0")):
        assert re.search(rf"first, {name} \S+ \[[^]]*\] {conv5} \[", page.text), name
    assert re.search(r"random, gap \S+ \[[^]]*\] \+3.0 \[\+2.0, \+4.1\]", page.text)
    assert "Gap augmented minus cached, in points" in page.text
    for label in ("random, cached", "random, augmented", "first, cached", "first, augmented"):
        assert page.text.count(label) >= 1, label


def test_neighbors_have_a_line_for_20_and_200_and_all_rows_in_the_table(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path / "run")
    rows = [
        row(stage, right_answers(100 + k), None, f"k={k}") for stage in ("conv1", "conv2") for k in (10, 20, 100, 200)
    ]
    add_result(run, rows=rows, protocol="knn", n_holdout=0)
    page = Page(write_report(run))
    figure = page.source[page.source.index("<h2>knn") : page.source.index('class="note"', page.source.index("<h2>knn"))]
    assert "first, k=20<" in figure and "first, k=200<" in figure and "k=100" not in figure
    assert all(f"k={k} 9,600 {(100 + k) / 10:.1f} [" in page.text for k in (10, 20, 100, 200))
    assert "the last frozen stage, conv2, k=20," in page.text and "No row is marked as the best" in page.text


def test_mean_average_precision_and_few_shots(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path / "run")
    labels = truth(classes=2)
    add_result(
        run,
        rows=[row("conv1", ranking(1.0, 1, labels)), row("conv2", ranking(2.0, 1, labels))],
        protocol="voc07_svm",
        n_holdout=0,
    )
    rows = [
        row(
            stage, [ranking(shots / 60, sample, labels) for sample in range(3)], 0.5, f"{shots} shot{'s' * (shots > 1)}"
        )
        for stage in ("conv1", "conv2")
        for shots in (1, 2, 4, 8, 16, 32, 64, 96)
    ]
    add_result(run, rows=rows, protocol="voc07_svm_lowshot", n_holdout=0)
    page = Page(write_report(run))
    assert "ranks 300 test images with a mean average precision of" in page.text
    assert "did best in cross-validation on the training images" in page.text
    assert "positive images a class" in page.text and "rows of more shots learn from more images" in page.text
    assert "standard deviation over draws" in page.text and re.search(r"96 shots 9,600 \d\d\.\d \u00b1\d", page.text)
    assert "mean average precision, %" in page.text and "top-1" not in page.text


def test_published_rows_stand_beside_and_say_what_they_are(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path / "run")
    imagenet = PHOTOS | {"classes": tuple(map(str, range(1000))), "n_holdout": 0}
    rows = [row(stage, answers(0.3, at, 50_000), None) for at, stage in enumerate([*STAGES, "fc6"])]
    add_result(run, rows=rows, **imagenet | {"protocol": "zhang2016"})
    page = Page(write_report(run))
    assert "Beside published rows, ImageNet" in page.text and page.text.count("context encoder") == 2
    assert "those that later tables cite, written down from memory and not verified" in page.text
    assert "colorization 12.5 24.5 30.4 31.5 30.3 Zhang et al. 2016, as cited in" in page.text
    add_result(run, rows=rows[1:], **imagenet | {"protocol": "splitbrain"})
    assert "Split-Brain" not in Page(write_report(run)).text.replace("(Split-Brain Autoencoders)", ""), "no conv1"


def test_a_result_of_few_stages_does_not_hide_that_of_all(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path / "run")
    add_result(run, rows=[row("conv5", right_answers(662))])
    add_result(run)
    assert "conv2 9,600 56.1" in Page(write_report(run)).text


def test_seeds_of_other_stages_are_said_not_to_fit(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path / "run")
    add_result(run)
    add_result(run, rows=[row("conv5", right_answers(662))], evaluation_seed=1)
    page = Page(write_report(run))
    assert "cannot be shown in one table" in page.text and "has other rows than" in page.text
    assert "Health Does the network learn to color" in page.text


def test_many_results_stay_readable(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path / "run")
    stages = [f"blocks.{number}" for number in range(30)]
    for number in range(14):
        rows = [row(stage, right_answers(300 + at + number)) for at, stage in enumerate(stages)]
        add_result(run, f"run@{number}", rows=rows, step=number, group=f"{number:016d}")
    page = Page(write_report(run))
    assert "2 more lines left out to keep the chart readable" in page.text and "All 30 rows of the table" in page.text
    assert "Cost of 14 results" in page.text


def test_fine_tuned_networks(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path / "run")
    for name, kind, skill in (("first", "pretrained", 300), ("random", "random", 0)):
        counts = np.random.default_rng(0).integers(0, 99, (30, 2, 2))
        counts[:, range(2), range(2)] += skill
        rows = [make_row("all", "", 123456, "", {}, None, [MeanIoU(counts)])]
        add_result(run, name, rows=rows, kind=kind, mode="fine-tuned", protocol="segmentation", n_holdout=0)
    page = Page(write_report(run))
    assert (
        "After 40 steps the network, fine-tuned with all trained, segments 30 test images with a mean inter"
        in page.text
    )
    assert "Mean intersection over union" in page.text and "By class" in page.text
    first = rows[0].outcomes[0]
    assert isinstance(first, MeanIoU)
    assert f"tench {first.positives[0]:,} {100 * first.per_class()[0]:.1f} [" in page.text
    assert "weights trained" in page.text and "123,456" in page.text and "frozen stage" not in page.text
