"""The built-in tiles against what they promise: no pixel in two places that must not share one."""

import pickle
from collections import Counter
from typing import Literal

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from pretext.data import Bundled, LabeledDataset, bundled
from pretext.errors import UserError

Part = Literal["train", "test"]
EVERY = 10**9  # a cap that leaves out nothing


def painted(source: Bundled) -> dict[str, np.ndarray[tuple[int, int], np.dtype[np.int64]]]:
    """How many tiles lie on every pixel of every photograph."""
    counts = {name: np.zeros(image.size[::-1], np.int64) for name, image in bundled.photographs().items()}
    for index in range(len(source)):
        name, _, corner = source.key(index).split("/")
        x, y = (int(part[1:]) for part in corner.split("-"))
        counts[name][y : y + source.tile, x : x + source.tile] += 1
    return counts


def test_photographs_are_those_of_scikit_image() -> None:
    photographs = bundled.photographs()
    assert list(photographs) == sorted(photographs) == list(bundled.NAMES)
    for name in ("astronaut", "chelsea", "coffee", "immunohistochemistry", "rocket"):
        assert (np.asarray(photographs[name]) == getattr(skimage.data, name)()).all()
    assert (np.asarray(photographs["motorcycle"]) == skimage.data.stereo_motorcycle()[0]).all()
    for name in ("hubble_deep_field", "retina"):
        whole = getattr(skimage.data, name)()[:870, :1000].astype(float)
        mean = whole.reshape(435, 2, 500, 2, 3).mean((1, 3))
        assert np.abs(np.asarray(photographs[name])[:435, :500] - mean).max() <= 0.5


def test_photographs_are_copies() -> None:
    mine = bundled.photographs()["coffee"]
    mine.paste((0, 0, 0), (0, 0, *mine.size))
    assert np.asarray(bundled.photographs()["coffee"]).max() > 0


@given(tile=st.integers(16, 96), stride=st.integers(8, 60), cap=st.sampled_from([None, 10, EVERY]))
@settings(max_examples=6)  # each paints every photograph twice
def test_no_pixel_is_in_both_parts_or_in_two_test_tiles(tile: int, stride: int, cap: int | None) -> None:
    train = painted(Bundled("train", tile, stride, cap))
    test = painted(Bundled("test", tile, max(stride, tile), cap))
    for name in bundled.NAMES:
        assert train[name].any()
        assert test[name].max() == 1
        axis = 1 if train[name].shape[1] > train[name].shape[0] else 0
        last = np.flatnonzero(train[name].any(1 - axis))[-1]
        first = np.flatnonzero(test[name].any(1 - axis))[0]
        assert first - last > 16  # at least 16 pixels that no tile has


def test_test_part_is_where_the_test_tiles_lie() -> None:
    for name, on in painted(Bundled("test", cap=EVERY)).items():
        part = bundled.test_part(name)
        ys, xs = np.nonzero(on)
        photograph = bundled.photographs()[name]
        left, top = photograph.width - part.width, photograph.height - part.height
        assert (np.asarray(part) == np.asarray(photograph)[top:, left:]).all()
        assert left <= xs.min()
        assert top <= ys.min()
        assert 0.42 < part.width * part.height / (photograph.width * photograph.height) < 0.44


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("tile", [32, 48])
def test_tiles(part: Part, tile: int) -> None:
    source = Bundled(part, tile)
    assert isinstance(source, LabeledDataset)
    counts = Counter(source.labels)
    assert sorted(counts) == list(range(8))
    assert len(set(counts.values())) == 1  # chance is 1 in 8
    assert counts[0] >= 20
    photographs = bundled.photographs()
    keys = [source.key(index) for index in range(len(source))]
    assert len(set(keys)) == len(keys) == len(source)
    for index, key in enumerate(keys):
        name, own_part, corner = key.split("/")
        x, y = (int(place[1:]) for place in corner.split("-"))
        got = source.read(index)
        assert own_part == part
        assert source.classes[source.labels[index]] == name
        assert (got.mode, got.size) == ("RGB", (tile, tile))
        assert (np.asarray(got) == np.asarray(photographs[name])[y : y + tile, x : x + tile]).all()
        assert np.asarray(got.convert("L")).std() >= 2


def test_flat_tiles_are_all_that_is_missing() -> None:
    photograph = bundled.photographs()["retina"]
    on = painted(Bundled("train", 32, 32, EVERY))["retina"]
    luma = np.asarray(photograph.convert("L"))
    height = photograph.height - bundled.test_part("retina").height - 16
    missing = 0
    for y in range(0, height - 31, 32):
        for x in range(0, photograph.width - 31, 32):
            flat = luma[y : y + 32, x : x + 32].std() < 2
            assert on[y, x] == (0 if flat else 1)
            missing += flat
    assert missing > 10


def test_cap_is_even_and_stable() -> None:
    every = Bundled("train", cap=EVERY)
    few = Bundled("train", cap=7)
    assert set(Counter(few.labels).values()) == {7}
    all_keys = [every.key(i) for i in range(len(every))]
    keys = [few.key(i) for i in range(len(few))]
    assert keys == [Bundled("train", cap=7).key(i) for i in range(len(few))]
    own = [key for key in all_keys if key.startswith("motorcycle")]
    places = [own.index(key) for key in keys if key.startswith("motorcycle")]
    assert len(set(np.diff(places)) - {len(own) // 7, len(own) // 7 + 1}) == 0


def test_pickle_is_small_and_the_same() -> None:
    source = Bundled("test")
    source.read(0)
    packed = pickle.dumps(source)
    assert len(packed) < 10_000
    copy = pickle.loads(packed)
    assert (np.asarray(copy.read(5)) == np.asarray(source.read(5))).all()
    assert copy.key(5) == source.key(5)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="bundled:val: no such part"):
        Bundled("val")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"bundled:test: chelsea has no tile of 200 pixels; use a smaller tile"):
        Bundled("test", tile=200)
    with pytest.raises(UserError, match=r"stride 31 is below tile 32, but test tiles must not overlap"):
        Bundled("test", stride=31)
    for wrong in ({"tile": 0}, {"stride": 0}, {"cap": 0}):
        with pytest.raises(UserError, match="at least 1"):
            Bundled("train", **wrong)
    with pytest.raises(UserError, match="no built-in photograph 'cat'; there are astronaut, chelsea"):
        bundled.test_part("cat")
