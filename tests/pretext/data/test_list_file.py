"""Lists of images as sources: how those of Places205, Places365 and ImageNet look, and what can be wrong."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretext.data import LabeledDataset, open_dataset, open_labeled
from pretext.data.list_file import ListedFiles
from pretext.data.source import digest_of_keys
from pretext.errors import ImageError, UserError
from transfer.targets import open_targets

PLACES = ["a/abbey/2.jpg 0", "a/abbey/1.jpg 0", "b/bar/indoor/1.jpg 2", "a/airport/9.jpg 1"]


def image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (shade, 0, 255 - shade)).save(path)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder with the images of PLACES, each of another color."""
    for shade, line in enumerate(PLACES):
        image(tmp_path / "images" / line.split()[0], 50 * shade)
    return tmp_path


def listed(root: Path, lines: Sequence[str] | bytes, file: str = "list.csv") -> str:
    content = lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines).encode()
    (root / file).write_bytes(content)
    return f"list:{root / file}:{root / 'images'}"


def keys(source: LabeledDataset) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def refused(name: str, *parts: str, labeled: bool = True) -> None:
    with pytest.raises(UserError) as caught:
        (open_labeled if labeled else open_dataset)(name)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_images_labels_and_names_in_the_order_of_the_list(made: Path) -> None:
    source = open_labeled(listed(made, PLACES))
    assert isinstance(source, LabeledDataset)
    assert keys(source) == [line.split()[0] for line in PLACES]
    assert source.labels.dtype == np.int64 and source.labels.tolist() == [0, 0, 2, 1]
    assert source.classes == ["a/abbey", "a/airport", "b/bar/indoor"]
    assert source.digest() == digest_of_keys(source)
    for index, line in enumerate(PLACES):
        assert (np.asarray(source.read(index)) == np.asarray(Image.open(made / "images" / line.split()[0]))).all()


@pytest.mark.parametrize(
    "shape",
    [
        "{0},{1}",
        "{0}, {1}",
        "{0}\t{1}",
        "  {0}  {1}  ",
        "{0} {1}\r",
        "./{0} {1}",
        "/{0} {1}",
        "//{0} ,{1}",
        "{0} {1}\n",
    ],
)
def test_forms_of_a_line(made: Path, shape: str) -> None:
    plain = open_labeled(listed(made, PLACES))
    source = open_labeled(listed(made, [shape.format(*line.split()) for line in PLACES], "other"))
    assert keys(source) == keys(plain) and source.labels.tolist() == plain.labels.tolist()
    assert source.digest() == plain.digest() and source.classes == plain.classes


def test_paths_with_spaces_commas_and_odd_bytes(made: Path) -> None:
    names = ["a b/c 1.jpg", "a b/x, 7.jpg", "a b/,y.jpg"]
    for name in names:
        image(made / "images" / name)
    for separator in (" ", ",", ", "):
        source = open_labeled(listed(made, [f"{name}{separator}3" for name in names]))
        assert keys(source) == names and set(source.labels) == {3}
    source = open_labeled(listed(made, b"\xef\xbb\xbfa/abbey/1.jpg 0\na/\xff.jpg 1"))
    assert keys(source) == ["a/abbey/1.jpg", "a/\\xff.jpg"]


def test_lists_longer_than_a_reading_of_them(made: Path) -> None:
    image(made / "images/a/abbey/0.jpg")
    lines = [f"a/abbey/{number}.jpg,{number % 7}" for number in range(100_000)]
    source = open_labeled(listed(made, lines))
    assert keys(source) == [line.split(",")[0] for line in lines]
    assert source.labels.tolist() == [number % 7 for number in range(100_000)]
    lines[70_000] = "../x.jpg,0"
    refused(listed(made, lines), "line 70001 ")


def test_without_labels(made: Path) -> None:
    name = listed(made, [line.split()[0] for line in PLACES])
    source = open_dataset(name)
    assert [source.key(index) for index in range(4)] == [line.split()[0] for line in PLACES]
    refused(name, "no labels")
    open_dataset(listed(made, ["a/abbey/1.jpg -1"]))
    refused(listed(made, ["a/abbey/1.jpg 0", "a/abbey/2.jpg -1"]), "1 of 2", "a/abbey/2.jpg", "-1", "count from 0")


