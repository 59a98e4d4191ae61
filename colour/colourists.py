"""Colourists: from lightness to colour, whatever stands behind.

A network's colourist opens a run, a checkpoint, an exported file of ours, or the published weights of ECCV16 or
SIGGRAPH17 as they were downloaded.
"""

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pretext.colorizer import Colorizer, resample
from pretext.engine.device import pick_device
from pretext.errors import UserError
from pretext.gamut import TEMPERATURE
from pretext.objectives import Classification
from pretext.recipe import Pretrained, load_pretrained
from pretext.weights.importing import UnknownWeights, load_published

LARGEST = 4096
"""The largest shorter side at which a network is shown a picture."""


class Colourist(Protocol):
    """Colours lightness."""

    def __call__(self, lightness: Tensor) -> Tensor:
        """L, (1, 1, h, w), float32, in [0, 100] -> ab, (1, 2, h, w), float32, unscaled."""


class Hint(NamedTuple):
    """A colour that a user gave: a disc of the upright picture at full resolution, in pixels, and ab, unscaled."""

    x: float
    y: float
    radius: float
    a: float
    b: float


class NetworkColourist:
    """A trained network as a colourist; of several pictures of one size at once, too.

    Args:
        colorizer: with a colour head, in eval mode.
        size: shorter side, in pixels, at which it is shown a picture.
        temperature: of the annealed mean.
    """

    def __init__(self, colorizer: Colorizer, size: int, temperature: float = TEMPERATURE) -> None:
        self.colorizer, self.size, self.temperature = colorizer, size, temperature
        self.device = next(colorizer.parameters()).device

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height at which a picture of that size is shown."""
        scale, fit = self.size / min(size), self.colorizer.backbone.fit_size
        # A very long picture is seen shortened: the network's memory grows with the area it sees.
        width, height = (fit(min(8 * self.size, max(1, math.ceil(side * scale)))) for side in size)
        return width, height

    def __call__(self, lightness: Tensor) -> Tensor:
        """L, (B, 1, h, w), float32, in [0, 100] -> ab, (B, 2, h, w), float32, unscaled, on the network's device."""
        return self.colorizer.colorize(lightness.to(self.device), self.temperature)

    @property
    def takes_hints(self) -> bool:
        """Whether the network can be told colours."""
        return "hints" in inspect.signature(self.colorizer.backbone.forward).parameters

    @torch.inference_mode()
    def with_hints(self, lightness: Tensor, hints: Sequence[Hint], full: tuple[int, int]) -> Tensor:
        """As calling it, of one picture, with colours given in some places.

        Args:
            lightness: (1, 1, h, w).
            hints: within the picture.
            full: width and height that hints refer to.
        """
        assert self.takes_hints
        ab, mask = draw_hints(hints, full, (lightness.shape[3], lightness.shape[2]))
        colorizer, device = self.colorizer, self.device
        forward = colorizer.backbone.forward
        features = forward(lightness.to(device), hints=ab.to(device), mask=mask.to(device))  # type: ignore[call-arg]
        output = colorizer.output(features, lightness.shape[-2:])
        decoded = colorizer.objective.decode(output, self.temperature)
        return resample(decoded, colorizer.target_stride, lightness.shape[-2:])

    @property
    def has_distribution(self) -> bool:
        """Whether the network predicts how likely colours are, and not only one."""
        return isinstance(self.colorizer.objective, Classification)

    @torch.inference_mode()
    def logits(self, lightness: Tensor) -> Tensor:
        """(B, Q, ., .), float32, at the grid of the colour target; see ``has_distribution``."""
        assert self.has_distribution
        output: Tensor = self.colorizer(lightness.to(self.device))
        return output.float()


def draw_hints(hints: Sequence[Hint], full: tuple[int, int], seen: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Hints as pictures: ab, (1, 2, h, w), unscaled, 0 where there is none, and mask, (1, 1, h, w), 1 or 0.

    Where discs overlap, the later hint counts. A disc that would be smaller than a pixel is one.

    Args:
        hints: in pixels of ``full``.
        full: width and height of the picture.
        seen: width and height at which the network sees it.
    """
    width, height = seen
    ab, mask = torch.zeros(1, 2, height, width), torch.zeros(1, 1, height, width)
    across, down = width / full[0], height / full[1]
    x, y = (torch.arange(width) + 0.5)[None, :], (torch.arange(height) + 0.5)[:, None]
    for hint in hints:
        middle = hint.x * across, hint.y * down
        radius = max(hint.radius, 1e-6)
        inside = ((x - middle[0]) / (radius * across)) ** 2 + ((y - middle[1]) / (radius * down)) ** 2 <= 1
        inside[min(int(middle[1]), height - 1), min(int(middle[0]), width - 1)] = True
        ab[0, 0][inside], ab[0, 1][inside] = hint.a, hint.b
        mask[0, 0][inside] = 1
    return ab, mask


def open_colourist(
    model: Path, device: str = "auto", size: int = 0, temperature: float = TEMPERATURE
) -> NetworkColourist:
    """The colourist of a network.

    Args:
        model: a run, a checkpoint, exported .safetensors, or published weights of ECCV16 or SIGGRAPH17.
        device: auto (the GPU if there is one), cpu, cuda, ...
        size: shorter side at which it sees pictures; 0 takes the size at which it was trained to.
        temperature: of the annealed mean.

    Raises:
        UserError: there is no such model or device, the file could run code, or it has no colour head.
    """
    pretrained = open_pretrained(model)
    if not pretrained.has_head:
        raise UserError(f"{model}: these weights have no colour head; they can be probed, but colour nothing")
    colorizer = pretrained.colorizer.to(pick_device(device))
    return NetworkColourist(colorizer, size or pretrained.settings.view_size, temperature)


def open_pretrained(model: Path) -> Pretrained:
    """As ``load_pretrained``, and of published weights too.

    Raises:
        UserError: it is neither, or could run code.
    """
    try:
        return load_pretrained(model)
    except UserError as error:
        if not model.is_file():
            raise
        own = error
    try:
        return load_published(model)
    except UnknownWeights:
        raise own from None
