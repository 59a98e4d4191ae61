"""Images with masks, the class of every pixel, for segmentation; of VOC, of SBD, and in other formats."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from pretext.data.formats import KNOWN
from pretext.data.source import ImageDataset
from pretext.data.voc import CLASSES, Voc, files_by_stem, read_file, read_list
from pretext.errors import ImageError, UserError
from transfer.labels import coco, maps, yolo
from transfer.labels.formats import UNCOUNTED, MaskFile, MaskLabels
from transfer.labels.images import ImageFile, VocImages, open_parts, prefixes, resolve_subset

_SBD_FOLDERS = ("", "cls", "dataset/cls", "benchmark_RELEASE/dataset/cls", "SegmentationClassAug")
_LARGEST = 2**22  # bytes: a mask has some ten thousand
_SIDE = 2**14


def find_sbd_masks(folder: str, part: Voc, problems: list[tuple[str, str]]) -> list[tuple[ImageFile, Path]]:
    """Return the masks of SBD that may join a part of VOC2012, by name, each with its image's file.

    SBD is the Semantic Boundaries Dataset (Hariharan et al., ICCV 2011): a folder of ``.mat`` files as published
    (``benchmark_RELEASE/dataset/cls``), or of PNGs as it is passed on with VOC's own masks among them
    (``SegmentationClassAug``). Its masks have no contour of 255. Those of images in VOC's own val list are left out.

    Args:
        folder: as the user named it: the folder of the masks, or what they were unpacked to.
        part: train or trainval, by its list of ``ImageSets/Segmentation``.
        problems: masks without an image are added.

    Raises:
        UserError: another part; no mask in the folder; no list of VOC's validation images.
    """
    if part.part not in ("train", "trainval"):
        raise UserError(
            f"{part.name}: the masks of SBD can only join the training images, train or trainval; leave out sbd"
        )
    validation = {stem.decode() for stem in read_list(part.name, part.root / "ImageSets/Segmentation", "val")}
    paths: list[Path] = []
    advice = "the folder with SBD's masks, benchmark_RELEASE/dataset/cls"
    try:
        root = Path(folder).expanduser().absolute()
        if not root.is_dir():
            raise UserError(f"{folder}: no such folder; give {advice}")
        for inside in filter(Path.is_dir, (root / name for name in _SBD_FOLDERS)):
            for ending in (".mat", ".png"):
                paths = paths or sorted(inside / name for name in files_by_stem(inside, (ending,)).values())
    except (OSError, RuntimeError) as problem:  # denied, or ~ of an unknown user
        raise UserError(f"{folder}: cannot be reached: {problem}") from problem
    if not paths:
        raise UserError(f"{folder}: no .mat or .png in it; give {advice}")
    images = part.root / "JPEGImages"
    files = files_by_stem(images, (".jpg", *KNOWN))
    masks = []
    for path in paths:
        key = f"{path.parent.name}/{path.name}"
        if path.stem not in files:
            problems.append((key, f"VOC2012 has no image {path.stem}.jpg: the mask is left out"))
        elif path.stem not in validation:
            masks.append((ImageFile(key, path), images / files[path.stem]))
    return masks


def read_sbd(file: ImageFile) -> NDArray[np.uint8]:
    """Read a mask from a ``.mat`` file of SBD's ``cls``: (H, W), 0 background, 1..20 classes.

    Raises:
        ImageError: the file is gone, damaged, or has no such mask.
    """
    try:
        content = scipy.io.loadmat(io.BytesIO(read_file(file.path, _LARGEST)), variable_names=["GTcls"])
        mask: Any = content["GTcls"]["Segmentation"][0, 0]
        if mask.ndim != 2 or mask.dtype.kind not in "ui" or max(mask.shape) > _SIDE:
            raise ValueError(f"its mask is of the shape {mask.shape} and type {mask.dtype}")
        if mask.size and not 0 <= mask.min() <= mask.max() <= 255:
            raise ValueError(f"its mask has the values {mask.min()}..{mask.max()}")
        return np.ascontiguousarray(mask, np.uint8)
    except FileNotFoundError as problem:
        raise ImageError(file.key, "the mask is gone since the folder was listed") from problem
    except Exception as problem:  # damaged bytes make the reader raise nearly anything
        reason = " ".join(str(problem).split())[:200]
        raise ImageError(file.key, f"not a mask of SBD: {reason or type(problem).__name__}") from problem


class MaskDataset(VocImages):
    """A source of images with the class of every pixel, made by ``open_masked``.

    Args:
        labels: the images, and their masks.
    """

    def __init__(self, labels: MaskLabels) -> None:
        assert len(labels.images) == len(labels.masks)
        super().__init__(labels.images, labels.problems)
        self._labels, self.classes = labels, labels.classes

    def masks_digest(self) -> bytes:
        """Return a digest of these masks, over the contents of all that can be read."""
        return self._labels.digest()

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Return the class of every pixel of image ``index``: (H, W), values of ``classes``, or 255: not counted.

        Raises:
            ImageError: the mask is gone or damaged, of another size than the image, or has other values; or the
                image cannot be read.
        """
        file = self._labels.masks[index]
        mask = file.read()
        width, height = self.size(index)
        if mask.shape != (height, width):
            raise ImageError(
                file.key,
                f"the mask has {mask.shape[1]} x {mask.shape[0]} pixels, and the image {width} x {height}; "
                "take its own",
            )
        values = np.unique(mask)
        last = len(self.classes) - 1
        odd = values[(values > last) & (values != UNCOUNTED)]
        if len(odd):
            raise ImageError(
                file.key, f"the mask has the value {odd[0]}, and classes are 0..{last}, or 255: not counted"
            )
        return mask


