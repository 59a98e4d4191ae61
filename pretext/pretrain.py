"""The pretraining job: learn features from unlabeled images by a method or, for comparison, from labels."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from pretext import roles
from pretext.backbones import build_backbone
from pretext.backbones.contract import channel_count
from pretext.color import rgb_to_ab
from pretext.data import open_labeled
from pretext.data.channels import channels_of
from pretext.engine import distributed
from pretext.engine.device import ComputeConfig, choose_compute, versions
from pretext.engine.loop import Validation, resume_or_start, train
from pretext.engine.memory import explain_memory_shortage
from pretext.engine.progress import say
from pretext.engine.signals import WARNINGS, ExitStatus, catch_signals
from pretext.engine.trainer import Trainer
from pretext.errors import UserError
from pretext.initialization import initialize
from pretext.methods.contract import Method
from pretext.online import OnlineProbe
from pretext.pretrained import check_contract, check_state, color_contract
from pretext.prior import estimate_prior, load_prior
from pretext.rankme import rank_of
from pretext.recipe import (
    PretrainSettings,
    RecipeImages,
    build_network,
    first_crops,
    load_held_out,
    on_place,
    open_images,
    resolve_source,
)
from pretext.scale import ChannelRange, ChannelScale, find_ranges, set_ranges
from pretext.settings import to_plain

_ENOUGH = 100  # crops: if all of them are gray, all images count as gray


@explain_memory_shortage(
    "set machine.checkpoint_activations, or lower training.micro_batch, training.batch_size, crop.size, "
    "machine.workers or machine.cache"
)
def pretrain(run: Path, settings: PretrainSettings) -> ExitStatus:
    """Train a backbone by the method of the recipe, or resume a run that was interrupted.

    A second call with the same settings resumes from the newest checkpoint. The result is that of an uninterrupted
    run; on the same machine's CPU it is identical to the bit. Several processes share the work if all of them call
    this function, see ``pretext.engine.distributed``.

    Args:
        run: the run's directory, see ``pretext.engine.run``.
        settings: the recipe. Without a data.source, an existing run uses the source that it began with.

    Returns:
        Whether training is complete, or which signal stopped it. A stopped run can be resumed.

    Raises:
        UserError: see the message.
    """
    place = choose_compute(settings.machine.device, settings.training.precision, settings.machine.workers)
    # From here on a cluster's warning takes effect after a step; then a checkpoint is written.
    with catch_signals(*WARNINGS) as warned, distributed.process_group(place.device):
        source = distributed.broadcast_from_rank_zero(lambda: resolve_source(run, settings).data.source)
        settings = replace(settings, data=replace(settings.data, source=source))
        distributed.on_rank_zero(lambda: settings.training.share(distributed.world_size()))
        # The first process opens the images before the others: it writes the indices that they read.
        images = distributed.on_rank_zero(lambda: open_images(settings)) or open_images(settings)
        if settings.online.source:  # report a mistake in it before the slow work begins
            distributed.on_rank_zero(lambda: check_online(settings))
        distributed.on_rank_zero(lambda: check_network(settings, images.classes))
        prior: Tensor | None = None
        ranges: list[ChannelRange] = []  # those of a new run

        def build(state: dict[str, Any] | None, place: ComputeConfig) -> Trainer:
            nonlocal prior
            if state is not None:
                prior = state["color"].get("prior")
                network = on_place(build_network(settings, prior, images.classes), settings, place)
            else:
                if settings.method.kind.colored:
                    prior = distributed.broadcast_from_rank_zero(lambda: find_prior(images, settings))
                network = prepare_network(images, settings, prior, place, ranges.append)
            return Trainer(network, settings.training, settings.machine, place, settings.seed)

        def check(checkpoint: Path, state: dict[str, Any]) -> None:
            check_state(run, state, resumed=True)
            check_contract(run, settings, state)
            check_images(run, state, images)

        free = roles.names(PretrainSettings, "machine")
        if isinstance(settings.data.source, str):  # it may move, as its digest is checked; the weights of several count
            free.append("data.source")
        defaults = to_plain(PretrainSettings())
        with resume_or_start(run, to_plain(settings), place, build, check, free, defaults) as trainer:
            validation, skipped = distributed.on_rank_zero(
                lambda: build_validation(run, settings, images, trainer, prior)
            ) or (lambda journal: None, [])
            return train(
                run,
                trainer,
                images.samples(settings, trainer.place.workers),
                validation,
                warned,
                facts={
                    "versions": versions(),
                    "precision": trainer.place.precision,
                    "workers": trainer.place.workers,
                    "held_out": sum(map(len, images.held)),
                    **({"channels": list(map(asdict, ranges))} if ranges else {}),
                },
                stored=checkpoint_extra(images, settings, prior, trainer.place.precision),
                skipped=skipped,
            )


def check_online(settings: PretrainSettings) -> None:
    """Raise a ``UserError`` if the images of the online probe cannot be opened, or have other channels."""
    channels = channels_of(open_labeled(settings.online.source))
    if channels != settings.channels:
        theirs, ours = (", ".join(names) or "8-bit sRGB" for names in (channels, settings.channels))
        raise UserError(f"online.source has the channels {theirs}, and data.source {ours}; give both the same ones")


def check_images(run: Path, state: dict[str, Any], images: RecipeImages) -> None:
    """Raise a ``UserError`` if the images or labels are not those that the run began with."""
    if images.contents != state["data"]:
        what = "labels" if images.contents == {**state["data"], "labels": images.contents.get("labels")} else "images"
        raise UserError(
            f"{images.name}: the {what} changed since the run {run} began ({state['data']['images']} images "
            f"then, {images.contents['images']} now); restore them, or choose a new folder for the run"
        )


def build_validation(
    run: Path, settings: PretrainSettings, images: RecipeImages, trainer: Trainer, prior: Tensor | None
) -> tuple[Validation, list[tuple[str, str]]]:
    """Read the held-out images. Return the validation on them, and the images that cannot be read.

    The validation measures how well the network does on them what it is trained for, and RankMe of its features. With
    an online probe it also measures how good the features are.
    """
    network, place = trainer.judged, trainer.place
    assert isinstance(network, Method)
    size = network.backbone.fit_size(settings.view_size)
    views, labels, skipped, _ = load_held_out(images, settings.data.holdout, size)
    probe = None
    if settings.online.source:
        probe = OnlineProbe(open_labeled(settings.online.source), settings.online, size, settings.seed)
        skipped += probe.skipped

    def evaluate(network: nn.Module) -> tuple[dict[str, dict[str, Any]], Image.Image | None]:
        assert isinstance(network, Method)
        health, sheet = measure_health(network, views, labels, prior, place)
        records: dict[str, dict[str, Any]] = {"health": health}
        if probe is not None:
            records["online"] = {**probe(network.backbone, place)}
        return records, sheet

    return Validation(run, trainer, evaluate), skipped


def measure_health(
    network: Method, views: Tensor, labels: Tensor, prior: Tensor | None, place: ComputeConfig
) -> tuple[dict[str, Any], Image.Image | None]:
    """Return ``Method.diagnostics`` with RankMe of the features, for the journal; and a sheet of images or None."""
    health, sheet = network.diagnostics(views, labels, prior, place)
    return {**health, "rankme": rank_of(network.backbone, views, place)}, sheet


def check_network(settings: PretrainSettings, classes: Sequence[str]) -> None:
    """Check, without computing anything, that the method takes its arguments and the backbone all sizes of images.

    Raises:
        UserError: the backbone or the method refuses an argument, or the backbone's ``forward`` a size.
    """
    prior = torch.full((settings.objective.bins,), 1 / settings.objective.bins, dtype=torch.float64)

    def check_sizes() -> None:
        backbone = build_backbone(settings.backbone.name, **settings.backbone.built_with)
        for size in (settings.crop.size, backbone.fit_size(settings.view_size)):
            backbone(torch.zeros(2, channel_count(backbone.inputs), size, size))

    for check in (check_sizes, lambda: build_network(settings, prior, classes)):
        try:
            with torch.device("meta"):
                check()
        except UserError:
            raise
        except Exception:  # a plugin's may need tensors with values: then only training can check it
            continue


def find_prior(images: RecipeImages, settings: PretrainSettings) -> Tensor:
    """Return the prior, (Q,): from the file in the settings, or estimated from the first crops of the training.

    Raises:
        UserError: the file holds no prior, or the images cannot be read or are all gray.
    """
    gamut = settings.objective.gamut
    file, stride = settings.objective.prior, settings.objective.stride
    loaded = None if file == "estimate" else load_prior(Path(file), gamut)
    crops = first_crops(images, settings, settings.objective.prior_images if loaded is None else _ENOUGH)
    colors = [rgb_to_ab(crop[None, :, ::stride, ::stride]) for crop in crops]
    if not any(bool((ab.abs() > settings.objective.gray_threshold).any()) for ab in colors):
        raise UserError(
            f"{images.name}: none of {len(colors)} crops has a color beyond objective.gray_threshold "
            f"({settings.objective.gray_threshold:g}); there is nothing to learn from gray images: "
            "give images in color"
        )
    return estimate_prior(colors, gamut) if loaded is None else loaded


def prepare_network(
    images: RecipeImages,
    settings: PretrainSettings,
    prior: Tensor | None,
    place: ComputeConfig,
    report_range: Callable[[ChannelRange], object] = lambda extent: None,
) -> Method:
    """Return the network of a recipe with its initial weights, on the device of ``place``.

    ``report_range`` gets the range of each named channel, and what of the first images lies outside.

    Only the first process computes weights from images; the others get them from it when training begins. Scales and
    codebooks, which are no weights, they get here.
    """
    network = build_network(settings, prior, images.classes, published=True)
    used = {name for module in network.modules() if isinstance(module, ChannelScale) for name in module.names}

    def prepare() -> tuple[list[ChannelRange], dict[str, Tensor]]:
        crops = list(first_crops(images, settings, settings.scale.images))
        ranges = find_ranges(crops, settings.channels, settings.scale, used)
        for module in network.modules():
            if isinstance(module, ChannelScale):
                set_ranges(module, ranges)
        network.prepare(crops)
        for extent in ranges:
            say(
                f"channel {extent.name}: {extent.low:g} to {extent.high:g}; of {len(crops):,} crops "
                f"{extent.clipped:.2%} of the values lie outside and are clipped, {extent.masked:.2%} are unknown"
            )
        return ranges, dict(network.named_buffers())

    if used:
        ranges, buffers = distributed.broadcast_from_rank_zero(prepare)
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
        for extent in ranges:
            report_range(extent)
    backbone = settings.backbone
    if backbone.init == "random":
        return on_place(network, settings, place)

    def read() -> Tensor:
        return network.backbone.to_input(torch.stack(list(first_crops(images, settings, backbone.init_images))))

    inputs = distributed.on_rank_zero(read)  # before the network moves to its device
    on_place(network, settings, place)
    if inputs is not None:
        initialize(network.backbone, [inputs], backbone.init, settings.seed)
    return network


def checkpoint_extra(
    images: RecipeImages, settings: PretrainSettings, prior: Tensor | None, precision: str
) -> dict[str, Any]:
    """Return the values that a checkpoint holds besides the trainer's state."""
    return {
        "settings": to_plain(settings),
        "precision": precision,
        "data": images.contents,
        "color": color_contract(settings, prior),
        **({"class_branch" if settings.colorizes else "classes": images.classes} if images.classes else {}),
        "versions": versions(),
    }
