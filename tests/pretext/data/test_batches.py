"""Batches: the same whoever prepares them, crops against their definition, and unreadable images."""

import math
import os
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiers import one_fast

from pretext.data import Bundled, Folder, ImageDataset, Shards
from pretext.data.batches import (
    AugmentedDataset,
    Batch,
    CropSettings,
    EvalDataset,
    Subset,
    TrainDataset,
    WorkerStart,
    batches,
    center_crop,
    random_crop,
    stream,
)
from pretext.data.order import image_index, uniforms
from pretext.errors import ImageError, UserError

Array = np.ndarray[Any, Any]
SMALL = CropSettings(size=8)


class Memory:
    """Images in memory; None cannot be read. Counts how often each is."""

    def __init__(self, images: list[Array | None]) -> None:
        self.images = images
        self.reads: Counter[int] = Counter()
        self.asked: set[int | None] = set()

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        self.reads[index] += 1
        self.asked.add(shorter)
        image = self.images[index]
        if image is None:
            raise ImageError(self.key(index), "torn")
        return Image.fromarray(image)

    def key(self, index: int) -> str:
        return f"image {index}"


def noise(count: int, bad: tuple[int, ...] = ()) -> Memory:
    """Images of noise, each of another size."""
    random = np.random.default_rng(0)
    sides = random.integers(5, 40, (count, 2))
    images = [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sides]
    return Memory([None if index in bad else image for index, image in enumerate(images)])


def plain(count: int, bad: tuple[int, ...] = ()) -> Memory:
    """Images of one shade each: their index."""
    return Memory([None if index in bad else np.full((9, 12, 3), index, np.uint8) for index in range(count)])


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.rgb, b.rgb) and a.skipped == b.skipped for a, b in zip(one, other, strict=True)
    )


# Who prepares a batch has no part in it.


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(workers: int) -> None:
    samples = TrainDataset([noise(11, bad=(2, 3, 10))], SMALL, seed=4, cache_bytes=20_000)
    alone = list(batches(samples, 4, 0, 9, workers=0))
    assert len(alone) == 9
    assert all(batch.rgb.shape == (4, 3, 8, 8) and batch.rgb.dtype == torch.uint8 for batch in alone)
    assert any(batch.skipped for batch in alone)
    assert same(alone, list(batches(samples, 4, 0, 9, workers)))
    assert same(alone[5:], list(batches(samples, 4, 5, 9, workers)))


def test_batches_do_not_depend_on_the_start_nor_on_random_state() -> None:
    samples = TrainDataset([noise(11, bad=(2, 3))], SMALL, seed=4)
    torch.manual_seed(0)
    every = list(batches(samples, 4, 0, 9, workers=0))
    for start in (1, 4, 8):
        torch.manual_seed(start)
        assert same(every[start:], list(batches(TrainDataset([noise(11, (2, 3))], SMALL, 4), 4, start, 9, workers=0)))
    assert list(batches(samples, 4, 3, 3, workers=0)) == []
    far = 10**9
    assert same(list(batches(samples, 4, far, far + 2, 0))[1:], list(batches(samples, 4, far + 1, far + 2, 0)))


def test_batches_do_not_depend_on_their_size() -> None:
    samples = TrainDataset([noise(11, bad=(2, 3))], SMALL, seed=4)
    whole, halves = list(batches(samples, 8, 0, 4, 0)), list(batches(samples, 4, 0, 8, 0))
    for step, batch in enumerate(whole):
        first, second = halves[2 * step : 2 * step + 2]
        assert torch.equal(batch.rgb, torch.cat((first.rgb, second.rgb)))
        assert batch.skipped == first.skipped + second.skipped
        for place in range(8):
            sample = samples[8 * step + place].rgb
            assert sample is not None and torch.equal(batch.rgb[place], sample)


