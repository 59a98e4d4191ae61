"""One cache entry: rows of numbers that were computed once, on disk, in blocks with checksums.

An entry is a folder, named by the hash of its identity:

identity.json   what the rows are of; an entry whose file says anything else is begun anew
conv1.f16 ...   a column of vectors: a row for each image, in order, raw, little-endian
blocks.jsonl    a line for each block of rows: first and last row, the CRC-32 of every column's part, images that
                cannot be read, seconds; and the CRC-32 of the line itself

A block counts once its line stands, which is after its rows are on the disk. So a kill at any moment
leaves whole blocks, and what lies behind them is written over.
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
"""Of a block, at most."""
SECONDS = 20.0
"""After which a block is closed even if it has fewer rows."""

_TYPES: dict[Storage, str] = {"float16": "<f2", "float32": "<f4"}
_ENDINGS: dict[Storage, str] = {"float16": "f16", "float32": "f32"}
_CHUNK = 2**22


@dataclass(frozen=True)
class CacheSettings:
    """Where features are kept, and how."""

    folder: Path
    storage: Storage = "float16"


def cache_folder(named: str = "") -> Path:
    """Where features are kept: where is said, else $PRETINT_CACHE, else in the user's folder of caches.

    Raises:
        UserError: it is in the home folder of a user who has none.
    """
    named, caches = named or os.environ.get("PRETINT_CACHE", ""), Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if named:
            return Path(named).expanduser()
        return (caches if caches.is_absolute() else Path.home() / ".cache") / "pretint" / "features"
    except RuntimeError as error:
        said = f"cache: {named}: no such user has a home; name a folder"
        none = "there is no home folder to keep features in: set PRETINT_CACHE to a folder"
        raise UserError(said if named else none) from error


@dataclass(frozen=True)
class Block:
    """Rows that were written together."""

    first: int
    last: int
    """Behind the last row."""
    checksums: dict[str, int]
    skipped: list[Skip]
    seconds: float

    def line(self) -> bytes:
        """As it stands in the file."""
        content = {**vars(self), "skipped": [list(entry) for entry in self.skipped]}
        return _dumped({**content, "check": zlib.crc32(_dumped(content))}) + b"\n"


@dataclass
class Entry:
    """A cache entry that is held: nobody else writes to it. Made by ``held_entry``."""

    folder: Path
    rows: int
    """When it is complete."""
    columns: dict[str, int]
    """Name -> dimensions."""
    storage: Storage
    blocks: list[Block] = field(default_factory=list)
    _files: dict[str, IO[bytes]] = field(default_factory=dict)
    _open: Block | None = None
    _began: float = 0.0

    @property
    def done(self) -> int:
        """How many rows are safely there."""
        return self.blocks[-1].last if self.blocks else 0

    @property
    def written(self) -> int:
        """How many rows were written, safely or not yet."""
        return self._open.last if self._open else self.done

    @property
    def missing_bytes(self) -> int:
        """How much room the rest will take."""
        return (self.rows - self.done) * self._row_bytes

    @property
    def unwritten_bytes(self) -> int:
        """By how much its files will still grow, also of an entry that nobody holds: none is ever cut short."""
        there = sum(self.path(column).stat().st_size for column in self.columns if self.path(column).is_file())
        return max(0, self.rows * self._row_bytes - there)

    @property
    def _row_bytes(self) -> int:
        return sum(self.columns.values()) * np.dtype(_TYPES[self.storage]).itemsize

    def path(self, column: str) -> Path:
        """Of a column's file."""
        return self.folder / f"{column}.{_ENDINGS[self.storage]}"

    def append(self, rows: Mapping[str, NDArray[Any]], skipped: Sequence[Skip], seconds: float) -> None:
        """Write the next rows.

        Args:
            rows: column -> (B, dims), of the storage's type.
            skipped: those of them that cannot be read; their rows are zeros.
            seconds: that they took.

        Raises:
            UserError: the disk is full, or cannot be written.
        """
        if self._open is None:
            self._open = Block(self.done, self.done, dict.fromkeys(self.columns, 0), [], 0.0)
            self._began = time.monotonic()
        block = self._open
        checksums, count = dict(block.checksums), 0
        with self._writing():
            for column, dims in self.columns.items():
                data = np.ascontiguousarray(rows[column], dtype=_TYPES[self.storage])
                count = len(data)
                assert data.shape[1:] == (dims,) and block.last + count <= self.rows
                self._file(column).write(data.data)
                checksums[column] = zlib.crc32(data.data, checksums[column])
        self._open = Block(
            block.first, block.last + count, checksums, [*block.skipped, *skipped], block.seconds + seconds
        )

    def due(self) -> bool:
        """Whether the open block should be closed."""
        block = self._open
        return block is not None and (
            block.last == self.rows or block.last - block.first >= ROWS or time.monotonic() - self._began >= SECONDS
        )

    def flush(self) -> None:
        """Close the open block, if there is one: its rows are safe then.

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
        """Drop the block that holds a row, and all behind it."""
        self._keep([block for block in self.blocks if block.last <= row])

    def close(self) -> None:
        """Close the files, without a word about what is not safe yet."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # of a full disk, which was said already
                file.close()
        self._files.clear()

    def matrix(self, column: str) -> NDArray[Any]:
        """A column of a complete entry: (rows, dims), read-only, mapped from the file."""
        assert self.done == self.rows
        shape = (self.rows, self.columns[column])
        return np.memmap(self.path(column), dtype=_TYPES[self.storage], mode="r", shape=shape)

    def _file(self, column: str) -> IO[bytes]:
        if column not in self._files:
            path = self.path(column)
            path.touch()
            # Never cut short: another process may have mapped what a checksum now says is damaged.
            file = self._files[column] = path.open("r+b")
            file.seek(self.done * self.columns[column] * np.dtype(_TYPES[self.storage]).itemsize)
        return self._files[column]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot write features ({error.strerror}); make room or name another cache folder, "
                f"and call again: it goes on at row {self.done:,} of {self.rows:,}"
            ) from error

    def _keep(self, blocks: list[Block]) -> None:
        assert self._open is None and not self._files
        self.blocks = blocks
        write_atomically(self.folder / "blocks.jsonl", b"".join(block.line() for block in blocks))

    def _check(self) -> None:
        """Take up the blocks that are as they were written, up to the first that is not."""
        path = self.folder / "blocks.jsonl"
        content = path.read_bytes() if path.is_file() else b""
        blocks = _blocks(content, self.rows, list(self.columns))
        claimed = blocks[-1].last if blocks else 0
        for column, dims in self.columns.items():
            blocks = blocks[: _sound(self.path(column), column, dims * np.dtype(_TYPES[self.storage]).itemsize, blocks)]
        good = blocks[-1].last if blocks else 0
        if b"".join(block.line() for block in blocks) == content:
            self.blocks = blocks
            return
        if good < claimed or content.count(b"\n") > len(blocks):  # not only a line that a kill cut
            say(f"{self.folder}: cached features are damaged from row {good:,} on; they are computed again from there")
        self._keep(blocks)


