"""The labeled images of an evaluation: a training and a test source that fit together."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pretext.data import LabeledDataset, open_labeled
from pretext.data.channels import channels_of
from pretext.data.duplicates import find_shared
from pretext.data.list_file import ListedFiles
from pretext.data.source import (
    ImageDataset,
    Labels,
    check_labels,
    check_presence,
    compose,
    compose_classes,
    fingerprint,
)
from pretext.engine import distributed
from pretext.engine.progress import say
from pretext.errors import UserError


class Targets(NamedTuple):
    """A training and a test source, checked."""

    train: LabeledDataset
    test: LabeledDataset
    classes: list[str]
    """The classes of both sources, by label."""
    multilabel: bool
    """Whether an image may show several classes."""
    train_digest: str
    """SHA-256, hex, over the keys of all images, the classes, the labels, and the pixels of some of the images."""
    test_digest: str
    """The same for the test images."""
    n_shared: int
    """The number of test images that are also training images."""


class OfClasses:
    """A labeled source with several labels an image, reduced to some of its classes.

    Args:
        name: the user's name for the source, for error messages.
        source: the source; all its images stay.
        classes: the classes to keep, in this order.

    Raises:
        UserError: each image has one class, or there is no such class.
    """

    def __init__(self, name: str, source: LabeledDataset, classes: Sequence[str]) -> None:
        known, classes = ([compose(name) for name in names] for names in (source.classes, classes))
        unknown = [label for label in classes if label not in known]
        if unknown:
            raise UserError(f"{name}: no class {_list_few(unknown)}; there are {', '.join(known)}")
        if len(set(classes)) < len(classes):
            raise UserError(f"{name}: a class is named twice in {', '.join(classes)}")
        if source.labels.ndim != 2:
            raise UserError(
                f"{name}: its images have one class each, so no class can be left out; leave out --classes, and name a "
                "folder that has only the classes to evaluate"
            )
        self.source, self.classes = source, list(classes)
        self.labels: Labels = source.labels[:, [known.index(label) for label in classes]]

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        """See ``ImageDataset.read``."""
        return self.source.read(index, shorter)

    def key(self, index: int) -> str:
        """See ``ImageDataset.key``."""
        return self.source.key(index)

    def digest(self) -> str:
        """See ``ImageDataset.digest``."""
        return self.source.digest()


def open_targets(train: str, test: str, classes: Sequence[str] = (), every_class: bool = True) -> Targets:
    """Open a training and a test source by name.

    Args:
        train: the training images, see ``open_labeled``.
        test: the test images.
        classes: if images have several labels, the classes to evaluate; if empty, all.
        every_class: as for ``check_targets``.

    Raises:
        UserError: a name is empty; as ``open_labeled``, ``OfClasses`` and ``check_targets``.
    """
    require_named(train, test)
    try:
        same = train == test or Path(train).expanduser().samefile(Path(test).expanduser())
    except (OSError, RuntimeError, ValueError):  # at least one is no path
        same = False
    if same:
        raise UserError(f"{train}: train and test are the same images; name other images for the test")
    sources = [open_labeled(train), open_labeled(test)]
    if classes:
        sources = [OfClasses(name, source, classes) for name, source in zip((train, test), sources, strict=True)]
    return check_targets(train, sources[0], test, sources[1], every_class)


def require_named(train: str, test: Mapping[str, str] | str) -> None:
    """Refuse an evaluation on images without a name; ``test`` may be several test sets by name.

    Raises:
        UserError: one of the two names is empty.
    """
    if missing := [f"--{name} FOLDER" for name, source in (("train", train), ("test", test)) if not source]:
        raise UserError(
            f"labeled images are not named: add {' and '.join(missing)}; the bundled tiles are "
            "--train bundled:train --test bundled:test"
        )


def check_targets(
    train_name: str, train: LabeledDataset, test_name: str, test: LabeledDataset, every_class: bool = True
) -> Targets:
    """Return a training and a test source, after checks that they fit together.

    Args:
        train_name: the user's name for the training images, for error messages.
        train: the training images.
        test_name: as ``train_name``.
        test: the test images.
        every_class: with several labels an image, refuse a class that no image or every image shows.

    Raises:
        UserError: a source has no image; the classes differ, or their order; there are fewer than two; a class has
            no image, or (with several labels an image) every image; labels are out of range; all test images are
            training images.
    """
    both = ((train_name, train), (test_name, test))
    for name, source in both:
        if not len(source):
            raise UserError(f"{name}: it has no image; name other images")
    channels, test_channels = channels_of(train), channels_of(test)
    if channels != test_channels:
        ours, theirs = (", ".join(names) or "8-bit sRGB" for names in (channels, test_channels))
        raise UserError(f"{train_name} has the channels {ours}, and {test_name} {theirs}; give both the same ones")
    classes, test_classes = _class_names(both)
    extra = [sorted(set(classes) - set(test_classes)), sorted(set(test_classes) - set(classes))]
    if any(extra):
        where = [f"{_list_few(names)} only in {name}" for (name, _), names in zip(both, extra, strict=True) if names]
        raise UserError(
            f"{train_name} and {test_name} hold different classes: {'; '.join(where)}; name two sources of the same "
            "classes"
        )
    if classes != test_classes:
        pairs = enumerate(zip(classes, test_classes, strict=False))
        number = next((number for number, (first, second) in pairs if first != second), 0)
        raise UserError(
            f"{train_name} and {test_name} number their classes differently: {number} is "
            f"{classes[number]} in the first and {test_classes[number]} in the second; give both the same class numbers"
        )
    labels = [np.asarray(source.labels) for _, source in both]
    if labels[0].ndim != labels[1].ndim:
        several, single = both if labels[0].ndim == 2 else both[::-1]
        raise UserError(
            f"{several[0]} has several labels an image and {single[0]} has one; name two sources of the same kind"
        )
    multilabel = labels[0].ndim == 2
    if len(classes) < 2 and not multilabel:
        raise UserError(f"{train_name}: it has one class only ({', '.join(classes)}); a classifier needs two")
    digests = []
    for (name, source), raw in zip(both, labels, strict=True):
        checked: Labels
        checked = check_presence(name, raw, classes) if multilabel else check_labels(name, raw.tolist(), classes)
        if len(checked) != len(source):
            raise UserError(
                f"{name}: {len(checked):,} labels of {len(source):,} images; check that the data set is complete"
            )
        if every_class or not multilabel:
            _require_all_classes(name, checked, classes)
        facts = json.dumps([source.digest(), list(classes), list(checked.shape), fingerprint(source)]).encode()
        stored: NDArray[np.generic] = checked.astype("i1" if multilabel else "<i8")
        digests.append(hashlib.sha256(facts + b"\n" + stored.tobytes()).hexdigest())
    n_shared = count_shared(train_name, train, test_name, test)
    return Targets(train, test, classes, multilabel, digests[0], digests[1], n_shared)


def _class_names(both: Sequence[tuple[str, LabeledDataset]]) -> list[list[str]]:
    """Return the classes of the training and the test source, in Unicode's form NFC.

    If both are list files, one may have names and the other numbers (ImageNet's val images are in one folder). Then
    the numbers mean the same classes, as both belong to one data set.
    """
    names = [compose_classes(name, source.classes) for name, source in both]
    train, test = (source for _, source in both)
    if isinstance(train, ListedFiles) and isinstance(test, ListedFiles) and train.named != test.named:
        if len(names[0]) == len(names[1]):
            return [names[0] if train.named else names[1]] * 2
        return [[str(label) for label in range(len(classes))] for classes in names]
    return names


def _require_all_classes(name: str, labels: Labels, classes: Sequence[str]) -> None:
    """Refuse a class that no image shows, or, with several labels an image, every image."""
    if labels.ndim == 1:
        empty = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
        if len(empty):
            lacking = [classes[label] for label in empty.tolist()]
            raise UserError(f"{name}: no image of {_list_few(lacking)}; every class needs one")
        return
    for value, fault in ((1, "no image with"), (0, "no image without")):
        lacking = [label for label, column in zip(classes, labels.T, strict=True) if not (column == value).any()]
        if lacking:
            raise UserError(f"{name}: {fault} {_list_few(lacking)}; every selected class needs both")


def count_shared(train_name: str, train: ImageDataset, test_name: str, test: ImageDataset) -> int:
    """Count the test images that are also training images, see ``find_shared``, and warn if there are any.

    Args:
        train_name: the user's name for the training images.
        train: the training images.
        test_name: the user's name for the test images.
        test: the test images.

    Raises:
        UserError: all test images are training images.
    """
    pairs = find_shared(every_image(train), every_image(test))
    if not len(pairs):
        return 0
    test_key, train_key = test.key(int(pairs[0][0])), train.key(int(pairs[0][1]))
    first = test_key if test_key == train_key else f"{test_key} ({train_key})"
    if len(pairs) == len(test):
        raise UserError(
            f"{train_name} and {test_name}: all {len(pairs):,} test images are also training images, first {first}; "
            "name test images that are not training images"
        )
    if distributed.is_rank_zero():
        say(
            f"{test_name}: {len(pairs):,} of {len(test):,} test images are also training images, first {first}; "
            "they count in the results"
        )
    return len(pairs)


def every_image(source: ImageDataset) -> ImageDataset:
    """Return the source with all its classes, below an ``OfClasses``."""
    return source.source if isinstance(source, OfClasses) else source


def _list_few(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + rest