def test_seeds_differ() -> None:
    one, other = (next(batches(TrainDataset([noise(11)], SMALL, seed), 8, 0, 1, 0)) for seed in (1, 2))
    assert not torch.equal(one.rgb, other.rgb)


def test_sample_is_the_crop_of_its_image() -> None:
    source, seed = noise(11), 9
    samples = TrainDataset([source], SMALL, seed)
    for t in (0, 5, 11, 40, 12_345):
        image = source.read(image_index(seed, t, 11))
        rgb = samples[t].rgb
        assert rgb is not None
        assert (rgb.permute(1, 2, 0).numpy() == random_crop(image, SMALL, uniforms(seed, t, 5))).all()


def test_epochs_see_every_image_once_and_crop_it_anew() -> None:
    samples = TrainDataset([plain(24)], SMALL, seed=0)
    for epoch in range(3):
        shades = [int(samples[t].rgb[0, 0, 0]) for t in range(24 * epoch, 24 * (epoch + 1))]  # type: ignore[index]
        assert sorted(shades) == list(range(24))
    one = TrainDataset([noise(1)], SMALL, seed=0)
    assert len({one[t].rgb.numpy().tobytes() for t in range(20)}) == 20  # type: ignore[union-attr]


def test_images_are_asked_for_no_smaller_than_a_crop_needs() -> None:
    source = plain(3)
    TrainDataset([source], CropSettings(size=50, area=(0.25, 1)), seed=0)[0]
    assert source.asked == {100}  # a quarter of a square of 100 x 100 has 50 x 50 pixels


class Masks(Memory):
    """Tells which signals are blocked where images are read, and stops there."""

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        if index:
            return super().read(index, shorter)
        raise ImageError("mask", str(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))))


def test_workers_do_not_see_the_signals_that_stop_a_run() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    asked = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2}
    assert not asked & before
    samples = TrainDataset([Masks(plain(2).images)], SMALL, seed=0)
    [batch] = batches(samples, 4, 0, 1, workers=1)
    assert {reason for _, reason in batch.skipped} == {str(sorted(before | asked))}
    [batch] = batches(samples, 4, 0, 1, workers=0)
    assert {reason for _, reason in batch.skipped} == {str(sorted(before))}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ImageDataset]:
    """The same few images in a folder and in shards; built-in ones."""
    folder, tiles = tmp_path_factory.mktemp("sources"), Bundled("train")
    (folder / "images").mkdir()
    for index in range(24):
        tiles.read(7 * index).save(folder / "images" / f"{index:02}.png")
    for number in (0, 1):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for image in sorted((folder / "images").iterdir())[number::2]:
                tar.add(image, image.name)
    shards = Shards(f"{folder}/{{0..1}}.tar")
    shards.read(0)  # a shard that is open here
    return {"folder": Folder(folder / "images"), "shards": shards, "bundled": tiles}


@pytest.mark.parametrize("start", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_batches_do_not_depend_on_how_workers_are_started(start: WorkerStart, sources: dict[str, ImageDataset]) -> None:
    parts = [Subset(source, range(2, len(source)), seed=1) for source in sources.values()]
    samples = TrainDataset(parts, SMALL, seed=4, cache_bytes=20_000)
    alone = list(batches(samples, 6, 0, 9, workers=0))
    assert same(alone, list(batches(samples, 6, 0, 9, workers=4, worker_start=start)))


SEES = """
import signal, sys
sys.path[:0] = ["tests", "tests/pretext/data"]
from test_batches import SMALL, Masks, TrainDataset, batches, plain

if __name__ == "__main__":
    samples = TrainDataset([Masks(plain(2).images)], SMALL, seed=0)
    [batch] = batches(samples, 4, 0, 1, workers=1, worker_start=sys.argv[1])
    print(*{reason for _, reason in batch.skipped}, signal.pthread_sigmask(signal.SIG_BLOCK, []), sep="; ")
"""


@pytest.mark.parametrize("start", one_fast("forkserver", ["forkserver", "spawn"]))
def test_the_first_worker_ever_started_does_not_see_them_either(start: str, tmp_path: Path) -> None:
    script = tmp_path / "sees.py"
    script.write_text(SEES)
    root = Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, script, start], cwd=root, env=env, capture_output=True, text=True, check=True
    )
    asked = sorted({signal.SIGINT, signal.SIGTERM, signal.SIGUSR2})
    assert done.stdout == f"{asked}; set()\n", done.stderr


