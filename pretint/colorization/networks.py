"""Networks that color photographs: a run, a checkpoint, an exported file, or published weights as downloaded."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pretext.engine.device import pick_device
from pretext.errors import UserError
from pretext.gamut import TEMPERATURE, Gamut
from pretext.methods.colorization import Colorizer, resample
from pretext.methods.objectives import Classification
from pretext.pretrained import Pretrained, load_pretrained
from pretext.weights.importer import load_release
from pretext.weights.state_dict import UnknownWeights, split_part
from pretint.colorization.hints import Hints
from pretint.colorization.merge import Enlarged, Prediction

MODELS = (
    "a model that colors is a run, a checkpoint, a file that pretint export wrote, or a file of published weights "
    "(docs/weights.md says where ECCV16 and SIGGRAPH17 are)"
)
"""The kinds of models, for messages."""
LARGEST = 4096
"""The largest shorter side, in pixels, at which a network sees an image."""
PALE = 2.0
"""Lab units: smaller a and b are not visible."""

_UNIFORM = 1.0  # Lab units
_LONG = 8  # largest ratio of the sides; a longer image is squeezed, because memory grows with the seen size


class NetworkColorist:
    """A trained network as a colorist.

    Args:
        colorizer: a network with a color head, in eval mode.
        size: shorter side, in pixels, at which it sees an image.
        temperature: the temperature of the annealed mean.
        hints: given colors of the one photograph that it colors.
        warning: a line for the user, see ``pretext.recipe.Pretrained.warning``.
    """

    def __init__(
        self,
        colorizer: Colorizer,
        size: int,
        temperature: float = TEMPERATURE,
        hints: Hints | None = None,
        warning: str = "",
    ) -> None:
        self.warning = warning
        self.colorizer, self.size, self.temperature, self.hints = colorizer, size, temperature, hints
        self.device = next(colorizer.parameters()).device
        self.batch = 1 if self.device.type == "cpu" else 8
        self.takes_hints = colorizer.backbone.takes_hints
        self.has_distribution = isinstance(colorizer.objective, Classification)

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return width and height at which it sees an image of that size."""
        scale, fit = self.size / min(size), self.colorizer.backbone.fit_size
        width, height = (fit(min(_LONG * self.size, max(1, math.ceil(side * scale)))) for side in size)
        return width, height

    def __call__(self, lightness: Tensor) -> Tensor:
        """Predict ab, (B, 2, h, w), float32, unscaled, on the network's device.

        Hints are not used, since they need the size of the photograph: see ``predict``.

        Args:
            lightness: L, (B, 1, h, w), float32, in [0, 100].
        """
        return self.decode(self.output(lightness), lightness.shape[-2:])

    def predict(self, lightness: Tensor, size: tuple[int, int]) -> Prediction:
        """Predict as a ``Colorist``; raises a ``UserError`` for a hint outside the photograph."""
        output = self.output(lightness, self.hints, size)
        ab, stride = self.decode(output, lightness.shape[-2:]), self.colorizer.target_stride
        if isinstance(self.colorizer.objective, Classification):
            assert isinstance(self.colorizer.objective.gamut, Gamut)
            return Prediction(ab, output.float(), stride, self.colorizer.objective.gamut.step)
        return Prediction(ab)

    def enlarged(self, ab: Tensor, lightness: Tensor, size: tuple[int, int]) -> Enlarged:
        """Enlarge bilinearly: a network's colors have no edges finer than it saw."""
        return Enlarged(ab, size)

    @torch.inference_mode()
    def output(self, lightness: Tensor, hints: Hints | None = None, size: tuple[int, int] = (0, 0)) -> Tensor:
        """Return the network's output, before any temperature: (B, channels, ., .), at the grid of the color target.

        Args:
            lightness: (B, 1, h, w).
            hints: given colors of a single photograph.
            size: its width and height.

        Raises:
            UserError: a hint lies outside the photograph, or the network takes none.
        """
        hint_inputs: tuple[Tensor, ...] = ()
        if hints is not None:
            assert len(lightness) == 1
            height, width = lightness.shape[-2:]
            hint_inputs = hints.maps((size[1], size[0]), (height, width))
        output: Tensor = self.colorizer(lightness.to(self.device), *(each.to(self.device) for each in hint_inputs))
        return output

    @torch.inference_mode()
    def decode(self, output: Tensor, seen: Sequence[int], temperature: float | None = None) -> Tensor:
        """Decode an output to ab, (B, 2, h, w); this is cheap, compared to the network.

        Args:
            output: a result of ``output``.
            seen: h and w.
            temperature: replaces the colorist's own.
        """
        ab = self.colorizer.objective.decode(output, self.temperature if temperature is None else temperature)
        return resample(ab, self.colorizer.target_stride, seen)


