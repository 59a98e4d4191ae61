"""Which files are images: the formats that are read, and the endings of their names.

This is the only list of them. A training set, a tar shard, a list file and a folder that is colorized take the same.
"""

import contextlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, AnyStr

from PIL import Image, UnidentifiedImageError

FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""Pillow's name of a format -> endings of its files. Named, because Pillow's other plugins include some that start
programs (Ghostscript for EPS)."""

HEIF = FORMATS["HEIF"]
"""Endings of files that only the extra ``heif`` reads."""
HEIF_HINT = "pip install 'pretint[heif]'"
KNOWN = tuple(ending for endings in FORMATS.values() for ending in endings)
"""All endings, whether or not the extra is installed."""
ENDINGS = KNOWN if find_spec("pillow_heif") else tuple(ending for ending in KNOWN if ending not in HEIF)
"""A file is taken for an image by the ending of its name, in any case."""
USUAL = ".jpg .png .webp .tif .bmp .gif .ppm .jp2 .avif .heic"
"""The endings that messages name; the others are in docs/data.md."""

_BUILTIN = tuple(name for name in FORMATS if name != "HEIF")
_ENDINGS = tuple(ending.encode() for ending in ENDINGS)
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


def ending_of(name: AnyStr) -> AnyStr:
    """Return the ending of a file's name in lower case, with its dot; empty where there is none."""
    if isinstance(name, str):
        return name[at:].lower() if (at := name.rfind(".")) >= 0 else ""
    return name[at:].lower() if (at := name.rfind(b".")) >= 0 else b""


def is_image_name(name: bytes) -> bool:
    """Whether a file of this name is taken for an image."""
    return name.lower().endswith(_ENDINGS)  # quick, as the usual endings come first: a scan asks a million times


def open_image(file: Path | IO[bytes], formats: Sequence[str] = ()) -> Image.Image:
    """Open an image with Pillow, whatever its name says; only its head is read.

    Args:
        file: a path, or a file that is open at its beginning.
        formats: keys of ``FORMATS``; none stands for all.

    Raises:
        UnidentifiedImageError: it has none of the formats.
        Exception: of many kinds, where it is damaged.
    """
    builtin = [name for name in formats or _BUILTIN if name != "HEIF"]
    try:
        return Image.open(file, formats=builtin)
    except UnidentifiedImageError:
        if (formats and "HEIF" not in formats) or not is_heif(_head(file)) or not _can_read_heif():
            raise
        return Image.open(file, formats=("HEIF",))


def is_heif(head: bytes) -> bool:
    """Whether a file that begins so is HEIF: a phone's photograph as a rule."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def why_unidentified(head: bytes) -> str:
    """Say why a file that begins so has none of the formats.

    Args:
        head: its first bytes, 32 or more if it has them.
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


def _head(file: Path | IO[bytes]) -> bytes:
    if not isinstance(file, Path):
        file.seek(0)
        return file.read(32)
    with file.open("rb") as opened:
        return opened.read(32)
