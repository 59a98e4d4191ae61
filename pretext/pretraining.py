"""The job that trains: features from unlabelled pictures, by colorization."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pretext.color import rgb_to_ab, rgb_to_lightness
from pretext.colorizer import Colorizer, join
from pretext.engine.device import Place, pick_place
from pretext.engine.loop import train
from pretext.engine.run import held_run, restore
from pretext.errors import UserError
from pretext.files import write_png
from pretext.gamut import Gamut
from pretext.health import colour_health
from pretext.pictures import open_source
from pretext.pictures.batches import Samples, Subset, Views
from pretext.pictures.source import Source
from pretext.prior import estimate_prior, load_prior
from pretext.recipe import PretrainSettings, build_colorizer, check_contract, check_state, colour_contract
from pretext.settings import plain
from pretext.sheet import contact_sheet
from pretext.versions import versions

_SHOWN = 12
_AT_ONCE = 32


def pretrain(run: Path, settings: PretrainSettings) -> bool:
    """Train a colorizer, or go on with a run that was interrupted.

    Called again with the same settings it goes on from the newest checkpoint, and computes what an
    uninterrupted run would have computed, to the bit on the same machine's CPU.

    Args:
        run: the run's directory, see ``pretext.engine.run``.
        settings: the recipe.

    Returns:
        Whether the training is complete; False if it was asked to stop and can go on.

    Raises:
        UserError: see the message.
    """
    source = open_source(settings.data.source)
    held = min(settings.data.holdout, len(source) // 10)
    training_part = Subset(source, range(held, len(source)), settings.seed)
    held_part = Subset(source, range(held), settings.seed) if held else training_part
    with held_run(run, plain(settings)):
        state = restore(run)
        if state is not None:
            check_state(run, state, resumed=True)
            check_contract(run, settings, state["colour"])
        data = {"pictures": len(source), "names": _names_digest(source)}
        if state is not None and state["data"] != data:
            raise UserError(
                f"{settings.data.source}: the pictures changed since the run {run} began ({state['data']['pictures']} "
                f"then, {len(source)} now); bring them back, or name a new folder for the run"
            )
        asked = settings.training.precision if state is None else state["precision"]
        place = pick_place(settings.machine.device, asked, settings.machine.workers)
        prior = _prior(training_part, settings) if state is None else state["colour"]["prior"]
        colorizer = (
            build_colorizer(settings, prior, published=state is None)
            .to(place.device)
            .to(memory_format=torch.channels_last)
        )
        view_size = colorizer.backbone.fit_size(settings.view_size)
        looked_at, bad = _views(held_part, max(1, settings.data.holdout), view_size)
        if not len(looked_at):  # of few pictures, all that were held out may be bad
            held, (looked_at, more) = 0, _views(training_part, len(training_part), view_size)
            bad += more

        def evaluate(step: int) -> dict[str, float]:
            _write_samples(run / "samples" / f"{step:08d}.png", colorizer, looked_at[:_SHOWN], place)
            return colour_health(colorizer, looked_at.split(_AT_ONCE), prior, place)

        return train(
            run,
            colorizer,
            colorizer.loss,
            Samples(training_part, settings.crop, settings.seed, _cache_bytes(settings, place)),
            evaluate,
            settings.training,
            settings.machine,
            place,
            facts={
                "versions": versions(),
                "precision": place.precision,
                "workers": place.workers,
                "held_out": held,
            },
            stored={
                "settings": plain(settings),
                "precision": place.precision,
                "data": data,
                "colour": colour_contract(settings, prior),
                "versions": versions(),
            },
            state=state,
            skipped=bad,
        )


def _names_digest(source: Source) -> str:
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(source.key(index).encode() + b"\n")
    return digest.hexdigest()


def _cache_bytes(settings: PretrainSettings, place: Place) -> int:
    return settings.machine.cache * 2**20 // max(1, place.workers)


def _prior(source: Source, settings: PretrainSettings) -> Tensor:
    """The prior that the settings ask for: of a file, or of the pictures."""
    gamut = Gamut(settings.objective.neighbours, settings.objective.sigma)
    if settings.objective.prior != "estimate":
        return load_prior(Path(settings.objective.prior), gamut)
    stride = settings.objective.stride
    crops = _crops(source, settings.objective.prior_pictures, settings)
    colours = [rgb_to_ab(crop[None, :, ::stride, ::stride]) for crop in crops]
    if not any(bool((ab.abs() > settings.objective.gray_threshold).any()) for ab in colours):
        raise UserError(
            f"{settings.data.source}: none of {len(colours)} crops has a colour beyond objective.gray_threshold "
            f"({settings.objective.gray_threshold:g}): there is nothing to learn from gray pictures"
        )
    return estimate_prior(colours, gamut)


def _crops(source: Source, count: int, settings: PretrainSettings) -> Iterator[Tensor]:
    """The crops that training will see first: the prior is that of what the loss sees."""
    samples = Samples(source, settings.crop, settings.seed)
    for t in range(min(count, len(source))):
        sample = samples[t]
        if sample.rgb is None:
            reason = ": ".join(sample.skipped[0])
            raise UserError(
                f"{settings.data.source}: no picture of {len(sample.skipped)} in a row can be read; {reason}"
            )
        yield sample.rgb


def _views(source: Source, count: int, size: int) -> tuple[Tensor, list[tuple[str, str]]]:
    """The first ``count`` pictures as they are looked at, uint8 (N, 3, size, size), and those left out as bad."""
    samples = [Views(source, size)[index] for index in range(min(len(source), count))]
    views = [sample.rgb for sample in samples if sample.rgb is not None]
    return (torch.stack(views) if views else torch.empty(0)), [entry for sample in samples for entry in sample.skipped]


def _write_samples(path: Path, colorizer: Colorizer, rgb: Tensor, place: Place) -> None:
    lightness = rgb_to_lightness(rgb.to(place.device))
    ab = colorizer.colorize(lightness)
    gray, coloured = (join(lightness, colour).cpu() for colour in (torch.zeros_like(ab), ab))
    rows = [[_picture(one) for one in row] for row in zip(gray, coloured, rgb / 255, strict=True)]
    write_png(path, contact_sheet(rows, ("gray", "coloured", "original"), cell=max(96, rgb.shape[-1]), across=3))


def _picture(rgb: Tensor) -> Image.Image:
    return Image.fromarray((rgb * 255).round().byte().permute(1, 2, 0).numpy())
