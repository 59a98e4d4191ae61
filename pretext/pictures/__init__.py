"""Pictures in: where they come from (sources) and how their bytes become pixels (decoding)."""

from pretext.errors import UserError
from pretext.pictures.bundled import Bundled
from pretext.pictures.decode import DECODER, decode
from pretext.pictures.folder import ClassFolder, Folder
from pretext.pictures.shards import LabelledShards, Shards, names_shards
from pretext.pictures.source import LabelledSource, Source

__all__ = [
    "DECODER",
    "Bundled",
    "ClassFolder",
    "Folder",
    "LabelledShards",
    "LabelledSource",
    "Shards",
    "Source",
    "decode",
    "open_labelled",
    "open_source",
]


def open_source(name: str) -> Source:
    """The source a user names: ``bundled``, ``bundled:train``, ``bundled:test``, tar shards, or a folder of pictures.

    ``bundled`` alone is its train part. A folder of that name is written ``./bundled``. Shards are a name
    that ends in ``.tar``, with braces or globs, or a folder that holds them and nothing else to read.

    Raises:
        UserError: no such folder or part, or no picture in it.
    """
    return _bundled(name) or (Shards(name) if names_shards(name) else Folder(name))


def open_labelled(name: str) -> LabelledSource:
    """As `open_source`, with labels: a folder holds one sub-folder per class.

    Raises:
        UserError: as in `open_source`, or the folder is not one of classes.
    """
    return _bundled(name) or (LabelledShards(name) if names_shards(name) else ClassFolder(name))


def _bundled(name: str) -> Bundled | None:
    match name.split(":"):
        case ["bundled"] | ["bundled", "train"]:
            return Bundled("train")
        case ["bundled", "test"]:
            return Bundled("test")
        case ["bundled", *_]:
            raise UserError(f"{name}: no such part; take bundled:train or bundled:test")
    return None
