"""Backbones: networks that compute features from lightness or colors. Each has its file; all have the same interface.

A backbone is built by its name: one of ``BACKBONES``, to which plugins can add, or any model of timm.
"""

import inspect
from collections.abc import Callable
from typing import Any

from pretext.backbones.alexnet import AlexNet
from pretext.backbones.autoencoder import Autoencoder
from pretext.backbones.contract import Backbone, Inputs, Stage
from pretext.backbones.from_timm import (
    TimmAb,
    TimmBackbone,
    TimmChannels,
    TimmColor,
    is_timm_model,
    timm_models,
    unknown_backbone,
)
from pretext.backbones.fusion import Fusion
from pretext.backbones.siggraph import Siggraph17
from pretext.backbones.split_brain import SplitBrain
from pretext.backbones.tiny import Tiny
from pretext.backbones.vgg import Vgg
from pretext.errors import UserError
from pretext.plugins import Registry

__all__ = [
    "BACKBONES",
    "AlexNet",
    "Autoencoder",
    "Backbone",
    "Fusion",
    "Siggraph17",
    "SplitBrain",
    "Stage",
    "TimmBackbone",
    "Tiny",
    "Vgg",
    "build_backbone",
]


def _build_split_brain(half: str = "tiny", inputs: Inputs = "rgb", **arguments: Any) -> Backbone:
    """Build two backbones named ``half`` and join them."""
    if inputs != "rgb":
        raise UserError(f"backbone split_brain: it reads rgb only, not {inputs}")
    return SplitBrain(lambda reads: build_backbone(half, inputs=reads, **arguments))


BACKBONES: Registry[Callable[..., Backbone]] = Registry(
    "backbone",
    {
        "tiny": Tiny,
        "alexnet": AlexNet,
        "vgg": Vgg,
        "siggraph17": Siggraph17,
        "fusion": Fusion,
        "autoencoder": Autoencoder,
        "split_brain": _build_split_brain,
    },
    is_reserved=is_timm_model,
)
"""Backbones that are not from timm: name -> class or function that builds it."""


def build_backbone(name: str, /, inputs: Inputs | list[str] = "lightness", **arguments: Any) -> Backbone:
    """Return the backbone of that name, with fresh weights.

    Args:
        name: a key of ``BACKBONES`` or the name of a timm model; "timm/NAME" is always timm's.
        inputs: what it reads.
        arguments: the backbone's arguments, such as ``geometry`` of "alexnet" or ``weights`` of a
            timm model.

    Raises:
        UserError: the name is unknown, or the backbone does not have an argument or reads something else.
    """
    if isinstance(inputs, list):
        inputs = tuple(inputs)
    if name in BACKBONES:
        builder = BACKBONES[name]
        parameters = inspect.signature(builder).parameters
        if inputs != "lightness":
            if "inputs" not in parameters:
                raise UserError(f"backbone {name}: it reads lightness only, not {inputs}")
            arguments["inputs"] = inputs
        try:
            inspect.signature(builder).bind(**arguments)
        except TypeError as error:
            takes = ", ".join(parameters) or "none"
            raise UserError(f"backbone {name}: {error} (arguments it takes: {takes})") from error
        return builder(**arguments)
    model = name.removeprefix("timm/")
    if model == name and not is_timm_model(name):
        raise unknown_backbone(name, [*BACKBONES, *timm_models()])
    if isinstance(inputs, tuple):
        return TimmChannels(model, inputs, **arguments)
    return {"lightness": TimmBackbone, "rgb": TimmColor, "ab": TimmAb}[inputs](model, **arguments)
