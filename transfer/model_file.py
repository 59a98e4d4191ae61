"""A fine-tuned network as one file: ``model.safetensors`` has its weights and all that is needed to use it.

No code is in it, and opening it runs none.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import nn

from pretext import roles
from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.settings import settings_from, to_plain
from transfer.adapt import AdaptSettings, adapt
from transfer.networks import Network, open_architecture
from transfer.tasks.alignment import FeatureNetwork
from transfer.tasks.registry import TASKS, FinetuneSettings, Task

NAME = "model.safetensors"
_FORMAT = "pretint model 1"
_KEY = "pretint"


@dataclass
class FinetunedModel:
    """A fine-tuned network that was read from a file."""

    task: Task
    """Its task, which has no images."""
    module: nn.Module
    """On the CPU, in eval mode."""
    channels: tuple[str, ...]
    """The named channels of the images that it takes; () for 8-bit sRGB."""
    facts: Mapping[str, Any]
    """What the file says about it."""


def model_bytes(
    task: Task, network: Network, rescaled: bool, settings: FinetuneSettings, state: Mapping[str, torch.Tensor]
) -> bytes:
    """Return the content of a model's file.

    Args:
        task: what it was trained for.
        network: what it was made of.
        rescaled: whether that was rescaled first.
        settings: of the fine-tuning.
        state: the trained weights.
    """
    facts = {
        "format": _FORMAT,
        "pretint": version("pretint"),
        "task": task.name,
        "classes": list(task.classes),
        "multilabel": bool(getattr(task, "multilabel", False)),
        "backbone": network.backbone,
        "arguments": network.arguments,
        "in_color": network.in_color,
        "view_size": network.view_size,
        "rescaled": rescaled,
        "channels": list(network.source_channels),
        "settings": roles.select(settings, "science", "seed"),
    }
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    return safetensors.torch.save(tensors, {_KEY: json.dumps(to_plain(facts))})


def write_model(path: Path, content: bytes) -> None:
    """Write a model's file, atomically."""
    write_atomically(path, content)


@torch.inference_mode(False)
@torch.enable_grad()  # gradients show which layers a stage depends on
def read_model(path: Path) -> FinetunedModel:
    """Read a model: its file, or the folder of the fine-tuning that holds it.

    Raises:
        UserError: there is no such file, it is damaged or no model of this version, or its weights do not fit.
    """
    file = path / NAME if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise UserError(f"{path}: holds no {NAME}; give the folder of a finished finetune, RUN/finetuned/NAME")
    try:
        with safetensors.safe_open(file, "pt") as opened:
            facts = json.loads((opened.metadata() or {}).get(_KEY, "null"))
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file; give a model that pretint finetune wrote") from error
    except Exception as error:  # damaged bytes make the library raise several types
        raise UserError(f"{file}: damaged, or no safetensors file ({str(error)[:80]})") from error
    if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
        raise UserError(f"{file}: no model of pretint finetune of this version; a run is no model: fine-tune it first")
    try:
        kind = TASKS[facts["task"]]
        settings = settings_from(kind.settings, facts["settings"], str(file))
        network = open_architecture(facts["backbone"], facts["arguments"], facts["in_color"], facts["view_size"])
        channels = tuple(facts["channels"])
        network.set_channels(channels)
        assert isinstance(kind.open, type) and issubclass(kind.open, Task), facts["task"]
        task = kind.open.without_images(settings, facts["classes"], facts["multilabel"])
        adaptation = AdaptSettings(settings.freeze_to, settings.batch_norm, settings.color)
        used = task.used(cast(FeatureNetwork, network.module))
        module = task.network(adapt(network, adaptation, None, facts["rescaled"], used))
        module.load_state_dict(state)
    except (KeyError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: its weights and what it says about them do not fit ({reason})") from error
    return FinetunedModel(task, module.eval().requires_grad_(False), channels, facts)
