"""A timm backbone's weights as those of the plain timm or torchvision module, compared before they are written."""

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
"""(how many, side) -> (N, 3, side, side), sRGB in [0, 1]."""

TOLERANCE = 1e-5
_COMPARED = 8
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's presets
_ONLY_OURS = ("out_indices", "last_stride")  # arguments that no plain model takes


def write_plain(
    destination: Path, library: str, pretrained: Pretrained, way: InputKind, images: Images, size: int
) -> list[str]:
    """Write the state dict, with how to load it and what to feed it in its metadata.

    Args:
        destination: the file.
        library: timm or torchvision.
        pretrained: what to write the backbone of.
        way: lightness or folded.
        images: real ones, to compare on.
        size: their side.

    Returns:
        Notes for the user.

    Raises:
        UserError: the library has no plain module that computes the same features.
    """
    backbone = pretrained.colorizer.backbone
    if not isinstance(backbone, TimmBackbone):
        raise UserError(
            f"backbone {pretrained.settings.backbone.name} is no model of timm or torchvision; take the format "
            "safetensors or onnx"
        )
    if backbone.gray:
        raise UserError(
            f"backbone {backbone.name} takes L as gray R, G and B (gray: true), which a plain module cannot; take the "
            "format safetensors or onnx"
        )
    channels = 3 if way == "folded" else 1
    plain, make = _made(library, backbone, pretrained.settings.backbone.arguments, channels=1)
    untrained = _load_backbone(plain, backbone)
    changes = _convolutions(plain, backbone)
    published = timm.get_pretrained_cfg(backbone.name)
    mean, std = backbone.lightness_mean.item(), backbone.lightness_std.item()
    rgb = _IMAGENET if library == "torchvision" else (published.mean, published.std)
    photographs = images(_COMPARED, size)
    features = backbone(rgb_to_lightness(photographs))
    plain_features = _stages(plain, backbone, (rgb_to_lightness(photographs) - mean) / std)
    worst = largest_difference((plain_features[name], features[name]) for name in plain_features)
    if not worst <= TOLERANCE:
        raise UserError(
            f"{library}'s plain {backbone.name} computes other features than the backbone (relative difference "
            f"{worst:.1g}); take the format safetensors or onnx"
        )
    if way == "folded":
        wide, make = _made(library, backbone, pretrained.settings.backbone.arguments, channels)
        _convolutions(wide, backbone)
        fold(plain, wide, (mean, std), rgb, size)
        plain = wide
        fed = f"sRGB in [0, 1], minus {_numbers(rgb[0])}, divided by {_numbers(rgb[1])}"
    else:
        fed = f"one channel: (L - {mean:.6g}) / {std:.6g}, L of CIE Lab (D65) in [0, 100]"
    code = [*make, *changes, f'model.load_state_dict(safetensors.torch.load_file("{destination.name}"))']
    about = {"pretint": json.dumps({"code": code, "input": fed, "untrained": untrained, "step": pretrained.step})}
    write_atomically(destination, safetensors_bytes(plain.state_dict(), about))
    notes = [*code, f"input: {fed}"]
    if untrained:
        notes.append(
            f"not trained, at initial values: {', '.join(untrained)}; the features before them are: "
            "model.forward_intermediates"
        )
    if way == "lightness":
        return [*notes, f"features as the backbone's to {worst:.1e} of the largest, on {_COMPARED} photographs"]
    # How far folding takes L and the features of photographs from what they were.
    means, stds = (torch.tensor(values)[:, None, None] for values in rgb)
    off = affine_lightness().lightness(photographs) - rgb_to_lightness(photographs)
    folded = _stages(plain, backbone, (photographs - means) / stds)
    shares = []
    for name, values in folded.items():
        error, norm = (values - features[name]).square().mean().sqrt(), features[name].square().mean().sqrt()
        shares.append(f"{name} {float(error / norm):.1%}")
    return [
        *notes,
        f"on {len(photographs)} photographs L is off by {off.square().mean().sqrt():.2f} (root mean square; mean "
        f"{off.mean():+.2f}, most {off.abs().max():.1f}) of 100",
        f"and the features by, root mean square over theirs: {', '.join(shares)}",
    ]


def _made(
    library: str, backbone: TimmBackbone, arguments: Mapping[str, Any], channels: int
) -> tuple[nn.Module, list[str]]:
    """Return the plain module without classifier, in eval mode, and the code that makes it."""
    if library == "torchvision":
        name = backbone.name.partition(".")[0]
        build = getattr(torchvision.models, name, None)
        model = build(weights=None) if callable(build) and timm.is_model(name) else None
        if not isinstance(model, torchvision.models.ResNet):
            raise UserError(
                f"torchvision has no ResNet called {name}, of the same layers; take the format timm or onnx"
            )
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
        except Exception:  # as in from_timm: the next way to say it may be known
            continue
        argument_text = "".join(f", {key}={value!r}" for key, value in model_arguments.items())
        return model.eval(), [f'model = timm.create_model("{backbone.name}", pretrained=False{argument_text})']
    raise UserError(f"timm cannot make a plain {backbone.name} with the backbone's arguments; take the format onnx")


def _load_backbone(plain: nn.Module, backbone: TimmBackbone) -> list[str]:
    """Load the backbone's weights into the plain module, and return the names of those that it has none for."""
    weights = {_flat(backbone, name): value for name, value in backbone.net.state_dict().items()}
    state = plain.state_dict()
    places = {name.replace(".", "_"): name for name in state}
    lost = [name for name in weights if name not in places or weights[name].shape != state[places[name]].shape]
    if lost:
        raise UserError(
            f"the plain {backbone.name} has no place for {len(lost)} of the backbone's weights, first {lost[0]}; take "
            "the format safetensors or onnx"
        )
    plain.load_state_dict({**state, **{places[name]: value for name, value in weights.items()}})
    return [name for key, name in places.items() if key not in weights]


def _flat(backbone: TimmBackbone, name: str) -> str:
    """Return a name in timm's features-only wrapper as in the plain model, dots as underscores."""
    children = [child for child, _ in backbone.net.named_children()]
    wrapper = f"{children[0]}." if len(children) == 1 else ""
    return name.removeprefix(wrapper).replace(".", "_")


def _convolutions(plain: nn.Module, backbone: TimmBackbone) -> list[str]:
    """Give the plain convolutions the strides, dilations and paddings of the backbone's; return the code for it."""
    modules = {_flat(backbone, name): module for name, module in backbone.net.named_modules()}
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


def _stages(plain: nn.Module, backbone: TimmBackbone, batch: Tensor) -> dict[str, Tensor]:
    """Return a plain module's features at the backbone's stages; torchvision's has no module for the first."""
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
        raise UserError(
            f"timm's plain {backbone.name} shows no features to compare; take the format safetensors or onnx"
        )
    info: Any = backbone.net.feature_info
    give: Callable[..., list[Tensor]] = plain.forward_intermediates  # type: ignore[assignment]
    maps = give(batch, indices=list(info.out_indices), intermediates_only=True)
    return dict(zip(names, maps, strict=True))


def largest_difference(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the largest ``relative_difference`` of pairs of features and reference; NaN if any is NaN."""
    return float(np.max([relative_difference(features, reference) for features, reference in pairs]))


def relative_difference(features: Tensor, reference: Tensor) -> float:
    """Return the largest difference, relative to the reference's largest value; NaN if either contains NaN."""
    if features.shape != reference.shape:
        return float("inf")
    return float((features - reference).abs().max() / reference.abs().max().clamp_min(1e-12))


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
