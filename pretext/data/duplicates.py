"""Find the images that two datasets have in common, by their stored bytes.

Cheap checks come first: sizes, then a hash of some bytes in the middle of an image, then a hash of all its bytes. Each
step compares only the images that are equal so far, so only a small part of ImageNet is read.

The results of large sets are stored in ``$XDG_CACHE_HOME/pretint/shared`` (``~/.cache`` without that variable), under
a name that depends on the keys, sizes and change times of all images. Any file there may be deleted at any time.
"""

import contextlib
import hashlib
import os
import stat
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pretext.data.source import ImageDataset, StoredDataset
from pretext.engine.progress import Advance, progress
from pretext.errors import ImageError
from pretext.store import cache_file, read_table, to_json, write_cached

ImageIndices = NDArray[np.int64]

_AMID = 1024  # bytes in the middle that are hashed first: many images may share the same beginning or end
_BLOCK = 512  # images that a thread reads between two reports
_THREADS = 4  # a network drive answers several readers at once
_MANY = 10_000  # images: fewer take at most a second, so nothing is stored and no progress is shown
_SETTLED = 2_000_000_000  # ns: within a clock tick of a file system two changes of a file look alike
_THUMBNAIL = 8  # pixels


def find_shared(
    train: ImageDataset,
    test: ImageDataset,
    train_indices: ImageIndices | None = None,
    test_indices: ImageIndices | None = None,
) -> ImageIndices:
    """Find the images of one dataset that are in another dataset too.

    Two images are the same if all their stored bytes are equal. If one of the sources is not a ``StoredDataset``, they
    are the same if their keys and all decoded pixels are equal.

    Args:
        train: one dataset.
        test: the other dataset; it may be the same source with other indices.
        train_indices: which images of ``train`` to compare; all by default.
        test_indices: the same for ``test``.

    Returns:
        int64 (n, 2), ascending: the index of each shared image in ``test``, and its lowest index in ``train``.
    """
    train_indices = np.arange(len(train)) if train_indices is None else train_indices
    test_indices = np.arange(len(test)) if test_indices is None else test_indices
    if not (isinstance(train, StoredDataset) and isinstance(test, StoredDataset)):
        return _as_pairs(_shared_by_key(train, test, train_indices, test_indices))
    train_stamps = train.stamps()
    test_stamps = train_stamps if test is train else test.stamps()
    arrays = train_stamps, test_stamps, train_indices, test_indices
    keeps = len(train_indices) + len(test_indices) >= _MANY and _is_settled(train_stamps) and _is_settled(test_stamps)
    if keeps:
        digests = [hashlib.sha256(array.astype("<i8").tobytes()).hexdigest() for array in arrays]
        identity = {"train": train.digest(), "test": test.digest(), "arrays": digests}
        file = cache_file("shared", to_json(identity))
        if table := read_table(file, identity):
            return table[0]["pairs"].reshape(-1, 2).astype(np.int64)
    sizes = train_stamps[:, 0], test_stamps[:, 0]
    pairs = _as_pairs(_shared_by_bytes(train, test, *sizes, train_indices, test_indices))
    if keeps:
        write_cached(file, identity, {"pairs": pairs.ravel()})
    return pairs


def stamp_files(path_of: Callable[[int], bytes], count: int) -> ImageIndices:
    """Return ``StoredDataset.stamps`` of images that are files.

    Args:
        path_of: returns the path of the image of an index.
        count: number of images.
    """
    stamps = np.full((count, 2), (-1, 1), np.int64)

    def stamp_block(start: int) -> None:
        for index in range(start, min(start + _BLOCK, count)):
            with contextlib.suppress(OSError):
                status = os.stat(path_of(index))  # noqa: PTH116 (bytes)
                if stat.S_ISREG(status.st_mode):  # reading a pipe would wait
                    stamps[index] = status.st_size, status.st_ctime_ns  # mtime can be set back

    with ThreadPoolExecutor(_THREADS) as threads:
        for _ in threads.map(stamp_block, range(0, count, _BLOCK)):
            pass
    return stamps


def _as_pairs(pairs: Iterable[tuple[int, int]]) -> ImageIndices:
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def _shared_by_bytes(
    train: StoredDataset,
    test: StoredDataset,
    train_sizes: ImageIndices,
    test_sizes: ImageIndices,
    train_indices: ImageIndices,
    test_indices: ImageIndices,
) -> Iterator[tuple[int, int]]:
    sizes = np.intersect1d(train_sizes[train_indices], test_sizes[test_indices])
    sizes = sizes[sizes > 0]
    train_indices = train_indices[np.isin(train_sizes[train_indices], sizes)]
    test_indices = test_indices[np.isin(test_sizes[test_indices], sizes)]
    for amid in (True, False):
        count, title = len(train_indices) + len(test_indices), "compare train and test images"
        quiet = contextlib.nullcontext(lambda more, remark: None)
        with progress(title, count, "images") if count >= _MANY else quiet as advance:
            by_digest = [
                _hash_images(source, indices, sizes, amid, advance)
                for source, indices, sizes in ((train, train_indices, train_sizes), (test, test_indices, test_sizes))
            ]
        common = by_digest[0].keys() & by_digest[1].keys()
        train_indices, test_indices = (
            np.array(sorted(index for digest in common for index in images[digest]), np.int64) for images in by_digest
        )
    for digest in common:
        first = min(by_digest[0][digest])
        yield from ((index, first) for index in by_digest[1][digest])


def _hash_images(
    source: StoredDataset,
    indices: ImageIndices,
    sizes: ImageIndices,
    amid: bool,
    advance: Advance,
) -> dict[bytes, list[int]]:
    """Return images by a hash of size and bytes (all, or with ``amid`` some in the middle), without unreadable ones."""

    def hash_block(start: int) -> list[tuple[bytes, int]]:
        hashes = []
        for index in indices[start : start + _BLOCK].tolist():
            size = int(sizes[index])
            with contextlib.suppress(ImageError):
                start = max(0, size - _AMID) // 2
                content = source.read_bytes(index, start, start + _AMID) if amid else source.read_bytes(index)
                hashes.append((hashlib.sha256(size.to_bytes(8, "little") + content).digest(), index))
        return hashes

    by_digest: dict[bytes, list[int]] = {}
    with ThreadPoolExecutor(_THREADS) as threads:
        for hashes in threads.map(hash_block, range(0, len(indices), _BLOCK)):
            for digest, index in hashes:
                by_digest.setdefault(digest, []).append(index)
            advance(len(hashes), "")
    return by_digest


def _shared_by_key(
    train: ImageDataset, test: ImageDataset, train_indices: ImageIndices, test_indices: ImageIndices
) -> Iterator[tuple[int, int]]:
    def key(source: ImageDataset, index: int) -> str:
        return unicodedata.normalize("NFC", source.key(index))

    if train is test:
        return  # keys are unique
    test_keys = {key(test, index): index for index in test_indices.tolist()}
    for index in np.sort(train_indices).tolist():
        match = test_keys.get(key(train, index))
        if match is None:
            continue
        with contextlib.suppress(ImageError):  # unreadable images are not the same
            if all(
                np.array_equal(np.asarray(train.read(index, shorter)), np.asarray(test.read(match, shorter)))
                for shorter in (_THUMBNAIL, None)
            ):
                yield match, index


def _is_settled(stamps: ImageIndices) -> bool:
    """Whether equal times in a later call will mean that no image has changed."""
    return bool((stamps[:, 1] != 0).all()) and time.time_ns() - int(stamps[:, 1].max()) > _SETTLED
