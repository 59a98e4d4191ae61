"""What is scored: words of the command line, hints, networks that see another size."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from colorization.scores.hints import PATCH, corners, sample_hints
from colorization.scores.methods import Batch, Method, open_method
from pretext.color import rgb_to_lab
from pretext.engine.checkpoint import load_checkpoint, save_checkpoint
from pretext.errors import UserError
from pretext.recipe import load_pretrained

Make = Callable[..., Path]
CPU = torch.device("cpu")


def batch(count: int = 2, size: int = 48) -> Batch:
    rgb = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8))
    lab = rgb_to_lab(rgb)
    bins = torch.zeros_like(lab[:, 0]).long()  # no method sees them
    return Batch(list(range(5, 5 + count)), rgb, lab, bins, lab[:, 1:].flip(0))


def opened(word: object, seed: int = 0) -> Method:
    return open_method(str(word), CPU, 0.38, seed)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_run: Make) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "plain", objective="plain")


@pytest.fixture(scope="module")
def hinted(tmp_path_factory: pytest.TempPathFactory, make_run: Make) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "hinted", backbone="siggraph17", stride=1)


def test_baselines() -> None:
    seen = batch()
    assert not opened("gray").colour(seen).any()
    assert (opened("random").colour(seen) == seen.donor_ab).all()
    assert (opened("truth").colour(seen) == seen.lab[:, 1:]).all()
    assert opened("random", 1).identity != opened("random", 2).identity
    assert opened("gray", 1).identity == opened("gray", 2).identity


def test_a_run_and_its_checkpoint_are_one(run: Path) -> None:
    by_run, by_file = opened(run), opened(run / "checkpoints" / "00000007.pt")
    assert by_run.identity == by_file.identity and by_run.home == by_file.home == run
    assert (by_run.name, by_file.name) == ("plain", "00000007")
    assert "step 7" in by_run.about and "T = 0.38" in by_run.about
    seen = batch(size=32)
    expected = load_pretrained(run).colorizer.colorize(seen.lab[:, :1], 0.38)
    assert torch.equal(by_run.colour(seen), expected)


def test_temperature_and_size(run: Path) -> None:
    seen, colorizer = batch(), load_pretrained(run).colorizer
    warm = opened(f"{run}@temperature=1,size=48")
    assert torch.equal(warm.colour(seen), colorizer.colorize(seen.lab[:, :1], 1.0))
    small = opened(f"{run}@size=24,temperature=1")
    assert small.name == "plain@size=24,temperature=1" and "sees pictures at 24 px" in small.about
    lightness = F.interpolate(seen.lab[:, :1], size=(24, 24), mode="bicubic", align_corners=False, antialias=True)
    expected = F.interpolate(colorizer.colorize(lightness.clamp(0, 100), 1.0), size=(48, 48), mode="bilinear")
    torch.testing.assert_close(small.colour(seen), expected)
    assert len({str(method.identity) for method in (opened(run), warm, small)}) == 3


def test_hints_are_means_of_patches_of_the_truth() -> None:
    truth = batch().lab[:, 1:]
    hints = sample_hints(truth, [3, 8], 4, seed=1)
    for row, index in enumerate((3, 8)):
        ab, mask = np.zeros((2, 48, 48), np.float32), np.zeros((48, 48))
        for y, x in corners(truth.shape[-2:], 4, 1, index):
            assert 0 <= y <= 48 - PATCH and 0 <= x <= 48 - PATCH
            there = (slice(y, y + PATCH), slice(x, x + PATCH))
            ab[:, *there] = truth[row][:, *there].numpy().reshape(2, -1).mean(1)[:, None, None]
            mask[there] = 1
        assert hints.ab[row].numpy() == pytest.approx(ab, abs=1e-4)
        assert (hints.mask[row, 0].numpy() == mask).all()


def test_more_hints_begin_with_fewer_and_each_picture_has_its_own() -> None:
    size = torch.Size((64, 64))
    assert corners(size, 10, 0, 3)[:4] == corners(size, 4, 0, 3)
    assert len({str(corners(size, 4, seed, index)) for seed in range(3) for index in range(3)}) == 9
    assert corners(torch.Size((PATCH, PATCH)), 3, 0, 0) == [(0, 0)] * 3


def test_hints_lie_around_the_middle() -> None:
    drawn = np.array([corner for index in range(400) for corner in corners(torch.Size((256, 256)), 5, 0, index)])
    assert np.abs(drawn.mean(0) - 125.5).max() < 5
    assert np.abs(drawn.std(0) - 58).max() < 5, "a quarter of 251, which clipping makes narrower"


def test_a_network_is_given_its_hints(hinted: Path) -> None:
    seen = batch(size=32)
    none, zero, ten = (opened(f"{hinted}{tail}").colour(seen) for tail in ("", "@hints=0", "@hints=10"))
    torch.testing.assert_close(none, zero)
    assert (none - ten).abs().max() > 1e-3

    def forward(lightness: Tensor, indices: list[int]) -> Tensor:
        colorizer = load_pretrained(hinted).colorizer
        hints = sample_hints(seen.lab[:, 1:], indices, 10, 0)
        with torch.inference_mode():
            features = colorizer.backbone.forward(lightness, hints.ab, hints.mask)  # type: ignore[call-arg]
            return colorizer.objective.decode(colorizer.output(features, lightness.shape[-2:]))

    with torch.inference_mode():
        torch.testing.assert_close(ten, forward(seen.lab[:, :1], seen.indices))


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        ("@hints=3", "tiny takes no hints"),
        ("@hints=-1", "'hints=-1' is no option"),
        ("@hints=x", "'hints=x' is no option"),
        ("@size=2", "'size=2' is no option"),
        ("@temperature=0", "'temperature=0' is no option"),
        ("@temperature=nan", "'temperature=nan' is no option"),
        ("@size=32,size=64", "'size=64' is no option"),
        ("@colour=1", "'colour=1' is no option"),
        ("@5", "no such run or checkpoint"),
        ("x", "no such run or checkpoint"),
    ],
)
def test_words_that_are_wrong(run: Path, tail: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        opened(f"{run}{tail}")


def test_a_folder_with_a_strange_name_is_a_run(run: Path, tmp_path: Path, make_run: Make) -> None:
    assert opened(make_run(tmp_path / "a@hints=3")).name == "a@hints=3"
    with pytest.raises(UserError, match="no checkpoint there"):
        opened(tmp_path)


def test_weights_without_a_head_have_no_colours(tmp_path: Path, make_run: Make) -> None:
    run = make_run(tmp_path / "x")
    file = run / "checkpoints" / "00000007.pt"
    state = load_checkpoint(file)
    backbone = {name: value for name, value in state["model"].items() if name.startswith("backbone.")}
    save_checkpoint(file, state | {"head": False, "model": backbone})
    with pytest.raises(UserError, match="without a colour head"):
        opened(run)
