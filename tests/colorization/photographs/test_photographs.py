"""Photographs in and out: depth, orientation, alpha, profiles and metadata are kept; bad files are said."""

import io
import struct
import warnings
import zlib
from functools import cache
from pathlib import Path
from typing import Any, get_args

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps
from skimage.color import lab2rgb, rgb2lab

from pretext.data.decode import decode
from pretext.errors import ImageError
from pretint.colorization.merge import Enlarged, merge_rows
from pretint.colorization.photographs import FORMATS, Format, is_signed, open_photograph, read, write_photograph
from pretint.colorization.photographs.profiles import srgb_profile

NO_COLOR = torch.zeros(1, 2, 2, 2)
AB = torch.tensor([[20.0, 20.0], [-30.0, -30.0]]).view(1, 2, 1, 2)
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def deep_png(samples: np.ndarray, exif: bytes = b"") -> bytes:
    """PNG of 16 bits by the specification, without filters."""
    height, width = samples.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[samples.shape[2] if samples.ndim == 3 else 1]

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    parts += [chunk(b"eXIf", exif)] if exif else []
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


def file_of(samples: np.ndarray, format: str, orientation: int) -> bytes:
    """A lossless image file of (H, W) or (H, W, 2 to 4), uint8 or uint16."""
    if samples.dtype == np.uint16 and format == "PNG":
        return deep_png(samples, oriented(orientation))
    buffer = io.BytesIO()
    if format == "TIFF":
        colors = samples.ndim == 3 and samples.shape[2] > 2
        extra = ["unassalpha"] if samples.ndim == 3 and samples.shape[2] in (2, 4) else None
        tifffile.imwrite(
            buffer, samples, photometric="rgb" if colors else "minisblack", extrasamples=extra,
            planarconfig="contig" if samples.ndim == 3 else None, extratags=[(274, "H", 1, orientation, True)],
        )  # fmt: skip
        return buffer.getvalue()
    more: dict[str, Any] = {"lossless": True, "exact": True} if format == "WEBP" else {}
    Image.fromarray(samples).save(buffer, format, exif=oriented(orientation), **more)
    return buffer.getvalue()


def defined(upright: np.ndarray, ab: np.ndarray) -> np.ndarray:
    most = np.iinfo(upright.dtype).max
    rgb = upright[..., :3] if upright.ndim == 3 and upright.shape[2] > 2 else upright.reshape(*upright.shape[:2], -1)
    rgb = np.repeat(rgb[..., :1], 3, 2) if rgb.shape[2] < 3 else rgb
    lab = rgb2lab(rgb / most)
    lab[..., 1:] = ab
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(lab2rgb(lab) * most)


@given(
    st.sampled_from(["PNG", "TIFF", "WEBP"]), st.sampled_from([np.uint8, np.uint16]), st.integers(1, 4),
    st.integers(1, 8), st.tuples(st.integers(1, 30), st.integers(1, 30)), st.integers(0, 2**20),
)  # fmt: skip
@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow])
def test_every_depth_mode_and_orientation(
    format: str, dtype: type, channels: int, orientation: int, shape: tuple[int, int], seed: int
) -> None:
    """The file of the result has the depth, alpha and upright pixels that the definition gives."""
    if format == "WEBP" and (dtype == np.uint16 or channels < 3):
        return
    if format == "TIFF" and dtype == np.uint16 and channels == 2:
        return  # gray with alpha of 16 bits: no TIFF that Pillow knows
    rng = np.random.default_rng(seed)
    full = shape if channels == 1 else (*shape, channels)
    samples = rng.integers(0, np.iinfo(dtype).max, full, dtype=dtype, endpoint=True)
    photograph = open_photograph(file_of(samples, format, orientation), "x")
    upright = UPRIGHT[orientation](samples)
    assert photograph.size == (upright.shape[1], upright.shape[0])
    assert photograph.bits == 8 * np.dtype(dtype).itemsize and not photograph.notes
    out = io.BytesIO()
    chosen: Format = {"PNG": "png", "TIFF": "tiff", "WEBP": "webp"}[format]  # type: ignore[assignment]
    assert not write_photograph(photograph, AB[..., :1], out, chosen)
    found = read_back(out.getvalue(), format)
    assert np.abs(found[..., :3] - defined(upright, np.array([20.0, -30.0]))).max() <= 0.51
    if channels in (2, 4) and not (format == "WEBP" and found.shape[2] == 3 and (upright[..., -1] == 255).all()):
        assert np.array_equal(found[..., 3], upright[..., -1])
    else:
        assert found.shape[2] == 3
    assert open_photograph(out.getvalue(), "y").size == photograph.size


