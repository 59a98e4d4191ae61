"""Decoding: from the bytes of an image file of any channels and depth to an array (H, W, C).

``pretext.data.decode`` makes 8-bit RGB of every image. Here the values stay as the file stores them:

- TIFF: pages, planes or samples are the channels. Color spaces, color tables and the unit of values are not applied;
  if white is zero, unsigned values are inverted. Reduced copies (pyramids, thumbnails) and masks are left out.
- NPY and NPZ: (H, W), (H, W, C) or (C, H, W); in an NPZ of several arrays, (H, W) for each channel, by its name.
- DICOM: see ``pretext.data.dicom``.
- PNG: gray, RGB, with or without alpha, of 8 or 16 bits; 1, 2 and 4 bits are scaled to 8.
- All others as Pillow reads them: gray of 8, 16 or 32 bits, or RGB. Palettes, CMYK and transparency become RGB by the
  rules of ``decode``.

Images are upright. The bytes may come from anyone: a header is checked before memory is allocated for its pixels, and
no format runs code.
"""

import contextlib
import logging
import math
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from typing import IO, Any, NamedTuple, cast
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin

from pretext.data.decode import decode, open_image, read_orientation, why_undecodable
from pretext.data.dicom import DicomImage, is_dicom
from pretext.errors import ImageError, UserError, one_line

CODECS_HINT = "pip install 'pretint[color]'"

_BYTES_A_VALUE = 24  # as stored, in another order of axes, and converted: 8 each
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_PAGES = 4096  # of a TIFF; the chain of pages in a damaged one may be a circle
# tifffile also knows formats of vendors. Some need other files, or read all pages before they can be counted.
_TIFF_KINDS = {f"is_{name}": False for name in tifffile.TIFF.FILE_FLAGS - {"shaped", "ome", "imagej"}}
# Uncompressed, LZW, JPEG, deflate (2), PackBits, LZMA, zstd, WebP, JPEG 2000 (3), LERC. Rare decoders are less tested.
_COMPRESSIONS = (1, 5, 7, 8, 32946, 32773, 34925, 50000, 50001, 33003, 33005, 34712, 34887)
_CHANNELS = {"1": 1, "L": 1, "I;16": 1, "I": 1, "F": 1, "RGB": 3}  # mode of Pillow -> channels; others become RGB
_PNG_CHANNELS = {**_CHANNELS, "LA": 2, "RGBA": 4}
_DEEP_PNG_CHANNELS = {"LA;16B": 2, "RGB;16B": 3, "RGBA;16B": 4}  # Pillow's name of the samples in the file -> channels


class _Header(NamedTuple):
    """What a file says about its image before the pixels are read."""

    shape: tuple[int, ...]
    axes: str
    """A letter for each axis of the shape: Y, X, and at most one other, which is the channels."""
    load: Callable[[], NDArray[Any]]
    """Returns the pixels: (H, W) or (H, W, C), upright."""
    dtype: np.dtype[Any] | None = None
    """The type of the values in the file; None if Pillow chooses one."""
    available: int | None = None
    """Bytes that the file has for the pixels; None if they are compressed."""


