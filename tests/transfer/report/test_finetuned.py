"""What the report says of fine-tuning: in the page of the run that it began from, and in its own."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detections import make_images
from fake_results import answers, ranking, truth
from finished_runs import add_both_results, add_finetuned_result, make_new_run, make_trained_run
from html_page import Page
from PIL import Image

from pretext.errors import UserError
from transfer.metrics import Metric, Points, Weighted, confusion, detections_outcome, segmentation_outcome
from transfer.report import panels, published, write_report

RULES: tuple[Points, ...] = ("11 points", "all points", "COCO")
CLASSES = ("cat", "dog", "fish")


def detected(seed: int = 0, share: float = 1.0) -> dict[str, Metric]:
    """By every rule, of the same images; of what was found a share is told."""
    found, known = make_images(np.random.default_rng(0), 60)
    keep = np.random.default_rng(seed + 1)
    found = [tuple(part[taken] for part in one) for one in found for taken in [keep.random(len(one[2])) < share]]  # type: ignore[misc]
    return {rule: detections_outcome(found, known, rule, 3) for rule in RULES}


def shown(outcome: Metric) -> str:
    return f"{100 * outcome.value:.1f}"


def test_published_rows_of_voc_stand_below_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = [one._replace(n_test=300) if one.metric == "mAP" else one for one in published.TABLES]
    monkeypatch.setattr(published, "TABLES", fewer)
    run = make_trained_run(tmp_path / "first")
    facts: dict[str, Any] = {
        "protocol": "paper-classify", "train": "voc:2007:trainval:D", "test": "voc:2007:test:D",
        "classes": tuple(map(str, range(20))), "settings": {"training": {"steps": 80_000}},
    }  # fmt: skip
    for part in ("all", "above fc7"):
        add_finetuned_result(run, "first", {"": ranking(1.0, 0, truth(300, 20))}, part, **facts)
    page = Page(write_report(run))
    for piece in (
        "Below the table: published numbers of AlexNet on VOC2007.",
        "written down from memory and not verified",
        "mAP, % above fc7 all source",
        "colorization, gray 52.4 65.9 Zhang et al. 2016, as cited in later tables; not verified",
        "random (Gaussian) 53.3 As cited",
    ):
        assert piece in page.text, piece
    assert "Beside published rows" not in page.text and "gray lines" not in page.text and "nan" not in page.text


def test_detection_by_three_rules_beside_random_weights(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path / "first")
    ours, random = detected(), detected(share=0.3)
    add_finetuned_result(run, "first", ours, classes=CLASSES)
    add_finetuned_result(run, "random", random, classes=CLASSES, kind="random", step=0)
    page = Page(write_report(run))
    first = ours["11 points"]
    assert "After 40 steps the network, fine-tuned with all trained, 11 points, finds what is in 60 test" in page.text
    assert f"a mean average precision of boxes of {shown(first)} % [" in page.text
    for piece in (
        "the same network at random initialization",
        "(fine-tuned in the same way)",
        "Nothing was chosen: this is the network with the most trained weights.",
        "Mean average precision of boxes of fine-tuned networks on 60 test images, 3 classes.",
        "Nothing is chosen: every network is trained once",
        "Fine-tuned in the same way, all trained, 11 points: first minus random: +",
        "8,523 to learn from, 40 held out, which choose nothing",
        "trained weights trained random first all, 11 points 9,600 ",
        "on 40 training images that were held out: a trend to look at",
        "laptop-detect, first, all trained: each pair shows the truth, then the prediction",
        "By all rules: pretint table FILES --per-class",
    ):
        assert piece in page.text, piece
    for outcome in (*ours.values(), *random.values()):
        assert f" {shown(outcome)} [" in page.text
    for word in ("frozen", "Best against best", "middle square", "features kept", "and choose", "No row is marked"):
        assert word not in page.text, word
    assert page.tags.count("img") == 3  # the samples, and a sheet of each
    assert "None" not in page.text.replace("None.", "") and "nan" not in page.text
    assert len(page.identifiers) == len(set(page.identifiers))


def test_classes_stand_in_a_table_of_their_own(tmp_path: Path) -> None:
    run = make_new_run(tmp_path / "run")
    known = truth()
    outcome = ranking(1.0, 1, known)
    add_finetuned_result(run, "first", {"": outcome}, classes=CLASSES)
    page = Page(write_report(run))
    for name, value, count in zip(CLASSES, outcome.per_class(), (known == 1).sum(0), strict=True):
        assert re.search(rf"{name} {count} {100 * value:.1f} \[\d", page.text), name
    assert "--per_class" not in page.text and "class images first" in page.text


def test_what_was_trained_stands_one_under_the_other(tmp_path: Path) -> None:
    run = make_new_run(tmp_path / "run")
    for seed, part in enumerate(("all", "above conv3")):
        add_finetuned_result(
            run, "first", {"": ranking(1.0 + seed, 1)}, part, classes=CLASSES, protocol="laptop-classify"
        )
    page = Page(write_report(run))
    assert "first, trained above conv3" in page.text and "first, all trained" in page.text
    places = [page.text.index(f"Test images: first, {words}") for words in ("all trained", "trained above conv3")]
    assert places == sorted(places), "of which most was trained first"
    assert "the network, fine-tuned with all trained, ranks 300 test images" in page.text


def test_segmentation_and_top_1(tmp_path: Path) -> None:
    run = make_new_run(tmp_path / "run")
    rng = np.random.default_rng(0)
    masks = [rng.integers(0, 3, (8, 8)) for _ in range(40)]
    found = segmentation_outcome([confusion(mask, np.where(rng.random((8, 8)) < 0.5, mask, 0), 3) for mask in masks])
    add_finetuned_result(run, "first", {"": found}, classes=("background", "cat", "dog"), protocol="laptop-segment")
    add_finetuned_result(run, "other", {"": answers(0.6, 1)}, protocol="folders", classes=CLASSES)
    page = Page(write_report(run))
    assert "Mean intersection over union of fine-tuned networks on 40 test images" in page.text
    assert isinstance(found, Weighted) and f"{shown(found)} [" in page.text
    assert page.text.count("By class") == 1, "right or wrong has no classes"


def test_beside_frozen_features_the_headline_is_theirs(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path / "first")
    add_both_results(run)
    add_finetuned_result(run, "first", {"": ranking(1.0, 1)}, classes=CLASSES)
    page = Page(write_report(run))
    assert "the best frozen stage, conv5, classifies 66.2 %" in page.text
    assert "for fine-tuned networks, the row with the most trained weights" in page.text


def test_results_without_their_runs(tmp_path: Path) -> None:
    run = make_new_run(tmp_path / "run")
    folder = add_finetuned_result(run, "first", {"": ranking(1.0, 1)}, classes=CLASSES)
    for file in sorted(folder.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    page = Page(write_report(run))
    assert "How they were trained" not in page.text and "Test images:" not in page.text and "img" not in page.tags


@pytest.mark.slow
def test_many_sheets_keep_the_page_light(tmp_path: Path) -> None:
    run = make_new_run(tmp_path / "run")
    noise = np.random.default_rng(0).integers(0, 256, (900, 940, 3), dtype=np.uint8)
    for number in range(panels.MOST_SHEETS + 2):
        folder = add_finetuned_result(
            run, f"run@{number}", {"": ranking(1.0, number)}, step=number, group=f"{number:016d}", classes=CLASSES
        )
        Image.fromarray(noise).save(folder / "samples" / "test.png")
    page = Page(write_report(run))
    assert page.tags.count("img") == panels.MOST_SHEETS and "2 more sheets of test images" in page.text
    assert f"Test images of {panels.MOST_SHEETS - 2} more" in page.text
    assert len(page.source) < 8e6  # of noise; an image is a fraction of it


def test_own_page(tmp_path: Path) -> None:
    run = make_trained_run(tmp_path / "first")
    outcomes = detected()
    folder = add_finetuned_result(run, "first", outcomes, "above conv3", classes=CLASSES)
    assert write_report(folder) == folder / "report.html"
    page = Page(folder / "report.html")
    for piece in (
        "Detect: first, trained above conv3",
        "After 40 steps of fine-tuning, trained above conv3, the network finds what is in 60 test images with a "
        f"mean average precision of boxes (11 points) of {shown(outcomes['11 points'])} % [",
        "Training is complete: 40 of 40 steps.",
        "Learns from voc:2007:trainval:D Judged on voc:2007:test:D",
        "Seed 0",
        "The losses of all parts of the detector",
        "11 points 21.0 %; all points 21.0 %; COCO 21.0 %",
        "(40 of them)",
        "The first value is the score before the head was trained.",
        "Held-out training images, step 40",
        "000005.xml a box of no area was left out",
        "freeze_to conv3",
        "torch 2.11.0",
    ):
        assert piece in page.text, piece
    assert not re.search("color|[Pp]robe|gray|frozen", re.sub(r"<svg.*?</svg>", "", page.text))
    assert page.tags.count("img") == 2 and page.tags.count("svg") == 4
    assert "None" not in page.text.replace("None.", "") and "nan" not in page.text
    assert {address.split(",")[0] for address in page.addresses if not address.startswith("#")} == {
        "data:image/png;base64"
    }


def test_own_page_before_there_is_a_result(tmp_path: Path) -> None:
    run = make_new_run(tmp_path / "run")
    folder = add_finetuned_result(run, "first", {"": ranking(1.0, 1)}, journal=[])
    (run / "results" / f"{folder.name}.json").unlink()
    (folder / "samples" / "test.png").unlink()
    (folder / "samples" / "00000040.png").unlink()
    page = Page(write_report(folder))
    for piece in (
        "There is no result yet: the test images are read once, when training is complete.",
        "Training is not complete: 0 of 40 steps are done.",
        "The journal holds no step yet.",
        "No images have been evaluated yet",
        "There are no samples yet.",
    ):
        assert piece in page.text, piece
    assert "svg" not in page.tags


def test_result_beside_the_folder_of_networks_that_are_no_runs(tmp_path: Path) -> None:
    run = make_new_run(tmp_path / "run")
    folder = add_finetuned_result(run, "first", {"": ranking(1.0, 1)}, classes=CLASSES)
    file = run / "results" / f"{folder.name}.json"
    file.rename(run / file.name)
    assert panels.result_file(folder) == run / file.name
    assert "ranks 300 test images" in Page(write_report(folder)).text


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    run = make_new_run(tmp_path / "run")
    hostile = "<script>$x$"
    folder = add_finetuned_result(run, hostile, {"": ranking(1.0, 1)}, classes=(hostile, "dog", "fish"), test=hostile)
    for page in (Page(write_report(run)), Page(write_report(folder))):
        assert "script" not in page.tags and hostile in page.text


def test_damaged_sheets_and_results_are_one_line(tmp_path: Path) -> None:
    run = make_new_run(tmp_path / "run")
    folder = add_finetuned_result(run, "first", {"": ranking(1.0, 1)}, classes=CLASSES)
    (folder / "samples" / "test.png").write_bytes(b"no image")
    for place in (run, folder):
        with pytest.raises(UserError, match=r"test\.png: cannot be read as an image") as caught:
            write_report(place)
        assert "\n" not in str(caught.value)
    file = run / "results" / f"{folder.name}.json"
    file.write_text(file.read_text()[:300])
    with pytest.raises(UserError, match=file.name[:5]):
        write_report(folder)
