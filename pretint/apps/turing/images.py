"""The pictures of a study: pairs by file name, and their encoding, which tells nothing of what is real."""

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image, ImageOps

from pretext.data.folder import Folder
from pretext.errors import UserError
from pretint.colorization.contact_sheet import SHEET

_SHAPES_DIFFER = 0.02  # of the sides' ratio: rounding a small picture's sides makes so much


class Pair(NamedTuple):
    """A real picture and what every algorithm made of it."""

    name: str
    real: int
    """Index in the folder of real pictures."""
    fakes: list[int]
    """Index in the folder of every algorithm."""


class Pairs:
    """Real pictures and their coloured twins.

    A coloured picture belongs to the real one whose path it has below its folder, whatever the ending: so
    ``pretint colorize`` writes them. Its contact sheet counts as no picture.

    Args:
        real: folder of the real pictures.
        algorithms: name -> folder of the coloured pictures.

    Raises:
        UserError: a folder cannot be read, two pictures have one name, or a real picture has no twin.
    """

    def __init__(self, real: Path, algorithms: dict[str, Path]) -> None:
        self._folders = [Folder(real), *(Folder(path) for path in algorithms.values())]
        known = _by_stem(self._folders[0], real)
        twins = [_by_stem(folder, path) for folder, path in zip(self._folders[1:], algorithms.values(), strict=True)]
        for (name, path), found in zip(algorithms.items(), twins, strict=True):
            missing = [stem for stem in known if stem not in found]
            if missing:
                raise UserError(
                    f"{path}: {len(missing)} of {len(known)} real pictures have no coloured one of algorithm {name}, "
                    f"the first: {missing[0]}; colour them, or take them out of {real}"
                )
        self.pairs = [
            Pair(self._folders[0].key(index), index, [found[stem] for found in twins]) for stem, index in known.items()
        ]
        self.unused = sum(len(found) - len(known) for found in twins)
        """Coloured pictures that have no real one."""

    def __len__(self) -> int:
        return len(self.pairs)

    def encoded(self, pair: Pair, size: int) -> Iterator[bytes]:
        """The real picture of a pair and all its fakes, as they are served; raises `PictureError`."""
        pictures = [folder.read(index) for folder, index in zip(self._folders, [pair.real, *pair.fakes], strict=True)]
        shapes = [picture.width / picture.height for picture in pictures]
        for folder, index, shape in zip(self._folders[1:], pair.fakes, shapes[1:], strict=True):
            if abs(shape / shapes[0] - 1) > _SHAPES_DIFFER:
                raise UserError(
                    f"{Path(folder.root) / folder.key(index)}: has another shape than the real picture {pair.name}; "
                    "it would show another part of it"
                )
        yield from (served(picture, size) for picture in pictures)


def served(picture: Image.Image, size: int) -> bytes:
    """A picture as participants get it: its middle, ``size`` x ``size``, PNG without compression.

    Compressed, a coloured picture would be smaller than a real one, whose colour has more detail. So all
    have the same number of bytes, as long as they have the same size.
    """
    square = ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    square.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _by_stem(folder: Folder, root: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for index in range(len(folder)):
        path = PurePosixPath(folder.key(index))
        if str(path) == SHEET:
            continue
        stem = str(path.with_suffix(""))
        if stem in found:
            raise UserError(f"{root}: {folder.key(found[stem])} and {path} have one name; pairs go by it: rename one")
        found[stem] = index
    if not found:
        raise UserError(f"{root}: no picture but a contact sheet; give a folder of pictures")
    return found
