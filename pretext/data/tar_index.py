"""The positions of the images in a tar file: read from its headers once, then stored in a small file.

Keys are those of WebDataset: the name of a member up to the first dot of its base name. Images are regular
members with the ending of an image. Of the other members only ``KEY.cls`` is used, a class index in ASCII.
Hidden members, files that a system made (see ``formats``), links and sparse files are skipped and counted.
"""

import contextlib
import hashlib
import io
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pretext.data.formats import RULES, SkippedFiles, is_image_name, system_name
from pretext.data.scan import readable
from pretext.errors import UserError
from pretext.store import cache_file, read_table, write_cached, write_table

UNLABELED, NO_NUMBER = -1, -2
"""Values instead of a label: there is no ``.cls`` member, or it holds no class index."""

MOST_CLASSES = 1_000_000

_FORMAT = 2
_BLOCK = 512
_SLACK = 2**20  # a tar may end in zeros up to a whole record: usually 10 kB, rarely more
_ENDS = 2**16
_MOST_HEADERS = 2**22  # bytes of the headers of one member, which hold a name and a few numbers: usually some kB
_DTYPES: dict[str, Any] = {"offsets": np.int64, "sizes": np.int64, "ends": np.int64, "hashes": np.uint64}
_DTYPES |= {"labels": np.int32, "sums": np.uint32, "names": np.uint8}
_PACKED = {
    b"\x1f\x8b": "gzip -d",
    b"BZh": "bzip2 -d",
    b"\xfd7zXZ": "xz -d",
    b"\x28\xb5\x2f\xfd": "zstd -d",
}


