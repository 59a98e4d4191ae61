"""Batches: the same whoever prepares them, of parts of datasets, from a cache, and with labels of any kind."""

import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from memory_dataset import SMALL, Array, MemoryDataset, SignalMasks, make_noise, make_shades

from pretext.data import Bundled, Folder, ImageDataset, Shards
from pretext.data.batches import (
    AugmentedDataset,
    Batch,
    CropSettings,
    Subset,
    TrainDataset,
    WorkerStart,
    batches,
    random_crop,
)
from pretext.data.order import image_index, uniforms
from pretext.errors import ImageError


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.rgb, b.rgb) and a.skipped == b.skipped for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(workers: int) -> None:
    samples = TrainDataset([make_noise(11, bad=(2, 3, 10))], SMALL, seed=4, cache_bytes=20_000)
    alone = list(batches(samples, 4, 0, 9, workers=0))
    assert len(alone) == 9
    assert all(batch.rgb.shape == (4, 3, 8, 8) and batch.rgb.dtype == torch.uint8 for batch in alone)
    assert any(batch.skipped for batch in alone)
    assert same(alone, list(batches(samples, 4, 0, 9, workers)))
    assert same(alone[5:], list(batches(samples, 4, 5, 9, workers)))


def test_batches_do_not_depend_on_the_start_nor_on_random_state() -> None:
    samples = TrainDataset([make_noise(11, bad=(2, 3))], SMALL, seed=4)
    torch.manual_seed(0)
    every = list(batches(samples, 4, 0, 9, workers=0))
    for start in (1, 4, 8):
        torch.manual_seed(start)
        assert same(
            every[start:], list(batches(TrainDataset([make_noise(11, (2, 3))], SMALL, 4), 4, start, 9, workers=0))
        )
    assert list(batches(samples, 4, 3, 3, workers=0)) == []
    far = 10**9
    assert same(list(batches(samples, 4, far, far + 2, 0))[1:], list(batches(samples, 4, far + 1, far + 2, 0)))


def test_batches_do_not_depend_on_their_size() -> None:
    samples = TrainDataset([make_noise(11, bad=(2, 3))], SMALL, seed=4)
    whole, halves = list(batches(samples, 8, 0, 4, 0)), list(batches(samples, 4, 0, 8, 0))
    for step, batch in enumerate(whole):
        first, second = halves[2 * step : 2 * step + 2]
        assert torch.equal(batch.rgb, torch.cat((first.rgb, second.rgb)))
        assert batch.skipped == first.skipped + second.skipped
        for place in range(8):
            sample = samples[8 * step + place].rgb
            assert sample is not None and torch.equal(batch.rgb[place], sample)


def test_seeds_differ() -> None:
    one, other = (next(batches(TrainDataset([make_noise(11)], SMALL, seed), 8, 0, 1, 0)) for seed in (1, 2))
    assert not torch.equal(one.rgb, other.rgb)


def test_sample_is_the_crop_of_its_image() -> None:
    source, seed = make_noise(11), 9
    samples = TrainDataset([source], SMALL, seed)
    for t in (0, 5, 11, 40, 12_345):
        image = source.read(image_index(seed, t, 11))
        rgb = samples[t].rgb
        assert rgb is not None
        assert (rgb.permute(1, 2, 0).numpy() == random_crop(image, SMALL, uniforms(seed, t, 5))).all()


def test_epochs_see_every_image_once_and_crop_it_anew() -> None:
    samples = TrainDataset([make_shades(24)], SMALL, seed=0)
    for epoch in range(3):
        shades = [int(samples[t].rgb[0, 0, 0]) for t in range(24 * epoch, 24 * (epoch + 1))]  # type: ignore[index]
        assert sorted(shades) == list(range(24))
    one = TrainDataset([make_noise(1)], SMALL, seed=0)
    assert len({one[t].rgb.numpy().tobytes() for t in range(20)}) == 20  # type: ignore[union-attr]


def test_images_are_asked_for_no_smaller_than_a_crop_needs() -> None:
    source = make_shades(3)
    TrainDataset([source], CropSettings(size=50, area=(0.25, 1)), seed=0)[0]
    assert source.requested_sizes == {100}  # a quarter of a square of 100 x 100 has 50 x 50 pixels


def test_workers_do_not_see_the_signals_that_stop_a_run() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    asked = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2}
    assert not asked & before
    samples = TrainDataset([SignalMasks(make_shades(2).images)], SMALL, seed=0)
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


