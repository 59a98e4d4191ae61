"""The job that turns published colorization weights into a run: read safely, every key accounted for."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pretext.backbones import build_backbone
from pretext.engine import distributed
from pretext.engine.progress import say
from pretext.engine.run import held_run, keep_checkpoint
from pretext.errors import UserError
from pretext.gamut import bin_centers
from pretext.methods.colorizer import NoHead
from pretext.pretrained import BACKBONE, Pretrained, color_contract
from pretext.recipe import PretrainSettings, build_colorizer
from pretext.settings import plain
from pretext.versions import versions
from pretext.weights.file import UnknownWeights, read_file, split_part
from pretext.weights.releases import RELEASES, Release
from pretext.weights.state_dict import COUNTER, Weights, find_prefixes, find_weights, flatten_names, shorten

__all__ = ["ImportSettings", "Imported", "UnknownWeights", "import_weights", "load_published"]

_NAMED = 4


class Imported(NamedTuple):
    """What was imported, and what became of every key."""

    run: Path
    title: str
    used: list[str]
    """Keys of the file whose values the colorizer has."""
    aside: list[str]
    """Keys of the file that no part of the colorizer takes, kept in the checkpoint's group "aside"."""
    absent: list[str]
    """Keys that the file may lack: batch norm's counters of batches."""
    notes: list[str]
    has_head: bool

    def lines(self) -> list[str]:
        """The same for a reader, a line each."""
        aside = f"; {len(self.aside)} kept aside ({shorten(self.aside, _NAMED)})" if self.aside else ""
        absent = f" ({len(self.absent)} counters of batches, which evaluation does not need)" if self.absent else ""
        follow = f"pretint probe {self.run} --train FOLDER --test FOLDER" + (
            f", pretint colorize {self.run} IMAGES" if self.has_head else ""
        )
        return [
            f"{self.title}: {len(self.used)} keys used{aside}; {len(self.absent)} missing{absent}; 0 unused",
            *self.notes,
            *([] if self.has_head else ["no color head: it can be probed and exported, but colors nothing"]),
            f"run: {self.run}",
            f"next: {follow}",
        ]


@dataclass
class ImportSettings:
    """What a file of weights does not say of itself.

    Args:
        mask_center: of SIGGRAPH17: what was subtracted from the mask of hints when the weights were trained: 0 of
            the release and of weights converted from Caffe, 0.5 of those retrained in PyTorch (--mask_cent there).
    """

    mask_center: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.mask_center <= 1:
            raise UserError(f"mask_center is {self.mask_center}: it must lie in [0, 1]")


def import_weights(file: Path, run: Path, settings: ImportSettings | None = None) -> Imported:
    """Import published weights as a run of no steps, which can be probed, exported and, with a head, color.

    Args:
        file: .pth, .torch or .safetensors: the release of ECCV16 or SIGGRAPH17, or VISSL's AlexNet or
            ResNet-50 colorization. It is known by its keys, whatever stands before all of them; ``FILE#PART`` is one of
            several networks in a file.
        run: a new folder.
        settings: what to know besides.

    Raises:
        UserError: the file cannot be read without running code in it, is of no release known, or one of its
            weights is missing, unknown, of another shape or not finite; the folder is taken.
    """
    state = _published(file, settings or ImportSettings())
    _write(run, state.recipe, state.parts, state.prior, file)
    head = bool(state.release.head)
    return Imported(
        run, state.release.title, state.used, list(state.release.aside), state.absent, state.notes, has_head=head
    )


def load_published(file: Path) -> Pretrained:
    """The colorizer of published weights, on the CPU, in eval mode, without a run; see ``import_weights``.

    Raises:
        UnknownWeights: the file is of no release known.
        UserError: as ``import_weights``.
    """
    state = _published(file, ImportSettings())
    for line in state.lines if distributed.rank() == 0 else ():
        say(f"{file}: {line}")
    colorizer = build_colorizer(state.recipe, state.prior)
    colorizer.load_state_dict(state.parts["model"], strict=bool(state.release.head))
    if not state.release.head:
        colorizer.head = NoHead(str(file))
    return Pretrained(colorizer.eval(), state.recipe, state.prior, 0, bool(state.release.head))


class _State(NamedTuple):
    """What a checkpoint of published weights holds, and how it came about."""

    release: Release
    recipe: PretrainSettings
    parts: dict[str, Any]
    prior: Tensor
    used: list[str]
    absent: list[str]
    notes: list[str]
    lines: list[str]
    """What to say of how the weights were found in the file."""


