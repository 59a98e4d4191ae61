"""Images of numbers beside images: of the class of each pixel, or of the object that it belongs to.

``masks:IMAGES:MASKS``: for ``IMAGES/a.jpg`` the file ``MASKS/a.png`` (or .bmp, .tif), with a palette or in gray: its
numbers are classes, 255 does not count. ``classes.txt`` in MASKS, or beside it, has the names, one a line, from that of
number 0 on.

``instances:IMAGES:MAPS``: the same with numbers of objects, of 8 or 16 bits, and 0 for the background. All objects are
of one class.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pretext.errors import ImageError, UserError
from transfer.labels.formats import (
    BoxFile,
    BoxLabels,
    MarkedObject,
    MaskFile,
    MaskLabels,
    list_images,
    read_classes,
    split_name,
)
from transfer.labels.images import ImageFile

LOSSLESS = {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
"""Endings of masks, the preferred one first; other formats may change the numbers."""

OBJECT = "object"


def read_class_masks(name: str) -> MaskLabels:
    """Read ``masks:IMAGES:MASKS``; images without a mask, and masks without an image, are left out and listed.

    Raises:
        UserError: a folder is missing or holds no image; no image has a mask; there is no list of classes.
    """
    pairs, problems, folder = _pair(name, "MASKS")
    for place in (folder, folder.parent):
        if (place / "classes.txt").is_file():
            classes = read_classes(place / "classes.txt")
            break
    else:
        raise UserError(
            f"{name}: the names of its classes are missing; write them to {folder / 'classes.txt'}, one a line, from "
            "number 0 on"
        )
    if not 2 <= len(classes) <= 255:
        raise UserError(f"{name}: {len(classes)} classes; masks have 2 to 255")
    masks = [MaskFile(map_.key, partial(read_map, map_), map_.path.read_bytes) for _, map_ in pairs]
    return MaskLabels(classes, [image for image, _ in pairs], masks, problems)


def read_instance_masks(name: str) -> MaskLabels:
    """Read ``instances:IMAGES:MAPS`` as masks of two classes, background and object."""
    pairs, problems, _ = _pair(name, "MAPS")
    masks = [MaskFile(map_.key, partial(_is_object, map_), map_.path.read_bytes) for _, map_ in pairs]
    return MaskLabels(["background", OBJECT], [image for image, _ in pairs], masks, problems)


def read_instance_boxes(name: str) -> BoxLabels:
    """Read the boxes around the objects of ``instances:IMAGES:MAPS``.

    Raises:
        UserError: as ``read_class_masks``; or a map cannot be read.
    """
    pairs, problems, _ = _pair(name, "MAPS")
    files = []
    for image, map_ in pairs:
        try:
            numbers = read_map(map_, np.uint16)
        except ImageError as error:
            raise UserError(f"{name}: {error}") from error
        files.append(BoxFile(image, map_.key, [MarkedObject(0, box) for box in boxes_around(numbers)]))
    return BoxLabels([OBJECT], files, problems)


def boxes_around(numbers: NDArray[np.uint16]) -> list[tuple[float, float, float, float]]:
    """Return left, top, right, bottom of each object in a map (H, W), by rising number."""
    rows, columns = np.nonzero(numbers)
    found, of_pixel = np.unique(numbers[rows, columns], return_inverse=True)
    edges = np.empty((len(found), 4))
    edges[:, :2], edges[:, 2:] = np.inf, -np.inf
    for at, positions in ((0, columns), (1, rows)):
        np.minimum.at(edges[:, at], of_pixel, positions)
        np.maximum.at(edges[:, at + 2], of_pixel, positions + 1)
    return [(left, top, right, bottom) for left, top, right, bottom in edges.tolist()]


def read_map(file: ImageFile, dtype: type[np.uint8] | type[np.uint16] = np.uint8) -> NDArray[Any]:
    """Return the numbers of an image with a palette or in gray: (H, W), of at most the bits of ``dtype``.

    Raises:
        ImageError: it is gone, damaged, or has colors or more bits.
    """
    modes = ("P", "L") if dtype == np.uint8 else ("P", "L", "I;16", "I")
    try:
        with Image.open(file.path, formats=list(dict.fromkeys(LOSSLESS.values()))) as image:
            mode, size = image.mode, image.width * image.height
            if mode not in modes or size > (Image.MAX_IMAGE_PIXELS or size):
                raise ImageError(
                    file.key,
                    f"{mode} of {size:,} pixels, where a mask has one number a pixel (mode {' or '.join(modes)})",
                )
            numbers = np.array(image)
    except ImageError:
        raise
    except FileNotFoundError as problem:
        raise ImageError(file.key, "the mask is gone since the list was read") from problem
    except Exception as problem:  # damaged bytes make Pillow raise nearly anything
        reason = " ".join(str(problem).split())[:200]
        raise ImageError(file.key, f"the mask cannot be read: {reason or type(problem).__name__}") from problem
    if numbers.dtype == np.int32 and not 0 <= numbers.min() <= numbers.max() < 2**16:
        raise ImageError(file.key, f"has the numbers {numbers.min()}..{numbers.max()}; 16 bits are possible")
    return numbers.astype(dtype)


def _is_object(map_: ImageFile) -> NDArray[np.uint8]:
    return (read_map(map_, np.uint16) > 0).astype(np.uint8)


def _pair(name: str, what: str) -> tuple[list[tuple[ImageFile, ImageFile]], list[tuple[str, str]], Path]:
    """Return each image with its map, what has no partner, and the folder of the maps."""
    first, second = split_name(name, ("IMAGES", what))
    images, folder = list_images(name, first), Path(second).expanduser().absolute()
    maps = {stem: file for stem, file in list_images(name, second).items() if file.path.suffix.lower() in LOSSLESS}
    pairs = [(image, maps[stem]) for stem, image in images.items() if stem in maps]
    if not pairs:
        example = next(iter(images))
        raise UserError(f"{name}: no image has a mask: {second} has no {example}.png, for one")
    problems = [(image.key, "it has no mask: left out") for stem, image in images.items() if stem not in maps]
    problems += [(map_.key, "a mask without an image: left out") for stem, map_ in maps.items() if stem not in images]
    return pairs, problems, folder
