"""Backbones: networks that compute features from lightness. Each has its file; all have the same interface.

A backbone is built by its name: one of ``BACKBONES``, to which plugins can add, or any model of timm.
"""

import inspect
from collections.abc import Callable
from typing import Any

import timm

from pretext.backbones.alexnet import AlexNet
from pretext.backbones.autoencoder import Autoencoder
from pretext.backbones.contract import Backbone, Stage
from pretext.backbones.from_timm import TimmBackbone, unknown_backbone
from pretext.backbones.fusion import Fusion
from pretext.backbones.siggraph import Siggraph17
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
    "Stage",
    "TimmBackbone",
    "Tiny",
    "Vgg",
    "build_backbone",
]

BACKBONES: Registry[Callable[..., Backbone]] = Registry(
    "backbone",
    {
        "tiny": Tiny,
        "alexnet": AlexNet,
        "vgg": Vgg,
        "siggraph17": Siggraph17,
        "fusion": Fusion,
        "autoencoder": Autoencoder,
    },
    is_reserved=timm.is_model,
)
"""Backbones that are not from timm: name -> class or function that builds it."""


def build_backbone(name: str, /, **arguments: Any) -> Backbone:
    """Return the backbone of that name, with fresh weights.

    Args:
        name: a key of ``BACKBONES`` or the name of a timm model; "timm/NAME" is always timm's.
        arguments: the backbone's arguments, such as ``geometry`` of "alexnet" or ``weights`` of a
            timm model.

    Raises:
        UserError: the name is unknown, or the backbone does not have an argument.
    """
    if name.startswith("timm/"):
        return TimmBackbone(name.removeprefix("timm/"), **arguments)
    if name in BACKBONES:
        builder = BACKBONES[name]
        try:
            inspect.signature(builder).bind(**arguments)
        except TypeError as error:
            takes = ", ".join(inspect.signature(builder).parameters) or "none"
            raise UserError(f"backbone {name}: {error} (arguments it takes: {takes})") from error
        return builder(**arguments)
    if not timm.is_model(name.partition(".")[0]):
        raise unknown_backbone(name, [*BACKBONES, *timm.list_models()])
    return TimmBackbone(name, **arguments)
