"""The manifest of packed shards: the finished shards, their source and their settings."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pretext.data.decode import DECODER
from pretext.data.tar_index import index_path, load_index
from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.store import LOCK, lock, seal, unseal

MANIFEST = "manifest.json"
"""The file that `pretint pack` writes beside its shards: a sealed record, see ``pretext.store``."""

_FORMAT = "pretint shards 3"

Manifest = dict[str, Any]
"""Plain values:

complete           whether all images are packed
pretint, decoder   the versions of Pretint and of the decoder
source             name, as the user wrote it; images (their number), digest of their keys, classes (number or
                   None); of named channels channels: NAME or NAME=LOW..HIGH
settings           those that change the shards
images, skipped    the number of packed images, and of those that cannot be read
shards             for each finished shard: name; first, stop (ranks of its images in the order of packing); images,
                   copied (their number); bytes; sha256; skipped: key and reason of the images in between that cannot
                   be read
"""


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest file, atomically."""
    write_atomically(folder / MANIFEST, manifest_bytes(manifest))


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the content of the manifest file."""
    shards = manifest["shards"]
    counts = {
        "images": sum(shard["images"] for shard in shards),
        "skipped": sum(len(shard["skipped"]) for shard in shards),
    }
    return seal({**manifest, **counts, "shards": shards}) + b"\n"


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder; None if it has none, or one of another program or version.

    Raises:
        UserError: it is damaged.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if f'"{_FORMAT}"'.encode() not in content:
        return None
    try:
        return unseal(content)
    except ValueError as error:
        raise UserError(f"{path}: damaged or edited; restore it, or pack again into a new folder") from error


@contextmanager
def lock_manifest(folder: Path, name: str, source: dict[str, Any], settings: dict[str, Any]) -> Iterator[Manifest]:
    """Lock a folder of shards and yield its manifest, a new one if the folder is empty.

    The manifest lists the shards before the first one that is missing, has another size than recorded, or has no
    undamaged index.

    Args:
        folder: the folder.
        name: the name of the source, as the user wrote it.
        source: number and digest of the source's images, number of classes, channels; must not change between calls.
        settings: the settings that change the shards; they must not change either.

    Raises:
        UserError: the folder has other contents, was packed from other images, with other settings or with another
            decoder, its manifest is damaged, or another process has locked it.
    """
    try:
        is_other = folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot write there ({error.strerror}); choose another folder") from error
    if is_other and not (folder / MANIFEST).exists():
        raise UserError(f"{folder}: holds something that pretint pack did not write; choose a new folder")
    with lock(folder / LOCK, "packing there"):
        manifest = read_manifest(folder)
        if manifest is None and (folder / MANIFEST).exists():
            raise UserError(f"{folder / MANIFEST}: is no manifest of this version of pretint pack; choose a new folder")
        manifest = manifest or {
            "format": _FORMAT,
            "complete": False,
            "pretint": version("pretint"),
            "decoder": DECODER,
            "source": {"name": name, **source},
            "settings": settings,
            "shards": [],
        }
        before = manifest["settings"]
        if before != settings:
            changes = [
                f"{key} was {before.get(key)}, is now {settings.get(key)}"
                for key in {**before, **settings}
                if before.get(key) != settings.get(key)
            ]
            raise UserError(
                f"{folder}: was packed with other settings ({'; '.join(changes)}); use those, or choose a new folder"
            )
        before = manifest["source"]
        if "channels" not in before:  # earlier versions did not record them
            source = {name: value for name, value in source.items() if name != "channels"}
        if before != {"name": before["name"], **source}:
            raise UserError(
                f"{folder}: was packed from other images ({before['images']} of {before['name']}, now "
                f"{source['images']}, or other names, channels or classes); restore those, or choose a new folder"
            )
        good = 0  # number of shards that are as recorded
        for shard in manifest["shards"]:
            path = folder / shard["name"]
            if not path.is_file() or path.stat().st_size != shard["bytes"] or not _has_index(path):
                break
            good += 1
        if good < len(manifest["shards"]):
            manifest["complete"] = False
        if not manifest["complete"] and manifest["decoder"] != DECODER and good:
            raise UserError(
                f"{folder}: was begun with {manifest['decoder']}, this is {DECODER}; install the former to resume, "
                "or choose a new folder"
            )
        if not good:
            manifest["decoder"] = DECODER
        del manifest["shards"][good:]
        yield manifest


def _has_index(path: Path) -> bool:
    index = load_index(path)
    return index_path(path).is_file() and index is not None and len(index.sums) > 0


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
