"""Truncated, damaged and hostile images of any channels against the promise of one error, in little memory."""

import io
import logging
import pickle
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from plane_files import (
    BANDS,
    CHW,
    FEW,
    GRAY,
    HEIGHT,
    HWC,
    LAYOUTS,
    RGB,
    WIDTH,
    dicom,
    encoded,
    expect_error,
    expect_planes,
    interlaced,
    noise,
    npy,
    npy_header,
    npz,
    patch_tag,
    peak_memory,
    png,
    tiff,
    tiff_pages,
    zip_file,
)
from pydicom.uid import ImplicitVRLittleEndian

from pretext.data.packed_tiff import read_packed, write_packed
from pretext.data.planes import read_planes
from pretext.errors import ImageError


@pytest.mark.parametrize("layout", ["plain", "no metadata", "one strip a row", "tiles", "deflate", "OME", "ImageJ"])
def test_a_tiff_whose_end_is_missing(layout: str) -> None:
    data = tiff(CHW, photometric="minisblack", **LAYOUTS[layout])
    for size in (len(data) * 3 // 4, len(data) // 2, 400, 100, 8):
        expect_error(data[:size], BANDS)


@pytest.mark.parametrize("layout", ["plain", "one strip a row", "tiles", "deflate", "OME"])
def test_a_tiff_that_promises_more_than_it_has(layout: str) -> None:
    data = tiff(CHW[0], photometric="minisblack", byteorder="<", **{**LAYOUTS[layout], "metadata": None, "ome": False})
    taller = patch_tag(data, 257, 60_000)
    assert peak_memory(lambda: expect_error(taller, GRAY)) < FEW
    assert peak_memory(lambda: expect_error(patch_tag(taller, 256, 60_000), GRAY)) < FEW


def test_a_tiff_of_too_many_pixels() -> None:
    data = tiff(CHW[0], byteorder="<", metadata=None)
    for tag in (256, 257, 278):
        data = patch_tag(data, tag, 60_000)
    assert peak_memory(lambda: expect_error(data, GRAY, "too large: more than")) < FEW


def test_a_tile_that_is_larger_than_any_image() -> None:
    data = tiff(CHW[0], tile=(16, 16), compression="zlib", byteorder="<", metadata=None)
    for tag in (322, 323):
        data = patch_tag(data, tag, 60_000)
    assert peak_memory(lambda: expect_error(data, GRAY, "too large")) < FEW


def test_a_circle_of_pages() -> None:
    data = bytearray(tiff_pages(*(CHW[0, :1, :1] for _ in range(150))))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        first, last = file.pages[0].offset, file.pages[149]
        end = last.offset + 2 + 12 * len(last.tags)
    data[end : end + 4] = first.to_bytes(4, sys.byteorder)
    expect_error(bytes(data), GRAY, "more than 4096 pages")


def ome(xml: str) -> bytes:
    text = f'<?xml version="1.0"?><OME><Image ID="Image:0">{xml}</Image></OME>'
    return tiff(CHW[0], photometric="minisblack", description=text, metadata=None)


PIXELS = '<Pixels DimensionOrder="XYCZT" SizeX="34" SizeY="21" SizeC="{}" SizeZ="{}" SizeT="1">{}</Pixels>'
OME_XML = {
    "channels": (PIXELS.format(3, 1, "<TiffData/>"), "promises 2142 values, and it has 714"),
    "very many planes": (PIXELS.format(10**9, 10**9, "<TiffData/>"), "promises"),
    "negative sizes": (PIXELS.format(-(10**9), -1, "<TiffData/>"), "promises"),
    "a long list": (PIXELS.format(1, 1, '<TiffData IFD="0" PlaneCount="999999999"/>'), "promises"),
    "modulo": (PIXELS.format(1, 1, "<TiffData/>") + '<ModuloAlongC Start="0" End="1e12"/>', "modulo"),
}


@pytest.mark.parametrize("case", OME_XML)
def test_ome_xml_that_promises_too_much(case: str) -> None:
    xml, reason = OME_XML[case]
    assert peak_memory(lambda: expect_error(ome(xml), GRAY, reason)) < FEW


def test_ome_xml_that_names_another_file(tmp_path: Path) -> None:
    other = tmp_path / "other.ome.tif"
    other.write_bytes(tiff(CHW[1]))
    unit = f'<TiffData IFD="0" FirstC="0"><UUID FileName="{other}">urn:uuid:7</UUID></TiffData>'
    expect_planes(ome(PIXELS.format(1, 1, unit)), HWC[..., :1], GRAY)  # it is not opened
    expect_error(ome(PIXELS.format(3, 1, unit)), RGB, "truncated, or one of several files")


def test_ome_xml_with_an_order_of_pages() -> None:
    units = "".join(
        f'<TiffData IFD="{ifd}" FirstC="{channel}" PlaneCount="1"/>' for channel, ifd in enumerate((2, 0, 1))
    )
    text = f'<OME><Image ID="Image:0">{PIXELS.format(3, 1, units)}</Image></OME>'
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        for page in range(3):
            writer.write(CHW[page], photometric="minisblack", metadata=None, description=text if page == 0 else None)
    expect_planes(out.getvalue(), HWC[..., [2, 0, 1]], RGB)


BAD_NPY: dict[str, tuple[bytes, str]] = {
    "neither axis": (npy(noise(64, 4, 64)), "shape (64, 4, 64): neither its first nor its last axis holds the 4"),
    "one axis": (npy(noise(64)), "shape (64,)"),
    "four axes": (npy(noise(1, 4, 6, 6)), "shape (1, 4, 6, 6); expected (H, W), (H, W, C) or (C, H, W)"),
    "none": (npy(noise(1)[0]), "shape ()"),
    "empty": (npy(noise(0, 5, 4)), "no pixels: shape (0, 5, 4)"),
    "negative": (npy_header((-3, -5, 4)) + bytes(240), "no pixels: shape (-3, -5, 4)"),
    "complex": (npy(np.ones((5, 5, 4), complex)), "type complex128"),
    "objects": (npy(np.full((5, 5, 4), None)), "type object"),
    "text": (npy(np.full((5, 5, 4), "a")), "type str32"),
    "dates": (npy(np.zeros((5, 5, 4), "M8[s]")), "type datetime64[s]"),
    "records": (npy(np.zeros((5, 5, 4), "u1, u1")), "type void16"),
    "truncated": (npy(HWC)[:-1], f"truncated: shape (21, 34, 4) of uint16 is {HWC.nbytes} bytes; the file has"),
    "many": (npy_header((60_000, 60_000, 4)), "too large: more than"),
    "long": (npy_header((8000, 8000, 4)), "truncated: "),
    "version 2": (b"\x93NUMPY\2\0" + b"\xff" * 40, "version 2.0; save it with numpy.save"),
    "no dictionary": (b"\x93NUMPY\1\0\4\0abcd", "damaged: "),
    "deep": (b"\x93NUMPY\1\0\x10\x27" + b"-" * 10_000, "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_NPY)
def test_bad_npy(case: str) -> None:
    data, reason = BAD_NPY[case]
    expect_error(data, BANDS, reason)
    if len(data) < 1000:
        assert peak_memory(lambda: expect_error(data, BANDS, reason)) < FEW
    if not case.startswith(("version", "no dict", "deep")):
        expect_error(zip_file(data), BANDS, reason)


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("import sys; sys.exploded = True",)


def test_no_pickle_is_loaded() -> None:
    array = np.empty((5, 5, 4), object)
    array[:] = Bomb()
    for data in (npy(array), npz(image=array), npz(**dict.fromkeys(BANDS, array[..., 0])), pickle.dumps(Bomb())):
        expect_error(data, BANDS)
    assert not hasattr(sys, "exploded")


def test_zip_bombs_are_not_inflated() -> None:
    zeros = bytes(12_000_000)
    longer = zip_file(npy_header((5, 5, 4)) + zeros)
    assert peak_memory(lambda: read_planes(longer, "k", BANDS)) < FEW  # what an array does not need is not read
    bombs = {
        "too large": zip_file(npy_header((60_000, 60_000, 4)) + zeros),
        "truncated": zip_file(npy_header((8000, 8000, 4)) + zeros),
        "version 2.0": zip_file(b"\x93NUMPY\2\0\xff\xff\xff\x02" + zeros),
        "no NPZ": zip_file(zeros, method=zipfile.ZIP_LZMA),
    }
    for reason, data in bombs.items():
        assert peak_memory(lambda data=data, reason=reason: expect_error(data, BANDS, reason)) < FEW  # type: ignore[misc]


def test_a_zip_that_is_no_npz() -> None:
    expect_error(zip_file(b"text", "word/document.xml"), BANDS, "no NPZ")
    expect_error(npz(image=CHW)[:-30], BANDS, "damaged: ")
    damaged = bytearray(npz(image=CHW))
    damaged[400] ^= 1
    expect_error(bytes(damaged), BANDS, "damaged: Bad CRC-32")


def test_no_image() -> None:
    expect_error(b"", RGB, "empty file (0 bytes)")
    expect_error(b"Hello, this is text.\n" * 20, RGB, "not an image: no known format")
    expect_error(b"II*\0", RGB, "damaged: ")
    expect_error(b"II*\0" + bytes(40), RGB, "a TIFF without an image")


@pytest.mark.parametrize("maker", [lambda i: png(i), lambda i: tiff(i), lambda i: npy(i), lambda i: dicom(i)])
def test_the_limit_of_pixels(maker: Callable[[NDArray[Any]], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    data = maker(HWC[..., 0])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH)
    expect_planes(data, HWC[..., :1], GRAY)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH - 1)
    expect_error(data, GRAY, "too large: more than 713 pixels; scale it down first")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    expect_planes(data, HWC[..., :1], GRAY)


def test_too_little_memory_is_not_the_fault_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "require", fail)
    expect_error(npy(HWC), BANDS, "more memory than there is")
    monkeypatch.setattr("pretext.data.planes._BYTES_A_VALUE", 1 << 46)
    with pytest.raises(MemoryError):
        read_planes(npy(HWC), "k", BANDS)


SMALL = noise(4, 9, 11)
KINDS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    **{
        f"TIFF, {name}": (tiff(SMALL, photometric="minisblack", **options), BANDS)
        for name, options in LAYOUTS.items() if name != "Big"
    },
    "TIFF, planar": (tiff(SMALL[:3], photometric="rgb", planarconfig="separate"), RGB),
    "TIFF, pages": (tiff_pages(*SMALL, compression="zlib"), BANDS),
    "TIFF, white is zero": (tiff(SMALL[0] > 9, photometric="miniswhite"), GRAY),
    "TIFF, JPEG": (tiff(noise(16, 16, 3, dtype="uint8"), compression="jpeg", photometric="ycbcr"), RGB),
    "TIFF, packed": (tiff(SMALL[0] >> 4, bitspersample=12), GRAY),
    "NPY": (npy(SMALL), BANDS),
    "NPZ": (npz(image=SMALL), BANDS),
    "NPZ, compressed": (npz(True, **dict(zip(BANDS, SMALL, strict=True))), BANDS),
    "PNG of 16 bits": (png(np.moveaxis(SMALL[:3], 0, -1)), RGB),
    "PNG, interlaced": (interlaced(np.moveaxis(SMALL, 0, -1)), BANDS),
    "PNG, gray": (png(SMALL[0]), GRAY),
    "PNG, gray and alpha": (png(np.moveaxis(SMALL[:2], 0, -1)), RGB[:2]),
    "DICOM": (dicom(SMALL[0], RescaleSlope=2, RescaleIntercept=-7), GRAY),
    "DICOM, implicit": (dicom(SMALL[0], ImplicitVRLittleEndian), GRAY),
    "JPEG": (encoded(Image.new("RGB", (24, 16), "red"), "JPEG"), RGB),
    "WebP": (encoded(Image.new("RGB", (24, 16), "red"), "WEBP"), RGB),
}  # fmt: skip


def read_any(data: bytes, channels: tuple[str, ...]) -> None:
    """There is an array of the right kind, or the one error."""
    try:
        image = read_planes(data, "k", channels)
    except ImageError as error:
        assert "\n" not in str(error)
        assert "ecret" not in str(error)
    else:
        assert image.shape[2:] == (len(channels),)
        assert image.dtype in (np.uint8, np.uint16, np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_of_any_kind_is_an_array_or_the_error(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, channels = KINDS[kind]
    read_planes(data, "k", channels)
    rng = np.random.default_rng(len(data))
    with warnings.catch_warnings(action="error"):
        for number in range(40):
            damaged = bytearray(data)
            reach = len(data) if number % 2 else min(len(data), 400)  # the headers more often
            for at in rng.integers(0, reach, rng.integers(1, 4)):
                damaged[at] = rng.choice((damaged[at] ^ 1 << rng.integers(8), 0, 255, rng.integers(256)))
            read_any(bytes(damaged), channels)
            read_any(data[: rng.integers(len(data))], channels)
    assert capfd.readouterr() == ("", "")


HEADS = (b"II*\0", b"MM\0+", b"\x93NUMPY\1\0", b"PK\3\4", b"\x89PNG\r\n\x1a\n", bytes(128) + b"DICM")


@given(head=st.sampled_from(HEADS), rest=st.binary(max_size=300))
def test_any_bytes_behind_a_beginning(head: bytes, rest: bytes) -> None:
    with warnings.catch_warnings(action="error"):
        read_any(head + rest, GRAY)


def test_nothing_is_logged_or_left_changed(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    filters = list(warnings.filters)
    with caplog.at_level(logging.DEBUG):
        expect_error(tiff(CHW, photometric="minisblack")[:400], BANDS)
        expect_error(dicom(HWC[..., 0])[:-90], GRAY)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    assert warnings.filters == filters
    assert logging.getLogger("tifffile").filters == logging.getLogger("pydicom").filters == []


@pytest.mark.parametrize("tag", [256, 257, 258, 273, 277, 278, 279])
def test_a_packed_tiff_with_a_tag_without_values_is_left_to_the_general_reader(tag: int) -> None:
    data = bytearray(write_packed(np.zeros((40, 40, 4), np.uint16)))
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    (at,) = (start + 2 + 12 * n for n in range(count) if struct.unpack_from("<H", data, start + 2 + 12 * n) == (tag,))
    data[at + 4 : at + 8] = bytes(4)
    assert read_packed(bytes(data), 4) is None
