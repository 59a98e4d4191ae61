"""Segmentation (the class of every pixel of an image): the network, its training crops, and the task."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pretext import roles
from pretext.backbones.contract import Stage
from pretext.data.batches import AugmentedDataset, Batch, EvalDataset, Sample
from pretext.data.source import ImageDataset
from pretext.errors import ImageError, UserError
from transfer.bootstrap import MetricName
from transfer.labels.formats import UNCOUNTED, require_same_classes
from transfer.labels.masks import MaskDataset, mask_of, open_masked
from transfer.metrics import Metric, confusion, segmentation_outcome
from transfer.targets import count_shared
from transfer.tasks import visualize
from transfer.tasks.alignment import FeatureNetwork, grids, read_between
from transfer.tasks.task import FinetuneSettings, Float32, Task, digest_of, divergence_error, scale_image

IGNORED = 255
"""The label of pixels that count neither in training nor in the score."""


@dataclass
class SegmentHeadSettings:
    """The settings of the head.

    Args:
        kind: fcn32, fcn16, fcn8: scores at every place of the last stage, plus those of the stages before it
            at stride 16, or 16 and 8 (Long et al. 2015). The last stage counts whatever its stride is: if that is
            16, fcn32 works at 16, and fcn16 is refused, because it has nothing to add. deeplab: dilated
            convolutions side by side on the last stage (Chen et al. 2017, DeepLabV3).
        dropout: for the fcn kinds: the share of the last stage's channels that is dropped in training (deeplab: 0.5).
        width: for deeplab: channels of every branch.
        rates: for deeplab: dilations of the branches, in places. Published: 12, 24, 36 for stride 8; 6, 12, 18 for 16.
    """

    kind: Literal["fcn32", "fcn16", "fcn8", "deeplab"] = roles.science("fcn32")
    dropout: float = roles.science(0.5, "[0, 1)")
    width: int = roles.science(256, "[1, inf)")
    rates: list[int] = roles.science(lambda: [6, 12, 18], "[1, inf)")

    def __post_init__(self) -> None:
        roles.check_ranges(self, "head.")
        if not self.rates:
            raise UserError("head.rates is empty: give one dilation or more")


class Segment(nn.Module):
    """A segmentation network: sRGB in, a score per class and pixel out.

    Scores are interpolated between the places of the coarser map by a fixed bilinear rule, see
    ``alignment.read_between``. The scores of finer stages start at 0, as published.

    Args:
        features: the backbone, as it was pretrained or adapted.
        classes: the number of classes, with background.
        head: the settings of the head.

    Raises:
        UserError: the head needs finer stages than the backbone has.
    """

    def __init__(self, features: FeatureNetwork, classes: int = 21, head: SegmentHeadSettings | None = None) -> None:
        super().__init__()
        head = head or SegmentHeadSettings()
        self.features, self.classes = features, classes
        last, finer = features.stages[-1], skips(features.stages, head.kind)
        known = grids(features)
        self.grids = {stage.name: known[stage.name] for stage in (last, *finer)}
        """The grids of the stages that are used, the last stage first."""
        self.head = nn.ModuleDict()
        if head.kind == "deeplab":
            from torchvision.models.segmentation.deeplabv3 import ASPP  # not at the top: the import takes seconds

            self.head[last.name] = nn.Sequential(
                ASPP(last.channels, head.rates, head.width),
                nn.Conv2d(head.width, head.width, 3, padding=1, bias=False),
                nn.BatchNorm2d(head.width),
                nn.ReLU(),
                Float32(_score(head.width, classes, std=0.01)),
            )
        else:
            self.head[last.name] = nn.Sequential(
                nn.Dropout(head.dropout), Float32(_score(last.channels, classes, std=0.01))
            )
        for stage in finer:
            self.head[stage.name] = Float32(_score(stage.channels, classes, std=0))

    def forward(self, rgb: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return logits, (B, classes, H, W), float32, of images (B, 3, h, w), uint8 or float in [0, 1].

        ``size`` is (H, W), the size of the masks to predict; by default that of the images.
        """
        maps = self.features(rgb)
        (name, grid), *skips = self.grids.items()
        logits = self.head[name](maps[name])
        for name, finer in skips:
            score = self.head[name](maps[name])
            rows, columns = (finer.first + finer.stride * _count(side, score) for side in score.shape[2:])
            logits, grid = read_between(logits, grid, rows, columns) + score, finer
        rows, columns = (
            (_count(target, logits) + 0.5) * (side / target) - 0.5
            for side, target in zip(rgb.shape[2:], size or rgb.shape[2:], strict=True)
        )
        return read_between(logits, grid, rows, columns)

    def loss(self, rgb: Tensor, mask: Tensor) -> Tensor:
        """Return the mean cross-entropy of the pixels that count, in nats: a scalar, 0 if none does.

        Args:
            rgb: (B, 3, H, W), uint8.
            mask: (B, H, W), uint8 or int64: classes, and 255 for pixels that do not count.
        """
        target = mask.long()
        losses = F.cross_entropy(self(rgb), target, ignore_index=IGNORED, reduction="sum")
        return losses / (target != IGNORED).sum().clamp(min=1)


