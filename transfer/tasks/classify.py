"""Classification as a task: which of some classes an image shows, one or several."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image
from scipy.special import expit, softmax
from torch import Tensor, nn

from pretext.data.batches import Batch, CropSettings, Examples, Samples, Views
from pretext.data.source import Source
from pretext.errors import UserError
from transfer.metrics import Answers, Outcome, Ranked
from transfer.targets import Targets, open_targets
from transfer.tasks import draw
from transfer.tasks.alignment import Features, stage_of
from transfer.tasks.classification import Classify, ClassifyHeadSettings
from transfer.tasks.classification_examples import CenterViews, JitteredExamples, JitteredViews, JitterSettings
from transfer.tasks.task import FinetuneSettings, Task, diverged
from transfer.voc.images import whole

_NAMED = 3  # classes that are named on a drawn image, at most


@dataclass
class ClassifySettings(FinetuneSettings):
    """A fine-tuning of classification: on what, from where, how.

    Args:
        classes: of images with several labels, such as VOC's: those that are learned, if not all.
        way: how training images are cropped: resized, as group crop says; or jittered, as group jitter says and
            Kraehenbuehl et al. 2016 did. The crops' size is that of setting size.
        crop: of way resized.
        jitter: of way jittered.
        test_crops: 1 looks at the middle square of a test image; more, of way jittered, at so many random crops,
            whose logits are averaged.
        head: what is put on the backbone.
    """

    classes: list[str] = field(default_factory=list)
    way: Literal["resized", "jittered"] = "resized"
    crop: CropSettings = field(default_factory=CropSettings)
    jitter: JitterSettings = field(default_factory=JitterSettings)
    test_crops: int = 1
    head: ClassifyHeadSettings = field(default_factory=ClassifyHeadSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.size:
            raise UserError("size is 0: images that are classified together have one size; name it")
        if not 1 <= self.test_crops <= 1000 or (self.test_crops > 1 and self.way != "jittered"):
            raise UserError(f"test_crops is {self.test_crops}: from 1 to 1000, above 1 for way jittered")
        for name, given, usual in (
            ("crop", self.crop.size, CropSettings()),
            ("jitter", self.jitter.size, JitterSettings()),
        ):
            if given not in (usual.size, self.size):
                raise UserError(
                    f"{name}.size is {given}, but crops are as large as size, {self.size}; leave {name}.size out"
                )
        self.crop = replace(self.crop, size=self.size)
        self.jitter = replace(self.jitter, size=self.size)


class Classification(Task):
    """See the module."""

    name: ClassVar[str] = "classify"

    def __init__(self, settings: ClassifySettings) -> None:
        targets = open_targets(settings.train, settings.test, settings.classes, every_class=False)
        self.settings, self.multilabel = settings, targets.multilabel
        self.train, self.test = targets.train, targets.test
        self.classes = targets.classes
        self.problems = _lacking(targets) if targets.multilabel else []
        self.train_digest, self.test_digest = targets.train_digest, targets.test_digest
        self.n_shared = targets.n_shared
        self.metric = "mAP" if targets.multilabel else "top-1"
        looked = "the middle square" if settings.test_crops == 1 else f"{settings.test_crops} random crops"
        self.about = (
            f"classification by a network trained on the labels, {settings.training.steps:,} steps of "
            f"{settings.training.batch_size}; a test image is judged by {looked}"
        )

    @property
    def head(self) -> str:
        return self.settings.head.kind

    def network(self, features: Features) -> nn.Module:
        return Classify(features, len(self.classes), self.settings.head)

    def used(self, features: Features) -> list[str]:
        return [stage_of(features, self.settings.head.stage).name]

    def examples(self, part: Source, cache_bytes: int) -> Examples:
        settings = self.settings
        if settings.way == "jittered":
            return JitteredExamples([part], settings.jitter, settings.seed)
        return Samples([part], settings.crop, settings.seed, cache_bytes=cache_bytes, labeled=True)

    def views(self, source: Source) -> Views:
        settings = self.settings
        if settings.test_crops > 1:
            return JitteredViews(source, settings.jitter, settings.test_crops, settings.seed)
        return CenterViews(source, settings.size)

    def predict(self, network: nn.Module, batch: Batch, rgb: Tensor) -> list[Any]:
        logits = network(rgb.flatten(0, -4)).float()
        if not bool(logits.isfinite().all()):
            raise diverged(self.name)
        return list(logits.view(len(rgb), -1, logits.shape[-1]).mean(1).cpu().numpy())

    def outcomes(self, source: Source, found: Mapping[int, Any]) -> list[tuple[str, Outcome]]:
        scores = np.stack([found[index] for index in sorted(found)]).astype(np.float32)
        truth = np.stack([self._truth(source, index) for index in sorted(found)])
        if self.multilabel:
            return [("", Ranked(scores, truth.astype(np.int8)))] if (truth == 1).any() else []
        return [("", Answers(scores.argmax(1) == truth))]

    def drawn(self, source: Source, index: int, found: Any) -> tuple[Image.Image, Image.Image]:
        image, truth = source.read(index), self._truth(source, index)
        shown = np.flatnonzero(truth == 1).tolist() if self.multilabel else [int(truth)]
        chances = expit(found) if self.multilabel else softmax(found)
        likely = np.argsort(-chances)[:_NAMED].tolist()
        said = [one for one in likely if chances[one] >= 0.5 * chances[likely[0]]]
        return (
            draw.named(image, [(self.classes[one], True) for one in shown]),
            draw.named(image, [(f"{self.classes[one]} {chances[one]:.0%}", one in shown) for one in said]),
        )

    def _truth(self, source: Source, index: int) -> Any:
        labeled, own = whole(source, index)
        return labeled.labels[own]  # type: ignore[attr-defined]


def _lacking(targets: Targets) -> list[tuple[str, str]]:
    """Classes that nothing can be learned or said of, as problems of the images.

    Raises:
        UserError: there is no other.
    """
    found = []
    for number, name in enumerate(targets.classes):
        learned, asked = ((source.labels[:, number] == 1).any() for source in (targets.train, targets.test))
        if not asked:
            found.append((name, "no test image shows it: it is left out of the mean"))
        elif not learned:
            found.append((name, "no training image shows it, but a test image does"))
    if len([one for one in found if "left out" in one[1]]) == len(targets.classes):
        raise UserError("test: no image shows any of the classes; name another part")
    return found
