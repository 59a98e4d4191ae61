"""Embeddings: a vector for each image, computed once and written to a file that other programs read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pretext import roles
from pretext.data import open_dataset, open_labeled
from pretext.data.batches import EvalDataset, stream
from pretext.data.decode import decode
from pretext.data.source import ImageDataset, LabeledDataset, digest_of_keys
from pretext.engine.device import choose_compute
from pretext.engine.progress import progress
from pretext.errors import UserError
from pretext.files import open_atomically
from transfer.embedding_files import WRITERS, Texts, Writer, read_facts
from transfer.features import CacheSettings, View, cache_folder, extract, pool, run_network
from transfer.networks import Network, open_network

_ROWS = 4096  # that are held in memory at once
_AT_ONCE = 64


@dataclass
class EmbedSettings:
    """What of an image becomes its vector, and where the vectors go.

    Args:
        out: required: the file: .parquet, .npz or .safetensors.
        stage: the stage of the backbone that is taken; empty: the last.
        pooling: how its map becomes a vector: mean; or average:N, a grid of means with at most N numbers; or another
            rule of docs/evaluation.md.
        normalize: scale vectors to length 1, so that their products are cosines.
        size: side, in pixels, at which the network sees the middle square of an image; 0 takes the size at which things
            look as large as in training (a network that does not come from a run: its default size).
        seed: the seed of random networks that do not come from a run.
        device: auto (the GPU if there is one), cpu, cuda, ...
        precision: the precision of the network, as in pretraining: auto, bf16, fp32.
        workers: processes that decode images; -1 takes 1 beside a CPU and up to 12 beside a GPU.
        cache: folder of features that are computed; empty: $PRETINT_CACHE, or ~/.cache/pretint/features.
        storage: the type of the numbers while they are in that folder; the file has float32.
    """

    out: str = roles.machine("")
    stage: str = roles.science("")
    pooling: str = roles.science("mean")
    normalize: bool = roles.science(False)
    size: int = roles.science(0, "[0, 4096]")
    seed: int = roles.seed()
    device: str = roles.machine("auto")
    precision: Literal["auto", "bf16", "fp32"] = roles.science("auto")
    workers: int = roles.machine(-1, "[-1, 256]")
    cache: str = roles.machine("")
    storage: Literal["float16", "float32"] = roles.science("float32")

    def __post_init__(self) -> None:
        roles.check_ranges(self)


class Embedded(NamedTuple):
    """What ``embed_dataset`` wrote."""

    file: Path
    rows: int
    dims: int
    skipped: list[tuple[str, str]]
    """Key and reason of the images that cannot be read; they have no row."""


def require_out(settings: EmbedSettings) -> Writer:
    """Return the writer of the settings' file.

    Raises:
        UserError: out is empty, or has no ending of a known format; or another program's file is there.
    """
    file = Path(settings.out)
    if file.suffix.lower() not in WRITERS:
        raise UserError(f"out is {settings.out or 'not set'}: give a file whose name ends in {', '.join(WRITERS)}")
    if file.exists():
        read_facts(file)  # raises if it is not one of ours
    return WRITERS[file.suffix.lower()]


def embed_dataset(spec: str, dataset: str, settings: EmbedSettings) -> Embedded:
    """Write the embeddings of a dataset to a file.

    Memory does not grow with the number of images. Features are kept in the cache while they are computed, so a call
    that is interrupted goes on when it is made again, and writes the same file to the byte.

    Args:
        spec: a network, see ``transfer.networks.open_network``.
        dataset: images, with labels or without: see docs/data.md.
        settings: the settings.

    Raises:
        UserError: a setting is wrong, the network or the images cannot be opened, or the file cannot be written.
        KeyboardInterrupt, SystemExit: a signal requested a stop; what is computed is kept.
    """
    writer = require_out(settings)
    place = choose_compute(settings.device, settings.precision, settings.workers)
    network, source = open_network(spec, settings.seed), _open(dataset)
    network.set_source(source)
    stage, view = _stage(network, settings), _view(network, settings)
    cache = CacheSettings(cache_folder(settings.cache), settings.storage)
    (features,) = extract([network], source, view, [settings.pooling], place, cache, (source, view), "features")
    matrix, rows = features.matrix(stage, settings.pooling), np.flatnonzero(features.good)
    facts = {
        "network": network.name,
        "weights": network.weights,
        "stage": stage,
        "pooling": settings.pooling,
        "normalized": settings.normalize,
        "size": view.size,
        "precision": place.precision,
        "images": dataset,
        "images_digest": source.digest(),
        "rows": len(rows),
        "dims": matrix.shape[1],
        "skipped": len(features.skipped),
        "classes": source.classes if isinstance(source, LabeledDataset) else None,
    }
    with (
        open_atomically(Path(settings.out), f"{4e-6 * len(rows) * matrix.shape[1]:.0f} MB of embeddings") as file,
        progress("writing", len(rows), "rows", done=0) as advance,
        writer(file, facts, _texts(source, rows)) as write,
    ):
        for start in range(0, len(rows), _ROWS):
            chosen = rows[start : start + _ROWS]
            write(_finish(matrix[chosen], settings))
            advance(len(chosen), "")
    return Embedded(Path(settings.out), len(rows), matrix.shape[1], features.skipped)


@torch.no_grad()
def embed(
    network: str | Network,
    images: "str | Sequence[Image.Image | Tensor | str | Path] | Tensor",
    settings: EmbedSettings | None = None,
) -> NDArray[np.float32]:
    """Return the embeddings of images, float32 (N, dims).

    Args:
        network: as for ``open_network``; or an open one.
        images: the name of a dataset; a sequence of Pillow images, of files, or of tensors (3, H, W), each uint8 in
            [0, 255] or float in [0, 1]; or a tensor (N, 3, H, W).
        settings: the settings; ``out`` may stay empty.

    Raises:
        UserError: a setting is wrong, or the network or an image cannot be read; a dataset's images that cannot be
            read are left out by ``embed_dataset``, but here each image has a row.
    """
    settings = settings or EmbedSettings()
    place = choose_compute(settings.device, settings.precision, settings.workers)
    source = _open(images) if isinstance(images, str) else _Given(images)
    opened = open_network(network, settings.seed) if isinstance(network, str) else network
    opened.set_source(source)
    if opened.calibrates and not opened.calibration:
        raise UserError(
            f"{opened.name}: batch norms of random weights need statistics of many images; embed a dataset to a file "
            "with embed_dataset, or call calibrate_batch_norm before"
        )
    stage, view = _stage(opened, settings), _view(opened, settings)
    opened.module.to(place.device)
    rows = []
    with progress("embedding", len(source), "images", done=0) as advance:
        workers = place.workers if isinstance(images, str) else 0
        for batch in stream(EvalDataset(source, *view), range(len(source)), _AT_ONCE, workers):
            if batch.skipped:
                raise UserError(": ".join(batch.skipped[0]))
            maps = run_network(opened, batch.rgb, place)[stage].float()
            rows.append(_finish(pool(maps, settings.pooling).cpu().numpy(), settings))
            advance(len(batch.rgb), "")
    return np.concatenate(rows)


class _Given:
    """Images that a caller has, as a source."""

    def __init__(self, images: Sequence[Any] | Tensor) -> None:
        if not len(images):
            raise UserError("no image to embed: give at least one")
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def key(self, index: int) -> str:
        image = self._images[index]
        return str(image) if isinstance(image, (str, Path)) else f"image {index}"

    def digest(self) -> str:
        return digest_of_keys(self)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        image = self._images[index]
        if isinstance(image, (str, Path)):
            try:
                content = Path(image).read_bytes()
            except OSError as error:
                raise UserError(f"{image}: cannot be read ({error.strerror})") from error
            return decode(content, str(image), shorter)
        if isinstance(image, Tensor):
            if image.ndim != 3 or image.shape[0] not in (1, 3):
                raise UserError(f"image {index}: a tensor of shape {tuple(image.shape)}; give (3, height, width)")
            whole = (image * 255).round().clamp(0, 255) if image.is_floating_point() else image
            return Image.fromarray(whole.to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).cpu().numpy())
        if not isinstance(image, Image.Image):
            raise UserError(f"image {index}: a {type(image).__name__}; give Pillow images, files or tensors")
        return image.convert("RGB")


def _texts(source: ImageDataset, rows: NDArray[np.int64]) -> Texts:
    """Return the keys and labels of the images of these rows; several labels of an image are joined by commas."""

    def keys(start: int, stop: int) -> list[str]:
        return [source.key(row) for row in rows[start:stop].tolist()]

    def labels(start: int, stop: int) -> list[str]:
        assert isinstance(source, LabeledDataset)
        names = source.classes
        chosen = [
            np.flatnonzero(label == 1) if np.ndim(label) else [label] for label in source.labels[rows[start:stop]]
        ]
        return [",".join(names[at] for at in of_image) for of_image in chosen]

    return Texts(len(rows), keys, labels if isinstance(source, LabeledDataset) else None)


def _open(name: str) -> ImageDataset:
    """Open a source, with labels if all of its images have some."""
    source = open_dataset(name)
    try:
        labeled = open_labeled(name)
    except UserError:
        return source
    return labeled if len(labeled) == len(source) else source


def _stage(network: Network, settings: EmbedSettings) -> str:
    names = [stage.name for stage in network.stages]
    if settings.stage and settings.stage not in names:
        raise UserError(f"stage: {network.name} has no {settings.stage}; it has {', '.join(names)}")
    return settings.stage or names[-1]


def _view(network: Network, settings: EmbedSettings) -> View:
    return View(network.fit_size(settings.size) if settings.size else network.size_at(1.0))


def _finish(rows: NDArray[Any], settings: EmbedSettings) -> NDArray[np.float32]:
    rows = np.asarray(rows, np.float32)
    if settings.normalize:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return np.ascontiguousarray(rows)