def skips(stages: tuple[Stage, ...], kind: str) -> list[Stage]:
    """Return the stages, except the last, whose scores a head adds: the last of each stride, coarse before fine.

    Raises:
        UserError: the backbone has no stage of the stride in the head's name.
    """
    wanted = {"fcn16": [16], "fcn8": [16, 8]}.get(kind, [])
    finer = {stage.stride: stage for stage in stages if stage.stride < stages[-1].stride}
    if wanted and wanted[-1] not in finer:
        has = ", ".join(map(str, finer)) or "none"
        raise UserError(
            f"head.kind is {kind}: the backbone has no stage of stride {wanted[-1]} below that of its last stage, "
            f"{stages[-1].stride} (it has: {has}); take {'fcn32' if kind == 'fcn8' else 'fcn32, fcn8'} or deeplab"
        )
    return [finer[stride] for stride in wanted if stride in finer]


def _score(channels: int, classes: int, std: float) -> nn.Conv2d:
    """Return a layer of scores for each class at each place: weights from N(0, std^2), no bias yet."""
    score = nn.Conv2d(channels, classes, 1)
    assert score.bias is not None
    nn.init.normal_(score.weight, std=std)
    nn.init.zeros_(score.bias)
    return score


def _count(number: int, like: Tensor) -> Tensor:
    return torch.arange(number, dtype=torch.float32, device=like.device)


GRAY = 128
"""The value of every channel where a crop reaches beyond its image."""


@dataclass
class SegmentationCrops:
    """The settings of training crops: squares of scaled images.

    Args:
        size: side of the crop, pixels. Where it reaches beyond the image it is gray and does not count.
        shorter: length of the image's shorter side at scale 1, pixels; 0 keeps the image's size.
        scale: smallest and largest scale; one is drawn.
        flip: probability of mirroring left and right.
    """

    size: int = roles.science(480, "[1, 4096]")
    shorter: int = roles.science(0, "[0, 4096]")
    scale: tuple[float, float] = roles.science((0.5, 2.0), "[0.015625, 64]")
    flip: float = roles.science(0.5, "[0, 1]")

    def __post_init__(self) -> None:
        roles.check_ranges(self, "crops.")
        if self.scale[0] > self.scale[1]:
            raise UserError(f"crops.scale is {list(self.scale)}: give the smallest scale first")


class SegmentationExamples(AugmentedDataset):
    """Crops, and as labels the same crops of their masks: uint8 (size, size), 255 where nothing counts.

    Args:
        parts: ``MaskDataset`` images.
        crops: how crops are drawn.
        seed: as ``AugmentedDataset``.
    """

    draws = 4

    def __init__(self, parts: Sequence[ImageDataset], crops: SegmentationCrops, seed: int) -> None:
        super().__init__(parts, seed)
        self.crops = crops

    def make(self, part: int, index: int, uniform: np.ndarray) -> tuple[Tensor, Any]:
        """See ``AugmentedDataset.make``; a damaged mask, or one of another image, counts as a damaged image."""
        source = self.parts[part]
        image, mask = source.read(index), Image.fromarray(mask_of(source, index))
        assert mask.size == image.size, source.key(index)
        rgb, mask = crop_with_mask(image, mask, self.crops, uniform)
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1), torch.from_numpy(np.array(mask))


