"""The job that packs images as small JPEGs into tar shards in the WebDataset layout.

shard-000000.tar         KEY.jpg, and KEY.cls beside it if the source has classes; KEY.tif of named channels
shard-000000.index       the positions of its images: opening the shards takes no scan
classes.txt              the names of the classes, by label
manifest.json            source, settings, and every shard: first and stop in the order of packing, checksum
skipped.jsonl            the images that cannot be read: key and reason
SHA256SUMS               the checksums of all of these, for sha256sum -c
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import signal
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset

from pretext import roles
from pretext.data import open_dataset, open_labeled
from pretext.data.channels import ChannelDataset
from pretext.data.decode import decode
from pretext.data.formats import ARRAYS, KNOWN, ending_of
from pretext.data.local_copy import SUMS
from pretext.data.order import permute_index
from pretext.data.pack_manifest import (
    MANIFEST,
    Manifest,
    lock_manifest,
    manifest_bytes,
    sha256_of,
    write_manifest,
)
from pretext.data.packed_tiff import write_packed
from pretext.data.shards import CLASSES
from pretext.data.source import FileSource, ImageDataset, LabeledDataset, require_single_labels
from pretext.data.tar_index import TarIndexBuilder, index_path, key_hash, write_index_beside
from pretext.engine.memory import explain_memory_shortage
from pretext.engine.progress import progress
from pretext.engine.signals import ExitStatus, catch_signals
from pretext.errors import ImageError, UserError
from pretext.files import open_atomically, write_atomically
from pretext.settings import to_plain

SKIPPED = "skipped.jsonl"
_BATCH = 16
_RECORD = 20 * tarfile.BLOCKSIZE
_LONGEST = 65_500  # libjpeg's limit


@dataclass
class PackSettings:
    """Settings of packing.

    Args:
        shorter: length of the shorter side, in pixels, to which larger images are reduced; smaller images keep
            their size. Images of named channels keep size and values.
        quality: quality of the JPEGs that are encoded again, 1 to 100.
        shard_mb: a shard ends with the image that brings it to this size, in MB (1e6 bytes).
        labels: whether the class of each image is packed with it, if the source has classes.
        shuffle: whether images are packed in random order, for programs that read shards sequentially. Pretint
            reads by index and does not need it.
        seed: seed of the random order.
        workers: processes that read and encode; -1: one per core, 0: only the main process.
    """

    shorter: int = roles.science(256)
    quality: int = roles.science(90)
    shard_mb: float = roles.science(1000.0)
    labels: bool = roles.science(True)
    shuffle: bool = roles.science(False)
    seed: int = roles.seed()
    workers: int = roles.machine(-1)

    def __post_init__(self) -> None:
        if not 1 <= self.shorter <= 4096:
            raise UserError(f"shorter is {self.shorter}: it must lie in [1, 4096] pixels")
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality is {self.quality}: it must lie in [1, 100]")
        if not 0 < self.shard_mb < math.inf:
            raise UserError(f"shard_mb is {self.shard_mb}: it must be above 0, and finite")
        if self.workers < -1:
            raise UserError(f"workers is {self.workers}: give 0 or more, or -1 for one per core")


class PackResult(NamedTuple):
    """The content of the destination after packing."""

    shards: int
    images: int
    copied: int
    """The number of images whose bytes are the original's."""
    skipped: list[tuple[str, str]]
    """Key and reason of the images that cannot be read."""
    classes: int | None
    """The number of classes; None without labels."""
    complete: bool
    """Whether all is packed; False if the job was stopped. It can be resumed."""
    already: bool
    """Whether it was complete before this call; then the call changed nothing."""
    ending: ExitStatus = ExitStatus.COMPLETE
    """Why the job was stopped, if it is not complete."""


