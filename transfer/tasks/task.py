"""The common part of all tasks of fine-tuning: settings, the contract of a task, and prediction."""

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pretext import roles
from pretext.data.batches import AugmentedDataset, Batch, EvalDataset, Subset, stream
from pretext.data.source import ImageDataset, fingerprint
from pretext.engine import distributed
from pretext.engine.device import ComputeConfig, autocast
from pretext.engine.progress import progress
from pretext.engine.trainer import MachineSettings, TrainingSettings
from pretext.errors import UserError
from transfer.adapt.backbone import BatchNorm
from transfer.bootstrap import MetricName
from transfer.metrics import Metric
from transfer.tasks.alignment import FeatureNetwork

_AT_ONCE = 8  # test images


@dataclass
class FinetuneSettings:
    """The settings of a fine-tuning.

    Args:
        train: the training images; on PASCAL VOC voc:YEAR:PART:FOLDER, such as
            voc:2007:trainval:/data/VOCdevkit, several joined by +.
        test: the test images; they are read once, when training is complete.
        protocol: the name of the recipe, which is printed with every number.
        freeze_to: the backbone is not trained up to and including this stage; with the last stage only the head is
            trained. Empty trains all.
        batch_norm: the batch norm of the backbone: train; frozen: its statistics do not change; absorbed: it is
            folded into the convolutions before training begins.
        backbone: arguments that replace those with which the backbones were trained, such as
            {geometry: test, dropout: 0.5} for alexnet.
        color: let a backbone for lightness see ab too, by filters that start at zero.
        head_rate: learning rate of the head, as a multiple of training.lr.
        size: shorter side, in pixels, to which a test image is scaled for the network.
        holdout: the number of training images, at most a tenth of all, that are held out; the score on them is logged
            from time to time. It chooses nothing.
        reference: for every run, also train the same network from random weights.
        training: how it is trained.
        machine: settings that may change between two calls without changing the result.
        seed: the seed of the head's first weights, of the order of images and their augmentation, and of random
            networks that do not come from a run.
        out: the folder for all output; empty: the folder of the run, and runs/finetuned for other networks.
    """

    train: str = roles.content("")
    test: str = roles.content("")
    protocol: str = roles.science("modern")
    freeze_to: str = roles.science("")
    batch_norm: BatchNorm = roles.science("train")
    backbone: dict[str, Any] = roles.science(dict)
    color: bool = roles.science(False)
    head_rate: float = roles.science(1.0, "(0, 1e6)")
    size: int = roles.science(224)
    holdout: int = roles.science(64, "[0, inf)")
    reference: bool = roles.machine(True)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    seed: int = roles.seed()
    out: str = roles.machine("")

    def __post_init__(self) -> None:
        roles.check_ranges(self)
        if self.size and not 16 <= self.size <= 4096:
            raise UserError(f"size is {self.size}: it must lie in [16, 4096] pixels")

    @property
    def science(self) -> dict[str, Any]:
        """The settings that change a result, without images, network, frozen stages and seed; plain values."""
        chosen = roles.select(self, "science")
        return {name: value for name, value in chosen.items() if name not in ("protocol", "freeze_to")}

    @property
    def places(self) -> dict[str, str]:
        """The paths of the images and of their annotations, by setting."""
        return roles.select(self, "content")

    @property
    def trained(self) -> str:
        """The name of the trained part in tables: "all", or "above conv4"."""
        return f"above {self.freeze_to}" if self.freeze_to else "all"


