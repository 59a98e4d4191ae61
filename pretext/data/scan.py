"""The images below a folder, in order: listed by one scan. For a large folder, an index stores the list.

The index is a table of ``pretext.store`` in ``$XDG_CACHE_HOME/pretint/folders`` (``~/.cache`` without that variable),
one per folder and host, since device numbers of network drives differ between hosts. It is not used if it is damaged,
of another version or folder, made with other rules for files to leave out, or older than a change of the tree.
"""

import contextlib
import hashlib
import itertools
import os
import sys
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pretext.data.formats import RULES, USUAL, SkippedFiles, is_image_name, system_name
from pretext.errors import UserError
from pretext.store import cache_file, read_table, write_cached

_PATIENCE = 3.0  # seconds before the first message about a scan
_EVERY = 30.0  # seconds between two messages

Mark = tuple[int, int, int, int]
"""Device, inode, mtime and ctime in ns of a folder: they change with its entries (mtime alone can be set back)."""
NOWHERE: Mark = (0, 0, 0, 0)

_Item = tuple[bytes, frozenset[tuple[int, int]]] | list[bytes]
"""A folder to list and the identities of the folders above it; or images."""

WORTH = 10_000
"""Trees of fewer images are scanned each time: it takes some 20 ms."""
_FORMAT = 2
_SETTLED = 2_000_000_000  # ns: within a clock tick of a file system two changes of a folder look alike


