"""The interface of every source (images by index, in a stable order), and checks of labels."""

import hashlib
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pretext import roles
from pretext.errors import ImageError, UserError

Labels = NDArray[np.int64] | NDArray[np.int8]
"""One class per image: int64 (N,). Or several, int8 (N, classes): 1 present, 0 absent, -1 not counted (unknown, or
so hard to see that it counts neither way: VOC's ``difficult``)."""

UNLABELED = -1

_FINGERPRINTED = 32  # images


@dataclass
class DataSettings:
    """The images of a run.

    Args:
        source: the training images, required to start a run: a folder of images; "bundled" (tiles of photographs,
            without a download); "torchvision:SET:PART:FOLDER"; "hf:DATA:SPLIT" (Hugging Face); or tar shards. See
            docs/data.md. Several can be mixed by weight: {one/folder: 0.7, other/folder: 0.3}.
        holdout: the number of images, at most a tenth of all, that are not trained on, but used for validation.
    """

    source: str | dict[str, float] = roles.content("")
    holdout: int = roles.science(256)

    def __post_init__(self) -> None:
        if isinstance(self.source, dict):
            invalid = [name for name, weight in self.source.items() if not 0 < weight < math.inf]
            if invalid or not self.source:
                raise UserError(f"data.source: {invalid[0] if invalid else 'an empty mixture'}: give a weight above 0")
            unnamed = [name for name in self.source if not isinstance(name, str)]  # YAML reads 2012 as a number
            if unnamed:
                raise UserError(
                    f"data.source: {unnamed[0]} is not a text; if it is the name of a folder, write ./{unnamed[0]}"
                )
            if not math.isfinite(sum(self.source.values())):
                raise UserError("data.source: the weights are too large; give shares, such as 0.7 and 0.3")
            if len(self.source) > 100:
                raise UserError(f"data.source: {len(self.source)} sources; give at most 100")
        if self.holdout < 0:
            raise UserError(f"data.holdout is {self.holdout}: it must not be negative")


@runtime_checkable
class ImageDataset(Protocol):
    """Images by index. The order never changes between two runs over the same data."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        """Return image ``index`` in mode RGB, upright.

        With ``shorter``, a decoder may return a smaller image, as long as its shorter side is at
        least ``shorter`` pixels (JPEG can be decoded at 1/2, 1/4 or 1/8 for a fraction of the work).

        Raises:
            ImageError: the image cannot be read.
        """
        ...

    def key(self, index: int) -> str:
        """Return the name of image ``index``: unique, stable, readable."""
        ...

    def digest(self) -> str:
        """Return the SHA-256, in hex, of all keys in order, each with a newline: it identifies this list of images."""
        ...


@runtime_checkable
class LabeledDataset(ImageDataset, Protocol):
    """A source with labels. Pretraining does not use them, except supervised pretraining."""

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes, by label."""
        ...

    @property
    def labels(self) -> Labels:
        """Return the labels of every image, by index: see `Labels`."""
        ...


@runtime_checkable
class StoredDataset(ImageDataset, Protocol):
    """A source whose images can be compared without decoding: see ``pretext.data.duplicates``."""

    def stamps(self) -> NDArray[np.int64]:
        """Return size and time of the last change of every stored image: int64 (N, 2), bytes and ns.

        The size is -1 for an image that is missing, the time 0 for an image that is in no file.
        """
        ...

    def read_bytes(self, index: int, start: int = 0, stop: int | None = None) -> bytes:
        """Return bytes ``start`` to ``stop`` (default: the end) of image ``index`` as it is stored.

        Raises:
            ImageError: it cannot be read.
        """
        ...


@runtime_checkable
class FileSource(ImageDataset, Protocol):
    """A source whose images are files that can be read unchanged."""

    def data(self, index: int) -> bytes:
        """Return the bytes of image ``index``; raises as ``read``."""
        ...


class _Keyed(Protocol):
    def __len__(self) -> int: ...
    def key(self, index: int) -> str: ...


