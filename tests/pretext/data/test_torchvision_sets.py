"""torchvision's data sets, made small in the formats of the real ones; torchvision itself is the reference."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from pretext.data import ImageDataset, LabeledDataset, open_dataset, open_labeled
from pretext.data.source import digest_of_keys
from pretext.errors import ImageError, UserError

RNG = np.random.default_rng(0)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def image(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (shade, 0, 255 - shade)).save(path, "JPEG", quality=95)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10's files with 4 images each; torchvision is told their sums, in place of the real files'."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for part in ("train_list", "test_list"):
        sums = []
        for name, _ in getattr(datasets.CIFAR10, part):
            data = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
            (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [3, 0, 9, 3]}))
            sums.append([name, md5(folder / name)])
        monkeypatch.setattr(datasets.CIFAR10, part, sums)
    meta = folder / "batches.meta"
    meta.write_bytes(pickle.dumps({"label_names": [f"kind {i}" for i in range(10)]}))
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": md5(meta)})
    return tmp_path


def agree(source: ImageDataset, theirs: Any) -> None:
    """Images and labels are torchvision's, in its order."""
    assert isinstance(source, LabeledDataset)
    assert len(source) == len(theirs) > 0
    for index in range(len(theirs)):
        image, label = theirs[index]
        got = source.read(index)
        assert got.mode == "RGB"
        assert (np.asarray(got) == np.asarray(image.convert("RGB"))).all()
        assert source.labels[index] == label
    keys = [source.key(index) for index in range(len(source))]
    assert len(set(keys)) == len(keys)
    assert source.digest() == digest_of_keys(source)


