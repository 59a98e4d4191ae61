"""Region proposals for Fast R-CNN: read from a file, or windows of a fixed grid.

Boxes have the format of ``transfer.labels.boxes.ImageObjects``.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from pretext.errors import UserError
from transfer.labels.boxes import BoxDataset

WINDOWS = "windows"
_SIDES = (1.0, 0.75, 0.55, 0.4, 0.3, 0.2)  # root of the window's area, against that of the image's
_RATIOS = (0.5, 1.0, 2.0)  # width / height
_MOST_UNPACKED = 100  # times the size of a file: boxes are squeezed to a fifth or so
_STEP = 0.5  # of the window, at most, from one to the next

ProposalBoxes = NDArray[np.float32]


class Proposals:
    """Proposals for every image of a ``BoxDataset``, made by ``open_proposals``.

    Args:
        source: the images.
        boxes: for every image: (n, 4); None for the windows of a fixed grid, see ``windows``.
    """

    def __init__(self, source: BoxDataset, boxes: list[ProposalBoxes] | None) -> None:
        assert boxes is None or len(source) == len(boxes)
        self._source, self._boxes = source, boxes

    def boxes(self, index: int) -> ProposalBoxes:
        """Return the proposals for image ``index``: float32 (n, 4), within the image.

        Boxes of less than a pixel after clipping to the image are left out.

        Raises:
            ImageError: the image cannot be read.
        """
        size = self._source.size(index)
        if self._boxes is None:
            return windows(*size).copy()
        clipped: ProposalBoxes = np.clip(self._boxes[index], 0, np.array([*size] * 2, np.float32))
        return clipped[(clipped[:, 2:] - clipped[:, :2] >= 1).all(1)]


def open_proposals(path: str, source: BoxDataset) -> Proposals:
    """Open the proposals of a file, or of several joined by +, for the images of a source.

    Args:
        path: a ``.mat`` as the boxes of Selective Search were published for Fast R-CNN (``images``: names without
            ending; ``boxes``: rows of y1 x1 y2 x2 that count pixels from 1); or a ``.npz`` with an array
            (n, 4) for every image, by its stem; or ``windows``: no file, but some hundred windows of all sizes in
            every image.
        source: the images; the file may have more.

    Raises:
        UserError: no such file; it is damaged or of another layout; images have no proposals in it.
    """
    if path == WINDOWS:
        return Proposals(source, None)
    files = [path] if Path(path).is_file() else path.split("+")
    known: dict[str, ProposalBoxes] = {}
    wanted = {source.stem(index) for index in range(len(source))}
    for file in files:
        for stem, boxes in _read_file(Path(file).expanduser()):
            if stem not in wanted:
                continue
            if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "iuf":
                raise UserError(
                    f"{file}: the boxes of {stem} are {boxes.dtype} of the shape {boxes.shape}, not numbers (n, 4)"
                )
            wide: NDArray[np.float64] = boxes.astype(np.float64)
            if not (np.abs(wide) < 2**24).all():  # also if it is NaN
                raise UserError(f"{file}: a box of {stem} has a coordinate that is no number, or beyond any image")
            if (wide[:, 2:] < wide[:, :2]).any():
                raise UserError(f"{file}: a box of {stem} ends before it begins; boxes are left, top, right, bottom")
            known[stem] = wide.astype(np.float32)
    missing = [index for index in range(len(source)) if source.stem(index) not in known]
    if missing:
        raise UserError(
            f"{path}: no proposals for {source.key(missing[0])}, nor for {len(missing) - 1:,} others of the "
            f"{len(source):,} images; name the file that was made for them"
        )
    return Proposals(source, [known[source.stem(index)] for index in range(len(source))])


@lru_cache(maxsize=256)
def windows(width: int, height: int) -> ProposalBoxes:
    """Return a fixed grid of windows in an image: float32 (n, 4), n about 500; the largest is the image.

    Their areas are 1, 0.75^2, ... 0.2^2 of the image's, their sides in ratios of 1:2, 1:1 and 2:1 (or what the
    image has room for), and neighbors are at most half a window apart.
    """
    boxes = set()
    for side in _SIDES:
        for ratio in _RATIOS:
            edge = side * math.sqrt(width * height)
            w, h = min(edge * math.sqrt(ratio), width), min(edge / math.sqrt(ratio), height)
            if side == 1:
                w, h = width, height
            for left in _places(width, w):
                for top in _places(height, h):
                    boxes.add((left, top, left + w, top + h))
    return np.array(sorted(boxes), np.float32)


def _places(whole: float, part: float) -> list[float]:
    """Return the starts of windows of length ``part`` that cover ``resolve_subset`` evenly."""
    steps = math.ceil((whole - part) / (part * _STEP))
    return [(whole - part) * at / steps for at in range(steps + 1)] if steps else [0.0]


def _read_file(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield names and boxes of all images in a file."""
    try:
        if not path.is_file():  # some of scipy's readers give another message
            raise UserError(f"{path}: no such file; name one with proposals, or take {WINDOWS!r}")
        if path.suffix == ".mat":
            content = scipy.io.loadmat(path, variable_names=["boxes", "images"])
            if "boxes" not in content or "images" not in content:
                raise UserError(
                    f"{path}: no cells `boxes` and `images` in it, as Selective Search's files for VOC have"
                )
            cells, images = content["boxes"].ravel(), content["images"].ravel()
            if cells.dtype != object or len(cells) != len(images):
                raise UserError(
                    f"{path}: `boxes` and `images` are not cells of one length; take a file as it was published"
                )
            for image, boxes in zip(images, cells, strict=True):
                name = str(np.ravel(image)[0]).strip()
                if boxes.ndim != 2 or boxes.shape[1] != 4:
                    raise UserError(f"{path}: the boxes of {name[:60]} have the shape {boxes.shape}, not (n, 4)")
                y1, x1, y2, x2 = np.asarray(boxes, np.float64).T
                yield Path(name).stem, np.stack((x1 - 1, y1 - 1, x2, y2), 1)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                if sum(record.file_size for record in archive.zip.infolist()) > _MOST_UNPACKED * path.stat().st_size:
                    raise UserError(
                        f"{path}: unpacks to more than {_MOST_UNPACKED} times its size, unlike boxes; make it again"
                    )
                for name in archive.files:
                    yield name, archive[name]
        else:
            raise UserError(f"{path}: proposals are read from .mat or .npz; or use {WINDOWS!r}, which needs no file")
    except UserError:
        raise
    except Exception as problem:  # damaged bytes make scipy and zipfile raise nearly anything
        reason = "it holds more than numbers" if "pickle" in str(problem) else " ".join(str(problem).split())[:200]
        raise UserError(f"{path}: cannot be read: {reason or type(problem).__name__}; make it again") from problem
