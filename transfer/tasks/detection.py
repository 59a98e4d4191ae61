"""Detection (where the objects of some classes are in an image): the scaled images, and the task."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pretext import roles
from pretext.data.batches import AugmentedDataset, Batch, EvalDataset, Sample
from pretext.data.source import ImageDataset
from pretext.errors import ImageError, UserError
from transfer.bootstrap import MetricName
from transfer.labels.boxes import BoxDataset, objects_of, open_boxed
from transfer.labels.formats import require_same_classes
from transfer.labels.images import resolve_subset
from transfer.labels.proposals import Proposals, open_proposals
from transfer.metrics import BoxAP, Detections, Metric, Points
from transfer.targets import count_shared
from transfer.tasks import visualize
from transfer.tasks.alignment import FeatureNetwork
from transfer.tasks.detection_head import DetectHeadSettings, Detector, neck_stages
from transfer.tasks.task import FinetuneSettings, Task, digest_of, divergence_error, scale_image


@dataclass
class DetectionSizes:
    """The settings of how images are scaled for a detector.

    Args:
        shorter: lengths of the shorter side, pixels; one is drawn for every training image.
        longest: the largest length of the longer side, pixels: an image is scaled down to it.
        flip: probability of mirroring left and right.
        difficult: learn from objects marked difficult, too.
    """

    shorter: list[int] = roles.science(lambda: [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800], "[1, 4096]")
    longest: int = roles.science(1333)
    flip: float = roles.science(0.5, "[0, 1]")
    difficult: bool = roles.science(False)

    def __post_init__(self) -> None:
        roles.check_ranges(self, "sizes.")
        if not self.shorter:
            raise UserError("sizes.shorter is empty: give lengths in pixels")
        if not max(self.shorter) <= self.longest <= 8192:
            raise UserError(f"sizes.longest is {self.longest}: it must lie in [{max(self.shorter)}, 8192] pixels")


class DetectionExamples(AugmentedDataset):
    """Scaled images and the objects in them.

    A label is a dict: ``boxes`` float32 (n, 4) in the scaled image, ``labels`` int64 (n,), ``size`` int64 (2,), the
    image's height and width before it is padded to those of a batch, and ``proposals`` float32 (m, 4) where there
    are any.

    Args:
        parts: of ``BoxDataset`` images, opened for training.
        sizes: how images are scaled.
        seed: as ``AugmentedDataset``.
        proposals: for every part; where a part is some images of a source, the proposals of that source.
    """

    draws = 2

    def __init__(
        self,
        parts: Sequence[ImageDataset],
        sizes: DetectionSizes,
        seed: int,
        proposals: Sequence[Proposals] | None = None,
    ) -> None:
        super().__init__(parts, seed)
        assert proposals is None or len(proposals) == len(parts)
        self.sizes, self.proposals = sizes, proposals

    def make(self, part: int, index: int, uniform: np.ndarray) -> tuple[Tensor, Any]:
        """See ``AugmentedDataset.make``."""
        source, sizes = self.parts[part], self.sizes
        shorter = sizes.shorter[int(uniform[0] * len(sizes.shorter))]
        view = detection_view(source, index, shorter, sizes.longest)
        objects = objects_of(source, index)
        counted = ~objects.difficult | sizes.difficult
        label = {"boxes": view.boxes(objects.boxes[counted]), "labels": torch.from_numpy(objects.labels[counted])}
        if self.proposals is not None:
            label["proposals"] = view.boxes(self.proposals[part].boxes(resolve_subset(source, index)[1]))
        rgb, (height, width) = view.rgb, view.rgb.shape[1:]
        if uniform[1] < sizes.flip:
            rgb = rgb.flip(2)
            for name in label.keys() & {"boxes", "proposals"}:
                left, top, right, bottom = label[name].unbind(1)
                label[name] = torch.stack((width - right, top, width - left, bottom), 1)
        return rgb, {**label, "size": torch.tensor([height, width])}


class DetectionView(NamedTuple):
    """An image as a detector sees it."""

    rgb: Tensor
    """uint8 (3, H, W)."""
    scale: NDArray[np.float32]
    """(4,): multiply boxes in the image by it to get boxes in ``rgb``; divide detected boxes by it."""

    def boxes(self, boxes: NDArray[np.float32]) -> Tensor:
        """Map boxes (n, 4) in the image itself to boxes in ``rgb``: float32 (n, 4)."""
        return torch.from_numpy(boxes * self.scale)


class DetectionViews(EvalDataset):
    """Every image of a source, scaled for the test of a detector.

    A label is a dict: ``index`` int64, of the image in the source; ``size`` int64 (2,) and ``proposals``, as of
    ``DetectionExamples``; ``scale`` float32 (4,), as of ``DetectionView``.

    Args:
        source: ``BoxDataset`` images.
        shorter: length of the shorter side, pixels.
        longest: the largest length of the longer side, pixels.
        proposals: those of the source's images.
    """

    def __init__(self, source: ImageDataset, shorter: int, longest: int, proposals: Proposals | None = None) -> None:
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
                label["proposals"] = view.boxes(self.proposals.boxes(resolve_subset(self.source, index)[1]))
        except ImageError as error:
            return Sample(None, [(error.key, error.reason)])
        return Sample(view.rgb, [], label)


def detection_view(source: ImageDataset, index: int, shorter: int, longest: int) -> DetectionView:
    """Return an image scaled to a shorter side of ``shorter`` pixels, or less if its longer side exceeds ``longest``.

    Raises:
        ImageError: it cannot be read.
    """
    image = source.read(index)
    factor = min(shorter / min(image.size), longest / max(image.size))
    rgb = scale_image(image, factor)
    exact = np.array([rgb.shape[2] / image.width, rgb.shape[1] / image.height] * 2, np.float32)
    return DetectionView(rgb, exact)


POINTS: tuple[Points, ...] = ("11 points", "all points", "COCO")
"""The three kinds of average precision that are computed of the same detections."""

_SHOWN = 0.3  # the lowest score of a box that is drawn
_MOST = 8  # the largest number of boxes that are drawn


@dataclass
class DetectSettings(FinetuneSettings):
    """The settings of fine-tuning for detection.

    Args:
        size: shorter side, in pixels, at which the network is shown a test image; at most sizes.longest.
        sizes: how training images are scaled; a test image's longer side is at most sizes.longest, too.
        proposals: for head.form fast: boxes that may hold objects in training images: a .mat or .npz file; or
            "windows", a fixed grid.
        test_proposals: the same for test images; if empty, the file of ``proposals``.
        head: the head on the backbone.
    """

    size: int = roles.science(800)
    sizes: DetectionSizes = field(default_factory=DetectionSizes)
    proposals: str = roles.content("windows")
    test_proposals: str = roles.content("")
    head: DetectHeadSettings = field(default_factory=DetectHeadSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 16 <= self.size <= self.sizes.longest:
            raise UserError(f"size is {self.size}: it must lie in [16, {self.sizes.longest}] pixels (sizes.longest)")


class DetectionTask(Task):
    """The task of detection."""

    name: ClassVar[str] = "detect"
    metric: MetricName = "AP"
    train: BoxDataset
    test: BoxDataset

    def __init__(self, settings: DetectSettings) -> None:
        self.settings = settings
        self.train = open_boxed(settings.train, training=True, difficult=settings.sizes.difficult)
        self.test = open_boxed(settings.test)
        require_same_classes(settings.train, self.train.classes, settings.test, self.test.classes)
        self.n_shared = count_shared(settings.train, self.train, settings.test, self.test)
        self.classes = list(self.train.classes)
        self.problems = [*self.train.problems, *self.test.problems]
        if all(self.test.objects(index).difficult.all() for index in range(len(self.test))):
            raise UserError(
                f"{settings.test}: its annotations have no object to find; name another part of the data set"
            )
        self.proposals: dict[int, Proposals] = {}
        if settings.head.form == "fast":
            for source, file in ((self.train, settings.proposals), (self.test, settings.test_proposals)):
                self.proposals[id(source)] = open_proposals(file or settings.proposals, source)
        digests = []
        for source in (self.train, self.test):
            proposed = hashlib.sha256()
            if (proposals := self.proposals.get(id(source))) is not None:
                for index in range(len(source)):
                    proposed.update(proposals.boxes(index).tobytes() + b"\n")
            objects = [b"".join(array.tobytes() for array in source.objects(index)) for index in range(len(source))]
            digests.append(digest_of(source, self.classes, b"\n".join([*objects, proposed.digest()])))
        self.train_digest, self.test_digest = digests
        head = settings.head
        self.about = (
            f"{'Faster' if head.form == 'faster' else 'Fast'} R-CNN on {head.neck}, "
            f"{settings.training.steps:,} steps of {settings.training.batch_size}, tested at a shorter side of "
            f"{settings.size} pixels; average precision at an overlap of 0.5 by 11 points (VOC2007), all points "
            "(VOC2012), and COCO's over 0.5 to 0.95"
        )

    @property
    def head(self) -> str:
        return f"{self.settings.head.form}, {self.settings.head.neck}"

    def network(self, features: FeatureNetwork) -> nn.Module:
        return Detector(features, len(self.classes), self.settings.head)

    @classmethod
    def without_images(cls, settings: Any, classes: list[str], multilabel: bool) -> Any:
        """See ``Task.without_images``; a network that needs proposals cannot be used so."""
        if settings.head.form == "fast":
            raise UserError("head.form is fast: it needs proposals for each image; train with form faster")
        task = super().without_images(settings, classes, multilabel)
        task.proposals = {}
        return task

    def used(self, features: FeatureNetwork) -> list[str]:
        last = [features.stages[-1]] if self.settings.head.box == "stage" else []
        return [stage.name for stage in (*neck_stages(features, self.settings.head), *last)]

    def examples(self, part: ImageDataset, cache_bytes: int) -> AugmentedDataset:
        return DetectionExamples([part], self.settings.sizes, self.settings.seed, self._proposals(part))

    def views(self, source: ImageDataset) -> EvalDataset:
        settings = self.settings
        proposals = self._proposals(source)
        return DetectionViews(source, settings.size, settings.sizes.longest, proposals[0] if proposals else None)

    def _proposals(self, part: ImageDataset) -> list[Proposals] | None:
        """Return the proposals of the source that some images are from, if it has any."""
        proposals = self.proposals.get(id(resolve_subset(part, 0)[0])) if self.proposals else None
        return [proposals] if proposals else None

    def predict(self, network: nn.Module, batch: Batch, rgb: Tensor) -> list[Any]:
        assert isinstance(network, Detector)
        detections = []
        # One by one: the detections in an image must not depend on the other images of a batch.
        for image, label in zip(rgb, batch.labels, strict=True):
            height, width = label["size"].tolist()
            proposals = [label["proposals"].to(rgb.device)] if "proposals" in label else None
            ((boxes, scores, labels),) = network.predict(image[None, :, :height, :width], [(height, width)], proposals)
            if not (bool(boxes.isfinite().all()) and bool(scores.isfinite().all())):
                raise divergence_error(self.name)
            placed = boxes.float() / label["scale"].to(boxes.device)
            detections.append((placed.cpu().numpy(), scores.float().cpu().numpy(), labels.cpu().numpy()))
        return detections

    def outcomes(self, source: ImageDataset, results: Mapping[int, Any]) -> list[tuple[str, Metric]]:
        indices = sorted(results)
        truth = [objects_of(source, index) for index in indices]
        if not any((~objects.difficult).any() for objects in truth):
            return []
        detections = Detections.of([results[index] for index in indices], truth, len(self.classes))
        return [(points, BoxAP(detections, points)) for points in POINTS]

    def drawn(self, source: ImageDataset, index: int, result: Any) -> tuple[Image.Image, Image.Image]:
        image, truth = source.read(index), objects_of(source, index)
        words = [
            f"{self.classes[label]}{' (difficult)' if difficult else ''}"
            for label, difficult in zip(truth.labels, truth.difficult, strict=True)
        ]
        colors = [visualize.color(label + 1) for label in truth.labels.tolist()]
        return visualize.draw_boxes(image, truth.boxes, words, colors), self.drawn_prediction(image, result)

    def drawn_prediction(self, image: Image.Image, result: Any, least: float | None = None) -> Image.Image:
        boxes, scores, labels = result
        if least is None:
            best = [at for at in np.argsort(-scores)[:_MOST] if scores[at] >= min(_SHOWN, float(scores.max()))]
        else:
            best = [at for at in np.argsort(-scores, kind="stable") if scores[at] >= least]
        predicted = [f"{self.classes[labels[at]]} {scores[at]:.0%}" for at in best]
        colors = [visualize.color(int(labels[at]) + 1) for at in best]
        return visualize.draw_boxes(image, boxes[best], predicted, colors)

    def plain(self, result: Any, least: float) -> dict[str, Any]:
        """Return each box with its class, score, and left, top, right and bottom in pixels, by falling score."""
        boxes, scores, labels = result
        order = [at for at in np.argsort(-scores, kind="stable") if scores[at] >= least]
        return {
            "boxes": [
                [self.classes[labels[at]], round(float(scores[at]), 6), [round(side, 2) for side in boxes[at].tolist()]]
                for at in order
            ]
        }

    def table(self, records: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
        """Return a row for each box."""
        rows = [
            [record["image"], name, score, *box] for record in records for name, score, box in record.get("boxes", ())
        ]
        return ["image", "class", "score", "left", "top", "right", "bottom"], rows
