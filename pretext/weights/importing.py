"""The job that turns published colorization weights into a run: read safely, every key accounted for."""

import pickle
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from pretext.backbones import build_backbone
from pretext.colorizer import NoHead
from pretext.engine.archive import DamagedFileError, check_published
from pretext.engine.run import held_run, keep_checkpoint
from pretext.errors import UserError
from pretext.gamut import bin_centres
from pretext.recipe import BACKBONE, Pretrained, PretrainSettings, build_colorizer, colour_contract
from pretext.settings import plain
from pretext.versions import versions
from pretext.weights.releases import RELEASES, Release, Weights

_NESTED = (("classy_state_dict", "base_model", "model", "trunk"), ("model_state_dict",), ("state_dict",))
_COUNTER = "num_batches_tracked"  # of batch norms: files that came from Caffe have none, and evaluation needs none
_ENOUGH = 0.5  # a file that holds fewer of a release's keys is taken for another's
_NAMED = 4


class UnknownWeights(UserError):
    """A file that holds no weights by name, or none of a release known."""


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
        aside = f"; {len(self.aside)} kept aside ({_shortened(self.aside)})" if self.aside else ""
        absent = f" ({len(self.absent)} counters of batches, which evaluation does not need)" if self.absent else ""
        follow = f"pretint probe {self.run} --train FOLDER --test FOLDER" + (
            f", pretint colorize {self.run} PICTURES" if self.has_head else ""
        )
        return [
            f"{self.title}: {len(self.used)} keys used{aside}; {len(self.absent)} missing{absent}; 0 unused",
            *self.notes,
            *([] if self.has_head else ["no colour head: it can be probed and exported, but colours nothing"]),
            f"run: {self.run}",
            f"next: {follow}",
        ]


@dataclass
class ImportSettings:
    """What a file of weights does not say of itself.

    Args:
        mask_centre: of SIGGRAPH17: what was subtracted from the mask of hints when the weights were trained: 0 of
            the release and of weights converted from Caffe, 0.5 of those retrained in PyTorch (--mask_cent there).
    """

    mask_centre: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.mask_centre <= 1:
            raise UserError(f"mask_centre is {self.mask_centre}: it must lie in [0, 1]")


def import_weights(file: Path, run: Path, settings: ImportSettings | None = None) -> Imported:
    """Import published weights as a run of no steps, which can be probed, exported and, with a head, colour.

    Args:
        file: .pth, .torch or .safetensors: the release of ECCV16 or SIGGRAPH17, or VISSL's AlexNet or
            ResNet-50 colorization. It is known by its keys.
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


def _published(file: Path, settings: ImportSettings) -> _State:
    weights = _read(file)
    release, names = _recognise(file, weights)
    _check(file, weights, release, names)
    recipe, centring = _centred(file, release, settings)
    model = {ours: weights[key].to(like.dtype) for ours, (key, like) in names.items() if key in weights}
    absent = [key for key, _ in names.values() if key not in weights]
    model |= {ours: torch.zeros_like(like, device="cpu") for ours, (key, like) in names.items() if key in absent}
    model |= release.given
    aside = {key: weights[key].float() for key in release.aside}
    try:
        notes = release.finish(model, aside) + centring
    except UserError as error:
        raise UserError(f"{file}: {release.title}, but {error}") from error
    prior = torch.full((len(bin_centres()),), 1 / len(bin_centres()), dtype=torch.float64)
    if release.head:  # the objective's own values are no one's weights, but a checkpoint has them
        fresh = build_colorizer(recipe, prior).state_dict()
        model |= {name: value for name, value in fresh.items() if name.startswith("objective.")}
    used = [key for key, _ in names.values() if key in weights]
    parts = {"model": model, "aside": aside, "head": bool(release.head)}
    return _State(release, recipe, parts, prior, used, absent, notes)


def _centred(file: Path, release: Release, settings: ImportSettings) -> tuple[PretrainSettings, list[str]]:
    """The release's recipe with the mask centred as asked, and what to say of it."""
    recipe = release.settings
    if recipe.backbone.name != "siggraph17":
        if settings.mask_centre:
            raise UserError(f"{file}: {release.title}: it takes no hints, so leave mask_centre out")
        return recipe, []
    backbone = replace(recipe.backbone, arguments={**recipe.backbone.arguments, "mask_centre": settings.mask_centre})
    said = f"its mask of hints is 1 where there is one, less {settings.mask_centre:g}"
    other = "0.5 for weights retrained by the PyTorch code" if not settings.mask_centre else "0 for the release"
    return replace(recipe, backbone=backbone), [f"{said} (--mask_centre; {other}: the file does not say)"]


