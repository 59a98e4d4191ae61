"""PNG of 16 bits, written strip by strip. Facts: the PNG specification, third edition (W3C)."""

import struct
import zlib
from collections.abc import Iterable
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pretint.colorization.photographs.metadata import SIGNATURE, Metadata

_SUB, _UP = 1, 2  # kinds of filter
_METRE = 1 / 0.0254  # inches


def write_deep_png(
    file: IO[bytes],
    size: tuple[int, int],
    strips: Iterable[NDArray[Any]],
    metadata: Metadata,
    profile: bytes,
    alpha: bool,
) -> None:
    """Write an image of which only a strip exists at a time.

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
        _chunk(file, b"pHYs", struct.pack(">IIB", *(round(one * _METRE) for one in metadata.dpi), 1))
    _chunk(file, b"eXIf", metadata.exif)
    _chunk(file, b"tEXt", b"Software\0" + SIGNATURE.encode())
    if metadata.xmp:
        _chunk(file, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp)
    squeeze = zlib.compressobj(6)
    above = np.zeros(size[0] * (8 if alpha else 6), np.uint8)
    for strip in strips:
        samples = np.ascontiguousarray(strip.astype(">u2")).view(np.uint8).reshape(len(strip), -1)
        filtered = _filtered(samples, above, 8 if alpha else 6)
        above = samples[-1]
        if data := squeeze.compress(filtered):
            _chunk(file, b"IDAT", data)
    _chunk(file, b"IDAT", squeeze.flush())
    _chunk(file, b"IEND", b"")


def _chunk(file: IO[bytes], kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind)
    file.write(data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))


def _filtered(samples: NDArray[np.uint8], above: NDArray[np.uint8], pixel: int) -> bytes:
    """Rows of bytes, each minus its left or upper neighbor, whichever leaves less (section 12.7)."""
    up = samples - np.vstack((above[None], samples[:-1]))
    left = samples.copy()
    left[:, pixel:] -= samples[:, :-pixel]
    costs = [np.abs(rows.view(np.int8).astype(np.int16)).sum(1) for rows in (left, up)]
    better = costs[1] < costs[0]
    kinds = np.where(better, _UP, _SUB).astype(np.uint8)
    return np.hstack((kinds[:, None], np.where(better[:, None], up, left))).tobytes()
