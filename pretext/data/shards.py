"""Tar shards in the WebDataset layout, read by index."""

import contextlib
import hashlib
import itertools
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pretext.data.decode import decode
from pretext.data.duplicates import stamp_files
from pretext.data.formats import USUAL, SkippedFiles, is_image_name, system_name
from pretext.data.local_copy import SUMS, local_copies
from pretext.data.pack_manifest import MANIFEST
from pretext.data.patterns import find_shards
from pretext.data.scan import readable
from pretext.data.source import compose_classes
from pretext.data.tar_index import NO_NUMBER, UNLABELED, TarIndex, build_index, load_index
from pretext.engine.progress import progress, say_once
from pretext.errors import ImageError, UserError

CLASSES = "classes.txt"
"""The file beside the shards with the names of the classes, one per line, by label."""

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MANY = 4
_OPEN = 256


class Shards:
    """A source of the images in tar files, in the order of the files and of their members.

    Nothing is unpacked. Headers are read once, for an index that is stored beside a packed shard or in the user's
    cache. In memory an image needs 24 bytes and its key, which forked workers share. If `pretext.data.pack` wrote the
    shard, it needs 4 more bytes for a checksum, which is compared when the image is read. If ``PRETINT_LOCAL`` is set,
    the shards are copied to the local disk and read there; names, keys and errors are those of the originals.

    Args:
        pattern: a tar file, a brace pattern such as ``train-{0000..0146}.tar``, a glob, or a folder.

    Raises:
        UserError: a shard is missing, truncated, damaged or compressed, a shard has no image, or two images have
            the same key. With ``PRETINT_LOCAL`` also if a shard differs from its checksum in SHA256SUMS, or
            there is no room for the copy.
    """

    def __init__(self, pattern: str | os.PathLike[str]) -> None:
        self.pattern = os.fspath(pattern)
        self.paths = find_shards(self.pattern)
        self._files = local_copies(self.paths)
        # Only originals are scanned and named in errors.
        known = [
            copied if file != path and (copied := load_index(file)) is not None else load_index(path)
            for path, file in zip(self.paths, self._files, strict=True)
        ]
        unknown = known.count(None)
        quiet = contextlib.nullcontext(lambda more, remark: None)
        with progress("index shards", unknown, "shards") if unknown > _MANY else quiet as advance:
            for at, path in enumerate(self.paths):
                if known[at] is None:
                    known[at] = build_index(path)
                    advance(1, "")
        indices = [index for index in known if index is not None]
        for path, index in zip(self.paths, indices, strict=True):
            if not len(index):
                others = f", {index.left_out.describe()}" if index.left_out else ""
                raise UserError(f"{path}: no images in the shard{others}; their names end in {USUAL}")
        self._firsts = np.cumsum([0, *map(len, indices)])
        self._offsets = np.concatenate([index.offsets for index in indices])
        self._sizes = np.concatenate([index.sizes for index in indices])
        self._names = b"".join(index.names.tobytes() for index in indices)
        before = np.cumsum([0, *(len(index.names) for index in indices)])
        ends = [index.ends + start for index, start in zip(indices, before, strict=False)]
        self._ends = np.concatenate([np.zeros(1, np.int64), *ends])
        self._sums = [index.sums for index in indices]
        self._lengths = [file.stat().st_size for file in self._files]
        self._open: dict[int, _Descriptor] = {}
        hashes = np.concatenate([index.hashes for index in indices])
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        for first, second in zip(order[same].tolist(), order[same + 1].tolist(), strict=True):
            if self.key(first) != self.key(second):
                continue  # two different keys with the same hash are no problem
            path, other = self.paths[self._shard(first)], self.paths[self._shard(second)]
            if path == other:
                raise UserError(
                    f"{path}: two images have the key {self.key(first)} (a name up to its first dot); "
                    "give every image its own key"
                )
            raise UserError(
                f"{self.pattern}: the key {self.key(first)} is both in {path} and in {other}; give one of them"
            )
        self._read_labels(indices)
        left_out = SkippedFiles()
        for index in indices:
            left_out.add_all(index.left_out)
        left_out.print_once(readable(os.fsencode(self.pattern)))
        unchecked = [path.parent for path, sums in zip(self.paths, self._sums, strict=True) if not len(sums)]
        for folder in dict.fromkeys(unchecked):
            if (folder / MANIFEST).is_file():
                say_once(
                    f"{folder}: the index of a shard is missing, damaged or of an earlier version, so there is no "
                    "checksum for each image, and a damaged image may be used; run pretint pack again"
                )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._offsets)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        """Return image ``index``: mode RGB, upright; ``shorter`` as in `decode`.

        Raises:
            ImageError: the shard is gone or changed, cannot be read, or the image cannot be decoded.
        """
        return decode(self.data(index), self.key(index), shorter)

    def data(self, index: int) -> bytes:
        """Return the bytes of image ``index``; raises as ``read``."""
        shard = self._shard(index)
        try:
            return self._data(index, shard)
        except ImageError:
            if self._files[shard] == self.paths[shard]:
                raise
            # A local copy may be deleted or damaged. A run must not skip images because of that.
            self._files[shard] = self.paths[shard]
            self._open.pop(shard, None)
            return self._data(index, shard)

    def stamps(self) -> NDArray[np.int64]:
        """See ``StoredDataset.stamps``; the time is that of the shard."""
        of_shards = stamp_files(lambda shard: os.fsencode(self._files[shard]), len(self._files))
        return np.column_stack([self._sizes, np.repeat(of_shards[:, 1], np.diff(self._firsts))])

    def read_bytes(self, index: int, start: int = 0, stop: int | None = None) -> bytes:
        """See ``StoredDataset.read_bytes``."""
        size = int(self._sizes[index])
        try:
            # A local reference: another thread may remove it from the table.
            descriptor = self._descriptor(self._shard(index))
            length = (size if stop is None else min(stop, size)) - start
            return os.pread(descriptor.number, length, int(self._offsets[index]) + start)
        except (OSError, ValueError, MemoryError) as error:
            raise ImageError(self.key(index), "cannot be read") from error

    def _data(self, index: int, shard: int) -> bytes:
        size, name = int(self._sizes[index]), self.paths[shard].name
        try:
            # The descriptor has no position: forked workers and threads may share it.
            data = os.pread(self._descriptor(shard).number, size, int(self._offsets[index]))
        except FileNotFoundError as error:
            raise ImageError(self.key(index), f"its shard {name} is gone since it was opened") from error
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", "too large")
            raise ImageError(self.key(index), f"its shard {name} cannot be read: {reason}") from error
        except ValueError as error:
            raise ImageError(self.key(index), str(error)) from error
        if len(data) < size:
            raise ImageError(self.key(index), f"its shard {name} was cut since it was opened")
        sums = self._sums[shard]
        if len(sums) and zlib.crc32(data) != sums[index - self._firsts[shard]]:
            raise ImageError(self.key(index), f"its shard {name} is damaged: the checksum of this image differs")
        return data

    def key(self, index: int) -> str:
        """Return WebDataset's key of image ``index``; bytes that are not UTF-8 become ``\\xNN``."""
        assert 0 <= index < len(self), index
        return self._names[self._ends[index] : self._ends[index + 1] - 1].decode("utf-8", "backslashreplace")

    def digest(self) -> str:
        """Return the SHA-256 of all keys in order, a newline after each."""
        return hashlib.sha256(self._names).hexdigest()

    def __getstate__(self) -> dict[str, Any]:  # another process opens the files again
        return {**self.__dict__, "_open": {}}

    def _read_labels(self, indices: Sequence[TarIndex]) -> None:
        """Read the labels from the indices; ``LabeledShards`` does."""

    def _shard(self, index: int) -> int:
        assert 0 <= index < len(self), index
        return int(np.searchsorted(self._firsts, index, "right")) - 1

    def _descriptor(self, shard: int) -> "_Descriptor":
        """Return the open shard; ValueError if its size has changed."""
        descriptor = self._open.get(shard)
        if descriptor is None:
            descriptor = _Descriptor(self._files[shard])
            if os.fstat(descriptor.number).st_size != self._lengths[shard]:
                raise ValueError(f"its shard {self.paths[shard].name} changed since it was opened")
            for oldest in list(self._open)[: len(self._open) - _OPEN + 1]:
                self._open.pop(oldest, None)
            self._open[shard] = descriptor
        return descriptor


