"""Mixed sources: the shares that were asked for, every image in its turn, all a function of (seed, t)."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretext.data import Bundled
from pretext.data.batches import CropSettings, Samples, batches
from pretext.data.mixture import BLOCK, locate, quotas
from pretext.data.order import image_index, mix


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
    samples = Samples(parts, CropSettings(size=16), seed=2, weights=[3, 1])
    whole = list(batches(samples, 12, 3, 6, workers=0))
    shares = [list(batches(samples, 12, 3, 6, workers=1, positions=range(at, at + 4))) for at in (0, 4, 8)]
    for step, batch in enumerate(whole):
        for rank, share in enumerate(shares):
            assert share[step].rgb.equal(batch.rgb[4 * rank : 4 * rank + 4])
