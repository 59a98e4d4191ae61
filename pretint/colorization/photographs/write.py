"""Photographs written to files, with the metadata of their own files.

Pillow writes 8 bits. TIFF and PNG of 16 bits are written here, strip by strip. No library writes 16 bits and an EXIF
directory both. Facts: TIFF 6.0 (Adobe, 1992) and its supplement 2; the PNG specification, third edition (W3C).

In a TIFF, the block of EXIF is a small TIFF itself. The file begins with it, so that its offsets stay valid. Its main
directory is written once more, at the end, with the tags of the image.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from torch import Tensor

from pretext.errors import ImageError, UserError
from pretext.files import is_ours, open_atomically
from pretint.colorization.merge import ColorSource, Enlarged, map_strips, merge_rows
from pretint.colorization.photographs.metadata import SIGNATURE, Metadata, prepare_for_jpeg
from pretint.colorization.photographs.read import Photograph, unlimited

Format = Literal["jpeg", "png", "webp", "tiff"]
FORMATS: dict[Format, str] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "tiff": ".tif"}
"""The formats that can be written, and the ending of their files."""
QUALITY = 95
"""The default quality of a JPEG or a lossy WebP."""

_SIDES = {"jpeg": 65_500, "webp": 16_383}
_SHORT, _LONG, _RATIONAL, _BYTES = 3, 4, 5, 7
_LARGEST = 2**32 - 1
_SUB, _UP = 1, 2  # kinds of filter
_METRE = 1 / 0.0254  # inches
_MADE_BY = 11  # ProcessingSoftware of EXIF


def write_photograph(
    photograph: Photograph, ab: Tensor | ColorSource, to: Path | IO[bytes], format: Format, quality: int = QUALITY
) -> list[str]:
    """Write a photograph with its own L and new colors, in the depth of the photograph where the format has it.

    JPEG is written at 4:4:4, to keep all color. WebP is lossless if the photograph's file was.

    Args:
        photograph: gives L, alpha, profile and metadata; its colors are not used.
        ab: colors of its size, or (1, 2, h, w), float, unscaled, of any size.
        to: a path, written atomically, or an open file.
        format: of the file.
        quality: 1 to 100.

    Returns:
        A line for everything that could not be kept.

    Raises:
        ImageError: the format cannot hold such an image.
        UserError: the file cannot be written.
    """
    limit = _SIDES.get(format)
    if limit and max(photograph.size) > limit:
        raise ImageError(photograph.key, f"{format} holds at most {limit:,} pixels a side; use --format png or tiff")
    if format == "jpeg" and photograph.alpha is not None:
        raise ImageError(photograph.key, "is partly transparent, which jpeg cannot be; use --format png, webp or tiff")
    notes: list[str] = []
    colors = Enlarged(ab, photograph.size) if isinstance(ab, Tensor) else ab
    if isinstance(to, Path):
        with open_atomically(to, f"the image, of {photograph.size[0]} x {photograph.size[1]} pixels") as file:
            _write(photograph, colors, file, format, quality, notes)
    else:
        _write(photograph, colors, to, format, quality, notes)
    return notes


def is_signed(path: Path) -> bool:
    """Whether a file is an image that ``write_photograph`` or ``pretext.files.write_png`` wrote."""
    if not path.is_file():  # opening a pipe would block
        return False
    try:
        with unlimited():
            if is_ours(path):
                return True
            with Image.open(path) as image:
                return str(image.getexif().get(_MADE_BY, "")).rstrip("\0") == SIGNATURE
    except Exception:  # not readable, so pretint did not write it
        return False


def _write(
    photograph: Photograph, colors: ColorSource, file: IO[bytes], format: Format, quality: int, notes: list[str]
) -> None:
    deep = photograph.bits == 16
    metadata, profile = photograph.metadata, photograph.profile
    if format == "tiff":
        write_tiff(
            file, photograph.size, 16 if deep else 8, _strips(photograph, colors), metadata, profile,
            alpha=photograph.alpha is not None,
        )  # fmt: skip
        return
    if format == "png" and deep:
        alpha = photograph.alpha is not None
        write_deep_png(file, photograph.size, _strips(photograph, colors), metadata, profile, alpha=alpha)
        return
    if deep:
        notes.append(f"{format} has 8 bits: the 16 of the photograph were rounded")
    image = Image.new("RGB" if photograph.alpha is None else "RGBA", photograph.size)
    top = 0
    for rows in _strips(photograph, colors):
        eight = np.rint(rows / 257).astype(np.uint8) if deep else rows
        image.paste(Image.fromarray(eight), (0, top))
        top += len(rows)
    shared: dict[str, Any] = {"icc_profile": profile or None}
    if format == "jpeg":
        exif, xmp, segments = prepare_for_jpeg(metadata, notes)
        shared |= {"exif": exif, "extra": segments, "quality": quality, "subsampling": 0}
        shared |= {
            name: value for name, value in (("xmp", xmp), ("dpi", metadata.dpi), ("comment", metadata.comment)) if value
        }
        buffer = BytesIO()  # Pillow itself writes to a file without a check that all of it was written
        image.save(buffer, "JPEG", **shared)
        file.write(buffer.getbuffer())
    elif format == "webp":
        quality_options = {"lossless": True, "exact": True} if photograph.lossless else {"quality": quality}
        image.save(file, "WEBP", exif=b"Exif\0\0" + metadata.exif, xmp=metadata.xmp, **shared, **quality_options)
    else:
        text = PngImagePlugin.PngInfo()
        text.add_text("Software", SIGNATURE)
        if metadata.xmp:
            text.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
        dpi = {"dpi": metadata.dpi} if metadata.dpi else {}
        image.save(file, "PNG", exif=b"Exif\0\0" + metadata.exif, pnginfo=text, **dpi, **shared)


def _strips(photograph: Photograph, colors: ColorSource) -> Iterator[NDArray[Any]]:
    """Yield the colored image from top to bottom: (rows, W, 3), or 4 with alpha."""

    def strip(top: int, bottom: int) -> NDArray[Any]:
        pixels = photograph.rows(top, bottom)
        rows = merge_rows(pixels, colors.rows(top, bottom, pixels))
        if photograph.in_profile is not None:
            rows = photograph.in_profile(rows)
        return rows if photograph.alpha is None else np.dstack((rows, photograph.alpha_rows(top, bottom)))

    return map_strips(photograph.size, strip)


def encode_photograph(
    photograph: Photograph, ab: Tensor | ColorSource, format: Format, quality: int = QUALITY
) -> tuple[bytes, list[str]]:
    """Encode a photograph as ``write_photograph`` does. Return the content, and what could not be kept."""
    buffer = BytesIO()
    notes = write_photograph(photograph, ab, buffer, format, quality)
    return buffer.getvalue(), notes


def write_tiff(
    file: IO[bytes],
    size: tuple[int, int],
    bits: int,
    strips: Iterable[NDArray[Any]],
    metadata: Metadata,
    profile: bytes,
    alpha: bool,
) -> None:
    """Write a TIFF strip by strip: little-endian, deflated, differences of neighbors.

    Args:
        file: to write to.
        size: width and height.
        bits: 8 or 16.
        strips: from top to bottom, (rows, W, 3), or 4 with alpha; all but the last have the same number of rows.
        metadata: EXIF, XMP and resolution are kept.
        profile: an ICC profile, or nothing.
        alpha: whether the fourth sample of a pixel is there; it is not premultiplied.

    Raises:
        UserError: the file would have more than 4 GB.
    """
    block = metadata.exif
    (first,) = struct.unpack_from("<I", block, 4)
    (count,) = struct.unpack_from("<H", block, first)
    entries = {}
    for at in range(first + 2, first + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from("<H", block, at)
        entries[tag] = block[at : at + 12]
    body = bytearray(block[:4] + b"\0\0\0\0" + block[8:])  # the place of the directory is known at the end
    body += b"\0" * (len(body) % 2)
    position = len(body)
    start = file.tell()
    file.write(body)
    offsets, lengths, rows_a_strip = [], [], 1
    for strip in strips:
        values = strip.astype(strip.dtype.newbyteorder("<"))
        values[:, 1:] -= strip[:, :-1]
        data = zlib.compress(values.tobytes(), 6)
        data += b"\0" * (len(data) % 2)
        rows_a_strip = max(rows_a_strip, len(strip))
        offsets.append(position)
        lengths.append(len(data))
        position += len(data)
        if position > _LARGEST - 2**24:
            raise UserError("a TIFF holds at most 4 GB; take --format png")
        file.write(data)
    samples = 4 if alpha else 3
    tags: dict[int, tuple[int, Sequence[int] | bytes]] = {
        256: (_LONG, size[:1]),
        257: (_LONG, size[1:]),
        258: (_SHORT, [bits] * samples),
        259: (_SHORT, [8]),  # deflate
        262: (_SHORT, [2]),  # RGB
        273: (_LONG, offsets),
        277: (_SHORT, [samples]),
        278: (_LONG, [rows_a_strip]),
        279: (_LONG, lengths),
        284: (_SHORT, [1]),  # samples of a pixel lie side by side
        317: (_SHORT, [2]),  # horizontal differences
    }
    if alpha:
        tags[338] = (_SHORT, [2])  # unassociated
    if metadata.dpi:
        for tag, value in zip((282, 283), metadata.dpi, strict=True):
            tags[tag] = (_RATIONAL, [round(value * 1000), 1000])
        tags[296] = (_SHORT, [2])  # an inch
    if metadata.xmp:
        tags[700] = (1, metadata.xmp)
    if profile:
        tags[34675] = (_BYTES, profile)
    _write_directory(file, position, entries, tags)
    file.seek(start + 4)
    file.write(struct.pack("<I", position))
    file.seek(0, 2)


def _write_directory(
    file: IO[bytes], position: int, entries: dict[int, bytes], tags: dict[int, tuple[int, Sequence[int] | bytes]]
) -> None:
    """Write the main directory, and behind it the values that are longer than four bytes."""
    behind = position + 2 + 12 * len(entries.keys() | tags.keys()) + 4
    values = bytearray()
    for tag, (kind, content) in tags.items():
        form = f"<{len(content)}{'H' if kind == _SHORT else 'I'}"
        value = content if isinstance(content, bytes) else struct.pack(form, *content)
        count = len(content) // 2 if kind == _RATIONAL else len(content)
        if len(value) > 4:
            inline = struct.pack("<I", behind + len(values))
            values += value + b"\0" * (len(value) % 2)
        else:
            inline = value.ljust(4, b"\0")
        entries[tag] = struct.pack("<HHI", tag, kind, count) + inline
    file.write(struct.pack("<H", len(entries)))
    file.writelines(entries[tag] for tag in sorted(entries))
    file.write(b"\0\0\0\0")
    file.write(values)


def write_deep_png(
    file: IO[bytes],
    size: tuple[int, int],
    strips: Iterable[NDArray[Any]],
    metadata: Metadata,
    profile: bytes,
    alpha: bool,
) -> None:
    """Write a PNG of 16 bits strip by strip.

    Args:
        file: to write to.
        size: width and height.
        strips: from top to bottom, uint16 (rows, W, 3), or 4 with alpha.
        metadata: EXIF, XMP and resolution are kept.
        profile: an ICC profile, or nothing.
        alpha: whether the fourth sample of a pixel is there.
    """
    file.write(b"\x89PNG\r\n\x1a\n")
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", *size, 16, 6 if alpha else 2, 0, 0, 0))
    if profile:
        _chunk(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    if metadata.dpi:
        _chunk(file, b"pHYs", struct.pack(">IIB", *(round(value * _METRE) for value in metadata.dpi), 1))
    _chunk(file, b"eXIf", metadata.exif)
    _chunk(file, b"tEXt", b"Software\0" + SIGNATURE.encode())
    if metadata.xmp:
        _chunk(file, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp)
    squeeze = zlib.compressobj(6)
    pixel = 8 if alpha else 6  # bytes
    above = np.zeros(size[0] * pixel, np.uint8)
    for strip in strips:
        samples = np.ascontiguousarray(strip.astype(">u2")).view(np.uint8).reshape(len(strip), -1)
        # Each row minus its left or upper neighbors, whichever leaves less (section 12.7).
        up = samples - np.vstack((above[None], samples[:-1]))
        left = samples.copy()
        left[:, pixel:] -= samples[:, :-pixel]
        costs = [np.abs(rows.view(np.int8).astype(np.int16)).sum(1) for rows in (left, up)]
        is_up = costs[1] < costs[0]
        kinds = np.where(is_up, _UP, _SUB).astype(np.uint8)
        filtered = np.hstack((kinds[:, None], np.where(is_up[:, None], up, left))).tobytes()
        above = samples[-1]
        if data := squeeze.compress(filtered):
            _chunk(file, b"IDAT", data)
    _chunk(file, b"IDAT", squeeze.flush())
    _chunk(file, b"IEND", b"")


def _chunk(file: IO[bytes], kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind)
    file.write(data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
