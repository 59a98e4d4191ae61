"""Classification (which classes an image shows): the network, its training crops, and the task."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from scipy.special import expit, softmax
from torch import Tensor, nn
from torch.nn import functional as F

from pretext import roles
from pretext.data.batches import AugmentedDataset, Batch, CropSettings, EvalDataset, Sample, TrainDataset, label_of
from pretext.data.order import mix, uniforms
from pretext.data.source import ImageDataset
from pretext.errors import ImageError, UserError
from pretext.false_color import to_photograph
from transfer.labels.images import resolve_subset
from transfer.metrics import AveragePrecision, Metric, Top1Accuracy
from transfer.targets import open_targets
from transfer.tasks import visualize
from transfer.tasks.alignment import FeatureNetwork, stage_of
from transfer.tasks.task import FinetuneSettings, Float32, Task, divergence_error


@dataclass
class ClassifyHeadSettings:
    """The settings of the head.

    Args:
        kind: linear: one layer on the mean over all places. fc: two hidden layers with ReLU and dropout on a grid of
            means, and one on top, as AlexNet's fc6, fc7 and fc8.
        stage: the stage whose features it takes; "" is the last.
        width: for fc: units of each hidden layer.
        grid: for fc: places along each side that the features are averaged to.
        dropout: for fc: the share of the hidden units that is dropped in training.
    """

    kind: Literal["linear", "fc"] = roles.science("linear")
    stage: str = roles.science("")
    width: int = roles.science(4096, "[1, inf)")
    grid: int = roles.science(6, "[1, inf)")
    dropout: float = roles.science(0.5, "[0, 1)")

    def __post_init__(self) -> None:
        roles.check_ranges(self, "head.")


class Classify(nn.Module):
    """A classifier: sRGB in, a score per class out.

    The last layer starts with weights from N(0, 0.01^2) and no bias, as the publications' fc8.

    Args:
        features: the backbone, as it was pretrained or adapted.
        classes: the number of classes.
        head: the settings of the head.

    Raises:
        UserError: the backbone has no such stage.
    """

    def __init__(self, features: FeatureNetwork, classes: int, head: ClassifyHeadSettings | None = None) -> None:
        super().__init__()
        head = head or ClassifyHeadSettings()
        stage = stage_of(features, head.stage)
        self.features, self.stage, self.classes = features, stage.name, classes
        last: nn.Linear
        if head.kind == "linear":
            last = nn.Linear(stage.channels, classes)
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Float32(last))
        else:
            last = nn.Linear(head.width, classes)
            self.head = nn.Sequential(
                nn.AdaptiveAvgPool2d(head.grid),
                nn.Flatten(),
                nn.Linear(stage.channels * head.grid**2, head.width),
                nn.ReLU(),
                nn.Dropout(head.dropout),
                nn.Linear(head.width, head.width),
                nn.ReLU(),
                nn.Dropout(head.dropout),
                Float32(last),
            )
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)

    def forward(self, rgb: Tensor) -> Tensor:
        """Map (B, 3, H, W), uint8 or float in [0, 1], to logits, (B, classes), float32."""
        logits: Tensor = self.head(self.features(rgb)[self.stage])
        return logits

    def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of the images' labels, in nats: a scalar.

        Args:
            rgb: (B, 3, H, W), uint8.
            labels: int64 (B,), the class: the mean cross-entropy. Or int8 (B, classes), 1 where the class is in the
                image, 0 where not, -1 where it does not count: the mean binary cross-entropy over the labels that
                count, 0 if none does. (Caffe sums over the classes of an image, so its loss is larger by a factor
                of the number of classes.)
        """
        logits = self(rgb)
        if labels.ndim == 1:
            return F.cross_entropy(logits, labels.long())
        counted = labels >= 0
        losses = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).to(logits.dtype), reduction="none")
        return (losses * counted).sum() / counted.sum().clamp(min=1)


@dataclass
class JitterSettings:
    """The settings of jittered crops: crops of the network's size, from the image at a random scale.

    Args:
        size: side of the crop, pixels.
        scale: smallest and largest scale of the image; at 1 it has its own size. Where a crop would not fit into
            it, the image is enlarged until the crop fits.
        flip: probability of mirroring left and right.
    """

    size: int = roles.science(227, "[1, 4096]")
    scale: tuple[float, float] = roles.science((0.5, 2.0), "[0.015625, 64]")
    flip: float = roles.science(0.5, "[0, 1]")

    def __post_init__(self) -> None:
        roles.check_ranges(self, "jitter.")
        if self.scale[0] > self.scale[1]:
            raise UserError(f"jitter.scale is {list(self.scale)}: give the smallest scale first")


