"""What a file keeps of boxes and masks is what was there, and nothing damaged is read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detections import make_images
from fake_results import result, row

from pretext.errors import UserError
from pretext.store import seal, unseal
from transfer.metrics import BoxAP, Detections, MeanIoU
from transfer.result_format import pack_array
from transfer.results import Result, read_result, write_result

CLASSES = ("cat", "dog", "fish")


def detected(seed: int = 0, count: int = 30) -> Result:
    """Two networks' worth of rows, by all three rules each."""
    found, truth = make_images(np.random.default_rng(seed), count)
    others, _ = make_images(np.random.default_rng(seed + 1), count)
    rows = [
        row(trained, BoxAP(boxes, points), None, points)
        for trained, boxes in (
            ("above conv4", Detections.of(found, truth, 3)),
            ("all", Detections.of(others, truth, 3)),
        )
        for points in ("11 points", "all points", "COCO")
    ]
    return result(rows=rows, mode="fine-tuned", protocol="detection", classes=CLASSES)


def segmented(seed: int = 0, count: int = 30) -> Result:
    counts = np.random.default_rng(seed).integers(0, 2**20, (count, 3, 3))
    return result(rows=[row("all", MeanIoU(counts), None)], mode="fine-tuned", classes=CLASSES)


def test_boxes_survive(tmp_path: Path) -> None:
    made = detected()
    write_result(tmp_path / "a.json", made)
    back = read_result(tmp_path / "a.json")
    assert back == made and back.metric == "AP" and back.mode == "fine-tuned" and back.best is None
    for was, now in zip(made.rows, back.rows, strict=True):
        (one,), (two,) = was.outcomes, now.outcomes
        assert isinstance(one, BoxAP) and isinstance(two, BoxAP) and one.points == two.points
        assert one.value == two.value and np.array_equal(one.resampled_classes, two.resampled_classes, equal_nan=True)
        for name in ("counts", "boxes", "scores", "labels"):
            assert np.array_equal(getattr(one.detections, name), getattr(two.detections, name))
        assert np.array_equal(one.detections.truth.difficult, two.detections.truth.difficult)
    assert len({id(each.outcomes[0].detections) for each in back.rows}) == 2, "boxes are kept once for three rules"  # type: ignore[attr-defined]
    objects = json.loads((tmp_path / "a.json").read_text())["objects"]
    kinds = [entry["class"] for entry in objects if isinstance(entry, dict) and "class" in entry]
    assert (kinds.count("Detections"), kinds.count("Truth"), kinds.count("BoxAP")) == (2, 1, 6)


def test_images_without_boxes_survive(tmp_path: Path) -> None:
    found, truth = make_images(np.random.default_rng(3), 10)
    nothing = [(one[0][:0], one[1][:0], one[2][:0]) for one in found]
    made = result(rows=[row("all", BoxAP(Detections.of(nothing, truth, 3), "COCO"), None)], classes=CLASSES)
    write_result(tmp_path / "a.json", made)
    assert read_result(tmp_path / "a.json").rows[0].score == (0, 0, 0)


def test_confusions_survive(tmp_path: Path) -> None:
    made = segmented()
    write_result(tmp_path / "a.json", made)
    back = read_result(tmp_path / "a.json")
    assert back == made and back.metric == "mIoU"
    assert np.array_equal(made.rows[0].outcomes[0].confusions, back.rows[0].outcomes[0].confusions)  # type: ignore[attr-defined]


def place(content: dict[str, Any], kind: str, field: str) -> int:
    """Where the value of a field is, of the first object of a class."""
    found: int = next(entry[field] for entry in content["objects"] if isinstance(entry, dict) and entry.get("class") == kind)  # fmt: skip  # noqa: E501
    return found


@pytest.mark.parametrize(
    ("kind", "field", "to"),
    [
        ("Truth", "difficult", np.zeros(7, np.bool_)),
        ("Truth", "boxes", np.zeros((3, 4), np.float32)),
        ("Truth", "counts", np.full(30, 10**15)),
        ("Truth", "labels", None),
        ("Truth", "classes", 2**40),
        ("Detections", "scores", np.zeros(1, np.float32)),
        ("Detections", "labels", 7),
        ("Detections", "counts", np.zeros(29, np.int64)),
        ("BoxAP", "points", "12 points"),
        ("BoxAP", "points", "COCO"),  # another number than the row says
        ("MeanIoU", "confusions", np.zeros((30, 3, 3), np.int64)),
        ("MeanIoU", "confusions", np.ones((30, 2, 2), np.int64)),
        ("MeanIoU", "confusions", np.ones((29, 3, 3), np.int64)),
    ],
)
def test_nonsense_objects(tmp_path: Path, kind: str, field: str, to: Any) -> None:
    file = tmp_path / "a.json"
    write_result(file, segmented() if kind == "MeanIoU" else detected())
    found = unseal(file.read_bytes())
    found["objects"][place(found, kind, field)] = pack_array(to) if isinstance(to, np.ndarray) else to
    _refused(file, found)


@pytest.mark.parametrize(
    ("name", "to"),
    [("n_test", 31), ("n_test", 2**60), ("classes", ["cat"]), ("metric", "mIoU"), ("metric", "mAP"), ("objects", [])],
)
def test_facts_that_do_not_fit_the_boxes(tmp_path: Path, name: str, to: Any) -> None:
    file = tmp_path / "a.json"
    write_result(file, detected())
    _refused(file, unseal(file.read_bytes()) | {name: to})


def _refused(file: Path, found: dict[str, Any]) -> None:
    file.write_bytes(seal(found))
    with pytest.raises(UserError, match="or damaged") as caught:
        read_result(file)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
