"""Training and test sources that fit together, and all the ways in which they can fail to."""

import io
import shutil
import tarfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretext.data import open_labeled
from pretext.data.source import digest_of_keys
from pretext.errors import ImageError, UserError
from transfer.targets import OfClasses, check_targets, open_targets


class Told:
    """A labeled source in memory that says what it is told; every image is a shade of its own."""

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
            raise ImageError(self.key(index), "damaged")
        return Image.new("RGB", (4, 4), (index % 256, self.shade, 0))

    def digest(self) -> str:
        return digest_of_keys(self)


GOOD = Told([0, 1, 1, 0], part="train/")
SEVERAL = Told(np.array([[1, 0], [-1, 1], [0, 0]], np.int8), part="several/")  # type: ignore[arg-type]


def refused(train: Told, test: Told, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        check_targets("TRAIN", train, "TEST", test)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_fits_and_what_the_digests_tell_apart() -> None:
    test = Told([0, 1])
    found = check_targets("a", GOOD, "b", test)
    assert (found.classes, found.multilabel) == (["cat", "dog"], False)
    assert check_targets("c", GOOD, "d", test)[4:] == found[4:], "names are not data"
    others = [Told([1, 0]), Told([0, 1], part="x"), Told([0, 1, 1])]
    assert len({check_targets("a", GOOD, "b", one).test_digest for one in [test, *others]}) == 4
    renamed = check_targets("a", Told([0, 1, 1, 0], "xy", "train/"), "b", Told([0, 1], "xy"))
    assert renamed.test_digest != found.test_digest
    reshot = check_targets("a", GOOD, "b", Told([0, 1], shade=9))
    assert reshot.test_digest != found.test_digest, "other images of the same names"
    both = check_targets("a", SEVERAL, "b", Told(SEVERAL.labels, part="t"))  # type: ignore[arg-type]
    assert both.multilabel and both.train_digest != found.train_digest


def test_real_images(shared_data: Path) -> None:
    folder = shared_data / "voc-mini" / "VOCdevkit"
    train, test, val = (f"voc:2007:{part}:{folder}" for part in ("trainval", "test", "val"))
    with pytest.raises(UserError, match=r"trainval:.*: no image with cow; every selected class"):
        open_targets(train, test)  # a small part of the real set lacks it
    asked = ["person", "bus", "car"]
    found = open_targets(train, test, asked)
    assert found.multilabel and found.classes == asked and (len(found.train), len(found.test)) == (400, 250)
    assert (np.asarray(found.train.labels) == 1).sum(0).tolist() == [111, 107, 107]
    assert found.train.read(0).size == Image.open(folder / "VOC2007" / found.train.key(0)).size
    with pytest.raises(UserError, match=r"all 100 test images are also training images"):
        open_targets(train, val, asked)
    for wrong, said in ((["unicorn"], "no class unicorn"), (["bus", "bus"], "twice")):
        with pytest.raises(UserError, match=said):
            open_targets(train, test, wrong)
    with pytest.raises(UserError, match="one class each"):
        open_targets("bundled:train", "bundled:test", ["coffee"])
    mini = shared_data / "imagenette-mini"
    assert not open_targets(str(mini / "train"), str(mini / "val")).multilabel
    with pytest.raises(UserError, match=r"different classes: aeroplane, bicycle.* 15 more only in voc.*n01440764"):
        open_targets(train, str(mini / "val"))


def test_same_images(tmp_path: Path) -> None:
    for at, (part, kind) in enumerate((part, kind) for part in ("train", "test", "copy") for kind in ("cat", "dog")):
        (tmp_path / part / kind).mkdir(parents=True)
        shade = at % 2 if part == "copy" else at
        Image.new("RGB", (9, 9), (40 * shade, 0, 0)).save(tmp_path / part / kind / "1.png")
    (tmp_path / "link").symlink_to(tmp_path / "train")
    train = str(tmp_path / "train")
    assert open_targets(train, str(tmp_path / "test")).classes == ["cat", "dog"], "keys alone prove nothing"
    for other in (train, train + "/", str(tmp_path / "link")):
        with pytest.raises(UserError, match="same images"):
            open_targets(train, other)
    with pytest.raises(UserError, match=r"all 2 test images are also training images, first cat/1.png"):
        open_targets(train, str(tmp_path / "copy"))
    with pytest.raises(UserError, match="same images"):
        open_targets("bundled:test", "bundled:test")


def test_images_in_both_are_found_where_they_can_be_read() -> None:
    assert check_targets("a", GOOD, "b", Told([0, 1], part="train/", shade=9))
    assert check_targets("a", GOOD, "b", Told([0, 1], part="train/", shade=-1))
    refused(GOOD, Told([0, 1], part="train/"), "all 2 test images are also training images, first train/0")


def test_classes_that_do_not_fit() -> None:
    refused(GOOD, Told([0, 1], ["cat", "cow"]), "dog only in TRAIN", "cow only in TEST")
    refused(GOOD, Told([0, 1, 2], ["cat", "dog", "eel"]), "eel only in TEST")
    refused(GOOD, Told([0, 1], ["dog", "cat"]), "0 is cat in the first and dog in the second")
    refused(Told([0, 0], ["cat"]), Told([0], ["cat"]), "one class only (cat)")
    refused(Told([0, 2], ["cat", "dog", "eel"]), Told([0, 1, 2], ["cat", "dog", "eel"]), "TRAIN: no image of dog")
    refused(GOOD, Told([1, 1]), "TEST: no image of cat")
    refused(GOOD, SEVERAL, "TEST has several labels", "TRAIN has one")
    refused(SEVERAL, GOOD, "TRAIN has several labels")


def test_labels_that_cannot_be() -> None:
    refused(GOOD, Told([]), "TEST: it has no image")
    refused(GOOD, Told([0, 2]), "TEST: a label is 2")
    refused(Told([0, -1]), GOOD, "TRAIN: 1 of 2 images have no label")
    refused(SEVERAL, Told([[1, 0], [0, 2]]), "TEST: a label is 2", "1 (present)")
    refused(SEVERAL, Told([[1, 0, 1]]), "shape (1, 3)", "(images, 2)")
    refused(SEVERAL, Told([[1, 0], [0, 0]]), "TEST: no image with dog")
    refused(Told([[1, 1], [1, 0], [-1, 1]]), SEVERAL, "TRAIN: no image without cat")
    short = Told([0, 1])
    short.count = 3
    refused(GOOD, short, "2 labels of 3 images")


def put(root: Path, classes: Sequence[str], first: int = 0) -> str:
    """A folder of classes, with an image in each."""
    for at, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (9, 9), (first + at, 0, 0)).save(root / name / "1.png")
    return str(root)


