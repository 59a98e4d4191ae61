"""ICC profiles: pixels are converted to sRGB for coloring, and back for the result.

Pillow's LittleCMS converts 8 bits. That of imagecodecs converts 16 bits, which Pillow's cannot. Rendering
intent is perceptual, LittleCMS's default, as in ``pretext.data.decode``.
"""

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from pretext.errors import UserError

_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_SAME = 2  # of 255: a profile that moves no color by more is a variant of sRGB


class UnusableProfile(Exception):
    """A profile that cannot be read, or is for other pixels."""


@lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    """Return the profile of a converted image."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def profile_name(profile: bytes) -> str:
    """Return the name in a profile."""
    try:
        return (
            " ".join(ImageCms.getProfileDescription(_open_profile(profile)).split())[:60] or "a profile without a name"
        )
    except (ImageCms.PyCMSError, UnusableProfile):
        return "a profile without a name"


def is_srgb(profile: bytes, mode: str) -> bool:
    """Whether pixels of a mode (RGB or L) with this profile are sRGB already, within 2 levels of 255.

    Raises:
        UnusableProfile: the profile cannot be read, or is for other pixels.
    """
    transform = _transform(profile, mode)
    if mode == "CMYK":
        return False
    steps = np.arange(256, dtype=np.uint8)
    if mode == "RGB":
        few = steps[::51]
        cube = np.stack(np.meshgrid(few, few, few), -1).reshape(1, -1, 3)
    else:
        cube = steps[None]
    moved = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), transform)).astype(int)
    return bool(np.abs(moved - (cube if mode == "RGB" else cube[..., None])).max() <= _SAME)


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert an 8-bit image (RGB, L, CMYK) to sRGB: gray stays gray, all else becomes RGB.

    Raises:
        UnusableProfile: the profile cannot be read, or is for other pixels.
    """
    transform = _transform(profile, image.mode)
    if image.mode == "L":  # by a table: sRGB's own gray is the middle one of the three
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        return image.point(list(np.asarray(ImageCms.applyTransform(ramp, transform))[0, :, 1]))
    if image.mode == "RGB":
        ImageCms.applyTransform(image, transform, inPlace=True)
        return image
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None
    return converted


def deep_transform(profile: bytes, gray: bool) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return the conversion to sRGB of rows of uint16, (rows, W) if gray, else (rows, W, 3).

    Raises:
        UnusableProfile: the profile cannot be read, or is for other pixels.
        UserError: imagecodecs is missing.
    """
    if _MODES.get(_open_profile(profile).profile.xcolor_space) != ("L" if gray else "RGB"):
        raise UnusableProfile
    try:
        import imagecodecs
    except ImportError as error:
        raise UserError(
            f"16 bits with the profile {profile_name(profile)}: converting them needs imagecodecs; pip install "
            "'pretint[color]', or convert the image to sRGB first"
        ) from error

    convert = _converter(imagecodecs, profile, srgb_profile(), "gray" if gray else "rgb")
    if not gray:
        return convert
    ramp = convert(np.arange(65536, dtype=np.uint16)[None])[0, :, 1]
    return lambda rows: ramp[rows]


def _converter(imagecodecs: Any, source: bytes, target: bytes, space: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def convert(rows: NDArray[Any]) -> NDArray[Any]:
        converted: NDArray[Any] = imagecodecs.cms_transform(
            np.ascontiguousarray(rows), source, target, colorspace=space, outcolorspace="rgb", outdtype=np.uint16,
            # Otherwise a table of 33 steps a side is used, with errors up to 10 levels of 255.
            flags=imagecodecs.CMS.FLAGS.NOOPTIMIZE,
        )  # fmt: skip
        return converted

    return convert


def from_srgb(profile: bytes, bits: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return the conversion of rows, (rows, W, 3), from sRGB back to an RGB profile.

    Args:
        profile: the profile of the photograph.
        bits: 8 or 16.

    Raises:
        UnusableProfile: the profile describes only how to read colors, as a scanner's may.
    """
    try:
        transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), _open_profile(profile), "RGB", "RGB")
    except ImageCms.PyCMSError as error:
        raise UnusableProfile from error
    if bits == 16:
        import imagecodecs  # the photograph was converted with it

        return _converter(imagecodecs, srgb_profile(), profile, "rgb")
    return lambda rows: np.asarray(ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(rows)), transform))


def _open_profile(profile: bytes) -> ImageCms.ImageCmsProfile:
    try:
        return ImageCms.ImageCmsProfile(BytesIO(profile))
    except Exception as error:  # bytes from outside
        raise UnusableProfile from error


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    opened = _open_profile(profile)
    if _MODES.get(opened.profile.xcolor_space) != mode:
        raise UnusableProfile
    try:
        return ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except ImageCms.PyCMSError as error:
        raise UnusableProfile from error
