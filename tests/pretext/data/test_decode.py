"""Every format and mode against its definition; damaged bytes against the promise of one error."""

import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from pretext.data import DECODER, decode
from pretext.data.decode import size_of
from pretext.errors import ImageError


def colors(width: int = 24, height: int = 16) -> np.ndarray[Any, Any]:
    """A smooth image in which every corner and side differs."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    image = decode(data, "k")
    assert image.mode == "RGB"
    assert image.info == {}
    return np.asarray(image)


def test_decoder_names_pillow() -> None:
    assert f"pillow {PIL.__version__}" == DECODER


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}),
                          ("WEBP", {"lossless": True})]
)  # fmt: skip
def test_lossless_formats_are_exact(kind: str, options: dict[str, Any]) -> None:
    assert (pixels(encoded(Image.fromarray(colors()), kind, **options)) == colors()).all()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_are_near(kind: str) -> None:
    got = pixels(encoded(Image.fromarray(colors()), kind, quality=95)).astype(int)
    assert np.abs(got - colors()).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG", "WEBP", "GIF"])
def test_one_pixel(kind: str) -> None:
    got = pixels(encoded(Image.new("RGB", (1, 1), (200, 200, 200)), kind))
    assert got.shape == (1, 1, 3)
    assert np.abs(got.astype(int) - 200).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_orientation(orientation: int, kind: str) -> None:
    want = colors()
    # What the camera stored, by the definition of the tag: row 0 / column 0 of the file is the named side.
    stored = {
        1: want, 2: want[:, ::-1], 3: want[::-1, ::-1], 4: want[::-1],
        5: want.transpose(1, 0, 2), 6: np.rot90(want, 1), 7: want[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(want, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exact = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    image = Image.fromarray(np.ascontiguousarray(stored))
    got = pixels(encoded(image, kind, exif=exif, **exact))
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want).max() <= (4 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(11))
def test_size_is_that_of_what_is_decoded(orientation: int, tmp_path: Path) -> None:
    path, exif = tmp_path / "a.jpg", Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path.write_bytes(encoded(Image.fromarray(colors()), "JPEG", exif=exif))
    assert size_of(path, "a") == decode(path.read_bytes(), "a").size
    assert size_of(path, "a") == ((16, 24) if orientation in (5, 6, 7, 8) else (24, 16))


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), (b"", "not an image"), (b"abc", "not an image")]
)
def test_size_of_what_is_no_image(content: bytes | None, reason: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=f"^a: .*{reason}") as caught:
        size_of(tmp_path / "a.jpg", "a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x63"]
)
@pytest.mark.filterwarnings("ignore")
def test_broken_exif_turns_nothing(exif: bytes) -> None:
    assert pixels(encoded(Image.fromarray(colors()), "JPEG", exif=exif)).shape == colors().shape


def test_cmyk_jpeg_is_as_pillow_converts_it() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 200, 100, 30))
    want = cmyk.convert("RGB").getpixel((0, 0))
    data = encoded(cmyk, "JPEG", quality=100)
    assert b"Adobe" in data  # stored inverted, as Adobe does
    assert np.abs(pixels(data).astype(int) - want).max() <= 2
    assert np.abs(pixels(encoded(cmyk, "TIFF")).astype(int) - want).max() == 0


def test_ycbcr_tiff() -> None:
    ycbcr = Image.fromarray(colors()).convert("YCbCr")
    assert (pixels(encoded(ycbcr, "TIFF")) == np.asarray(ycbcr.convert("RGB"))).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF"])
def test_palette(kind: str) -> None:
    indexed = Image.fromarray(colors()).quantize(16)
    assert (pixels(encoded(indexed, kind)) == np.asarray(indexed.convert("RGB"))).all()


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 128])])
def test_palette_with_transparency(transparency: int | bytes) -> None:
    indexed = Image.new("P", (3, 1))
    indexed.putpalette([10, 20, 30, 40, 50, 60, 100, 0, 0])
    indexed.putdata([0, 1, 2])
    third = [100, 0, 0] if isinstance(transparency, int) else [177, 127, 127]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = pixels(encoded(indexed, "PNG", transparency=transparency))
    assert got[0].tolist() == [[10, 20, 30], [255, 255, 255], third]


def test_one_bit() -> None:
    bits = (colors()[..., 0] > 100).astype(np.uint8) * 255
    for kind in ("PNG", "TIFF", "BMP"):
        assert (pixels(encoded(Image.fromarray(bits).convert("1"), kind)) == bits[..., None]).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_lies_on_white(mode: str, kind: str) -> None:
    color = colors()[..., :1] if mode == "LA" else colors()
    alpha = np.random.default_rng(0).integers(0, 256, (*color.shape[:2], 1), dtype=np.uint8)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    got = pixels(encoded(Image.fromarray(np.concatenate([color, alpha], -1), mode), kind, **options))
    want = 255 + (color.astype(float) - 255) * (alpha / 255)
    assert np.abs(got - want).max() <= 1


def test_transparent_color_of_png_lies_on_white() -> None:
    got = pixels(encoded(Image.fromarray(colors()), "PNG", transparency=tuple(colors()[3, 5].tolist())))
    want = colors()
    want[3, 5] = 255
    assert (got == want).all()


@pytest.mark.parametrize(
    ("kind", "mode", "dtype"),
    [("PNG", "I;16", "<u2"), ("TIFF", "I;16", "<u2"), ("TIFF", "I;16B", ">u2"), ("TIFF", "I", "<i4")],
)
def test_sixteen_bit_gray_is_divided_by_257(kind: str, mode: str, dtype: str) -> None:
    gray = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(dtype)
    data = encoded(Image.frombytes(mode, (64, 64), gray.tobytes()), kind)
    with Image.open(BytesIO(data)) as stored:
        assert stored.mode == mode
    got = pixels(data)
    assert (got == np.rint(gray.astype(float) / 257)[..., None]).all()


def test_sixteen_bit_tiff_with_white_at_zero() -> None:
    gray = np.arange(0, 65536, 16, dtype="<u2").reshape(64, 64)
    got = pixels(encoded(Image.fromarray(gray), "TIFF", tiffinfo={262: 0}))
    assert (got == np.rint((65535 - gray.astype(float)) / 257)[..., None]).all()


def test_sixteen_bit_rgb_png() -> None:
    # Pillow cannot write one: header, one filter byte per row, big-endian samples.
    wide = colors().astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in wide)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 24, 16, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert (pixels(b"\x89PNG\r\n\x1a\n" + parts) == colors()).all()


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.2, 0.4, 0.6], [51, 102, 153]),
        ([-1.0, 0.0, 3.0], [0, 64, 255]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([np.nan, np.inf, 1.0], [0, 0, 255]),
        ([7.0, 7.0, 7.0], [0, 0, 0]),
    ],
)
def test_float_tiff_is_scaled_not_clipped(values: list[float], want: list[int]) -> None:
    got = pixels(encoded(Image.fromarray(np.array([values], np.float32)), "TIFF"))
    assert got[0, :, 0].tolist() == want


def test_wide_integers_are_scaled_not_clipped() -> None:
    got = pixels(encoded(Image.fromarray(np.array([[-(2**30), 0, 2**30]], np.int32)), "TIFF"))
    assert got[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
def test_first_of_several_frames(kind: str) -> None:
    first, second = Image.new("RGB", (8, 8), "black"), Image.new("RGB", (8, 8), "white")
    assert (pixels(encoded(first, kind, save_all=True, append_images=[second])) == 0).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@given(width=st.integers(1, 300), height=st.integers(1, 300), shorter=st.integers(1, 320))
def test_shorter_side_stays_long_enough(mode: str, width: int, height: int, shorter: int) -> None:
    data = encoded(Image.new(mode, (width, height)), "JPEG")
    got = decode(data, "k", shorter)
    assert min(got.size) >= min(shorter, width, height)
    if min(width, height) >= 8 * shorter:
        assert got.size == (-(-width // 8), -(-height // 8))


def test_shorter_changes_no_lossless_image() -> None:
    assert decode(encoded(Image.new("RGB", (64, 64)), "PNG"), "k", shorter=8).size == (64, 64)


def test_real_images(shared_data: Path) -> None:
    files = sorted((shared_data / "imagenet-sample" / "images").iterdir())[::25]
    files += sorted((shared_data / "bw-historic").iterdir())
    assert len(files) > 40
    for file in files:
        data = file.read_bytes()
        full, small = decode(data, file.name), decode(data, file.name, shorter=64)
        with Image.open(file) as plain:  # none of these is turned or has a profile
            assert (np.asarray(full) == np.asarray(plain.convert("RGB"))).all()
        assert 64 <= min(small.size) <= min(full.size)
