"""Images of every format that is read are colored, end to end; and what a folder or pattern leaves out is said."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pretint.cli
from pretext.data import formats
from pretext.errors import UserError
from pretint.colorization import ColorizeSettings, colorize
from pretint.colorization.photographs import open_photograph


@pytest.fixture
def model(tmp_path: Path) -> str:
    """The quickest colorist: another image."""
    tint = np.zeros((32, 32, 3), np.uint8)
    tint[:, :16], tint[:, 16:] = (200, 120, 40), (40, 120, 200)
    Image.fromarray(tint).save(tmp_path / "tint.png")
    return f"reference:{tmp_path / 'tint.png'}"


@pytest.fixture(autouse=True)
def _told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_printed", set())


def gray(kind: str) -> bytes:
    ramp = np.tile(np.arange(40, 200, 4, dtype=np.uint8), (24, 1))
    buffer, image = io.BytesIO(), Image.fromarray(ramp)
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.from_pillow(image.convert("RGB")).save(buffer)
    else:
        image.save(buffer, kind, **({"quality": 95} if kind == "AVIF" else {}))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "kind", "result"),
    [
        ("a.jfif", "JPEG", "a.jfif"),
        ("a.JPE", "JPEG", "a.JPE"),
        ("a.mpo", "JPEG", "a.jpg"),
        ("a.apng", "PNG", "a.png"),
        ("a.pgm", "PPM", "a.png"),
        ("a.ppm", "PPM", "a.png"),
        ("a.jp2", "JPEG2000", "a.png"),
        ("a.avif", "AVIF", "a.png"),
        ("a.heic", "HEIF", "a.png"),
        ("a.gif", "GIF", "a.png"),
        ("a.dib", "BMP", "a.png"),
    ],
)
def test_from_end_to_end(tmp_path: Path, model: str, name: str, kind: str, result: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(gray(kind))
    for given in (folder, folder / name):
        done = colorize(model, [given], ColorizeSettings(out=tmp_path / f"out-{given.name}", sheet=False))
        assert [path.name for path in done.written] == [result] and not done.skipped
        with Image.open(done.written[0]) as image:
            assert image.format == ("JPEG" if kind == "JPEG" else "PNG") and image.size == (40, 24)
            pixels = np.asarray(image.convert("RGB")).astype(int)
        assert np.ptp(pixels, axis=2).max() > 8, "it has colors"
        ramp = np.asarray(Image.fromarray(pixels.astype(np.uint8)).convert("L")).astype(int)[12]
        assert (np.diff(ramp[::6]) > 0).all(), "and the lightness of the image"


def test_a_folder_says_what_it_left_out(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    album = tmp_path / "album"
    (album / "@eaDir" / "1.png").mkdir(parents=True)
    (album / "1.png").write_bytes(gray("PNG"))
    (album / "@eaDir" / "1.png" / "SYNOPHOTO_THUMB_M.png").write_bytes(gray("PNG"))
    for name in ("a.txt", "b.mov", "Thumbs.db"):
        (album / name).touch()
    end = "3 files left out: 1 .mov, 1 .txt, 1 Thumbs.db; 1 folder left out: 1 @eaDir\n"
    assert pretint.cli.main(["colorize", model, str(album), "--out", str(tmp_path / "out"), "--sheet", "no"]) == 0
    assert f"{album}: {end}" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").glob("**/[!.]*.png")] == ["1.png"]


def test_a_pattern_leaves_out_what_a_system_made(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    album = tmp_path / "scan[1940]"
    (album / "@eaDir").mkdir(parents=True)
    for name in ("1.png", "@eaDir/2.png", "Thumbs.db"):
        (album / name).write_bytes(gray("PNG"))
    settings = ColorizeSettings(out=tmp_path / "out", sheet=False)
    for pattern in ("*", "**/*"):
        assert [path.name for path in colorize(model, [album / pattern], settings).written] == ["1.png"]
        said = capsys.readouterr().err
        assert f"{album / pattern}: 1 file left out: 1 Thumbs.db; 1 folder left out: 1 @eaDir\n" in said
    for given in (album / "@eaDir" / "*.png", album / "@eaDir"):
        done = colorize(model, [given], ColorizeSettings(out=tmp_path / "other", sheet=False))
        assert [path.name for path in done.written] == ["2.png"], "what is named is taken"


def test_a_pattern_says_what_is_no_file(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    counts = "2 files left out: 1 broken link, 1 pipe, socket or device\n"
    settings = ColorizeSettings(out=tmp_path / "out", sheet=False)
    with pytest.raises(UserError, match=r"p\*\.png: no file matches this pattern"):
        colorize(model, [tmp_path / "p*.png"], settings)
    assert capsys.readouterr().err.startswith(f"{tmp_path}/p*.png: 1 file left out: 1 pipe, socket or device\n")
    (tmp_path / "a.png").write_bytes(gray("PNG"))
    done = colorize(model, [tmp_path / "[!t]*.png"], settings)
    assert [path.name for path in done.written] == ["a.png"]
    assert f"{tmp_path}/[!t]*.png: {counts}" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "bits", "deep"), [("x.pgm", 16, True), ("x.ppm", 16, False), ("x.ppm", 8, False)])
def test_depth_of_netpbm(name: str, bits: int, deep: bool) -> None:
    channels = 1 if name == "x.pgm" else 3
    values = np.arange(40 * channels, dtype=np.uint32) * (500 if bits == 16 else 2)
    data = f"P{5 if channels == 1 else 6} 8 5 {2**bits - 1}\n".encode()
    photograph = open_photograph(data + values.astype(">u2" if bits == 16 else "u1").tobytes(), name)
    assert photograph.bits == (16 if deep else 8)
    assert photograph.notes == (["of its 16 bits a channel, 8 were read"] if bits == 16 and not deep else [])
    most = 65535 if deep else 255
    want = values.reshape(photograph.rows(0, 5).shape) * most / (2**bits - 1)
    assert np.abs(photograph.rows(0, 5) - want).max() <= 0.5


@pytest.mark.parametrize("kind", ["jp2", "avif"])
def test_depth_of_what_pillow_reads_with_8_bits(kind: str) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    values = (np.arange(64 * 48 * 3, dtype=np.uint32).reshape(48, 64, 3) * 7 % 1024).astype(np.uint16)
    encode = {"jp2": imagecodecs.jpeg2k_encode, "avif": imagecodecs.avif_encode}[kind]
    photograph = open_photograph(encode(values, bitspersample=10), f"x.{kind}")
    assert photograph.bits == 8 and photograph.notes == ["of its 10 bits a channel, 8 were read"]
