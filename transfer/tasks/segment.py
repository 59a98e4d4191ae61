"""Segmentation as a task: which class every pixel of a picture belongs to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from pretext.errors import PictureError, UserError
from pretext.pictures.batches import Batch, Examples, Sample
from pretext.pictures.source import Source
from transfer.intervals import Metric
from transfer.outcomes import Outcome, confusion, segmentation_outcome
from transfer.tasks import drawing
from transfer.tasks.segmentation import Segment, SegmentHeadSettings
from transfer.tasks.segmentation_examples import SegmentationExamples, segmentation_view
from transfer.tasks.task import FinetuneSettings, Task, digest_of, unreadable
from transfer.voc.masks import Masked, mask_of, open_masked

_MASKS = 32  # that a digest looks at


@dataclass
class SegmentSettings(FinetuneSettings):
    """A fine-tuning of segmentation: on what, from where, how.

    Args:
        sbd: a folder with SBD's masks, which are added to the training pictures (never one of VOC's val list).
        crop: side of a training crop, pixels.
        scale: a training picture is scaled by a factor between these first, from its shorter side at size.
        flip: probability of mirroring left and right.
        head: what is put on the backbone.
    """

    sbd: str = ""
    crop: int = 224
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    head: SegmentHeadSettings = field(default_factory=SegmentHeadSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 16 <= self.crop <= 4096 or not 0.05 <= self.scale[0] <= self.scale[1] <= 20:
            raise UserError("crop must lie in [16, 4096] pixels, and scale be two factors, the smaller first")


class Segmentation(Task):
    """See the module."""

    name: ClassVar[str] = "segment"
    metric: ClassVar[Metric] = "mIoU"
    train: Masked
    test: Masked

    def __init__(self, settings: SegmentSettings) -> None:
        self.settings = settings
        self.train, self.test = open_masked(settings.train, settings.sbd), open_masked(settings.test)
        self.classes = list(self.train.classes)
        self.problems = [*self.train.problems, *self.test.problems]
        self.train_digest, self.test_digest = (
            digest_of(source, self.classes, _known(source)) for source in (self.train, self.test)
        )
        self.about = (  # type: ignore[misc]
            f"segmentation by head {settings.head.kind}, {settings.training.steps:,} steps of "
            f"{settings.training.batch_size}{', with the masks of SBD' if settings.sbd else ''}, tested at a shorter "
            f"side of {settings.size} pixels; mean over classes of intersection over union of all pixels, at full "
            "size, 255 not counted"
        )

    @property
    def head(self) -> str:
        return self.settings.head.kind

    def network(self, features: nn.Module) -> nn.Module:
        return Segment(features, len(self.classes), self.settings.head)

    def examples(self, part: Source, cache_bytes: int) -> Examples:
        settings = self.settings
        return SegmentationExamples(
            [part], settings.seed, settings.crop, shorter=settings.size, scale=settings.scale, flip=settings.flip
        )

    def views(self, source: Source) -> Dataset[Sample]:
        return _Views(self, source)

    def predict(self, network: nn.Module, batch: Batch, rgb: Tensor) -> list[Any]:
        assert isinstance(network, Segment)
        found = []
        for picture, label in zip(rgb, batch.labels, strict=True):  # one by one: their sizes differ
            height, width = label["size"].tolist()
            mask = label["mask"].numpy()
            predicted = network.predict(picture[None, :, :height, :width], mask.shape)[0].cpu().numpy()
            found.append((predicted.astype("u1"), confusion(mask, predicted, len(self.classes))))
        return found

    def outcomes(self, source: Source, found: Mapping[int, Any]) -> list[tuple[str, Outcome]]:
        return [("", segmentation_outcome([found[index][1] for index in sorted(found)]))]

    def drawn(self, source: Source, index: int, found: Any) -> tuple[Image.Image, Image.Image]:
        picture = source.read(index)
        truth = mask_of(source, index)
        return drawing.painted(picture, truth, self.classes), drawing.painted(picture, found[0], self.classes)


class _Views(Dataset[Sample]):
    """Every picture at the size of the test, with its mask at full size."""

    def __init__(self, task: Segmentation, source: Source) -> None:
        self.task, self.source = task, source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        try:
            rgb = segmentation_view(self.source, index, self.task.settings.size)
            mask = mask_of(self.source, index)
        except PictureError as error:
            return unreadable(error)
        label = {"index": torch.tensor(index), "size": torch.tensor(rgb.shape[-2:]), "mask": torch.from_numpy(mask)}
        return Sample(rgb, [], label)


def _known(source: Masked) -> bytes:
    """Some masks, spread over all."""
    found = []
    for index in sorted({number * (len(source) - 1) // (_MASKS - 1) for number in range(_MASKS)}):
        try:
            found.append(source.mask(index).tobytes())
        except PictureError:
            found.append(b"none")
    return b"\n".join(found)
