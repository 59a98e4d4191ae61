"""Colorists by name: a network (a run, a checkpoint, an exported file, published weights), a reference image, or
scribbles.

A colorist predicts the colors of a photograph from its lightness. It sees the photograph at a size of its choice, and
brings the colors to all pixels.
"""

from pathlib import Path
from typing import Protocol

from torch import Tensor

from pretext.engine.run import find_checkpoint
from pretext.errors import UserError
from pretext.gamut import TEMPERATURE
from pretext.weights.state_dict import split_part
from pretint.colorization.hints import Hints, read_hints
from pretint.colorization.merge import ColorSource, Prediction
from pretint.colorization.networks import open_network
from pretint.colorization.reference import ReferenceSettings, open_reference
from pretint.colorization.scribbles import ScribbleSettings, scribbles_colorist


class Colorist(Protocol):
    """Colors photographs."""

    batch: int
    """The best number of photographs of one seen size to predict at once."""
    takes_hints: bool
    has_distribution: bool
    """Whether it predicts a distribution over colors, and not only one color."""

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return width and height at which it sees a photograph of that width and height."""

    def predict(self, lightness: Tensor, size: tuple[int, int]) -> Prediction:
        """Predict the colors of photographs.

        Args:
            lightness: (B, 1, h, w), L in [0, 100], of photographs at the seen size.
            size: width and height of the photograph. Hints and swatches are in its pixels; with them B is 1.

        Raises:
            UserError: a hint or swatch lies outside the photograph.
        """

    def enlarged(self, ab: Tensor, lightness: Tensor, size: tuple[int, int]) -> ColorSource:
        """Return the colors at a photograph's own size.

        Args:
            ab: (1, 2, h, w), from ``predict``.
            lightness: (1, 1, h, w), at the seen size.
            size: width and height of the photograph.
        """


REFERENCE = "reference:"
SCRIBBLES = "scribbles"


def colorist_file(name: str | Path) -> Path:
    """Return the file on which a colorist's colors depend: the weights, or the reference image."""
    name = str(name)
    if name.startswith(REFERENCE):
        return Path(name.removeprefix(REFERENCE))
    return find_checkpoint(split_part(name)[0])


def open_colorist(
    name: str | Path,
    device: str = "auto",
    size: int = 0,
    temperature: float = TEMPERATURE,
    hints: Path | Hints | None = None,
    reference: ReferenceSettings | None = None,
    scribbles: ScribbleSettings | None = None,
) -> Colorist:
    """Open the colorist of a name.

    Args:
        name: a run, a checkpoint, exported .safetensors, or published weights of ECCV16 or SIGGRAPH17;
            ``reference:IMAGE``; or ``scribbles``.
        device: the device of a network: auto (the GPU if there is one), cpu, cuda, ...
        size: shorter side at which a network sees images; 0 takes the size of its training images.
        temperature: the temperature of a network's annealed mean.
        hints: hints, or a file of them (see ``read_hints``): scribbles need them, and some networks take them.
        reference: settings of coloring by a reference image.
        scribbles: settings of coloring by scribbles.

    Raises:
        UserError: there is no such model, file or device; a file could run code; the network has no color head, or
            takes no hints; the reference has no color; or hints are missing or not understood.
    """
    name = str(name)
    if name == SCRIBBLES and hints is None:
        raise UserError("scribbles: name the file that holds them with --hints FILE")
    if name.startswith(REFERENCE):
        if hints is not None:
            raise UserError(f"{name}: a reference image takes no hints; leave --hints out")
        return open_reference(name.removeprefix(REFERENCE), reference)
    if isinstance(hints, Path):
        hints = read_hints(hints)
    if name == SCRIBBLES:
        assert hints is not None
        return scribbles_colorist(hints, scribbles)
    return open_network(Path(name), device, size, temperature, hints)
