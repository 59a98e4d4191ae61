"""Pooled features of every stage of several networks, extracted in one pass over the images into the cache."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretext.data import DECODER, ImageDataset
from pretext.data.batches import EvalDataset, Subset, stream
from pretext.data.channels import channels_of
from pretext.data.source import fingerprint
from pretext.engine.device import ComputeConfig, autocast
from pretext.engine.memory import available_memory
from pretext.engine.progress import progress
from pretext.engine.signals import catch_signals, exit_with
from pretext.errors import UserError
from pretext.scale import find_ranges, set_ranges
from pretext.settings import to_plain
from pretext.store import key_of
from transfer.features.cache import CacheSettings, Entry, Features, Matrix, Storage, lock_entry, require_room, row_bytes
from transfer.features.pool import dims_of, pool
from transfer.networks import Network
from transfer.results import code_digest

_FORMAT = 1  # version of entries; raise it when the same identity would give other rows
# The code from pixels to features; `_identify_images` reads the pixels. A change here makes cached features invalid.
_MAKERS = ("pretext/backbones", "pretext/color.py", "pretext/scale.py", "transfer/features/pool.py")
_AT_ONCE = 64  # images of a batch; each block ends at the end of a batch, so that a kill does not change the batches
_CALIBRATION_IMAGES = 2048
_MEMORY_SHARE = 4  # a matrix may take a quarter of the free memory
_CHUNK_ROWS = 4096
_OVERFLOW = {"float16": 65520.0, "float32": float("inf")}  # the smallest number that rounds to infinity


ExtractionJob = tuple[Network, str, Entry]
"""A network, a pooling rule and the entry that its features go to; those of a network follow each other."""


class WantedEntry(NamedTuple):
    """The identity and columns of an entry of the cache, see ``lock_entry``."""

    identity: dict[str, Any]
    columns: dict[str, int]


class View(NamedTuple):
    """The part of an image that a network sees: the middle square, resized."""

    size: int
    """The side after resizing, in pixels."""
    ratio: float = 1.0
    """The square's side as a share of the image's shorter side: 0.875 is a crop of 224 from 256."""


@dataclass(frozen=True)
class FeatureSet:
    """Features of one network on one source, complete and checked."""

    rows: int
    """The number of images; rows have the source's order."""
    skipped: list[tuple[str, str]]
    """Key and reason of the images that cannot be read."""
    good: NDArray[np.bool_]
    """(rows,): which images could be read; the rows of the others are zeros."""
    seconds: float
    """The time of the passes that computed them, in this process and earlier ones."""
    nbytes: int
    """Bytes on disk."""
    _entries: Sequence[Mapping[str, Entry]] = field(repr=False)
    """Of each source, by pooling rule."""

    def dims(self, stage: str, rule: str) -> int:
        """Return the number of dimensions of a stage under a pooling rule."""
        return self._entries[0][rule].columns[stage]

    def matrix(self, stage: str, rule: str) -> Matrix:
        """Return (rows, dims), float16 or float32: rows are read from the files on use."""
        matrices = [entries[rule].matrix(stage) for entries in self._entries]
        return matrices[0] if len(matrices) == 1 else Matrix(matrices)


def join_features(parts: Sequence[FeatureSet]) -> FeatureSet:
    """Return the features of one network on several sources as those of one: all rows of the first, and so on."""
    return FeatureSet(
        sum(part.rows for part in parts),
        [skip for part in parts for skip in part.skipped],
        np.concatenate([part.good for part in parts]),
        sum(part.seconds for part in parts),
        sum(part.nbytes for part in parts),
        [entries for part in parts for entries in part._entries],
    )