@contextlib.contextmanager
def held_entry(
    folder: Path, identity: Mapping[str, Any], rows: int, columns: Mapping[str, int], storage: Storage
) -> Iterator[Entry]:
    """An entry of the cache in ``folder``, begun or taken up again, checked, and held until the block ends.

    It waits, and says so once, while another process holds it.

    Args:
        folder: of the whole cache; made if it does not exist.
        identity: what the rows are a function of, plain values.
        rows: how many there will be.
        columns: name -> dimensions.
        storage: type of the numbers.

    Raises:
        UserError: it cannot be written to.
    """
    described = _dumped(identity)
    entry = Entry(folder / key_of(identity), rows, dict(columns), storage)
    assert all(name and "/" not in name and not name.startswith(".") for name in columns)
    try:
        entry.folder.mkdir(parents=True, exist_ok=True)
        lock = (entry.folder / ".lock").open("a")
    except OSError as error:
        raise UserError(f"{entry.folder}: cannot write there ({error.strerror}); name another cache folder") from error
    with lock:
        _lock(lock, entry.folder)
        try:
            name = entry.folder / "identity.json"
            if not name.is_file() or name.read_bytes() != described:
                if name.exists():
                    say(f"{entry.folder}: cached features of something else, or damaged; they are computed again")
                (entry.folder / "blocks.jsonl").unlink(missing_ok=True)  # first: it would speak for the new identity
                write_atomically(name, described)
            entry._check()
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
    """The name of the folder of an entry with this identity."""
    return hashlib.sha256(_dumped(identity)).hexdigest()[:32]


def require_room(folder: Path, entries: Sequence[Entry]) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        UserError: too little room.
    """
    needed, free = sum(entry.missing_bytes for entry in entries), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: features need {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free; make room, name another "
            "cache folder, or pool to fewer dimensions"
        )


def _lock(lock: IO[str], folder: Path) -> None:
    try:
        try:
            # Not flock, which workers inherit: they outlive a kill of this process for some seconds.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            say(f"{folder}: another process computes these features; waiting for it")
            fcntl.lockf(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be locked ({error.strerror}); name a cache folder on another disk"
        ) from error


def _blocks(content: bytes, rows: int, columns: list[str]) -> list[Block]:
    """The blocks that a file lists, up to the first line that is not as it was written."""
    blocks: list[Block] = []
    for line in content.splitlines(keepends=True):
        try:
            found = json.loads(line)
            del found["check"]
            block = Block(
                **{**found, "skipped": [(int(row), str(key), str(why)) for row, key, why in found["skipped"]]}
            )
            follows = block.first == (blocks[-1].last if blocks else 0) and block.first < block.last <= rows
            if block.line() != line or not follows or block.checksums.keys() != set(columns):
                break
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            break
        blocks.append(block)
    return blocks


def _sound(path: Path, column: str, row_bytes: int, blocks: Sequence[Block]) -> int:
    """How many of the blocks, from the first on, a column's file holds as they were written."""
    if not blocks or not path.is_file():
        return 0
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        for number, block in enumerate(blocks):
            left, checksum = (block.last - block.first) * row_bytes, 0
            while left:
                view = memoryview(buffer)[: min(left, _CHUNK)]
                got = file.readinto(view) or 0
                if not got:
                    return number
                checksum = zlib.crc32(view[:got], checksum)
                left -= got
            if checksum != block.checksums[column]:
                return number
    return len(blocks)


def _dumped(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()
