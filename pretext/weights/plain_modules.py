"""Export of a timm backbone as the weights of the plain timm or torchvision model, compared before they are written.

The kinds of input that an exported network can have:

lightness    one channel, as in training: L of CIE Lab.
rgb          sRGB; for a backbone that reads lightness, a front end computes L from it exactly (ONNX only).
folded       sRGB, normalized as for ImageNet classifiers; the first convolution is widened to three channels, so that
             the network has only the layers of the plain model. L is not a linear function of gamma-encoded RGB, so
             this is an approximation by the nearest affine function.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import timm
import torch
import torchvision
from torch import Tensor, nn

from pretext.backbones.from_timm import ANY_SIZE, TimmBackbone
from pretext.color import rgb_to_lightness
from pretext.engine.checkpoint import safetensors_bytes
from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.pretrained import Pretrained

InputKind = Literal["lightness", "rgb", "folded", "channels"]

Images = Callable[[int, int], Tensor]
"""(count, side) -> images, (count, 3, side, side), sRGB in [0, 1]."""

TOLERANCE = 1e-5
_PHOTOGRAPHS = 8
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's presets
_SPREAD = 0.1
_STEPS = 33
_PLAIN_CONVOLUTIONS = ("Conv2d", "Conv2dSame")  # timm's other kinds standardize their weights over the input channels
_ONLY_OURS = ("out_indices", "last_stride")  # arguments that plain models do not take


def write_plain(
    destination: Path, library: str, pretrained: Pretrained, input_kind: InputKind, images: Images, size: int
) -> list[str]:
    """Write the state dict; the file's metadata holds the code that loads it, and the input that the model needs.

    Args:
        destination: the file.
        library: timm or torchvision.
        pretrained: the network whose backbone is written.
        input_kind: lightness or folded; rgb for a backbone that reads it.
        images: returns real images for the comparison.
        size: their side, in pixels.

    Returns:
        Notes for the user.

    Raises:
        UserError: the library has no plain model that computes the same features.
    """
    backbone = pretrained.colorizer.backbone
    if not isinstance(backbone, TimmBackbone):
        raise UserError(
            f"backbone {pretrained.settings.backbone.name} is not a timm or torchvision model; use format "
            "safetensors or onnx"
        )
    if backbone.gray:
        raise UserError(
            f"backbone {backbone.name} converts L to gray RGB (gray: true), and a plain model cannot do this; use "
            "format safetensors or onnx"
        )
    plain, make = _build_plain(library, backbone, pretrained.settings.backbone.arguments, backbone.channels)
    untrained = _load_backbone(plain, backbone)
    changes = _copy_convolutions(plain, backbone)
    published = timm.get_pretrained_cfg(backbone.name)
    photographs = images(_PHOTOGRAPHS, size)
    x = backbone.to_input(photographs)
    features = backbone(x)
    plain_features = _compute_stages(plain, backbone, backbone.normalize(x))
    worst = largest_difference((plain_features[name], features[name]) for name in plain_features)
    if not worst <= TOLERANCE:
        raise UserError(
            f"{library}'s plain {backbone.name} computes other features than the backbone (relative difference "
            f"{worst:.1g}); use format safetensors or onnx"
        )
    rgb = _IMAGENET if library == "torchvision" and input_kind == "folded" else (published.mean, published.std)
    of_rgb = f"sRGB in [0, 1], minus {_format_numbers(rgb[0])}, divided by {_format_numbers(rgb[1])}"
    if input_kind == "rgb":
        input_format = of_rgb
    elif input_kind == "folded":
        mean, std = backbone.lightness_mean.item(), backbone.lightness_std.item()
        wide, make = _build_plain(library, backbone, pretrained.settings.backbone.arguments, channels=3)
        _copy_convolutions(wide, backbone)
        fold(plain, wide, (mean, std), rgb, size)
        plain = wide
        input_format = of_rgb
    else:
        mean, std = backbone.lightness_mean.item(), backbone.lightness_std.item()
        input_format = f"one channel: (L - {mean:.6g}) / {std:.6g}, L of CIE Lab (D65) in [0, 100]"
    code = [*make, *changes, f'model.load_state_dict(safetensors.torch.load_file("{destination.name}"))']
    content = {"code": code, "input": input_format, "untrained": untrained, "step": pretrained.step}
    write_atomically(destination, safetensors_bytes(plain.state_dict(), {"pretint": json.dumps(content)}))
    notes = [*code, f"input: {input_format}"]
    if untrained:
        notes.append(
            f"not trained, still at initial values: {', '.join(untrained)}; model.forward_intermediates gives the "
            "features before them"
        )
    if input_kind != "folded":
        return [*notes, f"largest difference on {_PHOTOGRAPHS} photographs: {worst:.1e} of the largest value"]
    # The errors of L and of the features that folding causes on photographs.
    means, stds = (torch.tensor(values)[:, None, None] for values in rgb)
    lightness_error = affine_lightness().lightness(photographs) - rgb_to_lightness(photographs)
    folded = _compute_stages(plain, backbone, (photographs - means) / stds)
    feature_errors = []
    for name, values in folded.items():
        error, norm = (values - features[name]).square().mean().sqrt(), features[name].square().mean().sqrt()
        feature_errors.append(f"{name} {float(error / norm):.1%}")
    return [
        *notes,
        f"error of L on {len(photographs)} photographs: {lightness_error.square().mean().sqrt():.2f} of 100 (root mean "
        f"square; mean {lightness_error.mean():+.2f}, largest {lightness_error.abs().max():.1f})",
        f"error of the features, relative to their root mean square: {', '.join(feature_errors)}",
    ]


def _build_plain(
    library: str, backbone: TimmBackbone, arguments: Mapping[str, Any], channels: int
) -> tuple[nn.Module, list[str]]:
    """Return the plain model without classifier, in eval mode, and the code that makes it."""
    if library == "torchvision":
        name = backbone.name.partition(".")[0]
        build = getattr(torchvision.models, name, None)
        model = build(weights=None) if callable(build) and timm.is_model(name) else None
        if not isinstance(model, torchvision.models.ResNet):
            raise UserError(f"torchvision has no ResNet called {name} with the same layers; use format timm or onnx")
        model.fc = nn.Identity()
        code = [f"model = torchvision.models.{name}(weights=None)", "model.fc = torch.nn.Identity()"]
        if channels == 1:
            first = model.conv1
            shape = f"1, {first.out_channels}, {first.kernel_size}, {first.stride}, {first.padding}, bias=False"
            model.conv1 = nn.Conv2d(1, first.out_channels, first.kernel_size, first.stride, first.padding, bias=False)
            code.append(f"model.conv1 = torch.nn.Conv2d({shape})")
        return model.eval(), code
    settings: dict[str, Any] = {"in_chans": channels, "num_classes": 0}
    settings |= {key: value for key, value in arguments.items() if key not in _ONLY_OURS}
    fixed = timm.get_pretrained_cfg(backbone.name).fixed_input_size
    for any_size in ANY_SIZE if fixed else ({},):
        model_arguments = {**settings, **any_size, **{key: arguments[key] for key in any_size if key in arguments}}
        try:
            model = timm.create_model(backbone.name, pretrained=False, **model_arguments)
        except Exception:  # as in from_timm: the model may take the next arguments
            continue
        argument_text = "".join(f", {key}={value!r}" for key, value in model_arguments.items())
        return model.eval(), [f'model = timm.create_model("{backbone.name}", pretrained=False{argument_text})']
    raise UserError(f"timm cannot make a plain {backbone.name} with the backbone's arguments; use format onnx")


def _load_backbone(plain: nn.Module, backbone: TimmBackbone) -> list[str]:
    """Load the backbone's weights into the plain model; return the names of the model's weights that are not loaded."""
    weights = {_flatten_name(backbone, name): value for name, value in backbone.net.state_dict().items()}
    state = plain.state_dict()
    plain_names = {name.replace(".", "_"): name for name in state}
    mismatched = [
        name for name in weights if name not in plain_names or weights[name].shape != state[plain_names[name]].shape
    ]
    if mismatched:
        raise UserError(
            f"{len(mismatched)} of the backbone's weights, the first is {mismatched[0]}, do not fit the plain "
            f"{backbone.name}; use format safetensors or onnx"
        )
    plain.load_state_dict({**state, **{plain_names[name]: value for name, value in weights.items()}})
    return [name for key, name in plain_names.items() if key not in weights]


def _flatten_name(backbone: TimmBackbone, name: str) -> str:
    """Return the plain model's name of a module or weight in timm's wrapper, with underscores for dots."""
    children = [child for child, _ in backbone.net.named_children()]
    wrapper = f"{children[0]}." if len(children) == 1 else ""
    return name.removeprefix(wrapper).replace(".", "_")


def _copy_convolutions(plain: nn.Module, backbone: TimmBackbone) -> list[str]:
    """Copy strides, dilations and paddings from the backbone's to the plain convolutions; return the code for it."""
    modules = {_flatten_name(backbone, name): module for name, module in backbone.net.named_modules()}
    code = []
    for name, module in plain.named_modules():
        like = modules.get(name.replace(".", "_"))
        if not isinstance(module, nn.Conv2d) or not isinstance(like, nn.Conv2d):
            continue
        for attribute in ("stride", "dilation", "padding"):
            if getattr(module, attribute) != getattr(like, attribute):
                setattr(module, attribute, getattr(like, attribute))
                code.append(f'model.get_submodule("{name}").{attribute} = {getattr(like, attribute)}')
    return code


