"""The photographs that the studio has on its table: bounded in bytes, pixels and number."""

import io
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from PIL import Image, ImageOps

from colour.studio.painting import ByReference, Hint, Painter, Seen, ab_of, painted, reference_colours
from pretext.errors import PictureError, UserError
from pretext.files import png_bytes
from pretext.pictures.decode import decode

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
SHOWN = 1400
"""Longer side of what the page shows; a download has all pixels."""

_KEPT = 4
_REMEMBERED = 3  # network outputs of one photograph: with other hints it is seen again


@dataclass(frozen=True)
class Look:
    """How a photograph is to be coloured.

    Args:
        temperature: of the annealed mean.
        saturation: what a and b are multiplied by.
        hints: x and y as shares of the width and height, radius as share of the shorter side, and #rrggbb.
        reference: identity of another photograph whose colours are taken, or nothing.
    """

    temperature: float
    saturation: float
    hints: tuple[tuple[float, float, float, str], ...] = ()
    reference: str = ""


@dataclass
class Photograph:
    """A picture on the table."""

    full: Image.Image
    shown: Image.Image
    seen: "OrderedDict[tuple[Hint, ...], Seen]" = field(default_factory=OrderedDict)


class Table:
    """Photographs by their unguessable identity. Of too many, those not used for longest are put away.

    Args:
        painter: colours them.
        method: of reference pictures, if there is one.
        pixels: that a photograph may have, and twice that of all together.
    """

    def __init__(self, painter: Painter, method: ByReference | None, pixels: int) -> None:
        self.painter, self.method, self.pixels = painter, method, pixels
        self._lying: OrderedDict[str, Photograph] = OrderedDict()
        self._lock = threading.Lock()

    def lay(self, data: bytes) -> tuple[str, Photograph]:
        """Open an uploaded file.

        Raises:
            UserError: it is no picture, damaged, or too large.
        """
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as head:
                width, height = head.size
        except Exception:  # damaged heads make Pillow raise nearly anything; decode says what is wrong
            width = height = 0
        if width * height > self.pixels:
            raise UserError(
                f"This picture has {width} x {height} pixels; at most {self.pixels / 1e6:.0f} megapixels fit. "
                "Scale it down, or start the studio with a larger --megapixels."
            )
        try:
            full = decode(data, "This file")
        except PictureError as error:
            raise UserError(f"{error}.") from error
        shown = ImageOps.contain(full, (SHOWN, SHOWN), Image.Resampling.LANCZOS) if max(full.size) > SHOWN else full
        identity, photograph = secrets.token_urlsafe(12), Photograph(full, shown)
        with self._lock:
            self._lying[identity] = photograph
            while len(self._lying) > _KEPT or (self._area() > 2 * self.pixels and len(self._lying) > 1):
                self._lying.popitem(last=False)
        return identity, photograph

    def get(self, identity: str) -> Photograph:
        """A `UserError` where it was put away."""
        with self._lock:
            if identity not in self._lying:
                raise UserError("This photograph was put away to make room; open it again.")
            self._lying.move_to_end(identity)
            return self._lying[identity]

    def coloured(self, identity: str, look: Look, full: bool) -> Image.Image:
        """A photograph as it is asked for, at all its pixels or as the page shows it; raises `UserError`."""
        photograph = self.get(identity)
        if look.reference:
            if self.method is None:
                raise UserError("This installation has no method for reference pictures.")
            ab = reference_colours(self.method, photograph.shown, self.get(look.reference).shown)
        else:
            ab = self.painter.colours(self._seen(photograph, look), look.temperature)
        return painted(photograph.full if full else photograph.shown, ab, look.saturation)

    def _seen(self, photograph: Photograph, look: Look) -> Seen:
        """The network's output, which neither temperature nor saturation changes."""
        width, height = photograph.full.size
        hints = tuple(
            Hint(min(x * width, width - 1), min(y * height, height - 1), radius * min(width, height), *ab_of(colour))
            for x, y, radius, colour in look.hints
        )
        if hints not in photograph.seen:
            photograph.seen[hints] = self.painter.see(photograph.full, hints)
            while len(photograph.seen) > _REMEMBERED:
                photograph.seen.popitem(last=False)
        photograph.seen.move_to_end(hints)
        return photograph.seen[hints]

    def _area(self) -> int:
        return sum(one.full.width * one.full.height for one in self._lying.values())


def encoded(picture: Image.Image, kind: str) -> bytes:
    """A picture file: "png" loses nothing, "jpeg" little."""
    if kind == "png":
        return bytes(png_bytes(picture))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()
