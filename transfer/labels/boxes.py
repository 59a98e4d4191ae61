"""Images with the boxes of objects, for detection."""

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretext.data.decode import size_of
from pretext.data.source import ImageDataset
from pretext.data.voc import CLASSES, CORNERS, VocObject
from pretext.errors import ImageError, UserError
from transfer.labels import coco, maps, yolo
from transfer.labels.formats import BoxFile, BoxLabels, MarkedObject, why_other_size
from transfer.labels.images import ImageFile, VocImages, open_parts, prefixes, resolve_subset

_UNKNOWN = 2**24


class ImageObjects(NamedTuple):
    """The annotated objects of an image."""

    boxes: NDArray[np.float32]
    """(n, 4): left, top, right, bottom in pixels from the image's upper left corner, so that a width is right - left.
    VOC counts pixels from 1 and names the last one in the box: its xmin..xmax is [xmin - 1, xmax) here."""
    labels: NDArray[np.int64]
    """(n,): the class of each."""
    difficult: NDArray[np.bool_]
    """(n,): whether an object is difficult, so that a detector need not detect it."""


class BoxDataset(VocImages):
    """A source of images with objects, made by ``open_boxed``.

    Args:
        classes: the names of the classes, by label.
        images: the images.
        objects: the objects of each.
        problems: as ``VocImages``.
    """

    def __init__(
        self,
        classes: list[str],
        images: Sequence[ImageFile],
        objects: Sequence[ImageObjects],
        problems: list[tuple[str, str]],
    ) -> None:
        assert len(images) == len(objects)
        super().__init__(images, problems)
        self.classes, self._objects = classes, objects

    def objects(self, index: int) -> ImageObjects:
        """Return the objects in image ``index``."""
        return self._objects[index]


def open_boxed(name: str, training: bool = False, difficult: bool = False) -> BoxDataset:
    """Open images with the boxes of their objects.

    Boxes are clipped to the image; those without area, or entirely outside, are dropped. Both are listed in
    ``problems``, as are images that are left out, such as those of another size than the annotation says.

    Args:
        name: ``voc:...``, as for ``pretext.data.voc.open_part``; or several, joined by +, for what is known as 07+12:
            ``voc:2007:trainval:FOLDER+voc:2012:trainval:FOLDER``. Or another format, see ``transfer.labels``.
        training: leave out images without objects to learn from.
        difficult: learn from difficult objects, too.

    Raises:
        UserError: no such year, list or folder; an image or an annotation is missing; an annotation is damaged, or
            has an unknown class, or an object without a box of four finite numbers; no image is left.
    """
    labels = READERS.get(name.partition(":")[0], _read_voc)(name)
    images: list[ImageFile] = []
    objects: list[ImageObjects] = []
    problems = list(labels.problems)
    for file in labels.files:
        size = _size_of(file)
        if size and (problem := why_other_size(file.size, size)):
            problems.append((file.image.key, f"{problem}: left out"))
            continue
        inside, mended = _clip_objects(file, size or (_UNKNOWN, _UNKNOWN), labels.classes)
        problems += [(file.key, problem) for problem in mended]
        if training and (len(inside.labels) == 0 or (inside.difficult.all() and not difficult)):
            content = "only difficult objects" if len(inside.labels) else "no object"
            problems.append((file.key, f"{content}: the image is left out of training"))
            continue
        images.append(file.image)
        objects.append(inside)
    if not images:
        reason = ": ".join(problems[-1]) if len(problems) > len(labels.problems) else "no image is listed"
        raise UserError(f"{name}: none of its images has an object to learn from ({reason}); name another part")
    return BoxDataset(labels.classes, images, objects, problems)


READERS: dict[str, Callable[[str], BoxLabels]] = {
    "coco": coco.read_boxes,
    "yolo": yolo.read_boxes,
    "instances": maps.read_instance_boxes,
}
"""Kind of the name -> its reader; other names are VOC's."""


def _read_voc(name: str) -> BoxLabels:
    """Read the boxes of parts of VOC.

    A line or a point (xmax = xmin) has no area, although VOC's way of counting would give it a pixel. It is an error in
    the annotation, and is dropped.
    """
    files: list[BoxFile] = []
    parts = open_parts(name, "Main")
    for part, prefix in zip(parts, prefixes(parts), strict=True):
        for index, stem in enumerate(part.stems):
            image = ImageFile(prefix + part.key(index), part.file(index))
            file = part.root / "Annotations" / f"{stem}.xml"
            objects = [_mark(file, item) for item in part.objects(index)]
            files.append(BoxFile(image, f"{prefix}Annotations/{stem}.xml", objects, least=1))
    return BoxLabels(list(CLASSES), files, [])


def _mark(path: Path, item: VocObject) -> MarkedObject:
    corners = []
    for corner, text in zip(CORNERS, item.corners, strict=True):
        if text is None:
            raise UserError(f"{path}: a {item.kind} has no <{corner}> in a <bndbox>; add its box, or remove the object")
        try:
            pixel = float(text)
        except ValueError:
            pixel = math.nan
        if not math.isfinite(pixel):
            raise UserError(
                f"{path}: {corner} of a {item.kind} is {text.strip()[:40]!a}, which is no number; correct it"
            )
        corners.append(pixel)
    left, top, right, bottom = corners
    return MarkedObject(CLASSES.index(item.kind), (left - 1, top - 1, right, bottom), item.difficult)


def objects_of(source: ImageDataset, index: int) -> ImageObjects:
    """Return the objects in an image of a ``BoxDataset``, or of some of its images."""
    boxed, at = resolve_subset(source, index)
    assert isinstance(boxed, BoxDataset), boxed
    return boxed.objects(at)


def _size_of(file: BoxFile) -> tuple[int, int] | None:
    """Return width and height of an image that has objects; None if it has none, or cannot be read."""
    if file.objects:
        with contextlib.suppress(ImageError):  # reported later, when the image is read
            return size_of(file.image.path, file.image.key)
    return None


def _clip_objects(file: BoxFile, size: tuple[int, int], classes: Sequence[str]) -> tuple[ImageObjects, list[str]]:
    """Return the objects of an annotation, clipped to the image, and what was clipped or dropped."""
    width, height = size
    boxes: list[tuple[float, ...]] = []
    shown: list[MarkedObject] = []
    problems: list[str] = []
    for number, item in enumerate(file.objects, 1):
        left, top, right, bottom = item.corners
        clipped = (max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height))
        problem = ""
        if right - left <= file.least or bottom - top <= file.least:
            problem = "has no area: dropped"
        elif clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            problem = f"lies outside the image of {width} x {height}: dropped"
        else:
            boxes.append(clipped)
            shown.append(item)
            if clipped != item.corners:
                problem = f"reaches outside the image of {width} x {height}: cut"
        if problem:
            problems.append(f"the box of object {number} ({classes[item.kind]}) {problem}")
    objects = ImageObjects(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([item.kind for item in shown], np.int64),
        np.array([item.difficult for item in shown], np.bool_),
    )
    return objects, problems
