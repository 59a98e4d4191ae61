"""A network as an ONNX graph, run by onnxruntime and compared before it is written."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from pretext.backbones.contract import Backbone
from pretext.backbones.from_timm import TimmBackbone
from pretext.color import rgb_to_lightness
from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.methods.colorizer import Colorizer
from pretext.weights.inputs import InputWay
from pretext.weights.plain_modules import Images

TOLERANCE = 1e-4
_LIMIT = 2**31  # bytes of a protobuf message


class _Graph(nn.Module):
    """What the graph computes: every stage, and ab if there is a color head."""

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
    destination: Path, backbone: Backbone, colorizer: Colorizer | None, way: InputWay, images: Images, size: int
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
    for free in (True, False) if _takes_any_size(backbone) else (False,):
        others = [batch, _batch(images, 1, larger if free else size, way)]
        try:
            with _quiet():
                model: Any = _translate(graph, batch, way, free)
            if model.ByteSize() >= _LIMIT:
                raise UserError("the network is too large for one ONNX file (2 GB); take the format safetensors")
            session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            worst = max(_difference(graph, session, way, one) for one in others)
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


def _takes_any_size(backbone: Backbone) -> bool:
    """Whether a graph of free height and width is worth trying: of windows that tile the image it takes hours."""
    tiled = isinstance(backbone, TimmBackbone) and timm.get_pretrained_cfg(backbone.name).fixed_input_size
    return not tiled or len({stage.stride for stage in backbone.stages}) == 1  # as of plain vision transformers


def _translate(graph: _Graph, batch: Tensor, way: str, free: bool) -> Any:
    kept = torch.export.Dim.AUTO if free else torch.export.Dim.STATIC
    shape = {0: torch.export.Dim.AUTO, 2: kept, 3: kept}
    program = torch.onnx.export(
        graph,
        (batch,),
        dynamo=True,
        input_names=[way],
        output_names=graph.outputs,
        dynamic_shapes=(shape,),
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _batch(images: Images, count: int, size: int, way: InputWay) -> Tensor:
    rgb = images(count, size)
    return rgb if way == "rgb" else rgb_to_lightness(rgb)


def _difference(graph: _Graph, session: Any, way: str, batch: Tensor) -> float:
    """The largest difference of any output, relative to its largest value."""
    found = session.run(None, {way: batch.numpy()})
    worst = 0.0
    for ours, theirs in zip(graph(batch), found, strict=True):
        other = torch.from_numpy(theirs)
        if other.shape != ours.shape:
            return float("inf")
        worst = max(worst, float((other - ours).abs().max() / ours.abs().max().clamp_min(1e-12)))
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and onnxscript say about their own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
