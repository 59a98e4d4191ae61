"""What every task of fine-tuning has in common: its settings, and what it must be able to say."""

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from pretext.data.batches import Batch, Examples, Subset, Views, stream
from pretext.data.fingerprint import seen
from pretext.data.source import Source
from pretext.engine import distributed
from pretext.engine.device import Place, autocast
from pretext.engine.progress import progress
from pretext.engine.settings import MachineSettings, TrainingSettings
from pretext.errors import UserError
from pretext.settings import plain
from transfer.adapt.backbone import BatchNorm
from transfer.bootstrap import Metric
from transfer.metrics import Outcome
from transfer.tasks.alignment import Features

_AT_ONCE = 8  # test images
_PLACES = ("train", "test", "sbd", "proposals", "test_proposals")  # what lies there is told by digests
_NOT_SCIENCE = (*_PLACES, "protocol", "freeze_to", "reference", "seed", "machine", "out")


@dataclass
class FinetuneSettings:
    """A fine-tuning: on what, from where, how.

    Args:
        train: the images that teach; on PASCAL VOC voc:YEAR:PART:FOLDER, such as
            voc:2007:trainval:/data/VOCdevkit, several joined by +.
        test: the images that judge; they are read once, when training is complete.
        protocol: the name that is printed with every number: that of the recipe.
        freeze_to: the stage of the backbone up to which, inclusive, nothing is trained; the last one's trains the
            head alone. Empty trains all.
        batch_norm: of the backbone: train; frozen, its statistics stay as they are; absorbed, folded into the
            convolutions before training begins.
        backbone: arguments of the backbones in place of those that they were trained with, such as
            {geometry: test, dropout: 0.5} for alexnet.
        color: let a backbone that was made for lightness see ab too, by filters that start at zero.
        head_rate: learning rate of the head, as a multiple of training.lr.
        size: shorter side, in pixels, at which the network is shown a test image.
        holdout: training images, at most a tenth of all, that are not trained on; how they are answered is
            journaled now and then. Nothing is chosen by it.
        reference: train beside every run the same network from random weights.
        training: how it is trained.
        machine: what may change between two calls without changing the result.
        seed: of the head's first weights, the order of images and their augmentation, and of random weights
            that are no run's.
        out: folder of all that comes of it; empty: a run's own folder, and runs/finetuned for other networks.
    """

    train: str = ""
    test: str = ""
    protocol: str = "modern"
    freeze_to: str = ""
    batch_norm: BatchNorm = "train"
    backbone: dict[str, Any] = field(default_factory=dict)
    color: bool = False
    head_rate: float = 1.0
    size: int = 224
    holdout: int = 64
    reference: bool = True
    training: TrainingSettings = field(default_factory=TrainingSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    seed: int = 0
    out: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}: it must lie in [0, 2^63)")
        if self.size and not 16 <= self.size <= 4096:
            raise UserError(f"size is {self.size}: a side lies in [16, 4096] pixels")
        if self.holdout < 0 or not 0 < self.head_rate < 1e6:
            raise UserError("holdout must not be negative, and head_rate must be above 0")

    @property
    def science(self) -> dict[str, Any]:
        """What numbers depend on, besides the images, the network, what is frozen, and the seed; plain values."""
        return {one.name: plain(getattr(self, one.name)) for one in fields(self) if one.name not in _NOT_SCIENCE}

    @property
    def places(self) -> dict[str, str]:
        """Where the images, and what is known of them, lie."""
        return {name: getattr(self, name) for name in _PLACES if hasattr(self, name)}

    @property
    def trained(self) -> str:
        """What is trained, as tables call it: "all", or "above conv4"."""
        return f"above {self.freeze_to}" if self.freeze_to else "all"