def crop_with_mask(
    image: Image.Image, mask: Image.Image, crops: SegmentationCrops, uniform: np.ndarray
) -> tuple[Image.Image, Image.Image]:
    """Return the crop of an image and of its mask that four uniform numbers draw: scale, left, top, mirror.

    The result is as if both were scaled whole, the mask to its nearest pixels, and then cut. A smaller image is padded
    at the right and below.
    """
    low, high = crops.scale
    factor = low + (high - low) * uniform[0]
    if crops.shorter:
        factor *= crops.shorter / min(image.size)
    scaled = [max(1, round(length * factor)) for length in image.size]
    shown = [min(length, crops.size) for length in scaled]
    start = [int((length - part + 1) * at) for length, part, at in zip(scaled, shown, uniform[1:3], strict=True)]
    x, y = (side / length for side, length in zip(image.size, scaled, strict=True))
    box = (
        start[0] * x,
        start[1] * y,
        min((start[0] + shown[0]) * x, image.width),
        min((start[1] + shown[1]) * y, image.height),
    )
    rgb = image.resize((shown[0], shown[1]), Image.Resampling.BILINEAR, box=box)
    # Not resize: if the middle of a pixel falls between two pixels, its result depends on rounding.
    columns, rows = (
        (2 * np.arange(first, first + part) + 1) * side // (2 * length)
        for first, part, side, length in zip(start, shown, image.size, scaled, strict=True)
    )
    classes = Image.fromarray(np.asarray(mask)[np.ix_(rows, columns)])
    if uniform[3] < crops.flip:
        rgb, classes = (layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for layer in (rgb, classes))
    square = (crops.size, crops.size)
    padded, mask = Image.new("RGB", square, (GRAY,) * 3), Image.new("L", square, UNCOUNTED)
    padded.paste(rgb)
    mask.paste(classes)
    return padded, mask


class SegmentationViews(EvalDataset):
    """Every image of a source, scaled for the test of a network.

    A label is a dict: ``index`` int64, of the image in the source; ``size`` int64 (2,), height and width before it
    is padded to those of a batch; ``shape`` int64 (2,), height and width of the image itself; ``mask`` uint8 (H, W).

    Args:
        source: ``MaskDataset`` images.
        shorter: as ``segmentation_view``.
        masks: whether the source has masks.
    """

    def __init__(self, source: ImageDataset, shorter: int = 0, masks: bool = True) -> None:
        super().__init__(source, max(1, shorter))
        self.shorter, self.masks = shorter, masks

    def __getitem__(self, index: int) -> Sample:
        try:
            image = self.source.read(index)
            rgb = segmentation_view(image, self.shorter)
            label = {
                "index": torch.tensor(index),
                "size": torch.tensor(rgb.shape[1:]),
                "shape": torch.tensor([image.height, image.width]),
            }
            if self.masks:
                label["mask"] = torch.from_numpy(mask_of(self.source, index))
        except ImageError as error:
            return Sample(None, [(error.key, error.reason)])
        return Sample(rgb, [], label)


def segmentation_view(image: Image.Image, shorter: int = 0) -> Tensor:
    """Return an image scaled to a shorter side of ``shorter`` pixels, or as it is for 0: uint8 (3, H, W)."""
    return scale_image(image, shorter / min(image.size) if shorter else 1.0)


