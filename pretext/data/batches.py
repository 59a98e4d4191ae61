"""Batches of uint8 crops from sources: the work of the CPU workers."""

import math
import multiprocessing
import signal
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pretext import roles
from pretext.data.channels import AnyImage, ChannelImage
from pretext.data.order import locate, permute_index, quotas, uniforms
from pretext.data.source import ImageDataset, digest_of_keys
from pretext.errors import ImageError, UserError

_MOST_TRIES = 100  # images
_GRAY = 128
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2}

WorkerStart = Literal["default", "fork", "spawn", "forkserver"]
"""The start method of worker processes, see Python's multiprocessing; default is Python's own."""


@dataclass
class CropSettings:
    """Settings of the training crops (torchvision's RandomResizedCrop, and a mirror).

    Args:
        size: side of the crop, pixels.
        area: smallest and largest share of the image's area that a crop shows.
        ratio: smallest and largest width / height of the shown part.
        flip: probability of mirroring left and right.
        squash: crop as if the image was first resized to a square, as the publications do: ratio is then relative
            to the width / height of the image.
    """

    size: int = roles.science(64)
    area: tuple[float, float] = roles.science((0.35, 1.0))
    ratio: tuple[float, float] = roles.science((0.75, 4 / 3))
    flip: float = roles.science(0.5)
    squash: bool = roles.science(False)

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096:
            raise UserError(f"crop.size is {self.size}: it must lie in [1, 4096] pixels")
        if not 1e-3 <= self.area[0] <= self.area[1] <= 1:
            raise UserError(f"crop.area is {list(self.area)}: give two shares with 0.001 <= smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise UserError(f"crop.ratio is {list(self.ratio)}: give two ratios with 0 < smallest <= largest")
        if not 0 <= self.flip <= 1:
            raise UserError(f"crop.flip is {self.flip}: it must lie in [0, 1]")


class Sample(NamedTuple):
    """One crop, its label, and the images that could not be read."""

    rgb: Tensor | None
    """uint8 (3, H, W), or (views, 3, H, W); None if none of 100 images in a row can be read. Of a source of named
    channels float32, with those channels instead of 3."""
    skipped: list[tuple[str, str]]
    """Key and reason of the images that cannot be read. Each is replaced by the next image of the source."""
    label: Any = -1
    """The label of the image that was read, not of an image that it replaces; -1 without labels. Datasets other than
    ``TrainDataset`` may have boxes or masks here: tensors of one shape, or else dicts of tensors."""


class Batch(NamedTuple):
    """The input of one training step."""

    rgb: Tensor
    """uint8 (B, 3, H, W); where sizes differ, smaller images have mid gray at the right and below. Or float32, see
    ``Sample``."""
    labels: Any
    """int64 (B,), or labels of another kind: stacked tensors, or dicts in a list; see ``Sample``."""
    skipped: list[tuple[str, str]]
    """The skipped images of all samples, see ``Sample``."""
    missing: list[tuple[str, str]]
    """For every sample without an image, the first image that it skipped."""


class Subset:
    """A part of a source: the images whose rank in a keyed permutation lies in a range.

    This splits a source of any size into disjoint parts that depend only on ``seed``, without storing a list.
    """

    def __init__(self, source: ImageDataset, ranks: range, seed: int) -> None:
        assert ranks.step == 1 and ranks.stop <= len(source)
        self.source, self.ranks, self.seed = source, ranks, seed

    def __len__(self) -> int:
        return len(self.ranks)

    def index(self, rank: int) -> int:
        """Return the index in the source of image ``rank`` of this part."""
        return permute_index(self.ranks[rank], len(self.source), key=self.seed ^ 0x5EED)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        """See ``ImageDataset.read``."""
        return self.source.read(self.index(index), shorter)

    def key(self, index: int) -> str:
        """See ``ImageDataset.key``."""
        return self.source.key(self.index(index))

    def label(self, index: int) -> Any:
        """Return the label of image ``index``, of a labeled source."""
        return label_of(self.source, self.index(index))

    def digest(self) -> str:
        """See ``ImageDataset.digest``."""
        return digest_of_keys(self)


def label_of(source: ImageDataset, index: int) -> Any:
    """Return the label of an image of a labeled source or a `Subset` of one: int, or int8 (C,) for several labels."""
    if isinstance(source, Subset):
        return source.label(index)
    label = source.labels[index]  # type: ignore[attr-defined]
    return torch.from_numpy(label) if label.ndim else int(label)


class AugmentedDataset(Dataset[Sample]):
    """Augmented images with their labels: sample t of a run is a pure function of (seed, t), for any t.

    A subclass defines ``make``.

    Args:
        parts: sources; each has at least one image.
        seed: seed of the order and the augmentation.
        weights: the share of each source; by default all count the same.
    """

    draws = 5
    """The number of random numbers that ``make`` needs."""

    def __init__(self, parts: Sequence[ImageDataset], seed: int, weights: Sequence[float] | None = None) -> None:
        self.parts, self.seed = parts, seed
        self._sizes = [len(part) for part in parts]
        self._quotas = quotas(weights or [1.0] * len(parts))

    def locate(self, t: int) -> tuple[int, int]:
        """Return the part and the image in it that sample ``t`` reads."""
        return locate(self.seed, t, self._sizes, self._quotas)

    def make(self, part: int, index: int, uniform: np.ndarray) -> tuple[Tensor, Any]:
        """Return image ``index`` of a part, augmented by the uniform numbers, and its label: see ``Sample``.

        Raises:
            ImageError: it cannot be read, or its annotation cannot be used. The next image replaces it.
        """
        raise AssertionError("a subclass defines make")

    def __getitem__(self, t: int) -> Sample:
        part, first = self.locate(t)
        count = self._sizes[part]
        skipped: list[tuple[str, str]] = []
        for offset in range(min(_MOST_TRIES, count)):
            index = (first + offset) % count
            try:
                rgb, label = self.make(part, index, uniforms(self.seed, t, self.draws))
            except ImageError as error:
                skipped.append((error.key, error.reason))
            else:
                return Sample(rgb, skipped, label)
        return Sample(None, skipped)


class TrainDataset(AugmentedDataset):
    """Random crops, with the label of their image or without.

    Args:
        parts: as ``AugmentedDataset``.
        crop: settings of the crops.
        seed: as ``AugmentedDataset``.
        weights: as ``AugmentedDataset``.
        cache_bytes: memory that each worker may fill with decoded images.
        labeled: samples carry labels; every part must be a labeled source, or a `Subset` of one.
        views: crops of each image. If several, a sample's ``rgb`` is (views, 3, H, W); the first is the only one of a
            dataset with one view.
    """

    def __init__(
        self,
        parts: Sequence[ImageDataset],
        crop: CropSettings,
        seed: int,
        weights: Sequence[float] | None = None,
        cache_bytes: int = 0,
        labeled: bool = False,
        views: int = 1,
    ) -> None:
        super().__init__(parts, seed, weights)
        self.crop, self.labeled, self.views = crop, labeled, views
        self.draws = 5 * views
        self._cache: dict[tuple[int, int], np.ndarray | ChannelImage] = {}
        self._room = cache_bytes
        # The smallest part that may be shown must still have a crop's worth of pixels.
        self._shorter = math.ceil(crop.size / math.sqrt(crop.area[0]))

    def make(self, part: int, index: int, uniform: np.ndarray) -> tuple[Tensor, Any]:
        """See ``AugmentedDataset.make``."""
        cached = self._cache.get((part, index))
        if cached is not None:
            image = Image.fromarray(cached) if isinstance(cached, np.ndarray) else cached
        else:
            image = self.parts[part].read(index, self._shorter)
            size = image.nbytes if isinstance(image, ChannelImage) else 3 * image.width * image.height
            if size <= self._room:
                self._room -= size
                self._cache[part, index] = image if isinstance(image, ChannelImage) else np.asarray(image)
        drawn = np.split(uniform, self.views)
        crops = [torch.from_numpy(random_crop(image, self.crop, each)).permute(2, 0, 1) for each in drawn]
        rgb = crops[0] if self.views == 1 else torch.stack(crops)
        return rgb, label_of(self.parts[part], index) if self.labeled else -1


def random_crop(image: AnyImage, crop: CropSettings, uniform: np.ndarray) -> np.ndarray:
    """Return a crop drawn by five uniform numbers: area, ratio, left, top, mirror.

    Area and ratio are drawn as torchvision's RandomResizedCrop does (ratio log-uniform); a part that
    would not fit is narrowed to the image, where torchvision draws again.

    Returns:
        uint8 (size, size, 3), or float32 of named channels.
    """
    width, height = image.size
    area = (crop.area[0] + (crop.area[1] - crop.area[0]) * uniform[0]) * width * height
    low, high = math.log(crop.ratio[0]), math.log(crop.ratio[1])
    ratio = math.exp(low + (high - low) * uniform[1]) * (width / height if crop.squash else 1)
    w, h = min(math.sqrt(area * ratio), width), min(math.sqrt(area / ratio), height)
    left, top = (width - w) * uniform[2], (height - h) * uniform[3]
    box = (left, top, min(left + w, width), min(top + h, height))
    size = (crop.size, crop.size)
    resized = image.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)
    if uniform[4] < crop.flip:
        resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.array(resized)