# Images that cannot be read.


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_image_takes_the_place_of_a_bad_one(workers: int) -> None:
    bad = (0, 4, 5, 11)
    stand_in = {0: 1, 4: 6, 5: 6, 11: 1}  # after the last comes the first
    passed = {0: [0], 4: [4, 5], 5: [5], 11: [11, 0]}
    samples = TrainDataset([plain(12, bad)], SMALL, seed=3)
    shown, skipped, expected = [], [], []
    for batch in batches(samples, 6, 0, 6, workers):
        shown += batch.rgb[:, 0, 0, 0].tolist()
        skipped += batch.skipped
    drawn = [image_index(3, t, 12) for t in range(36)]
    assert set(bad) <= set(drawn)
    assert shown == [stand_in.get(index, index) for index in drawn]
    for index in drawn:
        expected += [(f"image {step}", "torn") for step in passed.get(index, [])]
    assert skipped == expected


class Named(Memory):
    """Images of one shade each, with labels that tell them apart."""

    def __init__(self, count: int, bad: tuple[int, ...]) -> None:
        super().__init__(plain(count, bad).images)
        self.classes = [f"class {label}" for label in range(7 * count)]
        self.labels = 7 * np.arange(count)


@pytest.mark.parametrize("workers", [0, 2])
def test_labels_are_those_of_the_images_that_were_read(workers: int) -> None:
    whole = Named(12, bad=(0, 4, 5, 11))
    parts = [Subset(whole, range(3, 12), seed=1), whole]
    for labeled in (True, False):
        samples = TrainDataset(parts, SMALL, seed=3, labeled=labeled)
        for batch in batches(samples, 6, 0, 6, workers, positions=range(1, 5)):
            shades = batch.rgb[:, 0, 0, 0].long()
            assert batch.labels.dtype == torch.int64
            assert torch.equal(batch.labels, 7 * shades if labeled else torch.full((4,), -1))
    (views,) = stream(EvalDataset(whole, 6, labeled=True), range(12), 12, workers)
    assert views.labels.tolist() == [7 * index for index in (1, 2, 3, 6, 7, 8, 9, 10)]


@pytest.mark.parametrize("workers", [0, 2])
def test_only_bad_images_are_an_error_that_names_one(workers: int) -> None:
    samples = TrainDataset([plain(3, bad=(0, 1, 2))], SMALL, seed=0)
    with pytest.raises(UserError, match=r"image \d: torn"):
        next(batches(samples, 4, 0, 2, workers))


def test_a_batch_is_whole_or_an_error() -> None:
    source = plain(130, bad=tuple(range(120)))
    hopeless = next(t for t in range(130) if image_index(0, t, 130) <= 20)
    assert hopeless > 0
    step = hopeless // 3
    made = batches(TrainDataset([source], SMALL, seed=0), 3, 0, 40, workers=0)
    assert all(len(next(made).rgb) == 3 for _ in range(step))
    with pytest.raises(UserError):
        next(made)


def test_the_error_counts_the_images_in_a_row() -> None:
    with pytest.raises(UserError, match="no image of 3 in a row"):
        next(batches(TrainDataset([plain(3, bad=(0, 1, 2))], SMALL, seed=0), 4, 0, 1, workers=0))


