"""The photographs that are open in the studio, bounded in pixels and number; and how they are colored."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from pretext.color import rgb_to_ab
from pretext.errors import ImageError, UserError
from pretint.colorization.hints import Hints, from_points
from pretint.colorization.merge import ColorSource, Enlarged, Scaled, merge_image
from pretint.colorization.networks import NetworkColorist
from pretint.colorization.photographs import Format, Photograph, open_photograph
from pretint.colorization.photographs.write import encode_photograph
from pretint.colorization.reference import reference_colorist
from pretint.colorization.registry import Colorist
from pretint.colorization.scribbles import scribbles_colorist

T = TypeVar("T")

SHOWN = 1400
"""Longer side of the image on the page; a download has all pixels."""

_KEPT = 4
_REMEMBERED = 3  # cached colorings of one photograph; with other hints or references it is colored again

Point = tuple[float, float, float, str]
"""A hint of the page: x and y as shares of the width and height, radius as share of the shorter side, and #rrggbb."""


@dataclass(frozen=True)
class ViewSettings:
    """Settings of the page for one photograph.

    Args:
        temperature: the temperature of the annealed mean.
        saturation: the factor on a and b.
        hints: the given colors.
        reference: identity of another photograph whose colors are taken, or empty.
    """

    temperature: float
    saturation: float
    hints: tuple[Point, ...] = ()
    reference: str = ""


