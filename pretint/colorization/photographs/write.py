"""Photographs to files: colored, with what their own files said beside the pixels."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from torch import Tensor

from pretext.errors import ImageError
from pretext.files import is_ours, written_atomically
from pretint.colorization.merge import Colors, Enlarged, in_strips, join_rows
from pretint.colorization.photographs.deep_png import write_deep_png
from pretint.colorization.photographs.metadata import SIGNATURE, in_jpeg
from pretint.colorization.photographs.read import Photograph, unlimited
from pretint.colorization.photographs.tiff import write_tiff

Format = Literal["jpeg", "png", "webp", "tiff"]
FORMATS: dict[Format, str] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "tiff": ".tif"}
"""What can be written, and the ending of its files."""
QUALITY = 95
"""Of a JPEG or a lossy WebP, if nobody says else."""

_SIDES = {"jpeg": 65_500, "webp": 16_383}
_MADE_BY = 11  # ProcessingSoftware of EXIF


def write_photograph(
    photograph: Photograph, ab: Tensor | Colors, to: Path | IO[bytes], format: Format, quality: int = QUALITY
) -> list[str]:
    """Write a photograph with its own L and new colors, in the depth of the photograph where the format has it.

    JPEG is written at 4:4:4, since color is what it is about. WebP is lossless where the photograph's file was.

    Args:
        photograph: of which only L, alpha, profile and metadata count.
        ab: colors of its size, or (1, 2, h, w), float, unscaled, of any size.
        to: a path, written atomically, or an open file.
        format: of the file.
        quality: 1 to 100.

    Returns:
        What could not be kept, a line each.

    Raises:
        ImageError: the format cannot hold such an image.
        UserError: the file cannot be written.
    """
    limit = _SIDES.get(format)
    if limit and max(photograph.size) > limit:
        raise ImageError(photograph.key, f"{format} holds at most {limit:,} pixels a side; take --format png or tiff")
    if format == "jpeg" and photograph.alpha is not None:
        raise ImageError(photograph.key, "is partly transparent, which jpeg cannot be; take --format png, webp, tiff")
    notes: list[str] = []
    colors = Enlarged(ab, photograph.size) if isinstance(ab, Tensor) else ab
    if isinstance(to, Path):
        with written_atomically(to, f"the image, of {photograph.size[0]} x {photograph.size[1]} pixels") as file:
            _write(photograph, colors, file, format, quality, notes)
    else:
        _write(photograph, colors, to, format, quality, notes)
    return notes


def signed(path: Path) -> bool:
    """Whether a file is an image that ``write_photograph`` or ``pretext.files.write_png`` wrote."""
    if not path.is_file():  # opening a pipe would wait for somebody
        return False
    try:
        with unlimited():
            if is_ours(path):
                return True
            with Image.open(path) as image:
                return str(image.getexif().get(_MADE_BY, "")).rstrip("\0") == SIGNATURE
    except Exception:  # whatever it is, it is not ours
        return False


def _write(
    photograph: Photograph, colors: Colors, file: IO[bytes], format: Format, quality: int, notes: list[str]
) -> None:
    deep = photograph.bits == 16
    found, profile = photograph.metadata, photograph.profile
    if format == "tiff":
        write_tiff(
            file, photograph.size, 16 if deep else 8, _strips(photograph, colors), found, profile,
            alpha=photograph.alpha is not None,
        )  # fmt: skip
        return
    if format == "png" and deep:
        alpha = photograph.alpha is not None
        write_deep_png(file, photograph.size, _strips(photograph, colors), found, profile, alpha=alpha)
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
        exif, xmp, segments = in_jpeg(found, notes)
        shared |= {"exif": exif, "extra": segments, "quality": quality, "subsampling": 0}
        shared |= {
            name: value for name, value in (("xmp", xmp), ("dpi", found.dpi), ("comment", found.comment)) if value
        }
        buffer = BytesIO()  # to a file Pillow writes past Python, and takes a write that was cut short for a whole one
        image.save(buffer, "JPEG", **shared)
        file.write(buffer.getbuffer())
    elif format == "webp":
        how = {"lossless": True, "exact": True} if photograph.lossless else {"quality": quality}
        image.save(file, "WEBP", exif=b"Exif\0\0" + found.exif, xmp=found.xmp, **shared, **how)
    else:
        text = PngImagePlugin.PngInfo()
        text.add_text("Software", SIGNATURE)
        if found.xmp:
            text.add_itxt("XML:com.adobe.xmp", found.xmp.decode("utf-8", "replace"))
        dpi = {"dpi": found.dpi} if found.dpi else {}
        image.save(file, "PNG", exif=b"Exif\0\0" + found.exif, pnginfo=text, **dpi, **shared)


def _strips(photograph: Photograph, colors: Colors) -> Iterator[NDArray[Any]]:
    """The colored image from top to bottom: (rows, W, 3), or 4 with alpha."""

    def strip(top: int, bottom: int) -> NDArray[Any]:
        pixels = photograph.rows(top, bottom)
        rows = join_rows(pixels, colors.rows(top, bottom, pixels))
        if photograph.in_profile is not None:
            rows = photograph.in_profile(rows)
        return rows if photograph.alpha is None else np.dstack((rows, photograph.alpha_rows(top, bottom)))

    return in_strips(photograph.size, strip)


def in_memory(
    photograph: Photograph, ab: Tensor | Colors, format: Format, quality: int = QUALITY
) -> tuple[bytes, list[str]]:
    """The content of the file, and what could not be kept."""
    buffer = BytesIO()
    notes = write_photograph(photograph, ab, buffer, format, quality)
    return buffer.getvalue(), notes