class Paths:
    """Many paths in one block of bytes: it needs a tenth of the memory of a list, and forked workers share it.

    Args:
        blob: all paths, one after the other: uint8 (bytes,).
        ends: the end of every path, after a first 0: int64 (N + 1,).
    """

    def __init__(self, blob: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.blob, self.ends = blob, ends

    @classmethod
    def of(cls, paths: Iterable[bytes]) -> "Paths":
        """Return these paths, in this order."""
        blob, ends = bytearray(), array("q", [0])
        for path in paths:
            blob += path
            ends.append(len(blob))
        return cls(np.frombuffer(blob, np.uint8), np.frombuffer(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> bytes:
        assert 0 <= index < len(self), index
        return self.blob[self.ends[index] : self.ends[index + 1]].tobytes()


@dataclass(frozen=True)
class Listing:
    """The images below a folder."""

    paths: Paths
    """Relative to the folder, in order."""
    digest: str
    """SHA-256 over their keys, see ``ImageDataset.digest``."""
    marks: dict[bytes, Mark]
    """The marks of every folder that was listed, and of every broken link, by relative path."""
    classes: list[bytes]
    """The sub-folders, in the order of ``paths``; empty without classes."""
    counts: NDArray[np.int64]
    """The number of images of each class."""
    left_out: SkippedFiles
    """The other files and folders."""


def scan(base: bytes, shown: str, by_class: bool, more: tuple[str, ...] = ()) -> Listing:
    """List the images below ``base``, ordered by relative path.

    Hidden files and folders (a name that begins with a dot) and those that a system made (see ``left_out``) are
    skipped. Links to folders are followed, except into a folder that contains the link. A scan of more than three
    seconds prints its progress on stderr.

    Args:
        base: an absolute path; it may contain names that are skipped below it.
        shown: the path for messages.
        by_class: leave out images directly in ``base``, and count those of each sub-folder.
        more: endings in lower case whose files count as images, too.

    Raises:
        UserError: a folder cannot be listed; there is no image, or one of the classes has none.
    """
    state = _Scan(base, shown, more)
    if not by_class:
        state.add_below(b"", frozenset())
        if not state.count:
            raise UserError(_no_images(shown, state.left_out, more))
        return state.listing([], [])
    items = state.children(b"", frozenset())
    folders = [item for item in items if isinstance(item, tuple)]
    if loose := sum(len(item) for item in items if isinstance(item, list)):
        state.left_out.add_kind("in no class folder", loose)
    if not folders:
        others = f" ({state.left_out.describe()})" if state.left_out else ""
        raise UserError(f"{shown}: no sub-folders; put labeled images in one sub-folder per class{others}")
    counts, left_out = [], state.left_out
    for name, above in folders:
        before, state.left_out = state.count, SkippedFiles()
        state.add_below(name, above)
        counts.append(state.count - before)
        if not counts[-1]:
            raise UserError(_no_images(f"{shown.rstrip('/')}/{readable(name)}", state.left_out, more))
        left_out.add_all(state.left_out)
    state.left_out = left_out
    return state.listing([name for name, _ in folders], counts)


def mark(path: bytes) -> Mark:
    """Return the mark of a folder, which shows whether it has changed."""
    try:
        return _mark_of(os.stat(path))  # noqa: PTH116 (paths here are bytes)
    except OSError:
        return NOWHERE


def _mark_of(status: os.stat_result) -> Mark:
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


def readable(path: bytes) -> str:
    """Return a path as text, without control characters; bytes that are not UTF-8 become ``\\xNN``."""
    text = path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class _Scan:
    """The state of a scan: the images that are listed so far."""

    def __init__(self, base: bytes, shown: str, more: tuple[str, ...]) -> None:
        self.base, self.shown, self.more = base, shown, tuple(map(str.encode, more))
        self.left_out = SkippedFiles()
        self._blob, self._ends = bytearray(), array("q", [0])
        self._hash = hashlib.sha256()
        self._marks: dict[bytes, Mark] = {}
        self._began = time.monotonic()
        self._speak_at = self._began + _PATIENCE

    @property
    def count(self) -> int:
        return len(self._ends) - 1

    def listing(self, classes: list[bytes], counts: list[int]) -> Listing:
        paths = Paths(np.frombuffer(self._blob, np.uint8), np.frombuffer(self._ends, np.int64))
        return Listing(paths, self._hash.hexdigest(), self._marks, classes, np.array(counts, np.int64), self.left_out)

    def add_below(self, folder: bytes, above: frozenset[tuple[int, int]]) -> None:
        """Add the images in and below ``folder``, in order, without holding all their names at once."""
        waiting: list[_Item] = [(folder, above)]
        while waiting:
            item = waiting.pop()
            if isinstance(item, tuple):
                waiting += reversed(self.children(*item))
                continue
            end = len(self._blob)
            self._blob += b"".join(item)
            self._ends.extend(itertools.islice(itertools.accumulate(map(len, item), initial=end), 1, None))
            self._hash.update("".join([f"{readable(path)}\n" for path in item]).encode())
            if time.monotonic() >= self._speak_at:
                self._speak_at = time.monotonic() + _EVERY
                with contextlib.suppress(OSError):
                    sys.stderr.write(f"{self.shown}: listing images, {self.count:,} so far\n")

    def children(self, folder: bytes, above: frozenset[tuple[int, int]]) -> list[_Item]:
        """Return the content of ``folder``, in the order of the paths below it."""
        path = self.base + b"/" + folder
        names = []
        try:
            status = os.stat(path)  # noqa: PTH116 (paths here are bytes)
            # Taken before the names: a file that is added while they are read must count as a change.
            self._marks[folder] = _mark_of(status)
            identity = (status.st_dev, status.st_ino)
            if identity in above:  # a link back up
                return []
            prefix = folder + b"/" if folder else b""
            with os.scandir(path) as entries:
                for entry in entries:
                    name = entry.name
                    kind, hidden = _kind(entry), name.startswith(b".")
                    if kind == "folder":
                        if hidden or system_name(name):
                            self.left_out.add_folder(name)
                        else:
                            names.append(name + b"/")  # sorted as a part of paths, not as a name
                    elif hidden:
                        self.left_out.add_file(name)
                        continue
                    elif kind == "special":
                        self.left_out.add_kind("pipe, socket or device")
                    elif is_image_name(name) or (self.more and name.lower().endswith(self.more)):
                        names.append(name)
                    else:
                        self.left_out.add_file(name)
                    if kind == "broken":
                        self._marks[prefix + name] = NOWHERE  # it may lead to a folder one day
        except OSError as problem:
            raise UserError(f"{readable(path)}: the folder cannot be listed: {problem.strerror}") from problem
        names.sort()
        inside = above | {identity}
        items: list[_Item] = []
        for is_folder, group in itertools.groupby(names, lambda name: name.endswith(b"/")):
            if is_folder:
                items += [(prefix + name[:-1], inside) for name in group]
            else:
                items.append([prefix + name for name in group])
        return items


def _kind(entry: os.DirEntry[bytes]) -> Literal["folder", "file", "broken", "special"]:
    """Return the kind of an entry or, for a link, of its target. A broken link counts as an image: reading it fails.

    A pipe or a device never counts as an image: reading it would hang or never end.
    """
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        os.stat(entry.path)  # noqa: PTH116 (paths here are bytes)
    except OSError:
        return "broken"
    return "special"


def _no_images(where: str, left_out: SkippedFiles, more: tuple[str, ...]) -> str:
    """Return the message for a folder without images."""
    endings = " ".join([USUAL, *more])
    if not left_out:
        return f"{where}: the folder is empty; put images in it ({endings})"
    return f"{where}: no images, {left_out.describe()}; names of images end in {endings}"


def open_listing(base: bytes, shown: str, by_class: bool, more: tuple[str, ...] = ()) -> Listing:
    """Return the listing of ``scan``: from the folder's index if it is valid, else by a scan. Index large folders.

    The index is valid while device, inode, mtime and ctime of every folder in the tree are those of the scan. If it
    cannot be written, there is no index.
    """
    root = os.path.realpath(base)
    identity = {"format": _FORMAT, "root": root.hex(), "by_class": by_class, "rules": "".join([RULES, *more])}
    names = [os.uname().nodename.encode(), b"classes" * by_class, root, *map(str.encode, more)]
    path = cache_file("folders", b"\0".join(names))
    listing = _read_index(path, identity)
    if listing and all(mark(base + b"/" + folder) == known for folder, known in listing.marks.items()):
        return listing
    start = time.time_ns()
    listing = scan(base, shown, by_class, more)
    settled = start - max(max(times) for _, _, *times in listing.marks.values()) > _SETTLED
    if settled and len(listing.paths) >= WORTH:
        columns = {
            "ends": listing.paths.ends,
            "marks": np.array(list(listing.marks.values()), np.uint64).ravel(),
            "counts": listing.counts,
            "paths": listing.paths.blob,
            "folders": np.frombuffer(b"\0".join(listing.marks), np.uint8),
            "classes": np.frombuffer(b"\0".join(listing.classes), np.uint8),
        }
        write_cached(path, identity, columns, {"digest": listing.digest, "left_out": listing.left_out.as_dict()})
        return _read_index(path, identity) or listing  # mapped, the list is shared with other processes
    return listing


def _read_index(path: Path, identity: dict[str, Any]) -> Listing | None:
    table = read_table(path, identity)
    if table is None:
        return None
    columns, about = table
    folders, classes = columns["folders"].tobytes().split(b"\0"), columns["classes"].tobytes()
    return Listing(
        Paths(columns["paths"], columns["ends"]),
        about["digest"],
        dict(zip(folders, map(tuple, columns["marks"].reshape(-1, 4).tolist()), strict=True)),
        classes.split(b"\0") if classes else [],
        columns["counts"],
        SkippedFiles.from_dict(about["left_out"]),
    )
