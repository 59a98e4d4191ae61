"""What operating systems and photo servers make is no image, at any depth of a folder or tar, and no class."""

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from pretext.data import ClassFolder, Folder, ImageDataset, Shards, formats, open_dataset, open_labeled
from pretext.errors import UserError

FOLDERS = (
    "@eaDir", "@EADIR", "__MACOSX", ".thumbnails", "#recycle", "#snapshot", "$RECYCLE.BIN", "$Recycle.Bin",
    "System Volume Information", ".Trash", ".Trash-1000", ".Trashes", "lost+found", ".picasaoriginals", ".@__thumb",
    "@Recycle", ".AppleDouble",
)  # fmt: skip


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())


def keys(source: ImageDataset) -> list[str]:
    return [source.key(index) for index in range(len(source))]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(formats, "_printed", set())


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_of_systems(tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "set"
    put(root, "a/1.png", "b/2.png", f"{folder}/1.png", f"a/{folder}/1.png/SYNOPHOTO_THUMB_M.png", f"b/{folder}/x/2.png")
    for kind in (Folder, ClassFolder):
        assert keys(kind(root)) == ["a/1.png", "b/2.png"]
    assert ClassFolder(root).classes == ["a", "b"]
    assert "3 folders left out: 3 " in capsys.readouterr().err
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(root, ".")
    assert sorted(keys(Shards(tmp_path / "set.tar"))) == ["./a/1", "./b/2"]
    assert "3 folders left out: 3 " in capsys.readouterr().err


def test_classes_of_which_only_a_systems_are_left(tmp_path: Path) -> None:
    put(tmp_path, "@eaDir/1.png")
    with pytest.raises(UserError, match=r"no sub-folders; .* class \(1 folder left out: 1 @eaDir\)"):
        ClassFolder(tmp_path)


@pytest.mark.parametrize("folder", ["@eaDir", ".thumbnails", "#snapshot"])
def test_a_folder_that_is_named_inside_of_one(tmp_path: Path, folder: str) -> None:
    root = tmp_path / folder / "set"
    put(root, "a/1.png", "b/2.png")
    assert keys(Folder(root)) == keys(open_labeled(str(root))) == ["a/1.png", "b/2.png"]
    assert keys(Folder(root.parent)) == ["set/a/1.png", "set/b/2.png"]
    (tmp_path / "list.txt").write_text(f"{folder}/set/a/1.png\n")
    assert len(open_dataset(f"list:{tmp_path / 'list.txt'}:{tmp_path}")) == 1, "a list names its files by hand"


def test_files_of_systems_and_directories_that_look_like_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(
        tmp_path, "a/1.png", "a/x.jpg/2.png", "a/._1.png", "a/Thumbs.db", "a/.DS_Store", "a/desktop.ini", "__MACOSX/._a"
    )
    assert keys(ClassFolder(tmp_path)) == ["a/1.png", "a/x.jpg/2.png"]
    assert capsys.readouterr().err == (
        f"{tmp_path}: 4 files left out: 1 .DS_Store, 1 ._*, 1 Thumbs.db, 1 desktop.ini; 1 folder left out: 1 __MACOSX\n"
    )


def test_a_folder_of_shards_on_a_photo_server(tmp_path: Path) -> None:
    put(tmp_path, "x/1.png", "shards/@eaDir/x.png")
    with tarfile.open(tmp_path / "shards" / "s.tar", "w") as tar:
        tar.add(tmp_path / "x" / "1.png", "1.png")
    assert keys(open_dataset(str(tmp_path / "shards"))) == ["1"]


@pytest.mark.parametrize("files", [{"a": 2**63}, {"a": -1}, {"a": 1.0}, {"a" * 41: 1}, {"\x1b[2J": 1}])
def test_kept_counts_that_nobody_of_us_wrote(files: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"count|kind"):
        formats.SkippedFiles.from_dict({"files": files, "folders": {}})
