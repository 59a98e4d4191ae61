"""What a photograph's file says beside its pixels, kept for the file of the result.

EXIF is written anew by Pillow: all tags and maker notes stay; the thumbnail, which would show the image without
color, goes, and so does what described the old file's storage. The orientation is 1, since the result is upright,
and ProcessingSoftware says that Pretint made it. XMP stays as it is, but for its orientation.
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
"""TIFF tags on how pixels are stored, and those that are carried in a way of their own."""
_LONGEST = 65_000  # bytes that one marker of a JPEG holds, roughly


@dataclass
class Metadata:
    """Of a photograph."""

    exif: bytes
    """A little-endian block, without the word "Exif" in front."""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    comment: bytes = b""
    iptc: list[bytes] = field(default_factory=list)
    """A JPEG's APP13 segments, which hold the captions of news photographs."""


def read_metadata(image: Image.Image, size: tuple[int, int], notes: list[str]) -> Metadata:
    """What an opened image says.

    Args:
        image: as opened by Pillow; its pixels need not have been read.
        size: of the upright image.
        notes: what cannot be kept is added.
    """
    said = False
    try:
        opened = image.getexif()
        said = ExifTags.Base.XResolution in opened
        exif = _renewed(opened, size)
    except Exception:  # of unknown origin, and damaged in any way
        exif = _renewed(Image.Exif(), size)
        notes.append("its EXIF is damaged: left out")
    xmp = image.info.get("xmp") or b""
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    found = Metadata(exif, re.sub(rb'(tiff:Orientation(?:="|>))\d+', rb"\g<1>1", xmp))
    dpi = image.info.get("dpi")
    made_up = image.format in ("JPEG", "MPO") and not image.info.get("jfif_unit") and not said
    if isinstance(dpi, tuple) and len(dpi) == 2 and all(1 < float(one) < 1e6 for one in dpi) and not made_up:
        found.dpi = (float(dpi[0]), float(dpi[1]))
    comment = image.info.get("comment")
    found.comment = comment if isinstance(comment, bytes) and image.format in ("JPEG", "MPO") else b""
    found.iptc = [data for name, data in getattr(image, "applist", []) if name == "APP13"]
    return found


def in_srgb(exif: bytes) -> bytes:
    """A block of EXIF that calls the image's colors, if it says anything of them, those of sRGB."""
    found = Image.Exif()
    found.load(b"Exif\0\0" + exif)
    if ExifTags.Base.ColorSpace not in found.get_ifd(_EXIF_IFD):
        return exif
    found.get_ifd(_EXIF_IFD)[ExifTags.Base.ColorSpace] = 1
    found.get_ifd(ExifTags.IFD.GPSInfo)
    found.endian = "<"
    return found.tobytes().removeprefix(b"Exif\0\0")


def in_jpeg(found: Metadata, notes: list[str]) -> tuple[bytes, bytes, bytes]:
    """EXIF, XMP and APP13 segments as a JPEG holds them, whose parts are of limited length."""
    exif, xmp = found.exif, found.xmp
    if len(exif) > _LONGEST:
        notes.append("its EXIF is too long for a JPEG: left out")
        exif = _renewed(Image.Exif(), (0, 0))
    if len(xmp) > _LONGEST:
        notes.append("its XMP is too long for a JPEG: left out")
        xmp = b""
    segments = b"".join(b"\xff\xed" + (len(one) + 2).to_bytes(2, "big") + one for one in found.iptc)
    return b"Exif\0\0" + exif, xmp, segments


def _renewed(opened: Image.Exif, size: tuple[int, int]) -> bytes:
    exif = Image.Exif()
    exif.load(opened.tobytes())  # a copy: Pillow itself looks at the orientation when it loads a TIFF
    for tag in (*_STORAGE, _ORIENTATION):
        exif.pop(tag, None)
    exif[_MADE_BY] = SIGNATURE
    shown = exif.get_ifd(_EXIF_IFD)
    for tag, value in ((ExifTags.Base.ExifImageWidth, size[0]), (ExifTags.Base.ExifImageHeight, size[1])):
        if tag in shown:
            shown[tag] = value
    if str(exif.get(ExifTags.Base.ImageDescription, "")).startswith('{"shape": ['):
        del exif[ExifTags.Base.ImageDescription]  # tifffile's note on the old file's storage, which it believes
    exif.get_ifd(ExifTags.IFD.GPSInfo)  # read before the byte order is another
    exif.endian = "<"
    return exif.tobytes().removeprefix(b"Exif\0\0")