@pytest.mark.parametrize("part", ["train", "test"])
def test_cifar(cifar: Path, part: str) -> None:
    source = open_labeled(f"torchvision:CIFAR10:{part}:{cifar}")
    agree(source, datasets.CIFAR10(str(cifar), train=part == "train"))
    assert source.classes[9] == "kind 9"
    assert source.key(1) == f"CIFAR10/{part}/00001"
    assert len(source) == {"train": 20, "test": 4}[part]


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[Path], Any], tuple[Path]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta"])
def test_another_cifar_file_is_never_unpickled(cifar: Path, name: str) -> None:
    trace = cifar / "trace"
    (cifar / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(UserError, match="not found or corrupted") as caught:
        open_dataset(f"torchvision:CIFAR10:train:{cifar}")
    assert not trace.exists()
    assert "\n" not in str(caught.value)
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()  # the test can fail


@pytest.fixture
def stl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for name, count in (("train_X", 3), ("test_X", 2), ("unlabeled_X", 4)):
        (folder / f"{name}.bin").write_bytes(RNG.bytes(count * 3 * 96 * 96))
    (folder / "train_y.bin").write_bytes(bytes([1, 10, 2]))
    (folder / "test_y.bin").write_bytes(bytes([7, 1]))
    (folder / "class_names.txt").write_text("\n".join("abcdefghij"))
    for part in ("train_list", "test_list"):
        sums = [[name, md5(folder / name)] for name, _ in getattr(datasets.STL10, part)]
        monkeypatch.setattr(datasets.STL10, part, sums)
    return tmp_path


@pytest.mark.parametrize(("part", "count"), [("train", 3), ("test", 2), ("unlabeled", 4), ("train+unlabeled", 7)])
def test_stl(stl: Path, part: str, count: int) -> None:
    name, theirs = f"torchvision:STL10:{part}:{stl}", datasets.STL10(str(stl), part)
    source = open_dataset(name)
    assert len(source) == count
    if "unlabeled" not in part:
        agree(open_labeled(name), theirs)
        return
    for index in range(count):
        assert (np.asarray(source.read(index)) == np.asarray(theirs[index][0])).all()
    with pytest.raises(UserError, match=rf"STL10.*: 4 of {count} images have no label"):
        open_labeled(name)


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        for shade, wnid in enumerate(("n02012849", "n01440764", "n03126707")):
            image(tmp_path / part / wnid / f"{wnid}_{shade}.JPEG", 50 * shade)
    words = {"n02012849": ("crane",), "n01440764": ("tench", "Tinca tinca"), "n03126707": ("crane",)}
    torch.save((words, []), tmp_path / "meta.bin")
    return tmp_path


def test_imagenet(imagenet: Path) -> None:
    source = open_labeled(f"torchvision:ImageNet:val:{imagenet}")
    agree(source, datasets.ImageNet(str(imagenet), "val"))
    assert source.classes == ["n01440764 tench, Tinca tinca", "n02012849 crane", "n03126707 crane"]
    assert source.key(0) == "n01440764/n01440764_1.JPEG"
    (imagenet / "val" / "n01440764" / "n01440764_1.JPEG").unlink()
    with pytest.raises(ImageError, match="gone since"):
        source.read(0)


def test_imagenet_says_what_is_missing(imagenet: Path) -> None:
    with pytest.raises(UserError, match="no part 'test'; use train or val"):
        open_dataset(f"torchvision:ImageNet:test:{imagenet}")
    (imagenet / "meta.bin").write_bytes(b"junk")
    assert len(open_dataset(f"torchvision:ImageNet:train:{imagenet}")) == 3  # no names needed to learn from images
    for damage in (b"junk", pickle.dumps(Bomb(imagenet / "trace"), 2), None):
        (imagenet / "meta.bin").unlink()
        if damage:
            (imagenet / "meta.bin").write_bytes(damage)
        with pytest.raises(UserError, match=rf"ILSVRC2012_devkit_t12.*or give the folder {imagenet}/train") as caught:
            assert open_labeled(f"torchvision:ImageNet:train:{imagenet}").classes
        assert "\n" not in str(caught.value)
        assert not (imagenet / "trace").exists()
        (imagenet / "meta.bin").touch()
    (imagenet / "val").rename(imagenet / "elsewhere")
    (imagenet / "ILSVRC2012_img_val.tar").touch()
    with pytest.raises(UserError, match=r"no folder .*/val; put ILSVRC2012_img_val\.tar"):
        open_dataset(f"torchvision:ImageNet:val:{imagenet}")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "categories_places365.txt").write_text("/a/airfield 0\n/z/zoo 2\n/a/arch 1\n")
    (tmp_path / "places365_val.txt").write_text("Places365_val_2.jpg 2\nPlaces365_val_1.jpg 0\n")
    (tmp_path / "places365_test.txt").write_text("Places365_test_1.jpg\n")
    (tmp_path / "places365_train_standard.txt").write_text("/a/arch/0001.jpg 1\n/a/airfield/0001.jpg 0\n")
    category, lists = datasets.Places365._CATEGORIES_META[0], datasets.Places365._FILE_LIST_META
    monkeypatch.setattr(datasets.Places365, "_CATEGORIES_META", (category, md5(tmp_path / category)))
    sums = {part: (file, md5(tmp_path / file)) for part, (file, _) in lists.items() if (tmp_path / file).exists()}
    monkeypatch.setattr(datasets.Places365, "_FILE_LIST_META", sums)
    for shade, name in enumerate(
        (
            "val_256/Places365_val_1.jpg",
            "val_256/Places365_val_2.jpg",
            "test_256/Places365_test_1.jpg",
            "data_large_standard/a/arch/0001.jpg",
            "data_large_standard/a/airfield/0001.jpg",
        )
    ):
        image(tmp_path / name, 40 * shade)
    return tmp_path


def test_places(places: Path) -> None:
    source = open_labeled(f"torchvision:Places365:val-256:{places}")
    assert [source.key(index) for index in range(2)] == ["val_256/Places365_val_1.jpg", "val_256/Places365_val_2.jpg"]
    theirs = datasets.Places365(str(places), "val", small=True)
    theirs.imgs.sort()  # ours are by path
    agree(source, theirs)
    assert [source.classes[label] for label in source.labels] == ["/a/airfield", "/z/zoo"]
    assert source.read(0, shorter=10).size == (20, 15)
    train = open_labeled(f"torchvision:Places365:train-standard:{places}")
    assert [train.key(index) for index in range(2)] == [
        f"data_large_standard/a/{one}/0001.jpg" for one in ("airfield", "arch")
    ]
    assert train.labels.tolist() == [0, 1]


