"""From a source to batches of uint8 crops: the part of an image's way that runs in CPU workers."""

import math
import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pretext.data.order import locate, permuted, quotas, uniforms
from pretext.data.source import Source, digest_of_keys
from pretext.errors import ImageError, UserError

_PATIENCE = 100
_GRAY = 128
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2}

WorkerStart = Literal["default", "fork", "spawn", "forkserver"]
"""How worker processes are started, see Python's multiprocessing; default is Python's own way."""


@dataclass
class CropSettings:
    """How an image becomes a training crop (torchvision's RandomResizedCrop, and a mirror).

    Args:
        size: side of the crop, pixels.
        area: smallest and largest share of the image's area that a crop shows.
        ratio: smallest and largest width / height of the shown part.
        flip: probability of mirroring left and right.
        squash: take images as if squeezed to a square first, as the publications do: ratio then is that
            of the part to the image's own.
    """

    size: int = 64
    area: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: float = 0.5
    squash: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096:
            raise UserError(f"crop.size is {self.size}: it must lie in [1, 4096] pixels")
        if not 1e-3 <= self.area[0] <= self.area[1] <= 1:
            raise UserError(f"crop.area is {list(self.area)}: give two shares with 0.001 <= smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise UserError(f"crop.ratio is {list(self.ratio)}: give two ratios with 0 < smallest <= largest")
        if not 0 <= self.flip <= 1:
            raise UserError(f"crop.flip is {self.flip}: a probability lies between 0 and 1")


class Sample(NamedTuple):
    """One crop, and what was met on the way to it."""

    rgb: Tensor | None
    """uint8 (3, H, W); None if it cannot be had: no image of 100 in a row can be read."""
    skipped: list[tuple[str, str]]
    """Key and reason of images that cannot be read: the next in the source's order took their place."""
    label: Any = -1
    """Of the image that was read, not of one whose place it took; -1 where labels are not asked for. Other
    examples than ``Samples`` may have boxes, masks, ... here: tensors of one shape, or else dicts of tensors."""


class Batch(NamedTuple):
    """What a step sees."""

    rgb: Tensor
    """uint8 (B, 3, H, W); where sizes differ with mid gray at the right and below."""
    labels: Any
    """int64 (B,), or labels of another kind: those of all samples stacked, or dicts in a list; see ``Sample``."""
    skipped: list[tuple[str, str]]
    """As in ``Sample``, of the whole batch."""
    missing: list[tuple[str, str]]
    """Of these, the first of every sample that could not be had."""


class Subset:
    """Some images of a source: those whose rank in a keyed permutation lies in a range.

    Splits a source of any size into disjoint parts that depend on ``seed`` alone, without a list.
    """

    def __init__(self, source: Source, ranks: range, seed: int) -> None:
        assert ranks.step == 1 and ranks.stop <= len(source)
        self.source, self.ranks, self.seed = source, ranks, seed

    def __len__(self) -> int:
        return len(self.ranks)

    def index(self, rank: int) -> int:
        """The source's own index of image ``rank`` of this part."""
        return permuted(self.ranks[rank], len(self.source), key=self.seed ^ 0x5EED)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        """See ``Source.read``."""
        return self.source.read(self.index(index), shorter)

    def key(self, index: int) -> str:
        """See ``Source.key``."""
        return self.source.key(self.index(index))

    def label(self, index: int) -> Any:
        """The label of image ``index``, of a labeled source."""
        return label_of(self.source, self.index(index))

    def digest(self) -> str:
        """See ``Source.digest``."""
        return digest_of_keys(self)


def label_of(source: Source, index: int) -> Any:
    """The label of an image of a labeled source, or of some images of one: int, or int8 (C,) of several labels."""
    if isinstance(source, Subset):
        return source.label(index)
    label = source.labels[index]  # type: ignore[attr-defined]
    return torch.from_numpy(label) if label.ndim else int(label)


class Examples(Dataset[Sample]):
    """Sample t of a run, for any t: an augmented image with what is learned from it, a pure function of (seed, t).

    A subclass defines ``make``.

    Args:
        parts: sources; each with at least one image.
        seed: of the order and of the augmentation.
        weights: the share of each source; by default all count the same.
    """

    draws = 5
    """How many uniform numbers ``make`` is given."""

    def __init__(self, parts: Sequence[Source], seed: int, weights: Sequence[float] | None = None) -> None:
        self.parts, self.seed = parts, seed
        self._sizes = [len(part) for part in parts]
        self._quotas = quotas(weights or [1.0] * len(parts))

    def locate(self, t: int) -> tuple[int, int]:
        """The part and the image in it that sample ``t`` reads."""
        return locate(self.seed, t, self._sizes, self._quotas)

    def make(self, part: int, index: int, uniform: np.ndarray) -> tuple[Tensor, Any]:
        """Image ``index`` of a part, augmented as the uniform numbers say, and its label: see ``Sample``.

        Raises:
            ImageError: it cannot be read, or what is known of it is of no use; the next takes its place.
        """
        raise AssertionError("a subclass defines make")

    def __getitem__(self, t: int) -> Sample:
        part, first = self.locate(t)
        count = self._sizes[part]
        skipped: list[tuple[str, str]] = []
        for offset in range(min(_PATIENCE, count)):
            index = (first + offset) % count
            try:
                rgb, label = self.make(part, index, uniforms(self.seed, t, self.draws))
            except ImageError as error:
                skipped.append((error.key, error.reason))
            else:
                return Sample(rgb, skipped, label)
        return Sample(None, skipped)


class Samples(Examples):
    """Random crops, with the label of their image or without.

    Args:
        parts: as ``Examples``.
        crop: how they are cut.
        seed: as ``Examples``.
        weights: as ``Examples``.
        cache_bytes: how much memory each worker may fill with decoded images.
        labeled: samples carry labels; every part must be a labeled source, or some images of one.
    """

    def __init__(
        self,
        parts: Sequence[Source],
        crop: CropSettings,
        seed: int,
        weights: Sequence[float] | None = None,
        cache_bytes: int = 0,
        labeled: bool = False,
    ) -> None:
        super().__init__(parts, seed, weights)
        self.crop, self.labeled = crop, labeled
        self._cache: dict[tuple[int, int], np.ndarray] = {}
        self._room = cache_bytes
        # The smallest part that may be shown must still have a crop's worth of pixels.
        self._shorter = math.ceil(crop.size / math.sqrt(crop.area[0]))

    def make(self, part: int, index: int, uniform: np.ndarray) -> tuple[Tensor, Any]:
        """See ``Examples.make``."""
        crop = random_crop(self._read(part, index), self.crop, uniform)
        return torch.from_numpy(crop).permute(2, 0, 1), label_of(self.parts[part], index) if self.labeled else -1

    def _read(self, part: int, index: int) -> Image.Image:
        cached = self._cache.get((part, index))
        if cached is not None:
            return Image.fromarray(cached)
        image = self.parts[part].read(index, self._shorter)
        size = 3 * image.width * image.height
        if size <= self._room:
            self._room -= size
            self._cache[part, index] = np.asarray(image)
        return image


def random_crop(image: Image.Image, crop: CropSettings, uniform: np.ndarray) -> np.ndarray:
    """A crop drawn by five uniform numbers: area, ratio, left, top, mirror.

    Area and ratio are drawn as torchvision's RandomResizedCrop does (ratio log-uniform); a part that
    would not fit is narrowed to the image, where torchvision draws again.

    Returns:
        uint8 (size, size, 3).
    """
    width, height = image.size
    area = (crop.area[0] + (crop.area[1] - crop.area[0]) * uniform[0]) * width * height
    low, high = math.log(crop.ratio[0]), math.log(crop.ratio[1])
    ratio = math.exp(low + (high - low) * uniform[1]) * (width / height if crop.squash else 1)
    w, h = min(math.sqrt(area * ratio), width), min(math.sqrt(area / ratio), height)
    left, top = (width - w) * uniform[2], (height - h) * uniform[3]
    box = (left, top, min(left + w, width), min(top + h, height))
    size = (crop.size, crop.size)
    shown = image.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)
    if uniform[4] < crop.flip:
        shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.array(shown)