COMPOSED = ["Bb", "B\u00e4r", "caf\u00e9", "\uac00"]
DECOMPOSED = [unicodedata.normalize("NFD", name) for name in COMPOSED]


def test_classes_that_differ_only_in_unicode_form(tmp_path: Path) -> None:
    assert sorted(DECOMPOSED) != DECOMPOSED, "the two forms have different orders"
    train, test = put(tmp_path / "train", DECOMPOSED), put(tmp_path / "test", COMPOSED, 100)
    mixed = put(tmp_path / "mixed", [COMPOSED[0], DECOMPOSED[1], *COMPOSED[2:]], 200)
    for pair in ((train, test), (test, train), (train, mixed), (mixed, test)):
        found = open_targets(*pair)
        assert found.classes == COMPOSED
        for source in (found.train, found.test):
            names = [unicodedata.normalize("NFC", source.key(at).split("/")[0]) for at in range(4)]
            assert [COMPOSED[label] for label in source.labels.tolist()] == names
    ascii_only = open_targets(put(tmp_path / "a", ["cat", "dog"]), put(tmp_path / "b", ["cat", "dog"], 9))
    assert ascii_only.classes == ["cat", "dog"]


def test_two_classes_of_one_name(tmp_path: Path) -> None:
    both = put(tmp_path / "both", ["B\u00e4r", "Ba\u0308r", "dog"])
    with pytest.raises(UserError, match=r"both: 2 classes are called B\u00e4r; .*rename one, or merge them$"):
        open_targets(both, put(tmp_path / "test", ["B\u00e4r", "dog"], 100))


def test_lists_shards_and_other_sources_in_two_unicode_forms(tmp_path: Path) -> None:
    lists = []
    for part, names, shade in (("train", DECOMPOSED, 0), ("test", COMPOSED, 100)):
        folder = put(tmp_path / part, COMPOSED, shade)  # the list may be in another form than the files
        (tmp_path / f"{part}.txt").write_text("".join(f"{name}/1.png {at}\n" for at, name in enumerate(names)))
        lists.append(f"list:{tmp_path}/{part}.txt:{folder}")
    found = open_targets(*lists)
    assert found.classes == COMPOSED and np.asarray(found.train.read(1))[0, 0, 0] == 1
    assert open_targets(lists[0], str(tmp_path / "test")).classes == COMPOSED
    again = [f"{DECOMPOSED[1]}/1.png 0", f"{COMPOSED[1]}/2.png 0", f"{COMPOSED[2]}/1.png 1"]  # one class in two forms
    shutil.copy(tmp_path / "train" / COMPOSED[1] / "1.png", tmp_path / "train" / COMPOSED[1] / "2.png")
    (tmp_path / "both.txt").write_text("\n".join(again))
    assert open_labeled(f"list:{tmp_path}/both.txt:{tmp_path}/train").classes == [COMPOSED[1], COMPOSED[2]]
    for part, names in (("train", DECOMPOSED), ("test", COMPOSED)):
        (tmp_path / "tar" / part).mkdir(parents=True)
        (tmp_path / "tar" / part / "classes.txt").write_text("\n".join(names))
        with tarfile.open(tmp_path / "tar" / part / "0.tar", "w") as tar:
            for at, name in enumerate(COMPOSED):
                tar.add(tmp_path / part / name / "1.png", f"{part}{at}.png")
                label = tarfile.TarInfo(f"{part}{at}.cls")
                label.size = 1
                tar.addfile(label, io.BytesIO(str(at).encode()))
    assert open_targets(str(tmp_path / "tar" / "train"), str(tmp_path / "tar" / "test")).classes == COMPOSED
    plugin = check_targets("a", Told([0, 1], DECOMPOSED[1:3], "t"), "b", Told([0, 1], COMPOSED[1:3]))
    assert plugin.classes == COMPOSED[1:3]
    labels = np.array([[1, 0], [0, 1]], np.int8)
    asked = OfClasses("a", Told(labels, DECOMPOSED[1:3]), [COMPOSED[2]])  # type: ignore[arg-type]
    assert asked.classes == [COMPOSED[2]] and asked.labels.tolist() == [[0], [1]]


def test_keys_that_differ_only_in_unicode_form() -> None:
    train, test = Told([0, 1, 1, 0], part="Ba\u0308r"), Told([0, 1], part="B\u00e4r")
    refused(train, test, "all 2 test images are also training images, first B\u00e4r0 (Ba\u0308r0)")
    assert check_targets("a", train, "b", Told([0, 1, 1, 0, 1], part="B\u00e4r")).n_shared == 4
