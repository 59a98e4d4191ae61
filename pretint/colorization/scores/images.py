"""The images that are scored: each is decoded once and cut to a square; gray ones are left out."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pretext.color import rgb_to_ab
from pretext.data.source import ImageDataset
from pretext.errors import ImageError
from pretint.colorization.scores.ledger import Ledger

_AHEAD = 8  # images decoded while others are scored

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ScoredImage:
    """An image, and its donor: the image that gives its colors where colors are random."""

    index: int
    pixels: Pixels
    """(size, size, 3), sRGB."""
    donor: Pixels


class ScoredImages:
    """The images of a source in a shuffled order, as a circle.

    The donor of an image is the next one in the circle that is in color. So donors are a derangement, fixed by the
    seed, and no image is read twice.

    Args:
        source: the images.
        size: side of the squares, in pixels.
        gray_threshold: see ``is_gray``.
        seed: of the order.
        most: the number of images, from the start of the order; 0 takes all.
        seen: the state of every image that was read, its ``state`` ("kept", "gray", or why it
            cannot be read) and its ``pixels``, a digest; records are added.
    """

    def __init__(
        self, source: ImageDataset, size: int, gray_threshold: float, seed: int, most: int, seen: Ledger
    ) -> None:
        order = np.random.default_rng(seed).permutation(len(source))
        self.order = [int(index) for index in (order[:most] if most else order)]
        self.source, self.size, self.gray_threshold, self.seen = source, size, gray_threshold, seen

    def __len__(self) -> int:
        return len(self.order)

    @property
    def kept(self) -> list[int]:
        """The images in color, of those that were read; in the order of the circle."""
        return [index for index in self.order if index in self.seen and self.seen[index]["state"] == "kept"]

    @property
    def gray(self) -> int:
        """The number of images that are left out because they have no color."""
        return sum(index in self.seen and self.seen[index]["state"] == "gray" for index in self.order)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Key and reason of the images that cannot be read."""
        states = [(index, self.seen[index]["state"]) for index in self.order if index in self.seen]
        return [(self.source.key(index), state) for index, state in states if state not in ("kept", "gray")]

    def pairs(self, done: set[int]) -> Iterator[ScoredImage]:
        """Yield the images in color that are not done yet, each read once.

        Args:
            done: images that are scored already. One of them is read only if it is the donor of an image that is not.

        If only one image is in color, it has no donor and is not yielded.
        """
        candidates = []  # the images that are in color or not read yet, each with whether it must be scored
        for index in self.order:
            is_new = index not in self.seen
            if is_new or self.seen[index]["state"] == "kept":
                candidates.append((index, is_new or index not in done))
        # The image behind one that must be scored is its donor.
        before = [scored for _, scored in [*candidates[-1:], *candidates[:-1]]]
        needed = [index for (index, scored), donor in zip(candidates, before, strict=True) if scored or donor]
        waiting: tuple[int, Pixels] | None = None
        first: tuple[int, Pixels] | None = None
        for index, pixels in self._read_ahead(needed):
            if index not in self.seen:
                if isinstance(pixels, ImageError):
                    record = {"state": pixels.reason, "pixels": ""}
                else:
                    digest = hashlib.sha256(pixels.tobytes()).hexdigest()[:16]
                    state = "gray" if is_gray(pixels, self.gray_threshold) else "kept"
                    record = {"state": state, "pixels": digest}
                self.seen.add([{"index": index, **record}])
            if self.seen[index]["state"] != "kept":
                continue
            if isinstance(pixels, ImageError):
                raise pixels  # an earlier call could read it
            if waiting is not None:
                yield ScoredImage(*waiting, pixels)
            waiting = (index, pixels) if index not in done else None
            first = first or (index, pixels)
        if waiting is not None and first is not None and first[0] != waiting[0]:
            yield ScoredImage(*waiting, first[1])

    def _read_ahead(self, indices: Sequence[int]) -> Iterator[tuple[int, Pixels | ImageError]]:
        """Decode images ahead in one other thread (sources need not allow several)."""

        def read(index: int) -> Pixels | ImageError:
            try:
                return square(self.source.read(index, shorter=self.size), self.size)
            except ImageError as error:
                return error

        with ThreadPoolExecutor(1) as pool:
            futures = [pool.submit(read, index) for index in indices[:_AHEAD]]
            try:
                for position, index in enumerate(indices):
                    if position + _AHEAD < len(indices):
                        futures.append(pool.submit(read, indices[position + _AHEAD]))
                    yield index, futures.pop(0).result()
            finally:
                for future in futures:
                    future.cancel()


def square(image: Image.Image, size: int) -> Pixels:
    """Return the middle square of an RGB image: uint8 (size, size, 3), by Pillow's bicubic filter.

    The shorter side becomes ``size`` and the longer is cut. A smaller image is enlarged.
    """
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))


def is_gray(pixels: Pixels, threshold: float) -> bool:
    """Whether no |a| or |b| of an image exceeds the threshold, in Lab units."""
    return float(rgb_to_ab(planes([pixels])).abs().max()) <= threshold


def planes(images: Sequence[Pixels]) -> Tensor:
    """Stack images: uint8 (B, 3, H, W)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