@explain_memory_shortage("lower workers")
def pack(source: str, destination: Path, settings: PackSettings) -> PackResult:
    """Pack the images of a source into tar shards, or resume an interrupted call.

    The shards' bytes depend only on the images, the settings and the decoder, not on the workers or on
    interruptions. A shard gets its name when it is finished; images after the last finished shard are packed again.

    Args:
        source: as for ``open_dataset``.
        destination: a folder; created if it does not exist.
        settings: see ``PackSettings``.

    Raises:
        UserError: the source cannot be opened, none of its images can be read, the destination has other contents,
            lies in the source or is in use by another process, or the disk is full.
    """
    if Path(source).is_dir() and destination.resolve().is_relative_to(Path(source).resolve()):
        raise UserError(f"{destination}: lies in {source} and would change it; choose a folder elsewhere")
    images = _open_images(source, settings.labels)
    labels = None
    if isinstance(images, LabeledDataset) and settings.labels:
        labels = require_single_labels(
            images.labels,
            f"{source}: an image can have several labels, but KEY.cls in a shard holds only one; "
            "use --labels false to pack only the images",
        )
    classes = images.classes if isinstance(images, LabeledDataset) and settings.labels else None
    names = Names(images)
    wanted = {"images": len(images), "digest": names.digest, "classes": None if classes is None else len(classes)}
    if isinstance(images, ChannelDataset):
        wanted["channels"] = images.declared
    fixed = {name: value for name, value in to_plain(settings).items() if name != "workers"}
    with lock_manifest(destination, source, wanted, fixed) as manifest:
        recorded = [destination / shard["name"] for shard in manifest["shards"]]
        for path in (*destination.glob("shard-*"), *destination.glob(".*.part")):
            if path.with_suffix(".tar") not in recorded:  # a killed call left it
                path.unlink()
        if not manifest["complete"]:
            (destination / SUMS).unlink(missing_ok=True)
            write_manifest(destination, manifest)
            first = _stop(manifest)
            try:
                with (
                    catch_signals() as stopping,
                    progress("pack", len(images), "images", done=first) as advance,
                    contextlib.closing(_encode_images(images, settings, first, stopping, advance)) as results,
                ):
                    while _stop(manifest) < len(images):
                        _next_shard(destination, manifest, results, names, labels, settings.shard_mb * 1e6)
            except _Stopped as stopped:
                return _summarize(manifest)._replace(ending=stopped.ending)
        is_changed = _finish(destination, manifest, classes)
        return _summarize(manifest, already=not is_changed)


def _stop(manifest: Manifest) -> int:
    """Return the rank up to which all images are packed."""
    return manifest["shards"][-1]["stop"] if manifest["shards"] else 0


class _Stopped(Exception):
    """The user or a cluster requested a stop."""

    def __init__(self, ending: ExitStatus) -> None:
        super().__init__(ending)
        self.ending = ending


class _EncodeResult(NamedTuple):
    """The result of a worker for one image."""

    image: int
    """Its index in the source."""
    key: str
    encoded: "EncodedImage | None"
    reason: str = ""
    """Why the image cannot be read, if it cannot."""


class _EncodedImages(Dataset[_EncodeResult]):
    """The encoded images, by rank in the order of packing."""

    def __init__(self, source: ImageDataset, settings: PackSettings) -> None:
        self.source, self.settings = source, settings

    def __getitem__(self, rank: int) -> _EncodeResult:
        settings = self.settings
        index = permute_index(rank, len(self.source), key=settings.seed) if settings.shuffle else rank
        try:
            if isinstance(self.source, ChannelDataset):
                encoded = EncodedImage(write_packed(self.source.stored_values(index)), copied=False, ending="tif")
            else:
                encoded = small_jpeg(self.source, index, settings.shorter, settings.quality)
            return _EncodeResult(index, self.source.key(index), encoded)
        except ImageError as error:
            return _EncodeResult(index, error.key, None, error.reason)


def _open_images(name: str, labels: bool) -> ImageDataset:
    """Open the source, with labels if it has classes for all its images."""
    source = open_dataset(name)
    if labels:
        with contextlib.suppress(UserError):  # without classes: only the images are packed
            labeled = open_labeled(name)
            if len(labeled) == len(source) and len(labeled.classes) > 1:
                return labeled
    return source


