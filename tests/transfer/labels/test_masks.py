"""Masks: the real ones, those of SBD, and whatever can be wrong with one."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from devkits import write_masks
from PIL import Image

from pretext.data import ImageDataset
from pretext.data.batches import Subset
from pretext.data.voc import CLASSES
from pretext.errors import ImageError, UserError
from transfer.labels.masks import mask_of, open_masked

Mask = np.ndarray


def drawn(seed: int, height: int = 12, width: int = 20) -> Mask:
    """A mask with every value that one may have."""
    return np.random.default_rng(seed).choice([*range(21), 255], (height, width)).astype(np.uint8)


def write_sbd(path: Path, mask: Mask) -> None:
    """A file as SBD has it for every image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    present = np.setdiff1d(mask, 0)[:, None]
    scipy.io.savemat(
        path, {"GTcls": {"Boundaries": np.zeros((20, 1)), "Segmentation": mask, "CategoriesPresent": present}}
    )


def refused(name: str, *parts: str, sbd: str = "") -> None:
    with pytest.raises(UserError) as caught:
        open_masked(name, sbd)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """VOC2012 with two images to learn from, one to judge by, and two more without masks."""
    root = tmp_path / "VOC2012"
    write_masks(root, {f"2008_{at:06}": drawn(at) for at in range(5)}, "all")
    for part, stems in {"train": (1, 0), "val": (2,), "trainval": (1, 0, 2)}.items():
        (root / f"ImageSets/Segmentation/{part}.txt").write_text("".join(f"2008_{at:06}\n" for at in stems))
    for at in (3, 4):
        (root / f"SegmentationClass/2008_{at:06}.png").unlink()
    return tmp_path


