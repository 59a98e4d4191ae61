"""Embedded ICC profiles: small ones made here, whose effect is known without a color engine."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from pretext.data import decode


def colors(width: int = 24, height: int = 16) -> np.ndarray[Any, Any]:
    """A smooth image in which every corner and side differs."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    image = decode(data, "k")
    assert image.mode == "RGB"
    assert image.info == {}
    return np.asarray(image)


def srgb(**swapped: str) -> bytes:
    """The sRGB profile with the places of some tags exchanged in its table."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for one, other in swapped.items():
        a, b = profile.index(one.encode(), 128), profile.index(other.encode(), 128)
        profile[a + 4 : a + 12], profile[b + 4 : b + 12] = profile[b + 4 : b + 12], profile[a + 4 : a + 12]
    return bytes(profile)


@pytest.mark.parametrize("profile", [srgb(), b"no profile", srgb()[:200]])
def test_srgb_and_broken_profiles_change_nothing(profile: bytes) -> None:
    assert (pixels(encoded(Image.fromarray(colors()), "PNG", icc_profile=profile)) == colors()).all()


def test_other_profile_is_converted() -> None:
    got = pixels(encoded(Image.fromarray(colors()), "PNG", icc_profile=srgb(rXYZ="bXYZ")))
    assert np.abs(got.astype(int) - colors()[..., ::-1]).max() <= 2  # red and blue have changed places


def test_gray_stays_neutral_under_a_profile() -> None:
    gray = Image.fromarray(colors()[..., 0])
    assert (pixels(encoded(gray, "PNG", icc_profile=srgb(rXYZ="gXYZ"))) == np.asarray(gray)[..., None]).all()


def cmyk_profile() -> bytes:
    """The least CMYK profile there is: no ink is paper white, black ink is black, other inks are not seen."""
    ramp = bytes(range(256))
    # Corners of the ink cube, black fastest: Lab 8-bit white is (255, 128, 128), black (0, 128, 128).
    corners = bytes([255, 128, 128, 0, 128, 128]) * 8
    matrix = struct.pack(">9i", *(65536 * (i in (0, 4, 8)) for i in range(9)))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + corners + ramp * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    table = struct.pack(">I", 2) + b"A2B0" + struct.pack(">II", 156, len(lut))
    at = 156 + len(lut) + -len(lut) % 4
    table += b"wtpt" + struct.pack(">II", at, len(white))
    head = bytearray(128)
    head[8:12], head[12:24], head[36:40] = b"\x02\x40\0\0", b"prtrCMYKLab ", b"acsp"
    head[68:80] = white[8:]
    head[0:4] = struct.pack(">I", at + len(white))
    return (bytes(head) + table + lut).ljust(at, b"\0") + white


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_profile_is_used(kind: str) -> None:
    inks = Image.new("CMYK", (32, 16), (0, 0, 0, 255))
    inks.paste((255, 0, 0, 0), (0, 0, 16, 16))  # cyan, which this profile does not see
    got = pixels(encoded(inks, kind, icc_profile=cmyk_profile())).astype(int)
    assert (got[:, :16] > 245).all()
    assert (got[:, 16:] < 10).all()