def read_planes(data: bytes, key: str, channels: Sequence[str]) -> NDArray[Any]:
    """Return the image in ``data``: (H, W, C), contiguous; uint8 or uint16 as stored, else float32.

    Booleans become 0 and 1 of uint8. NaN and infinity stay. Integers of 32 bits are rounded to the nearest float32.

    Args:
        data: the whole file, in any of the formats above; its name does not matter.
        key: the name of the image, for the error.
        channels: the names of the C channels, in the order of the file.

    Raises:
        ImageError: the data is empty, truncated, damaged or of no known format; has other channels, several images, or
            more values than RGB of ``PIL.Image.MAX_IMAGE_PIXELS``; or needs a package that is not installed.
        MemoryError: there is not enough memory for an image of its size.
    """
    assert channels
    if not data:
        raise ImageError(key, "empty file (0 bytes)")
    values = 0
    try:
        with _silence(), np.errstate(all="ignore"):
            header = _open(data, channels)
            _check(header, channels)
            values = math.prod(header.shape)
            image = header.load()
            image = image if image.ndim == 3 else image[..., None]
            is_kept = image.dtype.kind in "bu" and image.dtype.itemsize <= 2
            return np.require(image, f"u{image.dtype.itemsize}" if is_kept else np.float32, ("C", "W"))
    except UserError as error:
        raise ImageError(key, error.reason if isinstance(error, ImageError) else one_line(error)) from None
    except Exception as problem:  # the libraries raise many types of error for damaged bytes
        if isinstance(problem, MemoryError):
            bytearray(_BYTES_A_VALUE * values)  # raises again if this file is not at fault, as in decode
        if is_dicom(data):  # pydicom's messages quote values, which may be those of a patient
            raise ImageError(key, "damaged: a DICOM file whose pixels cannot be read") from None
        raise ImageError(key, why_undecodable(problem, data)) from problem


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep warnings and log messages of the libraries from the user: what matters becomes an error."""
    drop = logging.Filter("none")  # only what a logger of this name logs would pass it
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        for logger in map(logging.getLogger, ("tifffile", "pydicom")):
            logger.addFilter(drop)
            stack.callback(logger.removeFilter, drop)
        yield


def _open(data: bytes, channels: Sequence[str]) -> _Header:
    """Read the header of an image; the first bytes tell the format."""
    if is_dicom(data):
        image = DicomImage(data)
        return _Header(image.shape, "YXC"[: len(image.shape)], image.load, image.dtype, image.available)
    if data.startswith(_TIFF):
        return _open_tiff(data, channels)
    if data.startswith(b"\x93NUMPY"):
        return _open_npy(partial(BytesIO, data), len(data), channels)
    if data.startswith(b"PK\3\4"):
        return _open_npz(data, channels)
    return _open_with_pillow(data)


def _check(header: _Header, channels: Sequence[str]) -> None:
    """Raise an error for an image that cannot be read as ``channels``."""
    shape, axes, dtype = header.shape, header.axes, header.dtype
    if dtype is not None and dtype.kind not in "biuf":
        raise UserError(f"has values of type {dtype.name}; only integers, floats and booleans can be read")
    if min(shape) < 1:
        raise UserError(f"has no pixels: shape {shape}")
    pixels = shape[axes.index("Y")] * shape[axes.index("X")]
    _check_pixels(pixels)
    if (values := math.prod(shape)) > (most := 3 * (Image.MAX_IMAGE_PIXELS or math.inf)):
        raise UserError(
            f"too large: {values} values, more than {most}, as many as the largest RGB has; cut it in tiles"
        )
    count = math.prod(shape) // pixels
    if count != len(channels):
        raise UserError(f"has {count} channel{'s' * (count != 1)} (shape {shape}); expected {_describe(channels)}")
    size = math.prod(shape) * dtype.itemsize if dtype is not None else 0
    if header.available is not None and size > header.available:
        raise UserError(f"truncated: shape {shape} of {dtype} is {size} bytes; the file has {header.available}")


def _check_pixels(count: int) -> None:
    if count > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise UserError(why_undecodable(Image.DecompressionBombError(), b""))


def _describe(channels: Sequence[str]) -> str:
    """Return a text such as ``the 3 channels red, green, blue``."""
    shown = ", ".join(channels[:8]) + f" and {len(channels) - 8} more" * (len(channels) > 8)
    return f"the {len(channels)} channels {shown}" if len(channels) > 1 else f"1 channel, {shown}"


def _find_axes(shape: tuple[int, ...], channels: Sequence[str]) -> str:
    """Return the axes of an array that has no names for them."""
    if len(shape) not in (2, 3):
        raise UserError(f"has shape {shape}; expected (H, W), (H, W, C) or (C, H, W)")
    if len(shape) == 2:
        return "YX"
    if len(channels) not in (shape[0], shape[2]):
        raise UserError(f"shape {shape}: neither its first nor its last axis holds {_describe(channels)}")
    return "YXC" if shape[2] == len(channels) else "CYX"


def _to_channels_last(array: NDArray[Any], axes: str) -> NDArray[Any]:
    """Return an array as (H, W) or (H, W, C)."""
    return array.transpose(sorted(range(len(axes)), key=lambda axis: {"Y": 0, "X": 1}.get(axes[axis], 2)))


def _to_upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an image by its EXIF or TIFF orientation, 1 to 8; others turn nothing."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image[::-1] if orientation in (3, 4, 7, 8) else image


def _open_tiff(data: bytes, channels: Sequence[str]) -> _Header:
    file = tifffile.TiffFile(BytesIO(data), **_TIFF_KINDS)
    with contextlib.suppress(IndexError):
        file.pages.get(_MOST_PAGES)
        raise UserError(f"a TIFF of more than {_MOST_PAGES} pages")
    pages = [page for page in file.pages if _is_image(page)]
    if not pages or not all(isinstance(size, int) for page in pages for size in page.shape):
        raise UserError("a TIFF without an image, or damaged")
    kinds = sorted({f"{page.shape} {page.dtype}" for page in pages})
    if len(kinds) > 1:
        raise UserError(f"a TIFF of mixed shapes or depths: {' and '.join(kinds[:3])}; split it by them")
    if file.is_ome:
        _check_ome(file.ome_metadata, sum(math.prod(page.shape) for page in pages))
    images = [image for image in file.series if _is_image(image.keyframe)]
    if len(images) != 1:
        shapes = " and ".join(str(image.shape) for image in images[:3])
        raise UserError(f"a TIFF of {len(images)} images, of shape {shapes}; save each as a file of its own")
    image, page = images[0], images[0].keyframe
    axes, shape = image.get_axes(squeeze=True), image.get_shape(squeeze=True)
    if "Q" in axes:  # an array that was saved without names of axes
        axes = _find_axes(shape, channels)
    if len(axes) > 3 or not axes.count("Y") == axes.count("X") == 1:
        raise UserError(f"axes {axes} of shape {shape}: only Y, X and one more for the channels can be read; split it")
    compression = getattr(page.compression, "name", "unknown")
    if page.compression not in _COMPRESSIONS:
        raise UserError(f"a TIFF with {compression} compression, which cannot be read; save it with deflate")
    if page.dtype is None:
        raise UserError(f"a TIFF with samples of {page.bitspersample!s:.40} bits, which cannot be read")
    _check_pixels(page.tilewidth * page.tilelength * page.tiledepth)
    start = image.dataoffset
    if start is None:  # else all pixels are stored in one piece
        if len(image) > len(file.pages) or None in list(image):
            raise UserError("truncated, or one of several files: its metadata promises more pages than it has")
        for part in image:
            _check_segments(part, len(data))

    def load() -> NDArray[Any]:
        try:
            pixels = image.asarray(maxworkers=1).reshape(shape)
        except (ValueError, NotImplementedError) as error:
            if "imagecodecs" not in str(error):
                raise
            raise UserError(f"a TIFF with {compression} compression needs imagecodecs: {CODECS_HINT}") from error
        if page.tags.valueof(262) == 0 and page.dtype.kind in "bu":  # white is zero
            pixels = pixels ^ np.array(2**page.bitspersample - 1, page.dtype)
        return _to_upright(_to_channels_last(pixels, axes), page.tags.valueof(274, 1))

    return _Header(shape, axes, load, page.dtype, None if start is None else len(data) - start)


def _is_image(page: Any) -> bool:
    """Whether a page of a TIFF is an image of its own: no reduced copy and no mask of another page."""
    return not (page.is_reduced or page.is_mask or page.is_subifd)


def _check_ome(xml: str, values: int) -> None:
    """Raise an error for OME-XML that promises more than ``values``: tifffile makes lists of as many pages."""
    for element in ElementTree.fromstring(xml).iter():
        promised = math.prod(abs(int(element.get(f"Size{axis}", 1))) for axis in "XYCZT")
        planes = max(int(element.get(name, 0)) for name in ("PlaneCount", "NumPlanes"))
        if promised > values or planes > _MOST_PAGES:
            raise UserError(
                f"truncated, or one of several files: its OME-XML promises {promised} values, and it has {values}"
            )
        if element.tag[:-1].endswith("Along"):
            raise UserError("its OME-XML has a modulo axis, which cannot be read; split it by this axis")


def _check_segments(page: Any, size: int) -> None:
    """Raise an error if strips or tiles of a page are not in the ``size`` bytes of its TIFF: tifffile fills them."""
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if len(ends) < math.prod(page.chunked) or max(ends) > size:
        raise UserError(f"truncated: its pixels end at byte {max(ends, default=0)}, and the file at byte {size}")


def _open_npy(open_stream: Callable[[], IO[bytes]], size: int, channels: Sequence[str]) -> _Header:
    """Read the header of an NPY file of ``size`` bytes."""
    with open_stream() as stream:
        if (version := np.lib.format.read_magic(stream)) != (1, 0):  # others are for headers of up to 4 GB
            raise UserError(f"an NPY file of version {version[0]}.{version[1]}; save it with numpy.save")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        start = stream.tell()
    axes = _find_axes(shape, channels)

    def load() -> NDArray[Any]:
        return _to_channels_last(np.lib.format.read_array(open_stream(), allow_pickle=False), axes)

    return _Header(shape, axes, load, dtype, size - start)


def _open_npz(data: bytes, channels: Sequence[str]) -> _Header:
    archive = zipfile.ZipFile(BytesIO(data))
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    for info in members.values():
        if not info.filename.endswith(".npy") or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError("a ZIP file that is no NPZ; save it with numpy.savez")

    def open_member(name: str, channels: Sequence[str]) -> _Header:
        return _open_npy(partial(archive.open, members[name]), members[name].file_size, channels)

    if len(members) == 1:
        return open_member(next(iter(members)), channels)
    if missing := [channel for channel in channels if channel not in members]:
        raise UserError(f"an NPZ without an array {missing[0]}; it has {', '.join(list(members)[:8])}")
    planes = [open_member(channel, [channel]) for channel in channels]
    kinds = sorted({f"{plane.shape} {plane.dtype}" for plane in planes})
    if len(kinds) > 1 or planes[0].axes != "YX":
        raise UserError(f"an NPZ with channels of shape and type {' and '.join(kinds[:3])}; expected (H, W) for all")

    def load() -> NDArray[Any]:
        return np.stack([plane.load() for plane in planes], -1)

    available = sum(plane.available or 0 for plane in planes)
    return _Header((*planes[0].shape, len(planes)), "YXC", load, planes[0].dtype, available)


def _open_with_pillow(data: bytes) -> _Header:
    image = cast("ImageFile.ImageFile", open_image(BytesIO(data)))
    is_png = image.format == "PNG"
    deep = _DEEP_PNG_CHANNELS.get(str(image.tile[0].args)) if is_png and image.tile else None
    count = deep or (_PNG_CHANNELS if is_png else _CHANNELS).get(image.mode)

    def load() -> NDArray[Any]:
        if count is None:
            return np.asarray(decode(data, ""))
        if deep is not None:
            pixels = read_deep_png(image, data)
        else:
            pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
        if image.format == "PPM" and image.mode == "I":  # 16 bits
            pixels = pixels.astype(np.uint16)
        return _to_upright(pixels, read_orientation(image))

    shape = (image.height, image.width)
    return _Header(shape, "YX", load) if count == 1 else _Header((*shape, count or 3), "YXC", load)


def read_deep_png(image: ImageFile.ImageFile, data: bytes) -> NDArray[Any]:
    """Return the pixels of an opened PNG of 16-bit colors, (H, W, C), of which Pillow reads one byte of two.

    The other one is what it reads if it takes them for little-endian. Gray with alpha it can take for RGBA of 8 bits.
    Not by torchvision's libpng: one wrong byte in a file can end the process.
    """
    tile = image.tile[0]
    if tile.args == "LA;16B":
        image.tile = [tile._replace(args="RGBA")]
        return np.array(image).view(">u2")
    low = PngImagePlugin.PngImageFile(BytesIO(data))
    low.tile = [tile._replace(args=f"{image.mode};16L")]
    pixels: NDArray[Any] = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
    return pixels
