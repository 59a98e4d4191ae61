"""torchvision's datasets by name: ``torchvision:CIFAR10:train:/data``.

torchvision lists the files and labels of a dataset. The images are read here, so that all sources have the same
decoder and errors. Nothing is downloaded; if a dataset is missing, the message explains how to get it.

No file of unknown origin is unpickled. torchvision compares CIFAR's files with MD5 sums in its code before it opens
them (no known attack makes other files with the same sum). ImageNet's list of names is read with ``weights_only``.
LSUN is refused, because it unpickles a file without a check.
"""

import difflib
import inspect
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pretext.data.folder import ClassFolder, Files
from pretext.data.scan import Paths
from pretext.data.source import LabeledDataset, check_labels, compose_classes, digest_of_keys
from pretext.engine.checkpoint import check_content
from pretext.errors import UserError, one_line

PREFIX = "torchvision:"
_GRAMMAR = "write torchvision:SET:PART:FOLDER, such as torchvision:CIFAR10:train:/data"
_REFUSED = {"LSUN", "LSUNClass", "FakeData", "ImageFolder", "DatasetFolder", "VisionDataset"}
_LISTS = ("samples", "imgs", "_samples", "_image_files", "_images")


def open_torchvision(name: str) -> LabeledDataset:
    """Open a dataset of torchvision.

    Args:
        name: ``torchvision:SET:PART:FOLDER``: a class of ``torchvision.datasets``, its name of the split
            (``train`` or ``test`` if it only has an option ``train``; empty if there is none), and
            its root folder. ``val-256`` and similar parts are the small images of Places365.

    Raises:
        UserError: there is no such set or part, or files are missing or damaged.
    """
    kind, part, folder = [*name.removeprefix(PREFIX).split(":", 2), "", ""][:3]
    if not kind or not folder:
        raise UserError(f"{name}: {_GRAMMAR}; leave PART empty if the dataset has only one")
    from torchvision import datasets

    makers = {}  # datasets that only need a root folder and a part
    for candidate in set(datasets.__all__) - _REFUSED:
        known = getattr(datasets, candidate)
        if inspect.isclass(known) and issubclass(known, datasets.VisionDataset):
            needed = [p.name for p in _parameters(known).values() if p.default is p.empty and p.kind not in (2, 4)]
            if set(needed) <= {"root", "split", "train"}:
                makers[candidate] = known
    if kind not in makers:
        problem = "not one of images with classes" if kind in datasets.__all__ else "unknown to torchvision"
        by_lower = {name_of_set.lower(): name_of_set for name_of_set in makers}
        near = difflib.get_close_matches(kind.lower(), by_lower, 1, 0.5)
        instead = by_lower[near[0]] if near else "ImageNet, Places365, CIFAR10, CIFAR100 or STL10"
        raise UserError(f"{name}: the dataset {kind} is {problem}; did you mean {instead}?")
    maker = makers[kind]
    try:
        root = Path(folder).expanduser().absolute()
        exists = root.is_dir()
    except (OSError, RuntimeError):  # denied, or ~nobody
        exists = False
    if not exists:
        raise UserError(f"{name}: no folder {folder}; {_how_to_get(kind, maker, folder)}")
    if kind == "ImageNet":
        return ImageNetFolder(name, root, part)
    dataset = _open_dataset(name, kind, maker, root, part)
    return _wrap_dataset(name, dataset, root, part, f"{kind}/{part}" if part else kind)


