"""The order of images: permutations, mixed sources, their independence, and that no version changes them."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretext.data import Bundled
from pretext.data.batches import CropSettings, TrainDataset, batches
from pretext.data.order import BLOCK, image_index, locate, mix, permutation, permute_index, quotas, uniforms

KEYS = st.integers(0, 2**64 - 1)


def whole(count: int, key: int) -> list[int]:
    return [permute_index(position, count, key) for position in range(count)]


@given(st.integers(1, 700), KEYS)
def test_permuted_is_a_bijection(count: int, key: int) -> None:
    assert sorted(whole(count, key)) == list(range(count))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 257, 4095, 4096, 4097])
def test_permuted_is_a_bijection_around_powers_of_two(count: int) -> None:
    assert sorted(whole(count, key=11)) == list(range(count))


@given(st.integers(1, 10**15), KEYS, st.data())
def test_permuted_stays_inside_and_never_meets(count: int, key: int, data: st.DataObject) -> None:
    positions = data.draw(st.sets(st.integers(0, count - 1), max_size=20))
    images = {permute_index(position, count, key) for position in positions}
    assert len(images) == len(positions)
    assert all(0 <= image < count for image in images)


@given(st.integers(0, 600), st.integers(0, 2**64 - 1))
def test_all_at_once_is_one_by_one(count: int, key: int) -> None:
    assert permutation(count, key).tolist() == [permute_index(position, count, key) for position in range(count)]


@pytest.mark.slow
def test_every_permutation_occurs_for_some_key() -> None:
    """All 24 of four images, each about as often as the others."""
    times = Counter(tuple(whole(4, mix(0, number))) for number in range(4800))
    assert len(times) == 24
    chi_squared = sum((count - 200) ** 2 / 200 for count in times.values())
    assert chi_squared < 53  # 23 degrees of freedom: one in 3000


@pytest.mark.slow
@pytest.mark.parametrize("count", [10, 37])
def test_every_position_sees_every_image_as_often(count: int) -> None:
    epochs = 2000
    orders = np.array([[image_index(5, e * count + p, count) for p in range(count)] for e in range(epochs)])
    table = np.stack([np.bincount(column, minlength=count) for column in orders.T])
    expected = epochs / count
    chi_squared = ((table - expected) ** 2 / expected).sum()
    freedom = (count - 1) ** 2
    assert abs(chi_squared - freedom) < 4 * np.sqrt(2 * freedom)
    # One fixed point an epoch, and one image that keeps its place in the next: as of random permutations.
    assert (orders == np.arange(count)).sum(1).mean() == pytest.approx(1, abs=0.12)
    assert (orders[1:] == orders[:-1]).sum(1).mean() == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("count", [1, 7, 64, 500])
def test_every_image_once_an_epoch(count: int) -> None:
    for epoch in range(4):
        seen = [image_index(1, t, count) for t in range(epoch * count, (epoch + 1) * count)]
        assert sorted(seen) == list(range(count))


def test_epochs_and_seeds_differ() -> None:
    orders = [
        tuple(image_index(seed, epoch * 50 + position, 50) for position in range(50))
        for seed, epoch in itertools.product((0, 1, 2, 3, 2**32, 2**63, 2**64 - 1), range(20))
    ]
    assert len(set(orders)) == len(orders)


def test_order_is_that_of_every_version_before() -> None:
    """A change here makes every run a different one when it is resumed: it needs a very good reason."""
    assert whole(10, 7) == [2, 3, 4, 7, 8, 9, 6, 0, 5, 1]
    assert [image_index(3, t, 5) for t in range(15)] == [1, 0, 3, 2, 4, 2, 0, 1, 4, 3, 3, 4, 0, 2, 1]
    assert [image_index(0, t, 10**12) for t in (0, 1, 10**12)] == [611370569814, 64311266861, 680692619641]
    assert mix(0, 0) == 12035550249420947055
    assert mix(1, 2) == 13608149317741381227
    first, second = "0x1.7a5d3204726c0p-7", "0x1.eeb1585ce5460p-3"
    assert [value.hex() for value in uniforms(0, 0, 2).tolist()] == [first, second]
    assert [value.hex() for value in uniforms(42, 10**6, 3).tolist()] == [
        "0x1.74e992fbd725ep-2",
        "0x1.190b69e0f5ebap-1",
        "0x1.c92d7017c097cp-3",
    ]


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**53), st.integers(1, 20))
def test_uniforms_depend_on_seed_and_sample_alone(seed: int, t: int, count: int) -> None:
    values = uniforms(seed, t, count)
    assert values.shape == (count,)
    assert values.dtype == np.float64
    assert ((values >= 0) & (values < 1)).all()
    np.random.seed(seed % 2**32)  # noqa: NPY002 (no global state has a part in it)
    uniforms(seed ^ 1, t, 3)
    assert (uniforms(seed, t, count) == values).all()
    assert (uniforms(seed, t, count + 3)[:count] == values).all()
    for other in (uniforms(seed ^ 1, t, count), uniforms(seed, t + 1, count)):
        assert (other != values).all()


@pytest.mark.filterwarnings("error")
def test_seeds_of_any_sign_and_size_differ() -> None:
    seeds = [-2, -1, 0, 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 3]
    assert len({uniforms(seed, 0, 1)[0] for seed in seeds}) == len(seeds)


def test_uniforms_are_uniform_and_independent() -> None:
    values = np.array([uniforms(8, t, 5) for t in range(4000)])
    for column in values.T:
        counts = np.bincount((column * 20).astype(int), minlength=20)
        assert ((counts - 200) ** 2 / 200).sum() < 46  # 19 degrees of freedom: one in 2000
    across = np.corrcoef(values.T)[np.triu_indices(5, 1)]
    along = [np.corrcoef(column[1:], column[:-1])[0, 1] for column in values.T]
    assert np.abs([*across, *along]).max() < 4 / np.sqrt(4000)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20))
def test_quotas_are_the_shares_rounded(weights: list[float]) -> None:
    counts = quotas(weights)
    assert sum(counts) == BLOCK and min(counts) >= 1
    for count, weight in zip(counts, weights, strict=True):
        share = BLOCK * weight / sum(weights)
        assert abs(count - share) <= max(1, len(weights)), (count, share)


def test_one_source_is_seen_in_its_own_order() -> None:
    assert [locate(5, t, [13], quotas([0.3])) for t in range(50)] == [(0, image_index(5, t, 13)) for t in range(50)]


@pytest.mark.parametrize("weights", [[1, 1], [0.7, 0.2, 0.1], [1, 999]])
def test_every_block_holds_the_shares_and_every_epoch_every_image(weights: list[float]) -> None:
    sizes, counts = [7, 40, 3][: len(weights)], quotas(weights)
    blocks = max(4, max(-(-2 * size // count) for size, count in zip(sizes, counts, strict=True)))
    seen = [locate(1, t, sizes, counts) for t in range(blocks * BLOCK)]
    for block in range(blocks):
        found = Counter(part for part, _ in seen[block * BLOCK : (block + 1) * BLOCK])
        assert [found[part] for part in range(len(sizes))] == counts
    assert [part for part, _ in seen[:BLOCK]] != [part for part, _ in seen[BLOCK : 2 * BLOCK]]
    for part, size in enumerate(sizes):
        own = [index for which, index in seen if which == part]
        assert own == [image_index(mix(1, part), number, size) for number in range(len(own))], "as it would alone"


def test_processes_share_a_batch_in_order() -> None:
    parts = [Bundled("train"), Bundled("test")]
    samples = TrainDataset(parts, CropSettings(size=16), seed=2, weights=[3, 1])
    whole = list(batches(samples, 12, 3, 6, workers=0))
    shares = [list(batches(samples, 12, 3, 6, workers=1, positions=range(at, at + 4))) for at in (0, 4, 8)]
    for step, batch in enumerate(whole):
        for rank, share in enumerate(shares):
            assert share[step].rgb.equal(batch.rgb[4 * rank : 4 * rank + 4])
