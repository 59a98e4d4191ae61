"""What a classifier of VOC learns from, and what it is asked: crops at scales that vary (Kraehenbuehl et al., 2016)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pretext.data.batches import Examples, Sample, Views, label_of
from pretext.data.order import mix, uniforms
from pretext.data.source import Source
from pretext.errors import ImageError, UserError


@dataclass
class JitterSettings:
    """Crops of the network's size out of the image at a scale that is drawn.

    Args:
        size: side of the crop, pixels.
        scale: smallest and largest scale of the image; at 1 it has its own size. Where a crop would not fit into
            it, the image is scaled so that it does.
        flip: probability of mirroring left and right.
    """

    size: int = 227
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096:
            raise UserError(f"jitter.size is {self.size}: it must lie in [1, 4096] pixels")
        if not 1 / 64 <= self.scale[0] <= self.scale[1] <= 64:
            raise UserError(f"jitter.scale is {list(self.scale)}: give two with 1/64 <= smallest <= largest <= 64")
        if not 0 <= self.flip <= 1:
            raise UserError(f"jitter.flip is {self.flip}: a probability lies between 0 and 1")


class JitteredExamples(Examples):
    """Crops at scales that vary, with the label of their image.

    Args:
        parts: labeled sources, or some images of such.
        jitter: how crops are drawn.
        seed: as ``Examples``.
        weights: as ``Examples``.
    """

    draws = 4

    def __init__(
        self, parts: Sequence[Source], jitter: JitterSettings, seed: int, weights: Sequence[float] | None = None
    ) -> None:
        super().__init__(parts, seed, weights)
        self.jitter = jitter

    def make(self, part: int, index: int, uniform: np.ndarray) -> tuple[Tensor, Any]:
        """See ``Examples.make``."""
        source = self.parts[part]
        return jittered_crop(source.read(index), self.jitter, uniform), label_of(source, index)


class JitteredViews(Views):
    """Every image of a source as the protocol looks at it when it judges: by several crops, drawn as in training.

    Crop k of an image is a pure function of (seed, index, k). A sample's ``rgb`` holds them all: uint8
    (crops, 3, size, size), so a batch's is (B, crops, 3, size, size); its label is a dict with its ``index``, int64.

    Args:
        source: of the images.
        jitter: how crops are drawn.
        crops: how many; the protocol takes 10.
        seed: of the crops.
    """

    def __init__(self, source: Source, jitter: JitterSettings, crops: int, seed: int) -> None:
        super().__init__(source, jitter.size)
        assert crops >= 1
        self.jitter, self.crops, self.seed = jitter, crops, seed

    def __getitem__(self, index: int) -> Sample:
        try:
            image = self.source.read(index)
        except ImageError as error:
            return Sample(None, [(error.key, error.reason)])
        key = mix(self.seed, index)
        crops = [jittered_crop(image, self.jitter, uniforms(key, k, 4)) for k in range(self.crops)]
        return Sample(torch.stack(crops), [], {"index": torch.tensor(index)})


class CenterViews(Views):
    """The middle square of every image; its label is a dict with its ``index``, int64."""

    def __getitem__(self, index: int) -> Sample:
        return super().__getitem__(index)._replace(label={"index": torch.tensor(index)})


def jittered_crop(image: Image.Image, jitter: JitterSettings, uniform: np.ndarray) -> Tensor:
    """A crop drawn by four uniform numbers: scale, left, top, mirror. Returns uint8 (3, size, size)."""
    size = jitter.size
    low, high = jitter.scale
    scale = max(low + (high - low) * uniform[0], size / min(image.size))
    side = size / scale
    left, top = ((length - side) * at for length, at in zip(image.size, uniform[1:3], strict=True))
    box = (left, top, min(left + side, image.width), min(top + side, image.height))
    crop = image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)
    if uniform[3] < jitter.flip:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(crop)).permute(2, 0, 1)
