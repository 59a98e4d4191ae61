"""Decoding: from the bytes of an image file to an upright RGB image.

All files are decoded here. Where a format leaves a choice, these are the rules:

- Transparency is composited on white.
- Gray of 16 bits is divided by 257. 32-bit integers and floats have no fixed white. If all values of an image
  lie within [0, 65535] (integers) or [0, 1] (floats), they are scaled by that range, otherwise from their least to
  their greatest value. Nothing is clipped; NaN and infinity are black.
- Colors with an embedded ICC profile are converted to sRGB (RGB and CMYK images; not if the profile changes no
  color by more than 2 levels of 255). An unusable profile is ignored. That of a gray image is ignored too: it is only
  a tone curve, and the image must stay neutral. CMYK without a profile is converted as Pillow does.
- An EXIF block that cannot be read is ignored. The first of several frames is used.
"""

import contextlib
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageMode, TiffImagePlugin, UnidentifiedImageError

from pretext.data.formats import ENDINGS, FORMATS, HEIF_HINT, KNOWN
from pretext.errors import ImageError

DECODER: str = f"pillow {PIL.__version__}"
"""The decoder and its version. Runs record it, because another decoder gives slightly different pixels."""

_BUILTIN = tuple(name for name in FORMATS if name != "HEIF")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"GIF8": "GIF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
}
_BYTES_A_PIXEL = 12  # Pillow needs 4; the rest is for a rotated or converted copy, and buffers
_LONGEST = 200  # characters of a decoder's message: some quote a whole header
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that makes an image upright; orientation 1 needs none."""


def decode(data: bytes, key: str, shorter: int | None = None) -> Image.Image:
    """Return the image in ``data``: mode RGB, upright.

    Args:
        data: the whole file, in any of ``formats.FORMATS``; its name does not matter.
        key: the name of the image, for the error.
        shorter: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as its shorter side stays at
            least this many pixels.

    Raises:
        ImageError: the data is empty, truncated, damaged, of no known format, or has more pixels than
            ``PIL.Image.MAX_IMAGE_PIXELS``.
        MemoryError: there is not enough memory for an image of its size.
    """
    assert shorter is None or shorter > 0, shorter
    if not data:
        raise ImageError(key, "empty file (0 bytes)")
    pixels = 0
    try:
        with open_image(BytesIO(data)) as image:
            pixels = image.width * image.height
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and pixels > limit:
                raise Image.DecompressionBombError
            if shorter is not None:
                image.draft(None, (shorter, shorter))
            image.load()
            operation = UPRIGHT.get(read_orientation(image))
            upright = _to_rgb(image)
            if operation is not None:
                upright = upright.transpose(operation)
            upright.info.clear()  # or saving it would write the profile and orientation of the file
            return upright
    except Exception as problem:  # Pillow raises many types of error for damaged bytes
        if isinstance(problem, MemoryError):
            # If memory is too small for any image of so many pixels, this raises again, because this file is not at
            # fault: if it was skipped, a run would depend on the free memory.
            bytearray(_BYTES_A_PIXEL * pixels)
        raise ImageError(key, why_undecodable(problem, data)) from problem


def size_of(path: Path, key: str) -> tuple[int, int]:
    """Return width and height of the image that ``decode`` would make of a file; only its head is read.

    Raises:
        ImageError: it cannot be read, or is no image.
    """
    try:
        with open_image(path) as image:
            width, height = image.size
            return (height, width) if 5 <= read_orientation(image) <= 8 else (width, height)
    except Exception as problem:  # as in decode
        denied = problem.strerror if isinstance(problem, OSError) else None
        raise ImageError(key, f"cannot be read: {denied}" if denied else why_undecodable(problem, b"")) from problem


def why_undecodable(problem: Exception, data: bytes) -> str:
    """Return why ``data`` cannot be decoded, for the user: in one line.

    Args:
        problem: what a decoder raised.
        data: at least the first 32 bytes of the file.
    """
    message = " ".join(str(problem).split())[:_LONGEST]
    match problem:
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return f"too large: more than {Image.MAX_IMAGE_PIXELS} pixels; scale it down first"
        case UnidentifiedImageError():
            return why_unidentified(data[:32])
        case MemoryError():
            return "damaged or too large: decoding it needs more memory than there is"
        case EOFError():
            return f"truncated: {message or 'the data ends too early'}"
    kind = "truncated" if "truncated" in message.lower() else "damaged"
    return f"{kind}: {message or type(problem).__name__}"


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image; 1 if there is none, or it cannot be read."""
    try:
        # Not ImageOps.exif_transpose: it also writes the whole block anew, which fails for odd tags.
        return cast("int", image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged block makes Pillow raise nearly anything; the pixels may still be whole
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image in mode RGB, by the rules of this module."""
    if image.mode == "F" or image.mode.startswith("I"):
        gray: NDArray[np.floating[Any]] = np.array(image, np.float64 if image.mode == "F" else np.float32)
        gray[~np.isfinite(gray)] = 0
        low, high = 0.0, 1.0 if image.mode == "F" else 65535.0
        if image.mode.startswith("I;16"):
            # Pillow does not convert 12-bit samples and white-is-zero TIFF.
            tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
            high = 2.0 ** tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0] - 1
            if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
                gray = high - gray
        elif not low <= gray.min() <= gray.max() <= high:
            low, high = float(gray.min()), float(gray.max())
        scale = 255 / (high - low) if high > low else 0.0
        return Image.fromarray(np.rint((gray - low) * scale).astype(np.uint8)).convert("RGB")
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        # Premultiplied gray (La) converts to LA only.
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        flat = Image.alpha_composite(white, layer).convert("RGB")
    else:
        flat = image if image.mode == "CMYK" else image.convert("RGB")
    neutral = ImageMode.getmode(image.mode).basemode == "L"
    transform = _to_srgb(profile, flat.mode) if profile and not neutral else None
    if transform is not None:
        return cast("Image.Image", ImageCms.applyTransform(flat, transform))
    return flat.convert("RGB") if flat.mode == "CMYK" else flat


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from ``profile`` to sRGB; None if it would change nothing or cannot be built."""
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB"), mode, "RGB"
        )
    except Exception:  # an image with a broken profile is still an image
        return None
    if mode != "RGB":
        return transform
    steps = np.arange(0, 256, 51, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    difference = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), transform)).astype(int) - cube
    return transform if np.abs(difference).max() > 2 else None


