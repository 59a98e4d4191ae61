"""The index of a large folder: used while it is true, never when it is not."""

import os
import pickle
import random
import shutil
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
from processes import Launcher

from pretext.data import ClassFolder, Folder
from pretext.data import scan as scan_module
from pretext.data.source import digest_of_keys
from pretext.errors import ImageError
from pretext.store import lock

CLASSES, EACH = 40, 300  # 12,000 images: enough to be indexed
KINDS = pytest.mark.parametrize("kind", [Folder, ClassFolder])
Counted = Callable[[Callable[[], Folder]], int]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large tree, old enough to be indexed, that no test changes."""
    root = tmp_path_factory.mktemp("large") / "tree"
    make(root, CLASSES, EACH)
    time.sleep(2.2)
    return root


def make(root: Path, classes: int, each: int) -> None:
    for label in range(classes):
        folder = root / f"n{label * 7919:08}" / ("deep" if label % 9 == 0 else "")
        folder.mkdir(parents=True)
        for number in range(each):
            (folder / f"{folder.name}_{number * 7}.JPEG").touch()
    (root / "loose.png").touch()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pretint" / "folders"


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small and young trees are indexed too."""
    monkeypatch.setattr(scan_module, "WORTH", 1)
    monkeypatch.setattr(scan_module, "_SETTLED", 0)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """How many folders are listed while something is called."""

    def count(function: Callable[[], Folder]) -> int:
        calls: list[bytes] = []
        scan = os.scandir
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", lambda path: calls.append(path) or scan(path))
            function()
        return len(calls)

    return count


def keys(source: Folder) -> list[str]:
    return [source.key(index) for index in range(len(source))]


@pytest.mark.slow
@KINDS
def test_the_second_opening_lists_nothing(tree: Path, cache: Path, listed: Counted, kind: type[Folder]) -> None:
    paths = [path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()]
    want = sorted(path for path in paths if kind is Folder or "/" in path)
    assert listed(lambda: kind(tree)) == CLASSES + 1 + len(range(0, CLASSES, 9))
    assert len(list(cache.glob("[0-9a-f]*"))) == 1
    assert listed(lambda: kind(tree)) == 0
    source = kind(tree)
    assert keys(source) == want
    assert source.digest() == digest_of_keys(source)
    if isinstance(source, ClassFolder):
        assert source.classes == sorted(path.name for path in tree.iterdir() if path.is_dir())
        assert [source.classes[label] for label in source.labels] == [key.split("/")[0] for key in want]
    copy = pickle.loads(pickle.dumps(source))
    assert keys(copy) == want


def test_both_kinds_and_every_name_of_a_folder(
    tree: Path, tmp_path: Path, listed: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tree)
    Folder(tree), ClassFolder(tree)
    monkeypatch.chdir(tree.parent)
    for name in (tree, "tree", "./tree/", tmp_path / "link", f"{tree}/../tree"):
        for kind, count in ((Folder, CLASSES * EACH + 1), (ClassFolder, CLASSES * EACH)):
            assert listed(lambda kind=kind, name=name: kind(name)) == 0  # type: ignore[misc]
            assert len(kind(name)) == count
    with pytest.raises(ImageError, match=r"^loose\.png: empty file"):
        Folder(tmp_path / "link").read(0)


def change_added(root: Path) -> None:
    (root / "n00007919" / "new.png").touch()


def change_removed(root: Path) -> None:
    (root / "n00000000" / "deep" / "deep_0.JPEG").unlink()


def change_renamed(root: Path) -> None:
    (root / "loose.png").rename(root / "n00007919" / "loose.png")


def change_class(root: Path) -> None:
    shutil.copytree(root / "n00007919", root / "another")


def change_class_removed(root: Path) -> None:
    shutil.rmtree(root / "n00007919")


def change_hidden(root: Path) -> None:
    (root / "n00007919").rename(root / ".n")


def change_link(root: Path) -> None:
    (root / "far").unlink()
    (root / "far").symlink_to(root.parent / "second")


def change_behind_links(root: Path) -> None:
    (root.parent / "hop").unlink()
    (root.parent / "hop").symlink_to("second")


def change_broken_link(root: Path) -> None:
    shutil.copytree(root.parent / "first", root.parent / "nowhere")


def change_with_times_set_back(root: Path) -> None:
    folder = root / "n00007919"
    before = folder.stat()
    (folder / "new.png").touch()
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert folder.stat().st_mtime_ns == before.st_mtime_ns