@pytest.mark.parametrize(("year", "part"), [("2007", "test"), ("2012", "val")])
def test_real_masks(shared_data: Path, year: str, part: str) -> None:
    devkit = shared_data / "voc-mini" / "VOCdevkit"
    masked = open_masked(f"voc:{year}:{part}:{devkit}")
    stems = (devkit / f"VOC{year}/ImageSets/Segmentation/{part}.txt").read_text().split()
    assert isinstance(masked, ImageDataset) and [masked.stem(index) for index in range(len(masked))] == stems
    assert masked.classes == ["background", *CLASSES] and masked.problems == []
    for index in range(0, len(masked), 9):
        mask = masked.mask(index)
        assert mask.shape == masked.read(index).size[::-1] and mask.dtype == np.uint8
        with Image.open(devkit / f"VOC{year}/SegmentationClass/{stems[index]}.png") as image:
            shown = np.asarray(image.convert("RGB"))
        # The devkit's colors: bit 0, 3, ... of the class are the high bits of red, bit 1, 4, ... of green.
        red, green, blue = (
            sum(((mask.astype(int) >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3))
            for channel in range(3)
        )
        assert np.array_equal(shown[mask < 255], np.stack((red, green, blue), -1)[mask < 255]), stems[index]
        assert (shown[mask == 255] == (224, 224, 192)).all()


def test_a_mask_is_what_was_drawn(devkit: Path) -> None:
    masked = open_masked(f"voc:2012:train:{devkit}")
    assert [masked.key(at) for at in range(2)] == ["JPEGImages/2008_000001.jpg", "JPEGImages/2008_000000.jpg"]
    assert np.array_equal(masked.mask(0), drawn(1)) and np.array_equal(masked.mask(1), drawn(0))
    part = Subset(masked, range(2), seed=3)
    assert all(np.array_equal(mask_of(part, at), masked.mask(part.index(at))) for at in range(2))
    joined = open_masked(f"voc:2012:train:{devkit}+voc:2012:val:{devkit}")
    assert len(joined) == 3 and np.array_equal(joined.mask(2), drawn(2))


def gray(path: Path, mask: Mask) -> None:
    Image.fromarray(mask).save(path)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "another size": (lambda path: gray(path, drawn(0, 13, 20)), "20 x 13 pixels, and the image 20 x 12"),
    "turned": (lambda path: gray(path, drawn(0, 20, 12)), "12 x 20 pixels, and the image 20 x 12"),
    "21": (lambda path: gray(path, np.full((12, 20), 21, np.uint8)), "value 21"),
    "254": (lambda path: gray(path, np.full((12, 20), 254, np.uint8)), "value 254"),
    "colors": (lambda path: Image.new("RGB", (20, 12)).save(path), "RGB"),
    "wide": (lambda path: Image.fromarray(np.zeros((12, 20), np.uint16)).save(path), "I;16"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-60]), "cannot be read"),
    "JPEG": (lambda path: Image.new("L", (20, 12)).save(path, "JPEG"), "cannot be read"),
    "gone": (lambda path: path.unlink(), "gone"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_masks_that_cannot_be_right(devkit: Path, kind: str) -> None:
    damage, reason = BROKEN[kind]
    masked = open_masked(f"voc:2012:train:{devkit}")
    damage(devkit / "VOC2012/SegmentationClass/2008_000001.png")
    with pytest.raises(ImageError, match=re.escape(reason)) as caught:
        masked.mask(0)
    assert caught.value.key == "SegmentationClass/2008_000001.png" and "\n" not in str(caught.value)
    assert np.array_equal(masked.mask(1), drawn(0))


def test_gray_masks_are_read_too(devkit: Path) -> None:
    gray(devkit / "VOC2012/SegmentationClass/2008_000001.png", drawn(7))
    assert np.array_equal(open_masked(f"voc:2012:train:{devkit}").mask(0), drawn(7))


def test_lists_that_name_what_is_missing(devkit: Path) -> None:
    root = devkit / "VOC2012"
    (root / "ImageSets/Segmentation/train.txt").write_text("2008_000001\n2008_000003\n")
    refused(f"voc:2012:train:{devkit}", "2008_000003.png", "1 of the 2 masks")
    (root / "ImageSets/Segmentation/train.txt").write_text("2008_000001\n2008_000009\n")
    refused(f"voc:2012:train:{devkit}", "2008_000009.jpg", "1 of the 2 images")
    (root / "ImageSets/Segmentation/test.txt").write_text("2008_000003\n")
    refused(f"voc:2012:test:{devkit}", "2008_000003.png", "take val")
    refused(f"voc:2007:train:{devkit}", "VOC2007/ImageSets/Segmentation")


@pytest.mark.parametrize("below", ["", "cls", "dataset/cls", "benchmark_RELEASE/dataset/cls"])
def test_sbd_joins_what_is_learned_from(devkit: Path, below: str) -> None:
    for at in (0, 2, 3, 4):
        write_sbd(devkit / "sbd" / below / f"2008_{at:06}.mat", drawn(10 + at) % 21)
    write_sbd(devkit / "sbd" / below / "2008_000077.mat", drawn(0) % 21)
    masked = open_masked(f"voc:2012:train:{devkit}", str(devkit / "sbd"))
    assert [masked.stem(at)[-1] for at in range(len(masked))] == ["1", "0", "3", "4"]
    for at, want in enumerate((drawn(1), drawn(0), drawn(13) % 21, drawn(14) % 21)):
        assert np.array_equal(masked.mask(at), want)
        assert masked.read(at).size == (20, 12)
    [(key, reason)] = masked.problems
    assert key.endswith("2008_000077.mat") and "no image" in reason
    whole = open_masked(f"voc:2012:trainval:{devkit}", str(devkit / "sbd"))
    assert [whole.stem(at)[-1] for at in range(len(whole))] == ["1", "0", "2", "3", "4"]
    assert np.array_equal(whole.mask(2), drawn(2)), "VOC's own mask is taken where there are two"


def test_sbd_as_images(devkit: Path) -> None:
    folder = devkit / "SegmentationClassAug"
    folder.mkdir()
    for at in range(4):
        gray(folder / f"2008_{at:06}.png", drawn(20 + at))
    for given in (folder, devkit):
        masked = open_masked(f"voc:2012:train:{devkit}", str(given))
        assert [masked.stem(at)[-1] for at in range(len(masked))] == ["1", "0", "3"]
        assert np.array_equal(masked.mask(2), drawn(23)) and np.array_equal(masked.mask(1), drawn(0))


def test_sbd_where_it_cannot_join(devkit: Path) -> None:
    write_sbd(devkit / "sbd/2008_000003.mat", drawn(0) % 21)
    sbd = str(devkit / "sbd")
    refused(f"voc:2012:val:{devkit}", "train or trainval", sbd=sbd)
    refused(f"voc:2012:train:{devkit}", "no such folder", sbd=str(devkit / "nowhere"))
    refused(f"voc:2012:train:{devkit}", "no .mat or .png", sbd=str(devkit / "VOC2012/ImageSets"))
    write_masks(devkit / "VOC2007", {"000001": drawn(0)})
    refused(f"voc:2007:train:{devkit}", "VOC2012", sbd=sbd)
    (devkit / "VOC2012/ImageSets/Segmentation/val.txt").unlink()
    refused(f"voc:2012:train:{devkit}", "no list val.txt", sbd=sbd)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"other": 1}, "GTcls"),
        ({"GTcls": {"Segmentation": np.full((12, 20), 300, np.uint16)}}, "values 300..300"),
        ({"GTcls": {"Segmentation": np.full((12, 20), 0.5)}}, "float64"),
        ({"GTcls": {"Segmentation": np.full((12, 20), 33, np.uint8)}}, "value 33"),
        ({"GTcls": {"Segmentation": drawn(0, 5, 5) % 21}}, "5 x 5 pixels"),
        (b"MATLAB 5.0 MAT-file" + bytes(200), "not a mask of SBD"),
        (b"", "not a mask of SBD"),
        (bytes(2**22 + 1), "bytes"),
    ],
)
def test_sbd_that_is_damaged(devkit: Path, content: dict[str, object] | bytes, reason: str) -> None:
    path = devkit / "sbd/2008_000003.mat"
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        scipy.io.savemat(path, content)
    masked = open_masked(f"voc:2012:train:{devkit}", str(path.parent))
    with pytest.raises(ImageError, match=re.escape(reason)) as caught:
        masked.mask(2)
    assert caught.value.key == "sbd/2008_000003.mat" and "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["PNG", "bmp", "tif", "TIFF"])