class ImageNetFolder(ClassFolder):
    """A part of ImageNet in torchvision's layout: ``root/train`` or ``root/val``, with one sub-folder per class.

    Raises:
        UserError: there is no such part or folder; see also ``ClassFolder``.
    """

    def __init__(self, name: str, root: Path, part: str) -> None:
        self._name, self._meta = name, root
        if part not in ("train", "val"):
            raise UserError(f"{name}: ImageNet has no part {part!r}; use train or val")
        if not (root / part).is_dir():  # torchvision would begin to unpack 138 GB here
            raise UserError(
                f"{name}: no folder {root / part}; put ILSVRC2012_img_{part}.tar and ILSVRC2012_devkit_t12.tar.gz "
                f"(from image-net.org) in {root} and let "
                f"torchvision.datasets.ImageNet({str(root)!r}, {part!r}) unpack it"
            )
        super().__init__(root / part)

    @cached_property
    def classes(self) -> list[str]:
        """Return WordNet id and words of every class. The id is needed: two classes are called "crane"."""
        from torchvision.datasets.imagenet import load_meta_file, parse_devkit_archive

        ids = super().classes
        try:
            if not (self._meta / "meta.bin").exists():
                parse_devkit_archive(str(self._meta))
            check_content(self._meta / "meta.bin")
            words = load_meta_file(str(self._meta))[0]
            return [f"{wnid} {', '.join(words[wnid])}" for wnid in ids]
        except Exception as problem:  # torch.load raises many types of error for a damaged file
            raise UserError(
                f"{self._name}: the names of the classes cannot be read from {self._meta}/meta.bin "
                f"({one_line(problem)}); put ILSVRC2012_devkit_t12.tar.gz there, from which torchvision makes it; or "
                f"give the folder {self.root}: then the classes are WordNet ids"
            ) from problem


class _Labels:
    """Labels and classes of a dataset that torchvision has opened; they are checked at their first use."""

    def __init__(self, name: str, labels: Sequence[int | None] | NDArray[Any], classes: list[str] | None) -> None:
        self._name, self._unchecked = name, labels
        self._classes = classes

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes, by label; their numbers if the dataset has no names."""
        if self._classes is None:
            return [str(label) for label in range(1 + max((int(label or 0) for label in self._unchecked), default=0))]
        return compose_classes(self._name, self._classes)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Return the label of every image, by index: (N,).

        Raises:
            UserError: this part has no labels.
        """
        return check_labels(self._name, self._unchecked, self.classes)


class FileSet(_Labels, Files):
    """A labeled source of image files, ordered by path."""

    def __init__(self, name: str, base: bytes, paths: Paths, labels: NDArray[Any], classes: list[str] | None) -> None:
        _Labels.__init__(self, name, labels, classes)
        Files.__init__(self, base, paths)


class ArraySet(_Labels):
    """A labeled source of small images in memory, in one array that forked workers share.

    Args:
        name: as the user wrote it.
        pixels: uint8 (N, H, W) or (N, H, W, 3).
        part: the first part of all keys.
        labels: see ``check_labels``.
        classes: names of the classes; None if they have no names.
    """

    def __init__(
        self, name: str, pixels: NDArray[np.uint8], part: str, labels: NDArray[Any], classes: list[str] | None
    ) -> None:
        super().__init__(name, labels, classes)
        self._pixels, self._part = pixels, part

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._pixels)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        """Return image ``index``: mode RGB; ``shorter`` has no effect."""
        return Image.fromarray(np.ascontiguousarray(self._pixels[index])).convert("RGB")

    def stamps(self) -> NDArray[np.int64]:
        """See ``StoredDataset.stamps``: the size of the pixels."""
        return np.tile(np.array([self._pixels[:1].nbytes, 0]), (len(self), 1))

    def read_bytes(self, index: int, start: int = 0, stop: int | None = None) -> bytes:
        """See ``StoredDataset.read_bytes``: the pixels, row by row."""
        return bytes(self._pixels[index].tobytes()[start:stop])

    def key(self, index: int) -> str:
        """Return dataset, part and number: ``CIFAR10/train/00042``."""
        assert 0 <= index < len(self), index
        return f"{self._part}/{index:05}"

    def digest(self) -> str:
        """See ``ImageDataset.digest``."""
        return digest_of_keys(self)


def _parameters(maker: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(maker).parameters)


