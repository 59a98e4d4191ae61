"""Every layout of channels, type and format against what was written."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import tifffile._imagecodecs as fallback_codecs
from PIL import ExifTags, Image
from plane_files import (
    BANDS,
    CHW,
    CONTIG,
    GRAY,
    HEIGHT,
    HWC,
    LAYOUTS,
    RGB,
    WIDTH,
    encoded,
    expect_error,
    expect_planes,
    interlaced,
    noise,
    npy,
    npz,
    png,
    tiff,
    tiff_pages,
)

from pretext.data.planes import read_planes

# TIFF


def test_planar_and_contiguous_rgb_of_16_bits() -> None:
    expect_planes(tiff(CONTIG, photometric="rgb"), CONTIG, RGB)
    expect_planes(tiff(CHW[:3], photometric="rgb", planarconfig="separate"), CONTIG, RGB)
    expect_planes(tiff(HWC, photometric="rgb", extrasamples=["unspecified"]), HWC, BANDS)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pages_are_channels(layout: str, order: str) -> None:
    expect_planes(tiff(CHW, photometric="minisblack", byteorder=order, **LAYOUTS[layout]), HWC, BANDS)


def test_pages_without_metadata_are_channels() -> None:
    expect_planes(tiff_pages(*CHW), HWC, BANDS)
    expect_planes(tiff_pages(*CHW, compression="zlib"), HWC, BANDS)
    expect_planes(tiff_pages(CHW[0]), HWC[..., :1], GRAY)


@pytest.mark.parametrize("bands", [1, 2, 5, 13])
def test_an_array_without_names_of_axes_is_channels_first_or_last(bands: int) -> None:
    image = noise(HEIGHT, WIDTH, bands)
    names = tuple(f"b{band}" for band in range(bands))
    expect_planes(tiff(image, photometric="minisblack"), image, names)  # HEIGHT pages of (WIDTH, bands)
    expect_planes(tiff(np.moveaxis(image, -1, 0), photometric="minisblack"), image, names)


@pytest.mark.parametrize("axes", ["CYX", "ZYX", "TYX", "SYX", "IYX", "QYX"])
def test_any_one_axis_is_the_channels(axes: str) -> None:
    expect_planes(tiff(CHW, photometric="minisblack", metadata={"axes": axes}), HWC, BANDS)


@pytest.mark.parametrize("ome", [True, False])
def test_axes_of_length_1_do_not_count(ome: bool) -> None:
    image = CHW[None, :, None]
    expect_planes(tiff(image, photometric="minisblack", ome=ome, metadata={"axes": "TCZYX"}), HWC, BANDS)
    expect_planes(tiff(image[:, :1], photometric="minisblack", ome=ome, metadata={"axes": "TCZYX"}), HWC[..., :1], GRAY)


DTYPES = ("bool", "uint8", "uint16", "int8", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32")


@pytest.mark.parametrize("dtype", [*DTYPES, "float64"])
def test_types(dtype: str) -> None:
    image = noise(4, HEIGHT, WIDTH, dtype=dtype)
    want = np.moveaxis(image, 0, -1).astype({"bool": "u1", "uint8": "u1", "uint16": "u2"}.get(dtype, "f4"))
    for order in "<>":
        expect_planes(tiff(image, photometric="minisblack", byteorder=order), want, BANDS)
        expect_planes(npy(image.astype(image.dtype.newbyteorder(order))), want, BANDS)
    expect_planes(npz(image=image), want, BANDS)


def test_values_beyond_float32_and_no_numbers_stay_what_they_are() -> None:
    image = np.array([[[1e300, -1e300, np.nan, np.inf, -np.inf, 0.1]]]).reshape(2, 3)
    with np.errstate(all="ignore"):
        want = image.astype(np.float32)[..., None]
    with warnings.catch_warnings(action="error"):
        expect_planes(npy(image), want, GRAY)
        expect_planes(tiff(image), want, GRAY)
    assert np.isinf(want[0, 0, 0])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "uint32"])
def test_white_is_zero_is_inverted(dtype: str) -> None:
    image = noise(HEIGHT, WIDTH, dtype=dtype)
    want = ~image if dtype == "bool" else np.iinfo(dtype).max - image
    want = want.astype({"bool": "u1", "uint32": "f4"}.get(dtype, dtype))[..., None]
    expect_planes(tiff(image, photometric="miniswhite"), want, GRAY)


def test_white_is_zero_of_12_bits_and_of_floats() -> None:
    image = noise(HEIGHT, 32) >> 4
    expect_planes(tiff(image, photometric="miniswhite", bitspersample=12), 4095 - image[..., None], GRAY)
    signed = noise(HEIGHT, WIDTH, dtype="float32")
    expect_planes(tiff(signed, photometric="miniswhite"), signed[..., None], GRAY)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int) -> None:
    # What the camera stored, as in test_decode: row 0 / column 0 of the file is the named side.
    stored = {
        1: HWC, 2: HWC[:, ::-1], 3: HWC[::-1, ::-1], 4: HWC[::-1],
        5: HWC.transpose(1, 0, 2), 6: np.rot90(HWC, 1), 7: HWC[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(HWC, -1),
    }[orientation]  # fmt: skip
    tags = [(274, "H", 1, orientation, True)]
    expect_planes(tiff(np.moveaxis(stored, -1, 0), photometric="minisblack", extratags=tags), HWC, BANDS)
    expect_planes(png(stored[..., :3], exif=orientation), CONTIG, RGB)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    small = (stored[..., :3] >> 8).astype(np.uint8)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        expect_planes(encoded(Image.fromarray(small), kind, exif=exif, **options), (CONTIG >> 8).astype(np.uint8), RGB)


@pytest.mark.parametrize("ome", [True, False])
def test_pyramids_and_thumbnails_are_left_out(ome: bool) -> None:
    out = io.BytesIO()
    with tifffile.TiffWriter(out, ome=ome) as writer:
        options: dict[str, Any] = {"photometric": "minisblack", "metadata": {"axes": "CYX"}}
        writer.write(CHW, subifds=2, **options)
        for step in (2, 4):
            writer.write(CHW[:, ::step, ::step], subfiletype=1, **options)
    expect_planes(out.getvalue(), HWC, BANDS)
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:  # as GDAL writes overviews and a mask
        writer.write(CONTIG, photometric="rgb", metadata=None)
        writer.write(CONTIG[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
        writer.write(CONTIG[..., 0] > 9, photometric="mask", subfiletype=4, metadata=None)
    expect_planes(out.getvalue(), CONTIG, RGB)


def test_geotiff() -> None:
    tags = [(33550, "d", 3, (10.0, 10.0, 0.0), True), (34735, "H", 4, (1, 1, 0, 0), True), (42113, "s", 0, "0", True)]
    image = noise(HEIGHT, WIDTH, 4, dtype="float32")
    data = tiff(image, photometric="minisblack", planarconfig="contig", extratags=tags, metadata=None)
    expect_planes(data, image, BANDS)


def test_pages_of_mixed_depth_or_shape() -> None:
    names = ("a", "b")
    expect_error(tiff_pages(CHW[0], CHW[1].astype(np.uint8)), names, "mixed", "(21, 34) uint16 and (21, 34) uint8")
    expect_error(tiff_pages(CHW[0], CHW[1, :-1]), names, "mixed", "(20, 34) uint16 and (21, 34) uint16")


def test_several_planes_beside_the_channels() -> None:
    image = noise(2, 3, HEIGHT, WIDTH)
    shape = f"(2, 3, {HEIGHT}, {WIDTH})"
    for options in ({"ome": True}, {"imagej": True}, {}):
        data = tiff(image, photometric="minisblack", metadata={"axes": "ZCYX"}, **options)
        expect_error(data, RGB, "ZCYX", shape, "only Y, X and one more")
    expect_error(tiff(image, photometric="minisblack"), RGB, shape, "(C, H, W)")
    two = tiff(np.moveaxis(image, 1, -1), photometric="rgb")
    expect_error(two, RGB, f"(2, {HEIGHT}, {WIDTH}, 3)")


def test_several_images() -> None:
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        writer.write(CHW, photometric="minisblack")
        writer.write(CHW[:2], photometric="minisblack")
    expect_error(out.getvalue(), BANDS, "2 images", f"(4, {HEIGHT}, {WIDTH}) and (2, {HEIGHT}, {WIDTH})")


def test_another_number_of_channels() -> None:
    named = tiff(CHW, photometric="minisblack", metadata={"axes": "CYX"})
    for data in (named, tiff_pages(*CHW), npz(image=CHW), npy(CHW)):
        expect_error(data, RGB, "(4, 21, 34)", "the 3 channels red, green, blue")
    expect_error(tiff(CONTIG, photometric="rgb"), GRAY, "has 3 channels (shape (21, 34, 3)); expected 1 channel, gray")
    expect_error(npy(CHW[0]), RGB, "has 1 channel (shape (21, 34)); expected the 3 channels")
    many = tuple(f"b{band}" for band in range(100))
    assert len(expect_error(npy(CHW[0]), many, "100 channels b0, b1, b2, b3, b4, b5, b6, b7 and 92 more")) < 150


def test_a_compression_that_needs_imagecodecs(monkeypatch: pytest.MonkeyPatch) -> None:
    lzw, deflate = (tiff(CHW, photometric="minisblack", compression=name) for name in ("lzw", "zlib"))
    monkeypatch.setattr(tifffile.tifffile, "imagecodecs", fallback_codecs)
    for mapping in (tifffile.TIFF.DECOMPRESSORS, tifffile.TIFF.UNPREDICTORS):
        monkeypatch.setattr(mapping, "_codecs", {1: mapping[1]})
    expect_error(lzw, BANDS, "LZW compression needs imagecodecs: pip install 'pretint[color]'")
    expect_planes(deflate, HWC, BANDS)


def test_a_rare_compression_is_said() -> None:
    data = tiff(noise(64, 64, dtype="uint8"), compression="jpegxr")
    expect_error(data, GRAY, "JPEGXR", "deflate")
    assert read_planes(tiff(noise(64, 64, dtype="uint8"), compression="jpeg"), "k", GRAY).shape == (64, 64, 1)


# NPY and NPZ


def test_npy_layouts() -> None:
    expect_planes(npy(CHW), HWC, BANDS)
    expect_planes(npy(HWC), HWC, BANDS)
    expect_planes(npy(np.asfortranarray(HWC)), HWC, BANDS)
    expect_planes(npy(CHW[0]), HWC[..., :1], GRAY)
    expect_planes(npy(CHW[:1]), HWC[..., :1], GRAY)
    expect_planes(npy(HWC[..., :1]), HWC[..., :1], GRAY)
    both = noise(4, 5, 4)
    expect_planes(npy(both), both, BANDS)  # the last axis, if both fit


@pytest.mark.parametrize("compress", [False, True])
def test_npz(compress: bool) -> None:
    expect_planes(npz(compress, anything=CHW), HWC, BANDS)
    expect_planes(npz(compress, anything=HWC), HWC, BANDS)
    expect_planes(npz(compress, anything=CHW[0]), HWC[..., :1], GRAY)
    named = dict(zip(BANDS, CHW, strict=True))
    expect_planes(npz(compress, label=np.zeros(3), **named), HWC, BANDS)
    expect_planes(npz(compress, **named), HWC[..., [2, 0]], ("B04", "B02"))
    expect_error(npz(compress, **named), ("B02", "B11"), "without an array B11; it has B02, B03, B04, B08")
    names = ("a", "b")
    expect_error(npz(compress, a=CHW[0], b=CHW[1, :-1]), names, "(20, 34) uint16 and (21, 34) uint16; expected (H, W)")
    expect_error(npz(compress, a=CHW[0], b=CHW[1] > 9), names, "(21, 34) bool and (21, 34) uint16")
    expect_error(npz(compress, a=CHW[:1], b=CHW[:1]), names, "(1, 21, 34) uint16; expected (H, W)")


# PNG and what Pillow reads


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_png_of_any_channels(bits: int, count: int) -> None:
    image = HWC[..., :count] if bits == 16 else (HWC[..., :count] >> 8).astype(np.uint8)
    smooth = np.cumsum(image, 1, dtype=image.dtype)  # so that the encoder takes other filters
    for pixels in (image, smooth // 7, smooth * 0):
        data = png(pixels[..., 0] if count == 1 else pixels)
        expect_planes(data, pixels, BANDS[:count])
        expect_error(data, ("a", "b", "c", "d", "e"), f"has {count} channel", "the 5 channels")
        if len(data) > 200:
            expect_error(data[:-60], BANDS[:count], "truncated: ")


@pytest.mark.parametrize("count", [2, 3, 4])
def test_interlaced_png_of_16_bits(count: int) -> None:
    expect_planes(interlaced(HWC[..., :count]), HWC[..., :count], BANDS[:count])


def test_png_of_few_bits_and_palette() -> None:
    gray = Image.fromarray((HWC[..., 0] >> 8).astype(np.uint8))
    bilevel = gray.convert("1")
    expect_planes(encoded(bilevel, "PNG"), np.asarray(bilevel.convert("L"))[..., None], GRAY)
    indexed = Image.fromarray((CONTIG >> 8).astype(np.uint8)).quantize(16)
    expect_planes(encoded(indexed, "PNG"), np.asarray(indexed.convert("RGB")), RGB)
    expect_planes(encoded(indexed, "GIF"), np.asarray(indexed.convert("RGB")), RGB)


def test_what_pillow_reads() -> None:
    rgb = Image.fromarray((CONTIG >> 8).astype(np.uint8))
    gray, wide = rgb.convert("L"), Image.fromarray(HWC[..., 0])
    for kind in ("BMP", "PPM", "JPEG2000"):
        expect_planes(encoded(rgb, kind), np.asarray(rgb), RGB)
        expect_planes(encoded(gray, kind), np.asarray(gray)[..., None], GRAY)
    for kind in ("PPM", "JPEG2000", "PNG"):
        expect_planes(encoded(wide, kind), HWC[..., :1], GRAY)
    floats = noise(5, 6, dtype="float32")
    expect_planes(encoded(Image.fromarray(floats), "PPM"), floats[..., None], GRAY)
    jpeg = encoded(gray, "JPEG")
    assert read_planes(jpeg, "k", GRAY).shape == (HEIGHT, WIDTH, 1)
    expect_error(jpeg, RGB, "has 1 channel (shape (21, 34)); expected the 3 channels red, green, blue")
    assert read_planes(encoded(rgb.convert("CMYK"), "JPEG"), "k", RGB).shape == (HEIGHT, WIDTH, 3)
    transparent = Image.new("RGBA", (4, 5), (0, 0, 0, 0))
    expect_planes(encoded(transparent, "WEBP", lossless=True), np.full((5, 4, 3), 255, np.uint8), RGB)
    expect_planes(encoded(transparent, "PNG"), np.zeros((5, 4, 4), np.uint8), BANDS)


# Real files


def test_real_fluorescence(shared_data: Path) -> None:
    for name, count in (("neocortex-3Ch", 3), ("neuron-4Ch", 4)):
        file = shared_data / "multichannel" / f"{name}.tiff"
        expect_planes(file.read_bytes(), np.moveaxis(tifffile.imread(file), 0, -1), BANDS[:count])


def test_real_satellite_patches(shared_data: Path) -> None:
    files = sorted((shared_data / "multichannel" / "sentinel2-4band").iterdir())
    assert len(files) == 25
    for file in files:
        expect_planes(file.read_bytes(), np.moveaxis(np.load(file), 0, -1), BANDS)


def test_real_label_maps(shared_data: Path) -> None:
    for file in sorted((shared_data / "nuclei" / "labels").iterdir())[::10]:
        with Image.open(file) as image:
            assert image.mode == "I;16"
            expect_planes(file.read_bytes(), np.asarray(image)[..., None], GRAY)
