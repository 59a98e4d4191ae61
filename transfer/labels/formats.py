"""What a reader of labels returns, whatever the format of the files."""

import hashlib
import json
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretext.data.folder import Folder
from pretext.errors import UserError
from transfer.labels.images import ImageFile

BACKGROUND, UNCOUNTED = 0, 255
"""Values of a mask: pixels of no class, and pixels that do not count."""
_FARTHEST = 2**31  # pixels, or sides of an image


class MarkedObject(NamedTuple):
    """An object as an annotation has it: not checked against its image."""

    kind: int
    """Its class."""
    corners: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels from the image's upper left corner; finite."""
    difficult: bool = False


class BoxFile(NamedTuple):
    """The objects of one image."""

    image: ImageFile
    key: str
    """The name of the annotation, for messages."""
    objects: Sequence[MarkedObject]
    least: float = 0
    """A side of at most so many pixels is no area."""
    size: tuple[int, int] | None = None
    """Width and height of the image that the annotation was made of, if it says so."""


class BoxLabels(NamedTuple):
    """The boxes of a data set."""

    classes: list[str]
    files: list[BoxFile]
    problems: list[tuple[str, str]]
    """What was mended or left out: key of the file, and reason."""


class MaskFile(NamedTuple):
    """The classes of the pixels of one image, read on use."""

    key: str
    read: Callable[[], NDArray[np.uint8]]
    """Returns (H, W): the class of each pixel; 255 does not count. Raises ImageError."""
    content: Callable[[], bytes]
    """Returns what the mask depends on, for a digest. Raises OSError if a file cannot be read."""


class MaskLabels(NamedTuple):
    """The masks of a data set."""

    classes: list[str]
    """By value; the first is the background, if there is one."""
    images: list[ImageFile]
    masks: list[MaskFile]
    problems: list[tuple[str, str]]

    def digest(self) -> bytes:
        """Return a digest of the masks, over the contents of all that can be read."""
        digest = hashlib.sha256()
        for mask in self.masks:
            try:
                digest.update(hashlib.sha256(mask.content()).digest())
            except OSError:
                digest.update(mask.key.encode())
        return digest.digest()


def is_place(value: object) -> bool:
    """Whether a value is a number that can be a place in an image or near it."""
    return isinstance(value, int | float) and abs(value) < _FARTHEST


def why_other_size(annotated: tuple[int, int] | None, size: tuple[int, int]) -> str:
    """Return why annotations of an image of one width and height do not fit one of another; empty if they do."""
    if annotated in (None, size):
        return ""
    ours, theirs = (" x ".join(map(str, sides)) for sides in (size, annotated or ()))
    return f"the image has {ours} pixels, and its annotation is of one of {theirs}"


def shapes_content(shapes: Sequence[Any]) -> bytes:
    """Return what a mask drawn of shapes depends on."""
    return json.dumps(shapes).encode()


def polygon_mask(points: Sequence[float], height: int, width: int) -> NDArray[np.bool_]:
    """Return which pixels, (H, W), have their center inside a polygon, by the even-odd rule.

    Args:
        points: x and y of each corner in turn, in pixels from the image's upper left corner.
        height: H.
        width: W.
    """
    x, y = np.reshape(np.asarray(points, np.float64), (-1, 2)).T
    centers = np.arange(height)[:, None] + 0.5
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    rows, edges = np.nonzero((y > centers) != (next_y > centers))
    slope = (next_x[edges] - x[edges]) / (next_y[edges] - y[edges])
    crossings = x[edges] + (rows + 0.5 - y[edges]) * slope
    counts = np.zeros((height, width + 1), np.int32)
    np.add.at(counts, (rows, np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.intp)), 1)
    inside: NDArray[np.bool_] = counts.cumsum(1)[:, :width] % 2 == 1
    return inside


def list_images(name: str, folder: str) -> dict[str, ImageFile]:
    """Return the images below a folder, by their path below it without ending.

    Raises:
        UserError: there is no such folder, it has no image, or two images differ only in the ending.
    """
    images: dict[str, ImageFile] = {}
    source, root = Folder(folder), Path(folder).expanduser().absolute()
    for index in range(len(source)):
        key = source.key(index)
        stem = str(Path(key).with_suffix(""))
        if stem in images:
            raise UserError(f"{name}: {images[stem].key} and {key} have one name, so that labels fit both; rename one")
        images[stem] = ImageFile(key, root / key)
    return images


def split_name(name: str, parts: Sequence[str]) -> list[str]:
    """Return the paths of a name such as ``coco:FILE:IMAGES``.

    Args:
        name: as the user wrote it.
        parts: what they are.

    Raises:
        UserError: one is missing.
    """
    kind, _, rest = name.partition(":")
    found = rest.split(":", len(parts) - 1)
    if len(found) < len(parts) or not all(found):
        raise UserError(f"{name}: write {':'.join((kind, *parts))}")
    return found


def read_classes(file: Path) -> list[str]:
    """Return the names of classes in a text file, one in each line.

    Raises:
        UserError: it cannot be read, holds no name, or holds one twice.
    """
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); write the name of a class in each line") from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise UserError(f"{file}: it holds no class; write the name of a class in each line")
    if len(set(names)) < len(names):
        raise UserError(f"{file}: class {max(names, key=names.count)} is there twice; name each once")
    return names


def require_same_classes(train: str, classes: Sequence[str], test: str, test_classes: Sequence[str]) -> None:
    """Refuse training and test images whose classes differ, or their order.

    Raises:
        UserError: they do; it names the first difference.
    """
    for number, (ours, theirs) in enumerate(zip_longest(classes, test_classes, fillvalue="none")):
        if ours != theirs:
            raise UserError(
                f"{train} and {test} have different classes: number {number} is {ours} in the first and {theirs} in "
                "the second; give both the same classes in the same order"
            )
