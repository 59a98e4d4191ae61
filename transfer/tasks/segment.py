"""Segmentation as a task: which class every pixel of an image belongs to."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pretext.data.batches import Batch, Examples, Views
from pretext.data.source import Source
from pretext.errors import UserError
from transfer.bootstrap import Metric
from transfer.metrics import Outcome, confusion, segmentation_outcome
from transfer.targets import count_shared
from transfer.tasks import draw
from transfer.tasks.alignment import Features
from transfer.tasks.segmentation import Segment, SegmentHeadSettings, skips
from transfer.tasks.segmentation_examples import SegmentationCrops, SegmentationExamples, SegmentationViews
from transfer.tasks.task import FinetuneSettings, Task, digest_of, diverged
from transfer.voc.masks import Masked, mask_of, open_masked


@dataclass
class SegmentSettings(FinetuneSettings):
    """A fine-tuning of segmentation: on what, from where, how.

    Args:
        size: shorter side, in pixels, at which the network is shown a test image; 0: its own.
        sbd: a folder with SBD's masks, which are added to the training images (never one of VOC's val list).
        crops: how training images are scaled and cropped.
        head: what is put on the backbone.
    """

    size: int = 0
    sbd: str = ""
    crops: SegmentationCrops = field(default_factory=SegmentationCrops)
    head: SegmentHeadSettings = field(default_factory=SegmentHeadSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head.kind == "deeplab" and 1 in (self.training.micro_batch, self.training.batch_size):
            raise UserError("head.kind deeplab normalizes over a batch: it needs 2 images at once or more")


class Painted(NamedTuple):
    """What was found in an image."""

    packed: bytes
    """The mask, compressed: those of all test images are kept for some time."""
    shape: tuple[int, ...]
    confusion: NDArray[np.int64]

    @property
    def mask(self) -> NDArray[np.uint8]:
        """(H, W), the class of every pixel."""
        return np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(self.shape)


class Segmentation(Task):
    """See the module."""

    name: ClassVar[str] = "segment"
    metric: Metric = "mIoU"
    train: Masked
    test: Masked

    def __init__(self, settings: SegmentSettings) -> None:
        self.settings = settings
        self.train, self.test = open_masked(settings.train, settings.sbd), open_masked(settings.test)
        self.n_shared = count_shared(settings.train, self.train, settings.test, self.test)
        self.classes = list(self.train.classes)
        self.problems = [*self.train.problems, *self.test.problems]
        self.train_digest, self.test_digest = (
            digest_of(source, self.classes, source.masks_digest()) for source in (self.train, self.test)
        )
        shown = f"a shorter side of {settings.size} pixels" if settings.size else "the size that an image has"
        self.about = (
            f"segmentation by head {settings.head.kind}, {settings.training.steps:,} steps of "
            f"{settings.training.batch_size}{', with the masks of SBD' if settings.sbd else ''}, tested at {shown}; "
            "mean over classes of intersection over union of all pixels, at full size, 255 not counted"
        )

    @property
    def head(self) -> str:
        return self.settings.head.kind

    def network(self, features: Features) -> nn.Module:
        return Segment(features, len(self.classes), self.settings.head)

    def used(self, features: Features) -> list[str]:
        return [stage.name for stage in (*skips(features.stages, self.settings.head.kind), features.stages[-1])]

    def examples(self, part: Source, cache_bytes: int) -> Examples:
        return SegmentationExamples([part], self.settings.crops, self.settings.seed)

    def views(self, source: Source) -> Views:
        return SegmentationViews(source, self.settings.size)

    def predict(self, network: nn.Module, batch: Batch, rgb: Tensor) -> list[Any]:
        assert isinstance(network, Segment)
        found = []
        for image, label in zip(rgb, batch.labels, strict=True):  # one by one: their sizes differ
            height, width = label["size"].tolist()
            mask = label["mask"].numpy()
            logits = network(image[None, :, :height, :width], mask.shape)
            if not bool(logits.isfinite().all()):
                raise diverged(self.name)
            predicted = logits[0].argmax(0).to(torch.uint8).cpu().numpy()
            counts = confusion(mask, predicted, len(self.classes))
            found.append(Painted(zlib.compress(predicted.tobytes(), 1), predicted.shape, counts))
        return found

    def outcomes(self, source: Source, found: Mapping[int, Any]) -> list[tuple[str, Outcome]]:
        confusions = [found[index].confusion for index in sorted(found)]
        return [("", segmentation_outcome(confusions))] if any(one.any() for one in confusions) else []

    def drawn(self, source: Source, index: int, found: Any) -> tuple[Image.Image, Image.Image]:
        image = source.read(index)
        truth = mask_of(source, index)
        return draw.painted(image, truth, self.classes), draw.painted(image, found.mask, self.classes)
