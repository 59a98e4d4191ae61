"""The contract of every backbone: named stages, and a forward pass that returns them all."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from pretext.errors import UserError

Init = Literal["random", "data", "kmeans"]


@dataclass
class BackboneSettings:
    """The network that learns.

    Args:
        name: tiny, alexnet, vgg, siggraph17, fusion, autoencoder, or any timm model, such as resnet18; or a plugin's.
        arguments: passed to the backbone's constructor, such as {geometry: test} for alexnet.
        weights: of a timm model: a local file of published weights to start from, .safetensors or .pth, or
            published, which fetches timm's own from the hub; empty starts from random weights.
        init: first weights, where no file gives them: random; data, scaled to images; or kmeans, clustered
            from them, as the paper's were.
        init_images: how many images init data or kmeans takes; all of them pass through memory at once.
    """

    name: str = "tiny"
    arguments: dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    init: Init = "random"
    init_images: int = 160

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) for name in self.arguments):
            raise UserError(f"backbone.arguments is {self.arguments}: its keys must be names")
        if "weights" in self.arguments:
            raise UserError("backbone.arguments holds weights; give them as backbone.weights")
        if self.weights and self.init != "random":
            raise UserError(f"backbone.init is {self.init}, which would undo backbone.weights: give one of them")
        if self.init_images < 1:
            raise UserError(f"backbone.init_images is {self.init_images}: it must be at least 1")


class Stage(NamedTuple):
    """A named point of a backbone at which features are taken."""

    name: str
    channels: int
    stride: int
    """Input pixels per feature pixel."""


class Backbone(nn.Module):
    """The part of a network that is transferred: it turns lightness into the features of every stage.

    A subclass sets ``stages`` and defines ``forward``: that is all it must have. It may also define ``fit_size``, the
    sides of images that it can take, ``takes_hints``, and ``vector_channels`` with ``with_vector``.
    """

    stages: tuple[Stage, ...]
    """In the order of the forward pass; the color head sits on the last."""

    takes_hints = False
    """Whether ``forward`` also takes hints (the colors of some pixels) and their mask, see ``Siggraph17.forward``."""

    vector_channels = 0
    """The length of the vector that ``with_vector`` returns for each image; 0 if there is none."""

    def forward(self, lightness: Tensor) -> dict[str, Tensor]:
        """Return the features of every stage, in the order of ``stages``.

        Args:
            lightness: (B, 1, H, W), L of CIE Lab, unscaled, in [0, 100]. A backbone centers and
                scales its input itself.

        Returns:
            stage name -> (B, channels, about H / stride, about W / stride).
        """
        raise AssertionError("a backbone defines forward")

    def with_vector(self, lightness: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the same features, and a vector for each whole image, (B, C); only with ``vector_channels``."""
        raise AssertionError("a backbone with vector_channels defines with_vector")

    def fit_size(self, size: int) -> int:
        """Return the side nearest to ``size`` that an image may have, in pixels; ``size`` by default."""
        return size

    def __call__(self, lightness: Tensor, *hints: Tensor) -> dict[str, Tensor]:  # for the type checker
        features: dict[str, Tensor] = super().__call__(lightness, *hints)
        return features


def channel_scaler(width: float, name: str) -> Callable[[int], int]:
    """Return a function that multiplies a number of channels by ``width``, rounded, at least 1.

    Raises:
        UserError: no such multiple of backbone ``name`` can be built.
    """
    if not isinstance(width, (int, float)) or not 0.01 <= width <= 8:
        raise UserError(f"backbone {name}: width is {width!r}: take a multiple of its channels from 0.01 to 8")
    return lambda channels: max(1, round(channels * width))
