"""Labels of people's own: those of a source of boxes, written in other formats."""

import json
from pathlib import Path
from typing import Any

from transfer.labels.boxes import BoxDataset


def coco_of(boxed: BoxDataset) -> dict[str, Any]:
    """The annotations as COCO has them, with ids that are not in order."""
    images, annotations = [], []
    for index in range(len(boxed)):
        width, height = boxed.size(index)
        images.append({"id": 1000 - index, "file_name": boxed.key(index), "width": width, "height": height})
        objects = boxed.objects(index)
        for box, label, difficult in zip(
            objects.boxes.tolist(), objects.labels.tolist(), objects.difficult, strict=True
        ):
            left, top, right, bottom = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 1000 - index,
                    "category_id": 3 * label + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": int(difficult),
                }
            )
    categories = [{"id": 3 * label + 1, "name": name} for label, name in enumerate(boxed.classes)]
    return {"images": images[::-1], "annotations": annotations, "categories": categories[::-1]}


def write_yolo(boxed: BoxDataset, images: Path) -> None:
    """The images, as links, and a text file for each that has objects; ``images`` is called so, or below such one."""
    labels = Path(str(images).replace("images", "labels"))
    for index in range(len(boxed)):
        place = images / boxed.key(index)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to("/" + boxed.path(index).decode())
        width, height = boxed.size(index)
        lines = []
        objects = boxed.objects(index)
        for (left, top, right, bottom), label in zip(objects.boxes.tolist(), objects.labels.tolist(), strict=True):
            shares = ((left + right) / 2 / width, (top + bottom) / 2 / height)
            lines.append(
                f"{label} {shares[0]!r} {shares[1]!r} {(right - left) / width!r} {(bottom - top) / height!r}\n"
            )
        if lines:
            file = (labels / boxed.key(index)).with_suffix(".txt")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(lines))
    labels.mkdir(parents=True, exist_ok=True)
    (labels / "classes.txt").write_text("".join(f"{name}\n" for name in boxed.classes))


def write_coco(content: Any, file: Path) -> Path:
    """A JSON file."""
    file.write_text(json.dumps(content))
    return file
