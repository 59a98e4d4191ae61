"""Export of a trained network for other programs: as safetensors, as a timm or torchvision state dict, or as ONNX.

An ONNX graph is run by onnxruntime and compared with the network before it is written.
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
from pretext.methods.colorization import Colorizer
from pretext.pretrained import BACKBONE, CLASS_BRANCH, load_pretrained
from pretext.weights.plain_modules import Images, InputKind, largest_difference, write_plain

TOLERANCE = 1e-4
_MAX_PROTOBUF = 2**31  # bytes
_FROM_LIGHTNESS: dict[str, tuple[InputKind, ...]] = {
    "safetensors": ("lightness",),
    "timm": ("lightness", "folded"),
    "torchvision": ("lightness", "folded"),
    "onnx": ("lightness", "rgb"),
}
_INPUT_ADVICE = {
    "safetensors": "use input lightness; in Python, pretext.FromRgb(backbone) takes RGB",
    "timm": "use input folded, which is an approximation, or format onnx, which converts RGB exactly",
    "torchvision": "use input folded, which is an approximation, or format onnx, which converts RGB exactly",
    "onnx": "use input rgb, which is exact",
}
_CHECKPOINT_KEYS = ("step", "settings", "color", "classes", "versions", "aside", "imported_from")


@dataclass
class ExportSettings:
    """Settings of an export.

    Args:
        format: safetensors: a checkpoint that Pretint can read; timm or torchvision: a state dict of their plain
            model; onnx: a graph.
        part: backbone; colorizer: backbone and color head; auto: colorizer for safetensors if there is a color head,
            otherwise backbone.
        input: auto: what the backbone reads. lightness: L in [0, 100] (for timm and torchvision: normalized). rgb: sRGB
            in [0, 1] (for timm and torchvision: normalized), from which the graph of onnx computes L exactly. folded
            (timm, torchvision): normalized RGB for a backbone that reads lightness, in a first convolution with three
            channels; an approximation. channels: named channels as their source gives them, for a backbone that reads
            such; the graph scales them.
        size: side of the images on which the result is checked, in pixels; 0: the image size of training.
    """

    format: Literal["safetensors", "timm", "torchvision", "onnx"] = "safetensors"
    part: Literal["auto", "backbone", "colorizer"] = "auto"
    input: InputKind | Literal["auto"] = "auto"
    size: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.size <= 4096:
            raise UserError(f"size is {self.size}: it must lie in [0, 4096]")
        if self.part == "colorizer" and self.format in ("timm", "torchvision"):
            raise UserError(
                f"{self.format} models have no color head; leave part out, or use format safetensors or onnx"
            )

    @property
    def ending(self) -> str:
        """The suffix of the file's name."""
        return ".onnx" if self.format == "onnx" else ".safetensors"


class Exported(NamedTuple):
    """The result of an export."""

    file: Path
    notes: list[str]
    """Lines for the user: how to use the file, and the measured differences."""


@explain_memory_shortage("lower size")
def export(model: Path, destination: Path, settings: ExportSettings) -> Exported:
    """Export the network of a run or checkpoint to a file.

    A network for another program is first run on the built-in photographs and compared with the original.

    Args:
        model: a run, whose newest checkpoint is used, or a checkpoint file.
        destination: a new file, .onnx for this format and .safetensors otherwise.
        settings: see ``ExportSettings``.

    Raises:
        UserError: the file exists or has another suffix, the network does not allow these settings, or the
            exported network computes other values.
    """
    if destination.suffix != settings.ending:
        raise UserError(
            f"{destination}: the file name for format {settings.format} must end in {settings.ending}; change the "
            "name or the format"
        )
    if destination.exists():
        raise UserError(f"{destination}: exists; remove it, or name another file")
    pretrained = load_pretrained(model)
    backbone = pretrained.colorizer.backbone
    reads: InputKind = "channels" if backbone.scale is not None else "rgb" if backbone.inputs == "rgb" else "lightness"
    input_kind = reads if settings.input == "auto" else settings.input
    if reads != "lightness" and input_kind != reads:
        raise UserError(f"{model}: this backbone reads {reads}, not {input_kind}; leave input {input_kind} out")
    if reads == "channels" and settings.format in ("timm", "torchvision"):
        raise UserError(f"{model}: format {settings.format} has no scale of channels; use safetensors or onnx")
    if reads == "lightness" and input_kind not in _FROM_LIGHTNESS[settings.format]:
        raise UserError(f"format {settings.format} has no input {input_kind}: {_INPUT_ADVICE[settings.format]}")
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
        extra: dict[str, Any] = {name: state[name] for name in _CHECKPOINT_KEYS if name in state}
        save_portable(destination, {"model": weights, "head": has_head, **extra})
        content = "the backbone and its color head" if has_head else "the backbone alone"
        note = (
            f"{len(weights)} tensors: {content}, with settings and color contract; every command and "
            "pretext.load_pretrained can read this checkpoint"
        )
        return Exported(destination, [note, *warnings])
    size = backbone.fit_size(settings.size or pretrained.settings.view_size)
    with torch.no_grad():
        if settings.format == "onnx":
            colorizer = pretrained.colorizer if part == "colorizer" else None
            notes = write_onnx(destination, backbone, colorizer, input_kind, _images, size)
        else:
            notes = write_plain(destination, settings.format, pretrained, input_kind, _images, size)
    return Exported(destination, [*notes, *warnings])


