"""What a detector learns from, and what it is asked: whole images, scaled, with the boxes of their objects."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pretext.data.batches import Examples, Sample, Views
from pretext.data.source import Source
from pretext.errors import ImageError, UserError
from transfer.voc.boxes import objects_of
from transfer.voc.images import whole
from transfer.voc.proposals import Proposals


@dataclass
class DetectionSizes:
    """How images are scaled for a detector.

    Args:
        shorter: lengths of the shorter side, pixels, one of which is drawn for every image that is learned from.
        longest: length that the longer side may have, pixels: an image is scaled down until it has.
        flip: probability of mirroring left and right.
        difficult: learn from objects marked difficult, too.
    """

    shorter: list[int] = field(default_factory=lambda: [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800])
    longest: int = 1333
    flip: float = 0.5
    difficult: bool = False

    def __post_init__(self) -> None:
        if not self.shorter or not all(1 <= one <= 4096 for one in self.shorter):
            raise UserError(f"sizes.shorter is {self.shorter}: give lengths in [1, 4096] pixels")
        if not max(self.shorter) <= self.longest <= 8192:
            raise UserError(f"sizes.longest is {self.longest}: it must lie in [{max(self.shorter)}, 8192] pixels")
        if not 0 <= self.flip <= 1:
            raise UserError(f"sizes.flip is {self.flip}: a probability lies between 0 and 1")


class DetectionExamples(Examples):
    """Scaled images and the objects in them.

    A label is a dict: ``boxes`` float32 (n, 4) in the scaled image, ``labels`` int64 (n,), ``size`` int64 (2,), the
    image's height and width before it is padded to those of a batch, and ``proposals`` float32 (m, 4) where there
    are any.

    Args:
        parts: of ``Boxed`` images, opened for training.
        sizes: how images are scaled.
        seed: as ``Examples``.
        proposals: of every part; where a part is some images of a source, those of the source.
        weights: as ``Examples``.
    """

    draws = 2

    def __init__(
        self,
        parts: Sequence[Source],
        sizes: DetectionSizes,
        seed: int,
        proposals: Sequence[Proposals] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(parts, seed, weights)
        assert proposals is None or len(proposals) == len(parts)
        self.sizes, self.proposals = sizes, proposals

    def make(self, part: int, index: int, uniform: np.ndarray) -> tuple[Tensor, Any]:
        """See ``Examples.make``."""
        source, sizes = self.parts[part], self.sizes
        shorter = sizes.shorter[int(uniform[0] * len(sizes.shorter))]
        view = detection_view(source, index, shorter, sizes.longest)
        objects = objects_of(source, index)
        counted = ~objects.difficult | sizes.difficult
        label = {"boxes": view.boxes(objects.boxes[counted]), "labels": torch.from_numpy(objects.labels[counted])}
        if self.proposals is not None:
            label["proposals"] = view.boxes(self.proposals[part].boxes(whole(source, index)[1]))
        rgb, (height, width) = view.rgb, view.rgb.shape[1:]
        if uniform[1] < sizes.flip:
            rgb = rgb.flip(2)
            for name in label.keys() & {"boxes", "proposals"}:
                left, top, right, bottom = label[name].unbind(1)
                label[name] = torch.stack((width - right, top, width - left, bottom), 1)
        return rgb, {**label, "size": torch.tensor([height, width])}


class DetectionView(NamedTuple):
    """An image as a detector looks at it."""

    rgb: Tensor
    """uint8 (3, H, W)."""
    scale: NDArray[np.float32]
    """(4,): by what boxes in the image itself are multiplied to be boxes in ``rgb``, and found ones divided."""

    def boxes(self, boxes: NDArray[np.float32]) -> Tensor:
        """Boxes (n, 4) in the image itself as boxes in ``rgb``: float32 (n, 4)."""
        return torch.from_numpy(boxes * self.scale)


class DetectionViews(Views):
    """Every image of a source as a detector that is judged looks at it.

    A label is a dict: ``index`` int64, of the image in the source; ``size`` int64 (2,) and ``proposals``, as of
    ``DetectionExamples``; ``scale`` float32 (4,), as of ``DetectionView``.

    Args:
        source: of ``Boxed`` images.
        shorter: length of the shorter side, pixels.
        longest: length that the longer side may have, pixels.
        proposals: of the source's images.
    """

    def __init__(self, source: Source, shorter: int, longest: int, proposals: Proposals | None = None) -> None:
        super().__init__(source, shorter)
        self.longest, self.proposals = longest, proposals

    def __getitem__(self, index: int) -> Sample:
        try:
            view = detection_view(self.source, index, self.size, self.longest)
            label = {
                "index": torch.tensor(index),
                "size": torch.tensor(view.rgb.shape[1:]),
                "scale": torch.from_numpy(view.scale),
            }
            if self.proposals is not None:
                label["proposals"] = view.boxes(self.proposals.boxes(whole(self.source, index)[1]))
        except ImageError as error:
            return Sample(None, [(error.key, error.reason)])
        return Sample(view.rgb, [], label)


def detection_view(source: Source, index: int, shorter: int, longest: int) -> DetectionView:
    """An image scaled so that its shorter side has ``shorter`` pixels, or fewer: its longer one at most ``longest``.

    Raises:
        ImageError: it cannot be read.
    """
    image = source.read(index)
    factor = min(shorter / min(image.size), longest / max(image.size))
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    scaled = image.resize(size, Image.Resampling.BILINEAR)
    exact = np.array([size[0] / image.width, size[1] / image.height] * 2, np.float32)
    return DetectionView(torch.from_numpy(np.array(scaled)).permute(2, 0, 1), exact)