def _compute_stages(plain: nn.Module, backbone: TimmBackbone, batch: Tensor) -> dict[str, Tensor]:
    """Return a plain model's features at the backbone's stages; torchvision's has no module for the first stage."""
    names = [stage.name for stage in backbone.stages]
    if isinstance(plain, torchvision.models.ResNet):
        features: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for name in filter(partial(hasattr, plain), names):
                keep = partial(lambda name, _module, _inputs, output: features.__setitem__(name, output), name)
                hooks.enter_context(plain.get_submodule(name).register_forward_hook(keep))
            plain(batch)
        return features
    if not hasattr(plain, "forward_intermediates"):
        raise UserError(f"timm's plain {backbone.name} returns no features to compare; use format safetensors or onnx")
    info: Any = backbone.net.feature_info
    compute_maps: Callable[..., list[Tensor]] = plain.forward_intermediates  # type: ignore[assignment]
    maps = compute_maps(batch, indices=list(info.out_indices), intermediates_only=True)
    return dict(zip(names, maps, strict=True))


def largest_difference(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the largest ``relative_difference`` of pairs of features and reference; NaN if any is NaN."""
    return float(np.max([relative_difference(features, reference) for features, reference in pairs]))


def relative_difference(features: Tensor, reference: Tensor) -> float:
    """Return the largest difference, relative to the reference's largest value; NaN if either contains NaN."""
    if features.shape != reference.shape:
        return float("inf")
    return float((features - reference).abs().max() / reference.abs().max().clamp_min(1e-12))


def _format_numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


class Affine(NamedTuple):
    """L as an affine function of gamma-encoded R, G and B in [0, 1]."""

    rgb: tuple[float, float, float]
    constant: float

    def lightness(self, rgb: Tensor) -> Tensor:
        """Return L, (B, 1, H, W), for images (B, 3, H, W), float in [0, 1]."""
        weights = torch.tensor(self.rgb, dtype=rgb.dtype, device=rgb.device)
        return torch.einsum("bchw,c->bhw", rgb, weights).unsqueeze(1) + self.constant


@cache
def affine_lightness() -> Affine:
    """Return the affine function nearest to L, by least squares over the sRGB cube, with the largest weights for grays.

    The weight of a color is exp(-d^2 / (2 * 0.1^2)), where d is its distance from the gray of the same mean. Most
    pixels of photographs are nearly gray; with equal weights, the error on them would be 5 L units.
    """
    axis = torch.linspace(0, 1, _STEPS, dtype=torch.float64)
    cube = torch.cartesian_prod(axis, axis, axis)
    distance = cube - cube.mean(1, keepdim=True)
    roots = torch.exp(-distance.square().sum(1) / (4 * _SPREAD**2))[:, None]  # square roots: lstsq squares the weights
    lightness = rgb_to_lightness(cube.T.reshape(3, 1, -1)).reshape(-1, 1)
    terms = torch.cat((cube, torch.ones(len(cube), 1, dtype=torch.float64)), dim=1)
    r, g, b, constant = torch.linalg.lstsq(roots * terms, roots * lightness).solution.flatten().tolist()
    return Affine((r, g, b), constant)


@torch.no_grad()
def fold(
    gray: nn.Module,
    wide: nn.Module,
    lightness: tuple[float, float],
    rgb: tuple[Sequence[float], Sequence[float]],
    size: int,
) -> str:
    """Load the weights of ``gray``, which takes L, into ``wide``, whose first convolution takes normalized RGB.

    The weights are multiplied by the slopes of the affine function. Its constant is added to the bias or, without a
    bias, subtracted from the running mean of the batch norm that follows. Zero padding of the first convolution is the
    mean lightness in ``gray`` but the mean color in ``wide``, about 4 L units brighter. The folding does not correct
    this difference at the border, and the measured errors include it.

    Args:
        gray: the net for one channel, in eval mode.
        wide: the same net for three channels, in eval mode; changed in place.
        lightness: mean and standard deviation that L is normalized by, L in [0, 100].
        rgb: means and standard deviations that R, G and B are normalized by, in [0, 1].
        size: an image side that the nets take, in pixels.

    Returns:
        The name of the widened weight.

    Raises:
        UserError: the first layer is not a plain convolution, or has no bias and no batch norm after it.
    """
    state = gray.state_dict()
    changed = [name for name, value in wide.state_dict().items() if value.shape != state[name].shape]
    name = changed[0].removesuffix(".weight") if len(changed) == 1 else ""
    first = wide.get_submodule(name) if name else None
    if not isinstance(first, nn.Conv2d) or type(first).__name__ not in _PLAIN_CONVOLUTIONS:
        raise UserError("input folded needs a plain convolution as the first layer; use input lightness or format onnx")
    affine, (mean, std), (means, stds) = affine_lightness(), lightness, rgb
    narrow = state[f"{name}.weight"]
    slopes = torch.tensor([slope * scale / std for slope, scale in zip(affine.rgb, stds, strict=True)])
    middle = affine.constant + sum(slope * mean_rgb for slope, mean_rgb in zip(affine.rgb, means, strict=True))
    constant = narrow.sum((1, 2, 3)) * ((middle - mean) / std)
    wide.load_state_dict({**state, f"{name}.weight": narrow * slopes[:, None, None]})
    if first.bias is not None:
        first.bias += constant
        return changed[0]
    norm = _norm_after(wide, first, size)
    if norm is None or norm.running_mean is None:
        raise UserError(
            "input folded needs a bias in the first convolution or a batch norm after it; use input lightness or "
            "format onnx"
        )
    norm.running_mean -= constant
    return changed[0]


def _norm_after(net: nn.Module, convolution: nn.Conv2d, size: int) -> nn.modules.batchnorm._BatchNorm | None:
    """Run the net once, and return the batch norm that takes the output of a convolution; None if there is none."""
    outputs: list[Tensor] = []
    norms_after: list[nn.modules.batchnorm._BatchNorm] = []

    def compare(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if outputs and inputs[0] is outputs[0]:
            norms_after.append(module)  # type: ignore[arg-type]

    with ExitStack() as hooks:
        hooks.enter_context(convolution.register_forward_hook(lambda _module, _inputs, output: outputs.append(output)))
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                hooks.enter_context(module.register_forward_pre_hook(compare))
        net(torch.zeros(1, 3, size, size))
    return norms_after[0] if norms_after else None
