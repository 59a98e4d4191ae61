"""What a listing of images leaves out, counted by kind and told to the user in one line.

Names of folders and files that operating systems, cameras and photo servers make are left out at any depth; of a path
that a user names, only what lies below it counts.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pretext.data.formats import ENDINGS, HEIF, HEIF_HINT, ending_of
from pretext.engine import distributed
from pretext.engine.progress import say

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
