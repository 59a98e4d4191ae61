"""From a recipe to what trains: the images, split and mixed, the prior or the classes, and the network."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pretext.backbones import build_backbone
from pretext.color import rgb_to_ab, rgb_to_lightness
from pretext.data import open_labeled, open_source
from pretext.data.batches import Batch, Sample, Samples, Subset, Views, collate
from pretext.data.labels import checked_labels, compose_classes
from pretext.data.source import DataSettings, LabeledSource, Source, fingerprint
from pretext.engine import distributed
from pretext.engine.device import Place
from pretext.engine.run import run_settings
from pretext.errors import UserError
from pretext.initialization import initialize
from pretext.methods.classifier import Classifier
from pretext.methods.colorizer import Colorizer
from pretext.pretrained import color_contract
from pretext.prior import estimate_prior, load_prior
from pretext.recipe import PretrainSettings, build_network
from pretext.settings import plain, settings_from
from pretext.versions import versions

N = TypeVar("N", bound=nn.Module)

_ENOUGH = 100  # crops, all of them gray, that say that all images are


@dataclass
class Images:
    """The sources of a recipe: what is trained on, and what is only looked at."""

    name: str
    """As the user wrote it."""
    training: list[Source]
    weights: list[float]
    """The share of each, as the user wrote it."""
    held: list[Source]
    """Of each source some images that are not trained on; of few images none."""
    contents: dict[str, Any]
    """How many images, and digests of names, of labels and of a look at some: a run goes on with the same only."""
    classes: list[str] = field(default_factory=list)
    """Names of the classes, by label, where labels are learned, alone or besides colors."""

    def same_as(self, contents: dict[str, Any]) -> bool:
        """Whether a checkpoint is of the same images; older ones do not know what was seen of them."""
        return {key: value for key, value in self.contents.items() if key != "seen" or key in contents} == contents

    def samples(self, settings: PretrainSettings, workers: int | None = None) -> Samples:
        """The training crops of a run. Among so many workers machine.cache is shared out; without, there is none."""
        shared_by = max(1, workers or 0) * distributed.local_world()
        room = 0 if workers is None else settings.machine.cache * 2**20 // shared_by
        return Samples(self.training, settings.crop, settings.seed, self.weights, room, labeled=bool(self.classes))


def fill_source(run: Path, settings: PretrainSettings) -> PretrainSettings:
    """Return the settings with a data.source: their own, else the one that the run in this folder began with.

    Raises:
        UserError: neither names one.
    """
    if not settings.data.source and (run / "settings.yaml").is_file():
        data = settings_from(DataSettings, run_settings(run, {"data.source": (str, dict)})["data"], str(run))
        settings = replace(settings, data=replace(settings.data, source=data.source))
    require_source(settings)
    return settings


def require_source(settings: PretrainSettings) -> None:
    """Refuse settings that do not say what to learn from.

    Raises:
        UserError: data.source is empty.
    """
    if not settings.data.source:
        raise UserError(
            "data.source is not set: name the images to learn from with --data.source FOLDER; "
            "--data.source bundled trains on the bundled tiles"
        )


def open_images(settings: PretrainSettings) -> Images:
    """Open every source of a recipe.

    Raises:
        UserError: none is named; one cannot be opened, or stands twice: what is held out of the one would be trained on
            from the other. Where labels are learned also if there are none, or not the same classes.
    """
    require_source(settings)
    asked = settings.data.source
    weights = dict(asked) if isinstance(asked, Mapping) else {asked: 1.0}
    sources: list[Source] = []
    classes, labels = [], {}
    if settings.objective.labeled:
        labeled = {name: open_labeled(name) for name in weights}
        classes, labels = _classes(labeled), {"labels": _digest_of_labels(labeled)}
        sources += labeled.values()
    else:
        sources += map(open_source, weights)
    digests = [source.digest() for source in sources]
    opened: dict[tuple[str, str], str] = {}
    for name, digest in zip(weights, digests, strict=True):
        other = opened.setdefault((_place(name), digest), name)
        if other != name:
            raise UserError(f"data.source: {other} and {name} are the same images; give them once, with one weight")
    count = sum(map(len, sources))
    wanted = min(settings.data.holdout, count // 10)
    total = sum(weights.values())
    training: list[Source] = []
    held: list[Source] = []
    for source, weight in zip(sources, weights.values(), strict=True):
        aside = min(round(wanted * weight / total), len(source) // 10)
        training.append(Subset(source, range(aside, len(source)), settings.seed))
        if aside:
            held.append(Subset(source, range(aside), settings.seed))
    names = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    looks = hashlib.sha256("\n".join(map(fingerprint, sources)).encode()).hexdigest()
    contents = {"images": count, "names": names, "seen": looks, **labels}
    return Images(" + ".join(weights), training, list(weights.values()), held, contents, classes)


def _classes(sources: Mapping[str, LabeledSource]) -> list[str]:
    """The classes that a classifier of all of these tells apart."""
    (first, classes), *others = ((name, compose_classes(name, source.classes)) for name, source in sources.items())
    seen: set[int] = set()
    for name, source in sources.items():
        if source.labels.ndim != 1:
            raise UserError(f"{name}: an image may have several labels; one for each is learned")
        seen |= set(checked_labels(name, source.labels, source.classes).tolist())
    for name, named in others:
        if named != classes:
            different = sorted(set(named) ^ set(classes)) or ["the same in another order"]
            raise UserError(
                f"data.source: {first} and {name} hold different classes ({', '.join(different[:5])}); labels of a "
                "mixture must mean the same"
            )
    if len(seen) < 2:
        only = ", ".join(classes[label] for label in seen)
        raise UserError(f"{' + '.join(sources)}: one class only ({only}); a classifier needs two")
    return list(classes)


def _digest_of_labels(sources: Mapping[str, LabeledSource]) -> str:
    digest = hashlib.sha256()
    for source in sources.values():
        digest.update("\n".join(source.classes).encode() + source.labels.astype("<i8").tobytes())
    return digest.hexdigest()


def _place(name: str) -> str:
    """What tells apart two sources whose images have the same names: 0001.jpg is in many folders."""
    return os.path.realpath(Path(name).expanduser()) if Path(name).exists() else name.removesuffix(":train")


def check_sizes(settings: PretrainSettings) -> None:
    """Refuse a crop that the backbone cannot take, before anything takes long: nothing is computed.

    Raises:
        UserError: as the backbone's ``forward``.
    """
    try:
        with torch.device("meta"):
            backbone = build_backbone(settings.backbone.name, **settings.backbone.arguments)
            for size in (settings.crop.size, backbone.fit_size(settings.view_size)):
                backbone(torch.zeros(2, 1, size, size))
    except UserError:
        raise
    except Exception:  # a plugin's backbone may compute what tensors without values cannot: training will show
        return


def find_prior(images: Images, settings: PretrainSettings) -> Tensor:
    """The prior that the settings ask for, (Q,): of a file, or of the crops that training will see first.

    Raises:
        UserError: the file holds none; the images cannot be read, or are all gray.
    """
    gamut = settings.objective.gamut
    file, stride = settings.objective.prior, settings.objective.stride
    given = None if file == "estimate" else load_prior(Path(file), gamut)
    crops = first_crops(images, settings, settings.objective.prior_images if given is None else _ENOUGH)
    colors = [rgb_to_ab(crop[None, :, ::stride, ::stride]) for crop in crops]
    if not any(bool((ab.abs() > settings.objective.gray_threshold).any()) for ab in colors):
        raise UserError(
            f"{images.name}: none of {len(colors)} crops has a color beyond objective.gray_threshold "
            f"({settings.objective.gray_threshold:g}): there is nothing to learn from gray images"
        )
    return estimate_prior(colors, gamut) if given is None else given


def prepare_network(
    images: Images, settings: PretrainSettings, prior: Tensor | None, place: Place
) -> Colorizer | Classifier:
    """What a recipe trains, as training begins with it, on the place's device.

    Weights from images are made by the first process; the others are given them when training begins.
    """
    network = on_place(build_network(settings, prior, images.classes, published=True), settings, place)
    asked = settings.backbone

    def from_images() -> None:
        crops = torch.stack(list(first_crops(images, settings, asked.init_images)))
        initialize(network.backbone, [rgb_to_lightness(crops)], asked.init, settings.seed)

    if asked.init != "random":
        distributed.on_first(from_images)
    return network


def on_place(network: N, settings: PretrainSettings, place: Place) -> N:
    """The network on the device, in the memory layout that the settings ask for."""
    layout = torch.channels_last if settings.machine.channels_last else torch.contiguous_format
    return network.to(place.device).to(memory_format=layout)


def stored(images: Images, settings: PretrainSettings, prior: Tensor | None, precision: str) -> dict[str, Any]:
    """What a checkpoint holds besides the learner's state."""
    return {
        "settings": plain(settings),
        "precision": precision,
        "data": images.contents,
        "color": color_contract(settings, prior),
        **({"classes" if settings.objective.supervised else "class_branch": images.classes} if images.classes else {}),
        "versions": versions(),
    }


