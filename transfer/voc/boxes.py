"""Images with boxes: the objects that VOC's annotations mark, for detection."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretext.data.decode import size_of
from pretext.data.source import Source
from pretext.data.voc import CLASSES, CORNERS, Annotated
from pretext.errors import ImageError, UserError
from transfer.voc.images import ImageFile, Images, open_parts, prefixes, whole


class Objects(NamedTuple):
    """What is marked in one image."""

    boxes: NDArray[np.float32]
    """(n, 4): left, top, right, bottom in pixels from the image's upper left corner, so that a width is right - left.
    VOC counts pixels from 1 and names the last one in the box: its xmin..xmax is [xmin - 1, xmax) here."""
    labels: NDArray[np.int64]
    """(n,): the class of each, 0..19."""
    difficult: NDArray[np.bool_]
    """(n,): which of them nobody is asked to find."""


class Boxed(Images):
    """Images and the objects in them: a source. Made by ``open_boxed``.

    Args:
        found: the images.
        objects: what each shows.
        problems: as ``Images``.
    """

    def __init__(self, found: Sequence[ImageFile], objects: Sequence[Objects], problems: list[tuple[str, str]]) -> None:
        assert len(found) == len(objects)
        super().__init__(found, problems)
        self._objects = objects

    @property
    def classes(self) -> list[str]:
        """The names of the 20 classes, by label."""
        return list(CLASSES)

    def objects(self, index: int) -> Objects:
        """The objects in image ``index``."""
        return self._objects[index]


def open_boxed(name: str, training: bool = False, difficult: bool = False) -> Boxed:
    """Images of PASCAL VOC with the boxes of their objects.

    Boxes are cut at the image's border; those without area, or wholly outside, are dropped. Both are listed in
    ``problems``, as are images that are left out.

    Args:
        name: as of ``pretext.data.voc.open_voc``; or several, joined by +, for what is known as 07+12:
            ``voc:2007:trainval:FOLDER+voc:2012:trainval:FOLDER``.
        training: leave out images that show nothing to learn from.
        difficult: difficult objects are something to learn from.

    Raises:
        UserError: no such year, list or folder; an image or an annotation is missing; an annotation is damaged, or
            has an unknown class, or an object without a box of four finite numbers; no image is left.
    """
    found: list[ImageFile] = []
    objects: list[Objects] = []
    problems: list[tuple[str, str]] = []
    parts = open_parts(name, "Main")
    for part, prefix in zip(parts, prefixes(parts), strict=True):
        for index, stem in enumerate(part.stems):
            image = ImageFile(prefix + part.key(index), part.file(index))
            file = part.root / "Annotations" / f"{stem}.xml"
            inside, mended = _inside(file, part.objects(index), image)
            key = f"{prefix}Annotations/{stem}.xml"
            problems += [(key, one) for one in mended]
            if training and (len(inside.labels) == 0 or (inside.difficult.all() and not difficult)):
                what = "only difficult objects" if len(inside.labels) else "no object"
                problems.append((key, f"{what}: the image is left out of training"))
                continue
            found.append(image)
            objects.append(inside)
    if not found:
        raise UserError(f"{name}: none of its images has an object to learn from; take another part")
    return Boxed(found, objects, problems)


def objects_of(source: Source, index: int) -> Objects:
    """The objects in an image of a ``Boxed``, or of some images of one."""
    boxed, at = whole(source, index)
    assert isinstance(boxed, Boxed), boxed
    return boxed.objects(at)


def _box(path: Path, one: Annotated) -> tuple[float, float, float, float]:
    numbers = []
    for corner, text in zip(CORNERS, one.corners, strict=True):
        if text is None:
            raise UserError(f"{path}: a {one.kind} has no <{corner}> in a <bndbox>; give its box, or take it out")
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"{path}: {corner} of a {one.kind} is {text.strip()[:40]!a}, which is no number; mend it")
        numbers.append(number)
    left, top, right, bottom = numbers
    return left - 1, top - 1, right, bottom


def _inside(path: Path, annotated: Sequence[Annotated], image: ImageFile) -> tuple[Objects, list[str]]:
    """The objects of an annotation, cut at the image's border, if they have any area; what was cut or dropped.

    A line or a point (xmax = xmin) has no area, though VOC's way to count would give it a pixel: it is a slip.
    """
    try:
        size = size_of(image.path, image.key)
    except ImageError:  # who reads it will say so
        size = (2**24, 2**24)
    width, height = size
    boxes: list[tuple[float, ...]] = []
    kept: list[Annotated] = []
    problems: list[str] = []
    for number, one in enumerate(annotated, 1):
        left, top, right, bottom = box = _box(path, one)
        cut = (max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height))
        what = ""
        if right - left <= 1 or bottom - top <= 1:
            what = "has no area: dropped"
        elif cut[2] <= cut[0] or cut[3] <= cut[1]:
            what = f"lies outside the image of {width} x {height}: dropped"
        else:
            boxes.append(cut)
            kept.append(one)
            if cut != box:
                what = f"reaches outside the image of {width} x {height}: cut"
        if what:
            problems.append(f"the box of object {number} ({one.kind}) {what}")
    inside = Objects(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([CLASSES.index(one.kind) for one in kept], np.int64),
        np.array([one.difficult for one in kept], np.bool_),
    )
    return inside, problems