@dataclass
class TarIndex:
    """An index of the images of one tar file, in its order; row i of every array is image i.

    Args:
        offsets: int64, position of the first byte of every image.
        sizes: int64, number of bytes of every image.
        ends: int64, end of the key of every image in ``names``.
        hashes: uint64, hash of the key of every image.
        labels: int32, class of every image, or ``UNLABELED`` or ``NO_NUMBER``.
        names: uint8, all keys in UTF-8, a newline after each.
        sums: uint32, CRC-32 of the bytes of every image; empty if they were not computed when the file was written.
        left_out: counts of the other members.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    ends: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    labels: NDArray[np.int32]
    names: NDArray[np.uint8]
    sums: NDArray[np.uint32]
    left_out: SkippedFiles

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.offsets)


@dataclass
class TarIndexBuilder:
    """A ``TarIndex`` that grows image by image."""

    keys: list[str] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    left_out: SkippedFiles = field(default_factory=SkippedFiles)
    system_folders: set[str] = field(default_factory=set)
    """Paths of the system folders that are left out: each counts once."""
    sums: list[int] = field(default_factory=list)

    def add(self, key: str, offset: int, size: int, label: int | None = None, crc: int | None = None) -> None:
        """Add an image: ``offset`` and ``size`` in bytes, and the CRC-32 of its bytes, for all images or for none."""
        self.keys.append(key)
        self.places.append((offset, size))
        if crc is not None:
            self.sums.append(crc)
        if label is not None:
            self.labels[key] = label

    def is_in_system_folder(self, name: str) -> bool:
        """Whether a member of this name lies in a folder that a system made; count that folder once."""
        *folders, _ = name.split("/")
        for depth, folder in enumerate(folders, 1):
            if folder and system_name(encoded := folder.encode("utf-8", "surrogateescape")):
                path = "/".join(folders[:depth])
                if path not in self.system_folders:
                    self.system_folders.add(path)
                    self.left_out.add_folder(encoded)
                return True
        return False

    def index(self) -> TarIndex:
        """Return the index."""
        lines = [key.encode() + b"\n" for key in self.keys]
        places = np.array(self.places, np.int64).reshape(-1, 2)
        return TarIndex(
            offsets=places[:, 0].copy(),
            sizes=places[:, 1].copy(),
            ends=np.cumsum([len(line) for line in lines], dtype=np.int64),
            hashes=np.array([key_hash(key) for key in self.keys], np.uint64),
            labels=np.array([self.labels.get(key, UNLABELED) for key in self.keys], np.int32),
            names=np.frombuffer(b"".join(lines), np.uint8),
            sums=np.array(self.sums, np.uint32),
            left_out=self.left_out,
        )


def key_hash(key: str) -> int:
    """Return a 64-bit hash of a key."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def load_index(path: Path) -> TarIndex | None:
    """Return the index beside a tar file, or in the user's cache, if the tar file is still the same; else None."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        index = _read(index_path(path), _content_identity(file), file)
        return index or _read(_cache_file(path), _time_identity(path, file), file)
    return None


def build_index(path: Path) -> TarIndex:
    """Return the index of a tar file from its headers, and store it in the user's cache, if that can be written.

    If there is an index with checksums beside the file, with the images at the same positions, it is returned instead:
    it belongs to this file, which was damaged later, and the checksums show the damaged images.

    Raises:
        UserError: the file cannot be read, is not a tar file, is compressed, truncated or damaged.
    """
    try:
        # A small buffer, because every seek fills it again; it can hold a small label and the next header.
        with path.open("rb", buffering=4096) as file:
            identity = _time_identity(path, file)
            index = _scan(file, path)
            beside = _read(index_path(path), None, file)
            if beside is not None and len(beside.sums) == len(index):
                same_offsets = np.array_equal(beside.offsets, index.offsets)
                if same_offsets and np.array_equal(beside.sizes, index.sizes):
                    index = beside
    except (OSError, MemoryError) as error:
        raise UserError(f"{path}: the shard cannot be read: {getattr(error, 'strerror', 'too large')}") from error
    write_cached(_cache_file(path), identity, *_to_table(index))
    return index


def index_path(path: Path) -> Path:
    """Return the path of the index of a packed shard: ``shard-000000.index`` for ``shard-000000.tar``."""
    return path.with_suffix(".index")


def write_index_beside(path: Path, index: TarIndex) -> None:
    """Write the index of a finished tar file beside it: it stays valid when both are copied elsewhere."""
    with path.open("rb") as file:
        write_table(index_path(path), _content_identity(file), *_to_table(index))


def _scan(file: IO[bytes], path: Path) -> TarIndex:
    """Return the index of an open tar file from its headers; raises as ``build_index``."""
    builder, at = TarIndexBuilder(), 0
    length = os.fstat(file.fileno()).st_size
    if not length:
        raise UserError(f"{path}: the shard is empty (0 bytes); fetch it again, or leave it out of the pattern")
    # Only its reader of headers is used: the iterator of tarfile reports no error for a file that is cut in a header.
    tar = tarfile.TarFile(fileobj=io.BytesIO(bytes(2 * _BLOCK)), encoding="utf-8", errors="surrogateescape")
    while True:
        file.seek(at)
        block = file.read(_BLOCK)
        if len(block) < _BLOCK and at:
            raise _damage_error(path, "cut", length, builder)
        if len(block) == _BLOCK and not any(block):
            break
        file.seek(at)
        tar.fileobj = _Headers(file)  # type: ignore[assignment]
        try:
            member = tarfile.TarInfo.fromtarfile(tar)
        except OSError:
            raise
        except Exception as error:  # tarfile raises many types of error for damaged headers
            if at:
                raise _damage_error(path, "damaged", at, builder) from error
            command = next((command for magic, command in _PACKED.items() if block.startswith(magic)), None)
            if command:
                raise UserError(
                    f"{path}: is compressed and cannot be read by index; decompress it first: {command} {path}"
                ) from error
            raise UserError(
                f"{path}: not a tar file (its first header cannot be read); give shards in the WebDataset layout"
            ) from error
        if member.size < 0 or tar.offset <= at:
            raise _damage_error(path, "damaged", at, builder)
        if tar.offset > length:
            raise _damage_error(path, "cut", length, builder)
        padded = member.size + -member.size % _BLOCK
        if member.isreg() and not member.issparse() and member.offset_data + padded != tar.offset:
            raise _damage_error(path, "damaged", at, builder)  # a record has another size than the header
        at = tar.offset
        _add_member(member, file, builder)
    rest = file.read(_SLACK + 1)
    if len(rest) > _SLACK or any(rest):
        # An incomplete download may look like this, and two archives in one file.
        raise _damage_error(path, f"{length:,} bytes long but ends", at, builder)
    return builder.index()


class _Headers:
    """A tar file with a limit for the size of headers: tarfile would read as much as a header claims."""

    def __init__(self, file: IO[bytes]) -> None:
        self.tell, self.seek = file.tell, file.seek
        self._file, self._left = file, _MOST_HEADERS

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._left:
            raise ValueError(f"{size} bytes of headers")
        self._left -= size
        return self._file.read(size)


def _add_member(member: tarfile.TarInfo, file: IO[bytes], builder: TarIndexBuilder) -> None:
    """Add a member of a tar file: an image, the label of an image, or a member that is left out."""
    if member.isdir() or builder.is_in_system_folder(member.name):
        return
    folder, slash, base = member.name.rpartition("/")
    stem, _, ending = base.partition(".")
    name = base.encode("utf-8", "surrogateescape")
    if not stem or system_name(name):
        builder.left_out.add_file(name)
        return
    if not member.isreg() or member.issparse():
        link = member.issym() or member.islnk()
        builder.left_out.add_kind("sparse file" if member.isreg() else "link" if link else "pipe, socket or device")
        return
    key = readable(f"{folder}{slash}{stem}".encode("utf-8", "surrogateescape"))
    if is_image_name(name):
        builder.add(key, member.offset_data, member.size)
    elif ending != "cls":
        builder.left_out.add_file(name)
    else:
        file.seek(member.offset_data)
        digits = file.read(min(member.size, 32)).strip()
        small = digits.isdigit() and len(digits) < 10 and int(digits) < MOST_CLASSES
        builder.labels[key] = int(digits) if small else NO_NUMBER


def _damage_error(path: Path, how: str, at: int, builder: TarIndexBuilder) -> UserError:
    count = len(builder.keys)
    images = "1 whole image" if count == 1 else f"{count:,} whole images"
    return UserError(
        f"{path}: the shard is {how} at byte {at:,}, after {images}; fetch it again, or leave it out of the pattern"
    )


def _time_identity(path: Path, file: IO[bytes]) -> dict[str, Any]:
    status = os.fstat(file.fileno())
    return {"format": _FORMAT, "rules": RULES, "path": os.fsencode(path).hex(), "bytes": status.st_size,
            "changed": status.st_mtime_ns}  # fmt: skip


def _content_identity(file: IO[bytes]) -> dict[str, Any]:
    """Return length, beginning and end: they are equal for copies and differ for other contents."""
    length = os.fstat(file.fileno()).st_size
    ends = os.pread(file.fileno(), _ENDS, 0) + os.pread(file.fileno(), _ENDS, max(0, length - _ENDS))
    return {"format": _FORMAT, "bytes": length, "ends": hashlib.sha256(ends).hexdigest()}


def _cache_file(path: Path) -> Path:
    return cache_file("shards", os.fsencode(path))


def _to_table(index: TarIndex) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    return {name: getattr(index, name) for name in _DTYPES}, index.left_out.as_dict()


def _read(path: Path, identity: dict[str, Any] | None, tar: IO[bytes]) -> TarIndex | None:
    """Return a stored index if it has this identity (None: any) and its positions lie in the file.

    It may come with a downloaded tar file, made by another program.
    """
    table = read_table(path, identity)
    if table is None or {name: array.dtype for name, array in table[0].items()} != _DTYPES:
        return None
    try:
        columns = {name: column.copy() for name, column in table[0].items()}  # a mapped file would stay open
        index = TarIndex(**columns, left_out=SkippedFiles.from_dict(table[1]))
    except (TypeError, ValueError):
        return None
    count, room = len(index), os.fstat(tar.fileno()).st_size - index.sizes
    checks = (
        {len(index.sizes), len(index.ends), len(index.hashes), len(index.labels)} == {count},
        len(index.sums) in (0, count),
        ((index.offsets >= 0) & (index.sizes >= 0) & (index.offsets <= room)).all(),
        ((index.labels >= NO_NUMBER) & (index.labels < MOST_CLASSES)).all(),
        np.array_equal(np.flatnonzero(index.names == ord("\n")) + 1, index.ends),
        not count or index.ends[-1] == len(index.names),
    )
    return index if all(checks) else None