def read_back(data: bytes, format: str) -> np.ndarray:
    """The pixels of a result, by other readers than those of the package where there are any."""
    if format == "WEBP":
        return np.asarray(Image.open(io.BytesIO(data)))
    if format == "TIFF":
        return np.asarray(tifffile.imread(io.BytesIO(data)))
    return np.asarray(imagecodecs.png_decode(data))


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    """A JPEG with all that a JPEG can say."""
    exif = Image.Exif()
    exif[271], exif[274], exif[33432] = "Camera", 6, "Somebody"
    exif.get_ifd(0x8769).update({36867: "1999:12:31 23:59:59", 40962: 60, 40963: 40, 40961: 65535, 37500: b"maker"})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 30.0)})
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>6</tiff:Orientation> caf\xc3\xa9</x:xmpmeta>'
    iptc = b"\xff\xed" + struct.pack(">H", 2 + 21) + b"Photoshop 3.0\0caption"
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 60), dtype=np.uint8))
    path = tmp_path / "rich.jpg"
    image.save(path, exif=exif, xmp=xmp, dpi=(300, 300), comment=b"a note", extra=iptc)
    return path


@pytest.mark.parametrize("format", get_args(Format))
def test_metadata_is_kept(rich: Path, tmp_path: Path, format: Format) -> None:
    photograph = open_photograph(rich)
    path = tmp_path / f"result{FORMATS[format]}"
    assert not write_photograph(photograph, AB, path, format)
    with Image.open(path) as result:
        result.load()
        exif = result.getexif()
        assert result.size == (40, 60) and result.mode == "RGB"
        assert exif[271] == "Camera" and exif[33432] == "Somebody" and exif.get(274, 1) == 1
        shown = exif.get_ifd(0x8769)
        assert shown[36867] == "1999:12:31 23:59:59" and shown[37500] == b"maker"
        assert (shown[40962], shown[40963], shown[40961]) == (40, 60, 1)
        assert exif.get_ifd(0x8825)[2] == (48.0, 51.0, 30.0)
        kept = result.info["xmp"]
        assert b">1</tiff:Orientation> caf\xc3\xa9" in (kept.encode() if isinstance(kept, str) else kept)
        assert result.info.get("icc_profile") is None, "it had none"
        if format != "webp":
            assert np.allclose(result.info["dpi"], 300, atol=0.01)
        if format == "jpeg":
            assert result.info["comment"] == b"a note"
            assert ("APP13", b"Photoshop 3.0\0caption") in result.applist  # type: ignore[attr-defined]
            assert [layer[1:3] for layer in result.layer] == [(1, 1)] * 3, "4:4:4"  # type: ignore[attr-defined]
    assert is_signed(path) and not is_signed(rich)


def test_tiffs_own_exif_is_kept_at_16_bits(rich: Path, tmp_path: Path) -> None:
    """From one TIFF to another: what described the storage of the old one is gone."""
    source = tmp_path / "x.tif"
    write_photograph(open_photograph(rich), AB, source, "tiff")
    for bits in (8, 16):
        photograph = open_photograph(source)
        if bits == 16:
            photograph.pixels = np.asarray(photograph.pixels).astype(np.uint16) * 257
        write_photograph(photograph, AB, tmp_path / "y.tif", "tiff")
        with tifffile.TiffFile(tmp_path / "y.tif") as opened:
            page = opened.pages.first
            assert page.asarray().dtype.itemsize * 8 == bits and page.tags[271].value == "Camera"
            assert page.tags[34665].value["DateTimeOriginal"] == "1999:12:31 23:59:59"
            assert len(opened.pages) == 1


