"""The interface of every backbone: what it reads, named stages, and a forward pass that returns the features of all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pretext import roles
from pretext.color import rgb_to_ab, rgb_to_lightness
from pretext.errors import UserError
from pretext.scale import GRAY, SRGB, ChannelScale

Init = Literal["random", "data", "kmeans"]

Inputs = Literal["lightness", "rgb", "ab"] | tuple[str, ...]
"""What a backbone reads: L of CIE Lab in [0, 100]; sRGB in [0, 1]; a and b of CIE Lab, unscaled; or channels by name,
each in [0, 1]."""

_CENTERS: dict[Inputs, tuple[float, float]] = {"lightness": (50, 50), "rgb": (0.5, 0.5), "ab": (0, 110)}
_MOST_CHANNELS = 32


@dataclass
class BackboneSettings:
    """The network that learns.

    Args:
        name: tiny, alexnet, vgg, siggraph17, fusion, autoencoder, split_brain, any timm model, such as resnet18, or the
            name of a plugin's backbone.
        arguments: passed to the backbone's constructor, such as {geometry: test} for alexnet.
        inputs: what it reads: lightness; rgb; or channels by name, such as [B02, B08], of a data.source that has them
            (the last two: tiny, alexnet and timm models). Colorization needs lightness.
        weights: for a timm model: a local .safetensors or .pth file of published weights to start from; or
            published, which downloads timm's weights from the hub. Empty: random weights.
        init: initialization without a file of weights: random; data (scaled to images); or kmeans (clustered from
            images, as in the paper).
        init_images: number of images for init data or kmeans; all are in memory at once.
    """

    name: str = roles.science("tiny")
    arguments: dict[str, Any] = roles.science(dict)
    inputs: Literal["lightness", "rgb"] | list[str] = roles.science("lightness")
    weights: str = roles.science("")
    init: Init = roles.science("random")
    init_images: int = roles.science(160)

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) for name in self.arguments):
            raise UserError(f"backbone.arguments is {self.arguments}: its keys must be texts")
        for name in {"weights", "inputs"} & self.arguments.keys():
            raise UserError(f"backbone.arguments contains {name}; set backbone.{name} instead")
        if isinstance(self.inputs, list) and not 1 <= len(set(self.inputs)) == len(self.inputs) <= _MOST_CHANNELS:
            raise UserError(f"backbone.inputs is {self.inputs}: give 1 to {_MOST_CHANNELS} different channels")
        if self.weights and self.init != "random":
            raise UserError(
                f"backbone.init is {self.init}, which would overwrite backbone.weights: set only one of them"
            )
        if self.init_images < 1:
            raise UserError(f"backbone.init_images is {self.init_images}: it must be at least 1")

    @property
    def built_with(self) -> dict[str, Any]:
        """All arguments of ``build_backbone``."""
        reads = tuple(self.inputs) if isinstance(self.inputs, list) else self.inputs
        return {**self.arguments, **({} if reads == "lightness" else {"inputs": reads})}


class Stage(NamedTuple):
    """A named layer of a backbone whose output is used as features."""

    name: str
    channels: int
    stride: int
    """Input pixels per feature pixel."""


class Backbone(nn.Module):
    """The part of a network that is transferred: it computes the features of every stage.

    A subclass must set ``stages`` and define ``forward``. It may also set ``inputs`` and define ``fit_size`` (the
    allowed sizes of images), ``takes_hints``, and ``vector_channels`` with ``with_vector``.
    """

    inputs: Inputs = "lightness"
    """What ``forward`` reads."""

    stages: tuple[Stage, ...]
    """The stages, in the order of the forward pass; the input of the color head is the last one."""

    takes_hints = False
    """Whether ``forward`` also takes hints (the colors of some pixels) and their mask, see ``Siggraph17.forward``."""

    scale: ChannelScale | None
    """The scale of the channels that it reads by name, see ``reads``."""

    vector_channels = 0
    """The length of the vector that ``with_vector`` returns for each image; 0 if there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the features of every stage, in the order of ``stages``.

        Args:
            x: (B, C, H, W), what ``inputs`` says, by default L, unscaled. The backbone normalizes it itself.

        Returns:
            stage name -> (B, channels, about H / stride, about W / stride).
        """
        raise AssertionError("a backbone defines forward")

    def set_inputs(self, inputs: Inputs) -> None:
        """Set what it reads; its constructor calls this. A scale of named channels is a part of the network."""
        self.inputs = inputs
        if isinstance(inputs, tuple):
            self.scale, self._positions, self.source_channels = ChannelScale(inputs), [*range(len(inputs))], len(inputs)

    def set_source(self, channels: Sequence[str], origin: str) -> None:
        """Say which channels the images have that ``to_input`` gets: names, or () for 8-bit sRGB.

        Raises:
            UserError: it cannot read such images. ``origin`` is their name.
        """
        if isinstance(self.inputs, tuple):
            if missing := [name for name in self.inputs if name not in channels]:
                which = f"has {', '.join(channels)}" if channels else "is 8-bit sRGB: write channels:NAMES:SOURCE"
                raise UserError(f"{origin}: the backbone reads channel {missing[0]}, which is not there: it {which}")
            self._positions, self.source_channels = [channels.index(name) for name in self.inputs], len(channels)
        elif tuple(channels) not in ((), GRAY, SRGB):
            raise UserError(
                f"{origin}: the backbone reads {self.inputs}, which {', '.join(channels)} do not have; set "
                "backbone.inputs to some of them"
            )

    def to_unit(self, images: Tensor) -> Tensor:
        """Return the channels that it reads of images, (B, C, H, W): sRGB, or named channels in [0, 1].

        Args:
            images: (B, C, H, W): sRGB, uint8 in [0, 255] or float in [0, 1]; gray in [0, 1]; or named channels as their
                source gives them.
        """
        if self.scale is not None:
            unit: Tensor = self.scale(images[:, self._positions])
            return unit
        return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images

    def to_input(self, images: Tensor) -> Tensor:
        """Return what ``forward`` reads of images; arguments as for ``to_unit``."""
        return self.from_unit(self.to_unit(images))

    def from_unit(self, images: Tensor) -> Tensor:
        """Return what ``forward`` reads of images of ``to_unit``. What is not known (NaN) lies in the middle."""
        if self.scale is not None:
            return images.nan_to_num(0.5)
        if self.inputs == "rgb":
            return images if images.is_floating_point() else images.float() / 255
        return rgb_to_lightness(images) if self.inputs == "lightness" else rgb_to_ab(images)

    def pool_last(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the mean of the last stage's features over all places, (B, C), float32 at least."""
        last = features[self.stages[-1].name]
        return (last if last.dtype == torch.float64 else last.float()).mean((2, 3))

    def with_vector(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the same features, and a vector for each whole image, (B, C); only with ``vector_channels``."""
        raise AssertionError("a backbone with vector_channels defines with_vector")

    def fit_size(self, size: int) -> int:
        """Return the allowed side of an image that is nearest to ``size``, in pixels; by default ``size``."""
        return size

    def __call__(self, x: Tensor, *hints: Tensor) -> dict[str, Tensor]:  # for the type checker
        features: dict[str, Tensor] = super().__call__(x, *hints)
        return features


class FromRgb(nn.Module):
    """A backbone with a front end that computes what it reads from sRGB."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.stages: tuple[Stage, ...] = backbone.stages

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the features of every stage; arguments as for ``Backbone.to_unit``."""
        return self.backbone(self.backbone.to_input(images))


def channel_count(inputs: Inputs) -> int:
    """Return how many channels a backbone with these inputs reads."""
    return len(inputs) if isinstance(inputs, tuple) else {"lightness": 1, "rgb": 3, "ab": 2}[inputs]


def center(x: Tensor, inputs: Inputs) -> Tensor:
    """Return a backbone's input, (B, C, H, W), scaled to about [-1, 1]."""
    middle, half = _CENTERS["rgb" if isinstance(inputs, tuple) else inputs]
    return (x - middle).div_(half)


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
