"""Every ending of the formats that are read is taken, from every kind of source; what is left out is said by ending."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretext.data import ClassFolder, Folder, ImageDataset, Shards, decode, formats, open_dataset
from pretext.data import scan as scan_module
from pretext.data.pack import PackSettings, pack
from pretext.errors import ImageError, UserError

ENDINGS = {
    "JPEG": "jpg jpeg jpe jfif JPG Jfif mpo", "PNG": "png apng", "WEBP": "webp", "TIFF": "tif tiff", "BMP": "bmp dib",
    "GIF": "gif", "PPM": "ppm pgm pbm pnm PGM", "JPEG2000": "jp2 j2k jpf jpx", "AVIF": "avif", "HEIF": "heic heif hif",
}  # fmt: skip
EVERY = [(kind, ending) for kind, endings in ENDINGS.items() for ending in endings.split()]


def content(kind: str, shade: int = 100) -> bytes:
    buffer = io.BytesIO()
    image = Image.new("RGB", (24, 16), (shade, shade, shade))
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.from_pillow(image).save(buffer)
    else:
        image.save(buffer, kind)
    return buffer.getvalue()


def keys(source: ImageDataset) -> list[str]:
    return [source.key(index) for index in range(len(source))]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(formats, "_printed", set())


@pytest.mark.parametrize(("kind", "ending"), EVERY)
def test_every_ending_from_every_source(tmp_path: Path, kind: str, ending: str) -> None:
    root = tmp_path / "set"
    (root / "a").mkdir(parents=True)
    (root / "a" / f"1.{ending}").write_bytes(content(kind))
    (tmp_path / "list.txt").write_text(f"a/1.{ending}\n")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(root / "a" / f"1.{ending}", f"a/1.{ending}")
    sources = [Folder(root), ClassFolder(root), open_dataset(f"list:{tmp_path / 'list.txt'}:{root}")]
    assert [keys(source) for source in sources] == [[f"a/1.{ending}"]] * 3
    sources.append(Shards(tmp_path / "set.tar"))
    for source in sources:
        assert source.read(0).getpixel((3, 3)) == pytest.approx((100, 100, 100), abs=4)  # type: ignore[arg-type]
    packed = pack(str(root), tmp_path / "packed", PackSettings(workers=0))
    assert packed.images == 1 and keys(Shards(tmp_path / "packed")) == ["a/1"]


def test_what_is_left_out_is_counted_by_ending(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "album"
    root.mkdir()
    names = ("a.txt", "b.TXT", "c.txt", "1.mov", "2.mov", "README", ".hidden.png", "x.\x1b[31m")
    for name in names:
        (root / name).touch()
    (root / "x.png").write_bytes(content("PNG"))
    Folder(root)
    line = f"{root}: 8 files left out: 3 .txt, 2 .mov, 2 without an ending, 1 hidden\n"
    assert capsys.readouterr().err == line
    Folder(root)
    assert capsys.readouterr().err == "", "once is enough"
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("a.txt", "x.png"):
            tar.add(root / name, name)
    for _ in range(2):  # the second time from the index that was kept
        formats._printed.clear()
        Shards(tmp_path / "s.tar")
        assert capsys.readouterr().err == f"{tmp_path / 's.tar'}: 1 file left out: 1 .txt\n"


def test_images_outside_the_class_folders_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/1.png", "loose.png"):
        (tmp_path / name).write_bytes(content("PNG"))
    assert keys(ClassFolder(tmp_path)) == ["a/1.png"]
    assert capsys.readouterr().err == f"{tmp_path}: 1 file left out: 1 in no class folder\n"


@pytest.fixture
def _without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tuple(ending for ending in formats.KNOWN if ending not in formats.HEIF)
    monkeypatch.setattr(formats, "ENDINGS", kept)
    monkeypatch.setitem(decode.__globals__, "ENDINGS", kept)
    monkeypatch.setattr(formats, "_ENDINGS", tuple(ending.encode() for ending in kept))


@pytest.mark.usefixtures("_without_heif")
def test_without_the_extra_for_heif(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "album"
    root.mkdir()
    (root / "1.HEIC").write_bytes(content("HEIF"))
    with pytest.raises(UserError, match=r"1 \.heic; to read \.heic: pip install 'pretint\[heif\]'"):
        Folder(root)
    (root / "2.png").write_bytes(content("PNG"))
    assert keys(Folder(root)) == ["2.png"]
    said = capsys.readouterr().err
    assert said == f"{root}: 1 file left out: 1 .heic; to read .heic: pip install 'pretint[heif]'\n"
    with pytest.raises(ImageError, match=r"1\.HEIC: is a HEIF image .*pip install 'pretint\[heif\]'"):
        decode((root / "1.HEIC").read_bytes(), "1.HEIC")


def test_a_kept_listing_of_other_rules_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "WORTH", 1)
    monkeypatch.setattr(scan_module, "_SETTLED", 0)
    root = tmp_path / "set"
    root.mkdir()
    for name in ("1.png", "2.jp2"):
        (root / name).touch()
    with monkeypatch.context() as old:  # as a version that knew fewer endings left it
        old.setattr(formats, "_ENDINGS", (b".png",))
        old.setattr(scan_module, "RULES", "older")
        assert keys(Folder(root)) == ["1.png"]
        assert len(list((tmp_path / "cache/pretint/folders").glob("[0-9a-f]*"))) == 1
    assert keys(Folder(root)) == ["1.png", "2.jp2"]


@pytest.mark.parametrize("turn", [3, 6, 8])
@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_phones_photographs_are_upright(kind: str, turn: int) -> None:
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:16] = 250
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x112] = turn
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.fromarray(pixels).save(buffer, kind, exif=exif.tobytes())
    image = np.asarray(decode(buffer.getvalue(), "x").convert("L")).astype(int)
    bright = {3: image[17:], 6: image[:, 17:], 8: image[:, :15]}[turn]
    assert image.shape == ((32, 64) if turn == 3 else (64, 32)) and bright.min() > 200 and image.mean() < 140
