"""Images with the boxes of objects in VOC's annotations, for detection."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretext.data.decode import size_of
from pretext.data.source import ImageDataset
from pretext.data.voc import CLASSES, CORNERS, VocObject
from pretext.errors import ImageError, UserError
from transfer.voc.images import ImageFile, VocImages, open_parts, prefixes, resolve_subset


class ImageObjects(NamedTuple):
    """The annotated objects of an image."""

    boxes: NDArray[np.float32]
    """(n, 4): left, top, right, bottom in pixels from the image's upper left corner, so that a width is right - left.
    VOC counts pixels from 1 and names the last one in the box: its xmin..xmax is [xmin - 1, xmax) here."""
    labels: NDArray[np.int64]
    """(n,): the class of each, 0..19."""
    difficult: NDArray[np.bool_]
    """(n,): whether an object is difficult, so that a detector need not detect it."""


class BoxDataset(VocImages):
    """A source of images with objects, made by ``open_boxed``.

    Args:
        images: the images.
        objects: the objects of each.
        problems: as ``VocImages``.
    """

    def __init__(
        self, images: Sequence[ImageFile], objects: Sequence[ImageObjects], problems: list[tuple[str, str]]
    ) -> None:
        assert len(images) == len(objects)
        super().__init__(images, problems)
        self._objects = objects

    @property
    def classes(self) -> list[str]:
        """The names of the 20 classes, by label."""
        return list(CLASSES)

    def objects(self, index: int) -> ImageObjects:
        """Return the objects in image ``index``."""
        return self._objects[index]


def open_boxed(name: str, training: bool = False, difficult: bool = False) -> BoxDataset:
    """Open images of PASCAL VOC with the boxes of their objects.

    Boxes are clipped to the image; those without area, or entirely outside, are dropped. Both are listed in
    ``problems``, as are images that are left out.

    Args:
        name: as for ``pretext.data.voc.open_part``; or several, joined by +, for what is known as 07+12:
            ``voc:2007:trainval:FOLDER+voc:2012:trainval:FOLDER``.
        training: leave out images without objects to learn from.
        difficult: learn from difficult objects, too.

    Raises:
        UserError: no such year, list or folder; an image or an annotation is missing; an annotation is damaged, or
            has an unknown class, or an object without a box of four finite numbers; no image is left.
    """
    images: list[ImageFile] = []
    objects: list[ImageObjects] = []
    problems: list[tuple[str, str]] = []
    parts = open_parts(name, "Main")
    for part, prefix in zip(parts, prefixes(parts), strict=True):
        for index, stem in enumerate(part.stems):
            image = ImageFile(prefix + part.key(index), part.file(index))
            file = part.root / "Annotations" / f"{stem}.xml"
            inside, mended = _clip_objects(file, part.objects(index), image)
            key = f"{prefix}Annotations/{stem}.xml"
            problems += [(key, problem) for problem in mended]
            if training and (len(inside.labels) == 0 or (inside.difficult.all() and not difficult)):
                content = "only difficult objects" if len(inside.labels) else "no object"
                problems.append((key, f"{content}: the image is left out of training"))
                continue
            images.append(image)
            objects.append(inside)
    if not images:
        raise UserError(f"{name}: none of its images has an object to learn from; name another part")
    return BoxDataset(images, objects, problems)


def objects_of(source: ImageDataset, index: int) -> ImageObjects:
    """Return the objects in an image of a ``BoxDataset``, or of some of its images."""
    boxed, at = resolve_subset(source, index)
    assert isinstance(boxed, BoxDataset), boxed
    return boxed.objects(at)


def _clip_objects(path: Path, annotated: Sequence[VocObject], image: ImageFile) -> tuple[ImageObjects, list[str]]:
    """Return the objects of an annotation, clipped to the image, and what was clipped or dropped.

    A line or a point (xmax = xmin) has no area, although VOC's way of counting would give it a pixel. It is an error in
    the annotation, and is dropped.
    """
    try:
        width, height = size_of(image.path, image.key)
    except ImageError:  # reported later, when the image is read
        width, height = 2**24, 2**24
    boxes: list[tuple[float, ...]] = []
    shown: list[VocObject] = []
    problems: list[str] = []
    for number, item in enumerate(annotated, 1):
        corners = []
        for corner, text in zip(CORNERS, item.corners, strict=True):
            if text is None:
                raise UserError(
                    f"{path}: a {item.kind} has no <{corner}> in a <bndbox>; add its box, or remove the object"
                )
            try:
                pixel = float(text)
            except ValueError:
                pixel = math.nan
            if not math.isfinite(pixel):
                raise UserError(
                    f"{path}: {corner} of a {item.kind} is {text.strip()[:40]!a}, which is no number; correct it"
                )
            corners.append(pixel)
        left, top, right, bottom = box = corners[0] - 1, corners[1] - 1, corners[2], corners[3]
        clipped = (max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height))
        problem = ""
        if right - left <= 1 or bottom - top <= 1:
            problem = "has no area: dropped"
        elif clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            problem = f"lies outside the image of {width} x {height}: dropped"
        else:
            boxes.append(clipped)
            shown.append(item)
            if clipped != box:
                problem = f"reaches outside the image of {width} x {height}: cut"
        if problem:
            problems.append(f"the box of object {number} ({item.kind}) {problem}")
    objects = ImageObjects(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([CLASSES.index(item.kind) for item in shown], np.int64),
        np.array([item.difficult for item in shown], np.bool_),
    )
    return objects, problems
