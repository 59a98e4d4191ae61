"""Photographs from files: pixels of 8 or 16 bits in sRGB, upright, with alpha apart, and their metadata.

Nothing is decoded before the size is known and allowed. An image is held once, in its own depth; the rest is computed
in strips.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageMode, UnidentifiedImageError
from torch import Tensor

from pretext.color import rgb_to_lightness
from pretext.data.decode import UPRIGHT, decode, open_image
from pretext.engine.memory import available_memory
from pretext.errors import ImageError, UserError
from pretint.colorization.photographs.deep import DeepPixels, color_bits, is_deep, read_deep
from pretint.colorization.photographs.metadata import Metadata, read_metadata, set_srgb
from pretint.colorization.photographs.profiles import (
    UnusableProfile,
    deep_transform,
    from_srgb,
    is_srgb,
    profile_name,
    srgb_profile,
    to_srgb,
)

MEGAPIXELS = 200.0
"""The default of the largest image that is opened."""

_BYTES_A_PIXEL = {8: 13, 16: 14}  # at the worst moment: source, its upright copy or the result, the encoder's buffer


@dataclass
class Photograph:
    """An opened image: sRGB, upright."""

    key: str
    """Its name in messages."""
    format: str
    """The format of its file: one of ``pretext.data.formats.FORMATS``."""
    size: tuple[int, int]
    """Width and height."""
    pixels: Image.Image | NDArray[Any]
    """Mode L or RGB; with 16 bits, uint16 (H, W) or (H, W, 3)."""
    alpha: Image.Image | NDArray[Any] | None
    """Mode L or uint16 (H, W)."""
    profile: bytes
    """The ICC profile of the result: the file's own, sRGB's if that is not of RGB, or nothing if the file has none."""
    lossless: bool
    """Whether the file's compression is lossless."""
    metadata: Metadata
    in_profile: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    """Converts rows of sRGB, (rows, W, 3), to ``profile``; None if that is sRGB's."""
    notes: list[str] = field(default_factory=list)
    """Notes for the user about changes of the image."""

    @classmethod
    def of(cls, image: Image.Image) -> "Photograph":
        """Make a photograph of an image, mode RGB or L, that has no file."""
        assert image.mode in ("RGB", "L"), image.mode
        return cls(
            "image", "PNG", image.size, image, None, b"", True, read_metadata(Image.new("L", (1, 1)), image.size, [])
        )

    @property
    def bits(self) -> int:
        """8 or 16."""
        return 8 if isinstance(self.pixels, Image.Image) else 16

    def rows(self, top: int, bottom: int) -> NDArray[Any]:
        """Return some rows: uint8 or uint16, (rows, W) or (rows, W, 3)."""
        return _rows(self.pixels, self.size, top, bottom)

    def alpha_rows(self, top: int, bottom: int) -> NDArray[Any]:
        """Return some rows of the alpha channel, (rows, W)."""
        assert self.alpha is not None
        return _rows(self.alpha, self.size, top, bottom)

    def reduced(self, size: tuple[int, int]) -> Image.Image:
        """Return the image at another size, RGB of 8 bits, transparent pixels on white."""
        if self.alpha is None:
            return _resize(self.pixels, size).convert("RGB")
        if isinstance(self.pixels, Image.Image) and isinstance(self.alpha, Image.Image):
            image = self.pixels.convert("RGB")
            image.putalpha(self.alpha)  # so that what is transparent does not bleed into what is not
            small = _resize(image, size)
        else:
            small = _resize(self.pixels, size).convert("RGB")
            small.putalpha(_resize(self.alpha, size))
        return Image.alpha_composite(Image.new("RGBA", size, "white"), small).convert("RGB")

    def seen(self, size: tuple[int, int]) -> Tensor:
        """Return L of ``reduced``, (1, 1, h, w), float32."""
        return rgb_to_lightness(torch.from_numpy(np.array(self.reduced(size))).permute(2, 0, 1)[None])


