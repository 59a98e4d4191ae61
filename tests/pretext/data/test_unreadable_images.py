"""Batches of images of which some cannot be read: the next one takes the place, with its own label."""

import numpy as np
import pytest
import torch
from memory_dataset import SMALL, MemoryDataset, make_noise, make_shades

from pretext.data.batches import EvalDataset, Subset, TrainDataset, batches, center_crop, stream
from pretext.data.order import image_index
from pretext.errors import UserError


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_image_takes_the_place_of_a_bad_one(workers: int) -> None:
    bad = (0, 4, 5, 11)
    stand_in = {0: 1, 4: 6, 5: 6, 11: 1}  # after the last comes the first
    passed = {0: [0], 4: [4, 5], 5: [5], 11: [11, 0]}
    samples = TrainDataset([make_shades(12, bad)], SMALL, seed=3)
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


class Named(MemoryDataset):
    """Images of one shade each, with labels that tell them apart."""

    def __init__(self, count: int, bad: tuple[int, ...]) -> None:
        super().__init__(make_shades(count, bad).images)
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
    samples = TrainDataset([make_shades(3, bad=(0, 1, 2))], SMALL, seed=0)
    with pytest.raises(UserError, match=r"image \d: torn"):
        next(batches(samples, 4, 0, 2, workers))


def test_a_batch_is_whole_or_an_error() -> None:
    source = make_shades(130, bad=tuple(range(120)))
    hopeless = next(t for t in range(130) if image_index(0, t, 130) <= 20)
    assert hopeless > 0
    step = hopeless // 3
    made = batches(TrainDataset([source], SMALL, seed=0), 3, 0, 40, workers=0)
    assert all(len(next(made).rgb) == 3 for _ in range(step))
    with pytest.raises(UserError):
        next(made)


def test_the_error_counts_the_images_in_a_row() -> None:
    with pytest.raises(UserError, match="no image of 3 in a row"):
        next(batches(TrainDataset([make_shades(3, bad=(0, 1, 2))], SMALL, seed=0), 4, 0, 1, workers=0))


@pytest.mark.parametrize("workers", [0, 2])
def test_views_leave_out_bad_images(workers: int) -> None:
    source = make_noise(8, bad=(1, 4, 5))
    made = list(stream(EvalDataset(source, 6), range(8), 3, workers))
    expected = [center_crop(source.read(index, 6), 6) for index in (0, 2, 3, 6, 7)]
    assert [len(batch.rgb) for batch in made] == [2, 1, 2]
    rgb = torch.cat([batch.rgb for batch in made]).permute(0, 2, 3, 1).numpy()
    assert rgb.dtype == np.uint8 and (rgb == np.stack(expected)).all()
    assert [entry for batch in made for entry in batch.skipped] == [(f"image {i}", "torn") for i in (1, 4, 5)]
    [nothing] = stream(EvalDataset(source, 6), range(4, 6), 3, workers)
    assert len(nothing.rgb) == 0 and len(nothing.skipped) == 2


def test_patience_ends_after_a_hundred() -> None:
    samples = TrainDataset([make_shades(130, bad=tuple(range(120)))], SMALL, seed=0)
    for t in range(130):
        first = image_index(0, t, 130)
        sample = samples[t]
        assert (sample.rgb is None) == (first <= 20), first
        assert len(sample.skipped) == min(100, max(0, 120 - first))
