"""Datasets of small images in memory, some of which cannot be read."""

import signal
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

from pretext.data.batches import CropSettings
from pretext.errors import ImageError

Array = np.ndarray[Any, Any]


SMALL = CropSettings(size=8)
"""Crops that cost little."""


class MemoryDataset:
    """Images in memory; None cannot be read. Counts how often each is."""

    def __init__(self, images: list[Array | None]) -> None:
        self.images = images
        self.reads: Counter[int] = Counter()
        self.requested_sizes: set[int | None] = set()

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        self.reads[index] += 1
        self.requested_sizes.add(shorter)
        image = self.images[index]
        if image is None:
            raise ImageError(self.key(index), "torn")
        return Image.fromarray(image)

    def key(self, index: int) -> str:
        return f"image {index}"


def make_noise(count: int, bad: tuple[int, ...] = ()) -> MemoryDataset:
    """Images of noise, each of another size."""
    random = np.random.default_rng(0)
    sides = random.integers(5, 40, (count, 2))
    images = [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sides]
    return MemoryDataset([None if index in bad else image for index, image in enumerate(images)])


def make_shades(count: int, bad: tuple[int, ...] = ()) -> MemoryDataset:
    """Images of one shade each: their index."""
    return MemoryDataset([None if index in bad else np.full((9, 12, 3), index, np.uint8) for index in range(count)])


class SignalMasks(MemoryDataset):
    """Tells which signals are blocked where images are read, and stops there."""

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        if index:
            return super().read(index, shorter)
        raise ImageError("mask", str(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))))
