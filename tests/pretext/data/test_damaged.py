"""Damaged, truncated and hostile bytes against the promise of one error and no other."""

import warnings
from io import BytesIO
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from pretext.data import decode
from pretext.errors import ImageError


def colors(width: int = 24, height: int = 16) -> np.ndarray[Any, Any]:
    """A smooth image in which every corner and side differs."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def heif(image: Image.Image) -> bytes:
    out = BytesIO()
    pillow_heif.from_pillow(image).save(out)
    return out.getvalue()


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
JPEG = encoded(Image.fromarray(colors(64, 64)), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file (0 bytes)"),
        (b"Hello, this is text.\n" * 20, "not an image: no known format"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "not an image: no known format",
        ),
        (b"GIF89a" + bytes(3), "damaged: begins like a GIF file, but its header cannot be read"),
        (JPEG[:10], "truncated: "),
        (JPEG[: len(JPEG) // 2], "truncated: "),
        (encoded(Image.effect_noise((64, 64), 90), "PNG")[:2000], "truncated: "),
    ],
)
def test_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data, "some/key.jpg")
    assert caught.value.key == "some/key.jpg"
    assert caught.value.reason.startswith(reason)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("limit", "filters"), [(3000, "always"), (3000, "error"), (100, "always")])
def test_decompression_bomb(limit: int, filters: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over Pillow's limit it warns, over twice the limit it raises: one error here, whatever the filters."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings(record=filters == "always"):
        warnings.simplefilter(filters)
        with pytest.raises(ImageError, match=f"too large: more than {limit} pixels"):
            decode(JPEG, "k")
    assert limit == Image.MAX_IMAGE_PIXELS


WHOLE = [
    JPEG,
    encoded(Image.fromarray(colors()), "JPEG", icc_profile=SRGB, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    encoded(Image.fromarray(colors()).convert("CMYK"), "JPEG"),
    encoded(Image.fromarray(colors()), "PNG", icc_profile=SRGB),
    encoded(Image.fromarray(colors()).quantize(8), "PNG"),
    encoded(Image.fromarray(colors()), "WEBP"),
    encoded(Image.fromarray(colors()), "BMP"),
    encoded(Image.fromarray(colors()), "GIF"),
    encoded(Image.fromarray(colors()), "PPM"),
    b"P2 3 2 255\n" + b"9 99 255 " * 2,
    encoded(Image.fromarray(colors()[..., 0].astype(np.float32)), "PPM"),
    encoded(Image.fromarray(colors()), "JPEG2000"),
    encoded(Image.fromarray(colors()).convert("RGBA"), "JPEG2000", no_jp2=True),
    encoded(Image.fromarray(colors()), "AVIF", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    heif(Image.fromarray(colors())),
    encoded(Image.fromarray(colors()), "TIFF", compression="tiff_lzw"),
    encoded(Image.fromarray(colors()[..., 0].astype(np.float32)), "TIFF"),
    encoded(Image.fromarray(colors()[..., 0].astype("<u2")), "TIFF"),
]


@pytest.mark.parametrize("kind", ["PPM", "JPEG2000", "AVIF", "HEIF"])
def test_decompression_bombs_of_other_formats(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(colors(64, 64))
    data = heif(image) if kind == "HEIF" else encoded(image, kind)
    for limit in (3000, 100):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ImageError, match=f"too large: more than {limit} pixels"):
            decode(data, "k")
    monkeypatch.undo()
    bombs = {"PPM": b"P6 99999 99999 255\n" + bytes(99)}
    if kind == "JPEG2000":
        at = data.index(b"\xff\x4f\xff\x51") + 8  # the size in the codestream, and in the box before it
        bombs[kind] = data[:at] + (99999).to_bytes(4, "big") * 2 + data[at + 8 :]
        at = data.index(b"ihdr") + 4
        bombs[kind] = bombs[kind][:at] + (99999).to_bytes(4, "big") * 2 + bombs[kind][at + 8 :]
    if kind in bombs:
        with pytest.raises(ImageError, match=r"too large|damaged"):
            decode(bombs[kind], "k")


def survives(data: bytes, shorter: int | None = None) -> None:
    state = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, Image.WARN_POSSIBLE_FORMATS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about damaged metadata
        filters = list(warnings.filters)
        try:
            assert decode(data, "k", shorter).mode == "RGB"
        except ImageError as problem:
            assert "\n" not in str(problem)
            assert problem.reason.isprintable()
        assert warnings.filters == filters
    assert state == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, Image.WARN_POSSIBLE_FORMATS)


@given(data=st.binary(max_size=400), whole=st.sampled_from(WHOLE), kept=st.integers(0, 40))
def test_random_bytes_raise_nothing_else(data: bytes, whole: bytes, kept: int) -> None:
    survives(whole[:kept] + data)


@given(
    whole=st.sampled_from(WHOLE),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    shorter=st.sampled_from([None, 8]),
)
def test_mutated_bytes_raise_nothing_else(whole: bytes, changes: list[tuple[float, int]], shorter: int | None) -> None:
    damaged = bytearray(whole)
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    survives(bytes(damaged), shorter)


@pytest.mark.parametrize("whole", WHOLE)
def test_every_truncation_raises_nothing_else(whole: bytes) -> None:
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        survives(whole[:length])
