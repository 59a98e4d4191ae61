"""The contract of every source: something that gives pictures by index, in a stable order."""

import hashlib
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Labels = NDArray[np.int64] | NDArray[np.int8]
"""One class a picture: int64 (N,). Or several, int8 (N, classes): 1 present, 0 absent, -1 not counted (unknown, or
shown only in a way that nobody is asked to see: VOC's ``difficult``)."""


@runtime_checkable
class Source(Protocol):
    """Pictures by index. The order never changes between two runs over the same data."""

    def __len__(self) -> int:
        """How many pictures."""
        ...

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        """Picture ``index`` in mode RGB, upright.

        With ``shorter``, a decoder may return a smaller picture, as long as its shorter side is at
        least ``shorter`` pixels (JPEG can be decoded at 1/2, 1/4 or 1/8 for a fraction of the work).

        Raises:
            PictureError: the picture cannot be read.
        """
        ...

    def key(self, index: int) -> str:
        """The name of picture ``index``: unique, stable, readable."""
        ...

    def digest(self) -> str:
        """What tells this list of pictures from another: SHA-256, in hex, of all keys in order, each with a newline."""
        ...


@runtime_checkable
class LabelledSource(Source, Protocol):
    """A source that also knows what is in its pictures. Pretraining never asks."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by label."""
        ...

    @property
    def labels(self) -> Labels:
        """What every picture shows, by index: see `Labels`."""
        ...


@runtime_checkable
class StoredSource(Source, Protocol):
    """A source that can tell its images apart without decoding them: see ``pretext.data.duplicates``."""

    def stamps(self) -> NDArray[np.int64]:
        """The size and the time of the last change of every stored image: int64 (N, 2), bytes and ns.

        The size is -1 for an image that is missing, the time 0 for an image that is in no file.
        """
        ...

    def read_bytes(self, index: int, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes ``start`` to ``stop`` (default: the end) of image ``index`` as it is stored.

        Raises:
            PictureError: it cannot be read.
        """
        ...


class _Named(Protocol):
    def __len__(self) -> int: ...
    def key(self, index: int) -> str: ...


def digest_of_keys(source: _Named) -> str:
    """``Source.digest`` by its definition: a loop over all keys, some seconds for a million."""
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(source.key(index).encode() + b"\n")
    return digest.hexdigest()