class Task(ABC):
    """One task: its images with what is known of them, its network, and what a prediction is worth."""

    name: ClassVar[str]
    metric: Metric
    about: str
    """What is learned and how it is judged, in a sentence."""
    classes: list[str]
    train: Source
    test: Source
    train_digest: str
    test_digest: str
    n_shared: int = 0
    """How many test images are also training images: see ``transfer.targets.count_shared``."""
    problems: list[tuple[str, str]]
    """What is wrong with the images or what is said of them, and was mended or left out: key and reason."""

    @abstractmethod
    def network(self, features: Features) -> nn.Module:
        """What is trained: ``features`` (sRGB to stages) and a head, with a ``loss``. Its weights are drawn here."""

    @abstractmethod
    def used(self, features: Features) -> list[str]:
        """The stages of ``features`` that the head reads; nothing else of the backbone is trained."""

    @abstractmethod
    def examples(self, part: Source, cache_bytes: int) -> Examples:
        """The training examples from some of the training images; each worker may keep so many bytes of them."""

    @abstractmethod
    def views(self, source: Source) -> Views:
        """Images as they are looked at, with a label that is a dict and has their "index"."""

    @abstractmethod
    def predict(self, network: nn.Module, batch: Batch, rgb: Tensor) -> list[Any]:
        """Of every image of a batch what the network says; ``rgb`` is the batch's, on the network's device."""

    @abstractmethod
    def outcomes(self, source: Source, found: Mapping[int, Any]) -> list[tuple[str, Outcome]]:
        """What the predictions of images, by index, are worth: a variant's name ("" for the only one) and outcome."""

    @abstractmethod
    def drawn(self, source: Source, index: int, found: Any) -> tuple[Image.Image, Image.Image]:
        """An image with the truth drawn into it, and with what was found."""

    @property
    @abstractmethod
    def head(self) -> str:
        """The head in some words."""


class Exact(nn.Module):
    """A module in float32, also where autocast is on.

    Args:
        inner: takes and gives what it will; it is handed its input in float32.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        """What ``inner`` gives."""
        with torch.autocast(x.device.type, enabled=False):
            return self.inner(x.float())


@torch.inference_mode()
def predictions(
    task: Task, network: nn.Module, source: Source, place: Place, title: str = "", processes: int = 1
) -> tuple[dict[int, Any], list[tuple[str, str]]]:
    """What a network says of every image of a source, by index; and those that cannot be read, key and reason.

    So many processes each look at a share, and all of them know of all.
    """
    network.eval()
    views = task.views(source)
    own = range(distributed.rank() if processes > 1 else 0, len(views), processes)
    found: dict[int, Any] = {}
    skipped: list[tuple[str, str]] = []
    shown = (
        progress(title, len(own), "images")
        if title and distributed.is_first()
        else contextlib.nullcontext(lambda more, remark: None)
    )
    with shown as advance:
        for batch in stream(views, own, _AT_ONCE, place.workers):
            skipped += batch.skipped
            if len(batch.rgb):
                with autocast(place):
                    said = task.predict(network, batch, batch.rgb.to(place.device, non_blocking=True))
                for label, one in zip(batch.labels, said, strict=True):
                    found[int(label["index"])] = one
            advance(len(batch.rgb) + len(batch.missing), "")
    if processes > 1:
        return dict(distributed.gathered(list(found.items()))), distributed.gathered(skipped)
    return found, skipped


def digest_of(source: Source, classes: Sequence[str], truth: bytes) -> str:
    """SHA-256, hex, over the keys of all images, the classes, what is known, and the pixels of some images."""
    facts = json.dumps([source.digest(), list(classes), fingerprint(source)]).encode()
    return hashlib.sha256(facts + b"\n" + truth).hexdigest()


def parts_of(source: Source, holdout: int, seed: int) -> tuple[Subset, Subset]:
    """The images that are trained on, and those that are not: at most ``holdout``, and at most a tenth."""
    aside = min(holdout, len(source) // 10)
    return Subset(source, range(aside, len(source)), seed), Subset(source, range(aside), seed)


def diverged(task: str) -> UserError:
    """The error for a trained network whose answers are no numbers."""
    return UserError(f"{task}: the trained network's answers are not finite; train it again with a lower training.lr")
