"""The job that writes a trained network for other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pretext.data.batches import center_crop
from pretext.data.bundled import photographs
from pretext.engine.checkpoint import load_checkpoint, save_portable
from pretext.engine.memory import explain_memory_shortage
from pretext.engine.run import find_checkpoint
from pretext.errors import UserError
from pretext.pretrained import BACKBONE, CLASS_BRANCH, load_pretrained
from pretext.weights.inputs import InputWay
from pretext.weights.onnx_graph import write_onnx
from pretext.weights.plain_modules import write_plain

_WAYS: dict[str, tuple[InputWay, ...]] = {
    "safetensors": ("lightness",),
    "timm": ("lightness", "folded"),
    "torchvision": ("lightness", "folded"),
    "onnx": ("lightness", "rgb"),
}
_INSTEAD = {
    "safetensors": "the file holds weights for lightness; pretext.FromRgb puts an RGB front end before the backbone",
    "timm": "a plain module has no place for the exact conversion: take folded, which is near, or onnx",
    "torchvision": "a plain module has no place for the exact conversion: take folded, which is near, or onnx",
    "onnx": "rgb, which is exact, costs nothing there",
}
_KEPT = ("step", "settings", "color", "classes", "versions", "aside", "imported_from")


@dataclass
class ExportSettings:
    """What is written.

    Args:
        format: safetensors, a checkpoint that Pretint reads again; timm or torchvision, a state dict of
            their plain module; onnx, a graph.
        part: backbone; colorizer, which has the color head too; auto takes the colorizer for
            safetensors, the backbone otherwise.
        input: lightness, L in [0, 100] as in training, or for timm and torchvision normalized as they do;
            rgb (onnx): sRGB in [0, 1], from which L is computed exactly; folded (timm, torchvision):
            normalized RGB in a first convolution of three channels, nearly the same.
        size: side, in pixels, of the images that the result is checked on; 0 takes the size of training.
    """

    format: Literal["safetensors", "timm", "torchvision", "onnx"] = "safetensors"
    part: Literal["auto", "backbone", "colorizer"] = "auto"
    input: InputWay = "lightness"
    size: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.size <= 4096:
            raise UserError(f"size is {self.size}: it must lie in [0, 4096]")
        if self.part == "colorizer" and self.format in ("timm", "torchvision"):
            raise UserError(f"{self.format} modules have no color head; leave part out, or take safetensors or onnx")
        if self.input not in _WAYS[self.format]:
            raise UserError(f"input {self.input} is not for the format {self.format}: {_INSTEAD[self.format]}")

    @property
    def ending(self) -> str:
        """Of the name of the file."""
        return ".onnx" if self.format == "onnx" else ".safetensors"


class Exported(NamedTuple):
    """What was written."""

    file: Path
    notes: list[str]
    """How to use it, and what was measured, a line each."""


@explain_memory_shortage("lower size")
def export(model: Path, destination: Path, settings: ExportSettings) -> Exported:
    """Write the network of a run or checkpoint.

    What another program will run is run here first, on the built-in photographs, and compared.

    Args:
        model: a run, whose newest checkpoint is taken, or a checkpoint file.
        destination: a new file, .onnx for that format and .safetensors otherwise.
        settings: what, and how.

    Raises:
        UserError: see the message.
    """
    if destination.suffix != settings.ending:
        raise UserError(
            f"{destination}: a file of the format {settings.format} must end in {settings.ending}, "
            "or give another format"
        )
    if destination.exists():
        raise UserError(f"{destination}: exists; remove it, or name another file")
    pretrained = load_pretrained(model)
    part = settings.part
    if part == "auto":
        part = "colorizer" if settings.format == "safetensors" and pretrained.has_head else "backbone"
    if part == "colorizer" and not pretrained.has_head:
        raise UserError(f"{model}: these weights have no color head; export their backbone")
    warnings = [pretrained.warning] if pretrained.untrained else []
    if settings.format == "safetensors":
        return Exported(destination, _write_safetensors(model, destination, part == "colorizer") + warnings)
    size = pretrained.colorizer.backbone.fit_size(settings.size or pretrained.settings.view_size)
    with torch.no_grad():
        if settings.format == "onnx":
            colorizer = pretrained.colorizer if part == "colorizer" else None
            notes = write_onnx(destination, pretrained.colorizer.backbone, colorizer, settings.input, _images, size)
        else:
            notes = write_plain(destination, settings.format, pretrained, settings.input, _images, size)
    return Exported(destination, [*notes, *warnings])


def _write_safetensors(model: Path, destination: Path, whole: bool) -> list[str]:
    state = load_checkpoint(find_checkpoint(model))
    judged = state.get("average", state["model"])
    weights = {
        name: value
        for name, value in judged.items()
        if name.startswith(BACKBONE) or (whole and not name.startswith(CLASS_BRANCH))
    }
    kept: dict[str, Any] = {name: state[name] for name in _KEPT if name in state}
    save_portable(destination, {"model": weights, "head": whole, **kept})
    what = "the backbone and its color head" if whole else "the backbone alone"
    return [
        f"{len(weights)} tensors: {what}, with settings and color contract; read as a checkpoint by every command "
        "and by pretext.load_pretrained"
    ]


def _images(count: int, size: int) -> Tensor:
    """The middles of the first built-in photographs: (count, 3, size, size), sRGB in [0, 1]."""
    chosen = list(photographs().values())[:count]
    return torch.from_numpy(np.stack([center_crop(one, size) for one in chosen])).permute(0, 3, 1, 2).float() / 255
