"""Splits of the training images: disjoint, stratified, nested, named, the same for ever."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretext.data.order import mix, permutation
from pretext.errors import UserError
from transfer.splits import digest_of_indices, shots, split

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(5), [400, 200, 100, 50, 2])
SEVERAL = RNG.choice(np.array([1, 0, 0, 0, 0, -1], np.int8), (500, 6))
SEVERAL[:, 5] = 0
SEVERAL[[7, 300], 5] = 1


def counts(indices: np.ndarray) -> list[int]:
    return np.bincount(LABELS[indices], minlength=5).tolist()


def test_every_class_gives_its_share() -> None:
    found = split(LABELS, 0.1, seed=3)
    assert found.name == "holdout 10%, seed 3"
    assert sorted([*found.fit, *found.held]) == list(range(752))
    assert counts(found.held) == [40, 20, 10, 5, 0]
    assert found.sha256 == digest_of_indices(found.fit, found.held) == split(LABELS, 0.1, seed=3).sha256
    assert len({split(LABELS, 0.1, seed).sha256 for seed in range(4)}) == 4


def test_the_split_of_every_version_before() -> None:
    several = (np.arange(300)[:, None] ** 2 % (7 + np.arange(4)) < 2).astype(np.int8)
    assert split(LABELS, 0.1, seed=0).sha256 == "2b5c121f44cd748e16c8e1e78d14993e086d3eea7c2cf908afde17d54eee863d"
    assert split(several, 0.1, 0, 0.5).sha256 == "869ee363a065685964536674163a3b5af64d4aeabce4171b4e8e8ef017ac7680"


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=40),
    st.floats(0.01, 0.9),
    st.floats(0.01, 1),
    st.integers(0, 2**63 - 1),
)
def test_no_class_loses_its_last_image(sizes: list[int], share: float, fraction: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    there = [one for one, size in enumerate(sizes) if size]
    try:
        found = split(labels, share, seed, fraction)
    except UserError:
        kept = [max(1, round(fraction * size)) for size in sizes if size]
        assert max(kept, default=1) == 1
        return
    chosen = np.concatenate([found.fit, found.held])
    assert len(np.unique(chosen)) == len(chosen)
    assert sorted(set(labels[found.fit].tolist())) == there
    own = np.bincount(labels[chosen], minlength=len(sizes))
    assert [own[one] for one in there] == [max(1, round(fraction * sizes[one])) for one in there]
    held = np.bincount(labels[found.held], minlength=len(sizes))
    count = max(1, round(share * len(chosen)))
    assert 1 <= len(found.held) <= count
    assert (np.abs(held - own * count / own.sum())[own > 1] <= 1 + 1e-9).all() or len(found.held) < count


def test_a_fraction_of_labels_holds_every_smaller_one() -> None:
    for labels in (LABELS, SEVERAL):
        parts = [split(labels, 0, 1, fraction).fit for fraction in (0.01, 0.1, 0.5, 1)]
        for small, large in itertools.pairwise(parts):
            assert set(small) < set(large)
    few = split(LABELS, 0.25, 1, 0.01)
    assert few.name == "1% of labels, holdout 25%, seed 1"
    assert counts(np.concatenate([few.fit, few.held])) == [4, 2, 1, 1, 1]
    assert split(LABELS, 0, 1).name == "seed 1" and not len(split(LABELS, 0, 1).held)


def test_at_most_so_many_are_held_out() -> None:
    found = split(LABELS, 0.5, 0, most=30)
    assert found.name == "holdout 30 images, seed 0" and len(found.held) == 30
    assert counts(found.held)[:3] == [16, 8, 4]


def test_several_labels_an_image() -> None:
    for seed in range(20):
        found = split(SEVERAL, 0.9, seed)
        assert not set(found.fit) & set(found.held) and len(found.fit) + len(found.held) == 500
        assert (SEVERAL[found.fit] == 1).any(0).all()
        few = split(SEVERAL, 0, seed, 0.01)
        assert (SEVERAL[few.fit] == 1).any(0).all() and 5 <= len(few.fit) <= 11


def test_images_that_cannot_be_read_are_in_no_part() -> None:
    good = RNG.random(752) < 0.9
    found = split(LABELS, 0.1, 0, good=good)
    assert sorted([*found.fit, *found.held]) == np.flatnonzero(good).tolist()
    whole = split(LABELS, 0.1, 0)
    moved = set(found.held) - set(whole.held)
    assert len(moved) <= len(set(whole.held) - set(np.flatnonzero(good)))
    with pytest.raises(UserError, match="none of 752"):
        split(LABELS, 0.1, 0, good=np.zeros(752, bool))


def test_what_cannot_be_split() -> None:
    with pytest.raises(UserError, match="larger fraction"):
        split(np.arange(10), 0.1, 0)
    for share, fraction in ((1.0, 1.0), (-0.1, 1.0), (0.1, 0.0), (0.1, 1.5), (float("nan"), 1.0)):
        with pytest.raises(UserError, match="give 0 <= share"):
            split(LABELS, share, 0, fraction)


def test_shots_of_one_class_an_image() -> None:
    few, more, other = (shots(LABELS, 1, 5, k, sample, 0) for k, sample in ((2, 0), (50, 0), (2, 1)))
    assert LABELS[few.positives].tolist() == [1, 1] and counts(few.negatives) == [2, 0, 2, 2, 2]
    assert counts(more.negatives) == [50, 0, 50, 50, 2]
    assert set(few.positives) < set(more.positives) and set(few.negatives) < set(more.negatives)
    assert set(few.positives) != set(other.positives)
    # What is a positive of one class is a negative of all others.
    assert set(shots(LABELS, 0, 5, 2, 0, 0).positives) < set(few.negatives)


def test_shots_of_several_classes_an_image() -> None:
    good = np.arange(500) % 2 == 0
    drawn = shots(SEVERAL, 2, 6, 8, 0, 0, good)
    assert (SEVERAL[drawn.positives, 2] == 1).all() and len(drawn.positives) == 8
    assert (SEVERAL[drawn.negatives, 2] == 0).all() and len(drawn.negatives) == 40
    assert good[drawn.positives].all() and good[drawn.negatives].all()
    assert shots(SEVERAL, 5, 6, 8, 0, 0).positives.tolist() == [7, 300], "all there are"


def test_shots_are_the_first_of_every_class_by_rank() -> None:
    labels = np.random.default_rng(0).integers(0, 40, 300)
    good = np.arange(300) % 7 > 0
    ranks = permutation(300, mix(mix(5, 0x5407), 1))
    for k in (1, 3, 20):
        first = [sorted(np.flatnonzero(good & (labels == c)), key=lambda at: ranks[at])[:k] for c in range(40)]
        drawn = shots(labels, 6, 40, k, 1, 5, good)
        assert drawn.positives.tolist() == sorted(first[6])
        assert drawn.negatives.tolist() == sorted(itertools.chain(*first[:6], *first[7:]))


def test_many_classes_of_few_images() -> None:
    labels = np.random.default_rng(0).permutation(np.concatenate([np.repeat(np.arange(70_000), 2), np.arange(9_999)]))
    found = split(labels, 0.1, seed=0)
    assert len(found.held) == 10_000
    assert len(np.unique(labels[found.fit])) == 70_000, "every class has an image that teaches"
    assert np.bincount(labels[found.held]).max() == 1