class JitteredExamples(AugmentedDataset):
    """Crops at varying scales, with the label of their image (Kraehenbuehl et al., 2016).

    Args:
        parts: labeled sources, or some images of such sources.
        jitter: how crops are drawn.
        seed: as ``AugmentedDataset``.
    """

    draws = 4

    def __init__(self, parts: Sequence[ImageDataset], jitter: JitterSettings, seed: int) -> None:
        super().__init__(parts, seed)
        self.jitter = jitter

    def make(self, part: int, index: int, uniform: np.ndarray) -> tuple[Tensor, Any]:
        """See ``AugmentedDataset.make``."""
        source = self.parts[part]
        return jittered_crop(source.read(index), self.jitter, uniform), label_of(source, index)


class JitteredViews(EvalDataset):
    """Every image of a source for the test of the protocol: several crops of each, drawn as in training.

    Crop k of an image is a pure function of (seed, index, k). A sample's ``rgb`` holds them all: uint8
    (crops, 3, size, size), so a batch's is (B, crops, 3, size, size); its label is a dict with its ``index``, int64.

    Args:
        source: the images.
        jitter: how crops are drawn.
        crops: the number of crops of an image; the protocol takes 10.
        seed: of the crops.
    """

    def __init__(self, source: ImageDataset, jitter: JitterSettings, crops: int, seed: int) -> None:
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


class CenterViews(EvalDataset):
    """The middle square of every image; the label is a dict with its ``index``, int64."""

    def __getitem__(self, index: int) -> Sample:
        return super().__getitem__(index)._replace(label={"index": torch.tensor(index)})


def jittered_crop(image: Image.Image, jitter: JitterSettings, uniform: np.ndarray) -> Tensor:
    """Return the crop that four uniform numbers draw (scale, left, top, mirror): uint8 (3, size, size)."""
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


_NAMED = 3  # classes that are named on a drawn image, at most