class Rows:
    """A matrix of features as a probe reads it: float32 on the device, whatever type is stored.

    A matrix that fits is kept on the device; a larger one is read from its file row by row.

    Args:
        matrix: (N, dims), float16 or float32, in memory or in files.
        device: the device of the rows.
    """

    def __init__(self, matrix: Features, device: torch.device) -> None:
        self._matrix, self.device = matrix, device
        fits = matrix.nbytes * _MEMORY_SHARE <= available_memory(device)
        self._copy = torch.from_numpy(np.array(matrix)).to(device) if fits else None

    @property
    def dims(self) -> int:
        """Dimensions of a row."""
        return int(self._matrix.shape[1])

    def __getitem__(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the rows at ``indices``: (len(indices), dims), float32, on the device."""
        if self._copy is not None:
            return self._copy[torch.from_numpy(indices).to(self.device)].float()
        return torch.from_numpy(self._matrix[indices]).to(self.device).float()

    def chunks(self, indices: NDArray[np.int64]) -> Iterator[Tensor]:
        """Yield the rows at ``indices``, in that order, some thousand at a time."""
        for start in range(0, len(indices), _CHUNK_ROWS):
            yield self[indices[start : start + _CHUNK_ROWS]]

    def statistics(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return mean and variance (of the population) of every feature over some images: (dims,) each, float64.

        Chunks are combined as in Chan, Golub and LeVeque (1979), which stays accurate where means are large.
        """
        mean = torch.zeros(self.dims, dtype=torch.float64, device=self.device)
        squares, count = torch.zeros_like(mean), 0
        for chunk in self.chunks(indices):
            variance, center = (part.double() for part in torch.var_mean(chunk, 0, correction=0))
            moved, both = center - mean, count + len(chunk)
            squares += variance * len(chunk) + moved.square() * (count * len(chunk) / both)
            mean += moved * (len(chunk) / both)
            count = both
        return mean, squares / count


@torch.no_grad()
def extract(
    networks: Sequence[Network],
    source: ImageDataset,
    view: View,
    rules: Sequence[str],
    place: ComputeConfig,
    cache: CacheSettings,
    calibrate_on: tuple[ImageDataset, View] | None,
    title: str,
) -> list[FeatureSet]:
    """Return the features of every stage of every network under every pooling rule; compute rows that are not cached.

    Missing rows are computed in one pass over the images, from the first row that any entry lacks. A kill loses less
    than a minute of work; after a second call the rows are the same, to the bit, as those of one pass.

    Args:
        networks: they are moved to the place's device.
        source: the images.
        view: the part of an image that is seen; its size must fit all networks.
        rules: see ``transfer.features.pool``.
        place: the device and precision.
        cache: the folder of the cache, and the type of its numbers.
        calibrate_on: images for the batch-norm statistics of networks that need them, and their view; None if no
            network needs any.
        title: of the progress bar.

    Returns:
        One for each network.

    Raises:
        UserError: no image can be read; a feature is not finite, or too great for the storage; the cache cannot be
            written, or has too little room.
        KeyboardInterrupt, SystemExit: a signal requested a stop; everything computed is kept.
    """
    for network in networks:
        network.set_source(source)
    wanted = wanted_entries(networks, source, view, rules, place, cache.storage, calibrate_on)
    described = {key_of(entry.identity): entry for by_rule in wanted for entry in by_rule.values()}
    users: dict[str, tuple[Network, str]] = {}
    for network, by_rule in zip(networks, wanted, strict=True):
        for rule, wanted_entry in by_rule.items():
            users.setdefault(key_of(wanted_entry.identity), (network, rule))
    with ExitStack() as held:
        entries: dict[str, Entry] = {}
        for key, (identity, columns) in sorted(described.items()):  # sorted, so that two processes cannot deadlock
            entries[key] = held.enter_context(lock_entry(cache.folder, identity, len(source), columns, cache.storage))
        # Drop rows of images that could not be read, but can now.
        views, readable = EvalDataset(source, *view), dict[int, bool]()
        for entry in entries.values():
            for row, _, _ in [skip for block in entry.blocks for skip in block.skipped]:
                if row not in readable:
                    readable[row] = views[row].rgb is not None
                if readable[row]:
                    entry.keep_before(row)
                    break
        require_room(cache.folder, list(entries.values()))
        lacking = [(*user, entries[key]) for key, user in users.items() if entries[key].done < len(source)]
        if lacking:
            began = time.perf_counter()
            for network in _networks(lacking):
                if calibrate_on:
                    calibrate_batch_norm(network, *calibrate_on, place)
            _compute(lacking, source, view, place, title, began)
        return [
            _feature_set({rule: entries[key_of(entry.identity)] for rule, entry in by_rule.items()})
            for by_rule in wanted
        ]


@torch.no_grad()
def wanted_entries(
    networks: Sequence[Network],
    source: ImageDataset,
    view: View,
    rules: Sequence[str],
    place: ComputeConfig,
    storage: Storage,
    calibrate_on: tuple[ImageDataset, View] | None,
) -> list[dict[str, WantedEntry]]:
    """Return the cache entries that ``extract`` uses, by rule, for each network.

    They are not created: an image of zeros goes through every network for the shapes of its stages, and some images
    are read for their identity. The arguments are those of ``extract``.
    """
    assert len(source) and rules
    images = _identify_images(source, view)
    calibration: dict[str, Any] | None = None
    if calibrate_on:
        same = calibrate_on[0] is source and calibrate_on[1] == view
        calibration = {**(images if same else _identify_images(*calibrate_on)), "precision": place.precision}
    wanted: list[dict[str, WantedEntry]] = []
    for network in networks:
        statistics = calibration if network.calibrates else None
        assert statistics or not network.calibrates, "batch-norm statistics need images"
        network.module.to(place.device)
        blank = torch.zeros(1, len(channels_of(source)) or 3, view.size, view.size)
        shapes = {stage: maps.shape[1:] for stage, maps in run_network(network, blank, place).items()}
        wanted.append({})
        for rule in rules:
            identity = {
                "format": _FORMAT,
                "weights": network.weights,
                "calibration": statistics,
                **({"scale": to_plain(network.scale_settings)} if network.scale_settings else {}),
                "images": images,
                "rule": rule,
                "precision": place.precision,
                "storage": storage,
                "code": code_digest(*_MAKERS),
                "libraries": [torch.__version__, version("timm")],
            }
            columns = {stage: dims_of(rule, *shape) for stage, shape in shapes.items()}
            wanted[-1][rule] = WantedEntry(identity, columns)
    return wanted


@torch.no_grad()
def calibrate_batch_norm(network: Network, source: ImageDataset, view: View, place: ComputeConfig) -> None:
    """Set the batch-norm statistics of a network of random weights from images, in place; weights stay.

    A network at random initialization has never seen an image. Its layers start with mean 0 and variance 1, so its
    deeper features shrink. Without statistics, a pretrained network would look better only because it has run batch
    normalization on images. A network that needs no statistics, or has them already, does not change.

    Args:
        network: it is moved to the place's device.
        source: the images; up to 2,048 of them are used, drawn evenly.
        view: the part of an image that is seen.
        place: the device and precision.

    Raises:
        UserError: fewer than two of the images can be read.
    """
    norms = network.norms
    if not network.calibrates:
        return
    mark = json.dumps({**_identify_images(source, view), "precision": place.precision})
    if network.calibration == mark:
        return
    network.module.to(place.device)
    if network.scale is not None and network.scale_settings is not None:
        first = Subset(source, range(min(network.scale_settings.images, len(source))), seed=0)
        views = [sample.rgb for sample in map(EvalDataset(first, *view).__getitem__, range(len(first)))]
        crops, names = [rgb for rgb in views if rgb is not None], network.scale.names
        if not crops:
            raise UserError(f"{network.name}: the scale of its channels needs an image that can be read")
        found = find_ranges(crops, channels_of(source), network.scale_settings, names)
        set_ranges(network.scale, found)
    if not norms:
        network.calibration = mark
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
        norm.train()  # only the norms: dropout would add randomness
    # In random order, so that batches mix the classes.
    drawn = Subset(source, range(min(_CALIBRATION_IMAGES, len(source))), seed=0)
    seen, skipped = 0, list[tuple[str, str]]()
    try:
        for batch in stream(EvalDataset(drawn, *view), range(len(drawn)), _AT_ONCE, place.workers):
            skipped += batch.skipped
            if len(batch.rgb) > 1:
                seen += len(batch.rgb)
                run_network(network, batch.rgb, place)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
    if not seen:
        reason = f"; {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise UserError(f"{network.name}: its batch-norm statistics need at least two images that can be read{reason}")
    network.calibration = mark


def _compute(
    lacking: Sequence[ExtractionJob], source: ImageDataset, view: View, place: ComputeConfig, title: str, began: float
) -> None:
    """Compute and write the rows that entries lack; their time counts from ``began``."""
    rows, start = len(source), min(entry.done for _, _, entry in lacking)
    with catch_signals() as stop_status, progress(title, rows, "images", done=start) as advance:
        for batch in stream(EvalDataset(source, *view), range(start, rows), _AT_ONCE, place.workers):
            count = min(_AT_ONCE, rows - start)
            keys = [source.key(row) for row in range(start, start + count)] if batch.skipped else []
            reasons = dict(batch.skipped)
            skipped = [(row, key, reasons[key]) for row, key in enumerate(keys, start) if key in reasons]
            good = np.ones(count, bool)
            good[[row - start for row, _, _ in skipped]] = False
            assert good.sum() == len(batch.rgb)

            def key_of_image(number: int, start: int = start, good: NDArray[np.bool_] = good) -> str:
                """Return the key of an image, by its number among the batch's images that can be read."""
                return source.key(start + int(np.flatnonzero(good)[number]))

            due = [job for job in lacking if job[2].written == start]
            computed = list(_compute_rows(due, batch.rgb, good, key_of_image, place))
            now = time.perf_counter()
            for (_, _, entry), columns in zip(due, computed, strict=True):
                entry.append(columns, skipped, now - began)
                if entry.due():
                    entry.flush()
            began, start = now, start + count
            advance(count, "")
            if stop_status():  # after the last batch too: no later code checks this
                for _, _, entry in lacking:
                    entry.flush()
                exit_with(stop_status(), f"features of {start:,} of {rows:,} images are kept")


def _networks(jobs: Sequence[ExtractionJob]) -> list[Network]:
    return list({id(network): network for network, _, _ in jobs}.values())


def _compute_rows(
    jobs: Sequence[ExtractionJob], rgb: Tensor, good: NDArray[np.bool_], key: Callable[[int], str], place: ComputeConfig
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the rows of a batch for every job: stage -> (B, dims), with zeros where an image cannot be read.

    Raises:
        UserError: features are not finite, or become infinite in the storage's type.
    """
    if not jobs:
        return
    storage = jobs[0][2].storage
    pooled: list[Tensor] = []
    if len(rgb):
        rgb = rgb.to(place.device).contiguous(memory_format=torch.channels_last)
        for network in _networks(jobs):
            stages = [maps.float() for maps in run_network(network, rgb, place).values()]
            for rule in [rule for user, rule, _ in jobs if user is network]:
                pooled += [pool(maps, rule) for maps in stages]
        named = [(network.name, stage) for network, _, entry in jobs for stage in entry.columns]
        peaks = torch.stack([vectors.abs().amax() for vectors in pooled]).cpu()
        for (name, stage), peak, vectors in zip(named, peaks.tolist(), pooled, strict=True):
            if peak < _OVERFLOW[storage]:
                continue
            bad = int((~(vectors.abs() < _OVERFLOW[storage])).any(1).nonzero()[0])
            if np.isfinite(peak):
                raise UserError(
                    f"{name}, stage {stage}: a feature of {key(bad)} is {peak:.3g}, too great for float16; give "
                    "--storage float32"
                )
            raise UserError(
                f"{name}, stage {stage}: features of {key(bad)} are not finite; if precision is bf16, try fp32; "
                "otherwise the network's weights are not usable"
            )
    dtype = getattr(torch, storage)
    # One copy from the device for all of them.
    flat = torch.cat([vectors.to(dtype).flatten() for vectors in pooled]).cpu().numpy() if pooled else np.zeros(0)
    start = 0
    for _, _, entry in jobs:
        columns = {}
        for stage, dims in entry.columns.items():
            rows = flat[start : start + len(rgb) * dims].reshape(-1, dims)
            if not good.all():
                readable_rows, rows = rows, np.zeros((len(good), dims), storage)
                rows[good] = readable_rows
            columns[stage], start = rows, start + len(rgb) * dims
        yield columns


def run_network(network: Network, rgb: Tensor, place: ComputeConfig) -> dict[str, Tensor]:
    """Return the maps of every stage, (B, C, h, w) each, of a batch of images as ``Backbone.to_unit`` takes them."""
    rgb = rgb.to(place.device).contiguous(memory_format=torch.channels_last)
    with autocast(place):
        stages: dict[str, Tensor] = network.module(rgb)
    return stages


def _identify_images(source: ImageDataset, view: View) -> dict[str, Any]:
    """Return the identity of images in a view.

    Names are not enough, because many folders have a 0001.png. So some of the pixels are part of the identity.
    """
    views = EvalDataset(source, *view)
    return {
        "count": len(source),
        "names": source.digest(),
        "seen": fingerprint(source, lambda index: views[index].rgb),
        "view": [view.size, view.ratio],
        "decoder": DECODER,
    }


def _feature_set(entries: Mapping[str, Entry]) -> FeatureSet:
    count = next(iter(entries.values())).rows
    blocks = [block for entry in entries.values() for block in entry.blocks]
    skipped = {row: (key, reason) for block in blocks for row, key, reason in block.skipped}
    if len(skipped) == count:
        raise UserError(f"none of {count} images can be read; the first: {': '.join(skipped[0])}")
    good = np.ones(count, bool)
    good[list(skipped)] = False
    return FeatureSet(
        rows=count,
        skipped=[skipped[row] for row in sorted(skipped)],
        good=good,
        seconds=max(sum(block.seconds for block in entry.blocks) for entry in entries.values()),
        nbytes=sum(entry.rows * row_bytes(entry.columns, entry.storage) for entry in entries.values()),
        _entries=[entries],
    )
