"""Boxes and polygons in the text files of YOLO: ``yolo:IMAGES``.

Beside the folder ``images`` is one ``labels`` with the same sub-folders, and for ``images/train/a.jpg`` the file
``labels/train/a.txt``; without a folder of that name, the text files are beside the images. Each line has a class and
the center, width and height of a box, or a class and the points of a polygon, as shares of the image's sides. An image
without a file has no object. The names of the classes are in ``classes.txt`` or ``data.yaml``, in one of these folders
or above.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from pretext.data.decode import size_of
from pretext.errors import ImageError, UserError
from transfer.labels.formats import (
    BACKGROUND,
    BoxFile,
    BoxLabels,
    MarkedObject,
    MaskFile,
    MaskLabels,
    is_place,
    list_images,
    polygon_mask,
    read_classes,
    shapes_content,
    split_name,
)
from transfer.labels.images import ImageFile

_LARGEST = 2**24  # bytes of a text file
_ABOVE = 4  # folders in which the names of classes are looked for


def read_boxes(name: str) -> BoxLabels:
    """Read the boxes of ``yolo:IMAGES``; of a polygon, the box around it.

    Raises:
        UserError: the folder has no image; there is no label file, or no list of classes; a line is wrong.
    """
    classes, images, shapes = _read(name)
    files = []
    for image, (key, of_image) in zip(images, shapes, strict=True):
        objects = []
        if of_image:
            try:
                width, height = size_of(image.path, image.key)
            except ImageError:  # reported later, when the image is read
                width, height = 2**24, 2**24
            for kind, points in of_image:
                across, down = points[0::2], points[1::2]
                corners = (min(across) * width, min(down) * height, max(across) * width, max(down) * height)
                objects.append(MarkedObject(kind, corners))
        files.append(BoxFile(image, key, objects))
    return BoxLabels(classes, files, [])


def read_masks(name: str) -> MaskLabels:
    """Read the polygons of ``yolo:IMAGES``; a later one is above.

    Raises:
        UserError: as ``read_boxes``; or a label is a box; or there are more than 254 classes.
    """
    classes, images, shapes = _read(name)
    if len(classes) > 254:
        raise UserError(f"{name}: {len(classes)} classes; masks have at most 254")
    masks = []
    for image, (key, of_image) in zip(images, shapes, strict=True):
        if any(len(points) < 6 for _, points in of_image):
            raise UserError(f"{name}: {key} has boxes, and masks need polygons; use finetune detect")
        masks.append(MaskFile(key, partial(_draw, image, of_image), partial(shapes_content, of_image)))
    return MaskLabels(["background", *classes], images, masks, [])


Shape = tuple[int, list[float]]
"""A class, and the points of a polygon as shares of the sides; two for a box."""


def _read(name: str) -> tuple[list[str], list[ImageFile], list[tuple[str, list[Shape]]]]:
    """Return the classes, the images, and for each the key of its label file and its shapes."""
    (folder,) = split_name(name, ("IMAGES",))
    images = list_images(name, folder)
    root = Path(folder).expanduser().absolute()
    labels = _labels_of(root)
    classes = _find_classes(name, (labels, root, *list(labels.parents)[:_ABOVE], *list(root.parents)[:_ABOVE]))
    shapes: list[tuple[str, list[Shape]]] = []
    for stem in images:
        file = labels / f"{stem}.txt"
        shapes.append((f"{stem}.txt", _read_file(file, len(classes)) if file.exists() else []))
    if not any(of_image for _, of_image in shapes):
        raise UserError(
            f"{name}: no image has an object: no text file in {labels} has a line; put labels there, named as the "
            "images"
        )
    return classes, list(images.values()), shapes


def _labels_of(root: Path) -> Path:
    """Return the folder of the labels: the last ``images`` in the path becomes ``labels``."""
    parts = list(root.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    other = Path(*parts)
    return other if other.is_dir() else root


def _find_classes(name: str, folders: Sequence[Path]) -> list[str]:
    for folder in folders:
        if (folder / "classes.txt").is_file():
            return read_classes(folder / "classes.txt")
        file = folder / "data.yaml"
        if not file.is_file():
            continue
        try:
            names = yaml.safe_load(file.read_text("utf-8-sig"))["names"]
            if isinstance(names, str):
                raise TypeError(f"names is {names[:40]!r}")
            ordered = [names[number] for number in range(len(names))]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError) as error:
            raise UserError(f"{file}: has no list of names ({str(error)[:80]}); write names: [cat, dog]") from error
        if not ordered or not all(isinstance(one, str) for one in ordered) or len(set(ordered)) < len(ordered):
            raise UserError(f"{file}: its names are not different texts; write names: [cat, dog]")
        return ordered
    raise UserError(f"{name}: the names of its classes are missing; write classes.txt into {folders[0]}, one a line")


def _read_file(file: Path, classes: int) -> list[Shape]:
    try:
        if file.stat().st_size > _LARGEST:
            raise UserError(f"{file}: more than {_LARGEST:,} bytes; give YOLO's labels")
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
    shapes: list[Shape] = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        try:
            kind, values = int(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            raise UserError(f"{file}, line {number}: {line[:60]!r} is no class with numbers; correct it") from None
        if not 0 <= kind < classes:
            raise UserError(
                f"{file}, line {number}: class {kind} of {classes} classes; correct it, or name more classes"
            )
        if not all(map(is_place, values)) or (len(values) != 4 and (len(values) < 6 or len(values) % 2)):
            raise UserError(f"{file}, line {number}: {line[:60]!r} is neither a box nor a polygon; correct it")
        if len(values) == 4:
            across, down, width, height = values
            values = [across - width / 2, down - height / 2, across + width / 2, down + height / 2]
        shapes.append((kind, values))
    return shapes


def _draw(image: ImageFile, shapes: Sequence[Shape]) -> NDArray[np.uint8]:
    """Return the mask of an image, of the size of its file."""
    width, height = size_of(image.path, image.key)
    mask = np.full((height, width), BACKGROUND, np.uint8)
    for kind, points in shapes:
        in_pixels = np.reshape(points, (-1, 2)) * [width, height]
        mask[polygon_mask(in_pixels.ravel().tolist(), height, width)] = 1 + kind
    return mask
