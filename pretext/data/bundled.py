"""The built-in images: tiles of the color photographs in the package of scikit-image.

They need no download. The label of a tile is the photograph that contains it. Each photograph is split along its
longer axis (a square one from top to bottom):

    | train: tiles side by side | gap: 16 pixels, in no tile | test: the last 43 %, tiles side by side |

so that no pixel is in both parts or in two tiles: held-out tiles share no pixel with the others. The two
largest photographs (retina, hubble_deep_field) are first halved by averaging 2 x 2 pixels. Then all eight
have a similar size: their longer sides are 451 to 741 pixels.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from pretext.data.source import digest_of_keys
from pretext.errors import UserError
from pretext.files import write_png

NAMES = (
    "astronaut", "chelsea", "coffee", "hubble_deep_field", "immunohistochemistry", "motorcycle", "retina", "rocket",
)  # fmt: skip
"""The photographs, in the order of their labels."""

_TEST_SHARE = 0.43  # the least with four columns of 48-pixel test tiles in chelsea, the smallest
_GAP = 16  # two JPEG blocks: several of the photographs were JPEGs
_FLAT = 2.0  # standard deviation of luma, of 255: that of the retina's black frame is lower

TileBox = tuple[int, int, int, int]  # left, top, right, bottom


class Bundled:
    """A labeled source: one part of the tiles of the built-in photographs.

    Nearly flat tiles (luma with a standard deviation below 2 of 255) are left out: a network that
    sees only lightness cannot classify them.

    Args:
        part: ``train`` or ``test``.
        tile: the side of a tile in pixels.
        stride: distance from one tile to the next. Default: a whole tile. With less, tiles overlap, which is an
            error for the part ``test``.
        cap: the largest number of tiles per photograph, evenly spaced. Default: the smallest number of tiles of
            a photograph, so that all classes have the same size.

    Raises:
        UserError: a setting is out of range, or a photograph has no tile of this size.
    """

    def __init__(
        self,
        part: Literal["train", "test"],
        tile: int = 32,
        stride: int | None = None,
        cap: int | None = None,
    ) -> None:
        if part not in ("train", "test"):
            raise UserError(f"bundled:{part}: no such part; use bundled:train or bundled:test")
        if stride is None:
            stride = tile
        if min(tile, stride, 1 if cap is None else cap) < 1:
            raise UserError(f"bundled:{part}: tile, stride and cap must be at least 1: {tile}, {stride}, {cap}")
        if part == "test" and stride < tile:
            raise UserError(
                f"bundled:test: stride {stride} is below tile {tile}, but test tiles must not overlap; raise stride"
            )
        self.part = part
        self.tile = tile
        corners = [list(_corners(name, part, tile, stride)) for name in NAMES]
        for name, tiles in zip(NAMES, corners, strict=True):
            if not tiles:
                raise UserError(f"bundled:{part}: {name} has no tile of {tile} pixels; use a smaller tile")
        cap = cap or min(map(len, corners))
        self._labels: list[int] = []
        self._corners: list[tuple[int, int]] = []
        for label, tiles in enumerate(corners):
            chosen = [tiles[i * len(tiles) // cap] for i in range(cap)] if len(tiles) > cap else tiles
            self._labels += [label] * len(chosen)
            self._corners += chosen

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self._corners)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        """Return tile ``index``: mode RGB, ``tile`` x ``tile``; ``shorter`` has no effect."""
        x, y = self._corners[index]
        return _photograph(NAMES[self._labels[index]]).crop((x, y, x + self.tile, y + self.tile))

    def stamps(self) -> NDArray[np.int64]:
        """See ``StoredDataset.stamps``: the size of the pixels."""
        return np.tile(np.array([3 * self.tile**2, 0]), (len(self), 1))

    def read_bytes(self, index: int, start: int = 0, stop: int | None = None) -> bytes:
        """See ``StoredDataset.read_bytes``: the pixels, row by row."""
        return self.read(index).tobytes()[start:stop]

    def key(self, index: int) -> str:
        """Return photograph, part, and upper left corner in the photograph: ``coffee/test/x0344-y0048``."""
        x, y = self._corners[index]
        return f"{NAMES[self._labels[index]]}/{self.part}/x{x:04}-y{y:04}"

    @property
    def classes(self) -> list[str]:
        """Return the names of the photographs, by label."""
        return list(NAMES)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return the label of every tile, by index: (N,)."""
        return np.array(self._labels, np.int64)

    def digest(self) -> str:
        """See ``ImageDataset.digest``."""
        return digest_of_keys(self)


def photographs() -> dict[str, Image.Image]:
    """Return copies of the whole photographs by name, at the scale the tiles are cut from."""
    return {name: _photograph(name).copy() for name in NAMES}


def test_part(name: str) -> Image.Image:
    """Return the region of photograph ``name`` that holds its test tiles, and no pixel of a train tile.

    Raises:
        UserError: there is no such photograph.
    """
    if name not in NAMES:
        raise UserError(f"no built-in photograph {name!r}; there are {', '.join(NAMES)}")
    photograph = _photograph(name)
    return photograph.crop(_region(photograph.size, "test"))


def save_test_parts(folder: Path) -> None:
    """Write the test part of every photograph to ``folder``, as ``NAME.png``."""
    for name in NAMES:
        write_png(folder / f"{name}.png", test_part(name))


@cache
def _photograph(name: str) -> Image.Image:
    """Return a photograph that the process shares: callers pass on crops and copies only."""
    load = skimage.data.stereo_motorcycle if name == "motorcycle" else getattr(skimage.data, name)
    pixels = load()[0] if name == "motorcycle" else load()
    photograph = Image.fromarray(pixels).convert("RGB")
    return photograph.reduce(2) if min(photograph.size) > 800 else photograph


def _region(size: tuple[int, int], part: str) -> TileBox:
    """Return the box of a photograph of ``size`` (width, height) in which the tiles of ``part`` lie."""
    width, height = size
    longer = max(size)
    start = longer - round(_TEST_SHARE * longer)
    first, last = (0, start - _GAP) if part == "train" else (start, longer)
    return (first, 0, last, height) if width > height else (0, first, width, last)


def _corners(name: str, part: str, tile: int, stride: int) -> Iterator[tuple[int, int]]:
    """Yield the upper left corners (x, y) of the tiles of one photograph that are not flat, row by row."""
    photograph = _photograph(name)
    luma = np.asarray(photograph.convert("L"))
    left, top, right, bottom = _region(photograph.size, part)
    for y in range(top, bottom - tile + 1, stride):
        for x in range(left, right - tile + 1, stride):
            if luma[y : y + tile, x : x + tile].std() >= _FLAT:
                yield x, y