def open_image(file: Path | IO[bytes], formats: Sequence[str] = ()) -> Image.Image:
    """Open an image with Pillow by its content, not by its name; only its head is read.

    Args:
        file: a path, or a file that is open at its beginning.
        formats: keys of ``FORMATS``; all by default.

    Raises:
        UnidentifiedImageError: it has none of the formats.
        Exception: it is damaged; many types are possible.
    """
    builtin = [name for name in formats or _BUILTIN if name != "HEIF"]
    try:
        return Image.open(file, formats=builtin)
    except UnidentifiedImageError:
        if isinstance(file, Path):
            with file.open("rb") as stream:
                head = stream.read(32)
        else:
            file.seek(0)
            head = file.read(32)
        if (formats and "HEIF" not in formats) or not is_heif(head) or not _can_read_heif():
            raise
        return Image.open(file, formats=("HEIF",))


def is_heif(head: bytes) -> bool:
    """Whether ``head``, the first bytes of a file, are those of HEIF: most are photographs from phones."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def why_unidentified(head: bytes) -> str:
    """Return a message for the user on why a file has none of the formats.

    Args:
        head: the first bytes of the file, at least 32 if it has as many.
    """
    if is_heif(head) and not _can_read_heif():
        return f"is a HEIF image (.heic), which needs pillow-heif: {HEIF_HINT}"
    name = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    if head[4:8] == b"ftyp":
        name = "AVIF" if head[8:12] in (b"avif", b"avis") else "HEIF" if is_heif(head) else None
    if name:
        return f"damaged: begins like a{'n' * (name == 'AVIF')} {name} file, but its header cannot be read"
    return "not an image: no known format"


def _can_read_heif() -> bool:
    with contextlib.suppress(ImportError):
        if ENDINGS is KNOWN:
            from pillow_heif import register_heif_opener

            register_heif_opener()
            return True
    return False
