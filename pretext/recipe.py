"""A recipe: all settings of a pretraining, and the images and the network that they describe."""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pretext import roles
from pretext.backbones import build_backbone
from pretext.backbones.contract import BackboneSettings
from pretext.data import open_dataset, open_labeled
from pretext.data.batches import Batch, CropSettings, EvalDataset, Sample, Subset, TrainDataset, collate
from pretext.data.channels import declared_channels
from pretext.data.source import DataSettings, ImageDataset, LabeledDataset, check_labels, compose_classes, fingerprint
from pretext.engine import distributed
from pretext.engine.device import ComputeConfig
from pretext.engine.run import run_settings
from pretext.engine.trainer import MachineSettings, TrainingSettings
from pretext.errors import UserError
from pretext.methods import MethodSettings, build_method
from pretext.methods.augment import AugmentSettings
from pretext.methods.colorization import Colorizer
from pretext.methods.contract import Ingredients, Method
from pretext.methods.hints import HintSettings
from pretext.methods.objectives import ObjectiveSettings
from pretext.online import OnlineSettings
from pretext.scale import SRGB, ChannelScale, ScaleSettings
from pretext.settings import settings_from

N = TypeVar("N", bound=nn.Module)


@dataclass
class PretrainSettings:
    """All settings of a pretraining. Those of the groups machine and online may change when a run is resumed.

    Args:
        data: where the images come from.
        crop: how an image becomes a training crop.
        backbone: the network that learns.
        method: what it is trained for.
        augment: how views differ, for methods that compare views.
        objective: how colors are learned, for methods that learn them.
        scale: the values that named channels are scaled to.
        hints: colors that the network gets as additional input during training.
        training: optimizer, schedule and batch size.
        machine: settings that may change when a run is resumed.
        online: a quick evaluation of the features during training; it may change too.
        seed: random seed of the initial weights, the order of images and their augmentation.
    """

    data: DataSettings = field(default_factory=DataSettings)
    crop: CropSettings = field(default_factory=CropSettings)
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    method: MethodSettings = field(default_factory=MethodSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    scale: ScaleSettings = field(default_factory=ScaleSettings)
    hints: HintSettings = field(default_factory=HintSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    online: OnlineSettings = field(default_factory=OnlineSettings)
    seed: int = roles.seed()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}: it must lie in [0, 2^63)")
        if self.objective.stride > self.crop.size:
            raise UserError(
                f"objective.stride is {self.objective.stride}: it must not exceed crop.size, {self.crop.size}"
            )
        method = self.method.kind
        if method.colored and self.channels not in ((), SRGB):
            raise UserError(
                f"method {self.method.name} learns colors, but data.source has channels {', '.join(self.channels)}; "
                "set method.name cross_channel"
            )
        if not isinstance(self.backbone.inputs, list) and (scaled := roles.changed(self.scale)):
            raise UserError(
                f"scale.{next(iter(scaled))} has no effect: backbone.inputs is {self.backbone.inputs}; leave it out, "
                "or name channels as backbone.inputs"
            )
        colors = self.method.name == "colorization"
        if not colors and (self.hints.sampled or self.objective.classes_weight):
            name = "hints.sampled" if self.hints.sampled else "objective.classes_weight"
            raise UserError(f"{name} is for method colorization; method.name is {self.method.name}: change one")
        if method.whole_batch and self.training.micro_batch:
            raise UserError(
                f"training.micro_batch is {self.training.micro_batch}: method {self.method.name} compares all images "
                "of a batch with each other; leave it 0, and lower training.batch_size if memory is short"
            )
        if method.whole_batch and self.training.batch_size < 2:
            raise UserError(f"training.batch_size is 1: method {self.method.name} compares images; give at least 2")
        for name in ("gray", "blur", "solarize"):
            if (count := len(getattr(self.augment, name))) not in (1, method.views):
                raise UserError(
                    f"augment.{name} has {count} numbers: give one for all views, or one for each of the "
                    f"{method.views} of method {self.method.name}"
                )
        if self.hints.sampled and self.objective.classes_weight:
            raise UserError(
                "hints.sampled and objective.classes_weight: no backbone takes hints and predicts classes; set one"
            )

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels of the images; () for 8-bit sRGB."""
        sources = [self.data.source] if isinstance(self.data.source, str) else list(self.data.source)
        channels = [declared_channels(source) for source in sources]
        if len(set(channels)) > 1:
            raise UserError(f"data.source: {sources[0]} and others have different channels; give all of them the same")
        return channels[0]

    @property
    def colorizes(self) -> bool:
        """Whether the network can color images afterwards."""
        return issubclass(self.method.kind, Colorizer)

    @property
    def labeled(self) -> bool:
        """Whether labels are learned, alone or besides colors."""
        return self.method.kind.labeled or self.objective.classes_weight > 0

    @property
    def view_size(self) -> int:
        """The side at which an image shows objects as large as the training crops do on average.

        The paper trains on crops of 176 from images of 256, and evaluates images of 256.
        """
        return round(self.crop.size / math.sqrt(sum(self.crop.area) / 2))


def build_network(
    settings: PretrainSettings, prior: Tensor | None, classes: Sequence[str] = (), published: bool = False
) -> Method:
    """Build the network of a recipe, with random initial weights that depend only on the recipe's seed.

    The backbone's first weights are the same for every method.

    Args:
        settings: the recipe.
        prior: (Q,), for a method that learns colors.
        classes: names of the classes, for a recipe that learns labels, alone or together with colors.
        published: load the backbone's weights from the file ``settings.backbone.weights``, if it is set.

    Raises:
        UserError: the backbone does not exist, does not accept its arguments, its weights or the method; or the method
            does not accept its arguments.
    """
    file: dict[str, Any] = {"weights": settings.backbone.weights} if published and settings.backbone.weights else {}
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        backbone = build_backbone(settings.backbone.name, **settings.backbone.built_with, **file)
        backbone.set_source(settings.channels, "data.source")
        parts = Ingredients(
            backbone,
            settings.seed,
            settings.objective,
            settings.hints,
            settings.augment,
            prior,
            classes,
            settings.channels,
        )
        network = build_method(settings.method, parts)
    for module in network.modules():
        if isinstance(module, ChannelScale):
            module.log.fill_(settings.scale.log)
    return network


def build_colorizer(settings: PretrainSettings, prior: Tensor) -> Colorizer:
    """Build the network of a recipe that colorizes; see ``build_network``."""
    network = build_network(settings, prior)
    assert isinstance(network, Colorizer)
    return network


@dataclass
class RecipeImages:
    """The images of a recipe: the training images, and those held out for validation."""

    name: str
    """The name that the user wrote."""
    training: list[ImageDataset]
    weights: list[float]
    """The share of each source, as the user wrote it."""
    held: list[ImageDataset]
    """Some images of each source that are not trained on; none of a small source."""
    contents: dict[str, Any]
    """The number of images, and digests of names, labels and some pixels: a run resumes only with equal values."""
    classes: list[str] = field(default_factory=list)
    """Names of the classes, by label; empty if no labels are learned."""

    def samples(self, settings: PretrainSettings, workers: int | None = None) -> TrainDataset:
        """Return the training crops of a run. Workers share machine.cache; without ``workers`` there is no cache."""
        shared_by = max(1, workers or 0) * distributed.local_world_size()
        room = 0 if workers is None else settings.machine.cache * 2**20 // shared_by
        labeled, views = bool(self.classes), settings.method.kind.views
        return TrainDataset(self.training, settings.crop, settings.seed, self.weights, room, labeled, views)


def resolve_source(run: Path, settings: PretrainSettings) -> PretrainSettings:
    """Return the settings with a data.source: the one that is set, else the one that the run began with.

    Raises:
        UserError: there is neither.
    """
    if not settings.data.source and (run / "settings.yaml").is_file():
        data = settings_from(DataSettings, run_settings(run, {"data.source": (str, dict)})["data"], str(run))
        settings = replace(settings, data=replace(settings.data, source=data.source))
    require_source(settings)
    return settings


def require_source(settings: PretrainSettings) -> None:
    """Check that a data.source is set.

    Raises:
        UserError: data.source is empty.
    """
    if not settings.data.source:
        raise UserError(
            "data.source is not set: give the training images with --data.source FOLDER; "
            "--data.source bundled trains on the bundled tiles"
        )


def open_images(settings: PretrainSettings) -> RecipeImages:
    """Open every source of a recipe.

    Raises:
        UserError: there is no source, one cannot be opened, or two are the same (held-out images of one would be
            training images of the other). Or the recipe learns labels, and there are none, or the classes differ.
    """
    require_source(settings)
    source_names = settings.data.source
    weights = dict(source_names) if isinstance(source_names, Mapping) else {source_names: 1.0}
    sources: list[ImageDataset] = []
    classes: list[str] = []
    labels: dict[str, str] = {}
    if settings.labeled:
        labeled = {name: open_labeled(name) for name in weights}
        classes = _shared_classes(labeled)
        digest = hashlib.sha256()
        for labeled_source in labeled.values():
            digest.update("\n".join(labeled_source.classes).encode() + labeled_source.labels.astype("<i8").tobytes())
        labels = {"labels": digest.hexdigest()}
        sources += labeled.values()
    else:
        sources += map(open_dataset, weights)
    digests = [source.digest() for source in sources]
    opened: dict[tuple[str, str], str] = {}
    for name, content in zip(weights, digests, strict=True):
        # 0001.jpg is in many folders: if the names are the same, the path distinguishes two sources.
        path = os.path.realpath(Path(name).expanduser()) if Path(name).exists() else name.removesuffix(":train")
        other = opened.setdefault((path, content), name)
        if other != name:
            raise UserError(f"data.source: {other} and {name} are the same images; give only one of them")
    count = sum(map(len, sources))
    wanted = min(settings.data.holdout, count // 10)
    total = sum(weights.values())
    training: list[ImageDataset] = []
    held: list[ImageDataset] = []
    for source, weight in zip(sources, weights.values(), strict=True):
        aside = min(round(wanted * weight / total), len(source) // 10)
        training.append(Subset(source, range(aside, len(source)), settings.seed))
        if aside:
            held.append(Subset(source, range(aside), settings.seed))
    names = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    pixels = hashlib.sha256("\n".join(map(fingerprint, sources)).encode()).hexdigest()
    # "seen" is a digest of some pixels. Which images a run has trained on is stored nowhere: it follows from the step.
    contents = {"images": count, "names": names, "seen": pixels, **labels}
    return RecipeImages(" + ".join(weights), training, list(weights.values()), held, contents, classes)


def _shared_classes(sources: Mapping[str, LabeledDataset]) -> list[str]:
    """Return the classes of all sources; they must be the same in each."""
    (first, classes), *others = ((name, compose_classes(name, source.classes)) for name, source in sources.items())
    labels: set[int] = set()
    for name, source in sources.items():
        if source.labels.ndim != 1:
            raise UserError(f"{name}: an image may have several labels; training needs one label per image")
        labels |= set(check_labels(name, source.labels, source.classes).tolist())
    for name, other_classes in others:
        if other_classes != classes:
            different = sorted(set(other_classes) ^ set(classes)) or ["the same in another order"]
            raise UserError(
                f"data.source: {first} and {name} hold different classes ({', '.join(different[:5])}); all sources "
                "of a mixture must have the same classes"
            )
    if len(labels) < 2:
        only = ", ".join(classes[label] for label in labels)
        raise UserError(f"{' + '.join(sources)}: one class only ({only}); a classifier needs two")
    return list(classes)


def on_place(network: N, settings: PretrainSettings, place: ComputeConfig) -> N:
    """Return the network on the device of ``place``, in the memory format of the settings."""
    layout = torch.channels_last if settings.machine.channels_last else torch.contiguous_format
    return network.to(place.device).to(memory_format=layout)


def first_crops(images: RecipeImages, settings: PretrainSettings, count: int) -> Iterator[Tensor]:
    """Yield the first crops of the training, uint8 (3, size, size), at most one for each image.

    Raises:
        UserError: no image can be read.
    """
    samples = TrainDataset(images.training, settings.crop, settings.seed, images.weights)
    for t in range(min(count, sum(map(len, images.training)))):
        sample = samples[t]
        if sample.rgb is None:
            reason = ": ".join(sample.skipped[0])
            raise UserError(f"{images.name}: no image of {len(sample.skipped)} in a row can be read; {reason}")
        yield sample.rgb


def load_held_out(images: RecipeImages, count: int, size: int) -> Batch:
    """Return at most ``count`` images for validation, uint8 (N, 3, size, size), and those that cannot be read.

    These are the held-out images or, if none of those can be read, training images.

    Raises:
        UserError: no training image can be read either.
    """
    views = _views(images, images.held, count, size)
    if all(view.rgb is None for view in views):
        images.held.clear()
        views += _views(images, images.training, -(-max(1, count) // len(images.training)), size)
    batch = collate(views)
    if not len(batch.rgb):
        bad = batch.skipped
        raise UserError(f"{images.name}: none of {len(bad)} images can be read; the first: {': '.join(bad[0])}")
    return batch


def _views(images: RecipeImages, sources: list[ImageDataset], each: int, size: int) -> list[Sample]:
    samples = []
    for source in sources:
        dataset = EvalDataset(source, size, labeled=bool(images.classes))
        samples += [dataset[index] for index in range(min(len(source), each))]
    return samples
