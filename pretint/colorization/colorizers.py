"""What a colorist is: from a photograph's lightness to its colors, whatever stands behind.

A colorist sees a photograph at a size of its choice, says what colors it has there, and how those are brought to all
of its pixels.
"""

from typing import NamedTuple, Protocol

from torch import Tensor

from pretext.gamut import STEP
from pretint.colorization.merge import Colors


class Prediction(NamedTuple):
    """What a colorist makes of photographs."""

    ab: Tensor
    """(B, 2, h, w), float32, unscaled, at the size at which they were seen."""
    logits: Tensor | None = None
    """(B, Q, ., .), float32, at the grid of the color target; of a network that says how likely colors are."""
    stride: int = 1
    """Pixels, of those seen, per point of that grid."""
    step: int = STEP
    """Lab units between the bins of the logits."""


class Colorist(Protocol):
    """Colors photographs."""

    batch: int
    """How many photographs of one seen size it is best given at once."""
    takes_hints: bool
    has_distribution: bool
    """Whether it says how likely colors are, and not only which."""

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height at which it sees a photograph of that width and height."""

    def predict(self, lightness: Tensor, size: tuple[int, int]) -> Prediction:
        """The colors of photographs.

        Args:
            lightness: (B, 1, h, w), L in [0, 100], of photographs as they are seen.
            size: width and height of the photograph, if what a user gave is in its pixels: of one then.

        Raises:
            UserError: what the user gave lies outside the photograph.
        """

    def enlarged(self, ab: Tensor, lightness: Tensor, size: tuple[int, int]) -> Colors:
        """The colors at a photograph's own size.

        Args:
            ab: (1, 2, h, w), of ``predict``.
            lightness: (1, 1, h, w), as it was seen.
            size: width and height of the photograph.
        """