def _write(run: Path, settings: PretrainSettings, state: dict[str, Any], prior: Tensor, file: Path) -> None:
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UserError(f"{run}: exists; name a new folder for the imported weights")
    shared = {"settings": plain(settings), "colour": colour_contract(settings, prior), "versions": versions()}
    with held_run(run, plain(settings)):
        keep_checkpoint(run, {"step": 0, **shared, **state, "imported_from": file.name})


def _read(file: Path) -> Weights:
    """The tensors in a file, by name, outer wrappings removed."""
    try:
        check_published(file)
        stored: Any
        if file.suffix == ".safetensors":
            stored = load_file(file)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a file that torch did not write: it is refused below
                stored = torch.load(file, map_location="cpu", weights_only=True)
    except DamagedFileError:
        raise
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|global) (\S+)", str(error))
        if found is None:
            raise UnknownWeights(f"{file}: no PyTorch file, or a damaged one; download it again") from error
        raise UserError(
            f"{file}: holds {found[1]}, not only tensors, and reading that would run code in it; if you trust its "
            "maker, load it in a place of its own and save the tensors alone with safetensors.torch.save_file"
        ) from error
    except Exception as error:  # a file of unknown origin fails in as many ways as there are readers
        raise UnknownWeights(f"{file}: no file of weights (.pth, .torch, .safetensors), or a damaged one") from error
    for path in _NESTED:
        inner = stored
        for step in path:
            inner = inner.get(step) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            stored = inner
    if not isinstance(stored, dict):
        raise UnknownWeights(f"{file}: holds no weights by name but a {type(stored).__name__}")
    return {str(key).removeprefix("module."): value for key, value in stored.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _recognise(file: Path, weights: Weights) -> tuple[Release, dict[str, tuple[str, Tensor]]]:
    """The release that a file is of; for every weight of ours its key in the file, and a tensor of its shape."""
    scores = []
    for release in RELEASES:
        names = _names(release)
        keys = {key for key, _ in names.values() if not key.endswith(_COUNTER)} | release.aside.keys()
        scores.append((len(keys & weights.keys()) / len(keys), release, names))
    score, release, names = max(scores, key=lambda entry: entry[0])
    if score < _ENOUGH:
        known = "; ".join(release.title for release in RELEASES)
        first = f" (its first key: {min(weights)})" if weights else ""
        raise UnknownWeights(
            f"{file}: weights of no release known{first}; known are: {known}. Those of a timm model are given as "
            "backbone.weights"
        )
    return release, names


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
        outputs = 2 if settings.objective.name == "regression" else len(bin_centres())
        shape = (outputs, backbone.stages[-1].channels, 1, 1)
        names["head.weight"] = (f"{release.head}.weight", torch.empty(shape, device="meta"))
        names["head.bias"] = (f"{release.head}.bias", torch.empty(outputs, device="meta"))
    return names


def _check(file: Path, weights: Weights, release: Release, names: dict[str, tuple[str, Tensor]]) -> None:
    """Refuse what is not all of a release, and nothing else."""
    shapes = {key: tuple(like.shape) for key, like in names.values()} | release.aside
    missing = [key for key in shapes if key not in weights and not key.endswith(_COUNTER)]
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
    said = "; ".join(f"{len(keys)} {what} ({_shortened(keys)})" for what, keys in wrong.items() if keys)
    if said:
        raise UserError(f"{file}: {release.title}, but not all of it, or more, of {len(shapes)} keys: {said}")


def _shortened(names: Iterable[str]) -> str:
    names = list(names)
    more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join(names[:_NAMED] + more)
