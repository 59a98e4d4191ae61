"""The interface of every backbone: named stages, and a forward pass that returns the features of all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from pretext import roles
from pretext.color import rgb_to_lightness
from pretext.errors import UserError

Init = Literal["random", "data", "kmeans"]


@dataclass
class BackboneSettings:
    """The network that learns.

    Args:
        name: tiny, alexnet, vgg, siggraph17, fusion, autoencoder, any timm model, such as resnet18, or the name of a
            plugin's backbone.
        arguments: passed to the backbone's constructor, such as {geometry: test} for alexnet.
        weights: for a timm model: a local .safetensors or .pth file of published weights to start from; or
            published, which downloads timm's weights from the hub. Empty: random weights.
        init: initialization without a file of weights: random; data (scaled to images); or kmeans (clustered from
            images, as in the paper).
        init_images: number of images for init data or kmeans; all are in memory at once.
    """

    name: str = roles.science("tiny")
    arguments: dict[str, Any] = roles.science(dict)
    weights: str = roles.science("")
    init: Init = roles.science("random")
    init_images: int = roles.science(160)

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) for name in self.arguments):
            raise UserError(f"backbone.arguments is {self.arguments}: its keys must be texts")
        if "weights" in self.arguments:
            raise UserError("backbone.arguments contains weights; set backbone.weights instead")
        if self.weights and self.init != "random":
            raise UserError(
                f"backbone.init is {self.init}, which would overwrite backbone.weights: set only one of them"
            )
        if self.init_images < 1:
            raise UserError(f"backbone.init_images is {self.init_images}: it must be at least 1")


class Stage(NamedTuple):
    """A named layer of a backbone whose output is used as features."""

    name: str
    channels: int
    stride: int
    """Input pixels per feature pixel."""


class Backbone(nn.Module):
    """The part of a network that is transferred: it computes the features of every stage from lightness.

    A subclass must set ``stages`` and define ``forward``. It may also define ``fit_size`` (the allowed sizes of
    images), ``takes_hints``, and ``vector_channels`` with ``with_vector``.
    """

    stages: tuple[Stage, ...]
    """The stages, in the order of the forward pass; the input of the color head is the last one."""

    takes_hints = False
    """Whether ``forward`` also takes hints (the colors of some pixels) and their mask, see ``Siggraph17.forward``."""

    vector_channels = 0
    """The length of the vector that ``with_vector`` returns for each image; 0 if there is none."""

    def forward(self, lightness: Tensor) -> dict[str, Tensor]:
        """Return the features of every stage, in the order of ``stages``.

        Args:
            lightness: (B, 1, H, W), L of CIE Lab, unscaled, in [0, 100]. The backbone normalizes it itself.

        Returns:
            stage name -> (B, channels, about H / stride, about W / stride).
        """
        raise AssertionError("a backbone defines forward")

    def with_vector(self, lightness: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the same features, and a vector for each whole image, (B, C); only with ``vector_channels``."""
        raise AssertionError("a backbone with vector_channels defines with_vector")

    def fit_size(self, size: int) -> int:
        """Return the allowed side of an image that is nearest to ``size``, in pixels; by default ``size``."""
        return size

    def __call__(self, lightness: Tensor, *hints: Tensor) -> dict[str, Tensor]:  # for the type checker
        features: dict[str, Tensor] = super().__call__(lightness, *hints)
        return features


class FromRgb(nn.Module):
    """A backbone with a front end that computes lightness from sRGB."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.stages: tuple[Stage, ...] = backbone.stages

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        """Return the features of every stage for sRGB (B, 3, H, W), uint8 in [0, 255] or float in [0, 1]."""
        return self.backbone(rgb_to_lightness(rgb))


def channel_scaler(width: float, name: str) -> Callable[[int], int]:
    """Return a function that multiplies a number of channels by ``width``, rounded, at least 1.

    Raises:
        UserError: backbone ``name`` cannot have this width.
    """
    if not isinstance(width, (int, float)) or not 0.01 <= width <= 8:
        raise UserError(
            f"backbone {name}: width is {width!r}: it must be a number from 0.01 to 8, which multiplies the channels"
        )
    return lambda channels: max(1, round(channels * width))
