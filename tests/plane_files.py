"""Files of images of any channels and depth, and what must come of them."""

import io
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from pretext.data.planes import read_planes
from pretext.errors import ImageError

BANDS = ("B02", "B03", "B04", "B08")
RGB = ("red", "green", "blue")
GRAY = ("gray",)
HEIGHT, WIDTH = 21, 34  # not equal, and no multiples of the tiles of 16


def noise(*shape: int, dtype: str = "uint16") -> NDArray[Any]:
    """Return values of which each is as probable as any other of its type; floats have a normal distribution."""
    rng = np.random.default_rng(0)
    if dtype.startswith("float"):
        return rng.normal(0, 100, shape).astype(dtype)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def tiff(image: NDArray[Any], **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, image, **options)
    return out.getvalue()


def tiff_pages(*images: NDArray[Any], **options: Any) -> bytes:
    """Return a TIFF with a page for each image, and no metadata about them."""
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        for image in images:
            writer.write(image, photometric="minisblack", metadata=None, **options)
    return out.getvalue()


def npy(image: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, image)
    return out.getvalue()


def npz(compress: bool = False, **arrays: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(out, **arrays)
    return out.getvalue()


def npy_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"shape": shape, "fortran_order": False, "descr": descr})
    return out.getvalue()


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def dicom(image: NDArray[Any], syntax: str = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """Return a DICOM file of the pixels (H, W) or (H, W, 3); ``elements`` replace and add to its header."""
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.PatientName, file.PatientID = "Secret^Name", "SECRET-7"
    file.Rows, file.Columns = image.shape[:2]
    file.SamplesPerPixel = 1 if image.ndim == 2 else 3
    file.PhotometricInterpretation = "MONOCHROME2" if image.ndim == 2 else "RGB"
    if image.ndim == 3:
        file.PlanarConfiguration = 0
    file.BitsAllocated = file.BitsStored = 8 * image.itemsize
    file.PixelRepresentation = int(image.dtype.kind == "i")
    for name, value in elements.items():
        setattr(file, name, value)
    file.HighBit = file.BitsStored - 1
    if "PixelData" not in file:
        pixels = image.astype(image.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
        file.PixelData = pixels + b"\0" * (len(pixels) % 2)
        file["PixelData"].VR = "OB" if image.itemsize == 1 else "OW"
    out = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        file.save_as(out, enforce_file_format=True)
    return out.getvalue()


def expect_planes(data: bytes, want: NDArray[Any], channels: tuple[str, ...]) -> None:
    """Check that the result is ``want`` to the bit, and can be changed."""
    got = read_planes(data, "k", channels)
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    assert got.dtype.isnative
    assert got.flags.c_contiguous
    assert got.flags.writeable
    assert np.array_equal(got, want, equal_nan=want.dtype.kind == "f")


def expect_error(data: bytes, channels: tuple[str, ...], *parts: str) -> str:
    """Check that the error has one line with all ``parts``; return it."""
    with pytest.raises(ImageError) as caught:
        read_planes(data, "folder/a", channels)
    assert caught.value.key == "folder/a"
    reason = caught.value.reason
    assert "\n" not in reason
    assert [part for part in parts if part not in reason] == [], reason
    return reason


FEW = 4_000_000  # bytes: more than any refusal needs
CHW = noise(4, HEIGHT, WIDTH)
HWC = np.ascontiguousarray(np.moveaxis(CHW, 0, -1))
CONTIG = np.ascontiguousarray(HWC[..., :3])

LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "named axes": {"metadata": {"axes": "CYX"}},
    "OME": {"ome": True, "metadata": {"axes": "CYX", "Channel": {"Name": BANDS}}},
    "OME with a size of pixels": {"ome": True, "metadata": {"axes": "CYX", "PhysicalSizeX": 0.5}},
    "ImageJ": {"imagej": True, "metadata": {"axes": "CYX"}},
    "ImageJ composite": {"imagej": True, "metadata": {"axes": "CYX", "mode": "composite"}},
    "slices": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "Big": {"bigtiff": True},
    "no metadata": {"metadata": None},
    "one strip a row": {"rowsperstrip": 1},
    "tiles": {"tile": (16, 16)},
    "deflate": {"compression": "zlib"},
    "deflate of differences": {"compression": "zlib", "predictor": True},
    "LZW": {"compression": "lzw", "predictor": True},
    "zstd in tiles": {"compression": "zstd", "tile": (16, 16)},
    "Big deflate OME": {"bigtiff": True, "ome": True, "compression": "zlib", "metadata": {"axes": "CYX"}},
}


def png(image: NDArray[Any], exif: int = 0) -> bytes:
    """Return a PNG of 8 or 16 bits, optionally with an EXIF orientation behind the pixels."""
    data = bytes(imagecodecs.png_encode(np.ascontiguousarray(image)))
    if not exif:
        return data
    block = b"eXIf" + b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0" + bytes([exif]) + bytes(7)
    return data[:-12] + struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block)) + data[-12:]


def interlaced(image: NDArray[Any]) -> bytes:
    """Return a PNG of 16 bits in Adam7 order: 7 passes, each of every dx-th column and dy-th row from (x, y) on."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = (b"\0" + row.astype(">u2").tobytes() for x, y, dx, dy in passes for row in image[y::dy, x::dx])
    color = {2: 4, 3: 2, 4: 6}[image.shape[2]]
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 16, color, 0, 0, 1)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def patch_tag(data: bytes, tag: int, value: int) -> bytes:
    """Replace a number in the first page of a little-endian TIFF."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        entry = file.pages[0].tags[tag]
    end = entry.valueoffset + entry.valuebytecount
    return data[: entry.valueoffset] + value.to_bytes(entry.valuebytecount, "little") + data[end:]


def peak_memory(action: Callable[[], object]) -> int:
    """Return how many bytes were allocated at once."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def zip_file(content: bytes, name: str = "image.npy", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(name, content)
    return out.getvalue()
