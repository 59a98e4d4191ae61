"""Images that two sets have in common: against brute force over all bytes, in every kind of source."""

import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretext.data import Bundled, Shards, duplicates, open_dataset
from pretext.data.duplicates import find_shared
from pretext.data.source import ImageDataset, StoredDataset
from pretext.data.torchvision_sets import ArraySet

COUNT = 30


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """``train`` and ``test``: noise, copies, and files that differ only in a byte at one end or in the middle."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for at in range(COUNT):
            noise = rng.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / part / f"{at:02}.bmp")  # all of one size in bytes
    for at, byte in enumerate((0, 4000, -1, 100, None, None)):
        content = bytearray((tmp_path / "train" / f"{at:02}.bmp").read_bytes())
        if byte is not None:
            content[byte] ^= 1
        (tmp_path / "test" / f"{at + 10:02}.bmp").write_bytes(content)
    shutil.copy(tmp_path / "train" / "07.bmp", tmp_path / "train" / "29.bmp")  # twice in one set
    shutil.copy(tmp_path / "train" / "07.bmp", tmp_path / "test" / "01.bmp")
    for part in ("train", "test"):
        (tmp_path / part / "20.bmp").write_bytes(b"")  # of no image two copies are the same image
    (tmp_path / "test" / "21.bmp").unlink()
    (tmp_path / "test" / "21.bmp").symlink_to(tmp_path / "nowhere")
    return tmp_path


def search(train: ImageDataset, test: ImageDataset) -> list[list[int]]:
    """By brute force."""
    assert isinstance(train, StoredDataset) and isinstance(test, StoredDataset)

    def contents(source: StoredDataset) -> Iterator[tuple[int, bytes]]:
        sizes = source.stamps()[:, 0]
        return ((index, source.read_bytes(index)) for index in range(len(source)) if sizes[index] > 0)

    known: dict[bytes, int] = {}
    for index, content in contents(train):
        known.setdefault(content, index)
    return [[index, known[content]] for index, content in contents(test) if content in known]


def packed(folder: Path) -> Shards:
    with tarfile.open(folder.with_suffix(".tar"), "w") as tar:
        for path in sorted(folder.iterdir()):
            if path.exists():
                tar.add(path, path.name, recursive=False)
    return Shards(folder.with_suffix(".tar"))


def listed(folder: Path) -> ImageDataset:
    names = sorted(path.name for path in folder.iterdir())
    folder.with_suffix(".txt").write_text("\n".join(reversed(names)))
    return open_dataset(f"list:{folder.with_suffix('.txt')}:{folder}")


def test_files_tars_and_lists(images: Path) -> None:
    kinds = {
        "folder": [open_dataset(str(images / part)) for part in ("train", "test")],
        "tar": [packed(images / part) for part in ("train", "test")],
        "list": [listed(images / part) for part in ("train", "test")],
    }
    assert search(*kinds["folder"]) == [[1, 7], [14, 4], [15, 5]]
    for train, _ in kinds.values():
        for _, test in kinds.values():
            assert find_shared(train, test).tolist() == search(train, test)
            assert len(find_shared(train, test)) == 3


def test_rows_of_a_table(images: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    tables = {}
    for part in ("train", "test"):
        paths = [path for path in sorted((images / part).iterdir()) if path.exists()]
        cells = [{"bytes": path.read_bytes(), "path": None} for path in paths[:12]]
        cells += [{"bytes": None, "path": str(path)} for path in paths[12:]]  # not taken in
        features = datasets.Features({"image": datasets.Image()})
        tables[part] = datasets.Dataset.from_dict({"image": [*cells, None]}, features=features)
    datasets.DatasetDict(tables).save_to_disk(images / "saved")
    train, test = (open_dataset(f"hf:{images}/saved:{part}") for part in ("train", "test"))
    assert find_shared(train, test).tolist() == search(train, test) == [[1, 7], [14, 4], [15, 5]]
    folder = open_dataset(str(images / "train"))
    assert find_shared(folder, test).tolist() == [[1, 7], [14, 4], [15, 5]]
    part = open_dataset(f"hf:{images}/saved:test[10:20]")
    assert find_shared(train, part).tolist() == [[4, 4], [5, 5]]
    joined = open_dataset(f"hf:{images}/saved:test[10:20]+test[:2]")
    assert find_shared(train, joined).tolist() == search(train, joined) == [[4, 4], [5, 5], [11, 7]]


def test_pixels_in_memory() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 8, 8), np.uint8)
    pixels[25] = pixels[3]
    train, test = (ArraySet("x", part, "x", np.zeros(20), ["a"]) for part in (pixels[:20], pixels[20:]))
    assert find_shared(train, test).tolist() == search(train, test) == [[5, 3]]
    assert not len(find_shared(Bundled("train"), Bundled("test")))
    assert len(find_shared(Bundled("test"), Bundled("test"))) == len(Bundled("test"))


def test_parts_of_one_source(images: Path) -> None:
    source = open_dataset(str(images / "train"))
    fit, held = np.arange(0, 20), np.arange(20, COUNT)
    assert find_shared(source, source, fit, held).tolist() == [[29, 7]]
    assert find_shared(source, source, held, fit).tolist() == [[7, 29]]
    assert not len(find_shared(source, source, fit[:5], held))


def test_what_was_found_is_kept_until_an_image_changes(
    images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_MANY", 10)
    train, test = images / "train", images / "test"

    def count() -> int:
        return len(find_shared(open_dataset(str(train)), open_dataset(str(test))))

    assert count() == 3 and not (cache / "pretint" / "shared").exists(), "what was just written may change unseen"
    monkeypatch.setattr(duplicates, "_SETTLED", -1)
    assert count() == 3
    (kept,) = (path for path in (cache / "pretint" / "shared").iterdir() if path.name != ".lock")
    with monkeypatch.context() as patch:
        patch.setattr(duplicates, "_hash_images", None)
        assert count() == 3, "not looked for again"
    kept.write_bytes(kept.read_bytes()[:-8] + bytes(8))
    assert count() == 3, "a damaged file is not believed"
    image = test / "14.bmp"
    before = image.stat()
    image.write_bytes(bytes(reversed(image.read_bytes())))
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert count() == 2, "size and time of modification are the same"


@pytest.mark.slow
def test_real_images(shared_data: Path) -> None:
    folder = shared_data / "imagenette-96"
    train, val = (open_dataset(str(folder / part)) for part in ("train", "val"))
    assert not len(find_shared(train, val))
    shards = open_dataset(str(shared_data / "imagenette-96-shards" / "train-*.tar"))
    assert find_shared(train, shards).tolist() == search(train, shards)
