"""The photographs that the studio has on its table: bounded in bytes, pixels and number; and how they are coloured."""

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from colorization.hints import from_points
from colorization.joining import Colours, Scaled, join_picture
from colorization.methods.reference import reference_colourist
from colorization.networks import NetworkColourist
from colorization.photographs import Format, Photograph, open_photograph
from colorization.photographs.writing import in_memory
from pretext.color import rgb_to_ab
from pretext.errors import UserError

SHOWN = 1400
"""Longer side of what the page shows; a download has all pixels."""

_KEPT = 4
_REMEMBERED = 3  # network outputs of one photograph: with other hints it is seen again

Point = tuple[float, float, float, str]
"""A hint of the page: x and y as shares of the width and height, radius as share of the shorter side, and #rrggbb."""


@dataclass(frozen=True)
class Look:
    """How a photograph is to be coloured.

    Args:
        temperature: of the annealed mean.
        saturation: what a and b are multiplied by.
        hints: colours that are known.
        reference: identity of another photograph whose colours are taken, or nothing.
    """

    temperature: float
    saturation: float
    hints: tuple[Point, ...] = ()
    reference: str = ""


@dataclass
class Lying:
    """A picture on the table."""

    full: Photograph
    shown: Image.Image
    lightness: Tensor
    """As the network sees it."""
    outputs: "OrderedDict[tuple[Point, ...], Tensor]" = field(default_factory=OrderedDict)
    """What the network said of it, by the hints that it was told."""


class Table:
    """Photographs by their unguessable identity. Of too many, those not used for longest are put away.

    Args:
        colourist: the network that colours them.
        name: its, for the page.
        pixels: that a photograph may have, and twice that of all together.
    """

    def __init__(self, colourist: NetworkColourist, name: str, pixels: int) -> None:
        self.colourist, self.name, self.pixels = colourist, name, pixels
        self._lying: OrderedDict[str, Lying] = OrderedDict()
        self._lock = threading.Lock()

    def lay(self, data: bytes) -> tuple[str, Lying]:
        """Open an uploaded file.

        Raises:
            UserError: it is no picture, damaged, or too large.
        """
        full = open_photograph(data, "This file", self.pixels / 1e6, first_frame=True)  # who sees it knows which it is
        scale = min(1.0, SHOWN / max(full.size))
        shown = full.reduced((max(1, round(full.size[0] * scale)), max(1, round(full.size[1] * scale))))
        identity = secrets.token_urlsafe(12)
        photograph = Lying(full, shown, full.seen(self.colourist.seen_size(full.size)))
        with self._lock:
            self._lying[identity] = photograph
            while len(self._lying) > _KEPT or (self._area() > 2 * self.pixels and len(self._lying) > 1):
                self._lying.popitem(last=False)
        return identity, photograph

    def get(self, identity: str) -> Lying:
        """A `UserError` where it was put away."""
        with self._lock:
            if identity not in self._lying:
                raise UserError("This photograph was put away to make room; open it again.")
            self._lying.move_to_end(identity)
            return self._lying[identity]

    def gray(self, identity: str) -> Image.Image:
        """A photograph as the page shows it, without colour."""
        return join_picture(self.get(identity).shown, torch.zeros(1, 2, 1, 1))

    def coloured(self, identity: str, look: Look) -> Image.Image:
        """A photograph as it is asked for, as large as the page shows it; raises `UserError`."""
        photograph = self.get(identity)
        return join_picture(photograph.shown, self._colours(photograph, Photograph.of(photograph.shown), look))

    def file(self, identity: str, look: Look, format: Format) -> bytes:
        """The same at all its pixels, with all that belongs to it, as a file; raises `UserError`."""
        photograph = self.get(identity)
        return in_memory(photograph.full, self._colours(photograph, photograph.full, look), format)[0]

    def _colours(self, photograph: Lying, picture: Photograph, look: Look) -> Colours:
        colours = (
            self._by_reference(picture, look) if look.reference else self._by_network(photograph, picture.size, look)
        )
        return Scaled(colours, look.saturation)

    def _by_reference(self, picture: Photograph, look: Look) -> Colours:
        colourist = reference_colourist(self.get(look.reference).shown, name="The reference")
        lightness = picture.seen(colourist.seen_size(picture.size))
        return colourist.enlarged(colourist.predict(lightness, picture.size).ab, lightness, picture.size)

    def _by_network(self, photograph: Lying, shown: tuple[int, int], look: Look) -> Colours:
        """From the network's output, which neither temperature nor saturation changes."""
        size, lightness = photograph.full.size, photograph.lightness
        if look.hints not in photograph.outputs:
            hints = from_points(
                (min(x * size[0], size[0] - 1), min(y * size[1], size[1] - 1), radius * min(size), *ab_of(colour))
                for x, y, radius, colour in look.hints
            )
            photograph.outputs[look.hints] = self.colourist.output(lightness, hints if look.hints else None, size)
            while len(photograph.outputs) > _REMEMBERED:
                photograph.outputs.popitem(last=False)
        photograph.outputs.move_to_end(look.hints)
        ab = self.colourist.decode(photograph.outputs[look.hints], lightness.shape[-2:], look.temperature)
        return self.colourist.enlarged(ab, lightness, shown)

    def _area(self) -> int:
        return sum(one.full.size[0] * one.full.size[1] for one in self._lying.values())


def ab_of(colour: str) -> tuple[float, float]:
    """a and b of #rrggbb."""
    rgb = torch.tensor([int(colour[at : at + 2], 16) for at in (1, 3, 5)], dtype=torch.uint8)
    a, b = rgb_to_ab(rgb[:, None, None])[:, 0, 0].tolist()
    return a, b