@dataclass
class OpenImage:
    """A photograph that is open."""

    full: Photograph
    shown: Image.Image
    lightness: Tensor | None
    """L at the size that the network sees, if there is one."""
    remembered: "OrderedDict[Any, Any]" = field(default_factory=OrderedDict)
    """The network's outputs, by the hints; its colors, by their reference or scribbles and the size of the image."""

    def remember(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the cached coloring of a key, or make it; the least recently used ones are dropped."""
        if key not in self.remembered:
            self.remembered[key] = make()
        self.remembered.move_to_end(key)
        while len(self.remembered) > _REMEMBERED:
            self.remembered.popitem(last=False)
        result: T = self.remembered[key]
        return result


class UnusableReference(UserError):
    """An error of the reference, not of the photograph."""


class OpenImages:
    """Photographs by their unguessable identity. If there are too many, the least recently used are closed.

    Args:
        colorist: the network that colors them; without one, colors spread from the hints.
        name: its name on the page.
        pixels: the limit of a photograph; all together have twice as many.
    """

    def __init__(self, colorist: NetworkColorist | None, name: str, pixels: int) -> None:
        self.colorist, self.name, self.pixels = colorist, name, pixels
        self.takes_hints = colorist is None or colorist.takes_hints
        self.has_distribution = colorist is not None and colorist.has_distribution
        self._lying: OrderedDict[str, OpenImage] = OrderedDict()
        self._lock = threading.Lock()

    def lay(self, data: bytes) -> tuple[str, OpenImage]:
        """Open an uploaded file.

        Raises:
            UserError: the file is no image, is damaged, or is too large.
        """
        try:
            # The user knows which file it is.
            full = open_photograph(data, "This file", self.pixels / 1e6, first_frame=True)
        except ImageError as error:
            if "--" not in error.reason:
                raise
            # The page has no command line options.
            most = f"the studio takes at most {self.pixels / 1e6:,.0f}"
            raise ImageError(error.key, f"{error.reason.partition(';')[0]}; {most}") from error
        scale = min(1.0, SHOWN / max(full.size))
        shown = full.reduced((max(1, round(full.size[0] * scale)), max(1, round(full.size[1] * scale))))
        identity = secrets.token_urlsafe(12)
        seen = full.seen(self.colorist.seen_size(full.size)) if self.colorist else None
        photograph = OpenImage(full, shown, seen)
        with self._lock:
            self._lying[identity] = photograph
            while len(self._lying) > 1:
                area = sum(each.full.size[0] * each.full.size[1] for each in self._lying.values())
                if len(self._lying) <= _KEPT and area <= 2 * self.pixels:
                    break
                self._lying.popitem(last=False)
        return identity, photograph

    def get(self, identity: str, what: str = "This photograph") -> OpenImage:
        """Return a photograph; raise `UserError` if it was closed, with ``what`` as its name."""
        with self._lock:
            if identity not in self._lying:
                raise UserError(f"{what} was closed to make room; open it again.")
            self._lying.move_to_end(identity)
            return self._lying[identity]

    def gray(self, identity: str) -> Image.Image:
        """Return a photograph at the size of the page, without color."""
        return merge_image(self.get(identity).shown, torch.zeros(1, 2, 1, 1))

    def colored(self, identity: str, look: ViewSettings) -> Image.Image:
        """Color a photograph at the size of the page; raises `UserError`."""
        photograph = self.get(identity)
        return merge_image(photograph.shown, self._colors(photograph, Photograph.of(photograph.shown), look))

    def file(self, identity: str, look: ViewSettings, format: Format) -> tuple[bytes, list[str]]:
        """Color a photograph at full size. Return the file, with its metadata, and notes on data that was not kept.

        Raises:
            UserError: as ``colored``; or the format cannot hold such an image.
        """
        photograph = self.get(identity)
        try:
            return encode_photograph(photograph.full, self._colors(photograph, photograph.full, look), format)
        except ImageError as error:
            if format == "png":
                raise
            reason = "is partly transparent" if photograph.full.alpha is not None else "has too many pixels a side"
            raise UserError(f"This photograph {reason}, so it cannot be a JPEG; choose PNG.") from error

    def _colors(self, photograph: OpenImage, image: Photograph, look: ViewSettings) -> ColorSource:
        if look.reference:
            try:
                reference = self.get(look.reference, "The reference")
                colors = self._by_colorist(
                    photograph, image, look.reference, lambda: reference_colorist(reference.shown, name="The reference")
                )
            except UserError as error:
                raise UnusableReference(str(error)) from error
        elif self.colorist is not None and photograph.lightness is not None:
            # From the network's output, which neither temperature nor saturation changes.
            network, lightness, size = self.colorist, photograph.lightness, photograph.full.size
            hints = _hints_at(look.hints, size) if look.hints else None
            output = photograph.remember(look.hints, lambda: network.output(lightness, hints, size))
            ab = network.decode(output, lightness.shape[-2:], look.temperature)
            colors = network.enlarged(ab, lightness, image.size)
        elif look.hints:
            # Spread at the size of the image: the shown one is faster than the download.
            colors = self._by_colorist(
                photograph, image, look.hints, lambda: scribbles_colorist(_hints_at(look.hints, image.size))
            )
        else:
            colors = Enlarged(torch.zeros(1, 2, 1, 1), image.size)
        return Scaled(colors, look.saturation)

    def _by_colorist(
        self, photograph: OpenImage, image: Photograph, source: str | tuple[Point, ...], make: Callable[[], Colorist]
    ) -> ColorSource:
        """Color by a reference or by scribbles, or return cached colors."""

        def color() -> ColorSource:
            colorist = make()
            lightness = image.seen(colorist.seen_size(image.size))
            return colorist.enlarged(colorist.predict(lightness, image.size).ab, lightness, image.size)

        return photograph.remember((source, image.size), color)


def _hints_at(points: Sequence[Point], size: tuple[int, int]) -> Hints:
    """Convert the hints of the page to pixels of an image of that width and height."""
    return from_points(
        (min(x * size[0], size[0] - 1), min(y * size[1], size[1] - 1), radius * min(size), *ab_of(color))
        for x, y, radius, color in points
    )


def ab_of(color: str) -> tuple[float, float]:
    """Return a and b of #rrggbb."""
    rgb = torch.tensor([int(color[at : at + 2], 16) for at in (1, 3, 5)], dtype=torch.uint8)
    a, b = rgb_to_ab(rgb[:, None, None])[:, 0, 0].tolist()
    return a, b
