"""The methods that are scored: networks, colors that spread from hints, and the baselines."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pretext.engine.checkpoint import safetensors_digest
from pretext.engine.run import find_checkpoint
from pretext.errors import UserError
from pretext.gamut import TEMPERATURE
from pretext.methods.hints import HintSettings, sample_hints
from pretext.methods.objectives import Classification
from pretext.settings import to_plain
from pretext.weights.state_dict import split_part, weights_title
from pretint.colorization.networks import LARGEST, open_pretrained, require_model
from pretint.colorization.scribbles import propagate

BASELINES = {
    "gray": "no color: ab = 0",
    "random": "ab of another image, which one is fixed by the seed",
    "truth": "the image itself",
}
"""The methods in every table."""

REFERENCE, SCRIBBLES = "reference:", "scribbles"

COLDEST = 0.01
"""The least temperature. There the annealed mean is that of the likeliest bins already."""

_SIDE = 6  # pixels of a hint, as in the tests of the publication
_MOST_HINTS = 10_000


class ScoreBatch(NamedTuple):
    """Images of one size, on the device."""

    indices: list[int]
    """Of the images, in their source."""
    rgb: Tensor
    """(B, 3, S, S), uint8: the truth."""
    lab: Tensor
    """(B, 3, S, S), float: the same."""
    bins: Tensor
    """(B, S, S), int64: the color bin nearest to the truth."""
    donor_ab: Tensor
    """(B, 2, S, S): ab of another image for each."""


class ScoredMethod(NamedTuple):
    """A way to color images, ready to use."""

    name: str
    """The name in the table."""
    about: str
    identity: dict[str, Any]
    """All that its colors depend on except the images: plain values."""
    home: Path | None
    """The run of the network, if it is in one."""
    color: Callable[[ScoreBatch], Tensor]
    """ab, (B, 2, S, S), unscaled."""
    warning: str = ""
    """A line for the user, if the colors are useless."""


def open_method(word: str, device: torch.device, temperature: float, seed: int) -> ScoredMethod:
    """Open the method that a user names.

    - ``gray``, ``random``, ``truth``: the baselines. A run of that name is ``./gray``.
    - ``RUN``: a run's folder or a checkpoint file.
    - ``RUN@hints=10``: the same with 10 hints from the truth, see ``hints_from_truth``.
    - ``RUN@size=128``: the network sees the images at 128 pixels; its colors are enlarged (bilinear). By default it
      sees them at the size of its training images, as in ``pretint colorize``.
    - ``RUN@temperature=0.5``: another temperature of the annealed mean. Options are separated by commas:
      ``RUN@hints=1,size=128``.
    - ``scribbles@hints=10``: no network: color spreads from such hints over the images as they are scored,
      see ``pretint.colorization.scribbles``. A run of that name is ``./scribbles``.

    Args:
        word: one of these.
        device: where a network runs.
        temperature: if the word names none.
        seed: of the hints, and of the random colors.

    Raises:
        UserError: there is no such method, or the network has no colors, or takes no hints.
    """
    if word in BASELINES:
        identity = {"method": word} | ({"seed": seed} if word == "random" else {})
        baselines: dict[str, Callable[[ScoreBatch], Tensor]] = {
            "gray": lambda batch: torch.zeros_like(batch.donor_ab),
            "random": lambda batch: batch.donor_ab,
            "truth": lambda batch: batch.lab[:, 1:],
        }
        return ScoredMethod(word, BASELINES[word], identity, None, baselines[word])
    if word == SCRIBBLES or word.startswith(f"{SCRIBBLES}@"):
        path, options = _parse_options(word)
        count = int(options.get("hints", 0))
        if options.keys() != {"hints"} or not count or path != Path(SCRIBBLES):
            raise UserError(f"{word}: give the number of hints, and no other option: {SCRIBBLES}@hints=10")

        def color(batch: ScoreBatch) -> Tensor:
            truth = batch.lab[:, 1:]
            hints, mask = hints_from_truth(truth, batch.indices, count, seed)
            results = []
            for lightness, ab, hinted in zip(batch.lab[:, 0], hints, mask, strict=True):
                pixels = hinted.flatten().nonzero()[:, 0].cpu().numpy()
                colors = ab.flatten(1).T.double().cpu().numpy()[pixels]
                results.append(torch.from_numpy(propagate(lightness.double().cpu().numpy(), pixels, colors).ab))
            return torch.stack(results).to(truth)

        about = f"{_count_hints(count)} of {_SIDE} x {_SIDE} pixels from the truth, spread by Levin et al. 2004"
        return ScoredMethod(
            word, about, {"method": SCRIBBLES, "hints": count, "side": _SIDE, "seed": seed}, None, color
        )
    return _open_network(word, device, temperature, seed)


def hints_from_truth(truth: Tensor, indices: list[int], count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw hints as in the tests of the publication of the network that takes them: squares of 6 pixels.

    See ``sample_hints``. They depend only on the seed and on each image's index. The first n of more hints are those
    that n alone would be.

    Args:
        truth: (B, 2, H, W), ab, unscaled.
        indices: of the images, in their source.
        count: the number of hints.
        seed: any whole number from 0.
    """
    numbers = torch.tensor(indices, device=truth.device)
    settings = HintSettings(sampled=True, smallest=_SIDE, largest=_SIDE)
    hints, mask = sample_hints(truth, numbers, seed, settings, count=count)
    return hints, mask