def open_photograph(
    file: Path | bytes, key: str = "", megapixels: float = MEGAPIXELS, first_frame: bool = False
) -> Photograph:
    """Open an image file of any of ``pretext.data.formats.FORMATS``, whatever its name says.

    Args:
        file: its path, or all of its bytes.
        key: its name in errors; by default the path.
        megapixels: the largest size.
        first_frame: take the first frame of an animation, or the first of several pages; else it is refused.

    Raises:
        ImageError: it cannot be read, is damaged, has more pixels than allowed or than memory holds, or has
            several frames; or reading it needs a package that is missing.
    """
    key = key or str(file)
    try:
        with unlimited(), open_image(BytesIO(file) if isinstance(file, bytes) else file) as image:
            pixels = image.width * image.height
            if pixels > megapixels * 1e6:
                raise UserError(
                    f"has {pixels / 1e6:,.0f} megapixels; the limit is {megapixels:,.0f}; if you trust the file, "
                    "raise --megapixels"
                )
            needed, free = pixels * max(_BYTES_A_PIXEL.values()), available_memory(torch.device("cpu"))
            if needed > free:
                raise UserError(
                    f"has {pixels / 1e6:,.0f} megapixels: it takes about {needed / 1e9:.1f} GB of memory, and "
                    f"{free / 1e9:.1f} GB are free"
                )
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and not first_frame and image.format != "MPO":  # MPO: a phone's JPEG with a second image
                raise UserError(
                    f"holds {frames} frames or pages; give a file with a single image, or add --first-frame"
                )
            return _read(image, file, key)
    except UserError as error:
        raise ImageError(key, str(error)) from error
    except MemoryError as error:
        raise ImageError(key, "larger than memory allows") from error
    except Exception as error:  # damaged bytes make Pillow raise nearly anything
        if isinstance(error, OSError) and error.strerror:
            raise ImageError(key, f"cannot be read ({error.strerror})") from error
        if isinstance(error, UnidentifiedImageError) or isinstance(file, bytes):
            try:  # pretext.data.decode, whose message then explains the error
                decode(file if isinstance(file, bytes) else file.read_bytes()[: 1 << 20], "")
            except ImageError as image_error:
                raise ImageError(key, image_error.reason) from error
        message = " ".join(str(error).split())
        damage = "truncated" if "truncated" in message.lower() else "damaged"
        raise ImageError(key, f"{damage}: {message or type(error).__name__}") from error