def center_crop(image: Image.Image, size: int, ratio: float = 1.0) -> np.ndarray:
    """The square in the middle with ``ratio`` of the shorter side, resized (bicubic): uint8 (size, size, 3)."""
    side = max(1, round(min(image.size) * ratio))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0))


class Views(Dataset[Sample]):
    """Every image of a source as it is looked at: the middle square, resized.

    Args:
        source: of the images.
        size: pixels.
        ratio: the square's side as a share of the image's shorter side.
        labeled: as of ``Samples``.
    """

    def __init__(self, source: Source, size: int, ratio: float = 1.0, labeled: bool = False) -> None:
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
    samples: Examples,
    batch_size: int,
    start: int,
    stop: int,
    workers: int,
    positions: range | None = None,
    pinned: bool = False,
    worker_start: WorkerStart = "default",
) -> Iterator[Batch]:
    """The batches of steps ``start`` to ``stop``: step s holds samples s * batch_size and on.

    With ``positions``, a process's share: only what stands there in every batch. ``pinned`` memory is
    copied to a GPU while that computes.

    Raises:
        UserError: no image of 100 in a row can be read.
    """
    share = range(batch_size) if positions is None else positions
    steps = range(start * batch_size, stop * batch_size, batch_size)
    cuts = (range(at + share.start, at + share.stop) for at in steps)
    for batch in _loaded(samples, cuts, workers, pinned, worker_start):
        if batch.missing:
            tried = min(_PATIENCE, max(len(part) for part in samples.parts))
            raise UserError(f"no image of {tried} in a row can be read; the first: {': '.join(batch.missing[0])}")
        yield batch


