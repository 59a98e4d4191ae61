"""Names that images get in shards: WebDataset's keys, which end at the first dot of the base name."""

import hashlib

import numpy as np

from pretext.data.formats import KNOWN, ending_of
from pretext.data.source import Source
from pretext.data.tar_index import key_hash


class Names:
    """The names of a source's images in shards: unique, and a function of the source's keys alone.

    A name is the source's key without the ending of an image, ``_`` in place of dots in its last part.
    Images that would share a name (``x.jpg`` and ``x.png``) get ``~`` and their index at the end. Eight
    bytes an image are needed while it is made.
    """

    def __init__(self, source: Source) -> None:
        hashes, digest = np.empty(len(source), np.uint64), hashlib.sha256()
        for index in range(len(source)):
            key = source.key(index)
            digest.update(key.encode() + b"\n")
            hashes[index] = key_hash(_safe(key))
        hashes.sort()
        self._shared = frozenset(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        self.digest = digest.hexdigest()

    def safe(self, key: str, index: int) -> str:
        """The name of the image with that key and index in the source."""
        name = _safe(key)
        return f"{name}~{index}" if key_hash(name) in self._shared else name


def _safe(key: str) -> str:
    *folders, base = key.split("/")
    ending = ending_of(base) if ending_of(base) in KNOWN else ""
    # Without ~ of their own, names stay unique when a number is added to some.
    base = base[: len(base) - len(ending)].replace(".", "_").replace("~", "_")
    return "/".join([*(folder for folder in folders if folder not in ("", ".", "..")), base or "_"])