@dataclass
class SegmentSettings(FinetuneSettings):
    """The settings of fine-tuning for segmentation.

    Args:
        size: shorter side, in pixels, to which a test image is scaled for the network; 0 keeps the image's size.
        sbd: a folder with SBD's masks, which join the training images (never those of VOC's val list).
        crops: how training images are scaled and cropped.
        head: the head on the backbone.
    """

    size: int = roles.science(0)
    sbd: str = roles.content("")
    crops: SegmentationCrops = field(default_factory=SegmentationCrops)
    head: SegmentHeadSettings = field(default_factory=SegmentHeadSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head.kind == "deeplab" and 1 in (self.training.micro_batch, self.training.batch_size):
            raise UserError("head.kind deeplab normalizes over a batch: a batch needs at least 2 images")


class PredictedMask(NamedTuple):
    """The predicted mask of an image, and its confusion with the truth."""

    packed: bytes
    """The mask, compressed, because those of all test images are in memory together."""
    shape: tuple[int, ...]
    confusion: NDArray[np.int64]

    @property
    def mask(self) -> NDArray[np.uint8]:
        """(H, W), the class of every pixel."""
        return np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(self.shape)


class SegmentationTask(Task):
    """The task of segmentation."""

    name: ClassVar[str] = "segment"
    metric: MetricName = "mIoU"
    train: MaskDataset
    test: MaskDataset

    def __init__(self, settings: SegmentSettings) -> None:
        self.settings = settings
        self.train, self.test = open_masked(settings.train, settings.sbd), open_masked(settings.test)
        require_same_classes(settings.train, self.train.classes, settings.test, self.test.classes)
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

    def network(self, features: FeatureNetwork) -> nn.Module:
        return Segment(features, len(self.classes), self.settings.head)

    def used(self, features: FeatureNetwork) -> list[str]:
        return [stage.name for stage in (*skips(features.stages, self.settings.head.kind), features.stages[-1])]

    def examples(self, part: ImageDataset, cache_bytes: int) -> AugmentedDataset:
        return SegmentationExamples([part], self.settings.crops, self.settings.seed)

    def views(self, source: ImageDataset) -> EvalDataset:
        return SegmentationViews(source, self.settings.size)

    def predict(self, network: nn.Module, batch: Batch, rgb: Tensor) -> list[Any]:
        assert isinstance(network, Segment)
        predictions = []
        for predicted, label in zip(self.apply(network, batch, rgb), batch.labels, strict=True):
            counts = confusion(label["mask"].numpy(), predicted, len(self.classes))
            predictions.append(PredictedMask(zlib.compress(predicted.tobytes(), 1), predicted.shape, counts))
        return predictions

    def apply(self, network: nn.Module, batch: Batch, rgb: Tensor) -> list[Any]:
        """Return the mask of each image: (H, W), uint8."""
        masks = []
        for image, label in zip(rgb, batch.labels, strict=True):  # one by one: their sizes differ
            height, width = label["size"].tolist()
            logits = network(image[None, :, :height, :width], tuple(label["shape"].tolist()))
            if not bool(logits.isfinite().all()):
                raise divergence_error(self.name)
            masks.append(logits[0].argmax(0).to(torch.uint8).cpu().numpy())
        return masks

    def plain_views(self, source: ImageDataset) -> EvalDataset:
        return SegmentationViews(source, self.settings.size, masks=False)

    def drawn_prediction(self, image: Image.Image, result: Any, least: float | None = None) -> Image.Image:
        return visualize.draw_mask(image, result, self.classes)

    def plain(self, result: Any, least: float) -> dict[str, Any]:
        """Return the share of the pixels that each class has."""
        return {"shares": (np.bincount(result.ravel(), minlength=len(self.classes)) / result.size).round(6).tolist()}

    def table(self, records: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
        """Return the share of each class in each image."""
        rows = [[record["image"], *record["shares"]] for record in records if "shares" in record]
        return ["image", *self.classes], rows

    def outcomes(self, source: ImageDataset, results: Mapping[int, Any]) -> list[tuple[str, Metric]]:
        confusions = [results[index].confusion for index in sorted(results)]
        return [("", segmentation_outcome(confusions))] if any(counts.any() for counts in confusions) else []

    def drawn(self, source: ImageDataset, index: int, result: Any) -> tuple[Image.Image, Image.Image]:
        image, truth = source.read(index), mask_of(source, index)
        return (visualize.draw_mask(image, truth, self.classes), visualize.draw_mask(image, result.mask, self.classes))