def center_crop(image: AnyImage, size: int, ratio: float = 1.0) -> np.ndarray:
    """Return the middle square with ``ratio`` of the shorter side, resized (bicubic): as ``random_crop``."""
    side = max(1, round(min(image.size) * ratio))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))


class EvalDataset(Dataset[Sample]):
    """Every image of a source without augmentation: the middle square, resized.

    Args:
        source: the images.
        size: side of the resized square, pixels.
        ratio: the square's side as a share of the image's shorter side.
        labeled: as for ``TrainDataset``.
    """

    def __init__(self, source: ImageDataset, size: int, ratio: float = 1.0, labeled: bool = False) -> None:
        assert size >= 1 and 0 < ratio <= 1
        self.source, self.size, self.ratio, self.labeled = source, size, ratio, labeled

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        try:
            image = self.source.read(index, math.ceil(self.size / self.ratio))
            view = center_crop(image, self.size, self.ratio)
        except ImageError as error:
            return Sample(None, [(error.key, error.reason)])
        label = label_of(self.source, index) if self.labeled else -1
        return Sample(torch.from_numpy(view).permute(2, 0, 1), [], label)


def batches(
    samples: AugmentedDataset,
    batch_size: int,
    start: int,
    stop: int,
    workers: int,
    positions: range | None = None,
    pinned: bool = False,
    worker_start: WorkerStart = "default",
) -> Generator[Batch, None, None]:
    """Yield the batches of steps ``start`` to ``stop``: step s has the ``batch_size`` samples from s * batch_size.

    ``positions`` selects positions of every batch: the share of one process. Batches in ``pinned`` memory are copied
    to a GPU while the GPU computes.

    Raises:
        UserError: no image of 100 in a row can be read.
    """
    share = range(batch_size) if positions is None else positions
    steps = range(start * batch_size, stop * batch_size, batch_size)
    cuts = (range(at + share.start, at + share.stop) for at in steps)
    for batch in _load(samples, cuts, workers, pinned, worker_start):
        if batch.missing:
            tried = min(_MOST_TRIES, max(len(part) for part in samples.parts))
            raise UserError(f"no image of {tried} in a row can be read; the first: {': '.join(batch.missing[0])}")
        yield batch