def open_network(
    model: Path, device: str = "auto", size: int = 0, temperature: float = TEMPERATURE, hints: Hints | None = None
) -> NetworkColorist:
    """Open a network as a colorist; see ``pretint.colorization.registry.open_colorist``.

    Raises:
        UserError: there is no such model or device, the file could run code, or the network has no color head or
            takes no hints.
    """
    pretrained = open_pretrained(model)
    if not pretrained.has_head:
        raise UserError(f"{model}: these weights have no color head; they can be evaluated, but cannot color")
    if hints is not None and not pretrained.colorizer.backbone.takes_hints:
        raise UserError(f"{model}: its network takes no hints; siggraph17 does. Leave --hints out")
    colorizer = pretrained.colorizer.to(pick_device(device))
    return NetworkColorist(colorizer, size or pretrained.settings.view_size, temperature, hints, pretrained.warning)


def require_model(model: Path) -> None:
    """Raise UserError if there is no file or folder of that name."""
    if not os.path.lexists(split_part(model)[0]):
        raise UserError(f"{model}: no such run or checkpoint; {MODELS}; without a network: reference:IMAGE, scribbles")


def open_pretrained(model: Path) -> Pretrained:
    """Load a network as ``load_pretrained`` does, or published weights.

    Raises:
        UserError: the file is neither, or could run code.
    """
    require_model(model)
    try:
        return load_pretrained(model)
    except UserError as error:
        if not split_part(model)[0].is_file():
            raise
        load_error = error
    try:
        return load_release(model)
    except UnknownWeights:
        raise UserError(f"{load_error}; {MODELS}") from None


class ColorRange:
    """The least and the greatest a and b over all pixels of all images that were added.

    Colors are uniform if both a and b vary by less than 1 Lab unit, as greatest minus least.
    """

    def __init__(self) -> None:
        self.images = 0
        self._ranges: list[tuple[float, float]] = [(math.inf, -math.inf)] * 2  # of a, of b

    def add(self, ab: Tensor) -> list[float]:
        """Add one image's ab, (1, 2, h, w), Lab units; return its range: least and greatest a, least and greatest b."""
        low, high = ab.amin((0, 2, 3)).tolist(), ab.amax((0, 2, 3)).tolist()
        ab_range = [round(value, 3) for value in (low[0], high[0], low[1], high[1])]
        self.add_range(ab_range)
        return ab_range

    def add_range(self, ab_range: Sequence[float]) -> None:
        """Add an image by the range that ``add`` returned earlier."""
        self.images += 1
        both = zip(self._ranges, (ab_range[:2], ab_range[2:]), strict=True)
        self._ranges = [(min(low, least), max(high, most)) for (low, high), (least, most) in both]

    @property
    def is_gray(self) -> bool:
        """Whether all colors of all images are too pale to see."""
        return all(low > -PALE and high < PALE for low, high in self._ranges)

    def describe_uniform(self) -> str:
        """Return a line for the user if all colors are uniform; empty if not."""
        if not self.images or any(high - low >= _UNIFORM for low, high in self._ranges):
            return ""
        (a, a_high), (b, b_high) = self._ranges
        which = "1 image" if self.images == 1 else f"{self.images:,} images"
        color = f"a {(a + a_high) / 2:.0f}, b {(b + b_high) / 2:.0f}, to 1 Lab unit"
        return (
            f"warning: every pixel of {which} gets the same color ({color}): the network has not learned to color, or "
            "does not recognize anything in them; train it longer, or use another network"
        )
