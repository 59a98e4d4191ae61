"""Regions proposed for objects, for detectors that do not look for them: read from a file, or windows of a fixed grid.

Boxes are as those of ``transfer.voc.boxes.Objects``.
"""

import math
import zipfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.io
from numpy.typing import NDArray

from pretext.errors import UserError
from pretext.files import written_atomically
from transfer.voc.boxes import Boxed

WINDOWS = "windows"
_SIDES = (1.0, 0.75, 0.55, 0.4, 0.3, 0.2)  # root of the window's area, against that of the image's
_RATIOS = (0.5, 1.0, 2.0)  # width / height
_MOST_UNPACKED = 100  # times the size of a file: boxes are squeezed to a fifth or so
_STEP = 0.5  # of the window, at most, from one to the next

Boxes = NDArray[np.float32]


class Proposals(Protocol):
    """Regions for every image of a ``Boxed``."""

    def boxes(self, index: int) -> Boxes:
        """Those of image ``index``: float32 (n, 4), within the image."""
        ...


def open_proposals(path: str, source: Boxed) -> Proposals:
    """The regions that a file, or several joined by +, proposes for the images of a source.

    Args:
        path: a ``.mat`` as the boxes of Selective Search were published for Fast R-CNN (``images``: names without
            ending; ``boxes``: rows of y1 x1 y2 x2 that count pixels from 1); or a ``.npz`` as ``write_proposals``
            makes it; or ``windows``: no file, but some hundred windows of all sizes in every image.
        source: what they are for; the file may have more images.

    Raises:
        UserError: no such file; it is damaged or of another layout; images have no proposals in it.
    """
    if path == WINDOWS:
        return Windows(source)
    files = [path] if Path(path).is_file() else path.split("+")
    found: dict[str, Boxes] = {}
    wanted = {source.stem(index) for index in range(len(source))}
    for file in files:
        for stem, boxes in _read(Path(file).expanduser()):
            if stem in wanted:
                found[stem] = _checked(file, stem, boxes)
    missing = [index for index in range(len(source)) if source.stem(index) not in found]
    if missing:
        raise UserError(
            f"{path}: no proposals for {source.key(missing[0])}, nor for {len(missing) - 1:,} others of the "
            f"{len(source):,} images; name the file that was made for them"
        )
    return Given(source, [found[source.stem(index)] for index in range(len(source))])