def _published(file: Path, settings: ImportSettings) -> _State:
    file, part = split_part(file)
    if not file.exists():
        raise UserError(f"{file}: no such file; docs/weights.md says where published weights are")
    release, names, weights, lines = _recognize(file, part)
    _check(file, weights, release, names)
    recipe, centering = _centered(file, release, settings)
    model = {ours: weights[key].to(like.dtype) for ours, (key, like) in names.items() if key in weights}
    absent = [key for key, _ in names.values() if key not in weights]
    model |= {ours: torch.zeros_like(like, device="cpu") for ours, (key, like) in names.items() if key in absent}
    model |= release.given
    aside = {key: weights[key].float() for key in release.aside}
    try:
        notes = release.finish(model, aside) + centering
    except UserError as error:
        raise UserError(f"{file}: {release.title}, but {error}") from error
    prior = torch.full((len(bin_centers()),), 1 / len(bin_centers()), dtype=torch.float64)
    if release.head:  # the objective's own values are no one's weights, but a checkpoint has them
        fresh = build_colorizer(recipe, prior).state_dict()
        model |= {name: value for name, value in fresh.items() if name.startswith("objective.")}
    used = [key for key, _ in names.values() if key in weights]
    parts = {"model": model, "aside": aside, "head": bool(release.head)}
    return _State(release, recipe, parts, prior, used, absent, lines + notes, lines)


def _centered(file: Path, release: Release, settings: ImportSettings) -> tuple[PretrainSettings, list[str]]:
    """The release's recipe with the mask centered as asked, and what to say of it."""
    recipe = release.settings
    if recipe.backbone.name != "siggraph17":
        if settings.mask_center:
            raise UserError(f"{file}: {release.title}: it takes no hints, so leave mask_center out")
        return recipe, []
    backbone = replace(recipe.backbone, arguments={**recipe.backbone.arguments, "mask_center": settings.mask_center})
    said = f"its mask of hints is 1 where there is one, less {settings.mask_center:g}"
    other = "0.5 for weights retrained by the PyTorch code" if not settings.mask_center else "0 for the release"
    return replace(recipe, backbone=backbone), [f"{said} (--mask_center; {other}: the file does not say)"]


def _write(run: Path, settings: PretrainSettings, state: dict[str, Any], prior: Tensor, file: Path) -> None:
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UserError(f"{run}: exists; name a new folder for the imported weights")
    shared = {"settings": plain(settings), "color": color_contract(settings, prior), "versions": versions()}
    with held_run(run, plain(settings)):
        keep_checkpoint(run, {"step": 0, **shared, **state, "imported_from": file.name})


def _recognize(file: Path, part: str) -> tuple[Release, dict[str, tuple[str, Tensor]], Weights, list[str]]:
    """The release that a file is of; for every weight of ours its key in the file, and a tensor of its shape.

    Then the file's weights by these keys, and what to say of how they were found.
    """
    stored = flatten_names(read_file(file), str(file))
    scores = []
    for release in RELEASES:
        names = _names(release)
        keys = {
            key: key for key in {key for key, _ in names.values()} | release.aside.keys() if not key.endswith(COUNTER)
        }
        scores.append((max(find_prefixes(stored, keys).values(), default=0), release, names, keys))
    score, release, names, keys = max(scores, key=lambda entry: entry[0])
    if not score:
        known = "; ".join(release.title for release in RELEASES)
        first = f" (its first key: {min(stored)})" if stored else ""
        raise UnknownWeights(
            f"{file}: weights of no release known{first}; known are: {known}. Those of a timm model are given as "
            "backbone.weights"
        )
    network = find_weights(stored, keys, part, str(file))
    return release, names, network.weights, network.lines()


def _names(release: Release) -> dict[str, tuple[str, Tensor]]:
    settings = release.settings
    with torch.device("meta"):
        backbone = build_backbone(settings.backbone.name, **settings.backbone.arguments)
    names = {
        f"{BACKBONE}{name}": (release.published(name), value)
        for name, value in backbone.state_dict().items()
        if f"{BACKBONE}{name}" not in release.given
    }
    if release.head:
        outputs = 2 if settings.objective.name == "regression" else len(bin_centers())
        shape = (outputs, backbone.stages[-1].channels, 1, 1)
        names["head.weight"] = (f"{release.head}.weight", torch.empty(shape, device="meta"))
        names["head.bias"] = (f"{release.head}.bias", torch.empty(outputs, device="meta"))
    return names


def _check(file: Path, weights: Weights, release: Release, names: dict[str, tuple[str, Tensor]]) -> None:
    """Refuse what is not all of a release, and nothing else."""
    shapes = {key: tuple(like.shape) for key, like in names.values()} | release.aside
    missing = [key for key in shapes if key not in weights and not key.endswith(COUNTER)]
    unknown = [key for key in weights if key not in shapes]
    present = [key for key in shapes if key in weights]
    shaped = [
        f"{key} {tuple(weights[key].shape)}, not {shapes[key]}"
        for key in present
        if tuple(weights[key].shape) != shapes[key]
    ]
    # Of the right shape alone: a view may claim any shape over a few bytes.
    infinite = [
        key
        for key in present
        if tuple(weights[key].shape) == shapes[key] and not bool(torch.isfinite(weights[key]).all())
    ]
    wrong = {"missing": missing, "unknown": unknown, "of another shape": shaped, "not finite": infinite}
    said = "; ".join(f"{len(keys)} {what} ({shorten(keys, _NAMED)})" for what, keys in wrong.items() if keys)
    if said:
        raise UserError(f"{file}: {release.title}, but not all of it, or more, of {len(shapes)} keys: {said}")