def stream(samples: Dataset[Sample], indices: range, batch_size: int, workers: int) -> Iterator[Batch]:
    """The samples at ``indices``, in that order, in batches; what cannot be read is left out."""
    cuts = (indices[at : at + batch_size] for at in range(0, len(indices), batch_size))
    return _loaded(samples, cuts, workers)


def _loaded(
    samples: Dataset[Sample],
    batches: Iterable[range],
    workers: int,
    pinned: bool = False,
    worker_start: WorkerStart = "default",
) -> Iterator[Batch]:
    """The samples at the indices of every batch, prepared by ``workers`` processes (0: this one).

    They never see the signals that ask a job to stop: those are blocked while workers are started, so
    that the job alone decides when.
    """
    way = multiprocessing.get_start_method() if worker_start == "default" else worker_start
    loader = DataLoader(
        samples,
        batch_sampler=batches,  # type: ignore[arg-type]  # any iterable will do
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=4 if workers else None,
        pin_memory=pinned,
        multiprocessing_context=way if workers else None,
    )
    with _signals_blocked():
        if workers and way != "fork":
            _start_companions(way)
        loaded = iter(loader)
    try:
        yield from loaded
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or str(error).startswith("Caught"):  # by it, in what it did
            raise
        raise UserError(
            "a process that decodes images was killed, for lack of memory perhaps: lower the number of "
            f"workers, or machine.cache ({' '.join(str(error).split())[:120]})"
        ) from error
    finally:
        # At once: an error's traceback holds the loader until Python collects its garbage. By then the queues that end
        # its workers are gone, and the signal that torch sends instead is blocked in them: Python would wait forever.
        getattr(loaded, "_shutdown_workers", lambda: None)()


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples as a batch; those that could not be had are left out."""
    there = [sample for sample in samples if sample.rgb is not None]
    labels: Any = [sample.label for sample in there]
    if not there or isinstance(labels[0], int):
        labels = torch.tensor(labels, dtype=torch.int64)
    elif isinstance(labels[0], Tensor):
        labels = torch.stack(labels)
    skipped = [entry for sample in samples for entry in sample.skipped]
    missing = [sample.skipped[0] for sample in samples if sample.rgb is None]
    return Batch(_stacked([sample.rgb for sample in there if sample.rgb is not None]), labels, skipped, missing)


def _stacked(images: Sequence[Tensor]) -> Tensor:
    """(B, 3, H, W): the greatest height and width of all, with mid gray at the right and below the smaller ones."""
    if len({image.shape for image in images}) <= 1:
        return torch.stack(list(images)) if images else torch.empty(0, dtype=torch.uint8)
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    # Gray, as black would be an edge, and far from the mean that networks expect.
    stacked = images[0].new_full((len(images), 3, height, width), _GRAY)
    for place, image in zip(stacked, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return stacked


def _start_companions(way: str) -> None:
    """Start what Python runs beside spawned processes, which is in our process group too, with signals blocked."""
    resource_tracker.ensure_running()
    # To start it Python before 3.12 unblocks INT and TERM, even where they were blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    if way == "forkserver":
        forkserver.ensure_running()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Workers started in here never see the signals that ask a run to stop: only the run decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
