"""The job that writes a trained network for other programs: as safetensors, as a plain module's weights, or as ONNX.

An ONNX graph is run by onnxruntime and compared before it is written.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import timm
import torch
from torch import Tensor, nn

from pretext.backbones.contract import Backbone
from pretext.backbones.from_timm import TimmBackbone
from pretext.color import rgb_to_lightness
from pretext.data.batches import center_crop
from pretext.data.bundled import photographs
from pretext.engine.checkpoint import load_checkpoint, save_portable
from pretext.engine.memory import explain_memory_shortage
from pretext.engine.run import find_checkpoint
from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.methods.colorizer import Colorizer
from pretext.pretrained import BACKBONE, CLASS_BRANCH, load_pretrained
from pretext.weights.inputs import InputKind
from pretext.weights.plain_modules import Images, largest_difference, write_plain

TOLERANCE = 1e-4
_LIMIT = 2**31  # bytes of a protobuf message
_WAYS: dict[str, tuple[InputKind, ...]] = {
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
    """Settings of an export.

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
    input: InputKind = "lightness"
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
    """The result of an export."""

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
        state, has_head = load_checkpoint(find_checkpoint(model)), part == "colorizer"
        weights = {
            name: value
            for name, value in state.get("average", state["model"]).items()
            if name.startswith(BACKBONE) or (has_head and not name.startswith(CLASS_BRANCH))
        }
        extra: dict[str, Any] = {name: state[name] for name in _KEPT if name in state}
        save_portable(destination, {"model": weights, "head": has_head, **extra})
        what = "the backbone and its color head" if has_head else "the backbone alone"
        note = (
            f"{len(weights)} tensors: {what}, with settings and color contract; read as a checkpoint by every command "
            "and by pretext.load_pretrained"
        )
        return Exported(destination, [note, *warnings])
    size = pretrained.colorizer.backbone.fit_size(settings.size or pretrained.settings.view_size)
    with torch.no_grad():
        if settings.format == "onnx":
            colorizer = pretrained.colorizer if part == "colorizer" else None
            notes = write_onnx(destination, pretrained.colorizer.backbone, colorizer, settings.input, _images, size)
        else:
            notes = write_plain(destination, settings.format, pretrained, settings.input, _images, size)
    return Exported(destination, [*notes, *warnings])


def _images(count: int, size: int) -> Tensor:
    """Return the middles of the first built-in photographs: (count, 3, size, size), sRGB in [0, 1]."""
    chosen = list(photographs().values())[:count]
    return (
        torch.from_numpy(np.stack([center_crop(photograph, size) for photograph in chosen])).permute(0, 3, 1, 2).float()
        / 255
    )


class _Graph(nn.Module):
    """The module behind the graph: it returns every stage, and ab if there is a color head."""

    def __init__(self, backbone: Backbone, colorizer: Colorizer | None, from_rgb: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.colorizer = colorizer
        self.from_rgb = from_rgb
        self.outputs = [stage.name for stage in backbone.stages] + (["ab"] if colorizer else [])

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(rgb_to_lightness(image) if self.from_rgb else image)
        if self.colorizer is None:
            return tuple(features.values())
        output = self.colorizer.output(features, image.shape[-2:])
        return (*features.values(), self.colorizer.objective.decode(output))


def write_onnx(
    destination: Path, backbone: Backbone, colorizer: Colorizer | None, way: InputKind, images: Images, size: int
) -> list[str]:
    """Write a graph whose outputs are the stages by name, and "ab" if a colorizer is given.

    The number of images and, where the network allows, their size stay free.

    Args:
        destination: the file.
        backbone: of the colorizer, if there is one.
        colorizer: for ab, unscaled, at the grid of the color target, decoded at the default temperature.
        way: lightness or rgb.
        images: real ones, to compare on.
        size: their side.

    Returns:
        Notes for the user.

    Raises:
        UserError: onnx and its like are not installed, the network cannot be written, or onnxruntime
            computes something else.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch needs it to translate
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'pretint[export]'") from error
    graph = _Graph(backbone, colorizer, way == "rgb").eval()
    batch = _batch(images, 2, size, way)
    with torch.no_grad():
        graph(batch)  # a size that it cannot take is said in its own words, not in torch.export's
    larger = backbone.fit_size(size + max(stage.stride for stage in backbone.stages))
    reason = ""
    # Windows that tile the image take hours to translate with a free size; plain vision transformers do not.
    tiled = isinstance(backbone, TimmBackbone) and timm.get_pretrained_cfg(backbone.name).fixed_input_size
    takes_any_size = not tiled or len({stage.stride for stage in backbone.stages}) == 1
    for free in (True, False) if takes_any_size else (False,):
        others = [batch, _batch(images, 1, larger if free else size, way)]
        try:
            side = torch.export.Dim.AUTO if free else torch.export.Dim.STATIC
            with _quiet():
                program = torch.onnx.export(
                    graph,
                    (batch,),
                    dynamo=True,
                    input_names=[way],
                    output_names=graph.outputs,
                    dynamic_shapes=({0: torch.export.Dim.AUTO, 2: side, 3: side},),
                    verbose=False,
                )
                assert program is not None
                model: Any = program.model_proto
            if model.ByteSize() >= _LIMIT:
                raise UserError("the network is too large for one ONNX file (2 GB); take the format safetensors")
            session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            outputs = [(graph(images), session.run(None, {way: images.numpy()})) for images in others]
            pairs = [pair for both in outputs for pair in zip(*both, strict=True)]
            worst = largest_difference((torch.from_numpy(theirs), ours) for ours, theirs in pairs)
        except UserError:
            raise
        except Exception as error:  # translation and run fail in as many ways as there are operators
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            continue
        if worst <= TOLERANCE:
            break
        reason = f"onnxruntime computes something else (relative difference {worst:.1g})"
    else:
        raise UserError(f"this network cannot be written as ONNX: {reason}")
    fed = "sRGB in [0, 1]" if way == "rgb" else "L of CIE Lab (D65) in [0, 100]"
    about = {"input": fed, "stages": json.dumps({s.name: [s.channels, s.stride] for s in backbone.stages})}
    onnx.helper.set_model_props(model, about)
    onnx.checker.check_model(model)
    write_atomically(destination, model.SerializeToString())
    shape = [str(dim.dim_value or "any") for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return [
        f"input {way}: {fed}, {' x '.join(shape)}",
        f"outputs: {', '.join(graph.outputs)}",
        f"onnxruntime {onnxruntime.__version__} computes the same to {worst:.1e} of the largest value",
    ]


def _batch(images: Images, count: int, size: int, way: InputKind) -> Tensor:
    rgb = images(count, size)
    return rgb if way == "rgb" else rgb_to_lightness(rgb)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of torch and onnxscript about their internals, while the context lasts."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