def _images(count: int, size: int) -> Tensor:
    """Return center crops of the first built-in photographs: (count, 3, size, size), sRGB in [0, 1]."""
    crops = np.stack([center_crop(photograph, size) for photograph in list(photographs().values())[:count]])
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255


class _Graph(nn.Module):
    """The module that becomes the graph: it returns every stage and, with a colorizer, ab."""

    def __init__(self, backbone: Backbone, colorizer: Colorizer | None, from_rgb: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.colorizer = colorizer
        self.from_rgb = from_rgb
        self.outputs = [stage.name for stage in backbone.stages] + (["ab"] if colorizer else [])

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(self.backbone.to_input(image) if self.from_rgb else image)
        if self.colorizer is None:
            return tuple(features.values())
        output = self.colorizer.output(features, image.shape[-2:])
        return (*features.values(), self.colorizer.objective.decode(output))


def write_onnx(
    destination: Path, backbone: Backbone, colorizer: Colorizer | None, input_kind: InputKind, images: Images, size: int
) -> list[str]:
    """Write a graph whose outputs are the stages by name and, with a colorizer, "ab".

    The number of images is dynamic, and so is their size if the network allows it.

    Args:
        destination: the file.
        backbone: the network; with a colorizer, its backbone.
        colorizer: for ab: unscaled, at the resolution of the color target, decoded at the default temperature.
        input_kind: lightness or rgb.
        images: returns real images for the comparison.
        size: their side, in pixels.

    Returns:
        Notes for the user.

    Raises:
        UserError: a package of the extra "export" is not installed, the network cannot be exported, or onnxruntime
            computes other values.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx.export needs it
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'pretint[export]'") from error
    if isinstance(backbone.inputs, tuple):
        backbone.set_source(backbone.inputs, "the input")
    graph = _Graph(backbone, colorizer, input_kind != "lightness").eval()
    batch = _batch(images, 2, size, backbone, input_kind)
    with torch.no_grad():
        graph(batch)  # raises the backbone's own error for a wrong size, not torch.export's
    larger = backbone.fit_size(size + max(stage.stride for stage in backbone.stages))
    reason = ""
    # With a dynamic size, models that tile the image into windows take hours to export; plain ViTs do not.
    fixed_size = isinstance(backbone, TimmBackbone) and timm.get_pretrained_cfg(backbone.name).fixed_input_size
    takes_any_size = not fixed_size or len({stage.stride for stage in backbone.stages}) == 1
    for dynamic in (True, False) if takes_any_size else (False,):
        batches = [batch, _batch(images, 1, larger if dynamic else size, backbone, input_kind)]
        try:
            side = torch.export.Dim.AUTO if dynamic else torch.export.Dim.STATIC
            with _quiet():
                program = torch.onnx.export(
                    graph,
                    (batch,),
                    dynamo=True,
                    input_names=[input_kind],
                    output_names=graph.outputs,
                    dynamic_shapes=({0: torch.export.Dim.AUTO, 2: side, 3: side},),
                    verbose=False,
                )
                assert program is not None
                model: Any = program.model_proto
            if model.ByteSize() >= _MAX_PROTOBUF:
                raise UserError("the network is too large for one ONNX file (2 GB); use format safetensors")
            session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            outputs = [(session.run(None, {input_kind: images.numpy()}), graph(images)) for images in batches]
            pairs = [pair for batch_outputs in outputs for pair in zip(*batch_outputs, strict=True)]
            worst = largest_difference((torch.from_numpy(exported), original) for exported, original in pairs)
        except UserError:
            raise
        except Exception as error:  # torch.onnx.export and onnxruntime can raise anything
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            continue
        if worst <= TOLERANCE:
            break
        reason = f"onnxruntime computes other values, relative difference {worst:.1g}"
    else:
        raise UserError(f"this network cannot be exported as ONNX ({reason}); use format safetensors")
    input_format = {"rgb": "sRGB in [0, 1]", "lightness": "L of CIE Lab (D65) in [0, 100]"}.get(input_kind, "")
    if isinstance(backbone.inputs, tuple):
        input_format = f"channels {', '.join(backbone.inputs)}, unscaled"
    metadata = {"input": input_format, "stages": json.dumps({s.name: [s.channels, s.stride] for s in backbone.stages})}
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    write_atomically(destination, model.SerializeToString())
    shape = [str(dim.dim_value or "any") for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return [
        f"input {input_kind}: {input_format}, {' x '.join(shape)}",
        f"outputs: {', '.join(graph.outputs)}",
        f"largest difference of onnxruntime {onnxruntime.__version__} from torch: {worst:.1e} of the largest value",
    ]


def _batch(images: Images, count: int, size: int, backbone: Backbone, input_kind: InputKind) -> Tensor:
    rgb = images(count, size)
    if (scale := backbone.scale) is not None:  # R, G, B, R, ... of photographs, in the range of the channels
        low, high = (end[:, None, None] for end in (scale.low, scale.high))
        return low + (high - low) * rgb[:, [at % 3 for at in range(len(scale.names))]]
    return rgb if input_kind == "rgb" else rgb_to_lightness(rgb)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of torch and onnxscript about their internals."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
