"""Tar shards: the index against tarfile and bash, images against their bytes, and everything a tar can be."""

import hashlib
import io
import os
import pickle
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretext.data import Folder, ImageDataset, LabeledDataset, LabeledShards, Shards, decode, open_dataset, open_labeled
from pretext.data.batches import EvalDataset, stream
from pretext.data.patterns import expand
from pretext.data.tar_index import build_index, index_path, load_index, write_index_beside
from pretext.errors import ImageError, UserError
from pretext.store import read_table, unseal, write_table

Member = tuple[str, bytes]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder: every test has its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pretint" / "shards"


@pytest.fixture
def real(shared_data: Path) -> Path:
    return shared_data / "imagenette-96-shards"


def png(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, members: Iterable[Member], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def keys(source: ImageDataset) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def refused(call: Callable[[], object], *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert "\n" not in str(caught.value)


# Against the definition.


def test_real_shards_are_those_of_tarfile(real: Path) -> None:
    want: list[tuple[str, int, bytes]] = []
    for name in ("train-0000.tar", "val-0000.tar"):
        with tarfile.open(real / name) as tar:
            held = {member.name: tar.extractfile(member) for member in tar}
            contents = {key: file.read() for key, file in held.items() if file}
        want += [
            (key.removesuffix(".jpg"), int(contents[key.replace(".jpg", ".cls")]), data)
            for key, data in contents.items()
            if key.endswith(".jpg")
        ]
    for _ in range(2):  # from the headers, then from the cache
        source = LabeledShards(f"{real}/{{train,val}}-0000.tar")
        assert isinstance(source, LabeledDataset)
        assert len(source) == len(want) == 2368 + 3925
        assert keys(source) == [key for key, _, _ in want]
        assert list(source.labels) == [label for _, label, _ in want]
        assert source.classes == (real / "classes.txt").read_text().split()
        assert all(source.data(index) == data for index, (_, _, data) in enumerate(want))
        assert source.digest() == hashlib.sha256("".join(f"{key}\n" for key, _, _ in want).encode()).hexdigest()
    for index in (0, 2367, 2368, 6292):
        assert (np.asarray(source.read(index)) == np.asarray(decode(want[index][2], "x"))).all()
    assert min(source.read(5, shorter=20).size) == 24


LONG = "d" * 90 + "/" + "e" * 120


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_header(tmp_path: Path, format: int) -> None:
    images = {"a/1": png(1), "a.b/c/2": png(2), "./3": png(3), "d" * 90 + "/" + "e" * 60: png(4)}
    if format != tarfile.USTAR_FORMAT:
        images |= {LONG: png(5), "\u00e9t\u00e9": png(6)}
    write(tmp_path / "s.tar", [(f"{key}.png", data) for key, data in images.items()], format)
    source = Shards(tmp_path / "s.tar")
    assert keys(source) == list(images)
    assert [source.data(index) for index in range(len(source))] == list(images.values())


@pytest.mark.parametrize("format", ["gnu", "posix", "ustar", "v7", "oldgnu"])
def test_what_gnu_tar_writes(tmp_path: Path, format: str) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for at, name in enumerate(("1.png", "deep/2.PNG", "deep/x.json", ".hidden.png", f"deep/{'n' * 80}.png")):
        (folder / name).write_bytes(png(at))
    (folder / "link.png").symlink_to("1.png")
    os.link(folder / "1.png", folder / "same.png")
    with (folder / "hole.png").open("wb") as file:
        file.truncate(100_000)
    command = ["tar", "-cf", "s.tar", f"--format={format}", "--sort=name", "-C", "in", "."]
    subprocess.run([*command, *(["--sparse"] if format in ("gnu", "posix") else [])], cwd=tmp_path, check=True)
    with tarfile.open(tmp_path / "s.tar") as tar:
        plain = [m.name for m in tar if m.isreg() and not m.issparse() and m.name.lower().endswith(".png")]
    shown = [name.rsplit(".", 1)[0] for name in plain if "/.hidden" not in name]
    assert len(shown) == (4 if format in ("v7", "ustar", "oldgnu") else 3)
    source = Shards(tmp_path / "s.tar")
    assert keys(source) == shown
    whole = [at for at, key in enumerate(shown) if not key.endswith("hole")]
    assert all(source.data(at) == (folder / plain[at]).read_bytes() for at in whole if shown[at] == plain[at][:-4])


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("\udcff\n.png")
        info.size = len(png())
        tar.addfile(info, io.BytesIO(png()))
    assert keys(Shards(tmp_path / "s.tar")) == ["\\xff\\n"]


def test_keys_end_at_the_first_dot_of_the_base_name(tmp_path: Path) -> None:
    members = ["v1.2/a.left.jpg", "v1.2/b.JPEG", "c.jpg.txt", "jpg", "._d.jpg", "e.json"]
    write(tmp_path / "s.tar", [(name, b"x") for name in members])
    assert keys(Shards(tmp_path / "s.tar")) == ["v1.2/a", "v1.2/b"]


# Names.


@pytest.mark.parametrize(
    "pattern",
    [
        "x", "{0000..0012}.tar", "{1..3}{a,b}", "{-01..2}", "a{a{1,2},b}x", "{{1..3}}", "{x{1,2}}", "{10..0..3}",
        "a{,b}c", "{e..a}", "{a}", "{1..2", "{1..3..0}", "{a,b}{", "{001..9..4}", "x{}y", "{{a,b}", "{a,b}}",
        "}{a,b}", "{x1..3}", "{a,{b,{c,d}}}-{8..11}",
    ],
)  # fmt: skip
def test_braces_as_bash_expands_them(pattern: str) -> None:
    said = subprocess.run(["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True)
    assert list(expand(pattern)) == said.stdout.split("\n")[:-1]


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(12):
        write(tmp_path / f"t-{at:02}.tar", [(f"{at}.png", png(at))])
    monkeypatch.chdir(tmp_path)
    both = Shards("t-{03..01}.tar")
    assert keys(both) == ["3", "2", "1"]
    assert keys(Shards("t-*.tar")) == keys(Shards(tmp_path)) == [str(at) for at in range(12)]
    assert keys(Shards("t-{1?,0[23]}.tar")) == ["10", "11", "2", "3"]
    shutil.copy("t-00.tar", "odd{1,2}[x].tar")
    assert keys(Shards("odd{1,2}[x].tar")) == ["0"]
    copy = pickle.loads(pickle.dumps(both))
    monkeypatch.chdir("/")
    assert copy.read(1).getpixel((0, 0)) == both.read(1).getpixel((0, 0)) == (2, 2, 2)


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in (0, 2, 3):
        write(tmp_path / f"t-{at}.tar", [(f"{at}.png", png())])
    monkeypatch.chdir(tmp_path)
    refused(lambda: open_dataset(""), "is empty")
    refused(lambda: Shards(f"{tmp_path}/t-{{0..5}}.tar"), "3 of 6 shards are missing", "t-1.tar")
    refused(lambda: Shards(f"{tmp_path}/no.tar"), "no such file", "train-{0000..0146}.tar")
    refused(lambda: Shards(f"{tmp_path}/x*.tar"), "nothing matches")
    refused(lambda: Shards(f"{tmp_path}/t-{{0..9999999999}}.tar"), "more than 100,000")
    refused(lambda: open_dataset("no-{0..1}.tar"), "2 of 2 shards are missing")
    refused(lambda: Shards("~nobody-here/x.tar"), "no such user")
    refused(lambda: Shards("a\0b.tar"), "no such file")
    refused(lambda: Shards(""), "is empty")
    os.mkfifo(tmp_path / "pipe.tar")
    refused(lambda: open_dataset(f"{tmp_path}/pipe.tar"), "neither a file nor a folder")
    refused(lambda: open_dataset(f"{tmp_path}/pip?.tar"), "nothing matches")


def test_folders(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    refused(lambda: Shards(folder), "no tar file in the folder")
    write(folder / "t-0.tar", [("0.png", png()), ("0.cls", b"0")])
    write(folder / "t-1.tar", [("1.png", png()), ("1.cls", b"1\n")])
    (folder / "notes.txt").touch()
    assert type(open_dataset(str(folder))) is Shards
    assert type(open_dataset(str(folder / "t-{0..1}.tar"))) is Shards
    assert open_labeled(str(folder)).classes == ["0", "1"]
    write(folder / "val-0.tar", [("2.png", png())])
    refused(lambda: open_dataset(str(folder)), "2 sets of shards (t-*.tar, val-*.tar)", "f/t-*.tar")
    assert len(open_dataset(f"{folder}/*.tar")) == 3
    (folder / "3.png").write_bytes(png())
    assert type(open_dataset(str(folder))) is Folder


# Bad input.


def test_cut_anywhere(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tar", [("a.png", b"x" * 700), ("b.png", b"y" * 10), (f"{LONG}.png", b"z" * 600)])
    whole = path.read_bytes()
    assert [int(at) for at in build_index(path).offsets] == [512, 2048, 2560 + 1536]
    for length in range(512, 5632, 64):  # member by member: 1536, 1024, and a PAX header of 1024 before 512 + 1024
        path.write_bytes(whole[:length])
        count = (length >= 1536) + (length >= 2560) + (length >= 5120)
        images = "1 whole image;" if count == 1 else f"{count} whole images;"
        found = "cut" if length < 2560 or length >= 4096 else ""  # in the PAX header it may also read as damage
        refused(lambda: Shards(path), "t.tar: the shard is", found, f"{images} fetch it again")
    path.write_bytes(whole[:5632])  # one block of zeros ends it, too
    assert len(Shards(path)) == 3
    path.write_bytes(whole[:1536] + bytes(2**21))  # a download that reserved its room first
    refused(lambda: Shards(path), "2,098,688 bytes long but ends at byte 1,536, after 1 whole image")
    path.write_bytes(whole + whole)
    refused(lambda: Shards(path), "bytes long but ends at byte 5,120")
    path.write_bytes(whole[:1536] + b"?" * 512 + whole[2048:])
    refused(lambda: Shards(path), "damaged at byte 1,536, after 1 whole image")


def test_no_tar(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    for content, said in ((b"", "empty (0 bytes)"), (b"hello", "not a tar file"), (b"x" * 5000, "not a tar file")):
        path.write_bytes(content)
        refused(lambda: Shards(path), "t.tar", said)
    for content in (bytes(10240), write(path, [("a.txt", b"x")]).read_bytes()):
        path.write_bytes(content)
        refused(lambda: Shards(path), "t.tar: no images in the shard", ".jpg")
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    refused(lambda: open_dataset(f"{tmp_path}/t.tar.gz"), "compressed", "decompress it first: gzip -d")
    shutil.copy(tmp_path / "t.tar.gz", path)
    refused(lambda: open_dataset(str(path)), "compressed")


def test_doubled_keys(tmp_path: Path) -> None:
    one = write(tmp_path / "1.tar", [("a.png", png()), ("b.png", png())])
    other = write(tmp_path / "2.tar", [("c.png", png()), ("a.jpg", png())])
    refused(lambda: Shards(f"{tmp_path}/{{1,2}}.tar"), "the key a is both", str(one), str(other))
    write(other, [("x/c.png", png()), ("x/c.seg.png", png())])
    refused(lambda: Shards(other), "2.tar: two images have the key x/c ")


def test_labels_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    write(path, [("a.png", png()), ("a.cls", b"3"), ("b.png", png()), ("c.png", png())])
    assert len(Shards(path)) == 3
    refused(lambda: LabeledShards(path), "2 of 3 images have no .cls", "b in t.tar")
    for bad in (b"cat", b"", b"-1", b"1.5", b"1_0", b"9" * 30, b"1000000", "\u0663".encode()):
        write(path, [("a.cls", bad), ("a.png", png())])
        refused(lambda: LabeledShards(path), "1 of 1 images have a .cls that holds no class index", "a in t.tar")
    write(path, [("a.png", png()), ("a.cls", b" 2\n")])
    assert LabeledShards(path).classes == ["0", "1", "2"]
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    refused(lambda: LabeledShards(path), "a is of class 2", "classes.txt", "2 lines")
    (tmp_path / "classes.txt").write_text("cat\ndog\ncat\n")
    refused(lambda: LabeledShards(path), "classes.txt: the class cat occurs twice")
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "u.tar", [("b.png", png()), ("b.cls", b"0")])
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\ncow\r\n")  # as Windows writes it
    assert LabeledShards(path).classes == ["cat", "dog", "cow"]
    refused(lambda: LabeledShards(f"{tmp_path}/{{t,more/u}}.tar"), "have different classes")


def test_shards_that_change_while_they_are_read(tmp_path: Path) -> None:
    def opened() -> tuple[Path, Shards]:
        path = write(tmp_path / "t.tar", [("a.png", png(1)), ("b.png", png(2)), ("bad.png", b"x")])
        return path, Shards(path)

    path, source = opened()
    with pytest.raises(ImageError, match=r"^bad: not an image"):
        source.read(2)
    path.unlink()  # a file that is open stays readable
    assert source.read(1).getpixel((0, 0)) == (2, 2, 2)
    path, source = opened()
    path.unlink()
    with pytest.raises(ImageError, match=r"^b: its shard t\.tar is gone since it was opened$"):
        source.read(1)
    path, source = opened()
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(ImageError, match=r"^a: its shard t\.tar changed since it was opened$"):
        source.read(0)
    path, source = opened()
    source.read(0)
    os.truncate(path, 600)
    with pytest.raises(ImageError, match=r"^b: its shard t\.tar was cut since it was opened$"):
        source.read(1)
    path, source = opened()
    path.unlink()
    path.mkdir()
    with pytest.raises(ImageError, match=r"^a: its shard t\.tar (changed|cannot be read)"):
        source.read(0)


# The kept index.


def test_index_is_kept_and_checked(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "t.tar", [("a.png", png(1)), ("b.png", png(2))])
    assert load_index(path) is None
    assert keys(Shards(path)) == ["a", "b"]
    [kept] = [path for path in cache.iterdir() if path.name != ".lock"]
    assert load_index(path) is not None
    write(path, [("c.png", png(1)), ("d.png", png(2))])  # as long as before
    assert load_index(path) is None
    assert keys(Shards(path)) == ["c", "d"]
    good = kept.read_bytes()
    for bad in (b"", good[:100], good[:-30], good.replace(b"offsets", b"offsetz"), b"\x80\x04N."):
        kept.write_bytes(bad)
        assert load_index(path) is None
        assert keys(Shards(path)) == ["c", "d"]
    assert kept.read_bytes() == good


def test_index_that_points_outside_is_not_believed(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "t.tar", [("a.png", png(1)), ("b.png", png(2))])
    index = build_index(path)
    beside = index_path(path)
    lies = {
        "offsets": np.array([512, 10**12]),
        "sizes": np.array([-1, 5]),
        "ends": np.array([9, 4]),
        "names": np.frombuffer(b"abcd", np.uint8),
        "labels": np.array([0, -9], np.int32),
        "hashes": index.hashes.astype(np.int64),
    }
    write_index_beside(path, index)
    table = read_table(beside, None)
    assert table is not None and load_index(path) is not None
    identity = unseal(beside.read_bytes().split(b"\n")[0].strip())["identity"]
    shutil.rmtree(cache)
    for name, lie in lies.items():
        write_table(beside, identity, {**table[0], name: lie}, table[1])
        assert load_index(path) is None, name
    write_table(beside, identity, table[0], {"files": {"x": -1}})
    assert load_index(path) is None
    write_table(beside, identity, *table)
    assert load_index(path) is not None


def test_an_index_beside_survives_a_copy(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "one").mkdir()
    path = write(tmp_path / "one" / "t.tar", [("a.png", png(1)), ("b.png", png(2))])
    write_index_beside(path, build_index(path))
    shutil.rmtree(cache)
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)
    assert keys(Shards(tmp_path / "two")) == ["a", "b"]
    assert not cache.exists()
    write(tmp_path / "two" / "t.tar", [("c.png", png(1)), ("d.png", png(2))])
    assert keys(Shards(tmp_path / "two")) == ["c", "d"]


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.tar", [("a.png", png(1))])
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert keys(Shards(path)) == keys(Shards(path)) == ["a"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert keys(Shards(path)) == ["a"]
    assert list((tmp_path / "home" / ".cache" / "pretint" / "shards").iterdir())


def test_index_is_compact(tmp_path: Path) -> None:
    count = 3000
    path = write(tmp_path / "t.tar", [(f"n01440764_{at:05}.jpg", b"x") for at in range(count)])
    source = Shards(path)
    held = source.__dict__.values()
    size = sum(thing.nbytes if isinstance(thing, np.ndarray) else len(thing) for thing in held if _is_block(thing))
    assert size <= count * (24 + 16) + 100
    assert not any(len(thing) > 10 for thing in held if isinstance(thing, (list, dict)))


def _is_block(thing: object) -> bool:
    return isinstance(thing, (np.ndarray, bytes))


# Many processes.


def test_workers_read_the_right_images(real: Path) -> None:
    source = Shards(f"{real}/{{val,train}}-0000.tar")
    source.read(0)  # the parent has a file open when the workers are forked
    some = range(3900, 3950)  # across the two files
    views = EvalDataset(source, 8)
    got = [batch.rgb.numpy() for batch in stream(views, some, 7, workers=2)]
    want = [batch.rgb.numpy() for batch in stream(views, some, 7, workers=0)]
    assert (np.concatenate(got) == np.concatenate(want)).all()


def _shade(source: Shards, index: int) -> tuple[str, int]:
    return source.key(index), np.asarray(source.read(index))[0, 0, 0]


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_few_shards_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretext.data.shards._OPEN", 3)
    for at in range(10):
        write(tmp_path / f"{at}.tar", [(f"{at}.png", png(at))])
    source = Shards(tmp_path)
    before = _descriptors()
    for _ in range(2):
        assert [_shade(source, at) for at in range(10)] == [(str(at), at) for at in range(10)]
    assert _descriptors() - before == 3
    copy = pickle.loads(pickle.dumps(source))
    assert _shade(copy, 7) == ("7", 7)
    del copy
    assert _descriptors() - before == 3
    with get_context("fork").Pool(2) as pool:
        assert pool.starmap(_shade, [(source, at) for at in range(10)]) == [(str(at), at) for at in range(10)]
