"""The images that a frozen network is judged on: a training and a test source that fit together."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pretext.data import LabeledSource, open_labeled
from pretext.data.duplicates import find_shared
from pretext.data.labels import checked_labels, checked_presence, compose, compose_classes
from pretext.data.list_file import ListedFiles
from pretext.data.source import Labels, Source, fingerprint
from pretext.engine import distributed
from pretext.engine.progress import say
from pretext.errors import UserError


class Targets(NamedTuple):
    """A training and a test source, checked."""

    train: LabeledSource
    test: LabeledSource
    classes: list[str]
    """Of both, by label."""
    multilabel: bool
    """Whether an image shows several classes."""
    train_digest: str
    """SHA-256, hex, over the keys of all images, the classes, the labels, and the pixels of some of the images."""
    test_digest: str
    """Likewise."""
    n_shared: int
    """How many test images are also training images."""


class OfClasses:
    """A source with several labels an image, of which only some classes are asked for: a labeled source.

    Args:
        name: what the user calls it, for the errors.
        source: all its images stay.
        classes: these, in this order.

    Raises:
        UserError: one class an image, or no such class.
    """

    def __init__(self, name: str, source: LabeledSource, classes: Sequence[str]) -> None:
        own, classes = ([compose(one) for one in names] for names in (source.classes, classes))
        unknown = [one for one in classes if one not in own]
        if unknown:
            raise UserError(f"{name}: no class {_few(unknown)}; there are {', '.join(own)}")
        if len(set(classes)) < len(classes):
            raise UserError(f"{name}: a class is named twice in {', '.join(classes)}")
        if source.labels.ndim != 2:
            raise UserError(f"{name}: one class an image, so none can be left out; name a folder without the images")
        self.source, self.classes = source, list(classes)
        self.labels: Labels = source.labels[:, [own.index(one) for one in classes]]

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        """See ``Source.read``."""
        return self.source.read(index, shorter)

    def key(self, index: int) -> str:
        """See ``Source.key``."""
        return self.source.key(index)

    def digest(self) -> str:
        """See ``Source.digest``."""
        return self.source.digest()


def open_targets(train: str, test: str, classes: Sequence[str] = (), every_class: bool = True) -> Targets:
    """Open a training and a test source by name.

    Args:
        train: the images that teach, see ``open_labeled``.
        test: the images that judge.
        classes: of sources with several labels an image, those that are asked for; none stands for all.
        every_class: as of ``checked_targets``.

    Raises:
        UserError: one is not named; as ``open_labeled``, ``OfClasses`` and ``checked_targets``.
    """
    require_named(train, test)
    if train == test or _same_place(train, test):
        raise UserError(f"{train}: train and test are the same images; a test needs others")
    sources = [open_labeled(train), open_labeled(test)]
    if classes:
        sources = [OfClasses(name, one, classes) for name, one in zip((train, test), sources, strict=True)]
    return checked_targets(train, sources[0], test, sources[1], every_class)


def require_named(train: str, test: str) -> None:
    """Refuse a judgment on images that nobody named.

    Raises:
        UserError: one of the two names is empty.
    """
    if missing := [f"--{name} FOLDER" for name, source in (("train", train), ("test", test)) if not source]:
        raise UserError(
            f"labeled images are not named: add {' and '.join(missing)}; the bundled tiles are "
            "--train bundled:train --test bundled:test"
        )


def checked_targets(
    train_name: str, train: LabeledSource, test_name: str, test: LabeledSource, every_class: bool = True
) -> Targets:
    """A training and a test source that fit together.

    Args:
        train_name: what the user calls it, for the errors.
        train: the images that teach.
        test_name: as above.
        test: the images that judge.
        every_class: refuse images with several labels of which one is in none or in all of them.

    Raises:
        UserError: no image; other classes in the one than in the other, or in another order; fewer than two; a
            class without an image, or (with several an image) in every image; labels out of range; all test
            images are training images.
    """
    both = ((train_name, train), (test_name, test))
    for name, source in both:
        if not len(source):
            raise UserError(f"{name}: no image in it; name others")
    classes, asked = _names(both)
    _require_same_classes(train_name, classes, test_name, asked)
    labels = [np.asarray(source.labels) for _, source in both]
    if labels[0].ndim != labels[1].ndim:
        several, one = both if labels[0].ndim == 2 else both[::-1]
        raise UserError(f"{several[0]} has several labels an image and {one[0]} has one; give two of a kind")
    multilabel = labels[0].ndim == 2
    if len(classes) < 2 and not multilabel:
        raise UserError(f"{train_name}: one class only ({', '.join(classes)}); a classifier needs two")
    digests = []
    for (name, source), given in zip(both, labels, strict=True):
        checked: Labels
        if multilabel:
            checked = checked_presence(name, given, classes)
        else:
            checked = checked_labels(name, given.tolist(), classes)
        if len(checked) != len(source):
            raise UserError(f"{name}: {len(checked):,} labels of {len(source):,} images; is the set whole?")
        if every_class or not multilabel:
            _require_all_classes(name, checked, classes)
        digests.append(_digest(source, checked, classes))
    n_shared = count_shared(train_name, train, test_name, test)
    return Targets(train, test, classes, multilabel, digests[0], digests[1], n_shared)


def _same_place(one: str, other: str) -> bool:
    """Whether both names are paths to one folder."""
    try:
        return Path(one).expanduser().samefile(Path(other).expanduser())
    except (OSError, RuntimeError, ValueError):
        return False


def _names(both: Sequence[tuple[str, LabeledSource]]) -> list[list[str]]:
    """The classes of the training and the test source, in Unicode's form NFC.

    Of two lists one may have names and the other numbers (ImageNet's val images lie in one folder): the numbers
    mean the same, as they are of one data set.
    """
    own = [compose_classes(name, source.classes) for name, source in both]
    train, test = (source for _, source in both)
    if isinstance(train, ListedFiles) and isinstance(test, ListedFiles) and train.named != test.named:
        if len(own[0]) == len(own[1]):
            return [own[0] if train.named else own[1]] * 2
        return [[str(label) for label in range(len(one))] for one in own]
    return own


def _require_same_classes(train_name: str, train: Sequence[str], test_name: str, test: Sequence[str]) -> None:
    only = [sorted(set(one) - set(other)) for one, other in ((train, test), (test, train))]
    if any(only):
        where = [f"{_few(one)} only in {name}" for name, one in zip((train_name, test_name), only, strict=True) if one]
        raise UserError(f"{train_name} and {test_name} hold different classes: {'; '.join(where)}; give two of a kind")
    if train != test:
        at = next((at for at, pair in enumerate(zip(train, test, strict=False)) if pair[0] != pair[1]), 0)
        raise UserError(
            f"{train_name} and {test_name} number their classes differently: {at} is {train[at]} in the one and "
            f"{test[at]} in the other; labels would mean different things"
        )


def _require_all_classes(name: str, labels: Labels, classes: Sequence[str]) -> None:
    if labels.ndim == 1:
        empty = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
        if len(empty):
            lacking = [classes[one] for one in empty.tolist()]
            raise UserError(f"{name}: no image of {_few(lacking)}; every class needs one")
        return
    for value, what in ((1, "no image with"), (0, "no image without")):
        lacking = [one for one, column in zip(classes, labels.T, strict=True) if not (column == value).any()]
        if lacking:
            raise UserError(f"{name}: {what} {_few(lacking)}; every class asked for needs both")


def count_shared(train_name: str, train: Source, test_name: str, test: Source) -> int:
    """Count the test images that are also training images, see ``find_shared``; say so in a line where there are any.

    Args:
        train_name: what the user calls the training images.
        train: they.
        test_name: what the user calls the test images.
        test: they.

    Raises:
        UserError: all test images are.
    """
    pairs = find_shared(every_image(train), every_image(test))
    if not len(pairs):
        return 0
    index, at = pairs[0].tolist()
    first = f"{test.key(index)}" if test.key(index) == train.key(at) else f"{test.key(index)} ({train.key(at)})"
    if len(pairs) == len(test):
        raise UserError(
            f"{train_name} and {test_name}: all {len(pairs):,} test images are also training images, first {first}; "
            "a test needs images that were not learned from"
        )
    if distributed.is_first():
        say(
            f"{test_name}: {len(pairs):,} of {len(test):,} test images are also training images, first {first}; "
            "they count in the results"
        )
    return len(pairs)


def every_image(source: Source) -> Source:
    """Return the source itself, below an ``OfClasses``."""
    return source.source if isinstance(source, OfClasses) else source


def _digest(source: LabeledSource, labels: Labels, classes: Sequence[str]) -> str:
    facts = json.dumps([source.digest(), list(classes), list(labels.shape), fingerprint(source)]).encode()
    kept: NDArray[np.generic] = labels.astype("<i8" if labels.ndim == 1 else "i1")
    return hashlib.sha256(facts + b"\n" + kept.tobytes()).hexdigest()


def _few(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + rest
