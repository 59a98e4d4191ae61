"""Boxes: the real annotations against a plain reading of them, and whatever can be wrong with one."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from devkits import Marked, annotation, write_devkit

from pretext.data import ImageDataset
from pretext.data.batches import Subset
from pretext.data.source import digest_of_keys
from pretext.data.voc import CLASSES
from pretext.errors import ImageError, UserError
from transfer.labels.boxes import objects_of, open_boxed

DOG: Marked = ("dog", (11, 6, 30, 25), 0)
HARD: Marked = ("cat", (41, 1, 60, 40), 1)


def refused(name: str, *parts: str, training: bool = False) -> None:
    with pytest.raises(UserError) as caught:
        open_boxed(name, training)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(("year", "part"), [("2007", "test"), ("2012", "val")])
def test_real_boxes_are_those_of_a_plain_reading(shared_data: Path, year: str, part: str) -> None:
    devkit = shared_data / "voc-mini" / "VOCdevkit"
    boxed = open_boxed(f"voc:{year}:{part}:{devkit}")
    stems = (devkit / f"VOC{year}/ImageSets/Main/{part}.txt").read_text().split()
    assert isinstance(boxed, ImageDataset) and [boxed.stem(index) for index in range(len(boxed))] == stems
    assert boxed.problems == [] and boxed.classes == list(CLASSES) and boxed.digest() == digest_of_keys(boxed)
    for index, stem in enumerate(stems):
        tree = ElementTree.parse(devkit / f"VOC{year}/Annotations/{stem}.xml")
        want = [
            [CLASSES.index(str(one.findtext("name"))), int(one.findtext("difficult") or 0)]
            + [float(one.findtext(f"bndbox/{corner}") or "") for corner in ("xmin", "ymin", "xmax", "ymax")]
            for one in tree.iter("object")
        ]
        objects = boxed.objects(index)
        found = np.column_stack((objects.labels, objects.difficult, objects.boxes + np.array([1, 1, 0, 0])))
        assert np.array_equal(found, want), stem
        assert objects.boxes.dtype == np.float32 and objects.labels.dtype == np.int64
        width, height = int(tree.findtext("size/width") or 0), int(tree.findtext("size/height") or 0)
        if index < 20:
            assert boxed.size(index) == boxed.read(index).size == (width, height)


def test_what_2012_writes_otherwise(tmp_path: Path) -> None:
    root = write_devkit(tmp_path, {"2008_000001": [("person", ("45.70000076293945", " 3 ", 50, "33.5"), 0)]}, "2012")
    path = root / "Annotations/2008_000001.xml"
    path.write_text(path.read_text().replace("<difficult>0</difficult>", ""))
    objects = open_boxed(f"voc:2012:train:{tmp_path}").objects(0)
    assert objects.boxes.tolist() == [[pytest.approx(44.7), 2, 50, 33.5]] and not objects.difficult.any()
    assert objects.labels.tolist() == [CLASSES.index("person")], "the box and the name of its head are not taken"


def test_boxes_outside_are_cut_or_dropped_and_counted(tmp_path: Path) -> None:
    boxes = [
        (0, -3, 61, 41),
        (61, 1, 70, 9),
        (-9, 1, 0, 9),
        (30, 5, 30, 9),
        (30, 9, 35, 5),
        (60, 40, 1e300, 41),
        (1, 1, 60, 40),
    ]
    write_devkit(tmp_path, {"000001": [("dog", box, 0) for box in boxes]})
    boxed = open_boxed(f"voc:2007:train:{tmp_path}")
    assert boxed.objects(0).boxes.tolist() == [[0, 0, 60, 40], [59, 39, 60, 40], [0, 0, 60, 40]]
    assert {key for key, _ in boxed.problems} == {"Annotations/000001.xml"}
    said = [(reason.split()[4], reason.split()[-1]) for _, reason in boxed.problems]
    assert said == [("1", "cut"), ("2", "dropped"), ("3", "dropped"), ("4", "dropped"), ("5", "dropped"), ("6", "cut")]
    assert "60 x 40" in boxed.problems[1][1] and "no area" in boxed.problems[3][1]


def test_training_leaves_out_images_that_show_nothing(tmp_path: Path) -> None:
    write_devkit(
        tmp_path, {"000003": [], "000001": [DOG, HARD], "000002": [HARD], "000004": [("cow", (9, 9, 8, 8), 0)]}
    )
    name = f"voc:2007:train:{tmp_path}"
    kept = open_boxed(name)
    assert [kept.stem(at) for at in range(len(kept))] == ["000003", "000001", "000002", "000004"]
    assert kept.objects(0).boxes.shape == (0, 4) and kept.objects(0).labels.shape == (0,) and len(kept.problems) == 1
    for difficult, stems in ((False, ["000001"]), (True, ["000001", "000002"])):
        boxed = open_boxed(name, training=True, difficult=difficult)
        assert [boxed.stem(at) for at in range(len(boxed))] == stems
        out = [key for key, reason in boxed.problems if "left out" in reason]
        assert {Path(key).stem for key in out} == {kept.stem(at) for at in range(4)} - set(stems)
    (tmp_path / "VOC2007/ImageSets/Main/train.txt").write_text("000003\n")
    refused(name, "none of its images", training=True)


def test_both_years_joined(tmp_path: Path) -> None:
    write_devkit(tmp_path, {"000001": [DOG]})
    write_devkit(tmp_path, {"000001": [HARD, DOG], "2008_000002": [HARD]}, "2012", "val")
    write_devkit(tmp_path, {"2008_000007": [DOG]}, "2012")
    names = [f"voc:{one}:{tmp_path}" for one in ("2007:train", "2012:val", "2012:train")]
    boxed = open_boxed("+".join(names))
    assert [boxed.key(at) for at in range(4)] == [
        f"VOC{one}.jpg"
        for one in (
            "2007/JPEGImages/000001",
            "2012/JPEGImages/000001",
            "2012/JPEGImages/2008_000002",
            "2012/JPEGImages/2008_000007",
        )
    ]
    assert [len(boxed.objects(at).labels) for at in range(4)] == [1, 2, 1, 1]
    assert [boxed.read(at).size for at in range(4)] == [(60, 40)] * 4
    assert open_boxed(names[1] + "+" + names[2]).key(0) == "JPEGImages/000001.jpg"
    part = Subset(boxed, range(1, 3), seed=5)
    assert [objects_of(part, at) is boxed.objects(part.index(at)) for at in range(2)] == [True, True]
    refused(f"{names[0]}+{names[0]}", "000001", "2 of these parts")
    refused(f"{names[0]}+voc:2009:train:{tmp_path}", "2009")
    refused(f"{tmp_path}", "voc:YEAR:PART:FOLDER")


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        ("<xmin>11</xmin>", "<xmin>nan</xmin>", ["xmin", "'nan'"]),
        ("<xmin>11</xmin>", "<xmin>1e999</xmin>", ["xmin", "no number"]),
        ("<xmin>11</xmin>", "<xmin>eleven</xmin>", ["xmin", "'eleven'"]),
        ("<xmin>11</xmin>", "<xmin></xmin>", ["xmin", "''"]),
        ("<xmin>11</xmin>", "", ["no <xmin>", "dog"]),
        ("<xmin>11</xmin>", "<xmin>11</xmin><xmin>12</xmin>", ["two <xmin>"]),
        ("<name>dog</name>", "<name>unicorn</name>", ["'unicorn'", "20 classes"]),
        ("</annotation>", "", ["damaged"]),
    ],
)
def test_annotations_that_are_damaged(tmp_path: Path, before: str, after: str, parts: list[str]) -> None:
    root = write_devkit(tmp_path, {"000001": [DOG]})
    path = root / "Annotations/000001.xml"
    assert before in annotation([DOG])
    path.write_text(path.read_text().replace(before, after))
    refused(f"voc:2007:train:{tmp_path}", str(path), *parts)


def test_files_that_are_missing(tmp_path: Path) -> None:
    root = write_devkit(tmp_path, {"000001": [DOG], "000002": [DOG]})
    name = f"voc:2007:train:{tmp_path}"
    boxed = open_boxed(name)
    (root / "JPEGImages/000002.jpg").write_bytes(b"")
    assert len(open_boxed(name).objects(1).boxes) == 1, "what cannot be read is said by who reads it"
    (root / "JPEGImages/000002.jpg").unlink()
    for failing in (boxed.read, boxed.size):
        with pytest.raises(ImageError, match=re.escape("JPEGImages/000002.jpg: ")):
            failing(1)
    refused(name, "000002.jpg", "1 of the 2")
    write_devkit(tmp_path, {"000001": [DOG], "000002": [DOG]})
    (root / "Annotations/000001.xml").unlink()
    refused(name, "no annotation", "000001.xml")


def test_images_and_annotations_with_other_endings(tmp_path: Path) -> None:
    root = write_devkit(tmp_path, {"000001": [("dog", (1, 2, "30.5", 20), 0)]})
    (root / "JPEGImages/000001.jpg").rename(root / "JPEGImages/000001.PNG")
    (root / "Annotations/000001.xml").rename(root / "Annotations/000001.XML")
    boxed = open_boxed(f"voc:2007:train:{tmp_path}")
    assert boxed.key(0) == "JPEGImages/000001.PNG" and boxed.read(0).size == (60, 40)
    assert boxed.objects(0).boxes.tolist() == [[0, 1, 30.5, 20]] and not boxed.problems
