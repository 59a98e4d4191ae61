"""The images of a study: pairs by file name, and their encoding, which tells nothing of what is real."""

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image, ImageOps

from pretext.data.folder import Folder
from pretext.errors import UserError
from pretint.colorization.contact_sheet import SHEET

_SHAPES_DIFFER = 0.02  # of the sides' ratio: rounding a small image's sides makes so much


class Pair(NamedTuple):
    """A real image and what every algorithm made of it."""

    name: str
    real: int
    """Index in the folder of real images."""
    fakes: list[int]
    """Index in the folder of every algorithm."""


class Pairs:
    """Real images and their colored twins.

    A colored image belongs to the real one whose path it has below its folder, whatever the ending: so
    ``pretint colorize`` writes them. Its contact sheet counts as no image.

    Args:
        real: folder of the real images.
        algorithms: name -> folder of the colored images.

    Raises:
        UserError: a folder cannot be read, two images have one name, or a real image has no twin.
    """

    def __init__(self, real: Path, algorithms: dict[str, Path]) -> None:
        self._folders = [Folder(real), *(Folder(path) for path in algorithms.values())]
        known = _by_stem(self._folders[0], real)
        twins = [_by_stem(folder, path) for folder, path in zip(self._folders[1:], algorithms.values(), strict=True)]
        for (name, path), found in zip(algorithms.items(), twins, strict=True):
            missing = [stem for stem in known if stem not in found]
            if missing:
                raise UserError(
                    f"{path}: {len(missing)} of {len(known)} real images have no colored one of algorithm {name}, "
                    f"the first: {missing[0]}; color them, or take them out of {real}"
                )
        self.pairs = [
            Pair(self._folders[0].key(index), index, [found[stem] for found in twins]) for stem, index in known.items()
        ]
        self.unused = sum(len(found) - len(known) for found in twins)
        """Colored images that have no real one."""

    def __len__(self) -> int:
        return len(self.pairs)

    def encoded(self, pair: Pair, size: int) -> Iterator[bytes]:
        """The real image of a pair and all its fakes, as they are served; raises `ImageError`."""
        images = [folder.read(index) for folder, index in zip(self._folders, [pair.real, *pair.fakes], strict=True)]
        shapes = [image.width / image.height for image in images]
        for folder, index, shape in zip(self._folders[1:], pair.fakes, shapes[1:], strict=True):
            if abs(shape / shapes[0] - 1) > _SHAPES_DIFFER:
                raise UserError(
                    f"{Path(folder.root) / folder.key(index)}: has another shape than the real image {pair.name}; "
                    "it would show another part of it"
                )
        yield from (served(image, size) for image in images)


def served(image: Image.Image, size: int) -> bytes:
    """An image as participants get it: its middle, ``size`` x ``size``, PNG without compression.

    Compressed, a colored image would be smaller than a real one, whose color has more detail. So all
    have the same number of bytes, as long as they have the same size.
    """
    square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
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
        raise UserError(f"{root}: no image but a contact sheet; give a folder of images")
    return found
