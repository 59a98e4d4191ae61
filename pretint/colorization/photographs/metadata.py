"""Metadata of a photograph's file, which the file of the result keeps.

Pillow writes EXIF again: all tags and maker notes stay. The thumbnail is removed, because it would show the image
without color, and so are the tags on the old file's storage. The orientation becomes 1, since the result is upright,
and ProcessingSoftware says that Pretint made it. XMP does not change, except for its orientation.
"""

import re
from dataclasses import dataclass, field

from PIL import ExifTags, Image

SIGNATURE = "Pretint"
_ORIENTATION, _MADE_BY = int(ExifTags.Base.Orientation), int(ExifTags.Base.ProcessingSoftware)
_EXIF_IFD = int(ExifTags.IFD.Exif)
_STORAGE = (
    *range(254, 260), 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, *range(288, 294), 301,
    *range(317, 326), 330, 332, 333, 334, 336, 337, 338, 339, 340, 341, 342, 347, 512, 513, 514, 519, 520, 521,
    529, 530, 531, 532, 700, 33723, 34377, 34675, 37724,
)  # fmt: skip
"""TIFF tags on how pixels are stored, and tags that are copied in another way."""
_LONGEST = 65_000  # bytes that one marker of a JPEG holds, roughly


@dataclass
class Metadata:
    """The metadata of a photograph."""

    exif: bytes
    """A little-endian block, without the word "Exif" at the start."""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    comment: bytes = b""
    iptc: list[bytes] = field(default_factory=list)
    """A JPEG's APP13 segments, which hold the captions of news photographs."""


def read_metadata(image: Image.Image, size: tuple[int, int], notes: list[str]) -> Metadata:
    """Read the metadata of an opened image.

    Args:
        image: an image that Pillow opened; its pixels need not be loaded.
        size: the size of the upright image.
        notes: a line is added for everything that cannot be kept.
    """
    has_resolution = False
    try:
        opened = image.getexif()
        has_resolution = ExifTags.Base.XResolution in opened
        exif = _rewrite_exif(opened, size)
    except Exception:  # from outside, and damaged in any way
        exif = _rewrite_exif(Image.Exif(), size)
        notes.append("its EXIF is damaged: left out")
    xmp = image.info.get("xmp") or b""
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    metadata = Metadata(exif, re.sub(rb'(tiff:Orientation(?:="|>))\d+', rb"\g<1>1", xmp))
    dpi = image.info.get("dpi")
    made_up = image.format in ("JPEG", "MPO") and not image.info.get("jfif_unit") and not has_resolution
    if isinstance(dpi, tuple) and len(dpi) == 2 and all(1 < float(value) < 1e6 for value in dpi) and not made_up:
        metadata.dpi = (float(dpi[0]), float(dpi[1]))
    comment = image.info.get("comment")
    metadata.comment = comment if isinstance(comment, bytes) and image.format in ("JPEG", "MPO") else b""
    metadata.iptc = [data for name, data in getattr(image, "applist", []) if name == "APP13"]
    return metadata


def set_srgb(exif: bytes) -> bytes:
    """Set the color space in a block of EXIF, if it has one, to sRGB."""
    block = Image.Exif()
    block.load(b"Exif\0\0" + exif)
    if ExifTags.Base.ColorSpace not in block.get_ifd(_EXIF_IFD):
        return exif
    block.get_ifd(_EXIF_IFD)[ExifTags.Base.ColorSpace] = 1
    block.get_ifd(ExifTags.IFD.GPSInfo)
    block.endian = "<"
    return block.tobytes().removeprefix(b"Exif\0\0")


def prepare_for_jpeg(metadata: Metadata, notes: list[str]) -> tuple[bytes, bytes, bytes]:
    """Return EXIF, XMP and APP13 segments for a JPEG, which limits their length."""
    exif, xmp = metadata.exif, metadata.xmp
    if len(exif) > _LONGEST:
        notes.append("its EXIF is too long for a JPEG: left out")
        exif = _rewrite_exif(Image.Exif(), (0, 0))
    if len(xmp) > _LONGEST:
        notes.append("its XMP is too long for a JPEG: left out")
        xmp = b""
    segments = b"".join(b"\xff\xed" + (len(data) + 2).to_bytes(2, "big") + data for data in metadata.iptc)
    return b"Exif\0\0" + exif, xmp, segments


def _rewrite_exif(opened: Image.Exif, size: tuple[int, int]) -> bytes:
    exif = Image.Exif()
    exif.load(opened.tobytes())  # a copy: Pillow itself reads the orientation when it loads a TIFF
    for tag in (*_STORAGE, _ORIENTATION):
        exif.pop(tag, None)
    exif[_MADE_BY] = SIGNATURE
    details = exif.get_ifd(_EXIF_IFD)
    for tag, value in ((ExifTags.Base.ExifImageWidth, size[0]), (ExifTags.Base.ExifImageHeight, size[1])):
        if tag in details:
            details[tag] = value
    if str(exif.get(ExifTags.Base.ImageDescription, "")).startswith('{"shape": ['):
        del exif[ExifTags.Base.ImageDescription]  # tifffile's note on the old file's storage, which it would trust
    exif.get_ifd(ExifTags.IFD.GPSInfo)  # read before the byte order changes
    exif.endian = "<"
    return exif.tobytes().removeprefix(b"Exif\0\0")
