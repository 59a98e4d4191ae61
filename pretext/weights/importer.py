"""Import of published colorization weights as a run: files are read safely, and every key must be known.

``RELEASES`` lists the weights that Pretint knows: their names, their scalings, the recipe they fit. Sources:
``colorizers/eccv16.py``, ``siggraph17.py`` and ``base_color.py`` of richzhang/colorization;
``alexnet_colorization.py``, ``resnext.py``, ``img_pil_to_lab_tensor.py`` and the converters in ``extra_scripts`` of
facebookresearch/vissl, whose issue 518 lists the keys of its ResNet-50 file.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pretext.backbones import build_backbone
from pretext.backbones.contract import BackboneSettings
from pretext.data.batches import CropSettings
from pretext.engine import distributed
from pretext.engine.device import versions
from pretext.engine.progress import say
from pretext.engine.run import lock_run, write_checkpoint
from pretext.errors import UserError
from pretext.gamut import TEMPERATURE, bin_centers
from pretext.methods.colorization import NoHead
from pretext.methods.objectives import AB_SCALE, ObjectiveSettings
from pretext.pretrained import BACKBONE, Pretrained, color_contract
from pretext.recipe import PretrainSettings, build_colorizer
from pretext.settings import to_plain
from pretext.weights.state_dict import (
    COUNTER,
    UnknownWeights,
    Weights,
    find_prefixes,
    find_weights,
    flatten_names,
    read_file,
    shorten,
    split_part,
)

__all__ = ["ImportSettings", "Imported", "UnknownWeights", "import_weights", "load_release"]

_VISSL_ALEXNET = {"conv1": 0, "conv2": 2, "conv3": 4, "conv4": 5, "conv5": 6}
_BIN_TOLERANCE = 0.5  # Lab units; the grid's step is 10
_NAMES_SHOWN = 4


class Release(NamedTuple):
    """A published network: the recipe that builds it, and the names in its file."""

    title: str
    settings: PretrainSettings
    published: Callable[[str], str]
    """Returns the name in the file for a name in the backbone."""
    head: str = ""
    """The prefix of the color head's names in the file; empty if the file has none."""
    constants: Weights = {}  # noqa: RUF012 - a NamedTuple's default; never changed
    """Values of the backbone that the release's code sets, and that are not in its file."""
    aside: dict[str, tuple[int, ...]] = {}  # noqa: RUF012
    """Shapes of the weights in the file that the colorizer does not use; the checkpoint keeps them separately."""
    finish: Callable[[Weights, Weights], list[str]] = lambda model, aside: []
    """Converts the weights to Pretint's scalings, in place, and returns notes for the user."""


def _recipe(
    name: str, size: int, stride: int, objective: ObjectiveSettings | None = None, **arguments: object
) -> PretrainSettings:
    """Return a recipe for images of ``size`` pixels; its other settings are not those of the original training."""
    return PretrainSettings(
        crop=CropSettings(size=size, area=(1.0, 1.0)),
        backbone=BackboneSettings(name, dict(arguments)),
        objective=objective or ObjectiveSettings("plain", stride=stride),
    )


def _finish_eccv16(model: Weights, aside: Weights) -> list[str]:
    """Change the head's bins to Pretint's order, and remove the temperature from its weights.

    The file's last layer averages the bins under the softmax, without a temperature. So the temperature, 1 / 2.606 in
    the Caffe net, is part of the weights. They are multiplied by Pretint's default, 0.38: decoding at this default
    then gives the release's colors, and a softmax without temperature gives the distribution that was trained.
    """
    file_bins = AB_SCALE * aside["model_out.weight"].flatten(1).T.double().numpy()
    bins = bin_centers()
    distances = np.abs(file_bins[:, None] - bins[None]).max(2)
    order, deviation = distances.argmin(0), float(distances.min(0).max())
    if not deviation <= _BIN_TOLERANCE or len(set(order.tolist())) < len(bins):
        raise UserError(
            f"its color bins (model_out.weight) are not the {len(bins)} of the paper: off by {deviation:.1f} Lab units"
        )
    for name in ("head.weight", "head.bias"):
        model[name] = TEMPERATURE * model[name][torch.from_numpy(order)]
    order_text = "" if (order == np.arange(len(bins))).all() else "; their order was changed to Pretint's"
    return [
        f"its color bins differ from Pretint's by at most {deviation:.2g} Lab units{order_text}",
        f"its head was multiplied by {TEMPERATURE}: at this temperature, the default, it gives the release's colors",
    ]


