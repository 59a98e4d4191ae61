"""Folders on a real disk: what is found, in which order, and what is said about what is not."""

import hashlib
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretext.data import Bundled, ClassFolder, Folder, ImageDataset, LabeledDataset, open_dataset, open_labeled
from pretext.data.source import digest_of_keys
from pretext.errors import ImageError, UserError


def put(root: Path, *names: str) -> None:
    for shade, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        kind = {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:].lower(), "PNG")
        Image.new("RGB", (6, 4), (shade, shade, shade)).save(root / name, kind)


def keys(source: ImageDataset) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def test_finds_images_in_order_and_reads_them(tmp_path: Path) -> None:
    names = ["a/2.JPG", "a-b/x.png", "a/10.jpg", "z.tif", "A/u.PnG", "a/deep/er/1.png", "\u00e9t\u00e9.png"]
    put(tmp_path, *names)
    for other in ("notes.txt", "a/jpg", "a/x.jpg.part", ".hidden.png", "a/.cache/y.png", "a/.DS_Store"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    source = Folder(tmp_path)
    assert isinstance(source, ImageDataset)
    assert keys(source) == sorted(names)
    for index, key in enumerate(sorted(names)):
        got = np.asarray(source.read(index))
        assert got.shape == (4, 6, 3)
        assert (got == names.index(key)).all()


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "JPEG", "Tiff"])
def test_endings(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"x.{ending}").write_bytes(b"")
    assert keys(Folder(tmp_path)) == [f"x.{ending}"]


def test_shorter_reaches_the_decoder(tmp_path: Path) -> None:
    Image.new("RGB", (400, 300)).save(tmp_path / "x.jpg")
    assert Folder(tmp_path).read(0, shorter=30).size == (50, 38)


def test_random_trees_match_a_plain_walk(tmp_path: Path) -> None:
    draw = random.Random(0)
    for _ in range(60):
        parts = [draw.choice(["a", "b", "a.b", "a-", "\u00fc", "B"]) for _ in range(draw.randint(0, 4))]
        file = tmp_path.joinpath(*parts, draw.choice(["1.png", "2.jpg", "c.txt", "-.bmp"]))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    want = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.suffix in (".png", ".jpg", ".bmp")]
    assert keys(Folder(tmp_path)) == sorted(want)


