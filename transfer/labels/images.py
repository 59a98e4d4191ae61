"""Images of one or several VOC parts as one source, to which boxes and masks belong."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pretext.data.batches import Subset
from pretext.data.decode import size_of
from pretext.data.folder import Files
from pretext.data.scan import Paths
from pretext.data.source import ImageDataset
from pretext.data.voc import PREFIX, Voc, open_part
from pretext.errors import UserError


class ImageFile(NamedTuple):
    """The file of an image."""

    key: str
    """The file relative to VOC2007 or VOC2012; with that in front if images of both years are joined."""
    path: Path


class VocImages(Files):
    """A source of image files in any folders, with keys of their own.

    Args:
        images: the images, at least one, in a stable order.
        problems: what was mended or left out when they were listed: key of the file, and reason.
    """

    _missing = "the file is gone since the list was read"

    def __init__(self, images: Sequence[ImageFile], problems: list[tuple[str, str]]) -> None:
        super().__init__(b"", Paths.of(os.fsencode(image.path)[1:] for image in images))
        self._keys = [image.key for image in images]
        self.problems = problems

    def key(self, index: int) -> str:
        """See ``ImageDataset.key``."""
        return self._keys[index]

    def stem(self, index: int) -> str:
        """Return the name of image ``index`` without folder and ending, as lists and proposals use it."""
        return Path(self._keys[index]).stem

    def size(self, index: int) -> tuple[int, int]:
        """Return width and height of image ``index``, from the head of its file.

        Raises:
            ImageError: it cannot be read.
        """
        return size_of(Path(os.fsdecode(b"/" + self._paths[index])), self.key(index))


def open_parts(name: str, task: str) -> list[Voc]:
    """Open the parts that a name such as ``voc:2007:trainval:D+voc:2012:trainval:D`` joins.

    Args:
        name: one or several names of ``open_part``, with + between them.
        task: the task of the lists of images: ``Main`` or ``Segmentation``.

    Raises:
        UserError: as ``open_part``, or two parts have an image in common.
    """
    parts = [open_part(part, task) for part in re.split(rf"\+(?={PREFIX})", name)]
    times = Counter((part.year, stem) for part in parts for stem in part.stems)
    (year, stem), most = times.most_common(1)[0]
    if most > 1:
        raise UserError(f"{name}: the image {stem} of VOC{year} is in {most} of these parts; join parts that differ")
    return parts


def prefixes(parts: Sequence[Voc]) -> list[str]:
    """Return the prefix of every part's keys that makes the keys of all parts unique."""
    years = Counter(part.year for part in parts)
    return ["" if len(years) == 1 else f"VOC{part.year}/" for part in parts]


def resolve_subset(source: ImageDataset, index: int) -> tuple[ImageDataset, int]:
    """Return the source below any ``Subset`` that an image is from, and its index there."""
    if isinstance(source, Subset):
        return resolve_subset(source.source, source.index(index))
    return source, index