@pytest.mark.parametrize(
    "start", ["fork", pytest.param("forkserver", marks=pytest.mark.slow), pytest.param("spawn", marks=pytest.mark.slow)]
)
def test_batches_do_not_depend_on_how_workers_are_started(start: WorkerStart, sources: dict[str, ImageDataset]) -> None:
    parts = [Subset(source, range(2, len(source)), seed=1) for source in sources.values()]
    samples = TrainDataset(parts, SMALL, seed=4, cache_bytes=20_000)
    alone = list(batches(samples, 6, 0, 9, workers=0))
    assert same(alone, list(batches(samples, 6, 0, 9, workers=4, worker_start=start)))


SEES = """
import signal, sys
sys.path.insert(0, "tests")
from memory_dataset import SMALL, SignalMasks, make_shades
from pretext.data.batches import TrainDataset, batches

if __name__ == "__main__":
    samples = TrainDataset([SignalMasks(make_shades(2).images)], SMALL, seed=0)
    [batch] = batches(samples, 4, 0, 1, workers=1, worker_start=sys.argv[1])
    print(*{reason for _, reason in batch.skipped}, signal.pthread_sigmask(signal.SIG_BLOCK, []), sep="; ")
"""


@pytest.mark.slow
@pytest.mark.parametrize("start", ["forkserver", "spawn"])
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


def test_cache_changes_no_sample_and_reads_once() -> None:
    source, plainly = make_noise(10, bad=(6,)), make_noise(10, bad=(6,))
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
    source = make_shades(10)  # 9 x 12 x 3 = 324 bytes each
    samples = TrainDataset([source], SMALL, 0, cache_bytes=room)
    for t in range(30):
        samples[t]
    kept = [index for index in range(10) if source.reads[index] == 1]
    assert len(kept) == room // 324
    assert all(source.reads[index] == 3 for index in range(10) if index not in kept)


@given(st.integers(2, 200), st.integers(0, 2**64 - 1), st.data())
def test_subsets_are_disjoint_and_complete(count: int, seed: int, data: st.DataObject) -> None:
    source = make_shades(count)
    cut = data.draw(st.integers(0, count))
    parts = [Subset(source, range(cut), seed), Subset(source, range(cut, count), seed)]
    assert [len(part) for part in parts] == [cut, count - cut]
    assert all(isinstance(part, ImageDataset) for part in parts)
    keys = [[part.key(rank) for rank in range(len(part))] for part in parts]
    assert sorted(keys[0] + keys[1]) == sorted(source.key(index) for index in range(count))
    again = Subset(make_shades(count), range(cut), seed)
    assert [again.key(rank) for rank in range(cut)] == keys[0]


def test_subset_reads_what_it_names() -> None:
    source = make_shades(40)
    part = Subset(source, range(10, 30), seed=1)
    for rank in range(20):
        shade = int(np.asarray(part.read(rank, 7))[0, 0, 0])
        assert part.key(rank) == source.key(part.index(rank)) == f"image {shade}"
    assert source.requested_sizes == {7}
    other = Subset(source, range(10, 30), seed=2)
    assert [part.index(rank) for rank in range(20)] != [other.index(rank) for rank in range(20)]


def test_real_images_with_workers(shared_data: Path) -> None:

    samples = TrainDataset([Folder(shared_data / "imagenette-mini" / "val")], CropSettings(size=32), seed=1)
    assert same(list(batches(samples, 8, 2, 5, workers=0)), list(batches(samples, 8, 2, 5, workers=2)))


def test_bundled_images() -> None:
    [batch] = batches(TrainDataset([Bundled("train")], CropSettings(size=16), seed=0), 32, 0, 1, workers=0)
    assert batch.skipped == []
    assert batch.rgb.float().std((1, 2, 3)).min() > 0.5  # no crop is empty


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
    source, met = make_noise(11), set()
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

    class Several(MemoryDataset):
        def __init__(self) -> None:
            super().__init__(make_noise(11).images)
            self.labels = labels

    part = Subset(Several(), range(4), seed=1)
    (batch,) = batches(TrainDataset([part], SMALL, seed=3, labeled=True), 4, 0, 1, 0)
    assert batch.labels.dtype == torch.int8
    known = {tuple(labels[part.index(rank)]) for rank in range(4)}
    assert {tuple(row.tolist()) for row in batch.labels} == known
