"""The TIFF of packed images of named channels: deflated, one strip for each channel.

Any program reads it. Here it is read without tifffile, whose general reading takes four times as long as inflating
a small image.
"""

import math
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

_FORMATS = {(8, 1): "<u1", (16, 1): "<u2", (32, 3): "<f4"}  # bits and sample format -> type
_SIZES = {3: "H", 4: "I"}  # type of a value -> its name in struct
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _MEANING, _STARTS, _SAMPLES, _ROWS, _COUNTS, _PLANAR, _FORMAT = (
    256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 339
)  # fmt: skip
_USED = (_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _MEANING, _STARTS, _SAMPLES, _ROWS, _COUNTS, _PLANAR, _FORMAT)
_UNUSED = (282, 283, 296, 305, 338)
"""Resolution, software, and that further samples are no alpha. Any other tag may change what the values mean."""


def write_packed(values: NDArray[Any]) -> bytes:
    """Return a TIFF of values (H, W, C), uint8, uint16 or float32."""
    buffer = BytesIO()
    tifffile.imwrite(
        buffer,
        np.moveaxis(values, -1, 0),
        photometric="minisblack",
        planarconfig="separate" if values.shape[-1] > 1 else None,
        compression="zlib",
        rowsperstrip=values.shape[0],
        metadata=None,
    )
    return buffer.getvalue()


def read_packed(data: bytes, channels: int) -> NDArray[Any] | None:
    """Return (H, W, C) if the data is what ``write_packed`` writes for so many channels, else None."""
    try:
        if data[:4] != b"II*\0":
            return None
        (start,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, start)
        directory = data[start + 2 : start + 2 + 12 * count]
        tags: dict[int, tuple[int, ...]] = {}
        for number, (tag, kind, many) in enumerate(struct.iter_unpack("<HHI4x", directory)):
            if tag in _USED:
                form = f"<{many}{_SIZES[kind]}"
                at = start + 2 + 12 * number + 8
                if struct.calcsize(form) > 4:
                    (at,) = struct.unpack_from("<I", data, at)
                tags[tag] = struct.unpack_from(form, data, at)
            elif tag not in _UNUSED:
                return None
        (width,), (height,) = tags[_WIDTH], tags[_HEIGHT]
        kinds = set(zip(tags[_BITS], tags.get(_FORMAT, (1,) * channels), strict=True))
        starts, counts = tags[_STARTS], tags[_COUNTS]
        is_packed = (
            tags[_COMPRESSION] == (8,)
            and tags[_MEANING] == (1,)  # black is zero
            and 0 < width * height * max(3, channels) <= 3 * (Image.MAX_IMAGE_PIXELS or math.inf)
            and tags[_SAMPLES] == (channels,)
            and tags[_ROWS][0] >= height
            and (channels == 1 or tags[_PLANAR] == (2,))
            and len(starts) == len(counts) == channels
            and len(kinds) == 1
            and struct.unpack_from("<I", data, start + 2 + 12 * count) == (0,)  # no other image
        )
        dtype = np.dtype(_FORMATS[kinds.pop()])
        size = width * height * dtype.itemsize
        if not is_packed or size > 1032 * max(counts):  # more than deflate can make of them
            return None
        planes = np.empty((channels, height, width), dtype)
        for plane, at, length in zip(planes, starts, counts, strict=True):
            stream = zlib.decompressobj()
            inflated = stream.decompress(data[at : at + length], size)
            if stream.decompress(stream.unconsumed_tail, 1) or not stream.eof:  # more than size, or no checksum
                return None
            plane[:] = np.frombuffer(inflated, dtype).reshape(height, width)
        return np.ascontiguousarray(np.moveaxis(planes, 0, -1))
    except (struct.error, KeyError, IndexError, ValueError, zlib.error):
        return None  # the general reader says what is wrong