@cache  # a profile holds the second in which it was made
def wide_profile() -> bytes:
    """A profile with the primaries of Adobe RGB."""
    return bytes(imagecodecs.cms_profile("adobergb"))


@cache
def gray_profile() -> bytes:
    """Gray with a gamma of 1.8."""
    return bytes(imagecodecs.cms_profile("gray", gamma=1.8))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_profile_is_kept_and_colors_are_computed_in_srgb(bits: int, tmp_path: Path) -> None:
    """Against LittleCMS by other hands there, and back: what the result's profile makes of its pixels is the joining in
    sRGB, to the rounding of 8 bits."""
    steps = np.linspace(0, 255, 18).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(54, 108, 3)
    if bits == 8:
        Image.fromarray(cube).save(tmp_path / "x.png", icc_profile=wide_profile())
    else:
        deep = cube.astype(np.uint16) * 257
        tifffile.imwrite(tmp_path / "x.tif", deep, photometric="rgb", iccprofile=wide_profile())
    photograph = open_photograph(tmp_path / ("x.png" if bits == 8 else "x.tif"))
    assert photograph.bits == bits and not photograph.notes
    transform = ImageCms.buildTransform(io.BytesIO(wide_profile()), ImageCms.createProfile("sRGB"), "RGB", "RGB")
    expected = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), transform))
    assert np.abs(photograph.rows(0, 54) / (1 if bits == 8 else 257) - expected).max() <= 1
    assert not write_photograph(photograph, AB, tmp_path / "y.png", "png")
    with Image.open(tmp_path / "y.png") as result:
        assert result.info["icc_profile"] == wide_profile()
    written = imagecodecs.png_decode((tmp_path / "y.png").read_bytes())
    assert written.dtype == (np.uint8 if bits == 8 else np.uint16)
    shown = imagecodecs.cms_transform(
        written, wide_profile(), srgb_profile(), colorspace="rgb", outcolorspace="rgb",
        flags=imagecodecs.CMS.FLAGS.NOOPTIMIZE,
    )  # fmt: skip
    joined = merge_rows(photograph.rows(0, 54), Enlarged(AB, photograph.size).rows(0, 54))
    assert np.abs(shown.astype(float) - joined).max() <= (3 if bits == 8 else 60)


def test_a_profile_that_only_reads_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LittleCMS makes no way back for it, as for those of some scanners."""
    build = ImageCms.buildTransform

    def refusing(source: Any, to: Any, *modes: str) -> Any:
        if isinstance(to, ImageCms.ImageCmsProfile):
            raise ImageCms.PyCMSError("cannot build transform")
        return build(source, to, *modes)

    monkeypatch.setattr(ImageCms, "buildTransform", refusing)
    Image.new("RGB", (8, 8), "teal").save(tmp_path / "x.png", icc_profile=wide_profile())
    photograph = open_photograph(tmp_path / "x.png")
    assert photograph.profile == srgb_profile() and "the result is in sRGB" in photograph.notes[0]


@pytest.mark.parametrize("colors", [1, 3])
def test_a_color_that_stands_for_transparency(colors: int, tmp_path: Path) -> None:
    """A PNG's tRNS, of 16 bits."""
    samples = np.random.default_rng(0).integers(0, 65536, (6, 5, colors), np.uint16)
    samples[2, 3] = samples[4, 1] = [40_000, 3, 777][:colors]
    plain = deep_png(samples[..., 0] if colors == 1 else samples, b"")
    key = b"tRNS" + struct.pack(f">{colors}H", *samples[2, 3])
    at = plain.index(b"IDAT") - 4
    file = plain[:at] + struct.pack(">I", 2 * colors) + key + struct.pack(">I", zlib.crc32(key)) + plain[at:]
    photograph = open_photograph(file)
    assert photograph.bits == 16 and photograph.alpha is not None
    assert np.array_equal(photograph.alpha_rows(0, 6) == 0, (samples == samples[2, 3]).all(-1))
    assert set(np.unique(photograph.alpha_rows(0, 6))) == {0, 65535}


