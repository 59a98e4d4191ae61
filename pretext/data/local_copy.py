"""A copy of tar shards on a node's own disk, checked while it is made: what ``PRETINT_LOCAL`` asks for.

Shards of a folder with SHA256SUMS lie in ``$PRETINT_LOCAL/DIGEST``, where DIGEST is the beginning of the
SHA-256 of SHA256SUMS: other contents never share a folder, the same contents always do, wherever they came
from. Beside them ``.checked`` records what was compared with its sum, and ``.lock`` is held by who copies.
"""

import contextlib
import fcntl
import functools
import hashlib
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pretext.data.tar_index import index_path
from pretext.engine import distributed
from pretext.engine.progress import progress, say
from pretext.errors import UserError
from pretext.files import write_atomically, written_atomically

LOCAL = "PRETINT_LOCAL"
"""The environment variable: a folder on a disk of this machine's own."""

_SUMS = "SHA256SUMS"
_CHECKED, _LOCK = ".checked", ".lock"
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)")
_BLOCK = 2**22
_MB = 1e6


def local_copies(paths: Sequence[Path]) -> list[Path]:
    """Where tar shards are to be read: as they are given, or in copies that ``PRETINT_LOCAL`` asks for.

    What is missing is copied first. Processes that ask for the same wait for the one that copies.
    Shards of a folder without SHA256SUMS are read in place, and a line says so: the variable stands for all
    that a cluster's jobs read, and a small test set that nobody packed should not end them.

    Args:
        paths: absolute.

    Raises:
        UserError: a shard is not what SHA256SUMS says or is not in it, or there is no room for the copy.
    """
    asked = os.environ.get(LOCAL, "")
    if not asked:
        return list(paths)
    try:
        root = Path(asked).expanduser().absolute()
    except RuntimeError as error:  # ~nobody
        raise UserError(f"{LOCAL} is {asked}: no such user; give the path of a folder on a local disk") from error
    places: dict[Path, Path] = {}
    for folder in dict.fromkeys(path.parent for path in paths):
        if not (folder / _SUMS).is_file():
            _say_in_place(folder)
            continue
        places[folder] = _copied(folder, [path for path in paths if path.parent == folder], root)
    return [places[path.parent] / path.name if path.parent in places else path for path in paths]


@dataclass(frozen=True)
class _Wanted:
    """A file that belongs into the copy."""

    path: Path
    """The original."""
    sha256: str
    size: int
    """In bytes, of the original as it is now."""

    def mark(self, copy: Path) -> str:
        """The line of ``.checked`` for a copy as it is now: one that is changed has another. Raises OSError."""
        status = copy.stat()
        return f"{self.sha256} {status.st_size} {status.st_mtime_ns} {self.path.name}"


@functools.cache
def _say_in_place(folder: Path) -> None:
    if distributed.is_first():
        say(f"{folder}: has no {_SUMS}, which pretint pack writes; its shards are read in place, not from {LOCAL}")


def _copied(folder: Path, paths: Sequence[Path], root: Path) -> Path:
    """The folder that holds copies of these shards, and of the indices beside them."""
    sums, digest = _read_sums(folder / _SUMS)
    wanted = [_wanted(path, sums) for path in paths]
    wanted += [_wanted(path, sums) for path in map(index_path, paths) if path.name in sums and path.is_file()]
    there = root / digest[:16]
    if there.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{LOCAL} is {root}: lies in {folder}, which is to be copied; name a folder on a local disk")
    with _held(there, folder):
        checked = _read_checked(there)
        kept = {one.path.name: mark for one in wanted if (mark := _kept(one, there, checked)) is not None}
        missing = [one for one in wanted if one.path.name not in kept]
        if missing:
            _require_room(there, folder, sum(one.size for one in missing))
            marks = {line.split(" ", 3)[-1]: line for line in checked} | kept
            _copy_all(missing, there, folder, marks)
    return there


