"""The published rows, and beside which results they are shown."""

import math
from dataclasses import replace
from typing import Any

import pytest
from fake_results import answers, result, row

from pretext.yaml_reader import read_yaml
from pretint.cli import commands
from transfer.report.published import STAGES, TABLES, PublishedTable, published
from transfer.results import Result

FROZEN = ("zhang2016", "splitbrain", "goyal2019")
TUNED: dict[str, dict[str, Any]] = {
    "classify": {"n_test": 4952, "metric": "mAP", "train": "voc:2007:trainval:/data/VOCdevkit"},
    "detect": {"n_test": 4952, "metric": "AP", "train": "voc:2007:trainval:/data/VOCdevkit"},
    "segment": {"n_test": 1449, "metric": "mIoU", "train": "voc:2012:train:/data/VOCdevkit", "n_train": 10_582},
}
"""What tells our results by the paper's recipes."""


def of(n_test: int, classes: int, protocol: str, stages: tuple[str, ...] = (*STAGES, "fc6")) -> Result:
    """A result of so many test images and classes."""
    rows = [row(stage, answers(0.3, 0, n_test)) for stage in stages]
    return result(rows=rows, classes=tuple(map(str, range(classes))), protocol=protocol)


def test_rows_are_whole_and_have_a_source() -> None:
    for table in TABLES:
        assert len({(one.name, one.protocols) for one in table.rows}) == len(table.rows)
        for one in table.rows:
            assert len(one.scores) in (1, len(table.stages))
            assert all(math.isnan(score) or 0.1 < score < 0.8 for score in one.scores) and one.source
            assert not any(map(math.isnan, one.scores)) or table.train, "a line has no gaps"
            assert one.verified == (one.protocols == ("goyal2019",)), "all others are from memory"
            known = {"paper-classify", "paper-detect", "paper-segment"} if table.train else {*FROZEN}
            assert set(one.protocols) <= known and one.protocols


@pytest.mark.parametrize(
    ("n_test", "classes", "protocol", "data", "shown", "hidden"),
    [
        (50_000, 1000, "zhang2016", "ImageNet", "context encoder", "Split-Brain"),
        (50_000, 1000, "splitbrain", "ImageNet", "Split-Brain", "DeepCluster"),
        (50_000, 1000, "goyal2019", "ImageNet", "DeepCluster", "Split-Brain"),
        (20_500, 205, "splitbrain", "Places205", "Places labels", "L to ab, classes"),
    ],
)
def test_data_and_protocol_choose_the_rows(
    n_test: int, classes: int, protocol: str, data: str, shown: str, hidden: str
) -> None:
    table = published(of(n_test, classes, protocol))
    assert table is not None and table.data == data
    names = [one.name for one in table.rows]
    assert shown in names and hidden not in names and "colorization" in names


def test_the_paper_s_row() -> None:
    table = published(of(50_000, 1000, "zhang2016"))
    assert table is not None
    (row,) = (one for one in table.rows if one.name == "colorization")
    assert row.scores == (0.125, 0.245, 0.304, 0.315, 0.303)


@pytest.mark.parametrize(
    ("n_test", "classes", "protocol"),
    [(49_999, 1000, "zhang2016"), (50_000, 999, "zhang2016"), (50_000, 1000, "modern"), (20_500, 205, "zhang2016")],
)
def test_other_data_and_protocols_have_none(n_test: int, classes: int, protocol: str) -> None:
    assert published(of(n_test, classes, protocol)) is None


def test_other_networks_and_few_labels_have_none() -> None:
    whole = of(50_000, 1000, "zhang2016")
    assert published(replace(whole, fraction=0.1)) is None
    assert published(replace(whole, network=replace(whole.network, backbone="siggraph"))) is None
    assert published(of(50_000, 1000, "zhang2016", STAGES[1:])) is None


def tuned(task: str, trained: str = "all", color: bool = False, **changed: Any) -> Result:
    """A result by the paper's recipe of a task, of which only what tells it from others is true."""
    recipe = read_yaml(commands.RECIPES.parent / "transfer" / f"paper_{task}.yaml")
    settings = {"training": {"steps": recipe["training"]["steps"]}, "color": color}
    facts = {
        "protocol": recipe["protocol"], "settings": settings, "mode": "fine-tuned",
        "classes": tuple(map(str, range(21 if task == "segment" else 20))),
    }  # fmt: skip
    return result(rows=[row(trained, answers(0.3, 0), None)], **facts | TUNED[task] | changed)


def percent(table: PublishedTable | None) -> dict[str, list[float]]:
    """The rows as they are printed; -1 where none was published."""
    rows = table.rows if table else ()
    return {one.name: [-1.0 if math.isnan(score) else round(100 * score, 1) for score in one.scores] for one in rows}


@pytest.mark.parametrize(
    ("task", "trained", "gray", "color", "others", "missing"),
    [
        ("classify", "above fc7", 52.4, 52.4, {"k-means, rescaled": [32.0]}, "random (Gaussian)"),
        ("classify", "above pool5", 61.5, 61.5, {"tracking": [55.6]}, "random (Gaussian)"),
        ("classify", "all", 65.9, 65.6, {"random (Gaussian)": [53.3], "ImageNet labels": [79.9]}, ""),
        ("detect", "all", 46.1, 46.9, {"random (Gaussian)": [43.4], "tracking": [47.4]}, ""),
        ("segment", "all", 35.0, 35.6, {"random (Gaussian)": [19.8], "BiGAN": [34.9]}, "tracking"),
    ],
)
def test_what_was_trained_chooses_the_column_of_voc(
    task: str, trained: str, gray: float, color: float, others: dict[str, list[float]], missing: str
) -> None:
    table = published(tuned(task, trained))
    found = percent(table)
    assert table is not None and table.stages == (trained,) and table.metric == TUNED[task]["metric"]
    assert found["colorization, gray"] == [gray] and "colorization, color" not in found
    assert others.items() <= found.items() and missing not in found
    found = percent(published(tuned(task, trained, color=True)))
    assert found["colorization, color"] == [color] and "colorization, gray" not in found


def test_parts_that_were_trained_stand_in_one_table() -> None:
    table = published(tuned("classify", "all"), tuned("classify", "above fc7"))
    assert table is not None and table.stages == ("above fc7", "all")
    assert percent(table)["random (Gaussian)"] == [-1.0, 53.3] and percent(table)["tracking"] == [-1.0, 63.1]


@pytest.mark.parametrize(
    "other",
    [
        {"n_test": 4951},
        {"train": "voc:2007:trainval:/data/VOCdevkit+voc:2012:trainval:/data/VOCdevkit"},
        {"train": "voc:2007:train:/data/VOCdevkit"},
        {"protocol": "laptop-classify"},
        {"settings": {"training": {"steps": 100}}},
        {"trained": "above conv5"},
        {"backbone": "resnet50"},
        {"mode": "cached"},
    ],
    ids=str,
)
def test_what_was_tuned_otherwise_has_none(other: dict[str, Any]) -> None:
    assert published(tuned("classify")) and published(tuned("classify", **other)) is None


def test_segmentation_is_told_by_sbd_too() -> None:
    assert published(tuned("segment", n_train=1464)) is None