def stream(samples: Dataset[Sample], indices: range, batch_size: int, workers: int) -> Generator[Batch, None, None]:
    """Yield the samples at ``indices``, in that order, in batches; images that cannot be read are left out."""
    cuts = (indices[at : at + batch_size] for at in range(0, len(indices), batch_size))
    return _load(samples, cuts, workers)


def _load(
    samples: Dataset[Sample],
    batches: Iterable[range],
    workers: int,
    pinned: bool = False,
    worker_start: WorkerStart = "default",
) -> Generator[Batch, None, None]:
    """Yield the samples at the indices of every batch, prepared by ``workers`` processes (0: this one).

    Workers never get the signals that request a stop: these are blocked while workers start, so that only the job
    decides when to stop.
    """
    method = multiprocessing.get_start_method() if worker_start == "default" else worker_start
    loader = DataLoader(
        samples,
        batch_sampler=batches,  # type: ignore[arg-type]  # any iterable will do
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=4 if workers else None,
        pin_memory=pinned,
        multiprocessing_context=method if workers else None,
    )
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        if workers and method != "fork":
            # Python's helper processes are in our process group, too: start them with the signals blocked.
            resource_tracker.ensure_running()
            # To start it Python before 3.12 unblocks INT and TERM, even where they were blocked.
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            if method == "forkserver":
                forkserver.ensure_running()
        iterator = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        yield from iterator
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or str(error).startswith("Caught"):  # an exception in a worker
            raise
        raise UserError(
            "a process that decodes images was killed, perhaps because memory ran out; lower the number of "
            f"workers, or machine.cache ({' '.join(str(error).split())[:120]})"
        ) from error
    finally:
        # At once: an error's traceback keeps the loader until garbage collection. By then the queues that end its
        # workers are gone, and the signal that torch sends instead is blocked in them: Python would wait forever.
        getattr(iterator, "_shutdown_workers", lambda: None)()


def collate(samples: Sequence[Sample]) -> Batch:
    """Return samples as a batch; those without an image are left out.

    Images of different sizes get mid gray at the right and below, up to the greatest height and width.
    """
    images = [sample.rgb for sample in samples if sample.rgb is not None]
    if len({image.shape for image in images}) > 1:
        height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
        # Gray: black would be an edge, and far from the mean that networks expect.
        gray = 0.5 if images[0].is_floating_point() else _GRAY
        rgb = images[0].new_full((len(images), len(images[0]), height, width), gray)
        for padded, image in zip(rgb, images, strict=True):
            padded[:, : image.shape[1], : image.shape[2]] = image
    else:
        rgb = torch.stack(images) if images else torch.empty(0, dtype=torch.uint8)
    labels: Any = [sample.label for sample in samples if sample.rgb is not None]
    if not labels or isinstance(labels[0], int):
        labels = torch.tensor(labels, dtype=torch.int64)
    elif isinstance(labels[0], Tensor):
        labels = torch.stack(labels)
    skipped = [entry for sample in samples for entry in sample.skipped]
    missing = [sample.skipped[0] for sample in samples if sample.rgb is None]
    return Batch(rgb, labels, skipped, missing)
