"""The circle of images: each read once, a derangement, the same after any stop."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pretext.data.source import digest_of_keys
from pretext.errors import ImageError
from pretint.colorization.scores.images import ScoredImages, is_gray, square
from pretint.colorization.scores.ledger import Ledger


class Told:
    """A source in memory that counts how often it is read: "c" in color, "g" gray, "x" unreadable."""

    def __init__(self, kinds: str) -> None:
        self.kinds, self.reads = kinds, Counter[int]()

    def __len__(self) -> int:
        return len(self.kinds)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        self.reads[index] += 1
        if self.kinds[index] == "x":
            raise ImageError(self.key(index), "damaged")
        color = (200, 30 + index, 40) if self.kinds[index] == "c" else (90, 90, 90)
        return Image.new("RGB", (20, 16), color)

    def key(self, index: int) -> str:
        return f"{index}.png"

    def digest(self) -> str:
        return digest_of_keys(self)


class Memory(Ledger):
    """A ledger without files."""

    def __init__(self) -> None:
        self._records, self._order, self.width = {}, {}, 0

    def add(self, records: object, rows: object = None) -> None:
        assert isinstance(records, list)
        self._records |= {record["index"]: record for record in records}


def color_of(pixels: np.ndarray) -> int:
    """The index of the image that it is."""
    return int(pixels[0, 0, 1]) - 30


@given(st.text("ccgx", min_size=1, max_size=14), st.integers(0, 9), st.integers(0, 14))
def test_a_derangement_of_those_in_color_each_read_once(kinds: str, seed: int, most: int) -> None:
    source = Told(kinds)
    circle = ScoredImages(source, 16, 5.0, seed, most, Memory())
    found = [(pair.index, color_of(pair.pixels), color_of(pair.donor)) for pair in circle.pairs(set())]
    colored = [index for index in circle.order if kinds[index] == "c"]
    assert circle.kept == colored
    expected = zip(colored, colored, [*colored[1:], *colored[:1]], strict=True) if len(colored) > 1 else ()
    assert found == list(expected)
    assert set(source.reads.values()) <= {1} and sorted(source.reads) == sorted(circle.order)
    assert circle.gray == sum(kinds[index] == "g" for index in circle.order)
    assert circle.skipped == [(f"{index}.png", "damaged") for index in circle.order if kinds[index] == "x"]


@given(st.text("ccgx", min_size=1, max_size=14), st.integers(0, 9), st.sets(st.integers(0, 13)), st.integers(0, 14))
def test_after_any_stop_the_rest_is_what_it_would_have_been(kinds: str, seed: int, done: set[int], met: int) -> None:
    whole = {
        pair.index: color_of(pair.donor) for pair in ScoredImages(Told(kinds), 16, 5.0, seed, 0, Memory()).pairs(set())
    }
    seen = Memory()
    first = ScoredImages(Told(kinds), 16, 5.0, seed, 0, seen)
    for _, _pair in zip(range(met), first.pairs(set()), strict=False):
        pass
    done = {index for index in done if index in seen}
    known = {index for index in range(len(kinds)) if index in seen}
    source = Told(kinds)
    rest = {pair.index: color_of(pair.donor) for pair in ScoredImages(source, 16, 5.0, seed, 0, seen).pairs(done)}
    assert rest == {index: donor for index, donor in whole.items() if index not in done}
    assert set(source.reads.values()) <= {1}
    assert not any(source.reads[index] for index in known if kinds[index] != "c"), "what is left out stays so, unread"


def test_nothing_is_read_when_all_is_done() -> None:
    seen, source = Memory(), Told("ccgc")
    for _ in ScoredImages(source, 16, 5.0, 0, 0, seen).pairs(set()):
        pass
    source.reads.clear()
    assert not list(ScoredImages(source, 16, 5.0, 0, 0, seen).pairs({0, 1, 3})) and not source.reads


def test_an_image_that_is_gone_since_is_told_of() -> None:
    seen, source = Memory(), Told("ccc")
    for _ in ScoredImages(source, 16, 5.0, 0, 0, seen).pairs(set()):
        pass
    source.kinds = "xxx"
    with pytest.raises(ImageError, match="damaged"):
        list(ScoredImages(source, 16, 5.0, 0, 0, seen).pairs(set()))


@pytest.mark.parametrize("size", [(40, 40), (100, 40), (39, 80), (1, 1), (1, 300), (5, 3)])
def test_the_middle_square(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    found = square(image, 40)
    assert found.shape == (40, 40, 3) and found.dtype == np.uint8
    if min(size) == 40:
        left, top = (size[0] - 40) // 2, (size[1] - 40) // 2
        assert (found == np.asarray(image)[top : top + 40, left : left + 40]).all()


def test_gray_means_no_color_beyond_the_threshold() -> None:
    almost = np.full((16, 16, 3), 128, np.uint8)
    almost[0, 0] = (131, 128, 127)  # a and b of 1 or 2
    assert is_gray(almost, 5.0) and not is_gray(almost, 0.5)
    almost[0, 0] = (160, 128, 127)
    assert not is_gray(almost, 5.0)


def test_the_state_of_an_image_is_kept_in_files(tmp_path: Path) -> None:
    circle = ScoredImages(Told("cgxc"), 16, 5.0, 0, 0, Ledger(tmp_path, "images", {}))
    assert len(list(circle.pairs(set()))) == 2
    again = ScoredImages(Told("cgxc"), 16, 5.0, 0, 0, Ledger(tmp_path, "images", {}))
    assert (again.kept, again.gray, again.skipped) == (circle.kept, 1, [("2.png", "damaged")])
