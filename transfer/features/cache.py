"""The cache of features on disk: an artifact for each network, image dataset and pooling rule.

It holds rows of numbers, one for each image, in blocks: whole blocks are appended, and their columns are mapped into
memory. A block has these parts:

FIRST-LAST.conv1.DIGEST.f16    the rows of a column, from FIRST to before LAST: raw, little-endian
FIRST-LAST.block.DIGEST.json   written last: the images that cannot be read, and the seconds that the rows took
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pretext.errors import UserError
from pretext.store import Artifact, PartWriter, key_of

Storage = Literal["float16", "float32"]
Skip = tuple[int, str, str]
"""Row, key and reason of an image that cannot be read."""

ROWS = 1024
"""The largest number of rows of a block."""
SECONDS = 20.0
"""The time after which a block is closed even if it has fewer rows."""

_TYPES: dict[Storage, str] = {"float16": "<f2", "float32": "<f4"}
_ENDINGS: dict[Storage, str] = {"float16": "f16", "float32": "f32"}


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


class Matrix:
    """Rows of features that are read from files on use.

    Args:
        blocks: (n, dims) each, perhaps memory maps: its rows, one block after the other.
    """

    def __init__(self, blocks: "Sequence[NDArray[Any] | Matrix]") -> None:
        self._blocks = blocks
        self._ends = np.cumsum([len(block) for block in blocks])
        self.shape: tuple[int, int] = int(self._ends[-1]), int(blocks[0].shape[1])
        self.dtype: np.dtype[Any] = blocks[0].dtype
        self.nbytes: int = sum(block.nbytes for block in blocks)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.concatenate(self._blocks).astype(dtype or self.dtype, copy=False)

    def __getitem__(self, rows: "slice | NDArray[Any] | list[int]") -> NDArray[Any]:
        """Return the rows of a slice or of an array of indices: (N, dims)."""
        indices = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        chosen = np.empty((len(indices), self.shape[1]), self.dtype)
        block_of = np.searchsorted(self._ends, indices, side="right")
        for number in np.unique(block_of):
            inside = block_of == number
            first = self._ends[number] - len(self._blocks[number])
            chosen[inside] = self._blocks[number][indices[inside] - first]
        return chosen


Features = Matrix | NDArray[np.floating]
"""Rows of features, in files or in memory."""


@dataclass
class CacheBlock:
    """Rows that were written together."""

    first: int
    last: int
    """The row after the last one."""
    skipped: list[Skip] = field(default_factory=list)
    seconds: float = 0.0
    files: dict[str, Path] = field(default_factory=dict)
    """The parts of its columns, and that of the block itself under the name "block"."""

    @property
    def name(self) -> str:
        """The beginning of the names of its parts."""
        return f"{self.first:09}-{self.last:09}"


@dataclass
class Entry:
    """An entry of the cache: locked, so no other process writes to it. Made by ``lock_entry``."""

    artifact: Artifact
    rows: int
    """The number of rows of a complete entry."""
    columns: dict[str, int]
    """Name -> dimensions."""
    storage: Storage
    blocks: list[CacheBlock] = field(default_factory=list)
    _open: CacheBlock | None = None
    _writers: dict[str, PartWriter] = field(default_factory=dict)
    _began: float = 0.0

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.artifact.folder

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
        return (self.rows - self.done) * row_bytes(self.columns, self.storage)

    def append(self, rows: Mapping[str, NDArray[Any]], skipped: Sequence[Skip], seconds: float) -> None:
        """Write the next rows.

        Args:
            rows: column -> (B, dims), of the storage's type.
            skipped: images of these rows that cannot be read; their rows are zeros.
            seconds: the time to compute them.

        Raises:
            UserError: the disk is full, or cannot be written to.
        """
        with self._writing():
            if self._open is None:
                self._open, self._began = CacheBlock(self.done, self.done), time.monotonic()
                self._writers = {column: PartWriter(self.folder, column) for column in self.columns}
            count = 0
            for column, dims in self.columns.items():
                data = np.ascontiguousarray(rows[column], dtype=_TYPES[self.storage])
                count = len(data)
                assert data.shape[1:] == (dims,) and self._open.last + count <= self.rows
                self._writers[column].write(data.data)
            self._open.last += count
            self._open.skipped += skipped
            self._open.seconds += seconds

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
        block = self._open
        if block is None:
            return
        with self._writing():
            for column, writer in self._writers.items():
                block.files[column] = writer.commit(f"{block.name}.{column}", _ENDINGS[self.storage])
            about = json.dumps({"skipped": block.skipped, "seconds": block.seconds}).encode()
            block.files["block"] = self.artifact.write(f"{block.name}.block", "json", about)
        self.blocks.append(block)
        self._open = None

    def keep_before(self, row: int) -> None:
        """Drop the block that holds a row, and all blocks after it."""
        assert self._open is None
        self.blocks = [block for block in self.blocks if block.last <= row]
        self.artifact.keep({path for block in self.blocks for path in block.files.values()})

    def close(self) -> None:
        """Drop the rows that are not safe yet."""
        for writer in self._writers.values() if self._open else ():
            writer.close()

    def matrix(self, column: str) -> Matrix:
        """Return a column of a complete entry: (rows, dims).

        Raises:
            UserError: its files can no longer be read.
        """
        assert self.done == self.rows
        dtype, dims = _TYPES[self.storage], self.columns[column]
        try:
            return Matrix([np.memmap(b.files[column], dtype, "r", shape=(b.last - b.first, dims)) for b in self.blocks])
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot read cached features ({error.strerror}); call again when the folder is there, "
                "or name another cache folder"
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot write features ({error.strerror}); make room or name another cache folder, "
                f"and call again: it continues at row {self.done:,} of {self.rows:,}"
            ) from error

    def load(self) -> None:
        """Load the blocks that are undamaged, up to the first row that is missing; the rest is dropped."""
        parts = self.artifact.parts()
        by_first: dict[int, CacheBlock] = {}
        for name, path in parts.items():
            span, _, kind = name.partition(".")
            if kind == "block":
                first, last = map(int, span.split("-"))
                about = json.loads(path.read_bytes())
                skipped = [(row, key, reason) for row, key, reason in about["skipped"]]
                files = {column: parts[f"{span}.{column}"] for column in self.columns if f"{span}.{column}" in parts}
                if len(files) == len(self.columns):
                    by_first[first] = CacheBlock(first, last, skipped, about["seconds"], {**files, "block": path})
        self.blocks = []
        while self.done in by_first:
            self.blocks.append(by_first[self.done])
        self.keep_before(self.rows)


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
    artifact = Artifact(folder / key_of(identity), identity, "cached features", "name another cache folder")
    entry = Entry(artifact, rows, dict(columns), storage)
    with artifact.open("computing these features"):
        entry.load()
        try:
            yield entry
        finally:
            entry.close()


def unwritten_bytes(folder: Path, rows: int, columns: Mapping[str, int], storage: Storage) -> int:
    """Return the bytes by which an entry will still grow, whether it is locked or not."""
    present = sum(path.stat().st_size for path in folder.glob(f"*.{_ENDINGS[storage]}"))
    return max(0, rows * row_bytes(columns, storage) - present)


def row_bytes(columns: Mapping[str, int], storage: Storage) -> int:
    """Return the size of a row of all columns."""
    return sum(columns.values()) * np.dtype(_TYPES[storage]).itemsize


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
