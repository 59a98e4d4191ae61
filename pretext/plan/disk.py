"""Disk space that a pretraining will need, computed before it starts: nothing is trained, no speed is measured."""

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
from pretext.engine.settings import MachineSettings, TrainingSettings
from pretext.engine.trainer import optimizer_and_schedule
from pretext.files import png_bytes
from pretext.methods.classifier import Classifier
from pretext.methods.colorizer import Colorizer
from pretext.methods.diagnostics import color_health, label_health
from pretext.methods.hints import HintSettings
from pretext.pretrain import checkpoint_extra, sample_sheet
from pretext.prior import load_prior
from pretext.recipe import PretrainSettings, build_network, load_held_out, open_images
from pretext.settings import to_plain

KEPT = 2
"""Checkpoints of a finished run; a moment before the older one goes, there is one more."""

_LOOKED_AT = 32
_LARGE = 2**16  # bytes: larger tensors are counted, not written
_FEW = 16  # elements, in place of a larger tensor's
_LINE, _EVENT, _BIN = 130, 100, 10  # bytes, about: of a record in the journal and in TensorBoard's file; of a number


@dataclass(frozen=True)
class DiskUsage:
    """The size of what a job writes, in bytes; a file system may round each file up to whole blocks."""

    lasting: int
    """When the job is complete."""
    passing: int
    """Beyond that at the peak: what is written before something older goes."""
    parts: tuple[tuple[str, int], ...]
    """What it consists of, by name; they add up to both together."""
    notes: tuple[str, ...] = ()
    """What is not in these numbers, or what they depend on."""


def pretrain_disk(settings: PretrainSettings) -> DiskUsage:
    """Compute what ``pretrain`` will write into a new run.

    The images are opened and the network is built, on the CPU, at random weights; no step is computed. Checkpoints
    are exact but for some bytes; a sheet of samples is drawn with the colors of another, small, network.

    Raises:
        UserError: what ``pretrain`` would say of the images or the network.
    """
    place, training = ComputeConfig(torch.device("cpu"), "fp32", 0), settings.training
    images = open_images(settings)
    prior = placeholder_prior(settings)
    network = build_network(settings, prior, images.classes)
    extra = checkpoint_extra(images, settings, prior, place.precision)
    first, later = (checkpoint_size(network, training, extra, begun) for begun in (False, True))
    views, *_ = load_held_out(
        images, min(_LOOKED_AT, settings.data.holdout), network.backbone.fit_size(settings.view_size)
    )
    plainer = dataclasses.replace(settings.objective, classes_weight=0.0)
    other = dataclasses.replace(settings, backbone=BackboneSettings("tiny"), objective=plainer, hints=HintSettings())
    small = build_network(other, prior, images.classes).eval()
    sheet = sheet_size(small, views, place)
    noted, mirrored = estimate_records(training, settings.machine, 0 if images.classes else settings.objective.bins)
    looks = count_validations(training, settings.machine)
    settings_size = len(yaml.safe_dump(to_plain(settings), sort_keys=False).encode())
    checkpoints, passing = checkpoint_parts(first, later, count_checkpoints(training, settings.machine))
    samples = (("samples", looks * sheet),) if sheet else ()
    mirror = "TensorBoard, samples once more" if sheet else "TensorBoard"
    written = (("journal and settings", noted + settings_size), (mirror, mirrored + looks * sheet))
    notes = ["A run that is stopped and goes on writes some kB more for each time."]
    if settings.online.source:
        notes.append("Left out: the online probe's records, which are small.")
    if sheet:
        notes.append("Sheets of samples are as large as a small network's: by a third more or less.")
    parts = (*checkpoints, *samples, *written)
    lasting = sum(count for _, count in parts) - passing
    return DiskUsage(lasting, passing, parts, tuple(notes))


def count_validations(training: TrainingSettings, machine: MachineSettings) -> int:
    """Return the number of validations: before the first step, then every so many steps and at the end."""
    return 1 + math.ceil(training.steps / machine.evaluate_every)


def count_checkpoints(training: TrainingSettings, machine: MachineSettings) -> int:
    """Return how often a checkpoint is written: before the first step, then every so many steps and at the end."""
    return 1 + math.ceil(training.steps / machine.checkpoint_every)


