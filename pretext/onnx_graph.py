"""A network as an ONNX graph, run by onnxruntime and compared before it is written."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretext.backbones.contract import Backbone
from pretext.color import rgb_to_lightness
from pretext.colorizer import Colorizer
from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.inputs import InputWay
from pretext.plain_modules import Pictures

TOLERANCE = 1e-4
_LIMIT = 2**31  # bytes of a protobuf message


class _Graph(nn.Module):
    """What the graph computes: every stage, and ab if there is a colour head."""

    def __init__(self, backbone: Backbone, colorizer: Colorizer | None, from_rgb: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.colorizer = colorizer
        self.from_rgb = from_rgb
        self.outputs = [stage.name for stage in backbone.stages] + (["ab"] if colorizer else [])

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(rgb_to_lightness(picture) if self.from_rgb else picture)
        if self.colorizer is None:
            return tuple(features.values())
        return (*features.values(), self.colorizer.ab(features, picture.shape[-2:]))


def write_onnx(
    destination: Path, backbone: Backbone, colorizer: Colorizer | None, way: InputWay, pictures: Pictures, size: int
) -> list[str]:
    """Write a graph whose outputs are the stages by name, and "ab" if a colorizer is given.

    The number of pictures and, where the network allows, their size stay free.

    Args:
        destination: the file.
        backbone: of the colorizer, if there is one.
        colorizer: for ab, unscaled, at the grid of the colour target, decoded at the default temperature.
        way: lightness or rgb.
        pictures: real ones, to compare on.
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
    batch = _batch(pictures, 2, size, way)
    larger = backbone.fit_size(size + max(stage.stride for stage in backbone.stages))
    others = [batch, _batch(pictures, 1, larger, way)] if larger != size else [batch, batch[:1]]
    names = [way, *graph.outputs]
    failed = ""
    for free in (True, False):
        try:
            with _quiet():
                model: Any = _translate(graph, batch, names, free)
            if model.ByteSize() >= _LIMIT:
                raise UserError("the network is too large for one ONNX file (2 GB)")
            data = model.SerializeToString()
            session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
            worst = max(_difference(graph, session, way, one) for one in (others if free else [batch]))
        except UserError:
            raise
        except Exception as error:  # the translation and the run fail in as many ways as there are operators
            failed = next(iter(str(error).splitlines()), "") or type(error).__name__
            continue
        if not worst <= TOLERANCE:
            failed = f"onnxruntime computes something else (relative difference {worst:.1g})"
            continue
        break
    else:
        raise UserError(f"this network cannot be written as ONNX: {failed}")
    dims = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    fed = "sRGB in [0, 1]" if way == "rgb" else "L of CIE Lab (D65) in [0, 100]"
    about = {"input": fed, "stages": json.dumps({s.name: [s.channels, s.stride] for s in backbone.stages})}
    onnx.helper.set_model_props(model, about)
    onnx.checker.check_model(model)
    write_atomically(destination, model.SerializeToString())
    free_dims = [name for name, dim in zip(("batch", "", "height", "width"), dims, strict=True) if isinstance(dim, str)]
    return [
        f"input {way}: {fed}, ({', '.join(['B', str(dims[1]), *('any' if isinstance(d, str) else str(d) for d in dims[2:])])})",
        f"outputs: {', '.join(graph.outputs)}",
        f"free: {', '.join(free_dims) or 'nothing'}",
        f"onnxruntime {onnxruntime.__version__} computes the same to {worst:.1e} of the largest",
    ]
