"""Images: where they come from (sources), how they are decoded, and how they are batched for a training step."""

import difflib
import os
from collections.abc import Callable

from pretext.data.bundled import Bundled
from pretext.data.channels import open_channels
from pretext.data.decode import DECODER, decode
from pretext.data.folder import ClassFolder, Folder
from pretext.data.hugging_face import open_hugging_face
from pretext.data.list_file import open_list
from pretext.data.shards import LabeledShards, Shards, names_shards
from pretext.data.source import ImageDataset, LabeledDataset
from pretext.data.torchvision_sets import open_torchvision
from pretext.data.voc import open_part
from pretext.errors import UserError
from pretext.plugins import Registry

__all__ = [
    "DATASETS",
    "DECODER",
    "Bundled",
    "ClassFolder",
    "Folder",
    "ImageDataset",
    "LabeledDataset",
    "LabeledShards",
    "Shards",
    "decode",
    "open_dataset",
    "open_labeled",
]

_OPENERS: dict[str, Callable[[str], LabeledDataset]] = {
    "torchvision": open_torchvision,
    "hf": open_hugging_face,
    "voc": open_part,
    "list": open_list,
}
_BUILTIN = ("bundled", "channels", *_OPENERS)

DATASETS: Registry[Callable[[str, bool], ImageDataset]] = Registry("source", {}, is_reserved=_BUILTIN.__contains__)
"""Sources that plugins add: for ``NAME:REST``, NAME -> a function of REST and of whether labels are needed."""


def open_dataset(name: str) -> ImageDataset:
    """Open a source by its name.

    - ``bundled``, ``bundled:train``, ``bundled:test``: the built-in images; ``bundled`` alone is its train part.
    - ``torchvision:SET:PART:FOLDER``: see ``pretext.data.torchvision_sets``.
    - ``hf:DATA:SPLIT``: see ``pretext.data.hugging_face``.
    - ``voc:YEAR:PART:FOLDER``: see ``pretext.data.voc``.
    - ``list:FILE:FOLDER``: see ``pretext.data.list_file``.
    - ``channels:NAMES:SOURCE``: other images than 8-bit sRGB, see ``pretext.data.channels``.
    - ``NAME:REST`` of a plugin: see ``DATASETS``.
    - tar shards: a name that ends in ``.tar``, with braces or globs, or a folder that holds them and no images.
    - any other name: a folder of images. If its path begins like one of the above, write ``./bundled``, ``./hf:...``.

    Raises:
        UserError: there is no such source, or no image in it.
    """
    return _open(name, labeled=False)


def open_labeled(name: str) -> LabeledDataset:
    """Open a source as `open_dataset`, with labels: a folder holds one sub-folder per class.

    Raises:
        UserError: as in `open_dataset`, or some images have no label.
    """
    source = _open(name, labeled=True)
    if not isinstance(source, LabeledDataset):  # of a plugin
        raise UserError(f"{name}: has no labels (a LabeledDataset has classes and labels); give another source")
    return source


def _open(name: str, labeled: bool) -> ImageDataset:
    """Open the source of the first kind that the name fits; if none fits, a folder."""
    kind, colon, rest = name.partition(":")
    if kind == "bundled":
        if rest not in ("train", "test") and colon:
            raise UserError(f"{name}: no such part; use bundled:train or bundled:test")
        return Bundled("test" if rest == "test" else "train")
    if colon and kind == "channels":
        return open_channels(name, labeled, lambda inner: _open(inner, labeled))
    if colon and kind in _OPENERS:
        opened = _OPENERS[kind](name)
        if labeled:  # both raise if there are none
            assert len(opened.labels) == len(opened) and opened.classes, name
        return opened
    if kind in DATASETS:
        source = DATASETS[kind](rest, labeled)
        if not isinstance(source, ImageDataset):
            raise UserError(
                f"{name}: the plugin returns no ImageDataset; it must return one, with __len__, read, key and digest"
            )
        return source
    if names_shards(name):
        return LabeledShards(name) if labeled else Shards(name)
    near = difflib.get_close_matches(kind, [*_BUILTIN, *DATASETS] if colon else ["bundled"], 1, 0.7)
    if near and not os.path.lexists(name):
        raise UserError(f"{name}: no such folder; did you mean {near[0]}{colon}{rest}?")
    return ClassFolder(name) if labeled else Folder(name)
