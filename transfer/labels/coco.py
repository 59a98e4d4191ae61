"""Boxes and masks in the JSON of COCO (Lin et al., ECCV 2014): ``coco:FILE.json:IMAGES``.

Boxes are left, top, width and height in pixels. A crowd is a difficult object here: it teaches nothing, and a detection
that finds it does not count. In masks, the pixels of crowds do not count; where objects overlap, the smaller is above.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretext.data.decode import size_of
from pretext.errors import ImageError, UserError
from transfer.labels.formats import (
    BACKGROUND,
    UNCOUNTED,
    BoxFile,
    BoxLabels,
    MarkedObject,
    MaskFile,
    MaskLabels,
    is_place,
    list_images,
    polygon_mask,
    shapes_content,
    split_name,
    why_other_size,
)
from transfer.labels.images import ImageFile

_LARGEST = 2**31  # bytes of a file: COCO's own have half a gigabyte
_MOST_CLASSES = 254  # of masks: 0 is background, 255 does not count
_FILE = "an image's file_name is missing or no text"

Entry = dict[str, Any]


def read_boxes(name: str) -> BoxLabels:
    """Read the boxes of ``coco:FILE.json:IMAGES``.

    Raises:
        UserError: the file or the folder cannot be read; the JSON is not COCO's; an id is missing or doubled; an
            image is missing.
    """
    classes, numbers, images, sizes, of_image, problems = _read(name)
    files = []
    for identity, image in images.items():
        objects = []
        for entry in of_image[identity]:
            left, top, width, height = _numbers(name, entry, "bbox", 4)
            corners = (left, top, left + width, top + height)
            objects.append(MarkedObject(numbers[entry["category_id"]], corners, bool(entry.get("iscrowd"))))
        files.append(BoxFile(image, image.key, objects, size=sizes[identity]))
    return BoxLabels(classes, files, problems)


def read_masks(name: str) -> MaskLabels:
    """Read the masks of ``coco:FILE.json:IMAGES``; images without objects are background.

    Raises:
        UserError: as ``read_boxes``; or there are more than 254 classes.
    """
    classes, numbers, images, sizes, of_image, problems = _read(name)
    if len(classes) > _MOST_CLASSES:
        raise UserError(f"{name}: {len(classes)} classes; masks have at most {_MOST_CLASSES}")
    masks = []
    for identity, image in images.items():
        shapes: list[tuple[int, Any]] = []
        for entry in sorted(of_image[identity], key=lambda entry: -_area(entry)):
            segmentation = entry.get("segmentation")
            if problem := _why_no_shape(segmentation):
                problems.append((image.key, f"annotation {entry['id']}: {problem}: left out of the mask"))
                continue
            shapes.append((UNCOUNTED if entry.get("iscrowd") else 1 + numbers[entry["category_id"]], segmentation))
        content = partial(shapes_content, shapes)
        masks.append(MaskFile(image.key, partial(_draw, image, sizes[identity], shapes), content))
    return MaskLabels(["background", *classes], list(images.values()), masks, problems)


Size = tuple[int, int] | None
"""Width and height of an image as the annotations have them; None if they do not."""


def _read(
    name: str,
) -> tuple[
    list[str],
    dict[Any, int],
    dict[Any, ImageFile],
    dict[Any, Size],
    Mapping[Any, list[Entry]],
    list[tuple[str, str]],
]:
    """Return classes, their numbers by id, images by id, their sizes, the annotations by image, and problems."""
    file, folder = split_name(name, ("FILE.json", "IMAGES"))
    path = Path(file).expanduser()
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{file}: more than {_LARGEST:,} bytes; split it")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: no JSON ({str(error)[:100]}); give COCO's annotations") from error
    lists: dict[str, list[Entry]] = {}
    for part in ("images", "annotations", "categories"):
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"{file}: has no list of {part}, as COCO's annotations have; give another file")
        lists[part] = entries
    categories, shown = _by_id(file, "category", lists["categories"]), _by_id(file, "image", lists["images"])
    if not shown:
        raise UserError(f"{file}: it lists no image; give another file")
    classes = [str(categories[identity].get("name", identity)) for identity in sorted(categories, key=_order)]
    if len(set(classes)) < len(classes):
        raise UserError(f"{file}: two categories are called {max(classes, key=classes.count)}; rename one")
    numbers = {identity: number for number, identity in enumerate(sorted(categories, key=_order))}
    files = {image.key: image for image in list_images(name, folder).values()}
    images: dict[Any, ImageFile] = {}
    sizes: dict[Any, Size] = {}
    missing = []
    for identity, entry in shown.items():
        if not isinstance(key := entry.get("file_name"), str):
            raise UserError(f"{file}: image {identity}: {_FILE}; correct it")
        if key in files:
            images[identity], width, height = files[key], entry.get("width"), entry.get("height")
            sizes[identity] = (width, height) if isinstance(width, int) and isinstance(height, int) else None
        else:
            missing.append(key)
    if missing:
        raise UserError(
            f"{name}: {len(missing):,} of {len(shown):,} images that it lists are not in {folder}, the first: "
            f"{missing[0]}; give the folder that its file names start from"
        )
    if len({image.key for image in images.values()}) < len(images):
        raise UserError(f"{file}: two images have one file_name; keep one")
    of_image: dict[Any, list[Entry]] = {identity: [] for identity in images}
    _by_id(file, "annotation", lists["annotations"])
    for entry in lists["annotations"]:
        for key, known in (("image_id", images), ("category_id", categories)):
            if not isinstance(entry.get(key), int | str) or entry[key] not in known:
                raise UserError(
                    f"{file}: annotation {entry['id']}: its {key}, {entry.get(key)!r}, is not listed; correct it"
                )
        of_image[entry["image_id"]].append(entry)
    crowds = Counter(bool(entry.get("iscrowd")) for entry in lists["annotations"])[True]
    problems = [(Path(file).name, f"{crowds:,} crowds: they teach nothing, and do not count")] if crowds else []
    return classes, numbers, images, sizes, of_image, problems


def _by_id(file: str, what: str, entries: Sequence[Entry]) -> dict[Any, Entry]:
    by_id: dict[Any, Entry] = {}
    for at, entry in enumerate(entries):
        identity = entry.get("id")
        if not isinstance(identity, int | str):
            raise UserError(f"{file}: {what} number {at + 1} has no id; give each its own")
        if identity in by_id:
            raise UserError(f"{file}: two {what} entries have the id {identity}; give each its own")
        by_id[identity] = entry
    return by_id


def _order(identity: Any) -> tuple[bool, Any]:
    return isinstance(identity, str), identity


def _numbers(name: str, entry: Entry, key: str, count: int) -> list[float]:
    values = entry.get(key)
    if not isinstance(values, list) or len(values) != count or not all(map(is_place, values)):
        raise UserError(
            f"{name}: annotation {entry['id']}: its {key} is {str(values)[:60]}, not {count} numbers of pixels; "
            "correct it"
        )
    return [float(value) for value in values]


def _area(entry: Entry) -> float:
    """Return the area by which objects are drawn in order: that of the annotation, else that of its box."""
    area, box = entry.get("area"), entry.get("bbox")
    if not is_place(area) and isinstance(box, list) and len(box) == 4 and all(map(is_place, box)):
        return float(box[2] * box[3])
    return float(area) if isinstance(area, int | float) and is_place(area) else 0.0


def _why_no_shape(segmentation: Any) -> str:
    """Return why a segmentation cannot be drawn; empty if it can."""
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        sides = isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size)
        return "" if sides and isinstance(counts, list | str) else "its run lengths have no size or no counts"
    if not isinstance(segmentation, list) or not segmentation:
        return "it has no segmentation"
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) % 2 or not all(isinstance(n, int | float) for n in polygon):
            return "a polygon is no list of pairs of numbers"
        if len(polygon) < 6:
            return f"a polygon has {len(polygon) // 2} points"
        if not all(map(is_place, polygon)):
            return "a polygon has a number that is no place in an image"
    return ""


def _draw(image: ImageFile, size: Size, shapes: Sequence[tuple[int, Any]]) -> NDArray[np.uint8]:
    """Return the mask of an image, of the size of its file.

    Raises:
        ImageError: the annotations are of an image of another size.
    """
    width, height = size_of(image.path, image.key)
    if problem := why_other_size(size, (width, height)):
        raise ImageError(image.key, problem)
    mask = np.full((height, width), BACKGROUND, np.uint8)
    for value, shape in shapes:
        if isinstance(shape, list):
            for polygon in shape:
                mask[polygon_mask(polygon, height, width)] = value
            continue
        if shape["size"] != [height, width]:
            raise ImageError(
                image.key,
                f"a mask of run lengths has the size {shape['size'][::-1]}, the image {[width, height]}; correct it",
            )
        try:
            mask[decode_runs(shape["counts"], height, width)] = value
        except ValueError as error:
            raise ImageError(image.key, f"its run lengths are damaged: {error}") from error
    return mask


def decode_runs(counts: str | Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask (H, W) of COCO's run lengths: of outside and inside in turn, down the columns.

    Args:
        counts: numbers; or as text, where a number is the difference from the one two before, in digits of 5 bits with
            48 added, the lowest first; bit 5 says that another digit follows.
        height: H.
        width: W.

    Raises:
        ValueError: they do not add up to H W, or are no numbers.
    """
    if isinstance(counts, str):
        runs: list[int] = []
        value = shift = 0
        for character in counts.encode("ascii"):
            digit = character - 48
            if not 0 <= digit < 64 or shift > 60:
                raise ValueError("a character that is no digit")
            value |= (digit & 31) << shift
            shift += 5
            if not digit & 32:
                if digit & 16:
                    value -= 1 << shift
                runs.append(value + (runs[-2] if len(runs) > 2 else 0))
                value = shift = 0
    else:
        runs = [count for count in counts if isinstance(count, int)]
        if len(runs) < len(counts):
            raise ValueError("a count that is no whole number")
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"they make {sum(runs)} pixels of {height * width}")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return inside.reshape(width, height).T