@pytest.mark.parametrize("workers", [0, 2])
def test_views_leave_out_bad_images(workers: int) -> None:
    source = noise(8, bad=(1, 4, 5))
    made = list(stream(EvalDataset(source, 6), range(8), 3, workers))
    expected = [center_crop(source.read(index, 6), 6) for index in (0, 2, 3, 6, 7)]
    assert [len(batch.rgb) for batch in made] == [2, 1, 2]
    rgb = torch.cat([batch.rgb for batch in made]).permute(0, 2, 3, 1).numpy()
    assert rgb.dtype == np.uint8 and (rgb == np.stack(expected)).all()
    assert [entry for batch in made for entry in batch.skipped] == [(f"image {i}", "torn") for i in (1, 4, 5)]
    [nothing] = stream(EvalDataset(source, 6), range(4, 6), 3, workers)
    assert len(nothing.rgb) == 0 and len(nothing.skipped) == 2


def test_patience_ends_after_a_hundred() -> None:
    samples = TrainDataset([plain(130, bad=tuple(range(120)))], SMALL, seed=0)
    for t in range(130):
        first = image_index(0, t, 130)
        sample = samples[t]
        assert (sample.rgb is None) == (first <= 20), first
        assert len(sample.skipped) == min(100, max(0, 120 - first))


# Crops.


