"""Which files are images, by the endings of their names, and which are left out.

This is the only list of formats. A training set, a tar shard, a list file and a folder that is colorized take the same.

What a listing leaves out is counted by kind and reported in one line. Folders and files that operating systems, cameras
and photo servers make are left out at any depth; of a path that a user names, only what lies below it counts.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, AnyStr

from PIL import Image, UnidentifiedImageError

from pretext.engine import distributed
from pretext.engine.progress import say

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

_SYSTEM = (
    "@eaDir", "#recycle", "#snapshot", "@tmp",  # Synology
    ".@__thumb", "@Recycle", "@Recently-Snapshot", "@Transcode",  # QNAP
    "__MACOSX", ".AppleDouble", ".AppleDB", ".AppleDesktop", ".DS_Store", ".Spotlight-V100", ".fseventsd",
    ".TemporaryItems", ".DocumentRevisions-V100", "Network Trash Folder", "Temporary Items", "Icon\r",  # macOS
    "$RECYCLE.BIN", "System Volume Information", "FOUND.000", "Thumbs.db", "ehthumbs.db",
    "ehthumbs_vista.db", "desktop.ini",  # Windows
    "lost+found", "LOST.DIR", ".thumbnails", ".thumb", ".directory", "~snapshot", ".snapshot", ".zfs",  # Linux, Android
    ".picasaoriginals", ".picasa.ini", "Picasa.ini", "ZbThumbnail.info",  # programs for photographs
)  # fmt: skip
_BEGINNINGS = (".Trash", "._")
_NAMES = {name.lower().encode(): name.strip() for name in _SYSTEM}
_SHOWN = 6  # kinds in a line
_KINDS = 200
_LONGEST_KIND = 40  # characters: all of ours are shorter
_LONGEST = 8  # characters of an ending: what is longer is a sentence with a dot in it

RULES = hashlib.sha256("\n".join([*ENDINGS, "", *_SYSTEM, *_BEGINNINGS]).encode()).hexdigest()[:16]
"""Tells the rules by which files are taken or left out from those of another version: a kept listing names them."""

_told: set[str] = set()


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


def system_name(name: bytes) -> str | None:
    """Return how messages call a file or folder that a system made; None where a person named it so."""
    lower = name.lower()
    if lower in _NAMES:
        return _NAMES[lower]
    return next((f"{one}*" for one in _BEGINNINGS if lower.startswith(one.lower().encode())), None)


class LeftOut:
    """Counts of what is left out.

    Args:
        files: kind -> how many files; a kind is an ending, or what stands in the place of one.
        folders: kind -> how many folders.
    """

    def __init__(self, files: Mapping[str, int] | None = None, folders: Mapping[str, int] | None = None) -> None:
        self.files, self.folders = Counter(files or {}), Counter(folders or {})

    def __bool__(self) -> bool:
        return bool(self.files or self.folders)

    def add_file(self, name: bytes) -> None:
        """Count a file by its name."""
        self.add_kind(system_name(name) or ("hidden" if name.startswith(b".") else _ending_kind(name)))

    def add_folder(self, name: bytes) -> None:
        """Count a folder that is not looked into, by its name."""
        _count(self.folders, system_name(name) or "hidden")

    def add_kind(self, kind: str, count: int = 1) -> None:
        """Count files that are left out for another reason than their names."""
        _count(self.files, kind, count)

    def add_all(self, other: "LeftOut") -> None:
        """Add the counts of another part."""
        self.files.update(other.files)
        self.folders.update(other.folders)

    @classmethod
    def from_dict(cls, counts: Any) -> "LeftOut":
        """Return what ``as_dict`` was called on; ``ValueError`` where it cannot be that."""
        left_out = cls(**counts)
        for kind, count in (*left_out.files.items(), *left_out.folders.items()):
            if not kind.isprintable() or len(kind) > _LONGEST_KIND:
                raise ValueError(f"a kind of {len(kind)} characters")
            if not isinstance(count, int) or not 0 <= count < 2**63:  # a sum of longer ones may have no decimal form
                raise ValueError(f"a count that is no 63-bit integer of {kind}")
        return left_out

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Return the arguments that make an equal one, as JSON can hold them."""
        return {"files": dict(self.files), "folders": dict(self.folders)}

    def describe(self) -> str:
        """Say what is left out: ``6 files left out: 3 .txt, 2 .mov, 1 without an ending``; empty for nothing."""
        parts = [_described(self.files, "file"), _described(self.folders, "folder")]
        missed = [ending for ending in HEIF if ending in self.files and ending not in ENDINGS]
        if missed:
            parts.append(f"to read {' '.join(missed)}: {HEIF_HINT}")
        return "; ".join(filter(None, parts))

    def tell(self, where: str) -> None:
        """Print the line for the source or folder that a user named ``where``: once, by one process of a run."""
        line = f"{where}: {self.describe()}"
        if self and line not in _told and distributed.is_first():
            _told.add(line)
            say(line)


def _ending_kind(name: bytes) -> str:
    ending = ending_of(name).decode("ascii", "replace")
    usual = 1 < len(ending) <= _LONGEST + 1 and ending[1:].isascii() and ending[1:].isalnum()
    return ending if usual else "without an ending"


def _count(counts: Counter[str], kind: str, count: int = 1) -> None:
    counts[kind if kind in counts or len(counts) < _KINDS else "of other kinds"] += count


def _described(counts: Counter[str], what: str) -> str:
    if not counts:
        return ""
    kinds = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    texts = [f"{count:,} {kind}" for kind, count in kinds[:_SHOWN]]
    if rest := sum(count for _, count in kinds[_SHOWN:]):
        texts.append(f"{rest:,} of other kinds")
    total = counts.total()
    return f"{total:,} {what}{'s' * (total != 1)} left out: {', '.join(texts)}"