def _read_sums(path: Path) -> tuple[dict[str, str], str]:
    """Of every file in SHA256SUMS its sum; and the SHA-256 of SHA256SUMS."""
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read; write it again with sha256sum, or unset {LOCAL}") from error
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise UserError(f"{path}: line {number} is no checksum and name; write it again with sha256sum")
        sums[found[2]] = found[1].lower()
    return sums, hashlib.sha256(content).hexdigest()


def _wanted(path: Path, sums: dict[str, str]) -> _Wanted:
    if path.name not in sums:
        raise UserError(f"{path.parent / _SUMS}: has no checksum of {path.name}; pretint pack and sha256sum write it")
    try:
        return _Wanted(path, sums[path.name], path.stat().st_size)
    except OSError as error:
        raise UserError(f"{path}: the shard cannot be read: {error.strerror}") from error


@contextlib.contextmanager
def _held(there: Path, folder: Path) -> Iterator[None]:
    """Within it no other process works on the copy: one that does is waited for."""
    try:
        there.mkdir(parents=True, exist_ok=True)
        lock = (there / _LOCK).open("a")
    except OSError as error:
        raise UserError(f"{there}: cannot write there ({error.strerror}); set {LOCAL} to another folder") from error
    with lock:
        try:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # the two names POSIX has for it
                if distributed.local_rank() == 0:
                    say(f"{folder}: another process copies it to {there}; waiting for that")
                fcntl.lockf(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(f"{there}: cannot be locked ({error.strerror}); set {LOCAL} to a local disk") from error
        yield


def _read_checked(there: Path) -> set[str]:
    try:
        return set((there / _CHECKED).read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):  # none yet, or damaged: all is copied again
        return set()


def _kept(one: _Wanted, there: Path, checked: set[str]) -> str | None:
    """The mark of a copy that was checked, and has not been touched since."""
    copy = there / one.path.name
    try:
        mark = one.mark(copy)
        # The size is also that of the original: one that was replaced must not pass by its old copy.
        return mark if mark in checked and copy.stat().st_size == one.size else None
    except OSError:
        return None


def _require_room(there: Path, folder: Path, needed: int) -> None:
    for begun in there.glob(".*.part"):  # of a process that was killed; nobody else writes here now
        with contextlib.suppress(OSError):
            begun.unlink()
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(
            f"{there}: a copy of {folder} needs {needed / 1e9:,.2f} GB more and {free / 1e9:,.2f} GB are free; "
            f"delete older copies beside it, or unset {LOCAL}"
        )


def _copy_all(missing: Sequence[_Wanted], there: Path, folder: Path, marks: dict[str, str]) -> None:
    """Copy files one after the other; what is done when this is killed needs not be done again."""
    total = math.ceil(sum(one.size for one in missing) / _MB)
    copied = shown = 0
    with progress(f"copy {folder.name} to {there.parent}", total, "MB") as advance:

        def moved(size: int) -> None:
            nonlocal copied, shown
            copied += size
            more = math.ceil(copied / _MB) - shown
            shown += more
            advance(more, "")

        for one in missing:
            copy = there / one.path.name
            _copy(one, copy, moved)
            marks[one.path.name] = one.mark(copy)
            write_atomically(there / _CHECKED, "".join(f"{mark}\n" for mark in marks.values()).encode())


def _copy(one: _Wanted, copy: Path, moved: Callable[[int], None]) -> None:
    """Copy a file; it gets its name when its bytes are those of its checksum."""
    digest = hashlib.sha256()
    with written_atomically(copy, f"{one.size / _MB:,.1f} MB") as file:
        for block in _blocks(one.path):
            digest.update(block)
            file.write(block)
            moved(len(block))
        if digest.hexdigest() != one.sha256:
            raise UserError(
                f"{one.path}: its bytes are not those of its checksum in {_SUMS}; fetch it again, or pack again "
                "into a new folder"
            )


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:  # not the copy's fault, which is what an OSError says further up
        raise UserError(f"{path}: the shard cannot be read: {error.strerror}") from error
