"""Classification as a task: which of some classes a picture shows, one or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from scipy.special import expit, softmax
from torch import Tensor, nn
from torch.utils.data import Dataset

from pretext.errors import PictureError, UserError
from pretext.pictures.batches import Batch, CropSettings, Examples, Sample, Samples, centre_crop, random_crop
from pretext.pictures.order import uniforms
from pretext.pictures.source import Source
from transfer.intervals import Metric
from transfer.outcomes import Answers, Outcome, Ranked
from transfer.targets import Targets, open_targets
from transfer.tasks import drawing
from transfer.tasks.classification import Classify, ClassifyHeadSettings
from transfer.tasks.classification_examples import ScaledCrops, scaled_crop
from transfer.tasks.task import FinetuneSettings, Task, unreadable
from transfer.voc.pictures import whole

_NAMED = 3  # classes that are named on a drawn picture, at most


@dataclass
class ClassifySettings(FinetuneSettings):
    """A fine-tuning of classification: on what, from where, how.

    Args:
        classes: of pictures with several labels, such as VOC's: those that are learnt, if not all.
        way: how training pictures are cropped: resized, as group crop says; or scaled, windows of size pixels of
            the picture scaled by 0.5 to 2, as Kraehenbuehl et al. 2016 do.
        crop: of way resized; its size is taken from size.
        test_crops: 1 looks at the middle square of a test picture; more at so many random crops, drawn as way
            says, whose logits are averaged.
        head: what is put on the backbone.
    """

    classes: list[str] = field(default_factory=list)
    way: Literal["resized", "scaled"] = "resized"
    crop: CropSettings = field(default_factory=CropSettings)
    test_crops: int = 1
    head: ClassifyHeadSettings = field(default_factory=ClassifyHeadSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.test_crops <= 1000:
            raise UserError(f"test_crops is {self.test_crops}: it must lie in [1, 1000]")
        self.crop.size = self.size


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
        self.metric: Metric = "mAP" if targets.multilabel else "top-1"  # type: ignore[misc]
        looked = "the middle square" if settings.test_crops == 1 else f"{settings.test_crops} random crops"
        self.about = (  # type: ignore[misc]
            f"classification by a network trained on the labels, {settings.training.steps:,} steps of "
            f"{settings.training.batch_size}; a test picture is judged by {looked}"
        )

    @property
    def head(self) -> str:
        return self.settings.head.kind

    def network(self, features: nn.Module) -> nn.Module:
        return Classify(features, len(self.classes), self.settings.head)

    def examples(self, part: Source, cache_bytes: int) -> Examples:
        settings = self.settings
        if settings.way == "scaled":
            return ScaledCrops([part], settings.size, settings.seed, flip=settings.crop.flip)
        return Samples([part], settings.crop, settings.seed, cache_bytes=cache_bytes, labelled=True)

    def views(self, source: Source) -> Dataset[Sample]:
        return _Views(self, source)

    def predict(self, network: nn.Module, batch: Batch, rgb: Tensor) -> list[Any]:
        return list(network(rgb).float().cpu().numpy())

    def joined(self, parts: Sequence[Any]) -> Any:
        """The mean of the logits of all crops."""
        return np.mean(parts, axis=0)

    def outcomes(self, source: Source, found: Mapping[int, Any]) -> list[tuple[str, Outcome]]:
        scores = np.stack([found[index] for index in sorted(found)]).astype(np.float32)
        truth = np.stack([self._truth(source, index) for index in sorted(found)])
        if self.multilabel:
            return [("", Ranked(scores, truth.astype(np.int8)))] if (truth == 1).any() else []
        return [("", Answers(scores.argmax(1) == truth))]

    def drawn(self, source: Source, index: int, found: Any) -> tuple[Image.Image, Image.Image]:
        picture, truth = source.read(index), self._truth(source, index)
        shown = np.flatnonzero(truth == 1).tolist() if self.multilabel else [int(truth)]
        chances = expit(found) if self.multilabel else softmax(found)
        likely = np.argsort(-chances)[:_NAMED].tolist()
        said = [one for one in likely if chances[one] >= 0.5 * chances[likely[0]]]
        return (
            drawing.named(picture, [(self.classes[one], True) for one in shown]),
            drawing.named(picture, [(f"{self.classes[one]} {chances[one]:.0%}", one in shown) for one in said]),
        )

    def _truth(self, source: Source, index: int) -> Any:
        labelled, own = whole(source, index)
        return labelled.labels[own]  # type: ignore[attr-defined]


def _lacking(targets: Targets) -> list[tuple[str, str]]:
    """Classes that nothing can be learnt or said of, as problems of the pictures.

    Raises:
        UserError: there is no other.
    """
    found = []
    for number, name in enumerate(targets.classes):
        learnt, asked = ((source.labels[:, number] == 1).any() for source in (targets.train, targets.test))
        if not asked:
            found.append((name, "no test picture shows it: it is left out of the mean"))
        elif not learnt:
            found.append((name, "no training picture shows it, but a test picture does"))
    if len([one for one in found if "left out" in one[1]]) == len(targets.classes):
        raise UserError("test: no picture shows any of the classes; name another part")
    return found


class _Views(Dataset[Sample]):
    """Every picture as often as it is looked at: once, its middle square; or some random crops."""

    def __init__(self, task: Classification, source: Source) -> None:
        self.task, self.source, self.crops = task, source, task.settings.test_crops

    def __len__(self) -> int:
        return self.crops * len(self.source)

    def __getitem__(self, at: int) -> Sample:
        index, settings = at // self.crops, self.task.settings
        try:
            picture = self.source.read(index, settings.size)
        except PictureError as error:
            return unreadable(error)
        if self.crops == 1:
            view = centre_crop(picture, settings.size)
        else:
            drawn = uniforms(settings.seed, at, 5)
            view = (
                scaled_crop(picture, settings.size, drawn)
                if settings.way == "scaled"
                else random_crop(picture, settings.crop, drawn)
            )
        return Sample(torch.from_numpy(view).permute(2, 0, 1), [], {"index": torch.tensor(index)})
