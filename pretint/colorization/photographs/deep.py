"""Reading of images with more than 8 bits a sample, which Pillow reads only if they are gray.

PNG is read twice, a byte of each sample at a time; tifffile reads TIFF (which needs imagecodecs for LZW and JPEG
compression).
"""

from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin

from pretext.data.planes import read_deep_png
from pretext.errors import UserError

_MOST = 65535
_LONG_HEAD = 2**16  # bytes of a file that hold its depth
_ASSOCIATED, _UNASSOCIATED = 1, 2  # values of TIFF's ExtraSamples: color multiplied by alpha, or not


class DeepPixels(NamedTuple):
    """Pixels as they are in the file."""

    pixels: NDArray[Any]
    """uint16, (H, W) or (H, W, 3)."""
    alpha: NDArray[Any] | None
    """uint16, (H, W)."""
    loaded: bool
    """Whether they come from Pillow."""


def is_deep(image: Image.Image, file: Path | bytes) -> bool:
    """Whether an opened image has samples of 16 or 32 bits. CMYK counts as 8 bits, as it is read."""
    if image.mode.startswith("I") or image.mode == "F":
        return True
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        bits, photometric = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)), tags.get(262)
        return set(bits) == {16} and photometric in (0, 1, 2)
    if isinstance(image, PngImagePlugin.PngImageFile):
        return _head(file)[24] == 16
    return False


def color_bits(image: Image.Image, file: Path | bytes) -> int:
    """Return bits a channel of an opened PPM, JPEG 2000, AVIF or HEIF; Pillow reads 8 of them if it has colors."""
    match image.format:
        case "PPM" if isinstance(image, ImageFile.ImageFile) and image.tile and isinstance(image.tile[0].args, tuple):
            return int(image.tile[0].args[-1]).bit_length() if len(image.tile[0].args) == 2 else 8  # greatest value
        case "HEIF":
            return int(image.info.get("bit_depth") or 8)
        case "JPEG2000":
            head = _head(file, _LONG_HEAD)
            at = head.find(b"\xff\x4f\xff\x51")  # the codestream; behind 40 bytes of it, the depth of each channel
            return max(byte % 128 + 1 for byte in head[at + 42 : at + 45 : 3]) if 0 <= at < len(head) - 45 else 8
        case "AVIF":
            head = _head(file, _LONG_HEAD)
            flags = head[at + 6] if 0 <= (at := head.find(b"av1C")) < len(head) - 6 else 0
            return (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    return 8


def read_deep(image: Image.Image, file: Path | bytes) -> DeepPixels:
    """Read the pixels of an image for which ``is_deep`` holds.

    Raises:
        UserError: it is compressed in a way that needs imagecodecs.
        Exception: of many kinds, if it is damaged.
    """
    if image.mode.startswith("I") or image.mode == "F":
        image.load()
        samples = np.array(image)
        return DeepPixels(_convert_gray(image), _color_key_alpha(samples[..., None], image), loaded=True)
    kind = _UNASSOCIATED
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        with tifffile.TiffFile(BytesIO(file) if isinstance(file, bytes) else file) as opened:
            page = opened.pages.first
            try:
                samples = page.asarray()
            except ValueError as error:
                if "imagecodecs" not in str(error):
                    raise
                form = getattr(page.compression, "name", page.compression)
                raise UserError(
                    f"16 bits, {form}-compressed, needs imagecodecs: pip install 'pretint[color]'"
                ) from error
            if page.axes.startswith("S"):
                samples = np.moveaxis(samples, 0, -1)
        samples = np.asarray(samples, np.uint16)
        samples = samples[..., None] if samples.ndim == 2 else samples
        kind = (*image.tag_v2.get(TiffImagePlugin.EXTRASAMPLES, ()), 0)[0]
    else:
        content = file if isinstance(file, bytes) else file.read_bytes()
        samples = np.asarray(read_deep_png(PngImagePlugin.PngImageFile(BytesIO(content)), content), np.uint16)
    colors = 1 if samples.shape[2] < 3 else 3
    pixels = samples[..., 0] if colors == 1 else samples[..., :3]
    if samples.shape[2] == colors:
        return DeepPixels(pixels, _color_key_alpha(samples, image), loaded=False)
    alpha = samples[..., colors] if kind in (_ASSOCIATED, _UNASSOCIATED) else None  # else a scanner's infrared, say
    if kind == _ASSOCIATED and alpha is not None:
        separated = np.empty_like(pixels)  # the colors before they were multiplied by alpha
        for top in range(0, len(pixels), 256):
            part = alpha[top : top + 256].astype(np.float64)
            part = part if pixels.ndim == 2 else part[..., None]
            full = pixels[top : top + 256].astype(np.float64) * _MOST / np.maximum(part, 1)
            separated[top : top + 256] = np.rint(full).clip(0, _MOST)
        pixels = separated
    return DeepPixels(pixels, alpha, loaded=False)


def _color_key_alpha(samples: NDArray[Any], image: Image.Image) -> NDArray[Any] | None:
    """Return the alpha of a PNG in which one color is transparent; samples are (H, W, 1 or 3)."""
    key = image.info.get("transparency")
    if key is None or not isinstance(image, PngImagePlugin.PngImageFile):
        return None
    color = np.array(key if isinstance(key, tuple) else (key,), samples.dtype)
    return np.where((samples == color).all(-1), 0, _MOST).astype(np.uint16)


def _head(file: Path | bytes, size: int = 32) -> bytes:
    if isinstance(file, bytes):
        return file[:size]
    with file.open("rb") as opened:
        return opened.read(size)


def _convert_gray(image: Image.Image) -> NDArray[Any]:
    """Convert gray of 16 or 32 bits (modes I;16*, I, F) to uint16, by the rules of ``pretext.data.decode``."""
    if image.mode.startswith("I;16"):
        tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
        bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
        samples = np.array(image).astype(np.uint16, copy=False)
        if bits != 16:
            samples = np.rint(samples.astype(np.float32) * (_MOST / (2.0**bits - 1))).astype(np.uint16)
        if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
            samples = _MOST - samples
        return samples
    values = np.array(image, np.float64)
    values[~np.isfinite(values)] = 0
    low, high = 0.0, 1.0 if image.mode == "F" else float(_MOST)
    if not low <= values.min() <= values.max() <= high:
        low, high = float(values.min()), float(values.max())
    values -= low
    values *= _MOST / (high - low) if high > low else 0.0
    return np.rint(values).astype(np.uint16)