def _open_network(word: str, device: torch.device, temperature: float, seed: int) -> ScoredMethod:
    if word.startswith(REFERENCE):
        raise UserError(f"{word}: a reference gives its colors to one image; {SCRIBBLES}@hints=10 can be scored")
    path, options = _parse_options(word)
    file, part = split_part(path)
    require_model(path)
    checkpoint = find_checkpoint(file)
    pretrained = open_pretrained(Path(f"{checkpoint}#{part}") if part else checkpoint)
    backbone, objective = pretrained.settings.backbone.name, pretrained.settings.objective.name
    if not pretrained.has_head:
        raise UserError(f"{path}: this network has no color head, so it has no colors to score; name another")
    colorizer = pretrained.colorizer
    hints = int(options["hints"]) if "hints" in options else None
    if hints is not None and not colorizer.backbone.takes_hints:
        raise UserError(f"{word}: {backbone} takes no hints; name a network that does")
    size = int(options.get("size", pretrained.settings.view_size))
    temperature = float(options.get("temperature", temperature))
    run = path if path.is_dir() else path.parent.parent if path.parent.name == "checkpoints" else None
    # Not the file's digest: the file of a run that was stopped and continued may differ where no weight does.
    kind = {name: json.dumps(to_plain(getattr(pretrained.settings, name))) for name in ("backbone", "objective")}
    weights = safetensors_digest(sorted(colorizer.cpu().state_dict().items()), kind)
    colorizer.to(device)
    identity: dict[str, Any] = {"method": "network", "weights": weights, "size": size, "temperature": temperature}
    about = [f"{objective}, {backbone}, step {pretrained.step:,}, weights {weights[:8]}"]
    if isinstance(colorizer.objective, Classification):
        about.append(f"T = {temperature:g}")
    if hints is not None:
        identity |= {"hints": hints, "side": _SIDE, "seed": seed}
    side = colorizer.backbone.fit_size(size)
    truth = f", and {_count_hints(hints)} of {_SIDE} x {_SIDE} of these from the truth" if hints is not None else ""
    about.append(f"sees {side} x {side} pixels{truth}")
    name = path.resolve().name if run == path else weights_title(path)
    if options:
        name += "@" + ",".join(f"{key}={value:g}" for key, value in options.items())

    def color(batch: ScoreBatch) -> Tensor:
        lightness, truth = _resize(batch.lab[:, :1], side).clamp(0, 100), _resize(batch.lab[:, 1:], side)
        given = () if hints is None else hints_from_truth(truth, batch.indices, hints, seed)
        ab = colorizer.colorize(lightness, temperature, *given)
        size = batch.lab.shape[-2:]
        return ab if side == size[0] else F.interpolate(ab, size=size, mode="bilinear", align_corners=False)

    return ScoredMethod(name, ", ".join(about), identity, run, color, pretrained.warning)


def _resize(maps: Tensor, size: int) -> Tensor:
    if maps.shape[-1] == size:
        return maps
    return F.interpolate(maps, size=(size, size), mode="bicubic", align_corners=False, antialias=True)


def _count_hints(count: int) -> str:
    return "1 hint" if count == 1 else f"{count:,} hints"


def _parse_options(word: str) -> tuple[Path, dict[str, float]]:
    """Split ``RUN@key=value,key=value`` into path and options; a path that exists has no options."""
    path, at, tail = word.rpartition("@")
    if Path(word).exists() or not at or "=" not in tail:
        return Path(word), {}
    options: dict[str, float] = {}
    for part in tail.split(","):
        key, _, value = part.partition("=")
        try:
            number = float(value) if key == "temperature" else int(value)
            fits = {
                "hints": 0 <= number <= _MOST_HINTS,
                "size": _SIDE <= number <= LARGEST,
                "temperature": COLDEST <= number < math.inf,
            }[key]
        except (ValueError, KeyError):
            fits = False
        if not fits or key in options:
            raise UserError(
                f"{word}: {part!r} is no option of a method; there is hints=10 (up to {_MOST_HINTS:,}), size=128 "
                f"({_SIDE} to {LARGEST:,}) and temperature={TEMPERATURE} ({COLDEST} or more), each once"
            )
        options[key] = number
    return Path(path), options
