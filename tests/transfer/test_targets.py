"""Training and test sources that fit together, and all the ways in which they can fail to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretext.errors import PictureError, UserError
from pretext.pictures.source import digest_of_keys
from transfer.targets import checked_targets, open_targets


class Told:
    """A labelled source in memory that says what it is told; every picture is a shade of its own."""

    def __init__(
        self, labels: Sequence[object], classes: Sequence[str] = ("cat", "dog"), part: str = "", shade: int = 0
    ) -> None:
        self.labels = np.array(labels)
        self.classes, self.part, self.shade = list(classes), part, shade
        self.count = len(labels)

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        return f"{self.part}{index}"

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        if self.shade < 0:
            raise PictureError(self.key(index), "damaged")
        return Image.new("RGB", (4, 4), (index % 256, self.shade, 0))

    def digest(self) -> str:
        return digest_of_keys(self)


GOOD = Told([0, 1, 1, 0], part="train/")
SEVERAL = Told(np.array([[1, 0], [-1, 1], [0, 0]], np.int8), part="several/")  # type: ignore[arg-type]


def refused(train: Told, test: Told, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        checked_targets("TRAIN", train, "TEST", test)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_fits_and_what_the_digests_tell_apart() -> None:
    test = Told([0, 1])
    found = checked_targets("a", GOOD, "b", test)
    assert (found.classes, found.multilabel) == (["cat", "dog"], False)
    assert checked_targets("c", GOOD, "d", test)[4:] == found[4:], "names are not data"
    others = [Told([1, 0]), Told([0, 1], part="x"), Told([0, 1, 1])]
    assert len({checked_targets("a", GOOD, "b", one).test_digest for one in [test, *others]}) == 4
    renamed = checked_targets("a", Told([0, 1, 1, 0], "xy", "train/"), "b", Told([0, 1], "xy"))
    assert renamed.test_digest != found.test_digest
    reshot = checked_targets("a", GOOD, "b", Told([0, 1], shade=9))
    assert reshot.test_digest != found.test_digest, "other pictures of the same names"
    both = checked_targets("a", SEVERAL, "b", Told(SEVERAL.labels, part="t"))  # type: ignore[arg-type]
    assert both.multilabel and both.train_digest != found.train_digest


def test_real_pictures(shared_data: Path) -> None:
    folder = shared_data / "voc-mini" / "VOCdevkit"
    train, test, val = (f"voc:2007:{part}:{folder}" for part in ("trainval", "test", "val"))
    with pytest.raises(UserError, match=r"trainval:.*: no picture with cow; every class"):
        open_targets(train, test)  # a small part of the real set lacks it
    asked = ["person", "bus", "car"]
    found = open_targets(train, test, asked)
    assert found.multilabel and found.classes == asked and (len(found.train), len(found.test)) == (400, 250)
    assert (np.asarray(found.train.labels) == 1).sum(0).tolist() == [111, 107, 107]
    assert found.train.read(0).size == Image.open(folder / "VOC2007" / found.train.key(0)).size
    with pytest.raises(UserError, match="is in both"):
        open_targets(train, val, asked)
    for wrong, said in ((["unicorn"], "no class unicorn"), (["bus", "bus"], "twice")):
        with pytest.raises(UserError, match=said):
            open_targets(train, test, wrong)
    with pytest.raises(UserError, match="one class a picture"):
        open_targets("bundled:train", "bundled:test", ["coffee"])
    mini = shared_data / "imagenette-mini"
    assert not open_targets(str(mini / "train"), str(mini / "val")).multilabel
    with pytest.raises(UserError, match=r"different classes: aeroplane, bicycle.* 15 more only in voc.*n01440764"):
        open_targets(train, str(mini / "val"))


def test_same_pictures(tmp_path: Path) -> None:
    for at, (part, kind) in enumerate((part, kind) for part in ("train", "test", "copy") for kind in ("cat", "dog")):
        (tmp_path / part / kind).mkdir(parents=True)
        shade = at % 2 if part == "copy" else at
        Image.new("RGB", (9, 9), (40 * shade, 0, 0)).save(tmp_path / part / kind / "1.png")
    (tmp_path / "link").symlink_to(tmp_path / "train")
    train = str(tmp_path / "train")
    assert open_targets(train, str(tmp_path / "test")).classes == ["cat", "dog"], "keys alone prove nothing"
    for other in (train, train + "/", str(tmp_path / "link")):
        with pytest.raises(UserError, match="same pictures"):
            open_targets(train, other)
    with pytest.raises(UserError, match=r"cat/1.png is in both"):
        open_targets(train, str(tmp_path / "copy"))
    with pytest.raises(UserError, match="same pictures"):
        open_targets("bundled:test", "bundled:test")


def test_pictures_in_both_are_found_where_they_can_be_read() -> None:
    assert checked_targets("a", GOOD, "b", Told([0, 1], part="train/", shade=9))
    assert checked_targets("a", GOOD, "b", Told([0, 1], part="train/", shade=-1))
    refused(GOOD, Told([0, 1], part="train/"), "train/0 is in both", "2 keys")


def test_classes_that_do_not_fit() -> None:
    refused(GOOD, Told([0, 1], ["cat", "cow"]), "dog only in TRAIN", "cow only in TEST")
    refused(GOOD, Told([0, 1, 2], ["cat", "dog", "eel"]), "eel only in TEST")
    refused(GOOD, Told([0, 1], ["dog", "cat"]), "0 is cat in the one and dog in the other")
    refused(Told([0, 0], ["cat"]), Told([0], ["cat"]), "one class only (cat)")
    refused(Told([0, 2], ["cat", "dog", "eel"]), Told([0, 1, 2], ["cat", "dog", "eel"]), "TRAIN: no picture of dog")
    refused(GOOD, Told([1, 1]), "TEST: no picture of cat")
    refused(GOOD, SEVERAL, "TEST has several labels", "TRAIN has one")
    refused(SEVERAL, GOOD, "TRAIN has several labels")


def test_labels_that_cannot_be() -> None:
    refused(GOOD, Told([]), "TEST: no picture")
    refused(GOOD, Told([0, 2]), "TEST: a label is 2")
    refused(Told([0, -1]), GOOD, "TRAIN: 1 of 2 pictures have no label")
    refused(SEVERAL, Told([[1, 0], [0, 2]]), "TEST: a label is 2", "1 (present)")
    refused(SEVERAL, Told([[1, 0, 1]]), "shape (1, 3)", "2 classes")
    refused(SEVERAL, Told([[1, 0], [0, 0]]), "TEST: no picture with dog")
    refused(Told([[1, 1], [1, 0], [-1, 1]]), SEVERAL, "TRAIN: no picture without cat")
    short = Told([0, 1])
    short.count = 3
    refused(GOOD, short, "2 labels of 3 pictures")