def checkpoint_parts(first: int, later: int, saves: int) -> tuple[tuple[tuple[str, int], ...], int]:
    """Return the checkpoints as parts of a ``DiskUsage``, and how much of them is passing.

    Args:
        first: bytes of that before the first step.
        later: of each other.
        saves: how many are written, of a run that nobody stops.
    """
    size_text = f"{later / 1e6:,.1f} MB"
    if saves == KEPT:
        parts = ((f"a checkpoint of {size_text}, and one before the first step", first + later),)
    else:
        parts = ((f"two checkpoints of {size_text}", KEPT * later),)
    # Also where only two are due: whoever is stopped in between saves once more.
    return (*parts, ("for moments one more", later)), later


def checkpoint_size(network: nn.Module, training: TrainingSettings, besides: dict[str, Any], begun: bool) -> int:
    """Return the size of a checkpoint file of a network in training, in bytes.

    Args:
        network: of any weights, also of the meta device.
        training: how it is trained.
        besides: what the file holds besides the trainer's state.
        begun: whether a step was done, before which optimizers have no state.
    """
    optimizer, _ = optimizer_and_schedule(network, training)
    if begun:
        # A step of a tiny weight shows what the optimizer keeps for each, and whether that has the weight's shape.
        tiny = nn.Parameter(torch.zeros(2, 3))
        tiny_optimizer, _ = optimizer_and_schedule(nn.ParameterList([tiny]), training)
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
                    name: torch.empty_like(weight, device="meta") if alike else torch.zeros(())
                    for name, alike in has_shape.items()
                }
    model = network.state_dict()
    average = {"average": {name: torch.empty_like(one, device="meta") for name, one in model.items()}}
    state = {"step": training.steps, "model": model, "optimizer": optimizer.state_dict(), **besides}
    return file_size({**state, **(average if training.ema else {})})


def file_size(state: dict[str, Any]) -> int:
    """Return the size of a state's checkpoint file, in bytes: large tensors are counted, only the rest is written.

    Tensors of the meta device will do. Tensors that share their memory count once, as in the file.
    """
    counted: dict[int, tuple[Tensor, int]] = {}

    def smaller(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: smaller(part) for name, part in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(map(smaller, value))
        if not isinstance(value, Tensor):
            return value
        storage = value.untyped_storage()
        size = storage.nbytes()
        if not value.is_meta and size <= _LARGE:
            return value
        key = storage._cdata  # of meta tensors too, which have no address
        if key not in counted:
            stand_in = torch.zeros(min(_FEW, value.numel()), dtype=value.dtype)
            counted[key] = stand_in, size - stand_in.numel() * stand_in.element_size()
        return counted[key][0]

    written = len(checkpoint_bytes(smaller(state)))
    return written + sum(more for _, more in counted.values())


def estimate_records(training: TrainingSettings, machine: MachineSettings, bins: int = 0) -> tuple[int, int]:
    """Estimate the bytes that a training loop writes into the journal, and into TensorBoard's file.

    Args:
        training: how long.
        machine: how often the network is validated and saved.
        bins: of which a validation notes a number each, in the journal alone.
    """
    looks = count_validations(training, machine)
    records = training.steps + training.steps // LOG_EVERY + looks
    return _LINE * records + _BIN * bins * looks, _EVENT * records


def sheet_size(network: Colorizer | Classifier, views: Tensor, place: ComputeConfig) -> int:
    """Return the size of a sheet of samples by a network in eval mode, in bytes; 0 where labels are learned."""
    return 0 if isinstance(network, Classifier) else len(png_bytes(sample_sheet(network, views, place)))


def health_record(
    network: Colorizer | Classifier, views: Tensor, labels: Tensor, prior: Tensor | None, place: ComputeConfig
) -> dict[str, Any]:
    """Return the journal's record of one validation, with a network in eval mode."""
    if isinstance(network, Classifier):
        return {**label_health(network, views, labels, place)}
    assert prior is not None
    return {**color_health(network, [views], prior, place)}


def estimates_prior(settings: PretrainSettings) -> bool:
    """Whether a run begins by estimating the prior from images."""
    return settings.objective.prior == "estimate" and not settings.objective.supervised


def placeholder_prior(settings: PretrainSettings) -> Tensor | None:
    """Return the prior of the recipe's file, else a uniform one, which suffices for a plan; None for labels.

    Raises:
        UserError: the file holds none.
    """
    if settings.objective.supervised:
        return None
    if estimates_prior(settings):
        return torch.full((settings.objective.bins,), 1 / settings.objective.bins, dtype=torch.float64)
    return load_prior(Path(settings.objective.prior), settings.objective.gamut)