@pytest.mark.parametrize(("kind", "alpha"), [("unspecified", False), ("assocalpha", True), ("unassalpha", True)])
def test_what_a_tiff_says_of_its_extra_channel(kind: str, alpha: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    straight, layer = rng.integers(0, 65536, (6, 5, 3)), rng.integers(20_000, 65536, (6, 5, 1))
    stored = straight * layer // 65535 if kind == "assocalpha" else straight
    file = np.concatenate((stored, layer), 2).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", file, photometric="rgb", extrasamples=[kind], planarconfig="contig")
    photograph = open_photograph(tmp_path / "x.tif")
    assert (photograph.alpha is not None) == alpha
    assert np.abs(photograph.rows(0, 6).astype(int) - straight).max() <= (4 if kind == "assocalpha" else 0)
    if alpha:
        assert np.array_equal(photograph.alpha_rows(0, 6), layer[..., 0])


def test_what_is_transparent_does_not_bleed() -> None:
    samples = np.zeros((40, 40, 4), np.uint8)
    samples[:, :20] = [255, 255, 255, 255]
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "PNG")
    small = np.asarray(open_photograph(buffer.getvalue()).reduced((7, 7)))
    assert small.min() == 255, "white beside what is transparent, and black under it, is white on white"


@pytest.mark.parametrize("bits", [8, 16])
def test_gray_profiles_too(bits: int, tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    if bits == 8:
        Image.fromarray(levels).save(tmp_path / "x.png", icc_profile=gray_profile())
    else:
        tifffile.imwrite(tmp_path / "x.png", levels.astype(np.uint16) * 257, iccprofile=gray_profile())
    photograph = open_photograph(tmp_path / "x.png")
    linear = (levels / 255) ** 1.8
    expected = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear) * 255
    assert photograph.bits == bits and photograph.profile == srgb_profile()
    assert np.abs(photograph.rows(0, 16) / (1 if bits == 8 else 257) - expected).max() <= 1.5


def test_a_profile_of_srgb_stays_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), "gray")
    image.save(tmp_path / "x.png", icc_profile=srgb_profile())
    photograph = open_photograph(tmp_path / "x.png")
    assert photograph.profile == srgb_profile() and not photograph.notes
    for wrong in (b"no profile", gray_profile()):
        image.save(tmp_path / "x.png", icc_profile=wrong)
        photograph = open_photograph(tmp_path / "x.png")
        assert not photograph.profile and "ignored" in photograph.notes[0]


