"""PASCAL VOC as a source: the real annotations against the lists of each class, and whatever can be wrong with them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretext.data import LabeledDataset, open_dataset, open_labeled
from pretext.data.batches import Subset
from pretext.data.pack import PackSettings, pack
from pretext.data.source import digest_of_keys
from pretext.data.voc import CLASSES
from pretext.errors import UserError
from pretext.online import OnlineProbe, OnlineSettings

XML = "<annotation><filename>x.jpg</filename>{}</annotation>"
OBJECT = "<object><name>{}</name><difficult>{}</difficult><part><name>head</name></part></object>"


def annotation(*objects: tuple[str, int]) -> str:
    return XML.format("".join(OBJECT.format(*one) for one in objects))


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """VOC 2007 with three images."""
    root = tmp_path / "VOCdevkit" / "VOC2007"
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/val.txt").write_text("000002\n000001\n\n000010\n")
    (root / "ImageSets/Main/dog_val.txt").write_text("000002 -1\n000001  1\n000010  0\n")
    given = {
        "000002": annotation(("cat", 0), ("cat", 1), ("person", 1)),
        "000001": annotation(("dog", 0), ("dog", 0)),
        "000010": annotation(("dog", 1), ("sofa", 1), ("sofa", 0)),
    }
    for shade, (name, text) in enumerate(given.items()):
        Image.new("RGB", (40, 30), (60 * shade, 0, 0)).save(root / f"JPEGImages/{name}.jpg")
        (root / f"Annotations/{name}.xml").write_text(text)
    return tmp_path / "VOCdevkit"


def refused(name: str, *parts: str, labeled: bool = True) -> None:
    with pytest.raises(UserError) as caught:
        (open_labeled if labeled else open_dataset)(name)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_present_absent_and_difficult(devkit: Path) -> None:
    source = open_labeled(f"voc:2007:val:{devkit}")
    assert isinstance(source, LabeledDataset) and source.classes == list(CLASSES) == sorted(CLASSES)
    assert [source.key(index) for index in range(3)] == [f"JPEGImages/00000{one}.jpg" for one in "21"] + [
        "JPEGImages/000010.jpg"
    ]
    assert source.labels.dtype == np.int8 and source.labels.shape == (3, 20)
    found = [{source.classes[at]: int(row[at]) for at in np.flatnonzero(row)} for row in source.labels]
    assert found == [{"cat": 1, "person": -1}, {"dog": 1}, {"dog": -1, "sofa": 1}]
    assert source.read(1).getpixel((3, 3)) == pytest.approx((60, 0, 0), abs=2)  # type: ignore[arg-type]
    assert source.digest() == digest_of_keys(source)


def test_a_folder_is_named_in_three_ways(devkit: Path) -> None:
    digests = {open_dataset(f"voc:2007:val:{one}").digest() for one in (devkit, devkit.parent, devkit / "VOC2007")}
    assert len(digests) == 1
    shutil.move(devkit / "VOC2007", devkit / "mine")
    assert open_dataset(f"voc:2007:val:{devkit / 'mine'}").digest() in digests


@pytest.mark.parametrize(
    ("year", "part", "count"),
    [("2007", "train", 300), ("2007", "trainval", 400), ("2007", "test", 250), ("2012", "val", 300)],
)
def test_real_annotations_say_what_the_lists_of_classes_say(
    shared_data: Path, year: str, part: str, count: int
) -> None:
    folder = shared_data / "voc-mini" / "VOCdevkit"
    source = open_labeled(f"voc:{year}:{part}:{folder}")
    assert len(source) == count
    lists = folder / f"VOC{year}" / "ImageSets" / "Main"
    for label, name in enumerate(CLASSES):
        pairs = [line.split() for line in (lists / f"{name}_{part}.txt").read_text().splitlines()]
        assert [source.key(index) for index in range(count)] == [f"JPEGImages/{one}.jpg" for one, _ in pairs]
        # The lists have 1, -1 (absent) and 0 (difficult): the other way round than labels.
        want = [{"1": 1, "-1": 0, "0": -1}[value] for _, value in pairs]
        assert source.labels[:, label].tolist() == want, name
    assert min(source.read(0).size) == 224


def test_names_that_cannot_be(devkit: Path) -> None:
    refused("voc:2007:val", "voc:2007:trainval:/data/VOCdevkit")
    refused(f"voc:2009:val:{devkit}", "2009", "2007 or 2012")
    refused("voc:2007:val:/nowhere", "no folder /nowhere")
    refused(f"voc:2012:val:{devkit}", "VOC2012")
    refused(f"voc:2012:val:{devkit / 'VOC2007'}", "VOC2012")
    refused(f"voc:2007:vall:{devkit}", "vall.txt", "did you mean val?")
    refused(f"voc:2007:../val:{devkit}", "no list ../val.txt")
    refused(f"voc:2007:dog_val:{devkit}", "dog_val.txt", "one class")
    refused(f"vocs:2007:val:{devkit}", "did you mean voc:2007")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["empty"]),
        ("000001\n../../etc/passwd\n", ["line 2", "../../etc/passwd"]),
        ("000001\n000001\n", ["000001", "2 times"]),
        ("000001\n000003\n", ["000003.jpg", "1 of the 2"]),
    ],
)
def test_lists_that_cannot_be_right(devkit: Path, text: str, parts: list[str]) -> None:
    path = devkit / "VOC2007/ImageSets/Main/val.txt"
    path.write_text(text)
    refused(f"voc:2007:val:{devkit}", *parts, labeled=False)


def declared(encoding: str, inside: bytes) -> bytes:
    """An annotation that says what it is encoded in."""
    start = f'<?xml version="1.0" encoding="{encoding}"?><annotation><folder>'.encode()
    return start + inside + b"</folder>" + OBJECT.format("dog", 1).encode() + b"</annotation>"


def bomb() -> str:
    """Entities in entities: 10^9 copies of a word where somebody expands them."""
    levels = "".join(f'<!ENTITY e{at} "{f"&e{at - 1};" * 10}">' for at in range(1, 10))
    return f'<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY e0 "dog">{levels}]>' + XML.format(
        "<object><name>&e9;</name></object>"
    )


def outside(path: Path) -> str:
    return f'<!DOCTYPE annotation [<!ENTITY x SYSTEM "file://{path}">]>' + XML.format(
        "<object><name>&x;</name></object>"
    )


BROKEN: dict[str, tuple[Callable[[Path], bytes], list[str]]] = {
    "cut": (lambda _: annotation(("dog", 0)).encode()[:-20], ["damaged"]),
    "empty": (lambda _: b"", ["damaged"]),
    "no XML": (lambda _: bytes(range(256)), ["damaged"]),
    "encoding": (lambda _: b'<?xml version="1.0" encoding="rot13"?><annotation/>', ["damaged"]),
    "another root": (lambda _: b"<html><object><name>dog</name></object></html>", ["<html>"]),
    "another class": (lambda _: annotation(("unicorn", 0)).encode(), ["'unicorn'", "20 classes"]),
    "no class": (lambda _: XML.format("<object><pose>Left</pose></object>").encode(), ["20 classes"]),
    "difficult": (lambda _: annotation(("dog", 7)).encode(), ["difficult", "'7'"]),
    "encoding that is not kept to": (lambda _: declared("gbk", b"\xff\xff"), ["damaged", "gbk"]),
    "encoding that takes minutes": (lambda _: declared("punycode", b"a" * 900_000), ["damaged"]),
    "encoding that is packed": (lambda _: declared("zlib", b"x"), ["damaged"]),
    "entities in GBK": (lambda _: bomb().replace("?>", ' encoding="gbk"?>', 1).encode("gbk"), ["document type"]),
    "entities": (lambda _: bomb().encode(), ["document type"]),
    "a file from outside": (lambda path: outside(path).encode(), ["document type"]),
    "huge": (lambda _: XML.format("<a>" + "x" * 2**20 + "</a>").encode(), ["bytes"]),
    "deep": (lambda _: b"<annotation>" + b"<a>" * 300_000, ["damaged"]),
    "long": (lambda _: XML.format(f"<object><name>{'d' * 900_000}</name></object>").encode(), ["20 classes"]),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_annotations_that_are_damaged_or_hostile(devkit: Path, kind: str) -> None:
    make, parts = BROKEN[kind]
    path = devkit / "VOC2007/Annotations/000001.xml"
    path.write_bytes(make(path))
    refused(f"voc:2007:val:{devkit}", "000001.xml", *parts)
    assert len(open_dataset(f"voc:2007:val:{devkit}")) == 3, "learning without labels never looks"


def test_annotations_that_are_missing_or_no_files(devkit: Path) -> None:
    path = devkit / "VOC2007/Annotations/000001.xml"
    path.unlink()
    refused(f"voc:2007:val:{devkit}", "no annotation", "000001.xml")
    os.mkfifo(path)
    refused(f"voc:2007:val:{devkit}", "000001.xml", "not a file")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(f"voc:2007:val:{devkit}", "000001.xml", "not a file")


def test_2012_test_part_has_no_labels(devkit: Path) -> None:
    shutil.move(devkit / "VOC2007", devkit / "VOC2012")
    shutil.rmtree(devkit / "VOC2012/Annotations")
    (devkit / "VOC2012/ImageSets/Main/val.txt").rename(devkit / "VOC2012/ImageSets/Main/test.txt")
    assert len(open_dataset(f"voc:2012:test:{devkit}")) == 3
    refused(f"voc:2012:test:{devkit}", "000002.xml", "use val")


def test_what_wants_one_class_an_image_says_so(devkit: Path, tmp_path: Path) -> None:
    name = f"voc:2007:val:{devkit}"
    with pytest.raises(UserError, match="several labels") as caught:
        pack(name, tmp_path / "packed", PackSettings(workers=1))
    assert "--labels false" in str(caught.value) and not (tmp_path / "packed").exists()
    assert pack(name, tmp_path / "packed", PackSettings(workers=1, labels=False)).images == 3
    source = open_labeled(name)
    few = open_labeled(f"voc:2007:val:{devkit}")
    few.__class__ = type("Two", (type(few),), {"classes": property(lambda self: ["a", "b"])})
    with pytest.raises(UserError, match=r"online.source.*several labels"):
        OnlineProbe(few, OnlineSettings(source=name), 16, seed=0)
    part = Subset(source, range(2), seed=0)  # what pretraining holds out
    assert {part.key(at) for at in range(2)} < {source.key(at) for at in range(3)}


@pytest.mark.parametrize("ending", ["JPG", "jpeg", "png", "Png", "jfif", "bmp"])
def test_images_with_other_endings(devkit: Path, ending: str) -> None:
    images = devkit / "VOC2007/JPEGImages"
    before = open_dataset(f"voc:2007:val:{devkit}").digest()
    (images / "000010.jpg").rename(images / f"000010.{ending}")
    for extra in ("._000010.jpg", "Thumbs.db", "other.png"):
        (images / extra).touch()
    source = open_labeled(f"voc:2007:val:{devkit}")
    assert [source.key(index)[-10:] for index in range(3)] == ["000002.jpg", "000001.jpg", f"000010.{ending}"[-10:]]
    assert source.read(2).getpixel((3, 3)) == pytest.approx((120, 0, 0), abs=2)  # type: ignore[arg-type]
    (images / "000010.jpg").write_bytes((images / f"000010.{ending}").read_bytes())
    assert open_dataset(f"voc:2007:val:{devkit}").digest() == before, "beside another, .jpg counts as ever"


def test_lists_as_windows_writes_them(devkit: Path) -> None:
    before = open_dataset(f"voc:2007:val:{devkit}").digest()
    lists = devkit / "VOC2007/ImageSets/Main"
    (lists / "val.txt").write_bytes(b"\xef\xbb\xbf000002  \r\n000001\t\r\n\r\n000010\r\n")
    (lists / "._val.txt").touch()
    assert open_dataset(f"voc:2007:val:{devkit}").digest() == before
    refused(f"voc:2007:vall:{devkit}", "there are val; did you mean val?")


@pytest.mark.parametrize(
    "encoding", ["gbk", "gb2312", "big5", "euc-kr", "shift_jis", "latin-1", "utf-16", "utf-8", "bom"]
)
def test_annotations_in_other_encodings(devkit: Path, encoding: str) -> None:
    word = {"latin-1": "B\u00e4r", "euc-kr": "\uacf0"}.get(encoding, "\u4e2d\u6587")
    name = "gbk" if encoding == "bom" else encoding  # a BOM counts more than what is declared
    text = declared(name, b"%s").decode().replace("%s", word)
    content = b"\xef\xbb\xbf" + text.encode() if encoding == "bom" else text.encode(encoding)
    (devkit / "VOC2007/Annotations/000001.xml").write_bytes(content)
    labels = open_labeled(f"voc:2007:val:{devkit}").labels[1]
    assert labels.tolist() == [-(name == "dog") for name in CLASSES]


@pytest.mark.parametrize(("name", "encoding"), [("utf8", "utf-8"), ("UTF_8", "utf-8"), ("gb2312", "gbk")])
def test_annotations_whose_encoding_is_declared_loosely(devkit: Path, name: str, encoding: str) -> None:
    content = declared(name, "\u93ad".encode(encoding))  # gb2312 has no such character
    (devkit / "VOC2007/Annotations/000001.xml").write_bytes(content)
    assert open_labeled(f"voc:2007:val:{devkit}").labels[1].sum() == -1


@pytest.mark.parametrize(
    ("text", "difficult"),
    [
        *((f"<difficult>{one}</difficult>", False) for one in ("", "0", "False", "false", "Unspecified", " 0\n")),
        *((f"<difficult>{one}</difficult>", True) for one in ("1", "True", " 1 ")),
        ("<difficult/>", False),
        ("", False),
    ],
)
def test_difficult_as_tools_write_it(devkit: Path, text: str, difficult: bool) -> None:
    (devkit / "VOC2007/Annotations/000001.xml").write_text(XML.format(f"<object><name>dog</name>{text}</object>"))
    assert open_labeled(f"voc:2007:val:{devkit}").labels[1][CLASSES.index("dog")] == (-1 if difficult else 1)
