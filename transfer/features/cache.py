"""The cache of features on disk: where it is, and its entries, rows of numbers in blocks with checksums.

An entry is a folder, named by the hash of its identity:

identity.json   all that the rows depend on; if it differs, the entry is computed again
conv1.f16 ...   a column of vectors: a row for each image, in order, raw, little-endian
blocks.jsonl    a line for each block of rows: first and last row, the CRC-32 of every column's part, images that
                cannot be read, seconds; and the CRC-32 of the line itself

A block is valid once its line is written, which is after its rows are on the disk. So a kill at any moment leaves
whole blocks, and anything behind them is overwritten.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pretext.engine.progress import say
from pretext.errors import UserError
from pretext.files import write_atomically

Storage = Literal["float16", "float32"]
Skip = tuple[int, str, str]
"""Row, key and reason of an image that cannot be read."""

ROWS = 1024
"""The largest number of rows of a block."""
SECONDS = 20.0
"""The time after which a block is closed even if it has fewer rows."""

_TYPES: dict[Storage, str] = {"float16": "<f2", "float32": "<f4"}
_ENDINGS: dict[Storage, str] = {"float16": "f16", "float32": "f32"}
_CHUNK = 2**22


@dataclass(frozen=True)
class CacheSettings:
    """The folder of the cache, and the type of its numbers."""

    folder: Path
    storage: Storage = "float16"


def cache_folder(folder: str = "") -> Path:
    """Return the folder of features: ``folder``, else $PRETINT_CACHE, else one in the user's folder of caches.

    Raises:
        UserError: the folder is in a home folder that does not exist.
    """
    folder, caches = folder or os.environ.get("PRETINT_CACHE", ""), Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if folder:
            return Path(folder).expanduser()
        return (caches if caches.is_absolute() else Path.home() / ".cache") / "pretint" / "features"
    except RuntimeError as error:
        if folder:
            raise UserError(f"cache: {folder}: this user has no home folder; name another folder") from error
        raise UserError("there is no home folder to keep features in: set PRETINT_CACHE to a folder") from error


@dataclass(frozen=True)
class CacheBlock:
    """Rows that were written together."""

    first: int
    last: int
    """The row after the last one."""
    checksums: dict[str, int]
    skipped: list[Skip]
    seconds: float

    def line(self) -> bytes:
        """Return its line in the file."""
        content = {**vars(self), "skipped": [list(entry) for entry in self.skipped]}
        return _to_json({**content, "check": zlib.crc32(_to_json(content))}) + b"\n"


@dataclass
class Entry:
    """A locked cache entry: no other process writes to it. Made by ``lock_entry``."""

    folder: Path
    rows: int
    """The number of rows of a complete entry."""
    columns: dict[str, int]
    """Name -> dimensions."""
    storage: Storage
    blocks: list[CacheBlock] = field(default_factory=list)
    _files: dict[str, IO[bytes]] = field(default_factory=dict)
    _open: CacheBlock | None = None
    _began: float = 0.0

    @property
    def done(self) -> int:
        """The number of rows that are safely on disk."""
        return self.blocks[-1].last if self.blocks else 0

    @property
    def written(self) -> int:
        """The number of rows that were written, safely or not yet."""
        return self._open.last if self._open else self.done

    @property
    def missing_bytes(self) -> int:
        """The room that the missing rows will take."""
        return (self.rows - self.done) * self._row_bytes

    @property
    def unwritten_bytes(self) -> int:
        """The bytes by which its files will still grow, also if the entry is not locked: no file is ever cut short."""
        present = sum(self.path(column).stat().st_size for column in self.columns if self.path(column).is_file())
        return max(0, self.rows * self._row_bytes - present)

    @property
    def _row_bytes(self) -> int:
        return sum(self.columns.values()) * np.dtype(_TYPES[self.storage]).itemsize

    def path(self, column: str) -> Path:
        """Return the path of a column's file."""
        return self.folder / f"{column}.{_ENDINGS[self.storage]}"

    def append(self, rows: Mapping[str, NDArray[Any]], skipped: Sequence[Skip], seconds: float) -> None:
        """Write the next rows.

        Args:
            rows: column -> (B, dims), of the storage's type.
            skipped: images of these rows that cannot be read; their rows are zeros.
            seconds: the time to compute them.

        Raises:
            UserError: the disk is full, or cannot be written to.
        """
        if self._open is None:
            self._open = CacheBlock(self.done, self.done, dict.fromkeys(self.columns, 0), [], 0.0)
            self._began = time.monotonic()
        block = self._open
        checksums, count = dict(block.checksums), 0
        with self._writing():
            for column, dims in self.columns.items():
                data = np.ascontiguousarray(rows[column], dtype=_TYPES[self.storage])
                count = len(data)
                assert data.shape[1:] == (dims,) and block.last + count <= self.rows
                if column not in self._files:
                    path = self.path(column)
                    path.touch()
                    # Never cut short: another process may have mapped rows that a checksum now says are damaged.
                    self._files[column] = path.open("r+b")
                    self._files[column].seek(self.done * dims * data.itemsize)
                self._files[column].write(data.data)
                checksums[column] = zlib.crc32(data.data, checksums[column])
        self._open = CacheBlock(
            block.first, block.last + count, checksums, [*block.skipped, *skipped], block.seconds + seconds
        )

    def due(self) -> bool:
        """Whether the open block should be closed."""
        block = self._open
        return block is not None and (
            block.last == self.rows or block.last - block.first >= ROWS or time.monotonic() - self._began >= SECONDS
        )

    def flush(self) -> None:
        """Close the open block, if there is one, so that its rows are safe.

        Raises:
            UserError: as ``append``.
        """
        if self._open is None:
            return
        with self._writing():
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
            with (self.folder / "blocks.jsonl").open("ab") as index:
                index.write(self._open.line())
                index.flush()
                os.fsync(index.fileno())
        self.blocks.append(self._open)
        self._open = None

    def keep_before(self, row: int) -> None:
        """Drop the block that holds a row, and all blocks after it."""
        self._truncate([block for block in self.blocks if block.last <= row])

    def close(self) -> None:
        """Close the files; rows that are not safe yet are lost."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # a full disk, which was reported already
                file.close()
        self._files.clear()

    def matrix(self, column: str) -> NDArray[Any]:
        """Return a column of a complete entry: (rows, dims), read-only, mapped from the file."""
        assert self.done == self.rows
        shape = (self.rows, self.columns[column])
        return np.memmap(self.path(column), dtype=_TYPES[self.storage], mode="r", shape=shape)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot write features ({error.strerror}); make room or name another cache folder, "
                f"and call again: it continues at row {self.done:,} of {self.rows:,}"
            ) from error

    def _truncate(self, blocks: list[CacheBlock]) -> None:
        """Keep only these blocks, the first ones."""
        assert self._open is None and not self._files
        self.blocks = blocks
        write_atomically(self.folder / "blocks.jsonl", b"".join(block.line() for block in blocks))

    def check(self) -> None:
        """Load the blocks that are intact, up to the first damaged one; the rest is dropped."""
        path = self.folder / "blocks.jsonl"
        content = path.read_bytes() if path.is_file() else b""
        blocks: list[CacheBlock] = []
        for line in content.splitlines(keepends=True):
            try:
                values = json.loads(line)
                del values["check"]
                skipped = [(int(row), str(key), str(reason)) for row, key, reason in values["skipped"]]
                block = CacheBlock(**{**values, "skipped": skipped})
                follows = block.first == (blocks[-1].last if blocks else 0) and block.first < block.last <= self.rows
                if block.line() != line or not follows or block.checksums.keys() != self.columns.keys():
                    break
            except (ValueError, TypeError, KeyError):  # cut by a kill, or damaged
                break
            blocks.append(block)
        claimed = blocks[-1].last if blocks else 0
        for column, dims in self.columns.items():
            row_bytes = dims * np.dtype(_TYPES[self.storage]).itemsize
            blocks = blocks[: _count_intact(self.path(column), column, row_bytes, blocks)]
        good = blocks[-1].last if blocks else 0
        if b"".join(block.line() for block in blocks) == content:
            self.blocks = blocks
            return
        if good < claimed or content.count(b"\n") > len(blocks):  # more is wrong than one line that a kill cut
            say(f"{self.folder}: cached features are damaged from row {good:,} on; they are computed again from there")
        self._truncate(blocks)


@contextlib.contextmanager
def lock_entry(
    folder: Path, identity: Mapping[str, Any], rows: int, columns: Mapping[str, int], storage: Storage
) -> Iterator[Entry]:
    """Open or create an entry of the cache in ``folder``, check it, and hold its lock until the block ends.

    If another process holds the lock, print one message and wait.

    Args:
        folder: the folder of the whole cache; created if it does not exist.
        identity: all that the rows depend on, plain values.
        rows: the number of rows of the complete entry.
        columns: name -> dimensions.
        storage: type of the numbers.

    Raises:
        UserError: the entry cannot be written.
    """
    description = _to_json(identity)
    entry = Entry(folder / key_of(identity), rows, dict(columns), storage)
    assert all(name and "/" not in name and not name.startswith(".") for name in columns)
    try:
        entry.folder.mkdir(parents=True, exist_ok=True)
        lock = (entry.folder / ".lock").open("a")
    except OSError as error:
        raise UserError(f"{entry.folder}: cannot write there ({error.strerror}); name another cache folder") from error
    with lock:
        try:
            try:
                # Not flock, which workers inherit: they outlive a kill of this process for some seconds.
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                say(f"{entry.folder}: another process computes these features; waiting for it")
                fcntl.lockf(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"{entry.folder}: cannot be locked ({error.strerror}); name a cache folder on another disk"
            ) from error
        try:
            path = entry.folder / "identity.json"
            if not path.is_file() or path.read_bytes() != description:
                if path.exists():
                    say(f"{entry.folder}: these cached features do not match, or are damaged; computing them again")
                (entry.folder / "blocks.jsonl").unlink(
                    missing_ok=True
                )  # remove this file first, or it would count for the new identity
                write_atomically(path, description)
            entry.check()
        except OSError as error:
            raise UserError(
                f"{entry.folder}: cached features cannot be read ({error.strerror}); remove the folder, or name "
                "another cache folder"
            ) from error
        try:
            yield entry
        finally:
            entry.close()


def key_of(identity: Mapping[str, Any]) -> str:
    """Return the name of the folder of an entry with this identity."""
    return hashlib.sha256(_to_json(identity)).hexdigest()[:32]


def require_room(folder: Path, entries: Sequence[Entry]) -> None:
    """Refuse entries that the disk cannot hold.

    Raises:
        UserError: there is too little room.
    """
    needed, free = sum(entry.missing_bytes for entry in entries), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: features need {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free; make room, name another "
            "cache folder, or pool to fewer dimensions"
        )


def _count_intact(path: Path, column: str, row_bytes: int, blocks: Sequence[CacheBlock]) -> int:
    """Return how many of the blocks, from the first on, are intact in a column's file."""
    if not blocks or not path.is_file():
        return 0
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        for number, block in enumerate(blocks):
            left, checksum = (block.last - block.first) * row_bytes, 0
            while left:
                view = memoryview(buffer)[: min(left, _CHUNK)]
                count = file.readinto(view) or 0
                if not count:
                    return number
                checksum = zlib.crc32(view[:count], checksum)
                left -= count
            if checksum != block.checksums[column]:
                return number
    return len(blocks)


def _to_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()