def first_crops(images: Images, settings: PretrainSettings, count: int) -> Iterator[Tensor]:
    """The crops that training will see first, uint8 (3, size, size), at most one for each image.

    Raises:
        UserError: no image can be read.
    """
    samples = images.samples(settings)
    for t in range(min(count, sum(map(len, images.training)))):
        sample = samples[t]
        if sample.rgb is None:
            reason = ": ".join(sample.skipped[0])
            raise UserError(f"{images.name}: no image of {len(sample.skipped)} in a row can be read; {reason}")
        yield sample.rgb


def held_views(images: Images, count: int, size: int) -> Batch:
    """Images to look at, uint8 (N, 3, size, size), at most ``count``, and those left out as bad.

    Held-out ones, or, where none of those can be read, some that are trained on.

    Raises:
        UserError: none of these can be read either.
    """
    views = _views(images, images.held, count, size)
    if all(view.rgb is None for view in views):
        images.held.clear()
        views += _views(images, images.training, -(-max(1, count) // len(images.training)), size)
    looked_at = collate(views)
    if not len(looked_at.rgb):
        bad = looked_at.skipped
        raise UserError(f"{images.name}: none of {len(bad)} images can be read; the first: {': '.join(bad[0])}")
    return looked_at


def _views(images: Images, sources: list[Source], each: int, size: int) -> list[Sample]:
    samples = []
    for source in sources:
        looked_at = Views(source, size, labeled=bool(images.classes))
        samples += [looked_at[index] for index in range(min(len(source), each))]
    return samples