def test_masks_and_images_with_other_endings(devkit: Path, ending: str) -> None:
    root = devkit / "VOC2012"
    with Image.open(root / "SegmentationClass/2008_000001.png") as mask:
        mask.save(root / f"SegmentationClass/2008_000001.{ending}")
    (root / "SegmentationClass/2008_000001.png").unlink()
    (root / "SegmentationClass/._2008_000001.png").touch()
    (root / "JPEGImages/2008_000001.jpg").rename(root / "JPEGImages/2008_000001.JPEG")
    (root / "JPEGImages/2008_000003.jpg").rename(root / "JPEGImages/2008_000003.png")
    write_sbd(devkit / "sbd/cls/2008_000003.MAT.mat", drawn(3) % 21)
    (devkit / "sbd/cls/2008_000003.MAT.mat").rename(devkit / "sbd/cls/2008_000003.MAT")
    masked = open_masked(f"voc:2012:train:{devkit}", str(devkit / "sbd"))
    assert [masked.key(index) for index in (0, 2)] == ["JPEGImages/2008_000001.JPEG", "JPEGImages/2008_000003.png"]
    assert np.array_equal(masked.mask(0), drawn(1)) and np.array_equal(masked.mask(2), drawn(3) % 21)
    assert masked.read(2).size == (20, 12)
