"""A made-up VOCdevkit: bright squares, dark disks and bright triangles on noise, with boxes and masks that fit."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pretext.data.voc import CLASSES

SHAPES = ("car", "cat", "person")  # squares, disks, triangles
PARTS = {"train": range(16), "val": range(16, 24), "trainval": range(24), "test": range(24, 40)}


def make_devkit(folder: Path, year: str = "2007", side: int = 64, seed: int = 0) -> Path:
    """The folder VOCdevkit, with one year of 40 images; every shape is in every part."""
    root, random = folder / "VOCdevkit" / f"VOC{year}", np.random.default_rng(seed)
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for part, numbers in PARTS.items():
        for use in ("Main", "Segmentation"):
            (root / "ImageSets" / use / f"{part}.txt").write_text("".join(f"{n:06}\n" for n in numbers))
    for number in range(40):
        _make(root, f"{number:06}", SHAPES[number % 3], SHAPES[(number + 1) % 3] if number % 2 else None, side, random)
    return folder / "VOCdevkit"


def _make(root: Path, name: str, first: str, second: str | None, side: int, random: np.random.Generator) -> None:
    width, height = side + int(random.integers(0, side // 4)), side
    rgb = random.normal(128, 12, (height, width, 1)).clip(0, 255).astype(np.uint8).repeat(3, 2)
    image, mask = Image.fromarray(rgb), Image.new("P", (width, height))
    mask.putpalette([0, 0, 0] * 256)
    objects = []
    halves = [(0, width // 2), (width // 2, width)] if second else [(0, width)]
    for kind, (left, right) in zip(filter(None, (first, second)), halves, strict=True):
        size = int(random.integers(side // 3, min(right - left, side) - 2))
        x, y = int(random.integers(left, right - size)), int(random.integers(0, height - size))
        box = (x, y, x + size - 1, y + size - 1)  # inclusive, from 0
        shade = 60 if kind == "cat" else 220
        for draw, value in ((ImageDraw.Draw(image), (shade,) * 3), (ImageDraw.Draw(mask), CLASSES.index(kind) + 1)):
            if kind == "car":
                draw.rectangle(box, fill=value)
            elif kind == "cat":
                draw.ellipse(box, fill=value)
            else:
                draw.polygon([(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) // 2, box[1])], fill=value)
        objects.append(
            f"<object><name>{kind}</name><difficult>0</difficult><bndbox><xmin>{box[0] + 1}</xmin>"
            f"<ymin>{box[1] + 1}</ymin><xmax>{box[2] + 1}</xmax><ymax>{box[3] + 1}</ymax></bndbox></object>"
        )
    image.save(root / "JPEGImages" / f"{name}.jpg", quality=95)
    mask.save(root / "SegmentationClass" / f"{name}.png")
    size_ = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size_}{''.join(objects)}</annotation>")
