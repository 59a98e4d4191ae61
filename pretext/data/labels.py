"""Checks of labels."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pretext.data.source import Labels
from pretext.errors import UserError

UNLABELED = -1


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