def _encode_images(
    source: ImageDataset,
    settings: PackSettings,
    first: int,
    stopping: Callable[[], ExitStatus],
    advance: Callable[[int, str], None],
) -> Generator[_EncodeResult]:
    """Yield the images from rank ``first`` on, in order, encoded by the workers."""
    left = len(source) - first
    cores = len(os.sched_getaffinity(0))
    workers = min(cores if settings.workers < 0 else settings.workers, math.ceil(left / _BATCH))
    loader = DataLoader(
        _EncodedImages(source, settings),
        batch_size=_BATCH,
        sampler=range(first, len(source)),
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=partial(_exit_with_job, os.getpid()),
        prefetch_factor=4 if workers else None,
    )
    # Workers inherit the mask and never get the signals that request a stop: this process decides.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2})
    try:
        batches = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for batch in batches:
        if ending := stopping():
            raise _Stopped(ending)
        advance(len(batch), "")
        yield from batch


def _exit_with_job(job: int, worker: int) -> None:
    """End this worker when the job is killed: torch's own check hangs if the pipe to the job is full."""

    def watch() -> None:
        while os.getppid() == job:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _next_shard(
    folder: Path,
    manifest: Manifest,
    results: Iterator[_EncodeResult],
    names: "Names",
    labels: NDArray[np.int64] | None,
    limit: float,
) -> None:
    """Write one more shard, if there are images left for one."""
    shards: list[dict[str, Any]] = manifest["shards"]
    skipped: list[tuple[str, str]] = []

    def skip_unreadable() -> Iterator[tuple[_EncodeResult, EncodedImage]]:
        for result in results:
            if result.encoded is None:
                skipped.append((result.key, result.reason))
            else:
                yield result, result.encoded

    first = next(skip_unreadable(), None)
    if first is None:
        if not shards:
            raise UserError(
                f"{manifest['source']['name']}: none of its {len(skipped)} images can be read; the first: "
                f"{': '.join(skipped[0])}"
            )
        shards[-1]["skipped"] += skipped
        shards[-1]["stop"] += len(skipped)
        return
    path = folder / f"shard-{len(shards):06d}.tar"
    builder, copied = TarIndexBuilder(), 0
    with open_atomically(path, f"a shard of {limit / 1e6:g} MB") as file:

        def put(name: str, data: bytes) -> int:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.write(info.tobuf(tarfile.PAX_FORMAT))
            at = file.tell()
            file.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
            return at

        for result, encoded in itertools.chain([first], skip_unreadable()):
            name, label = names.safe(result.key, result.image), None if labels is None else int(labels[result.image])
            at = put(f"{name}.{encoded.ending}", encoded.data)
            builder.add(name, at, len(encoded.data), label, zlib.crc32(encoded.data))
            copied += encoded.copied
            if label is not None:
                put(f"{name}.cls", str(label).encode())
            if file.tell() >= limit:
                break
        file.write(bytes(2 * tarfile.BLOCKSIZE))
        file.write(bytes(-file.tell() % _RECORD))
    write_index_beside(path, builder.index())
    before, done = _stop(manifest), len(builder.keys)
    shards.append(
        {
            "name": path.name,
            "first": before,
            "stop": before + done + len(skipped),
            "images": done,
            "copied": copied,
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
            "skipped": skipped,
        }
    )
    write_manifest(folder, manifest)


def _finish(folder: Path, manifest: Manifest, classes: list[str] | None) -> bool:
    """Write the files beside the shards that are not as they must be. Return whether there were any."""
    manifest["complete"] = True
    skips = _skipped(manifest)
    files = {SKIPPED: "".join(json.dumps({"key": key, "reason": reason}) + "\n" for key, reason in skips).encode()}
    if classes is not None:
        files[CLASSES] = "".join(f"{name}\n" for name in classes).encode()
    files[MANIFEST] = manifest_bytes(manifest)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for shard in manifest["shards"]:
        index = index_path(folder / shard["name"])
        sums |= {shard["name"]: shard["sha256"], index.name: sha256_of(index)}
    files[SUMS] = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()
    is_changed = False
    for name, content in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content)
            is_changed = True
    return is_changed


