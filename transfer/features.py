"""Pooled features of every stage, of several networks, in one pass over the pictures."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.backbones import Backbone
from pretext.color import rgb_to_lightness
from pretext.engine.device import Place, autocast
from pretext.engine.progress import progress
from pretext.errors import UserError
from pretext.pictures import LabelledSource, Source
from pretext.pictures.batches import Subset, Views, stream

_AT_ONCE = 64
_CALIBRATING = 2048


class Features(NamedTuple):
    """What a probe sees of a labelled source."""

    networks: dict[str, dict[str, Tensor]]
    """network -> stage -> (N, dims), float32, on the CPU."""
    labels: Tensor
    """(N,), int64."""
    skipped: list[tuple[str, str]]
    """Key and reason of the pictures that cannot be read; they are not among the N."""


@torch.no_grad()
def pooled_features(
    backbones: Mapping[str, Backbone], source: LabelledSource, size: int, dims: int, place: Place, title: str
) -> Features:
    """Features of every stage of every backbone, average-pooled.

    Args:
        backbones: by name; in eval mode, on the place's device.
        source: the pictures: each is seen whole, its middle square resized to ``size``.
        size: side of what the networks see, pixels.
        dims: the most dimensions that a stage may be pooled to, see ``pool``.
        place: where, at which precision.
        title: of the progress bar.

    Raises:
        UserError: no picture can be read.
    """
    found: dict[str, dict[str, list[Tensor]]] = {
        name: {stage.name: [] for stage in backbone.stages} for name, backbone in backbones.items()
    }
    skipped: list[tuple[str, str]] = []
    with progress(title, len(source), "pictures") as advance:
        for batch in stream(Views(source, size), range(len(source)), _AT_ONCE, place.workers):
            skipped += batch.skipped
            if len(batch.rgb):
                lightness = rgb_to_lightness(batch.rgb.to(place.device))
                lightness = lightness.contiguous(memory_format=torch.channels_last)
                for name, backbone in backbones.items():
                    with autocast(place):
                        stages = backbone(lightness)
                    for stage, features in stages.items():
                        found[name][stage].append(pool(features.float(), dims).cpu())
            advance(len(batch.rgb) + len(batch.skipped), "")
    if len(skipped) == len(source):
        raise UserError(f"none of {len(skipped)} pictures can be read; the first: {': '.join(skipped[0])}")
    bad = {key for key, _ in skipped}
    good = [not bad or source.key(index) not in bad for index in range(len(source))]
    networks = {name: {stage: torch.cat(parts) for stage, parts in stages.items()} for name, stages in found.items()}
    return Features(networks, torch.from_numpy(source.labels[good]), skipped)


@torch.no_grad()
def calibrate_batch_norm(backbone: Backbone, source: Source, size: int, place: Place) -> None:
    """Give a network's batch normalisations the statistics of pictures, in place; weights stay.

    A network at random initialisation has never seen a picture: with the mean 0 and variance 1 that its
    layers start with, its deeper features shrink, and a comparison would credit pretraining with
    having run batch normalisation at all.

    Args:
        backbone: on the place's device; left in eval mode.
        source: the pictures; up to 2,048 of them are seen, drawn evenly.
        size: side at which they are seen.
        place: where, at which precision.
    """
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
    backbone.train()
    drawn = Subset(source, range(min(_CALIBRATING, len(source))), seed=0)  # in random order: classes must mix
    for batch in stream(Views(drawn, size), range(len(drawn)), _AT_ONCE, place.workers):
        if len(batch.rgb) > 1:
            with autocast(place):
                backbone(rgb_to_lightness(batch.rgb.to(place.device)).contiguous(memory_format=torch.channels_last))
    backbone.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def pool(features: Tensor, dims: int) -> Tensor:
    """Average-pool (B, C, h, w) to the finest k x k grid with C k^2 <= ``dims``, at least 1 x 1: (B, C k^2).

    The paper's rule ("until less than 10,000 dimensions"), with the limit as an argument.
    """
    side = max(1, int((dims / features.shape[1]) ** 0.5))
    height, width = (min(side, length) for length in features.shape[-2:])
    return F.adaptive_avg_pool2d(features, (height, width)).flatten(1)
