"""Color from scribbles (Levin, Lischinski, Weiss 2004: Colorization using Optimization)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pretext.errors import UserError
from pretint.colorization.colorizers import Prediction
from pretint.colorization.hints import Hints
from pretint.colorization.methods.propagation import VARIANCE, propagate
from pretint.colorization.methods.upscale import PIXELS, AlongEdges, check_pixels, reduced_size

_LEAST_VARIANCE, _MOST_VARIANCE = 0.02, 100.0


@dataclass
class ScribbleSettings:
    """How color spreads from scribbles.

    Args:
        pixels: a larger image is solved reduced to so many, and its color is then brought to every pixel along
            the edges of the image.
        variance: factor on the variance of lightness in a 3 x 3 window: 0.6 as the released code, 2 as the paper
            prints; less keeps colors better behind weak edges, and spreads them less over texture.
    """

    pixels: int = PIXELS
    variance: float = VARIANCE

    def __post_init__(self) -> None:
        check_pixels(self.pixels)
        if not _LEAST_VARIANCE <= self.variance <= _MOST_VARIANCE:
            raise UserError(f"variance is {self.variance}: it must lie in [{_LEAST_VARIANCE}, {_MOST_VARIANCE:g}]")


class ScribblesColorist:
    """Colors the one image that was scribbled on."""

    batch, takes_hints, has_distribution = 1, True, False

    def __init__(self, hints: Hints, settings: ScribbleSettings) -> None:
        self.hints = hints
        self.settings = settings

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height to which an image of that width and height is reduced."""
        height, width = reduced_size(size[1], size[0], self.settings.pixels)
        return width, height

    def at(self, seen: Tensor, size: tuple[int, int]) -> Tensor:
        """ab, (2, h, w), float32, of the L, (h, w), of an image of ``size``, height and width, that was reduced."""
        known = self.hints.on(*size).resized(size, (seen.shape[0], seen.shape[1]))
        pixels, ab = known.pixels.astype(np.int64), known.ab.astype(np.float64)
        found = propagate(seen.double().numpy(), pixels, ab, self.settings.variance)
        return torch.from_numpy(found.ab.astype(np.float32))

    def predict(self, lightness: Tensor, size: tuple[int, int]) -> Prediction:
        """See ``pretint.colorization.colorizers.Colorist``; of one photograph."""
        (one,) = lightness[:, 0]
        return Prediction(self.at(one, (size[1], size[0]))[None])

    def enlarged(self, ab: Tensor, lightness: Tensor, size: tuple[int, int]) -> AlongEdges:
        """Along the photograph's edges; scribbled pixels have their very color."""
        return AlongEdges(ab, lightness, size, self.hints.on(size[1], size[0]))


def scribbles_colorist(hints: Hints, settings: ScribbleSettings | None = None) -> ScribblesColorist:
    """A colorist of scribbles: see ``pretint.colorization.hints``."""
    return ScribblesColorist(hints, settings or ScribbleSettings())