@KINDS
@pytest.mark.parametrize("change", [one for name, one in sorted(globals().items()) if name.startswith("change_")])
def test_a_changed_tree_is_scanned_again(
    tmp_path: Path, eager: None, listed: Counted, kind: type[Folder], change: Callable[[Path], None]
) -> None:
    root = tmp_path / "tree"
    make(root, 3, 2)
    for folder, name in (("first", "1.png"), ("second", "2.png")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    (root / "far").symlink_to(tmp_path / "first")
    (tmp_path / "hop").symlink_to("first")
    (root / "farther").symlink_to(tmp_path / "hop")
    (root / "broken").symlink_to(tmp_path / "nowhere")
    time.sleep(0.02)  # a clock tick or two: what the two seconds are for
    before = keys(kind(root))
    assert listed(lambda: kind(root)) == 0
    change(root)
    after = keys(kind(root))
    assert after != before
    time.sleep(0.02)
    plain = scan_module.scan(os.fsencode(root), str(root), kind is ClassFolder)
    assert after == [os.fsdecode(plain.paths[index]) for index in range(len(plain.paths))]
    kind(root)
    assert listed(lambda: kind(root)) == 0


def test_young_and_small_trees_are_not_indexed(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "small", 3, 2)
    time.sleep(0.02)
    for worth, settled, indexed in ((1, 2 * 10**9, 0), (100, 0, 0), (1, 0, 1)):
        monkeypatch.setattr(scan_module, "WORTH", worth)
        monkeypatch.setattr(scan_module, "_SETTLED", settled)
        Folder(tmp_path / "small")
        assert len(list(cache.glob("[0-9a-f]*"))) == indexed


@KINDS
def test_a_damaged_or_foreign_index_is_not_used(
    tmp_path: Path, cache: Path, eager: None, listed: Counted, kind: type[Folder]
) -> None:
    root, other = tmp_path / "tree", tmp_path / "other"
    make(root, 4, 3)
    make(other, 5, 2)
    time.sleep(0.02)
    want = keys(kind(root))
    (file,) = cache.glob("[0-9a-f]*")
    whole = file.read_bytes()
    kind(other)
    (foreign,) = set(cache.glob("[0-9a-f]*")) - {file}
    draw = random.Random(0)
    spots = [*range(0, 40), *draw.sample(range(40, len(whole)), 60), len(whole) - 1]
    flipped = [whole[:spot] + bytes([whole[spot] ^ 1]) + whole[spot + 1 :] for spot in spots]
    cut = [whole[:length] for length in (0, 1, 31, 200, len(whole) - 1)]
    pickled = pickle.dumps({"paths": want})
    older = whole.replace(b'"format": 2', b'"format": 1')
    for bad in [*flipped, *cut, whole + b"\0", foreign.read_bytes(), pickled, older, b"\n" * 100]:
        file.write_bytes(bad)
        assert keys(kind(root)) == want
        assert file.read_bytes() == whole
    assert listed(lambda: kind(root)) == 0


def test_without_a_cache(tmp_path: Path, cache: Path, eager: None, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "tree"
    make(root, 2, 2)
    time.sleep(0.02)
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", Path("/proc/nothing")):
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        assert len(Folder(root)) == 5
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification says to ignore it
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert len(Folder(root)) == 5
    assert not Path("relative").exists()
    assert len(list((tmp_path / "home" / ".cache" / "pretint" / "folders").glob("[0-9a-f]*"))) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache.mkdir(parents=True)
    with lock(cache / ".lock", "writing there"):  # as another process that writes just now
        process = get_context("fork").Process(target=Folder, args=(root,))
        process.start()
        process.join()
        assert process.exitcode == 0 and not list(cache.glob("[0-9a-f]*"))
    (cache / ".lock").unlink()
    (cache / ".lock").mkdir()
    assert len(Folder(root)) == 5


@pytest.mark.slow
def test_two_processes_at_once(tree: Path, cache: Path, listed: Counted, launcher: Launcher) -> None:
    code = "import sys; from pretext.data.folder import Folder; print(Folder(sys.argv[1]).digest())"
    processes = [launcher.start(tree, code=code) for _ in range(3)]
    assert [process.wait() for process in processes] == [0] * 3
    assert listed(lambda: Folder(tree)) == 0
    assert [process.output for process in processes] == [f"{Folder(tree).digest()}\n"] * 3
    assert sorted(path.name for path in cache.iterdir())[0] == ".lock"
    assert len(list(cache.iterdir())) == 2  # nothing half-written is left


def test_a_file_that_vanished_since(tree: Path, tmp_path: Path, eager: None) -> None:
    make(tmp_path / "tree", 2, 2)
    time.sleep(0.02)
    source = ClassFolder(tmp_path / "tree")
    (tmp_path / "tree" / "n00000000" / "deep" / "deep_7.JPEG").unlink()
    with pytest.raises(ImageError, match=r"^n00000000/deep/deep_7\.JPEG: the file is gone since the folder was listed"):
        source.read(1)


def test_a_long_scan_speaks(tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Folder(tree)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(scan_module, "_PATIENCE", 0)
    ClassFolder(tree)
    assert capsys.readouterr().err == f"{tree}: listing images, {EACH} so far\n"
