"""The list of a large folder's images, kept in a file: scanned once, then mapped into memory.

``$XDG_CACHE_HOME/pretint/folders/<hash>.idx`` (``~/.cache`` without that variable), one per folder and host,
since device numbers of network drives differ between hosts. It holds a first line with a CRC of all that
follows, a line of JSON, and these arrays, little-endian:

    ends int64 (N + 1,), marks int64 (folders, 4), counts int64 (classes,),
    blob uint8: all paths; the names of the folders; the names of the classes, both separated by NUL

A file that is damaged, of another version or folder, made by other rules of what is left out, or older than a
change of the tree is not used. Any may be deleted at any time.
"""

import fcntl
import hashlib
import json
import mmap
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretext.data.left_out import RULES, LeftOut
from pretext.data.scan import Listing, Paths, mark, scan
from pretext.errors import UserError
from pretext.files import write_atomically

WORTH = 10_000
"""Trees of fewer images are scanned each time: it takes some 20 ms."""
_MAGIC = b"pretint folder index 1 "
_SETTLED = 2_000_000_000  # ns: within a clock tick of a file system two changes of a folder look alike
_CHUNK = 2**20


def open_listing(base: bytes, shown: str, by_class: bool) -> Listing:
    """As ``listing.scan``, from the folder's index where that is still true; else scanned, and indexed if large.

    The index counts as true while device, inode, mtime and ctime of every folder in the tree are
    those of the scan. Where it cannot be written, it is done without.
    """
    root = os.path.realpath(base)
    path = _path(root, by_class)
    facts = {"root": root.hex(), "by_class": by_class, "rules": RULES}
    known = _load(path, facts) if path else None
    if known and all(mark(base + b"/" + folder) == then for folder, then in known.marks.items()):
        return known
    began = time.time_ns()
    listing = scan(base, shown, by_class)
    settled = began - max(max(then[2:]) for then in listing.marks.values()) > _SETTLED
    if path and settled and len(listing.paths) >= WORTH:
        _save(path, facts, listing)
        return _load(path, facts) or listing  # mapped, the list is shared with other processes
    return listing


def _path(root: bytes, by_class: bool) -> Path | None:
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        cache = given if given.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # no home
        return None
    name = hashlib.sha256(b"\0".join([os.uname().nodename.encode(), b"classes" * by_class, root])).hexdigest()
    return cache / "pretint" / "folders" / f"{name[:32]}.idx"


def _save(path: Path, facts: dict[str, Any], listing: Listing) -> None:
    arrays = [listing.paths.ends.astype("<i8", copy=False), np.array(list(listing.marks.values()), "<u8")]
    arrays += [listing.counts.astype("<i8"), listing.paths.blob]
    names = [b"\0".join(listing.marks), b"\0".join(listing.classes)]
    sizes = [array.size for array in arrays] + [len(name) for name in names]
    known = {"digest": listing.digest, "sizes": sizes, "left_out": listing.left_out.as_dict()}
    header = json.dumps({**facts, **known}).encode()
    padding = b" " * (-(len(_MAGIC) + 9 + len(header) + 1) % 8)  # the arrays begin at a multiple of 8
    body = [header + padding + b"\n", *(array.tobytes() for array in arrays), *names]
    crc = 0
    for part in body:
        crc = zlib.crc32(part, crc)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            write_atomically(path, b"".join([_MAGIC + b"%08x\n" % crc, *body]))
    except (OSError, UserError):  # no room, no right, or another process is at it
        return


def _load(path: Path, facts: dict[str, Any]) -> Listing | None:
    """The listing in an index; None where there is none, or none that can be trusted to be of these facts."""
    try:
        with path.open("rb") as file:
            first = file.readline(64)
            crc = 0
            while chunk := file.read(_CHUNK):  # by reading: mapped pages would count as this process's memory
                crc = zlib.crc32(chunk, crc)
            if first != _MAGIC + b"%08x\n" % crc:
                return None
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
        return None
    start = data.find(b"\n", len(first)) + 1
    header = json.loads(data[len(first) : start])
    if {key: header.get(key) for key in facts} != facts:
        return None
    ends, marks, counts, blob, folders, classes = _arrays(data, start, header["sizes"])
    names = folders.tobytes().split(b"\0")
    return Listing(
        Paths(blob, ends),
        header["digest"],
        dict(zip(names, map(tuple, marks.view("<u8").reshape(-1, 4).tolist()), strict=True)),
        classes.tobytes().split(b"\0") if classes.size else [],
        counts,
        LeftOut.from_dict(header["left_out"]),
    )


def _arrays(data: mmap.mmap, start: int, sizes: Sequence[int]) -> list[NDArray[Any]]:
    arrays: list[NDArray[Any]] = []
    for size, kind in zip(sizes, ("<i8", "<i8", "<i8", "u1", "u1", "u1"), strict=True):
        array = np.frombuffer(data, kind, size, start)
        start += array.nbytes
        arrays.append(array)
    return arrays
