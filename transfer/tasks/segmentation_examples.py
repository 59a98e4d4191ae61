"""What a network that segments learns from, and what it is asked: crops of scaled images, with their masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pretext.data.batches import Examples, Sample, Views
from pretext.data.source import Source
from pretext.errors import ImageError, UserError
from transfer.voc.masks import UNCOUNTED, mask_of

GRAY = 128
"""Of every channel, where a crop reaches beyond its image."""


@dataclass
class SegmentationCrops:
    """Square crops of scaled images.

    Args:
        size: side of the crop, pixels. What reaches beyond the image is gray, and not counted.
        shorter: length that the image's shorter side has at scale 1, pixels; 0: its own.
        scale: smallest and largest scale; one is drawn.
        flip: probability of mirroring left and right.
    """

    size: int = 480
    shorter: int = 0
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096:
            raise UserError(f"crops.size is {self.size}: it must lie in [1, 4096] pixels")
        if not 0 <= self.shorter <= 4096:
            raise UserError(f"crops.shorter is {self.shorter}: it must lie in [1, 4096] pixels, or be 0: as they are")
        if not 1 / 64 <= self.scale[0] <= self.scale[1] <= 64:
            raise UserError(f"crops.scale is {list(self.scale)}: give two with 1/64 <= smallest <= largest <= 64")
        if not 0 <= self.flip <= 1:
            raise UserError(f"crops.flip is {self.flip}: a probability lies between 0 and 1")


class SegmentationExamples(Examples):
    """Crops, and as labels the same crops of their masks: uint8 (size, size), 255 where nothing counts.

    Args:
        parts: of ``Masked`` images.
        crops: how they are drawn.
        seed: as ``Examples``.
        weights: as ``Examples``.
    """

    draws = 4

    def __init__(
        self, parts: Sequence[Source], crops: SegmentationCrops, seed: int, weights: Sequence[float] | None = None
    ) -> None:
        super().__init__(parts, seed, weights)
        self.crops = crops

    def make(self, part: int, index: int, uniform: np.ndarray) -> tuple[Tensor, Any]:
        """See ``Examples.make``; a mask that is damaged or not of its image is an error of the image's."""
        source = self.parts[part]
        image, mask = source.read(index), Image.fromarray(mask_of(source, index))
        assert mask.size == image.size, source.key(index)
        rgb, mask = cropped(image, mask, self.crops, uniform)
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1), torch.from_numpy(np.array(mask))


def cropped(
    image: Image.Image, mask: Image.Image, crops: SegmentationCrops, uniform: np.ndarray
) -> tuple[Image.Image, Image.Image]:
    """The crop of an image and of its mask that four uniform numbers draw: scale, left, top, mirror.

    As if both were scaled whole, the mask to its nearest pixels, and then cut; what is missing is at the right and
    below.
    """
    low, high = crops.scale
    factor = low + (high - low) * uniform[0]
    if crops.shorter:
        factor *= crops.shorter / min(image.size)
    scaled = [max(1, round(length * factor)) for length in image.size]
    shown = [min(length, crops.size) for length in scaled]
    start = [int((whole - part + 1) * at) for whole, part, at in zip(scaled, shown, uniform[1:3], strict=True)]
    x, y = (own / length for own, length in zip(image.size, scaled, strict=True))
    box = (
        start[0] * x,
        start[1] * y,
        min((start[0] + shown[0]) * x, image.width),
        min((start[1] + shown[1]) * y, image.height),
    )
    rgb = image.resize((shown[0], shown[1]), Image.Resampling.BILINEAR, box=box)
    # Not resize, in which rounding decides where the middle of a pixel falls between two.
    columns, rows = (
        (2 * np.arange(first, first + part) + 1) * own // (2 * length)
        for first, part, own, length in zip(start, shown, image.size, scaled, strict=True)
    )
    classes = Image.fromarray(np.asarray(mask)[np.ix_(rows, columns)])
    if uniform[3] < crops.flip:
        rgb, classes = (one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in (rgb, classes))
    square = (crops.size, crops.size)
    padded, uncounted = Image.new("RGB", square, (GRAY,) * 3), Image.new("L", square, UNCOUNTED)
    padded.paste(rgb)
    uncounted.paste(classes)
    return padded, uncounted


class SegmentationViews(Views):
    """Every image of a source as a network that is judged looks at it.

    A label is a dict: ``index`` int64, of the image in the source; ``size`` int64 (2,), height and width before it
    is padded to those of a batch; ``mask`` uint8 (H, W), at the size of the image itself.

    Args:
        source: of ``Masked`` images.
        shorter: as ``segmentation_view``.
    """

    def __init__(self, source: Source, shorter: int = 0) -> None:
        super().__init__(source, max(1, shorter))
        self.shorter = shorter

    def __getitem__(self, index: int) -> Sample:
        try:
            rgb = segmentation_view(self.source, index, self.shorter)
            mask = torch.from_numpy(mask_of(self.source, index))
        except ImageError as error:
            return Sample(None, [(error.key, error.reason)])
        return Sample(rgb, [], {"index": torch.tensor(index), "size": torch.tensor(rgb.shape[1:]), "mask": mask})


def segmentation_view(source: Source, index: int, shorter: int = 0) -> Tensor:
    """An image scaled so that its shorter side has ``shorter`` pixels; 0: as it is. Returns uint8 (3, H, W).

    Raises:
        ImageError: it cannot be read.
    """
    image = source.read(index)
    if shorter:
        factor = shorter / min(image.size)
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
