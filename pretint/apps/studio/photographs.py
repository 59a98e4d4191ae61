"""The photographs that the studio has on its table: bounded in bytes, pixels and number; and how they are colored."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pretext.color import rgb_to_ab
from pretext.errors import ImageError, UserError
from pretint.colorization.hints import Hints, from_points
from pretint.colorization.merge import Colors, Enlarged, Scaled, join_image
from pretint.colorization.networks import NetworkColorist
from pretint.colorization.photographs import Format, Photograph, open_photograph
from pretint.colorization.photographs.write import in_memory
from pretint.colorization.reference import reference_colorist
from pretint.colorization.scribbles import scribbles_colorist

SHOWN = 1400
"""Longer side of what the page shows; a download has all pixels."""

_KEPT = 4
_REMEMBERED = 3  # what the network, or a reference, said of one photograph: other hints are seen anew

Point = tuple[float, float, float, str]
"""A hint of the page: x and y as shares of the width and height, radius as share of the shorter side, and #rrggbb."""


@dataclass(frozen=True)
class Look:
    """How a photograph is to be colored.

    Args:
        temperature: of the annealed mean.
        saturation: what a and b are multiplied by.
        hints: colors that are known.
        reference: identity of another photograph whose colors are taken, or nothing.
    """

    temperature: float
    saturation: float
    hints: tuple[Point, ...] = ()
    reference: str = ""


@dataclass
class Lying:
    """An image on the table."""

    full: Photograph
    shown: Image.Image
    lightness: Tensor | None
    """As the network sees it, if there is one."""
    outputs: "OrderedDict[tuple[Point, ...], Tensor]" = field(default_factory=OrderedDict)
    """What the network said of it, by the hints that it was told."""
    referred: "OrderedDict[tuple[str | tuple[Point, ...], tuple[int, int]], Colors]" = field(
        default_factory=OrderedDict
    )
    """Its colors by the reference or the scribbles they are of, and the size at which it was colored."""


class UnusableReference(UserError):
    """The reference is at fault, not the photograph."""


