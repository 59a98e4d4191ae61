"""The images that are scored: each decoded once, cut to one square, the gray ones left out."""

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
from pretext.data.source import Source
from pretext.errors import ImageError
from pretint.colorization.scores.ledger import Ledger, Record

_AHEAD = 8  # images decoded while others are scored

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """An image, and the one whose colors it takes where colors are drawn at random."""

    index: int
    pixels: Pixels
    """(size, size, 3), sRGB."""
    donor: Pixels


class Circle:
    """The images of a source in a shuffled order, as a circle.

    An image's random colors are those of the next one in the circle that is kept. That is a derangement of the kept
    ones, fixed by the seed, and no image need be read twice for it.

    Args:
        source: of the images.
        size: of the squares, in pixels.
        gray_threshold: see ``is_gray``.
        seed: of the order.
        most: so many images, the first of the order; 0 takes all.
        seen: of every image that was ever met, see ``is_state``; grows.
    """

    def __init__(self, source: Source, size: int, gray_threshold: float, seed: int, most: int, seen: Ledger) -> None:
        order = np.random.default_rng(seed).permutation(len(source))
        self.order = [int(index) for index in (order[:most] if most else order)]
        self.source, self.size, self.gray_threshold, self.seen = source, size, gray_threshold, seen

    def __len__(self) -> int:
        return len(self.order)

    @property
    def kept(self) -> list[int]:
        """In color, of those that were met; in the order of the circle."""
        return [index for index in self.order if index in self.seen and self.seen[index]["state"] == "kept"]

    @property
    def gray(self) -> int:
        """How many are left out because they have no color."""
        return sum(index in self.seen and self.seen[index]["state"] == "gray" for index in self.order)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Key and reason of those that cannot be read."""
        states = [(index, self.seen[index]["state"]) for index in self.order if index in self.seen]
        return [(self.source.key(index), state) for index, state in states if state not in ("kept", "gray")]

    def pairs(self, done: set[int]) -> Iterator[Pair]:
        """The images in color that are not done yet, each read once.

        Args:
            done: what needs no scoring any more; it is read only where one that is not done takes its colors.

        Yields nothing for the only one that is kept: nobody's colors are left for it.
        """
        waiting: tuple[int, Pixels] | None = None
        first: tuple[int, Pixels] | None = None
        for index, found in self._read_ahead(self._wanted(done)):
            state = self._met(index, found)
            if state != "kept" or isinstance(found, ImageError):
                continue
            if waiting is not None:
                yield Pair(*waiting, found)
            waiting = (index, found) if index not in done else None
            first = first or (index, found)
        if waiting is not None and first is not None and first[0] != waiting[0]:
            yield Pair(*waiting, first[1])

    def _met(self, index: int, found: Pixels | ImageError) -> str:
        """The state of an image, which is kept from now on."""
        if index not in self.seen:
            if isinstance(found, ImageError):
                record = {"state": found.reason, "pixels": ""}
            else:
                digest = hashlib.sha256(found.tobytes()).hexdigest()[:16]
                record = {"state": "gray" if is_gray(found, self.gray_threshold) else "kept", "pixels": digest}
            self.seen.add([{"index": index, **record}])
        state = str(self.seen[index]["state"])
        if isinstance(found, ImageError) and state == "kept":
            raise found  # an earlier call could read it
        return state

    def _wanted(self, done: set[int]) -> list[int]:
        """What must be read: what is not done, and whose colors that takes, in the order of the circle."""
        unknown = [index not in self.seen for index in self.order]
        candidates = [
            (index, new or index not in done)
            for index, new in zip(self.order, unknown, strict=True)
            if new or self.seen[index]["state"] == "kept"
        ]
        before = [needed for _, needed in [*candidates[-1:], *candidates[:-1]]]
        return [index for (index, needed), donor in zip(candidates, before, strict=True) if needed or donor]

    def _read_ahead(self, indices: Sequence[int]) -> Iterator[tuple[int, Pixels | ImageError]]:
        """Decoded in another thread (one: sources need not bear several), some ahead of who takes them."""

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
    """The middle square of an image, RGB, at ``size`` pixels a side (Pillow's bicubic filter): uint8 (size, size, 3).

    The shorter side becomes ``size`` and the longer is cut; a smaller image is enlarged.
    """
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))


def is_state(record: Record) -> bool:
    """Of the ledger of images: "kept", "gray", or why one cannot be read; and a digest of its pixels."""
    return all(isinstance(record.get(name), str) for name in ("state", "pixels"))


def is_gray(pixels: Pixels, threshold: float) -> bool:
    """Whether no |a| or |b| of an image exceeds the threshold, in Lab units."""
    return float(rgb_to_ab(planes([pixels])).abs().max()) <= threshold


def planes(images: Sequence[Pixels]) -> Tensor:
    """uint8 (B, 3, H, W)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