def test_places_says_what_is_missing(places: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*/val_large/Places365_val_1\.jpg.*; unpack .*val-256"):
        open_dataset(f"torchvision:Places365:val:{places}")
    assert len(open_dataset(f"torchvision:Places365:test-256:{places}")) == 1
    with pytest.raises(UserError, match="1 of 1 images have no label"):
        open_labeled(f"torchvision:Places365:test-256:{places}")
    with pytest.raises(UserError, match=r"no part 'vla'.*train-standard"):
        open_dataset(f"torchvision:Places365:vla:{places}")
    (places / "places365_val.txt").write_text("Places365_val_1.jpg 1\n")
    with pytest.raises(UserError, match=r"places365_val\.txt does not exist or is corrupted"):
        open_dataset(f"torchvision:Places365:val-256:{places}")


def test_sets_with_other_ways(tmp_path: Path) -> None:
    """Paths in one list and labels in another; no parts at all; gray images."""
    root = tmp_path / "dtd" / "dtd"
    for shade, name in enumerate(("zigzag/zigzag_1.jpg", "banded/banded_1.jpg")):
        image(root / "images" / name, 90 * shade)
    (root / "labels").mkdir()
    (root / "labels" / "val1.txt").write_text("zigzag/zigzag_1.jpg\nbanded/banded_1.jpg\n")
    source = open_labeled(f"torchvision:DTD:val:{tmp_path}")
    assert [(source.key(i), source.classes[source.labels[i]]) for i in range(2)] == [
        ("dtd/dtd/images/banded/banded_1.jpg", "banded"), ("dtd/dtd/images/zigzag/zigzag_1.jpg", "zigzag")]  # fmt: skip
    image(tmp_path / "eurosat" / "2750" / "River" / "1.jpg", 7)
    eurosat = open_labeled(f"torchvision:EuroSAT::{tmp_path}")
    agree(eurosat, datasets.EuroSAT(str(tmp_path)))
    with pytest.raises(UserError, match=r"EuroSAT has no parts; write torchvision:EuroSAT::/"):
        open_dataset(f"torchvision:EuroSAT:train:{tmp_path}")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = RNG.integers(0, 256, (2, 28, 28), dtype=np.uint8)
    for stem, head, body in (("images-idx3", [2, 28, 28], pixels.tobytes()), ("labels-idx1", [2], bytes([5, 0]))):
        for part in ("train", "t10k"):
            magic = bytes([0, 0, 8, len(head)])
            (raw / f"{part}-{stem}-ubyte").write_bytes(magic + np.array(head, ">i4").tobytes() + body)
    agree(open_labeled(f"torchvision:MNIST:test:{tmp_path}"), datasets.MNIST(str(tmp_path), train=False))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("torchvision:", "write torchvision:SET:PART:FOLDER"),
        ("torchvision:CIFAR10:train", "write torchvision:SET:PART:FOLDER"),
        ("torchvision:cifar10:train:{}", "unknown to torchvision; did you mean CIFAR10?"),
        ("torchvision:ImagNet:train:{}", "did you mean ImageNet?"),
        ("torchvision:LSUN:train:{}", "not one of images with classes"),
        ("torchvision:Kinetics:train:{}", "not one of images with classes"),
        ("torchvision:CIFAR10:val:{}", "CIFAR10 has no part 'val'; use train or test"),
        ("torchvision:STL10:trian:{}", "STL10 has no part 'trian'.*unlabeled"),
        ("torchvision:CIFAR10:train:{}", r"needs cifar-10-batches-py/.*cifar-10-python\.tar\.gz.*download=True"),
        ("torchvision:CIFAR10:train:{}/nowhere", "no folder .*/nowhere; it needs cifar-10-batches-py/"),
        ("torchvision:StanfordCars:train:{}", "StanfordCars"),
        ("torchvison:CIFAR10:train:{}", "did you mean torchvision:CIFAR10:train:/"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tmp_path: Path, name: str, says: str) -> None:
    for opener in (open_dataset, open_labeled):
        with pytest.raises(UserError, match=says) as caught:
            opener(name.format(tmp_path))
        assert "\n" not in str(caught.value)


def test_a_set_whose_images_are_kept_in_no_known_way(tmp_path: Path) -> None:
    (tmp_path / "MovingMNIST").mkdir()
    np.save(tmp_path / "MovingMNIST" / "mnist_test_seq.npy", np.zeros((20, 2, 64, 64), np.uint8))
    image(tmp_path / "Kitti2012" / "testing" / "colored_0" / "0_10.png", 0)
    image(tmp_path / "Kitti2012" / "testing" / "colored_1" / "0_10.png", 0)
    for name in ("MovingMNIST", "Kitti2012Stereo"):
        with pytest.raises(UserError, match=f"{name} in an unknown form"):
            open_dataset(f"torchvision:{name}:test:{tmp_path}")


def test_pickles(cifar: Path, imagenet: Path) -> None:
    for name in (f"torchvision:CIFAR10:test:{cifar}", f"torchvision:ImageNet:val:{imagenet}"):
        source = open_labeled(name)
        copy = pickle.loads(pickle.dumps(source))
        assert copy.digest() == source.digest()
        assert (np.asarray(copy.read(1)) == np.asarray(source.read(1))).all()