class Table:
    """Photographs by their unguessable identity. Of too many, those not used for longest are put away.

    Args:
        colorist: the network that colors them; without one, colors spread from the hints.
        name: its, for the page.
        pixels: that a photograph may have, and twice that of all together.
    """

    def __init__(self, colorist: NetworkColorist | None, name: str, pixels: int) -> None:
        self.colorist, self.name, self.pixels = colorist, name, pixels
        self.takes_hints = colorist is None or colorist.takes_hints
        self.has_distribution = colorist is not None and colorist.has_distribution
        self._lying: OrderedDict[str, Lying] = OrderedDict()
        self._lock = threading.Lock()

    def lay(self, data: bytes) -> tuple[str, Lying]:
        """Open an uploaded file.

        Raises:
            UserError: it is no image, damaged, or too large.
        """
        try:
            # Who sees it knows which it is.
            full = open_photograph(data, "This file", self.pixels / 1e6, first_frame=True)
        except ImageError as error:
            if "--" not in error.reason:
                raise
            # Of settings a page knows nothing.
            most = f"the studio takes at most {self.pixels / 1e6:,.0f}"
            raise ImageError(error.key, f"{error.reason.partition(';')[0]}; {most}") from error
        scale = min(1.0, SHOWN / max(full.size))
        shown = full.reduced((max(1, round(full.size[0] * scale)), max(1, round(full.size[1] * scale))))
        identity = secrets.token_urlsafe(12)
        seen = full.seen(self.colorist.seen_size(full.size)) if self.colorist else None
        photograph = Lying(full, shown, seen)
        with self._lock:
            self._lying[identity] = photograph
            while len(self._lying) > _KEPT or (self._area() > 2 * self.pixels and len(self._lying) > 1):
                self._lying.popitem(last=False)
        return identity, photograph

    def get(self, identity: str, what: str = "This photograph") -> Lying:
        """A `UserError` where it was put away, which calls it that."""
        with self._lock:
            if identity not in self._lying:
                raise UserError(f"{what} was put away to make room; open it again.")
            self._lying.move_to_end(identity)
            return self._lying[identity]

    def gray(self, identity: str) -> Image.Image:
        """A photograph as the page shows it, without color."""
        return join_image(self.get(identity).shown, torch.zeros(1, 2, 1, 1))

    def colored(self, identity: str, look: Look) -> Image.Image:
        """A photograph as it is asked for, as large as the page shows it; raises `UserError`."""
        photograph = self.get(identity)
        return join_image(photograph.shown, self._colors(photograph, Photograph.of(photograph.shown), look))

    def file(self, identity: str, look: Look, format: Format) -> tuple[bytes, list[str]]:
        """The same at all its pixels, with all that belongs to it, as a file, and what could not be kept.

        Raises:
            UserError: as the others; or the format cannot hold such an image.
        """
        photograph = self.get(identity)
        try:
            return in_memory(photograph.full, self._colors(photograph, photograph.full, look), format)
        except ImageError as error:
            if format == "png":
                raise
            why = "is partly transparent" if photograph.full.alpha is not None else "has too many pixels a side"
            raise UserError(f"This photograph {why}, so it cannot be a JPEG; choose PNG.") from error

    def _colors(self, photograph: Lying, image: Photograph, look: Look) -> Colors:
        if look.reference:
            colors = self._by_reference(photograph, image, look)
        elif self.colorist is None or photograph.lightness is None:
            colors = self._by_scribbles(photograph, image, look)
        else:
            colors = self._by_network(self.colorist, photograph, photograph.lightness, image.size, look)
        return Scaled(colors, look.saturation)

    def _by_reference(self, photograph: Lying, image: Photograph, look: Look) -> Colors:
        try:
            reference = self.get(look.reference, "The reference")
            if (key := (look.reference, image.size)) not in photograph.referred:
                colorist = reference_colorist(reference.shown, name="The reference")
                lightness = image.seen(colorist.seen_size(image.size))
                ab = colorist.predict(lightness, image.size).ab
                photograph.referred[key] = colorist.enlarged(ab, lightness, image.size)
                _forget(photograph.referred)
        except UserError as error:
            raise UnusableReference(str(error)) from error
        photograph.referred.move_to_end(key)
        return photograph.referred[key]

    def _by_scribbles(self, photograph: Lying, image: Photograph, look: Look) -> Colors:
        """Spread from the hints, at the size of the image: what the page shows is quicker than what is downloaded."""
        if not look.hints:
            return Enlarged(torch.zeros(1, 2, 1, 1), image.size)
        if (key := (look.hints, image.size)) not in photograph.referred:
            colorist = scribbles_colorist(_hints_at(look.hints, image.size))
            lightness = image.seen(colorist.seen_size(image.size))
            ab = colorist.predict(lightness, image.size).ab
            photograph.referred[key] = colorist.enlarged(ab, lightness, image.size)
            _forget(photograph.referred)
        photograph.referred.move_to_end(key)
        return photograph.referred[key]

    def _by_network(
        self, colorist: NetworkColorist, photograph: Lying, lightness: Tensor, shown: tuple[int, int], look: Look
    ) -> Colors:
        """From the network's output, which neither temperature nor saturation changes."""
        size = photograph.full.size
        if look.hints not in photograph.outputs:
            hints = _hints_at(look.hints, size) if look.hints else None
            photograph.outputs[look.hints] = colorist.output(lightness, hints, size)
            _forget(photograph.outputs)
        photograph.outputs.move_to_end(look.hints)
        ab = colorist.decode(photograph.outputs[look.hints], lightness.shape[-2:], look.temperature)
        return colorist.enlarged(ab, lightness, shown)

    def _area(self) -> int:
        return sum(one.full.size[0] * one.full.size[1] for one in self._lying.values())


def _hints_at(points: Sequence[Point], size: tuple[int, int]) -> Hints:
    """The hints of the page in the pixels of an image of that width and height."""
    return from_points(
        (min(x * size[0], size[0] - 1), min(y * size[1], size[1] - 1), radius * min(size), *ab_of(color))
        for x, y, radius, color in points
    )


def _forget(kept: OrderedDict[Any, Any]) -> None:
    while len(kept) > _REMEMBERED:
        kept.popitem(last=False)


def ab_of(color: str) -> tuple[float, float]:
    """a and b of #rrggbb."""
    rgb = torch.tensor([int(color[at : at + 2], 16) for at in (1, 3, 5)], dtype=torch.uint8)
    a, b = rgb_to_ab(rgb[:, None, None])[:, 0, 0].tolist()
    return a, b
