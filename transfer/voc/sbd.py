"""Masks of SBD, the Semantic Boundaries Dataset (Hariharan et al., ICCV 2011), for images of VOC2012.

A folder of ``.mat`` files as published (``benchmark_RELEASE/dataset/cls``), or of PNGs as it is passed on with VOC's
own masks among them (``SegmentationClassAug``). Its masks have no contour of 255.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from pretext.data.formats import KNOWN
from pretext.data.voc import Voc, files_by_stem, listed, read_file
from pretext.errors import ImageError, UserError
from transfer.voc.images import ImageFile

_INSIDE = ("", "cls", "dataset/cls", "benchmark_RELEASE/dataset/cls", "SegmentationClassAug")
_LARGEST = 2**22  # bytes: a mask has some ten thousand
_SIDE = 2**14


class Extra:
    """The masks of SBD that may join a part of VOC2012.

    Args:
        folder: as the user named it: of the masks, or what they were unpacked to.
        part: train or trainval, by its list of ``ImageSets/Segmentation``.

    Raises:
        UserError: another part; no mask in the folder; no list of the images that VOC keeps for judging.
    """

    def __init__(self, folder: str, part: Voc) -> None:
        if part.part not in ("train", "trainval"):
            raise UserError(f"{part.name}: the masks of SBD join what is learned from, train or trainval; give no SBD")
        self._part = part
        self._kept_for_judging = {
            one.decode() for one in listed(part.name, part.root / "ImageSets/Segmentation", "val")
        }
        self._paths = _found(folder)

    def masks(self, problems: list[tuple[str, str]]) -> list[tuple[ImageFile, Path]]:
        """Masks whose image VOC2012 has, but for its val list, by name, each with its image's file; says what is
        left out.
        """
        images = self._part.root / "JPEGImages"
        files = files_by_stem(images, (".jpg", *KNOWN))
        masks = []
        for path in self._paths:
            key = f"{path.parent.name}/{path.name}"
            if path.stem not in files:
                problems.append((key, f"VOC2012 has no image {path.stem}.jpg: the mask is left out"))
            elif path.stem not in self._kept_for_judging:
                masks.append((ImageFile(key, path), images / files[path.stem]))
        return masks


def _found(folder: str) -> list[Path]:
    try:
        given = Path(folder).expanduser().absolute()
        if not given.is_dir():
            raise UserError(f"{folder}: no such folder; give the one with SBD's masks, benchmark_RELEASE/dataset/cls")
        for inside in filter(Path.is_dir, (given / one for one in _INSIDE)):
            for ending in (".mat", ".png"):
                if files := files_by_stem(inside, (ending,)):
                    return sorted(inside / name for name in files.values())
    except (OSError, RuntimeError) as problem:  # denied, or ~nobody
        raise UserError(f"{folder}: cannot be reached: {problem}") from problem
    raise UserError(f"{folder}: no .mat or .png in it; give the folder with SBD's masks, benchmark_RELEASE/dataset/cls")


def read_sbd(path: Path, key: str) -> NDArray[np.uint8]:
    """The mask in a ``.mat`` file of SBD's ``cls``: (H, W), 0 background, 1..20 classes.

    Raises:
        ImageError: it is gone, damaged, or has no such mask.
    """
    try:
        content = scipy.io.loadmat(io.BytesIO(read_file(path, _LARGEST)), variable_names=["GTcls"])
        mask: Any = content["GTcls"]["Segmentation"][0, 0]
        if mask.ndim != 2 or mask.dtype.kind not in "ui" or max(mask.shape) > _SIDE:
            raise ValueError(f"its mask is of the shape {mask.shape} and type {mask.dtype}")
        if mask.size and not 0 <= mask.min() <= mask.max() <= 255:
            raise ValueError(f"its mask has the values {mask.min()}..{mask.max()}")
        return np.ascontiguousarray(mask, np.uint8)
    except FileNotFoundError as problem:
        raise ImageError(key, "the mask is gone since the folder was listed") from problem
    except Exception as problem:  # damaged bytes make the reader raise nearly anything
        said = " ".join(str(problem).split())[:200]
        raise ImageError(key, f"not a mask of SBD: {said or type(problem).__name__}") from problem