def ramp(width: int, height: int) -> Image.Image:
    """Red is x, green is y: a crop tells where it is from."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack((x, y, 0 * x), -1).astype(np.uint8))


def shown_box(crop: Array) -> tuple[float, float, float, float]:
    """Left, top, width, height shown of a ``ramp``, to 2 pixels as levels are rounded. Negative width: mirrored."""
    size = len(crop)
    inner = slice(2, -2)  # the filter stops at the image's border
    centers = np.arange(size)[inner] + 0.5
    (w, left), (h, top) = (
        np.polyfit(centers / size, line[inner] + 0.5, 1)
        for line in (crop[..., 0].mean(0, dtype=float), crop[..., 1].mean(1, dtype=float))
    )
    return left, top, w, h


@pytest.mark.parametrize("flip", [0.0, 1.0])
@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=5, max_size=5))
def test_five_numbers_are_area_ratio_left_top_and_mirror(flip: float, numbers: list[float]) -> None:
    width, height = 250, 200
    crop = CropSettings(size=48, area=(0.1, 0.4), ratio=(0.75, 4 / 3), flip=flip)
    left, top, w, h = shown_box(random_crop(ramp(width, height), crop, np.array(numbers)))
    area = (0.1 + 0.3 * numbers[0]) * width * height
    ratio = 0.75 * (16 / 9) ** numbers[1]
    expected_w, expected_h = math.sqrt(area * ratio), math.sqrt(area / ratio)
    expected_left, expected_top = (width - expected_w) * numbers[2], (height - expected_h) * numbers[3]
    if flip:
        expected_left, expected_w = expected_left + expected_w, -expected_w
    assert (left, top, w, h) == pytest.approx((expected_left, expected_top, expected_w, expected_h), abs=2)


def test_distribution_of_crops() -> None:
    crop = CropSettings(size=32, area=(0.1, 0.4), ratio=(0.5, 2.0), flip=0.3)
    image = ramp(256, 256)
    boxes = np.array([shown_box(random_crop(image, crop, uniforms(0, t, 5))) for t in range(800)])
    left, top, w, h = boxes.T
    mirrored = w < 0
    assert mirrored.mean() == pytest.approx(0.3, abs=0.05)
    left, w = np.where(mirrored, left + w, left), np.abs(w)
    shares = {
        "area": (w * h / 256**2 - 0.1) / 0.3,
        "ratio": (np.log2(w / h) + 1) / 2,
        "left": left / (256 - w),
        "top": top / (256 - h),
    }
    for name, values in shares.items():  # Kolmogorov and Smirnov's distance to the uniform distribution
        distance = np.abs(np.sort(values) - (np.arange(800) + 0.5) / 800).max()
        assert distance < 1.95 / math.sqrt(800), name  # one in 1000
    correlation = np.corrcoef([*shares.values(), mirrored])[np.triu_indices(5, 1)]
    assert np.abs(correlation).max() < 4 / math.sqrt(800)


def test_crop_is_plain_resizing() -> None:
    random = np.random.default_rng(1)
    square = Image.fromarray(random.integers(0, 256, (60, 60, 3), dtype=np.uint8))
    everything = CropSettings(size=60, area=(1, 1), ratio=(1, 1), flip=0)
    numbers = np.array([0.3, 0.7, 0.2, 0.9, 0.5])
    assert (random_crop(square, everything, numbers) == np.asarray(square)).all()
    mirror = CropSettings(size=60, area=(1, 1), ratio=(1, 1), flip=1)
    assert (random_crop(square, mirror, numbers) == np.asarray(square)[:, ::-1]).all()
    smaller = CropSettings(size=20, area=(1, 1), ratio=(1, 1), flip=0)
    expected = np.asarray(square.resize((20, 20), Image.Resampling.BILINEAR))
    assert (random_crop(square, smaller, numbers) == expected).all()
    # A quarter of the area, from the middle: cut out, then resized; but the filter sees beyond the cut.
    quarter = CropSettings(size=10, area=(0.25, 0.25), ratio=(1, 1), flip=0)
    got = random_crop(square, quarter, np.array([0, 0, 0.5, 0.5, 0.5]))
    cut = square.crop((15, 15, 45, 45)).resize((10, 10), Image.Resampling.BILINEAR)
    assert np.abs(got.astype(int) - np.asarray(cut))[1:-1, 1:-1].max() <= 1
    # Shrunk a lot, in two steps: nearly the same, for less work.
    y, x = np.mgrid[0:1000, 0:1000]
    waves = 127 + 60 * (np.sin(x / 130) + np.cos(y / 90))
    large = Image.fromarray(np.stack([waves] * 3, -1).astype(np.uint8))
    expected = np.asarray(large.resize((20, 20), Image.Resampling.BILINEAR))
    assert np.abs(random_crop(large, smaller, numbers).astype(int) - expected).max() <= 2


ENDS = st.sampled_from([0.0, 2.0**-53, 0.5, 1 - 2.0**-53])


@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.lists(ENDS | st.floats(0, 1, exclude_max=True), min_size=5, max_size=5),
    st.sampled_from([(0.01, 0.02), (0.35, 1.0), (1.0, 1.0)]),
    st.sampled_from([(0.75, 4 / 3), (0.01, 100.0), (20.0, 20.0)]),
)
def test_crops_lie_inside(
    width: int, height: int, numbers: list[float], area: tuple[float, float], ratio: tuple[float, float]
) -> None:
    crop = CropSettings(size=7, area=area, ratio=ratio)
    got = random_crop(Image.new("RGB", (width, height), (200, 100, 50)), crop, np.array(numbers))
    assert got.shape == (7, 7, 3) and got.dtype == np.uint8
    assert (got == (200, 100, 50)).all()  # Pillow refuses a box that ends outside


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 2), (2500, 1700)])
def test_crops_of_odd_images(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (1, 2, 3))
    for t in range(8):
        for edge in (1, 64):
            got = random_crop(image, CropSettings(size=edge), uniforms(0, t, 5))
            assert got.shape == (edge, edge, 3)
            assert (got == (1, 2, 3)).all()


def test_a_part_that_does_not_fit_is_narrowed() -> None:
    crop = CropSettings(size=40, area=(0.9, 0.9), ratio=(1, 1), flip=0)
    left, top, w, h = shown_box(random_crop(ramp(200, 80), crop, np.array([0.5, 0.5, 0.25, 0.5, 0.5])))
    side = math.sqrt(0.9 * 200 * 80)  # 120: higher than the image
    assert (left, top, w, h) == pytest.approx(((200 - side) / 4, 0, side, 80), abs=1.2)


def test_center_crop() -> None:
    random = np.random.default_rng(2)
    for height, width in ((64, 101), (101, 64), (64, 64)):
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        top, left = (height - 64) // 2, (width - 64) // 2
        square = image[top : top + 64, left : left + 64]
        assert (center_crop(Image.fromarray(image), 64) == square).all()
        expected = Image.fromarray(square).resize((16, 16), Image.Resampling.BICUBIC)
        got = center_crop(Image.fromarray(image), 16)
        assert np.abs(got.astype(int) - np.asarray(expected))[2:-2, 2:-2].max() <= 1
    assert center_crop(Image.new("RGB", (1, 9)), 5).shape == (5, 5, 3)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": -3},
        {"area": (0.0, 1.0)},
        {"area": (-0.2, 1.0)},
        {"area": (0.8, 0.3)},
        {"area": (0.5, 1.5)},
        {"area": (NAN, 1.0)},
        {"area": (0.5, NAN)},
        {"ratio": (0.0, 1.0)},
        {"ratio": (-1.0, 1.0)},
        {"ratio": (2.0, 1.0)},
        {"ratio": (NAN, 1.0)},
        {"ratio": (1.0, NAN)},
        {"ratio": (1.0, INF)},
        {"flip": -0.1},
        {"flip": 1.1},
        {"flip": NAN},
    ],
    ids=str,
)
def test_nonsense_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"crop\.{next(iter(wrong))}"):
        CropSettings(**wrong)


def test_settings_at_their_limits() -> None:
    CropSettings(size=1, area=(1.0, 1.0), ratio=(2.0, 2.0), flip=0)
    CropSettings(area=(1e-3, 1.0), ratio=(0.1, 10.0), flip=1)


# The cache.


def test_cache_changes_no_sample_and_reads_once() -> None:
    source, plainly = noise(10, bad=(6,)), noise(10, bad=(6,))
    cached, uncached = TrainDataset([source], SMALL, 2, cache_bytes=10**9), TrainDataset([plainly], SMALL, 2)
    for t in range(50):
        one, other = cached[t], uncached[t]
        assert one.rgb is not None and other.rgb is not None
        assert torch.equal(one.rgb, other.rgb) and one.skipped == other.skipped
    good = {index: 1 for index in range(10) if index != 6}
    assert {index: source.reads[index] for index in good} == good
    assert all(plainly.reads[index] >= 5 for index in good)


@pytest.mark.parametrize("room", [0, 1, 323, 324, 4 * 324 + 323, 10 * 324])
def test_cache_keeps_to_its_limit(room: int) -> None:
    source = plain(10)  # 9 x 12 x 3 = 324 bytes each
    samples = TrainDataset([source], SMALL, 0, cache_bytes=room)
    for t in range(30):
        samples[t]
    kept = [index for index in range(10) if source.reads[index] == 1]
    assert len(kept) == room // 324
    assert all(source.reads[index] == 3 for index in range(10) if index not in kept)


# Parts of a source.


@given(st.integers(2, 200), st.integers(0, 2**64 - 1), st.data())
def test_subsets_are_disjoint_and_complete(count: int, seed: int, data: st.DataObject) -> None:
    source = plain(count)
    cut = data.draw(st.integers(0, count))
    parts = [Subset(source, range(cut), seed), Subset(source, range(cut, count), seed)]
    assert [len(part) for part in parts] == [cut, count - cut]
    assert all(isinstance(part, ImageDataset) for part in parts)
    keys = [[part.key(rank) for rank in range(len(part))] for part in parts]
    assert sorted(keys[0] + keys[1]) == sorted(source.key(index) for index in range(count))
    again = Subset(plain(count), range(cut), seed)
    assert [again.key(rank) for rank in range(cut)] == keys[0]


def test_subset_reads_what_it_names() -> None:
    source = plain(40)
    part = Subset(source, range(10, 30), seed=1)
    for rank in range(20):
        shade = int(np.asarray(part.read(rank, 7))[0, 0, 0])
        assert part.key(rank) == source.key(part.index(rank)) == f"image {shade}"
    assert source.asked == {7}
    other = Subset(source, range(10, 30), seed=2)
    assert [part.index(rank) for rank in range(20)] != [other.index(rank) for rank in range(20)]


# Real images.


def test_real_images_with_workers(shared_data: Path) -> None:

    samples = TrainDataset([Folder(shared_data / "imagenette-mini" / "val")], CropSettings(size=32), seed=1)
    assert same(list(batches(samples, 8, 2, 5, workers=0)), list(batches(samples, 8, 2, 5, workers=2)))


def test_bundled_images() -> None:
    [batch] = batches(TrainDataset([Bundled("train")], CropSettings(size=16), seed=0), 32, 0, 1, workers=0)
    assert batch.skipped == []
    assert batch.rgb.float().std((1, 2, 3)).min() > 0.5  # no crop is empty


def test_squashed_crops_are_crops_of_a_squashed_image() -> None:
    """The publications resize to a square first; a quarter of the square is half of each side of the image."""
    ramp = np.zeros((40, 80, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(80)[None] * 3, np.arange(40)[:, None] * 6
    crop = CropSettings(size=20, area=(0.25, 0.25), ratio=(1, 1), flip=0, squash=True)
    found = random_crop(Image.fromarray(ramp), crop, np.array([0.5, 0.5, 0.0, 0.0, 1.0]))
    expected = Image.fromarray(ramp).resize((20, 20), Image.Resampling.BILINEAR, box=(0, 0, 40, 20))
    assert np.array_equal(found, np.asarray(expected))


class Boxed(AugmentedDataset):
    """Whole images, each of its own size, with a dict of what is known; some cannot be used."""

    draws = 1

    def make(self, part: int, index: int, uniform: Array) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if index == 2:
            raise ImageError(f"image {index}", "its boxes lie outside")
        image = torch.from_numpy(np.array(self.parts[part].read(index))).permute(2, 0, 1)
        return image, {"index": torch.tensor(index), "drawn": torch.tensor(float(uniform[0]))}


@pytest.mark.parametrize("workers", [0, 2])
def test_examples_of_any_kind(workers: int) -> None:
    source, met = noise(11), set()
    for batch in batches(Boxed([source], seed=5), 4, 0, 6, workers):
        assert batch.rgb.shape == (4, 3, *batch.rgb.shape[2:]) and len(batch.labels) == 4
        for rgb, label in zip(batch.rgb, batch.labels, strict=True):
            image = torch.from_numpy(source.images[int(label["index"])]).permute(2, 0, 1)  # type: ignore[arg-type]
            height, width = image.shape[1:]
            assert torch.equal(rgb[:, :height, :width], image)
            assert (rgb[:, height:] == 128).all() and (rgb[:, :, width:] == 128).all(), "gray at the right and below"
        met |= set(batch.skipped)
    assert met == {("image 2", "its boxes lie outside")}
    again = [label["drawn"] for batch in batches(Boxed([source], seed=5), 8, 1, 2, 0) for label in batch.labels]
    first = [label["drawn"] for batch in batches(Boxed([source], seed=5), 4, 2, 4, workers) for label in batch.labels]
    assert again == first, "sample t is the same in batches of any size"


def test_several_labels_an_image() -> None:
    labels = np.arange(33, dtype=np.int8).reshape(11, 3) % 3 - 1

    class Several(Memory):
        def __init__(self) -> None:
            super().__init__(noise(11).images)
            self.labels = labels

    part = Subset(Several(), range(4), seed=1)
    (batch,) = batches(TrainDataset([part], SMALL, seed=3, labeled=True), 4, 0, 1, 0)
    assert batch.labels.dtype == torch.int8
    known = {tuple(labels[part.index(rank)]) for rank in range(4)}
    assert {tuple(row.tolist()) for row in batch.labels} == known
