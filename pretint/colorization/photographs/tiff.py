"""TIFF of 8 or 16 bits a sample, written strip by strip. Facts: TIFF 6.0 (Adobe, 1992) and its supplement 2.

Why not a library: none writes 16 bits and an EXIF directory both. The block of EXIF is a small TIFF itself; the file
begins with it, so that what it points to stays where it says, and its main directory is written once more, at the end,
with the tags of the image.
"""

import struct
import zlib
from collections.abc import Iterable
from typing import IO, Any

from numpy.typing import NDArray

from pretext.errors import UserError
from pretint.colorization.photographs.metadata import Metadata

_SHORT, _LONG, _RATIONAL, _BYTES = 3, 4, 5, 7
_LARGEST = 2**32 - 1


def write_tiff(
    file: IO[bytes],
    size: tuple[int, int],
    bits: int,
    strips: Iterable[NDArray[Any]],
    metadata: Metadata,
    profile: bytes,
    alpha: bool,
) -> None:
    """Write an image of which only a strip exists at a time: little-endian, deflated, differences of neighbors.

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
    more: dict[int, tuple[int, bytes]] = {
        256: (_LONG, _longs(size[:1])),
        257: (_LONG, _longs(size[1:])),
        258: (_SHORT, _shorts([bits] * samples)),
        259: (_SHORT, _shorts([8])),  # deflate
        262: (_SHORT, _shorts([2])),  # RGB
        273: (_LONG, _longs(offsets)),
        277: (_SHORT, _shorts([samples])),
        278: (_LONG, _longs([rows_a_strip])),
        279: (_LONG, _longs(lengths)),
        284: (_SHORT, _shorts([1])),  # samples of a pixel lie side by side
        317: (_SHORT, _shorts([2])),  # horizontal differences
    }
    if alpha:
        more[338] = (_SHORT, _shorts([2]))  # unassociated
    if metadata.dpi:
        for tag, value in zip((282, 283), metadata.dpi, strict=True):
            more[tag] = (_RATIONAL, _longs([round(value * 1000), 1000]))
        more[296] = (_SHORT, _shorts([2]))  # an inch
    if metadata.xmp:
        more[700] = (1, metadata.xmp)
    if profile:
        more[34675] = (_BYTES, profile)
    _write_directory(file, position, entries, more)
    file.seek(start + 4)
    file.write(struct.pack("<I", position))
    file.seek(0, 2)


def _write_directory(
    file: IO[bytes], position: int, entries: dict[int, bytes], more: dict[int, tuple[int, bytes]]
) -> None:
    """The main directory, and behind it the values that are longer than four bytes."""
    behind = position + 2 + 12 * len(entries.keys() | more.keys()) + 4
    values = bytearray()
    for tag, (kind, value) in more.items():
        count = len(value) // {_SHORT: 2, _LONG: 4, _RATIONAL: 8}.get(kind, 1)
        if len(value) > 4:
            here = _longs([behind + len(values)])
            values += value + b"\0" * (len(value) % 2)
        else:
            here = value.ljust(4, b"\0")
        entries[tag] = struct.pack("<HHI", tag, kind, count) + here
    file.write(struct.pack("<H", len(entries)))
    file.writelines(entries[tag] for tag in sorted(entries))
    file.write(b"\0\0\0\0")
    file.write(values)


def _shorts(values: Iterable[int]) -> bytes:
    return b"".join(struct.pack("<H", value) for value in values)


def _longs(values: Iterable[int]) -> bytes:
    return b"".join(struct.pack("<I", value) for value in values)