READERS: dict[str, Callable[[str], MaskLabels]] = {
    "coco": coco.read_masks,
    "yolo": yolo.read_masks,
    "masks": maps.read_class_masks,
    "instances": maps.read_instance_masks,
}
"""Kind of the name -> its reader; other names are VOC's."""


def open_masked(name: str, sbd: str = "") -> MaskDataset:
    """Open images with masks of their classes; those of VOC in the order of the lists in ``ImageSets/Segmentation``.

    Args:
        name: as for ``pretext.data.voc.open_part``; or several, joined by +, as ``open_boxed``; or another format, see
            ``transfer.labels``.
        sbd: a folder with the masks of SBD, see ``find_sbd_masks``: they join a training part of VOC2012, except for
            images of VOC's own val list. Where both have a mask, VOC's is taken.

    Raises:
        UserError: no such year, list or folder; an image or a mask that a list names is missing; SBD cannot join a part
            other than train or trainval of 2012; or SBD has no mask for it.
    """
    if (kind := name.partition(":")[0]) in READERS:
        if sbd:
            raise UserError(f"{name}: the masks of SBD are of images of VOC2012; name a part of it, or give no SBD")
        return MaskDataset(READERS[kind](name))
    images: list[ImageFile] = []
    masks: list[MaskFile] = []
    problems: list[tuple[str, str]] = []
    parts = open_parts(name, "Segmentation")
    for part, prefix in zip(parts, prefixes(parts), strict=True):
        folder = part.root / "SegmentationClass"
        unpublished = "; of the 2012 test part none were published: take val" if part.part == "test" else ""
        try:
            files = files_by_stem(folder, tuple(maps.LOSSLESS))
        except OSError as problem:
            raise UserError(f"{part.name}: cannot list {folder}: {problem.strerror}{unpublished}") from problem
        missing = [stem for stem in part.stems if stem not in files]
        if missing:
            raise UserError(
                f"{part.name}: no file {folder / missing[0]}.png: {len(missing):,} of the {len(part):,} masks that "
                f"the list names are missing{unpublished or '; unpack them there'}"
            )
        for index, stem in enumerate(part.stems):
            images.append(ImageFile(prefix + part.key(index), part.file(index)))
            path = folder / files[stem]
            masks.append(_mask_file(ImageFile(f"{prefix}SegmentationClass/{path.name}", path)))
    if sbd:
        extended = [(part, prefix) for part, prefix in zip(parts, prefixes(parts), strict=True) if part.year == "2012"]
        known = {image.path for image in images}
        for part, prefix in extended:
            for mask, path in find_sbd_masks(sbd, part, problems):
                image = ImageFile(f"{prefix}JPEGImages/{path.name}", path)
                if image.path not in known:
                    known.add(image.path)
                    images.append(image)
                    masks.append(_mask_file(mask))
        if not extended:
            raise UserError(f"{name}: the masks of SBD are of images of VOC2012; name a part of it, or give no SBD")
    return MaskDataset(MaskLabels(["background", *CLASSES], images, masks, problems))


def _mask_file(file: ImageFile) -> MaskFile:
    read = read_sbd if file.path.suffix.lower() == ".mat" else maps.read_map
    return MaskFile(file.key, partial(read, file), file.path.read_bytes)


def mask_of(source: ImageDataset, index: int) -> NDArray[np.uint8]:
    """Return the mask of an image of a ``MaskDataset``, or of some of its images; raises as ``MaskDataset.mask``."""
    masked, at = resolve_subset(source, index)
    assert isinstance(masked, MaskDataset), masked
    return masked.mask(at)
