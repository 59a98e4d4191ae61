"""The disk space that a pretraining will need, computed before it starts, without training or measuring."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from pretext.backbones.contract import BackboneSettings
from pretext.engine.checkpoint import checkpoint_bytes
from pretext.engine.device import ComputeConfig
from pretext.engine.loop import LOG_EVERY
from pretext.engine.trainer import MachineSettings, TrainingSettings, build_optimizer
from pretext.files import png_bytes
from pretext.methods.hints import HintSettings
from pretext.pretrain import checkpoint_extra
from pretext.prior import load_prior
from pretext.recipe import PretrainSettings, RecipeImages, build_network, load_held_out, open_images
from pretext.settings import to_plain

KEPT = 2
"""Checkpoints of a finished run. For a moment there is one more: a new one is written before an old one is removed."""

_VALIDATED = 32  # images
_LARGE = 2**16  # bytes: the size of larger tensors is computed; they are not written
_FEW = 16  # elements that replace a larger tensor
_LINE, _EVENT, _BIN = 130, 100, 10  # bytes, about: a record in the journal, a record in TensorBoard's file, a number


@dataclass(frozen=True)
class DiskUsage:
    """The size of the files that a job writes, in bytes; a file system may round each file up to whole blocks."""

    lasting: int
    """The size when the job is complete."""
    passing: int
    """The additional size at the peak: a new file is written before an old one is removed."""
    parts: tuple[tuple[str, int], ...]
    """Names and sizes of the parts; they add up to ``lasting`` + ``passing``."""
    notes: tuple[str, ...] = ()
    """Remarks: which files are not included, and what the numbers depend on."""


def pretrain_disk(settings: PretrainSettings, images: RecipeImages | None = None) -> DiskUsage:
    """Compute the disk space that ``pretrain`` will need for a new run.

    This opens the images, if the caller has not, and builds the network with random weights on the CPU, but computes
    no step. The sizes of checkpoints are exact to some bytes. The size of a sample sheet is that of a small network's
    sheet.

    Raises:
        UserError: ``pretrain`` would raise it for these images or this network.
    """
    place, training = ComputeConfig(torch.device("cpu"), "fp32", 0), settings.training
    images = images or open_images(settings)
    prior = placeholder_prior(settings)
    network = build_network(settings, prior, images.classes)
    extra = checkpoint_extra(images, settings, prior, place.precision)
    first, later = (checkpoint_size(network, training, extra, begun) for begun in (False, True))
    views, labels, *_ = load_held_out(
        images, min(_VALIDATED, settings.data.holdout), network.backbone.fit_size(settings.view_size)
    )
    objective = dataclasses.replace(settings.objective, classes_weight=0.0)
    small_settings = dataclasses.replace(
        settings, backbone=BackboneSettings("tiny"), objective=objective, hints=HintSettings()
    )
    sheet = 0
    if settings.colorizes:  # other methods draw none
        small = build_network(small_settings, prior, images.classes).eval()
        _, drawn = small.diagnostics(views, labels, prior, place)
        sheet = len(png_bytes(drawn)) if drawn else 0
    journal_size, events_size = estimate_records(
        training, settings.machine, settings.objective.bins if settings.colorizes else 0
    )
    validations = count_due(training.steps, settings.machine.evaluate_every)
    settings_size = len(yaml.safe_dump(to_plain(settings), sort_keys=False).encode())
    checkpoints, passing = checkpoint_parts(first, later, count_due(training.steps, settings.machine.checkpoint_every))
    samples = (("samples", validations * sheet),) if sheet else ()
    mirror = "TensorBoard, with a copy of the samples" if sheet else "TensorBoard"
    written = (("journal and settings", journal_size + settings_size), (mirror, events_size + validations * sheet))
    notes = ["Each time a run is stopped and resumed, it writes some kB more."]
    if settings.online.source:
        notes.append("Not included: the records of the online probe, which are small.")
    if sheet:
        notes.append("The size of sample sheets is estimated with a small network and may be wrong by a third.")
    parts = (*checkpoints, *samples, *written)
    lasting = sum(count for _, count in parts) - passing
    return DiskUsage(lasting, passing, parts, tuple(notes))


def count_due(steps: int, every: int) -> int:
    """Return how often a validation or a checkpoint is due: before the first step, every so many steps, at the end."""
    return 1 + math.ceil(steps / every)


def checkpoint_parts(first: int, later: int, saves: int) -> tuple[tuple[tuple[str, int], ...], int]:
    """Return the checkpoints as parts of a ``DiskUsage``, and how much of them is passing.

    Args:
        first: size of the checkpoint before the first step, in bytes.
        later: size of each later checkpoint, in bytes.
        saves: number of checkpoints that an uninterrupted run writes.
    """
    size_text = f"{later / 1e6:,.1f} MB"
    if saves == KEPT:
        parts = ((f"a checkpoint of {size_text}, and one before the first step", first + later),)
    else:
        parts = ((f"two checkpoints of {size_text}", KEPT * later),)
    # Also if only two are due: a run that is stopped in between writes one more.
    return (*parts, ("one more for a moment, while it is written", later)), later


def checkpoint_size(network: nn.Module, training: TrainingSettings, besides: dict[str, Any], begun: bool) -> int:
    """Return the size of a checkpoint file of a network in training, in bytes.

    Args:
        network: the network, with any weights, also on the meta device.
        training: settings of its training.
        besides: the values in the file besides the trainer's state.
        begun: whether a step was done; before the first step optimizers have no state.
    """
    optimizer = build_optimizer(network, training)
    if begun:
        # A step with a tiny weight shows the optimizer's state per weight, and which of it has the weight's shape.
        tiny = nn.Parameter(torch.zeros(2, 3))
        tiny_optimizer = build_optimizer(nn.ParameterList([tiny]), training)
        tiny.grad = torch.zeros_like(tiny)
        tiny_optimizer.step()
        has_shape = {
            name: value.shape == tiny.shape
            for name, value in tiny_optimizer.state[tiny].items()
            if isinstance(value, Tensor)
        }
        for group in optimizer.param_groups:
            for weight in group["params"]:
                optimizer.state[weight] = {
                    name: torch.empty_like(weight, device="meta") if is_same else torch.zeros(())
                    for name, is_same in has_shape.items()
                }
    model = network.state_dict()
    average = {"average": {name: torch.empty_like(tensor, device="meta") for name, tensor in model.items()}}
    state = {"step": training.steps, "model": model, "optimizer": optimizer.state_dict(), **besides}
    return file_size({**state, **(average if training.ema else {})})


def file_size(state: dict[str, Any]) -> int:
    """Return the size of a state's checkpoint file, in bytes. Large tensors are replaced by small ones for this.

    Tensors may be on the meta device. Tensors that share their memory count once, as in the file.
    """
    counted: dict[int, tuple[Tensor, int]] = {}

    def shrink(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: shrink(part) for name, part in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(map(shrink, value))
        if not isinstance(value, Tensor):
            return value
        storage = value.untyped_storage()
        size = storage.nbytes()
        if not value.is_meta and size <= _LARGE:
            return value
        key = storage._cdata  # meta tensors have one too, but no address
        if key not in counted:
            stand_in = torch.zeros(min(_FEW, value.numel()), dtype=value.dtype)
            counted[key] = stand_in, size - stand_in.numel() * stand_in.element_size()
        return counted[key][0]

    written = len(checkpoint_bytes(shrink(state)))
    return written + sum(more for _, more in counted.values())


def estimate_records(training: TrainingSettings, machine: MachineSettings, bins: int = 0) -> tuple[int, int]:
    """Estimate the bytes that a training loop writes into the journal, and into TensorBoard's file.

    Args:
        training: gives the number of steps.
        machine: gives the number of validations.
        bins: number of color bins: each validation writes a number per bin, to the journal only.
    """
    validations = count_due(training.steps, machine.evaluate_every)
    records = training.steps + training.steps // LOG_EVERY + validations
    return _LINE * records + _BIN * bins * validations, _EVENT * records


def estimates_prior(settings: PretrainSettings) -> bool:
    """Whether a run begins by estimating the prior from images."""
    return settings.objective.prior == "estimate" and settings.method.kind.colored


def placeholder_prior(settings: PretrainSettings) -> Tensor | None:
    """Return the prior from the recipe's file, else a uniform one, which is enough for a plan; None without colors.

    Raises:
        UserError: the file holds no prior.
    """
    if not settings.method.kind.colored:
        return None
    if estimates_prior(settings):
        return torch.full((settings.objective.bins,), 1 / settings.objective.bins, dtype=torch.float64)
    return load_prior(Path(settings.objective.prior), settings.objective.gamut)