@pytest.mark.parametrize(
    ("lines", "classes"),
    [
        (["train/n02/1.jpg 1", "train/n01/1.jpg 0"], ["n01", "n02"]),
        (["train/n02/1.jpg 0"], ["n02"]),
        (["n/1.jpg 0", "n/o/1.jpg 1"], ["n", "n/o"]),
        (["n02/1.jpg 2", "n01/1.jpg 0"], ["n01", "1", "n02"]),  # a label without images
        (["1/1.jpg 2", "n01/1.jpg 0"], ["0", "1", "2"]),  # its number is the name of another
        (["1.jpg 1", "2.jpg 0"], ["0", "1"]),
        (["n01/1.jpg 0", "n01/2.jpg 1"], ["0", "1"]),
        (["n01/1.jpg 0", "n02/2.jpg 0", "n03/2.jpg 1"], ["0", "1"]),
    ],
)
def test_names_of_classes(made: Path, lines: list[str], classes: list[str]) -> None:
    image(made / "images" / lines[0].split()[0])
    source = open_labeled(listed(made, lines))
    assert source.classes == classes
    assert isinstance(source, ListedFiles) and source.named == any("n" in one for one in classes)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["a/abbey/1.jpg 0", "", "a/abbey/2.jpg cat"], "line 3 "),
        (["path,label", "a/abbey/1.jpg,0"], "line 1 "),
        (["a/abbey/1.jpg 0.5"], "line 1 "),
        (["a/abbey/1.jpg 12345678"], "line 1 "),
        (["0"], "line 1 "),
        (["a/abbey/1.jpg 0", "a/abbey/2.jpg"], "line 2 .*no label"),
        (["a/abbey/1.jpg", "a/abbey/2.jpg 0"], "line 2 .*a label"),
        (["a/abbey/1.jpg 0", "../list.csv 0"], "line 2 .*out of the folder"),
        (["a/abbey/1.jpg 0", "a/../../list.csv 0"], "line 2 .*out of the folder"),
        (["a/abbey/1.jpg 0", "/etc/passwd 0"], "line 2 .*another kind of path"),
        (["/etc/passwd 0"], "no file .*images/etc/passwd"),
        (["/ 0"], "line 1 .*out of the folder"),
        (["a/abbey/1.jpg 0", "a/airport/9.jpg 1", "./a/abbey/1.jpg 1"], "a/abbey/1.jpg is listed twice.* 1 and 3"),
        (["x" * 300 + " y"], r"line 1 .*\.\.\."),
        (b"", "is empty"),
        (b"\n  \n", "is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not a list of images"),
        (b"a/abbey/1.jpg 0\n" + b"x" * 20_000, "not a list of images"),
        ("a/abbey/1.jpg 0".encode("utf-16"), "not a list of images"),
    ],
)
def test_broken_lists(made: Path, lines: list[str] | bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_dataset(listed(made, lines))
    refused(listed(made, lines))


def test_missing_files_and_folders(made: Path) -> None:
    name = listed(made, PLACES)
    images = made / "images"
    refused("list:", "write list:FILE:FOLDER", labeled=False)
    refused(f"list:{images}", "write list:FILE:FOLDER")
    refused(f"list:{made / 'none.txt'}:{images}", "none.txt does not exist")
    refused(f"list:{images}:{images}", "is not a file")
    refused(f"list:{made / 'list.csv'}:{made / 'none'}", "none does not exist")
    refused(f"list:{made / 'list.csv'}:{made / 'list.csv'}", "is not a folder")
    refused(f"list:{made / 'list.csv'}/x:{images}", "Not a directory")
    refused(f"list:~nobody-here/x:{images}", "~nobody-here")
    refused(f"list:{made / 'list.csv'}:{images / 'a'}", f"no file {images / 'a' / 'a/abbey/2.jpg'}")
    refused(f"lst:{made / 'list.csv'}:{images}", f"did you mean list:{made}")
    (images / "a/abbey/2.jpg").unlink()
    source = open_dataset(name)
    assert source.read(1).size == (8, 6)
    with pytest.raises(ImageError, match="no such file, but the list contains it"):
        source.read(0)


def two_lists(root: Path, train: Sequence[str], test: Sequence[str]) -> tuple[str, str]:
    for shade, line in enumerate([*train, *test]):
        image(root / "images" / line.split()[0], shade)
    return listed(root, train, "train.txt"), listed(root, test, "val.txt")


def test_targets_of_two_lists(tmp_path: Path) -> None:
    train = ["train/n02/1.jpg 1", "train/n01/1.jpg 0"]
    assert open_targets(*two_lists(tmp_path, train, ["val/n01/1.jpg 0", "val/n02/1.jpg 1"])).classes == ["n01", "n02"]
    flat = open_targets(*two_lists(tmp_path, train, ["val/1.jpg 0", "val/2.jpg 1"]))  # as of ImageNet
    assert flat.classes == ["n01", "n02"] and flat.test.labels.tolist() == [0, 1]
    turned = open_targets(*two_lists(tmp_path, ["1.jpg 0", "2.jpg 1"], ["n01/1.jpg 0", "n02/1.jpg 1"]))
    assert turned.classes == ["n01", "n02"]
    numbers = open_targets(*two_lists(tmp_path, ["1.jpg 0", "2.jpg 1"], ["3.jpg 0", "4.jpg 1"]))
    assert numbers.classes == ["0", "1"]


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (["1.jpg 0", "2.jpg 1", "3.jpg 2"], ["4.jpg 0", "5.jpg 1"], "different classes: 2 only in"),
        (["n/1.jpg 0", "o/2.jpg 1", "p/3.jpg 2"], ["4.jpg 0", "5.jpg 1"], "different classes: 2 only in"),
        (["n/1.jpg 0", "o/2.jpg 1"], ["n/4.jpg 1", "o/5.jpg 0"], "number their classes differently"),
        (["n/1.jpg 0", "o/2.jpg 1"], ["n/4.jpg 0", "p/5.jpg 1"], "different classes: o only in"),
        (["n/1.jpg 1", "o/2.jpg 2"], ["4.jpg 1", "5.jpg 2"], "no image of 0"),  # numbered from 1
        (["n/1.jpg 0", "o/2.jpg 1"], ["n/1.jpg 0", "o/2.jpg 1"], "all 2 test images are also training images"),
    ],
)
def test_targets_that_do_not_fit(tmp_path: Path, train: list[str], test: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        open_targets(*two_lists(tmp_path, train, test))
    assert "\n" not in str(caught.value)


def test_real_images_as_their_folder_has_them(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "imagenette-mini" / "val"
    folder = open_labeled(str(root))
    lines = [f"{folder.key(index)} {folder.labels[index]}" for index in range(len(folder))]
    (tmp_path / "val.txt").write_text("\n".join(lines))
    source = open_labeled(f"list:{tmp_path / 'val.txt'}:{root}")
    assert source.digest() == folder.digest() and source.classes == folder.classes
    assert (source.labels == folder.labels).all()
    assert (np.asarray(source.read(7)) == np.asarray(folder.read(7))).all()