def test_links(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    put(root, "a/1.png")
    put(elsewhere, "2.png")
    (root / "far").symlink_to(elsewhere)
    (root / "one.png").symlink_to(elsewhere / "2.png")
    (root / "a" / "up").symlink_to(root)
    (elsewhere / "round").symlink_to(root)
    (root / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    source = Folder(root)
    assert keys(source) == ["a/1.png", "dangling.jpg", "far/2.png", "one.png"]
    with pytest.raises(ImageError, match=r"^dangling\.jpg: the file is gone"):
        source.read(1)
    with pytest.raises(UserError, match=r"root/far"):  # the way back up is no way for a class either
        shutil.rmtree(root / "a")
        (elsewhere / "2.png").unlink()
        ClassFolder(root)


def test_pipes_are_not_images(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    os.mkfifo(tmp_path / "2.png")
    assert keys(Folder(tmp_path)) == ["1.png"]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    source = Folder(tmp_path)
    assert source.key(0) == "\\xff.png"
    with pytest.raises(ImageError, match="empty file"):
        source.read(0)


def test_pickles_and_survives_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "pics/a/1.png", "pics/b/2.png")
    monkeypatch.chdir(tmp_path)
    for source in (Folder("pics"), ClassFolder("pics")):
        copy = pickle.loads(pickle.dumps(source))
        monkeypatch.chdir("/")
        assert keys(copy) == ["a/1.png", "b/2.png"]
        assert copy.read(1).getpixel((0, 0)) == (1, 1, 1)
        monkeypatch.chdir(tmp_path)


def test_images_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a/gone.png", "b.png")
    source = Folder(tmp_path)
    (tmp_path / "a" / "gone.png").unlink()
    with pytest.raises(ImageError, match=r"^a/gone\.png: the file is gone") as caught:
        source.read(0)
    assert caught.value.key == "a/gone.png"

    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ImageError, match=r"^b\.png: cannot be read: Permission denied$"):
        source.read(1)


@pytest.mark.parametrize("kind", [Folder, ClassFolder, open_dataset, open_labeled])
def test_no_such_folder(tmp_path: Path, kind: Any) -> None:
    (tmp_path / "file").touch()
    for name, problem in (("nowhere", "no such folder"), ("file", "is a file, not a folder")):
        with pytest.raises(UserError, match=f"{name}: {problem}; .*`bundled`") as caught:
            kind(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the folder is empty.*\.png"):
        Folder(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.mov").touch()
    with pytest.raises(UserError, match=r"no images, 1 file left out: 1 \.mov; .*\.jpg \.png"):
        Folder(tmp_path)
    (tmp_path / "b.txt").touch()
    with pytest.raises(UserError, match=r"no images, 2 files left out: 1 \.mov, 1 \.txt;"):
        Folder(tmp_path)


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a/1.png")
    scan = os.scandir

    def denied(path: bytes) -> Any:
        if path.endswith(b"/a"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, match="/a: the folder cannot be listed: Permission denied"):
        Folder(tmp_path)


def test_classes_are_those_of_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    put(tmp_path, "b/2.png", "a/1.png", "a/deep/3.jpg", "a-b/4.png", "C/5.bmp", "loose.png")
    source = ClassFolder(tmp_path)
    assert isinstance(source, LabeledDataset)
    assert keys(source) == ["C/5.bmp", "a-b/4.png", "a/1.png", "a/deep/3.jpg", "b/2.png"]
    theirs = ImageFolder(str(tmp_path))
    assert source.classes == theirs.classes == ["C", "a", "a-b", "b"]
    want = {Path(path).relative_to(tmp_path).as_posix(): label for path, label in theirs.samples}
    assert dict(zip(keys(source), source.labels, strict=True)) == want


def test_class_folder_says_what_is_missing(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    with pytest.raises(UserError, match="no sub-folders; put labeled images in one sub-folder per class"):
        ClassFolder(tmp_path)
    put(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / ".git").mkdir()
    assert ClassFolder(tmp_path).classes == ["a", "b"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="/empty: the folder is empty"):
        ClassFolder(tmp_path)


def test_open(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png")
    assert type(open_dataset(str(tmp_path))) is Folder
    assert type(open_labeled(str(tmp_path))) is ClassFolder
    for opener in (open_dataset, open_labeled):
        for name, part in (("bundled", "train"), ("bundled:train", "train"), ("bundled:test", "test")):
            source = opener(name)
            assert isinstance(source, Bundled)
            assert source.part == part
        with pytest.raises(UserError, match="bundled:val: no such part; use bundled:train or bundled:test"):
            opener("bundled:val")


def test_real_folder(shared_data: Path) -> None:
    source = ClassFolder(shared_data / "imagenette-mini" / "val")
    assert len(source) == len(Folder(shared_data / "imagenette-mini" / "val")) == 500
    assert len(source.classes) == 10
    assert source.read(499).mode == "RGB"


def test_digest(tmp_path: Path) -> None:
    put(tmp_path, "b/2.png", "a/1.png", "a-b/\u00e9\n.png")
    for source in (Folder(tmp_path), ClassFolder(tmp_path), Bundled("test")):
        want = hashlib.sha256("".join(f"{key}\n" for key in keys(source)).encode()).hexdigest()
        assert source.digest() == digest_of_keys(source) == want
    before = Folder(tmp_path).digest()
    (tmp_path / "a" / "1.png").rename(tmp_path / "a" / "0.png")
    assert Folder(tmp_path).digest() != before


def test_a_nearly_right_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for wrong, right in (("bundle", "bundled"), ("bundeld:test", "bundled:test"), ("hff:x:train", "hf:x:train")):
        with pytest.raises(UserError, match=f"^{wrong}: no such folder; did you mean {right}\\?$"):
            open_dataset(wrong)
    for name in ("bundle", "hff:x:train", "hf:x:train", "torchvision:CIFAR10:train:x"):
        put(Path(name), "a/1.png")
        assert keys(open_labeled(f"./{name}")) == ["a/1.png"]
    assert keys(open_dataset("bundle")) == ["a/1.png"]