@dataclass
class ClassifySettings(FinetuneSettings):
    """The settings of fine-tuning for classification.

    Args:
        classes: for images with several labels, such as VOC's: the classes to learn, if not all.
        way: how training images are cropped: resized, by group crop; or jittered, by group jitter, as in
            Kraehenbuehl et al. 2016. The crops' size is that of setting size.
        crop: the crops of way resized.
        jitter: the crops of way jittered.
        test_crops: 1 tests on the middle square of an image; more, for way jittered, on that many random crops,
            whose logits are averaged.
        head: the head on the backbone.
    """

    classes: list[str] = roles.science(list)
    way: Literal["resized", "jittered"] = roles.science("resized")
    crop: CropSettings = field(default_factory=CropSettings)
    jitter: JitterSettings = field(default_factory=JitterSettings)
    test_crops: int = roles.science(1, "[1, 1000]")
    head: ClassifyHeadSettings = field(default_factory=ClassifyHeadSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.size:
            raise UserError("size is 0: all images of a batch need the same size; set size to it, in pixels")
        if self.test_crops > 1 and self.way != "jittered":
            raise UserError(f"test_crops is {self.test_crops}: more than 1 needs way jittered")
        for name, default in (("crop", CropSettings()), ("jitter", JitterSettings())):
            size = getattr(self, name).size
            if size not in (default.size, self.size):
                raise UserError(
                    f"{name}.size is {size}, but crops are as large as size, {self.size}; leave {name}.size out"
                )
        self.crop = replace(self.crop, size=self.size)
        self.jitter = replace(self.jitter, size=self.size)


class ClassificationTask(Task):
    """The task of classification."""

    name: ClassVar[str] = "classify"

    def __init__(self, settings: ClassifySettings) -> None:
        targets = open_targets(settings.train, settings.test, settings.classes, every_class=False)
        self.settings, self.multilabel = settings, targets.multilabel
        self.train, self.test = targets.train, targets.test
        self.classes = targets.classes
        self.problems = []
        if targets.multilabel:
            shown, learned = ((part.labels == 1).any(0).tolist() for part in (targets.test, targets.train))
            if not any(shown):
                raise UserError("test: no image shows any of the classes; name another part of the data set")
            for name, in_test, in_train in zip(targets.classes, shown, learned, strict=True):
                if not in_test:
                    self.problems.append((name, "no test image shows it: it is left out of the mean"))
                elif not in_train:
                    self.problems.append((name, "no training image shows it, but a test image does"))
        self.train_digest, self.test_digest = targets.train_digest, targets.test_digest
        self.n_shared = targets.n_shared
        self.metric = "mAP" if targets.multilabel else "top-1"
        views = "the middle square" if settings.test_crops == 1 else f"{settings.test_crops} random crops"
        self.about = (
            f"classification by a network trained on the labels, {settings.training.steps:,} steps of "
            f"{settings.training.batch_size}; a test image is judged by {views}"
        )

    @property
    def head(self) -> str:
        return self.settings.head.kind

    def network(self, features: FeatureNetwork) -> nn.Module:
        return Classify(features, len(self.classes), self.settings.head)

    def used(self, features: FeatureNetwork) -> list[str]:
        return [stage_of(features, self.settings.head.stage).name]

    def examples(self, part: ImageDataset, cache_bytes: int) -> AugmentedDataset:
        settings = self.settings
        if settings.way == "jittered":
            return JitteredExamples([part], settings.jitter, settings.seed)
        return TrainDataset([part], settings.crop, settings.seed, cache_bytes=cache_bytes, labeled=True)

    def views(self, source: ImageDataset) -> EvalDataset:
        settings = self.settings
        if settings.test_crops > 1:
            return JitteredViews(source, settings.jitter, settings.test_crops, settings.seed)
        return CenterViews(source, settings.size)

    def predict(self, network: nn.Module, batch: Batch, rgb: Tensor) -> list[Any]:
        logits = network(rgb.flatten(0, -4)).float()
        if not bool(logits.isfinite().all()):
            raise divergence_error(self.name)
        return list(logits.view(len(rgb), -1, logits.shape[-1]).mean(1).cpu().numpy())

    def outcomes(self, source: ImageDataset, results: Mapping[int, Any]) -> list[tuple[str, Metric]]:
        scores = np.stack([results[index] for index in sorted(results)]).astype(np.float32)
        truth = np.stack([self._truth(source, index) for index in sorted(results)])
        if self.multilabel:
            return [("", AveragePrecision(scores, truth.astype(np.int8)))] if (truth == 1).any() else []
        return [("", Top1Accuracy(scores.argmax(1) == truth))]

    def drawn(self, source: ImageDataset, index: int, result: Any) -> tuple[Image.Image, Image.Image]:
        image, truth = to_photograph(source.read(index)), self._truth(source, index)
        labels = np.flatnonzero(truth == 1).tolist() if self.multilabel else [int(truth)]
        return (
            visualize.draw_words(image, [(self.classes[label], True) for label in labels]),
            visualize.draw_words(image, self._words(result, labels)),
        )

    def _chances(self, result: Any) -> Any:
        return expit(result) if self.multilabel else softmax(result)

    def _words(self, result: Any, right: Container[int]) -> list[tuple[str, bool]]:
        """Return the likely classes of an image, each with its chance, and whether it is among the right ones."""
        chances = self._chances(result)
        likely = np.argsort(-chances)[:_NAMED].tolist()
        predicted = [label for label in likely if chances[label] >= 0.5 * chances[likely[0]]]
        return [(f"{self.classes[label]} {chances[label]:.0%}", label in right) for label in predicted]

    def drawn_prediction(self, image: Image.Image, result: Any, least: float | None = None) -> Image.Image:
        return visualize.draw_words(image, self._words(result, range(len(self.classes))))

    def plain(self, result: Any, least: float) -> dict[str, Any]:
        return {"chances": [round(float(chance), 6) for chance in self._chances(result)]}

    def table(self, records: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
        """Return the likeliest class of each image, and the chance of every class."""
        rows = [
            [record["image"], self.classes[int(np.argmax(record["chances"]))], *record["chances"]]
            for record in records
            if "chances" in record
        ]
        return ["image", "class", *self.classes], rows

    def _truth(self, source: ImageDataset, index: int) -> Any:
        labeled, position = resolve_subset(source, index)
        return labeled.labels[position]  # type: ignore[attr-defined]
