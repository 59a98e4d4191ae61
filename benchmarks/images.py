"""The images that are measured with: real JPEGs, those beside the checkout, else the bundled photographs."""

from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from pretext.data import Bundled, Folder, ImageDataset
from pretext.data.pack import PackSettings, pack

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenet-sample"


def origin() -> str:
    """Where they come from."""
    return _BESIDE.name if _BESIDE.is_dir() else "bundled photographs"


def jpegs(count: int, shorter: int) -> Iterator[bytes]:
    """So many JPEG files of quality 90, resized to a shorter side."""
    source: ImageDataset = Folder(str(_BESIDE)) if _BESIDE.is_dir() else Bundled("train", tile=128, stride=32, cap=200)
    for index in range(count):
        image = source.read(index % len(source))
        factor = shorter / min(image.size)
        size = (round(image.width * factor), round(image.height * factor))
        buffer = BytesIO()
        image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        yield buffer.getvalue()


def folder_of(root: Path, count: int, shorter: int) -> Path:
    """A folder of them."""
    root.mkdir()
    for number, data in enumerate(jpegs(count, shorter)):
        (root / f"{number:05}.jpg").write_bytes(data)
    return root


def shards_of(scratch: Path, count: int, shorter: int) -> Path:
    """A folder of shards of them, as ``pretint pack`` makes it."""
    photographs = folder_of(scratch / "images", count, shorter)
    pack(str(photographs), scratch / "shards", PackSettings(labels=False))
    return scratch / "shards"


def crops(count: int, size: int) -> np.ndarray:
    """Their middles: uint8 (count, size, size, 3)."""
    from pretext.data.batches import center_crop

    opened = (Image.open(BytesIO(data)).convert("RGB") for data in jpegs(count, 256))
    return np.stack([center_crop(image, size) for image in islice(opened, count)])
