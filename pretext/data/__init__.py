"""Images in: where they come from (sources) and how their bytes become pixels (decoding)."""

import difflib
import os
from collections.abc import Callable

from pretext.data.bundled import Bundled
from pretext.data.decode import DECODER, decode
from pretext.data.folder import ClassFolder, Folder
from pretext.data.hugging_face import open_hugging_face
from pretext.data.list_file import open_list
from pretext.data.shards import LabeledShards, Shards, names_shards
from pretext.data.source import LabeledSource, Source
from pretext.data.torchvision_sets import open_torchvision
from pretext.data.voc import open_voc
from pretext.errors import UserError
from pretext.plugins import Registry

__all__ = [
    "DECODER",
    "SOURCES",
    "Bundled",
    "ClassFolder",
    "Folder",
    "LabeledShards",
    "LabeledSource",
    "Shards",
    "Source",
    "decode",
    "open_labeled",
    "open_source",
]

_OWN = ("bundled", "torchvision", "hf", "voc", "list")

SOURCES: Registry[Callable[[str, bool], Source]] = Registry("source", {}, taken=_OWN.__contains__)
"""Sources that plugins add: NAME of ``NAME:REST`` -> what opens it, from the rest and whether labels are asked for."""


def open_source(name: str) -> Source:
    """The source a user names.

    - ``bundled``, ``bundled:train``, ``bundled:test``: the built-in images; ``bundled`` alone is its train part.
    - ``torchvision:SET:PART:FOLDER``: see ``pretext.data.torchvision_sets``.
    - ``hf:DATA:SPLIT``: see ``pretext.data.hugging_face``.
    - ``voc:YEAR:PART:FOLDER``: see ``pretext.data.voc``.
    - ``list:FILE:FOLDER``: see ``pretext.data.list_file``.
    - ``NAME:REST`` of a plugin: see ``SOURCES``.
    - tar shards: a name that ends in ``.tar``, with braces or globs, or a folder that holds them and no images.
    - any other: a folder of images. One whose path begins like the above is written ``./bundled``, ``./hf:...``.

    Raises:
        UserError: no such source, or no image in it.
    """
    return _opened(name, labeled=False)


def open_labeled(name: str) -> LabeledSource:
    """As `open_source`, with labels: a folder holds one sub-folder per class.

    Raises:
        UserError: as in `open_source`, or there are images without a label.
    """
    source = _opened(name, labeled=True)
    if not isinstance(source, LabeledSource):  # a plugin's
        raise UserError(f"{name}: has no labels (a LabeledSource has classes and labels); name another source")
    return source


def _bundled(name: str, labeled: bool) -> Bundled | None:
    match name.split(":"):
        case ["bundled"] | ["bundled", "train"]:
            return Bundled("train")
        case ["bundled", "test"]:
            return Bundled("test")
        case ["bundled", *_]:
            raise UserError(f"{name}: no such part; take bundled:train or bundled:test")
    return None


def _plugin(name: str, labeled: bool) -> Source | None:
    kind, _, rest = name.partition(":")
    if kind not in SOURCES:
        return None
    source = SOURCES[kind](rest, labeled)
    if not isinstance(source, Source):
        raise UserError(f"{name}: what the plugin opens is no Source, which has __len__, read, key and digest")
    return source


def _shards(name: str, labeled: bool) -> Shards | None:
    if not names_shards(name):
        return None
    return LabeledShards(name) if labeled else Shards(name)


def _folder(name: str, labeled: bool) -> Folder:
    kind, colon, rest = name.partition(":")
    near = difflib.get_close_matches(kind, [*_OWN, *SOURCES] if colon else ["bundled"], 1, 0.7)
    if near and not os.path.lexists(name):
        raise UserError(f"{name}: no such folder; did you mean {near[0]}{colon}{rest}?")
    return ClassFolder(name) if labeled else Folder(name)


_OPENERS: tuple[Callable[[str, bool], Source | None], ...] = (
    _bundled,
    open_torchvision,
    open_hugging_face,
    open_voc,
    open_list,
    _plugin,
    _shards,
    _folder,  # the last: it takes any name
)
"""Asked in turn with (name, labeled); the first that does not answer None has the source, or says what is wrong."""


def _opened(name: str, labeled: bool) -> Source:
    return next(source for opener in _OPENERS if (source := opener(name, labeled)) is not None)
