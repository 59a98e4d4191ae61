"""Copies of tar shards on the local disk of a node, checked while they are made, for ``PRETINT_LOCAL``.

Shards of a folder with SHA256SUMS are copied to ``$PRETINT_LOCAL/DIGEST``, where DIGEST is the beginning of the
SHA-256 of SHA256SUMS: different contents never share a folder, and equal contents always do. The log ``.checked``
beside them lists the copies that were compared with their checksums. The process that copies locks ``.lock``.
"""

import hashlib
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pretext.data.tar_index import index_path
from pretext.engine.progress import Advance, progress, say_once
from pretext.errors import UserError
from pretext.files import open_atomically
from pretext.store import LOCK, Log, lock

LOCAL = "PRETINT_LOCAL"
"""The environment variable with a folder on a local disk of this machine."""

SUMS = "SHA256SUMS"
"""The file beside shards with their checksums."""

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
        if not (folder / SUMS).is_file():
            say_once(
                f"{folder}: has no {SUMS}, which pretint pack writes; its shards are read in place, not from {LOCAL}"
            )
            continue
        copies[folder] = _copy_folder(folder, [path for path in paths if path.parent == folder], root)
    return [copies[path.parent] / path.name if path.parent in copies else path for path in paths]


def _copy_folder(folder: Path, paths: Sequence[Path], root: Path) -> Path:
    """Copy shards and the indices beside them, except those that are copied; return the folder of the copies."""
    path = folder / SUMS
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
    sizes: dict[Path, int] = {}
    for file in [*paths, *(index for index in map(index_path, paths) if index.name in sums and index.is_file())]:
        if file.name not in sums:
            raise UserError(f"{path}: has no checksum of {file.name}; write the file again with sha256sum")
        try:
            sizes[file] = file.stat().st_size
        except OSError as error:
            raise UserError(f"{file}: the shard cannot be read: {error.strerror}") from error
    key = hashlib.sha256(content).hexdigest()[:16]
    target = root / key
    if target.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{LOCAL} is {root}: lies in {folder}, the folder to copy; set it to a folder on a local disk")
    with lock(target / LOCK, f"copying {folder} there", wait=True, advice=f"set {LOCAL} to a folder on a local disk"):
        try:
            log = Log(target / _CHECKED, {"sums": key}, "local copies")
            checked = {record["name"]: record for record in log.records}
            # Compare with the size of the original too: if it was replaced, its old copy must not be used.
            missing = [
                file
                for file, size in sizes.items()
                if checked.get(file.name) != _describe_copy(target / file.name) or checked[file.name]["bytes"] != size
            ]
            for partial in target.glob(".*.part") if missing else ():  # of a process that was killed
                partial.unlink()
            needed, free = sum(sizes[file] for file in missing), shutil.disk_usage(target).free
            if free < needed:
                raise UserError(
                    f"{target}: a copy of {folder} needs {needed / 1e9:,.2f} GB more and {free / 1e9:,.2f} GB are "
                    f"free; delete older copies beside it, or unset {LOCAL}"
                )
            if missing:
                with progress(f"copy {folder.name} to {root}", math.ceil(needed / _MB), "MB") as advance:
                    copied = 0
                    for file in missing:
                        copied = _copy_file(file, target / file.name, sums[file.name], copied, advance)
                        log.append([_describe_copy(target / file.name)])
        except OSError as error:
            raise UserError(
                f"{target}: cannot be read or written ({error.strerror}); delete it, or unset {LOCAL}"
            ) from error
    return target


def _describe_copy(path: Path) -> dict[str, Any]:
    """Return the record of a checked copy; it changes if the copy changes."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return {}
    return {"name": path.name, "bytes": status.st_size, "changed": status.st_mtime_ns}


def _copy_file(file: Path, copy: Path, sha256: str, copied: int, advance: Advance) -> int:
    """Copy a file. The copy gets its name when its checksum is right. Return the bytes copied so far."""
    digest = hashlib.sha256()
    with open_atomically(copy, f"{file.stat().st_size / _MB:,.1f} MB") as output:
        for block in _read_blocks(file):
            digest.update(block)
            output.write(block)
            advance(math.ceil((copied + len(block)) / _MB) - math.ceil(copied / _MB), "")
            copied += len(block)
        if digest.hexdigest() != sha256:
            raise UserError(
                f"{file}: its bytes do not match its checksum in {SUMS}; fetch it again, or pack again into a new "
                "folder"
            )
    return copied


def _read_blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:  # for the caller an OSError means that the copy cannot be written
        raise UserError(f"{path}: the shard cannot be read: {error.strerror}") from error
