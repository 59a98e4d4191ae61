"""The image formats, by the endings of files, and the files that are left out.

The same formats are read everywhere: in a training set, a tar shard, a list file and a folder to colorize.

The files that a listing leaves out are counted by kind and reported in one line. Folders and files that operating
systems, cameras and photo servers make are left out at any depth below the path that a user gives.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, AnyStr

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
"""Pillow's name of a format -> endings of its files. Only these are opened: some other plugins of Pillow start programs
(Ghostscript for EPS)."""

HEIF = FORMATS["HEIF"]
"""Endings of files that need the extra ``heif``."""
HEIF_HINT = "pip install 'pretint[heif]'"
KNOWN = tuple(ending for endings in FORMATS.values() for ending in endings)
"""All endings, whether or not the extra is installed."""
ENDINGS = KNOWN if find_spec("pillow_heif") else tuple(ending for ending in KNOWN if ending not in HEIF)
"""Endings of the names of images, in any case."""
ARRAYS = (".npy", ".npz", ".dcm")
"""Endings of other files that can hold images of named channels, see ``pretext.data.channels``."""
USUAL = ".jpg .png .webp .tif .bmp .gif .ppm .jp2 .avif .heic"
"""The endings that messages name; the others are in docs/data.md."""

_ENDINGS = tuple(ending.encode() for ending in ENDINGS)

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
_LONGEST_KIND = 40  # characters: all kinds of Pretint are shorter
_LONGEST = 8  # characters of an ending: longer ones are part of a sentence with a dot in it

RULES = hashlib.sha256("\n".join([*ENDINGS, "", *_SYSTEM, *_BEGINNINGS]).encode()).hexdigest()[:16]
"""A hash of the rules that select files: other versions may have other rules. Indices store it."""

_printed: set[str] = set()


def ending_of(name: AnyStr) -> AnyStr:
    """Return the ending of a file's name in lower case, with its dot; empty where there is none."""
    if isinstance(name, str):
        return name[at:].lower() if (at := name.rfind(".")) >= 0 else ""
    return name[at:].lower() if (at := name.rfind(b".")) >= 0 else b""


def without_ending(key: str) -> str:
    """Return the key of an image without the ending of an image file; other dots stay."""
    ending = ending_of(key)
    return key[: -len(ending)] if ending in (*KNOWN, *ARRAYS) else key


def is_image_name(name: bytes) -> bool:
    """Whether a file of this name counts as an image."""
    return name.lower().endswith(_ENDINGS)  # the usual endings come first, for speed: a scan calls this a million times


def system_name(name: bytes) -> str | None:
    """Return the name for messages of a file or folder that a system made; None for all others."""
    lower = name.lower()
    if lower in _NAMES:
        return _NAMES[lower]
    return next((f"{prefix}*" for prefix in _BEGINNINGS if lower.startswith(prefix.lower().encode())), None)


class SkippedFiles:
    """Counts of the files and folders that a listing leaves out.

    Args:
        files: kind -> number of files; a kind is an ending, or a word instead of one.
        folders: kind -> number of folders.
    """

    def __init__(self, files: Mapping[str, int] | None = None, folders: Mapping[str, int] | None = None) -> None:
        self.files, self.folders = Counter(files or {}), Counter(folders or {})

    def __bool__(self) -> bool:
        return bool(self.files or self.folders)

    def add_file(self, name: bytes) -> None:
        """Count a file by its name."""
        ending = ending_of(name).decode("ascii", "replace")
        usual = 1 < len(ending) <= _LONGEST + 1 and ending[1:].isascii() and ending[1:].isalnum()
        kind = "hidden" if name.startswith(b".") else ending if usual else "without an ending"
        self.add_kind(system_name(name) or kind)

    def add_folder(self, name: bytes) -> None:
        """Count a folder that is not searched, by its name."""
        _count(self.folders, system_name(name) or "hidden")

    def add_kind(self, kind: str, count: int = 1) -> None:
        """Count files that are left out for a reason other than their names."""
        _count(self.files, kind, count)

    def add_all(self, other: "SkippedFiles") -> None:
        """Add the counts of another part."""
        self.files.update(other.files)
        self.folders.update(other.folders)

    @classmethod
    def from_dict(cls, counts: Any) -> "SkippedFiles":
        """Return the counts that ``as_dict`` returned; ``ValueError`` if they cannot be counts."""
        left_out = cls(**counts)
        for kind, count in (*left_out.files.items(), *left_out.folders.items()):
            if not kind.isprintable() or len(kind) > _LONGEST_KIND:
                raise ValueError(f"a kind of {len(kind)} characters")
            if not isinstance(count, int) or not 0 <= count < 2**63:  # a sum of longer ones may have no decimal form
                raise ValueError(f"a count that is no 63-bit integer of {kind}")
        return left_out

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Return the arguments that make equal counts, for JSON."""
        return {"files": dict(self.files), "folders": dict(self.folders)}

    def describe(self) -> str:
        """Return a text such as ``6 files left out: 3 .txt, 2 .mov, 1 without an ending``; empty if there are none."""
        parts = [_describe(self.files, "file"), _describe(self.folders, "folder")]
        missed = [ending for ending in HEIF if ending in self.files and ending not in ENDINGS]
        if missed:
            parts.append(f"to read {' '.join(missed)}: {HEIF_HINT}")
        return "; ".join(filter(None, parts))

    def print_once(self, where: str) -> None:
        """Print the text for the source or folder ``where``, once and in one process of a run."""
        line = f"{where}: {self.describe()}"
        if self and line not in _printed and distributed.is_rank_zero():
            _printed.add(line)
            say(line)


def _count(counts: Counter[str], kind: str, count: int = 1) -> None:
    counts[kind if kind in counts or len(counts) < _KINDS else "of other kinds"] += count


def _describe(counts: Counter[str], what: str) -> str:
    if not counts:
        return ""
    kinds = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    texts = [f"{count:,} {kind}" for kind, count in kinds[:_SHOWN]]
    if rest := sum(count for _, count in kinds[_SHOWN:]):
        texts.append(f"{rest:,} of other kinds")
    total = counts.total()
    return f"{total:,} {what}{'s' * (total != 1)} left out: {', '.join(texts)}"