def write_proposals(path: Path, boxes: Mapping[str, Boxes]) -> None:
    """Write a ``.npz``: one array (n, 4) for every image, named by its stem (000005).

    Raises:
        UserError: it cannot be written.
    """
    size = sum(one.nbytes for one in boxes.values())
    with written_atomically(path, f"{size / 1e6:.1f} MB") as file, zipfile.ZipFile(file, "w") as archive:
        for stem, one in boxes.items():  # not np.savez, which has arguments of its own among the names
            assert one.ndim == 2 and one.shape[1] == 4, (stem, one.shape)
            with archive.open(f"{stem}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(one, np.float32), allow_pickle=False)


class Given:
    """Proposals from a file. Made by ``open_proposals``.

    Args:
        source: of the images.
        boxes: of every image: (n, 4).
    """

    def __init__(self, source: Boxed, boxes: list[Boxes]) -> None:
        assert len(source) == len(boxes)
        self._source, self._boxes = source, boxes

    def boxes(self, index: int) -> Boxes:
        """See ``Proposals``; what is cut by the image's border to less than a pixel is left out.

        Raises:
            ImageError: the image cannot be read.
        """
        size = np.array([*self._source.size(index)] * 2, np.float32)
        cut: Boxes = np.clip(self._boxes[index], 0, size)
        return cut[(cut[:, 2:] - cut[:, :2] >= 1).all(1)]


class Windows:
    """Windows of every size and three shapes, at least half of each in common with the next: see ``windows``.

    Args:
        source: of the images.
    """

    def __init__(self, source: Boxed) -> None:
        self._source = source

    def boxes(self, index: int) -> Boxes:
        """See ``Proposals``; raises ImageError where the image cannot be read."""
        return windows(*self._source.size(index)).copy()


@lru_cache(maxsize=256)
def windows(width: int, height: int) -> Boxes:
    """A fixed grid of windows in an image: float32 (n, 4), n about 500; the greatest is the image.

    Their areas are 1, 0.75^2, ... 0.2^2 of the image's, their sides in ratios of 1:2, 1:1 and 2:1 (or what the
    image has room for), and neighbors are at most half a window apart.
    """
    found = set()
    for side in _SIDES:
        for ratio in _RATIOS:
            edge = side * math.sqrt(width * height)
            w, h = min(edge * math.sqrt(ratio), width), min(edge / math.sqrt(ratio), height)
            if side == 1:
                w, h = width, height
            for left in _places(width, w):
                for top in _places(height, h):
                    found.add((left, top, left + w, top + h))
    return np.array(sorted(found), np.float32)


def _places(whole: float, part: float) -> list[float]:
    """Where windows of length ``part`` begin so that they cover ``whole`` evenly."""
    steps = math.ceil((whole - part) / (part * _STEP))
    return [(whole - part) * at / steps for at in range(steps + 1)] if steps else [0.0]


def _read(path: Path) -> Iterator[tuple[str, Any]]:
    """Names and boxes of all images in a file."""
    try:
        if not path.is_file():  # some of scipy's readers have other words for it
            raise UserError(f"{path}: no such file; name one with proposals, or take {WINDOWS!r}")
        if path.suffix == ".mat":
            yield from _read_mat(path)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                if sum(record.file_size for record in archive.zip.infolist()) > _MOST_UNPACKED * path.stat().st_size:
                    raise UserError(
                        f"{path}: unpacks to more than {_MOST_UNPACKED} times its size, as boxes do not; make it again"
                    )
                for name in archive.files:
                    yield name, archive[name]
        else:
            raise UserError(f"{path}: proposals are read from .mat or .npz; or take {WINDOWS!r}, which needs no file")
    except UserError:
        raise
    except Exception as problem:  # damaged bytes make scipy and zipfile raise nearly anything
        said = "it holds more than numbers" if "pickle" in str(problem) else " ".join(str(problem).split())[:200]
        raise UserError(f"{path}: cannot be read: {said or type(problem).__name__}; make it again") from problem


def _read_mat(path: Path) -> Iterator[tuple[str, Any]]:
    content = scipy.io.loadmat(path, variable_names=["boxes", "images"])
    if "boxes" not in content or "images" not in content:
        raise UserError(f"{path}: no cells `boxes` and `images` in it, as Selective Search's files for VOC have")
    boxes, images = content["boxes"].ravel(), content["images"].ravel()
    if boxes.dtype != object or len(boxes) != len(images):
        raise UserError(f"{path}: `boxes` and `images` are not cells of one length; take a file as it was published")
    for image, one in zip(images, boxes, strict=True):
        name = str(np.ravel(image)[0]).strip()
        if one.ndim != 2 or one.shape[1] != 4:
            raise UserError(f"{path}: the boxes of {name[:60]} have the shape {one.shape}, not (n, 4)")
        y1, x1, y2, x2 = np.asarray(one, np.float64).T
        yield Path(name).stem, np.stack((x1 - 1, y1 - 1, x2, y2), 1)


def _checked(file: str, stem: str, boxes: Any) -> Boxes:
    """Boxes as float32 (n, 4)."""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "iuf":
        raise UserError(f"{file}: the boxes of {stem} are {boxes.dtype} of the shape {boxes.shape}, not numbers (n, 4)")
    wide: NDArray[np.float64] = boxes.astype(np.float64)
    if not (np.abs(wide) < 2**24).all():  # also where it is no number
        raise UserError(f"{file}: a box of {stem} has a coordinate that is no number, or beyond any image")
    if (wide[:, 2:] < wide[:, :2]).any():
        raise UserError(f"{file}: a box of {stem} ends before it begins; boxes are left, top, right, bottom")
    return wide.astype(np.float32)
