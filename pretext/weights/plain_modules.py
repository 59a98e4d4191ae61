"""Export of a timm backbone as the weights of the plain timm or torchvision model, compared before they are written."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from pretext.weights.inputs import InputKind, affine_lightness, fold

Images = Callable[[int, int], Tensor]
"""(count, side) -> images, (count, 3, side, side), sRGB in [0, 1]."""

TOLERANCE = 1e-5
_PHOTOGRAPHS = 8
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's presets
_ONLY_OURS = ("out_indices", "last_stride")  # arguments that plain models do not take


def write_plain(
    destination: Path, library: str, pretrained: Pretrained, input_kind: InputKind, images: Images, size: int
) -> list[str]:
    """Write the state dict; the file's metadata holds the code that loads it, and the input that the model needs.

    Args:
        destination: the file.
        library: timm or torchvision.
        pretrained: the network whose backbone is written.
        input_kind: lightness or folded.
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
    channels = 3 if input_kind == "folded" else 1
    plain, make = _build_plain(library, backbone, pretrained.settings.backbone.arguments, channels=1)
    untrained = _load_backbone(plain, backbone)
    changes = _copy_convolutions(plain, backbone)
    published = timm.get_pretrained_cfg(backbone.name)
    mean, std = backbone.lightness_mean.item(), backbone.lightness_std.item()
    rgb = _IMAGENET if library == "torchvision" else (published.mean, published.std)
    photographs = images(_PHOTOGRAPHS, size)
    features = backbone(rgb_to_lightness(photographs))
    plain_features = _compute_stages(plain, backbone, (rgb_to_lightness(photographs) - mean) / std)
    worst = largest_difference((plain_features[name], features[name]) for name in plain_features)
    if not worst <= TOLERANCE:
        raise UserError(
            f"{library}'s plain {backbone.name} computes other features than the backbone (relative difference "
            f"{worst:.1g}); use format safetensors or onnx"
        )
    if input_kind == "folded":
        wide, make = _build_plain(library, backbone, pretrained.settings.backbone.arguments, channels)
        _copy_convolutions(wide, backbone)
        fold(plain, wide, (mean, std), rgb, size)
        plain = wide
        input_format = f"sRGB in [0, 1], minus {_format_numbers(rgb[0])}, divided by {_format_numbers(rgb[1])}"
    else:
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
    if input_kind == "lightness":
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
        hooked = [name for name in names if hasattr(plain, name)]
        hooks = [
            plain.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, name=name: features.__setitem__(name, output)
            )
            for name in hooked
        ]
        plain(batch)
        for hook in hooks:
            hook.remove()
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
