"""Copies of tar shards on the local disk of a node, checked while they are made, for ``PRETINT_LOCAL``.

Shards of a folder with SHA256SUMS are copied to ``$PRETINT_LOCAL/DIGEST``, where DIGEST is the beginning of the
SHA-256 of SHA256SUMS: different contents never share a folder, and equal contents always do. The file ``.checked``
beside them lists the copies that were compared with their checksums. The process that copies locks ``.lock``.
"""

import contextlib
import hashlib
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pretext.data.tar_index import index_path
from pretext.engine.progress import progress, say_once
from pretext.errors import UserError
from pretext.files import open_atomically, write_atomically
from pretext.store import LOCK, lock

LOCAL = "PRETINT_LOCAL"
"""The environment variable with a folder on a local disk of this machine."""

_SUMS = "SHA256SUMS"
_CHECKED = ".checked"
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)")
_BLOCK = 2**22
_MB = 1e6


def local_copies(paths: Sequence[Path]) -> list[Path]:
    """Return the paths to read tar shards from: ``paths``, or local copies if ``PRETINT_LOCAL`` is set.

    Missing copies are made first. Processes that need the same copies wait for the one that makes them.
    Shards of a folder without SHA256SUMS are read in place, with a message: the variable applies to all shards
    that a cluster's jobs read, and a small test set without checksums should not stop them.

    Args:
        paths: absolute paths of the shards.

    Raises:
        UserError: a shard differs from its checksum in SHA256SUMS or has none, or there is no room for the copy.
    """
    setting = os.environ.get(LOCAL, "")
    if not setting:
        return list(paths)
    try:
        root = Path(setting).expanduser().absolute()
    except RuntimeError as error:  # ~nobody
        raise UserError(f"{LOCAL} is {setting}: no such user; give the path of a folder on a local disk") from error
    copies: dict[Path, Path] = {}
    for folder in dict.fromkeys(path.parent for path in paths):
        if not (folder / _SUMS).is_file():
            say_once(
                f"{folder}: has no {_SUMS}, which pretint pack writes; its shards are read in place, not from {LOCAL}"
            )
            continue
        copies[folder] = _copy_folder(folder, [path for path in paths if path.parent == folder], root)
    return [copies[path.parent] / path.name if path.parent in copies else path for path in paths]


@dataclass(frozen=True)
class _File:
    """A file to copy."""

    path: Path
    """The original."""
    sha256: str
    size: int
    """In bytes, of the original as it is now."""

    def mark(self, copy: Path) -> str:
        """Return the line of ``.checked`` for a copy; it changes if the copy changes. Raises OSError."""
        status = copy.stat()
        return f"{self.sha256} {status.st_size} {status.st_mtime_ns} {self.path.name}"


def _copy_folder(folder: Path, paths: Sequence[Path], root: Path) -> Path:
    """Copy shards and the indices beside them, except those that are copied; return the folder of the copies."""
    path = folder / _SUMS
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read; write it again with sha256sum, or unset {LOCAL}") from error
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise UserError(f"{path}: line {number} is not a checksum and a name; write the file again with sha256sum")
        sums[match[2]] = match[1].lower()
    files = [_describe_file(path, sums) for path in paths]
    files += [_describe_file(path, sums) for path in map(index_path, paths) if path.name in sums and path.is_file()]
    target = root / hashlib.sha256(content).hexdigest()[:16]
    if target.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{LOCAL} is {root}: lies in {folder}, the folder to copy; set it to a folder on a local disk")
    with lock(target / LOCK, f"copying {folder} there", wait=True, advice=f"set {LOCAL} to a folder on a local disk"):
        try:
            checked = set((target / _CHECKED).read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError):  # none yet, or damaged: all is copied again
            checked = set()
        intact: dict[str, str] = {}
        for file in files:
            copy = target / file.path.name
            with contextlib.suppress(OSError):
                mark = file.mark(copy)
                # Compare with the size of the original too: if it was replaced, its old copy must not be used.
                if mark in checked and copy.stat().st_size == file.size:
                    intact[file.path.name] = mark
        missing = [file for file in files if file.path.name not in intact]
        if missing:
            for partial in target.glob(".*.part"):  # of a process that was killed; no other process writes here now
                with contextlib.suppress(OSError):
                    partial.unlink()
            needed, free = sum(file.size for file in missing), shutil.disk_usage(target).free
            if free < needed:
                raise UserError(
                    f"{target}: a copy of {folder} needs {needed / 1e9:,.2f} GB more and {free / 1e9:,.2f} GB are "
                    f"free; delete older copies beside it, or unset {LOCAL}"
                )
            marks = {line.split(" ", 3)[-1]: line for line in checked} | intact
            _copy_files(missing, target, folder, marks)
    return target


def _describe_file(path: Path, sums: dict[str, str]) -> _File:
    if path.name not in sums:
        raise UserError(f"{path.parent / _SUMS}: has no checksum of {path.name}; write the file again with sha256sum")
    try:
        return _File(path, sums[path.name], path.stat().st_size)
    except OSError as error:
        raise UserError(f"{path}: the shard cannot be read: {error.strerror}") from error


def _copy_files(files: Sequence[_File], target: Path, folder: Path, marks: dict[str, str]) -> None:
    """Copy files one after the other. A copy gets its name when its checksum is right; a kill keeps finished ones."""
    total = math.ceil(sum(file.size for file in files) / _MB)
    copied = shown = 0
    with progress(f"copy {folder.name} to {target.parent}", total, "MB") as advance:
        for file in files:
            copy, digest = target / file.path.name, hashlib.sha256()
            with open_atomically(copy, f"{file.size / _MB:,.1f} MB") as output:
                for block in _read_blocks(file.path):
                    digest.update(block)
                    output.write(block)
                    copied += len(block)
                    more = math.ceil(copied / _MB) - shown
                    shown += more
                    advance(more, "")
                if digest.hexdigest() != file.sha256:
                    raise UserError(
                        f"{file.path}: its bytes do not match its checksum in {_SUMS}; fetch it again, or pack "
                        "again into a new folder"
                    )
            marks[file.path.name] = file.mark(copy)
            write_atomically(target / _CHECKED, "".join(f"{mark}\n" for mark in marks.values()).encode())


def _read_blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:  # for the caller an OSError means that the copy cannot be written
        raise UserError(f"{path}: the shard cannot be read: {error.strerror}") from error
