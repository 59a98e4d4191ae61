"""The manifest of packed shards: the finished shards, their source and their settings."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pretext.data.decode import DECODER
from pretext.data.patterns import MANIFEST
from pretext.data.tar_index import index_path
from pretext.errors import UserError, check_format
from pretext.files import write_atomically
from pretext.store import LOCK, lock

_FORMAT = "pretint shards 2"


@dataclass
class PackedShard:
    """A finished shard."""

    name: str
    first: int
    """Rank of its first image in the order of packing."""
    stop: int
    """Rank after its last image."""
    images: int
    copied: int
    bytes: int
    sha256: str
    skipped: list[tuple[str, str]]
    """Key and reason of the images in between that cannot be read."""


@dataclass
class Manifest:
    """The content of the manifest file."""

    name: str
    """The name of the source, as the user wrote it."""
    wanted: dict[str, Any]
    """Count and digest of the source's images, and the settings: these must not change between calls."""
    decoder: str = DECODER
    shards: list[PackedShard] = field(default_factory=list)
    complete: bool = False

    @property
    def stop(self) -> int:
        """Return the rank up to which all images are packed."""
        return self.shards[-1].stop if self.shards else 0


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest file, atomically."""
    content = {
        "format": _FORMAT,
        "complete": manifest.complete,
        "pretint": version("pretint"),
        "decoder": manifest.decoder,
        "source": {"name": manifest.name, **manifest.wanted["source"]},
        "settings": manifest.wanted["settings"],
        "images": sum(shard.images for shard in manifest.shards),
        "skipped": sum(len(shard.skipped) for shard in manifest.shards),
        "shards": [dataclasses.asdict(shard) for shard in manifest.shards],
    }
    write_atomically(folder / MANIFEST, json.dumps(content, indent=1).encode() + b"\n")


@contextmanager
def lock_manifest(folder: Path, name: str, wanted: dict[str, Any]) -> Iterator[Manifest]:
    """Lock a folder of shards and yield its manifest, a new one if the folder is empty.

    The manifest lists the shards before the first one that is missing or has another size than recorded.

    Raises:
        UserError: the folder has other contents, was packed from other images, with other settings or with another
            decoder, or another process has locked it.
    """
    path = folder / MANIFEST
    try:
        if folder.exists() and not path.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise UserError(f"{folder}: holds something that pretint pack did not write; choose a new folder")
    except OSError as error:
        raise UserError(f"{folder}: cannot write there ({error.strerror}); choose another folder") from error
    with lock(folder / LOCK, "packing there"):
        if not path.exists():
            yield Manifest(name, wanted)
            return
        manifest = _read(path)
        before, now = manifest.wanted["settings"], wanted["settings"]
        if before != now:
            changes = [
                f"{key} was {before.get(key)}, is now {now.get(key)}" for key in now if before.get(key) != now[key]
            ]
            raise UserError(
                f"{folder}: was packed with other settings ({'; '.join(changes)}); use those, or choose a new folder"
            )
        before, now = manifest.wanted["source"], wanted["source"]
        if before != now:
            raise UserError(
                f"{folder}: was packed from other images ({before.get('images')} of {manifest.name}, now "
                f"{now['images']}, or other names or classes); restore those, or choose a new folder"
            )
        good = stop = 0  # number of shards that are as recorded, and the rank after them
        for shard in manifest.shards:
            shard_path = folder / shard.name
            is_whole = shard_path.is_file() and shard_path.stat().st_size == shard.bytes
            if not is_whole or not index_path(shard_path).is_file() or shard.first != stop:
                break
            good, stop = good + 1, shard.stop
        if good < len(manifest.shards):
            manifest.complete = False
        if not manifest.complete and manifest.decoder != DECODER and good:
            raise UserError(
                f"{folder}: was begun with {manifest.decoder}, this is {DECODER}; install the former to resume, "
                "or choose a new folder"
            )
        if not good:
            manifest.decoder = DECODER
        del manifest.shards[good:]
        yield manifest


def _read(path: Path) -> Manifest:
    """Return the manifest in a file, which may be edited or from another program."""
    try:
        content = json.loads(path.read_bytes())
        check_format(path, content["format"], _FORMAT)
        if content["format"] != _FORMAT:
            raise ValueError
        source = dict(content["source"])
        shards = [PackedShard(**shard) for shard in content["shards"]]
        for shard in shards:
            shard.skipped = [(str(key), str(reason)) for key, reason in shard.skipped]
        wanted = {"source": source, "settings": dict(content["settings"])}
        return Manifest(source.pop("name"), wanted, content["decoder"], shards, content["complete"] is True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is no manifest of pretint pack, or was edited; choose a new folder") from error