@contextlib.contextmanager
def unlimited() -> Iterator[None]:
    """Lift Pillow's own limit of pixels, which is global; ours is checked instead."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd tags, which do no harm here
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _read(image: Image.Image, file: Path | bytes, key: str) -> Photograph:
    by_pillow = image.format == "TIFF"  # Pillow turns its size at once, and its pixels when they are loaded
    try:
        orientation = image.getexif().get(274, 1)
    except Exception:  # an EXIF block that cannot be read turns nothing
        orientation = 1
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    width, height = image.size
    size = (height, width) if orientation >= 5 and not by_pillow else (width, height)
    format = {"MPO": "JPEG"}.get(image.format or "", image.format or "")
    lossless = format in ("PNG", "TIFF", "BMP", "GIF", "PPM") or (format == "WEBP" and _is_lossless_webp(file))
    notes: list[str] = []
    metadata = read_metadata(image, size, notes)
    icc_profile = image.info.get("icc_profile") or b""
    pixels: Image.Image | NDArray[Any]
    alpha: Image.Image | NDArray[Any] | None
    if is_deep(image, file):
        deep: DeepPixels = read_deep(image, file)
        orientation = 1 if deep.loaded and by_pillow else orientation
        pixels = _upright(deep.pixels, orientation)
        alpha = None if deep.alpha is None else _upright(deep.alpha, orientation)
        profile, back = _convert_deep(pixels, icc_profile, notes)
    else:
        if (bits := color_bits(image, file)) > 8:
            notes.append(f"of its {bits} bits a channel, 8 were read")
        image.load()
        layer: Image.Image | None = None
        flat: Image.Image = image
        if image.has_transparency_data:
            gray = ImageMode.getmode(image.mode).basemode == "L" and image.mode != "P"
            transparent = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
            flat, layer = transparent.convert("L" if gray else "RGB"), transparent.getchannel("A")
            del transparent  # it is large
        elif image.mode not in ("L", "RGB", "CMYK"):
            flat = image.convert("L" if image.mode == "1" else "RGB")
        flat, profile, back = _convert(flat, icc_profile, notes)
        turn = None if by_pillow else UPRIGHT.get(orientation)
        pixels = flat if turn is None else flat.transpose(turn)
        alpha = layer if turn is None or layer is None else layer.transpose(turn)
        pixels.info.clear()
    if back is None:
        metadata.exif = set_srgb(metadata.exif)
    return Photograph(key, format, size, pixels, alpha, profile, lossless, metadata, back, notes)


def _convert(flat: Image.Image, profile: bytes, notes: list[str]) -> tuple[Image.Image, bytes, Any]:
    """Convert an 8-bit image to sRGB, L or RGB. Return it, the profile of the result, and how to get there."""
    if profile:
        try:
            if is_srgb(profile, flat.mode):
                return flat, profile if flat.mode == "RGB" else srgb_profile(), None
            is_rgb = flat.mode == "RGB"
            converted = to_srgb(flat, profile)
        except UnusableProfile:
            notes.append("its ICC profile is damaged or of another kind of image: ignored")
        else:
            if is_rgb:
                return converted, *_result_profile(profile, 8, notes)
            notes.append(f"converted from {profile_name(profile)} to sRGB")
            return converted, srgb_profile(), None
    return (flat.convert("RGB") if flat.mode == "CMYK" else flat), b"", None


def _convert_deep(pixels: NDArray[Any], profile: bytes, notes: list[str]) -> tuple[bytes, Any]:
    """Convert 16-bit pixels to sRGB, in place. Return the profile of the result, and how to get there."""
    if not profile:
        return b"", None
    gray = pixels.ndim == 2
    try:
        if is_srgb(profile, "L" if gray else "RGB"):
            return srgb_profile() if gray else profile, None
        convert = deep_transform(profile, gray)
    except UnusableProfile:
        notes.append("its ICC profile is damaged or of another kind of image: ignored")
        return b"", None
    for top in range(0, len(pixels), 256):
        pixels[top : top + 256] = convert(pixels[top : top + 256])
    if not gray:
        return _result_profile(profile, 16, notes)
    notes.append(f"converted from {profile_name(profile)} to sRGB")
    return srgb_profile(), None


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return the same pixels in another order, without a copy."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    across, down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return pixels[:: -1 if down else 1, :: -1 if across else 1]


def _result_profile(profile: bytes, bits: int, notes: list[str]) -> tuple[bytes, Any]:
    """Return the profile of the result of a converted image, and how to get there from sRGB."""
    try:
        return profile, from_srgb(profile, bits)
    except UnusableProfile:
        notes.append(f"the result is in sRGB: {profile_name(profile)} says only how its colors are read")
        return srgb_profile(), None


def _rows(pixels: Image.Image | NDArray[Any], size: tuple[int, int], top: int, bottom: int) -> NDArray[Any]:
    if isinstance(pixels, Image.Image):
        return np.asarray(pixels.crop((0, top, size[0], bottom)))
    return pixels[top:bottom]


def _resize(pixels: Image.Image | NDArray[Any], size: tuple[int, int]) -> Image.Image:
    """Resize to an 8-bit image. Of 16-bit pixels, whole blocks are averaged first, as ``reducing_gap`` does for 8."""
    if not isinstance(pixels, Image.Image):
        height, width = pixels.shape[:2]
        block = [max(1, int(side / (3 * small))) for side, small in ((height, size[1]), (width, size[0]))]
        means = []
        for top in range(0, height, block[0]):
            columns = np.add.reduceat(
                pixels[top : top + block[0]].sum(0, dtype=np.float64), np.arange(0, width, block[1])
            )
            means.append(columns / min(block[0], height - top))
        counts = np.diff(np.append(np.arange(0, width, block[1]), width))
        mean = np.stack(means) / (counts[:, None] if pixels.ndim == 3 else counts)
        blocks = Image.fromarray(np.rint(mean / 257).astype(np.uint8))
        box = (0, 0, width / block[1], height / block[0])  # the last block may be a part of one
        return blocks.resize(size, Image.Resampling.BICUBIC, box=box)
    return pixels.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def _is_lossless_webp(file: Path | bytes) -> bool:
    with BytesIO(file) if isinstance(file, bytes) else file.open("rb") as opened:
        opened.seek(12)
        while len(head := opened.read(8)) == 8:
            if head[:4] in (b"VP8L", b"VP8 "):
                return head[:4] == b"VP8L"
            length = int.from_bytes(head[4:], "little")
            opened.seek(length + length % 2, 1)
    return False