def test_cmyk_palettes_and_bilevel(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    for mode, name in (
        ("CMYK", "x.jpg"),
        ("P", "x.png"),
        ("1", "x.tif"),
        ("1", "x.png"),
        ("L", "x.bmp"),
        ("P", "x.gif"),
    ):
        image.convert(mode).save(tmp_path / name)
        photograph = open_photograph(tmp_path / name)
        own = decode((tmp_path / name).read_bytes(), name)
        rows = photograph.rows(0, 20)
        assert np.array_equal(rows if rows.ndim == 3 else np.repeat(rows[..., None], 3, 2), np.asarray(own)), name


@pytest.mark.parametrize("bits", [8, 16])
def test_the_network_sees_what_it_was_trained_on(bits: int) -> None:
    """The reduced image is that of Pillow's own resizing, within rounding."""
    base = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    large = base.resize((611, 433), Image.Resampling.BICUBIC)
    samples = np.asarray(large) if bits == 8 else np.asarray(large).astype(np.uint16) * 257
    photograph = open_photograph(file_of(samples, "PNG", 1))
    expected = np.asarray(large.resize((64, 48), Image.Resampling.BICUBIC, reducing_gap=3.0)).astype(int)
    assert np.abs(np.asarray(photograph.reduced((64, 48))) - expected).max() <= (0 if bits == 8 else 4)
    assert photograph.seen((64, 48)).shape == (1, 1, 48, 64)


def test_what_is_transparent_is_white_to_the_network() -> None:
    samples = np.zeros((8, 8, 4), np.uint8)
    samples[:4, :, 3] = 255
    seen = open_photograph(file_of(samples, "PNG", 1)).seen((8, 8))[0, 0]
    assert float(seen[:3].max()) < 1 and float(seen[5:].min()) > 99


def refused(data: Path | bytes, said: str, **more: Any) -> None:
    with pytest.raises(ImageError, match=said) as error:
        open_photograph(data, "x", **more)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_bad_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = deep_png(np.random.default_rng(0).integers(0, 65536, (40, 50, 3), dtype=np.uint16))
    refused(b"", "empty file")
    refused(b"no image at all", "not an image")
    refused(b"\xff\xd8\xff\xe0 rest", "damaged|truncated")
    refused(good[: len(good) // 2], "truncated|damaged")
    jpeg = io.BytesIO()
    Image.effect_noise((200, 200), 50).save(jpeg, "JPEG")
    refused(jpeg.getvalue()[:2000], "truncated")
    refused(tmp_path / "nowhere.jpg", "cannot be read")
    frames = [Image.new("L", (5, 5), level).convert("RGB") for level in (0, 99, 200)]
    for format in ("GIF", "TIFF", "PNG", "WEBP"):
        moving = io.BytesIO()
        frames[0].convert("RGB").save(
            moving, format, save_all=True, append_images=[f.convert("RGB") for f in frames[1:]]
        )
        refused(moving.getvalue(), "holds 3 frames or pages")
        assert int(open_photograph(moving.getvalue(), first_frame=True).rows(0, 5).max()) < 10
    bomb = bytearray(deep_png(np.zeros((1, 1), np.uint16)))
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    refused(bytes(bomb), "3,600 megapixels.*raise --megapixels")
    monkeypatch.setattr(read, "available_memory", lambda device: 10_000)
    refused(good, "takes about .* GB of memory")


def test_no_file_is_written_that_the_format_cannot_hold(tmp_path: Path) -> None:
    clear = open_photograph(file_of(np.zeros((4, 4, 4), np.uint8), "PNG", 1))
    with pytest.raises(ImageError, match="partly transparent"):
        write_photograph(clear, AB, tmp_path / "x.jpg", "jpeg")
    long = open_photograph(file_of(np.zeros((1, 16_384), np.uint8), "PNG", 1))
    with pytest.raises(ImageError, match="at most 16,383"):
        write_photograph(long, AB, tmp_path / "x.webp", "webp")
    assert not list(tmp_path.iterdir())
    deep = open_photograph(deep_png(np.full((4, 4), 30_000, np.uint16)))
    assert write_photograph(deep, AB, tmp_path / "x.jpg", "jpeg") == [
        "jpeg has 8 bits: the 16 of the photograph were rounded"
    ]


def test_an_exif_block_too_long_for_a_jpeg_is_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[37500] = bytes(70_000)
    Image.new("RGB", (9, 9)).save(tmp_path / "x.webp", exif=exif)
    photograph = open_photograph(tmp_path / "x.webp")
    assert "its EXIF is too long" in write_photograph(photograph, AB, tmp_path / "x.jpg", "jpeg")[0]
    assert is_signed(tmp_path / "x.jpg")


def test_upright_as_pillow_turns(tmp_path: Path) -> None:
    """The table of this file's orientations is itself Pillow's."""
    image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10))
    for orientation, turn in UPRIGHT.items():
        image.save(tmp_path / "x.png", exif=oriented(orientation))
        with Image.open(tmp_path / "x.png") as opened:
            assert np.array_equal(np.asarray(ImageOps.exif_transpose(opened)), turn(np.asarray(image)))


@pytest.mark.parametrize(("mode", "profile", "space"), [("RGB", "wide", 65535), ("L", "gray", 1), ("RGB", "", 1)])
def test_the_color_space_that_exif_names_is_the_results(mode: str, profile: str, space: int) -> None:
    exif = Image.Exif()
    exif[271], exif.get_ifd(0x8769)[40961] = "Camera", 65535
    buffer, made = io.BytesIO(), {"wide": wide_profile(), "gray": gray_profile(), "": None}[profile]
    Image.new(mode, (8, 8), 120).save(buffer, "PNG", exif=exif, icc_profile=made)
    out = io.BytesIO()
    write_photograph(open_photograph(buffer.getvalue()), NO_COLOR, out, "png")
    with Image.open(out) as result:
        assert result.getexif().get_ifd(0x8769)[40961] == space