class Task(ABC):
    """A task: its annotated images, its network, and the score of predictions."""

    name: ClassVar[str]
    metric: MetricName
    about: str
    """A sentence on what is learned and how it is evaluated."""
    classes: list[str]
    train: ImageDataset
    test: ImageDataset
    train_digest: str
    test_digest: str
    n_shared: int = 0
    """The number of test images that are also training images: see ``transfer.targets.count_shared``."""
    problems: list[tuple[str, str]]
    """Faults of images or annotations that were mended or left out: key and reason."""

    @classmethod
    def without_images(cls, settings: Any, classes: list[str], multilabel: bool) -> Any:
        """Return the task of a trained network: it can build the network and use it, and has no images."""
        task = cls.__new__(cls)
        task.settings, task.classes, task.multilabel = settings, classes, multilabel  # type: ignore[attr-defined]
        return task

    @abstractmethod
    def network(self, features: FeatureNetwork) -> nn.Module:
        """Return the network to train: ``features`` (sRGB to stages) and a head, with a ``loss``. Draws its weights."""

    @abstractmethod
    def used(self, features: FeatureNetwork) -> list[str]:
        """Return the stages of ``features`` that the head reads; nothing else of the backbone is trained."""

    @abstractmethod
    def examples(self, part: ImageDataset, cache_bytes: int) -> AugmentedDataset:
        """Return training examples of some training images; each worker may keep ``cache_bytes`` of them in memory."""

    @abstractmethod
    def views(self, source: ImageDataset) -> EvalDataset:
        """Return images as the trained network sees them; their label is a dict that has their "index"."""

    @abstractmethod
    def predict(self, network: nn.Module, batch: Batch, rgb: Tensor) -> list[Any]:
        """Return the prediction for every image of a batch; ``rgb`` is the batch's, on the network's device."""

    @abstractmethod
    def outcomes(self, source: ImageDataset, results: Mapping[int, Any]) -> list[tuple[str, Metric]]:
        """Return the outcomes of predictions by image index, each with its variant's name: "" for the only one."""

    @abstractmethod
    def drawn(self, source: ImageDataset, index: int, result: Any) -> tuple[Image.Image, Image.Image]:
        """Return an image with its truth drawn into it, and with its prediction."""

    def plain_views(self, source: ImageDataset) -> EvalDataset:
        """Return images without annotations as the trained network sees them, with labels as ``views``."""
        return self.views(source)

    def apply(self, network: nn.Module, batch: Batch, rgb: Tensor) -> list[Any]:
        """Return the prediction for every image of a batch of ``plain_views``; arguments as for ``predict``."""
        return self.predict(network, batch, rgb)

    def drawn_prediction(self, image: Image.Image, result: Any, least: float | None = None) -> Image.Image:
        """Return an image with a prediction of ``apply`` drawn into it: of boxes those of a score of ``least`` or more.

        If that is None, the likeliest ones.
        """
        raise UserError(f"task {self.name} cannot draw predictions; leave out --draw")

    def plain(self, result: Any, least: float) -> dict[str, Any]:
        """Return a prediction of ``apply`` as plain values, without boxes of a score below ``least``."""
        raise UserError(f"task {self.name} has no predictions for files")

    def table(self, records: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
        """Return header and rows of a table of images and what ``plain`` gave; one that cannot be read has no row."""
        raise UserError(f"task {self.name} has no predictions for files")

    @property
    @abstractmethod
    def head(self) -> str:
        """The head, in a few words."""


class Float32(nn.Module):
    """A module that computes in float32, also under autocast: the last layer of a head is too small to gain from bf16.

    Args:
        inner: any module of one input; it gets the input in float32.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        """Return the output of ``inner``."""
        with torch.autocast(x.device.type, enabled=False):
            return self.inner(x.float())


@torch.inference_mode()
def predictions(
    task: Task, network: nn.Module, source: ImageDataset, place: ComputeConfig, title: str = "", processes: int = 1
) -> tuple[dict[int, Any], list[tuple[str, str]]]:
    """Return predictions for every image of a source, by index; and key and reason of those that cannot be read.

    Each of ``processes`` processes predicts a share of the images, and all of them return all predictions.
    """
    network.eval()
    views = task.views(source)
    indices = range(distributed.rank() if processes > 1 else 0, len(views), processes)
    results: dict[int, Any] = {}
    skipped: list[tuple[str, str]] = []
    bar = (
        progress(title, len(indices), "images")
        if title and distributed.is_rank_zero()
        else contextlib.nullcontext(lambda more, remark: None)
    )
    with bar as advance:
        for batch in stream(views, indices, _AT_ONCE, place.workers):
            skipped += batch.skipped
            if len(batch.rgb):
                with autocast(place):
                    outputs = task.predict(network, batch, batch.rgb.to(place.device, non_blocking=True))
                for label, output in zip(batch.labels, outputs, strict=True):
                    results[int(label["index"])] = output
            advance(len(batch.rgb) + len(batch.missing), "")
    if processes > 1:
        return dict(distributed.all_gather_objects(list(results.items()))), distributed.all_gather_objects(skipped)
    return results, skipped


def scale_image(image: Image.Image, factor: float) -> Tensor:
    """Return an RGB image scaled by a factor, bilinear: uint8 (3, H, W)."""
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    scaled = image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1)


def digest_of(source: ImageDataset, classes: Sequence[str], truth: bytes) -> str:
    """Return SHA-256, hex, over the keys of all images, the classes, the annotations, and the pixels of some images."""
    facts = json.dumps([source.digest(), list(classes), fingerprint(source)]).encode()
    return hashlib.sha256(facts + b"\n" + truth).hexdigest()


def split_holdout(source: ImageDataset, holdout: int, seed: int) -> tuple[Subset, Subset]:
    """Split the images into those to train on and the held-out ones: at most ``holdout``, and at most a tenth."""
    count = min(holdout, len(source) // 10)
    return Subset(source, range(count, len(source)), seed), Subset(source, range(count), seed)


def divergence_error(task: str) -> UserError:
    """Return the error for a trained network whose predictions are not finite."""
    return UserError(
        f"{task}: the trained network's predictions are not finite; train it again with a lower training.lr"
    )