RELEASES = (
    Release(
        "ECCV16 colorization (PyTorch release)",
        _recipe("vgg", size=256, stride=4),
        published=lambda name: name,
        head="model8.6",
        aside={"model_out.weight": (2, 313, 1, 1)},
        finish=_finish_eccv16,
    ),
    Release(
        "SIGGRAPH17 colorization (PyTorch release)",
        _recipe("siggraph17", 256, 1, ObjectiveSettings("regression", stride=1, bounded=True)),
        published=lambda name: name,
        head="model_out.0",
        aside={"model_class.0.weight": (529, 256, 1, 1), "model_class.0.bias": (529,)},
    ),
    Release(
        "VISSL AlexNet colorization",
        _recipe("alexnet", 227, 8, geometry="test", affine=True, fully_connected=False),
        published=lambda name: f"_feature_blocks.{_VISSL_ALEXNET[name[:5]]}{name[5:]}",
    ),
    Release(
        "VISSL ResNet-50 colorization",
        _recipe("resnet50", 224, 8, last_stride=1),
        published=lambda name: name.replace("net.", "_feature_blocks.", 1),
        constants={f"{BACKBONE}lightness_mean": torch.tensor(50.0), f"{BACKBONE}lightness_std": torch.tensor(1.0)},
    ),
)


class Imported(NamedTuple):
    """The result of an import, with the use of every key."""

    run: Path
    title: str
    used: list[str]
    """Keys of the file that the colorizer uses."""
    aside: list[str]
    """Keys of the file that the colorizer does not use; the checkpoint keeps them in its group "aside"."""
    absent: list[str]
    """Missing keys that are not needed: batch norm's counters of batches."""
    notes: list[str]
    has_head: bool

    def lines(self) -> list[str]:
        """Return the result as lines for a user."""
        aside = f"; {len(self.aside)} kept aside ({shorten(self.aside, _NAMES_SHOWN)})" if self.aside else ""
        absent = f" ({len(self.absent)} counters of batches, which evaluation does not need)" if self.absent else ""
        commands = f"pretint probe {self.run} --train FOLDER --test FOLDER" + (
            f", pretint colorize {self.run} IMAGES" if self.has_head else ""
        )
        return [
            f"{self.title}: {len(self.used)} keys used{aside}; {len(self.absent)} missing{absent}; 0 unused",
            *self.notes,
            *([] if self.has_head else ["no color head: the run can be probed and exported, but cannot color images"]),
            f"run: {self.run}",
            f"next: {commands}",
        ]


@dataclass
class ImportSettings:
    """Settings of an import: facts that are not in the file of weights.

    Args:
        mask_center: for SIGGRAPH17: the number that was subtracted from the mask of hints in training: 0 for the
            release and weights converted from Caffe, 0.5 for weights retrained in PyTorch (--mask_cent there).
    """

    mask_center: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.mask_center <= 1:
            raise UserError(f"mask_center is {self.mask_center}: it must lie in [0, 1]")


def import_weights(file: Path, run: Path, settings: ImportSettings | None = None) -> Imported:
    """Import published weights as a run at step 0, which can be probed and exported and, with a head, color images.

    Args:
        file: .pth, .torch or .safetensors: the release of ECCV16 or SIGGRAPH17, or VISSL's AlexNet or ResNet-50
            colorization. It is identified by its keys, under any prefix. ``FILE#PART`` selects one of several networks.
        run: a new or empty folder.
        settings: facts that are not in the file.

    Raises:
        UserError: the file cannot be read without running code in it, is of no known release, or one of its
            weights is missing, unknown, of another shape or not finite; the folder is not empty.
    """
    state = _read_release(file, settings or ImportSettings())
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UserError(f"{run}: exists; name a new folder for the imported weights")
    shared = {
        "settings": to_plain(state.recipe),
        "color": color_contract(state.recipe, state.prior),
        "versions": versions(),
    }
    with lock_run(run, to_plain(state.recipe)):
        write_checkpoint(run, {"step": 0, **shared, **state.parts, "imported_from": file.name})
    head = bool(state.release.head)
    return Imported(
        run, state.release.title, state.used, list(state.release.aside), state.absent, state.notes, has_head=head
    )


def load_release(file: Path) -> Pretrained:
    """Load the colorizer of published weights, on the CPU, in eval mode, without making a run.

    Raises:
        UnknownWeights: the file is of no known release.
        UserError: see ``import_weights``.
    """
    state = _read_release(file, ImportSettings())
    for line in state.lines if distributed.rank() == 0 else ():
        say(f"{file}: {line}")
    colorizer = build_colorizer(state.recipe, state.prior)
    colorizer.load_state_dict(state.parts["model"], strict=bool(state.release.head))
    if not state.release.head:
        colorizer.head = NoHead(str(file))
    return Pretrained(colorizer.eval(), state.recipe, state.prior, 0, bool(state.release.head))


class _State(NamedTuple):
    """The parts of a checkpoint of published weights, and how the weights were found in the file."""

    release: Release
    recipe: PretrainSettings
    parts: dict[str, Any]
    prior: Tensor
    used: list[str]
    absent: list[str]
    notes: list[str]
    lines: list[str]
    """Lines for the user about a removed prefix and unused tensors."""


