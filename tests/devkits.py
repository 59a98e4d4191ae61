"""Made-up devkits of PASCAL VOC: images of one color, with boxes and masks of other colors in them."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Marked = tuple[str, tuple[float | str, float | str, float | str, float | str], int]
"""Class, xmin ymin xmax ymax as VOC writes them, and whether it is difficult."""


def annotation(objects: Sequence[Marked]) -> str:
    """What an annotation with these objects says."""
    texts = []
    for kind, (xmin, ymin, xmax, ymax), difficult in objects:
        box = f"<xmax>{xmax}</xmax><xmin>{xmin}</xmin><ymin>{ymin}</ymin><ymax>{ymax}</ymax>"
        texts.append(
            f"<object><bndbox>{box}</bndbox><difficult>{difficult}</difficult>"
            f"<part><name>head</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></part>"
            f"<name>{kind}</name></object>"
        )
    return f"<annotation>{''.join(texts)}</annotation>"


def write_devkit(
    folder: Path,
    marked: Mapping[str, Sequence[Marked]],
    year: str = "2007",
    part: str = "train",
    size: tuple[int, int] = (60, 40),
) -> Path:
    """A devkit whose images are blue, and red in each of the boxes; returns VOC2007 or VOC2012 in ``folder``."""
    root = folder / f"VOC{year}"
    for inside in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (root / inside).mkdir(parents=True, exist_ok=True)
    (root / f"ImageSets/Main/{part}.txt").write_text("".join(f"{stem}\n" for stem in marked))
    for stem, objects in marked.items():
        pixels = np.zeros((size[1], size[0], 3), np.uint8)
        pixels[..., 2] = 255
        for _, box, _ in objects:
            if all(isinstance(edge, int) for edge in box):
                xmin, ymin, xmax, ymax = (max(0, int(edge)) for edge in box)
                pixels[max(0, ymin - 1) : ymax, max(0, xmin - 1) : xmax] = (255, 0, 0)
        save(root / f"JPEGImages/{stem}.jpg", pixels)
        (root / f"Annotations/{stem}.xml").write_text(annotation(objects))
    return root


def write_masks(root: Path, masks: Mapping[str, np.ndarray], part: str = "train") -> None:
    """A list of ``ImageSets/Segmentation``, its masks, and images in which class k has the shade 10 k."""
    for inside in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (root / inside).mkdir(parents=True, exist_ok=True)
    (root / f"ImageSets/Segmentation/{part}.txt").write_text("".join(f"{stem}\n" for stem in masks))
    for stem, mask in masks.items():
        image = Image.fromarray(mask).convert("P")
        image.putdata(mask.ravel().tolist())
        image.save(root / f"SegmentationClass/{stem}.png")
        save(root / f"JPEGImages/{stem}.jpg", np.repeat(np.minimum(mask, 25)[..., None] * 10, 3, 2).astype(np.uint8))


def save(path: Path, pixels: np.ndarray) -> None:
    """An image file as exact as can be: the name says JPEG, the content is PNG, which decoding does not mind."""
    Image.fromarray(pixels).save(path, "PNG")


def write_proposals(path: Path, boxes: Mapping[str, np.ndarray]) -> None:
    """Write a file of proposals, (n, 4) for every stem; np.savez cannot, if a stem is the name of its argument."""
    with zipfile.ZipFile(path, "w") as archive:
        for stem, array in boxes.items():
            with archive.open(f"{stem}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(array, np.float32), allow_pickle=False)