def _skipped(manifest: Manifest) -> list[tuple[str, str]]:
    return [(key, reason) for shard in manifest["shards"] for key, reason in shard["skipped"]]


def _summarize(manifest: Manifest, already: bool = False) -> PackResult:
    shards = manifest["shards"]
    return PackResult(
        shards=len(shards),
        images=sum(shard["images"] for shard in shards),
        copied=sum(shard["copied"] for shard in shards),
        skipped=_skipped(manifest),
        classes=manifest["source"]["classes"],
        complete=manifest["complete"],
        already=already,
    )


class Names:
    """The names of a source's images in shards (WebDataset's keys): unique, and a function of the source's keys only.

    A name is the source's key without the ending of an image, with ``_`` instead of dots in its last part.
    Images that would share a name (``x.jpg`` and ``x.png``) get ``~`` and their index at the end. This needs
    eight bytes per image while the names are made.
    """

    def __init__(self, source: ImageDataset) -> None:
        hashes, digest = np.empty(len(source), np.uint64), hashlib.sha256()
        for index in range(len(source)):
            key = source.key(index)
            digest.update(key.encode() + b"\n")
            hashes[index] = key_hash(_safe(key))
        hashes.sort()
        self._shared = frozenset(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        self.digest = digest.hexdigest()

    def safe(self, key: str, index: int) -> str:
        """Return the name of the image with that key and index in the source."""
        name = _safe(key)
        return f"{name}~{index}" if key_hash(name) in self._shared else name


def _safe(key: str) -> str:
    """Return a key without the ending of an image, and without dots in its last part."""
    *folders, base = key.split("/")
    ending = ending_of(base) if ending_of(base) in (*KNOWN, *ARRAYS) else ""
    # Names contain no ~, so they stay unique when ~ and a number are added to some.
    base = base[: len(base) - len(ending)].replace(".", "_").replace("~", "_")
    return "/".join([*(folder for folder in folders if folder not in ("", ".", "..")), base or "_"])


class EncodedImage(NamedTuple):
    """A packed image."""

    data: bytes
    """A JPEG: upright, sRGB. Or a TIFF of named channels."""
    copied: bool
    """Whether these are the bytes of the original."""
    ending: str = "jpg"


def small_jpeg(source: ImageDataset, index: int, shorter: int, quality: int) -> EncodedImage:
    """Return image ``index`` with a shorter side of at most ``shorter`` pixels; smaller images are not enlarged.

    A JPEG that is small enough is copied, unless `decode` changes its pixels (orientation, color profile, CMYK):
    other programs may ignore these.

    Args:
        quality: quality of the JPEG if it is encoded again, 1 to 100.

    Raises:
        ImageError: the image cannot be read, or is too long for a JPEG.
    """
    # The decoder may reduce it to twice the size; a better filter does the rest.
    if isinstance(source, FileSource):
        data = source.data(index)
        image = decode(data, source.key(index), 2 * shorter)
        if min(image.size) <= shorter:
            # Another format is not an error here.
            with contextlib.suppress(UnidentifiedImageError), Image.open(BytesIO(data), formats=("JPEG",)) as original:
                is_plain = original.format == "JPEG" and original.mode in ("L", "RGB")
                if is_plain and np.array_equal(np.asarray(original.convert("RGB")), np.asarray(image)):
                    return EncodedImage(data, copied=True)
    else:
        image = source.read(index, 2 * shorter)
    width, height = image.size
    if min(width, height) > shorter:
        scale = shorter / min(width, height)
        size = (max(shorter, round(width * scale)), max(shorter, round(height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    if max(image.size) > _LONGEST:
        raise ImageError(source.key(index), f"{max(image.size)} pixels long; a JPEG has at most {_LONGEST}")
    # No chroma subsampling, because networks learn color. For 250 VOC photographs at 112 pixels, quality 90, the
    # mean error in ab is 0.8 with 4:4:4 and 2.2 with 4:2:0 (there 10 % of the pixels are wrong by more than half
    # a bin). The files are 20 % larger.
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling="4:4:4")
    return EncodedImage(buffer.getvalue(), copied=False)