def _read_release(file: Path, settings: ImportSettings) -> _State:
    """Identify a file's release, and return its weights by Pretint's names; for errors, see ``import_weights``."""
    file, part = split_part(file)
    if not file.exists():
        raise UserError(f"{file}: no such file; docs/weights.md lists the addresses of published weights")
    stored = flatten_names(read_file(file), str(file))
    candidates = []
    for release in RELEASES:
        names = _names(release)
        needed = {key for key, _ in names.values()} | release.aside.keys()
        keys = {key: key for key in needed if not key.endswith(COUNTER)}
        candidates.append((max(find_prefixes(stored, keys).values(), default=0), release, names, keys))
    score, release, names, keys = max(candidates, key=lambda candidate: candidate[0])
    if not score:
        known = "; ".join(release.title for release in RELEASES)
        first = f" (its first key: {min(stored)})" if stored else ""
        raise UnknownWeights(
            f"{file}: weights of no known release{first}; Pretint knows: {known}. For weights of a timm model, set "
            "backbone.weights"
        )
    network = find_weights(stored, keys, part, str(file))
    weights, lines = network.weights, network.lines()
    _check(file, weights, release, names)
    recipe, mask_notes = release.settings, []
    if recipe.backbone.name == "siggraph17":
        center = settings.mask_center
        backbone = replace(recipe.backbone, arguments={**recipe.backbone.arguments, "mask_center": center})
        recipe = replace(recipe, backbone=backbone)
        other = "0.5 if the weights were retrained in PyTorch" if not center else "0 for the release"
        mask_notes.append(
            f"its mask of hints is 1 at a hint, else 0, minus {center:g} (the file does not show this number; set "
            f"--mask_center {other})"
        )
    elif settings.mask_center:
        raise UserError(f"{file}: {release.title}: it takes no hints, so leave mask_center out")
    model = {name: weights[key].to(like.dtype) for name, (key, like) in names.items() if key in weights}
    absent = [key for key, _ in names.values() if key not in weights]
    model |= {name: torch.zeros_like(like, device="cpu") for name, (key, like) in names.items() if key in absent}
    model |= release.constants
    aside = {key: weights[key].float() for key in release.aside}
    try:
        notes = release.finish(model, aside) + mask_notes
    except UserError as error:
        raise UserError(f"{file}: {release.title}, but {error}") from error
    prior = torch.full((len(bin_centers()),), 1 / len(bin_centers()), dtype=torch.float64)
    if release.head:  # a checkpoint also holds the objective's buffers, which no release has
        fresh = build_colorizer(recipe, prior).state_dict()
        model |= {name: value for name, value in fresh.items() if name.startswith("objective.")}
    used = [key for key, _ in names.values() if key in weights]
    parts = {"model": model, "aside": aside, "head": bool(release.head)}
    return _State(release, recipe, parts, prior, used, absent, lines + notes, lines)


def _names(release: Release) -> dict[str, tuple[str, Tensor]]:
    """Return name in Pretint -> (key in the release's file, a tensor of its shape on the meta device)."""
    settings = release.settings
    with torch.device("meta"):
        backbone = build_backbone(settings.backbone.name, **settings.backbone.arguments)
    names = {
        f"{BACKBONE}{name}": (release.published(name), value)
        for name, value in backbone.state_dict().items()
        if f"{BACKBONE}{name}" not in release.constants
    }
    if release.head:
        outputs = 2 if settings.objective.name == "regression" else len(bin_centers())
        shape = (outputs, backbone.stages[-1].channels, 1, 1)
        names["head.weight"] = (f"{release.head}.weight", torch.empty(shape, device="meta"))
        names["head.bias"] = (f"{release.head}.bias", torch.empty(outputs, device="meta"))
    return names


def _check(file: Path, weights: Weights, release: Release, names: dict[str, tuple[str, Tensor]]) -> None:
    """Raise a ``UserError`` if the weights are not exactly those of a release."""
    shapes = {key: tuple(like.shape) for key, like in names.values()} | release.aside
    missing = [key for key in shapes if key not in weights and not key.endswith(COUNTER)]
    unknown = [key for key in weights if key not in shapes]
    present = [key for key in shapes if key in weights]
    reshaped = [
        f"{key} {tuple(weights[key].shape)}, not {shapes[key]}"
        for key in present
        if tuple(weights[key].shape) != shapes[key]
    ]
    # Only weights of the right shape are checked: an expanded view of a few bytes can have any shape.
    not_finite = [
        key
        for key in present
        if tuple(weights[key].shape) == shapes[key] and not bool(torch.isfinite(weights[key]).all())
    ]
    wrong = {"missing": missing, "unknown": unknown, "of another shape": reshaped, "not finite": not_finite}
    faults = "; ".join(f"{len(keys)} {kind} ({shorten(keys, _NAMES_SHOWN)})" for kind, keys in wrong.items() if keys)
    if faults:
        raise UserError(f"{file}: not the {len(shapes)} keys of {release.title}: {faults}; is it the published file?")