def digest_of_keys(source: _Keyed) -> str:
    """Return ``ImageDataset.digest`` by its definition: a loop over all keys, some seconds for a million."""
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(source.key(index).encode() + b"\n")
    return digest.hexdigest()


def fingerprint(source: ImageDataset, view: Callable[[int], Tensor | None] | None = None) -> str:
    """Return a digest of the pixels of 32 images. It distinguishes sources with the same names of images.

    Imagenette in 96 pixels and in 160 has the same names and labels, and 0001.png is in many folders.

    Args:
        source: at least one image.
        view: returns the pixels of the image of an index as a network sees them, None if it cannot be read; by
            default the images themselves are read.
    """
    digest = hashlib.sha256()
    for index in sorted({number * (len(source) - 1) // (_FINGERPRINTED - 1) for number in range(_FINGERPRINTED)}):
        if view is not None:
            pixels = view(index)
            digest.update(b"none" if pixels is None else pixels.contiguous().numpy().data)
            continue
        try:
            image = source.read(index)
        except ImageError:
            digest.update(b"none")
        else:
            digest.update(f"{image.size}".encode() + image.tobytes())
    return digest.hexdigest()


def compose(name: str) -> str:
    """Return a name in Unicode's form NFC: macOS writes letters with accents as two characters (NFD)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def compose_classes(where: str, names: Iterable[str]) -> list[str]:
    """Return the names of classes in form NFC.

    Raises:
        UserError: two classes have the same name in form NFC. ``where`` is their source, for the message.
    """
    composed = [compose(name) for name in names]
    if len(set(composed)) < len(composed):
        name, times = Counter(composed).most_common(1)[0]
        raise UserError(
            f"{where}: {times} classes are called {name}; names that differ only in Unicode form (NFC, NFD) count as "
            "the same; rename one, or merge them"
        )
    return composed


def check_labels(name: str, labels: Iterable[int | None], classes: Sequence[str]) -> NDArray[np.int64]:
    """Return labels as int64 (N,), each of which is an index into ``classes``.

    Args:
        name: name of the source, for messages.
        labels: labels; None or a negative number for an image without one (Hugging Face's test parts have -1).
        classes: names of the classes.

    Raises:
        UserError: some images have no label, or a label has no name.
    """
    array = np.array([-1 if label is None else label for label in labels], np.int64)
    unlabeled = int((array < 0).sum())
    if unlabeled:
        raise UserError(f"{name}: {unlabeled:,} of {len(array):,} images have no label; give a part with labels")
    if len(array) and array.max() >= len(classes):
        raise UserError(
            f"{name}: a label is {array.max()}, but there are only {len(classes)} classes; get the dataset again"
        )
    return array


def check_presence(name: str, labels: NDArray[np.generic], classes: Sequence[str]) -> NDArray[np.int8]:
    """Return labels of images that show several classes, as int8 (N, classes), in {1, 0, -1}: see ``Labels``.

    Args:
        name: name of the source, for messages.
        labels: (N, classes).
        classes: names of the classes.

    Raises:
        UserError: the shape or a value is wrong.
    """
    if labels.ndim != 2 or labels.shape[1] != len(classes):
        raise UserError(f"{name}: labels have the shape {labels.shape}; it must be (images, {len(classes)})")
    invalid = labels[(labels != 1) & (labels != 0) & (labels != -1)]
    if len(invalid):
        raise UserError(f"{name}: a label is {invalid[0]}; it must be 1 (present), 0 (absent) or -1 (not counted)")
    return labels.astype(np.int8, copy=False)


def require_single_labels(labels: Labels, refusal: str) -> NDArray[np.int64]:
    """Return the labels if every image has one: int64 (N,).

    Args:
        labels: labels of a source.
        refusal: the message of the error.

    Raises:
        UserError: an image can have several labels.
    """
    if np.ndim(labels) != 1:
        raise UserError(refusal)
    return np.asarray(labels, np.int64)