class LabeledShards(Shards):
    """A labeled source: shards with a member ``KEY.cls`` for each image, its class index in ASCII.

    The names of the classes are the lines of ``classes.txt`` beside the shards; without this file, the indices.

    Raises:
        UserError: as for `Shards`; or an image has no class, or a class that is not in ``classes.txt``.
    """

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes, by label."""
        return self._classes

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return the label of every image, by index."""
        return self._labels

    def _read_labels(self, indices: Sequence[TarIndex]) -> None:
        self._labels = np.concatenate([index.labels for index in indices]).astype(np.int64)
        for mark, what in ((UNLABELED, "no .cls beside it"), (NO_NUMBER, "a .cls that holds no class index")):
            if len(bad := np.flatnonzero(self._labels == mark)):
                first, shard = int(bad[0]), self.paths[self._shard(int(bad[0]))]
                raise UserError(
                    f"{self.pattern}: {len(bad):,} of {len(self):,} images have {what}; "
                    f"the first is {self.key(first)} in {shard.name}"
                )
        lines: dict[Path, list[str]] = {}
        for folder in dict.fromkeys(path.parent for path in self.paths):
            path = folder / CLASSES
            try:
                content = path.read_bytes() if path.is_file() else b""
                lines[path] = content.decode("utf-8-sig").splitlines()
                sums = (folder / SUMS).read_text(errors="replace") if (folder / SUMS).is_file() else ""
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{path}: the names of the classes cannot be read; write one per line, in UTF-8"
                ) from error
            if f"  {CLASSES}\n" in sums and f"{hashlib.sha256(content).hexdigest()}  {CLASSES}\n" not in sums:
                raise UserError(f"{path}: differs from its checksum in {SUMS}; run pretint pack again to restore it")
        for (path, names), (other, other_names) in itertools.pairwise(lines.items()):
            if names != other_names:
                raise UserError(f"{path} and {other} have different classes; give shards of one dataset")
        file, names = next(iter(lines.items()))
        if doubles := [name for name, after in itertools.pairwise(sorted(names)) if name == after]:
            raise UserError(f"{file}: the class {doubles[0] or '(an empty line)'} occurs twice; remove one")
        most = int(self._labels.max())
        self._classes = compose_classes(str(file), names) or [str(label) for label in range(most + 1)]
        if most >= len(self._classes):
            first = int(self._labels.argmax())
            raise UserError(
                f"{self.pattern}: {self.key(first)} is of class {most}, but {CLASSES} beside the shards has "
                f"{len(self._classes)} lines (labels count from 0)"
            )


class _Descriptor:
    """An open file that closes with its last user."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


def names_shards(name: str) -> bool:
    """Whether a name is one of shards: it ends in ``.tar``, or is a folder with tar files but no folders or images."""
    try:
        path = Path(name).expanduser()
        if not name or not path.is_dir():
            return name.lower().endswith(_TARS)
        names = {os.fsencode(entry.name): entry for entry in path.iterdir() if not entry.name.startswith(".")}
        entries = {name: entry for name, entry in names.items() if not system_name(name)}
        tars = any(entry.name.lower().endswith(_TARS) for entry in entries.values())
        return tars and not any(is_image_name(name) or entry.is_dir() for name, entry in entries.items())
    except (OSError, RuntimeError):
        return False