def _open_dataset(name: str, kind: str, maker: Any, root: Path, part: str) -> Any:
    """Open the dataset with torchvision."""
    parameters = _parameters(maker)
    options: dict[str, str | bool] = {}
    if "small" in parameters and part.endswith("-256"):
        part, options["small"] = part.removesuffix("-256"), True
    if "split" in parameters:
        options |= {"split": part} if part else {}
    elif "train" in parameters:
        if part not in ("train", "test"):
            raise UserError(f"{name}: {kind} has no part {part!r}; use train or test")
        options["train"] = part == "train"
    elif part:
        raise UserError(f"{name}: {kind} has no parts; write torchvision:{kind}::{root}")
    try:
        return maker(str(root), **options)
    except ValueError as problem:
        if "argument split" not in str(problem):
            raise UserError(f"{name}: torchvision cannot read it: {one_line(problem)}") from problem
        raise UserError(f"{name}: {kind} has no part {part!r}: {one_line(problem)}") from problem
    except (RuntimeError, FileNotFoundError) as problem:  # missing, or with a wrong checksum
        raise UserError(f"{name}: {one_line(problem)}; {_how_to_get(kind, maker, str(root))}") from problem
    except Exception as problem:  # it raises many types of error for damaged files
        raise UserError(
            f"{name}: torchvision cannot read it: {type(problem).__name__}: {one_line(problem)}"
        ) from problem


def _how_to_get(kind: str, maker: Any, root: str) -> str:
    """Return advice on how to get the dataset."""
    if kind == "ImageNet":
        return "give the folder with its train and val"
    if "download" not in _parameters(maker):
        return f"torchvision cannot download it: see the documentation of torchvision.datasets.{kind}"
    files = [
        getattr(maker, name) for name in ("base_folder", "filename") if isinstance(getattr(maker, name, None), str)
    ]
    wanted = f"it needs {files[0]}/ there, unpacked from {files[1]}; " if len(files) == 2 else ""
    return f"{wanted}torchvision.datasets.{kind}({root!r}, download=True) downloads it"


def _wrap_dataset(name: str, dataset: Any, root: Path, part: str, prefix: str) -> LabeledDataset:
    """Return a dataset of torchvision as a source: from its list of files if it has one, else from its array."""
    classes: list[str] | None = None
    class_to_idx = getattr(dataset, "class_to_idx", None)
    if class_to_idx and sorted(class_to_idx.values()) == list(range(len(class_to_idx))):
        classes = sorted(map(str, class_to_idx), key=class_to_idx.__getitem__)
    elif names := getattr(dataset, "classes", None):
        classes = list(map(str, names))
    entries = next((getattr(dataset, key) for key in _LISTS if isinstance(getattr(dataset, key, None), list)), None)
    if entries:
        pairs = entries if isinstance(entries[0], tuple) else list(zip(entries, _labels_of(dataset), strict=True))
        # Other entries are stereo pairs, for example.
        if isinstance(pairs[0][0], str | os.PathLike) and isinstance(pairs[0][1], int | None):
            base = os.fsencode(root).rstrip(b"/")
            # Sorted by path: some datasets list a folder in no fixed order.
            ordered = sorted(
                (os.fsencode(path).removeprefix(base + b"/"), -1 if label is None else label) for path, label in pairs
            )
            first = root / os.fsdecode(ordered[0][0])
            if not first.exists():
                small = f", or use {part}-256 for the small ones" if "small" in vars(dataset) else ""
                raise UserError(
                    f"{name}: no file {first}, which is in the dataset's list; unpack the images there{small}"
                )
            labels = np.array([label for _, label in ordered], np.int64)
            return FileSet(name, base, Paths.of(path for path, _ in ordered), labels, classes)
    data = getattr(dataset, "data", None)
    pixels: NDArray[Any] = np.asarray(data) if hasattr(data, "dtype") else np.zeros(0)
    if pixels.ndim == 4 and pixels.shape[1] == 3:
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.dtype != np.uint8 or not (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)):
        raise UserError(
            f"{name}: torchvision stores the images of {type(dataset).__name__} in an unknown form; "
            "give a folder of images instead"
        )
    labels = np.array([-1 if label is None else label for label in _labels_of(dataset)], np.int64)
    return ArraySet(name, pixels, prefix, labels, classes)


def _labels_of(dataset: Any) -> Sequence[Any]:
    for attribute in ("targets", "labels", "_labels"):
        labels = getattr(dataset, attribute, None)
        if labels is not None and len(labels) == len(dataset):
            return [int(label) if label is not None else None for label in labels]
    return [None] * len(dataset)
