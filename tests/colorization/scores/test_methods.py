"""What is scored: words of the command line, hints, networks that see another size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_scores import Make
from torch import Tensor
from torch.nn import functional as F

from pretext.color import rgb_to_lab
from pretext.engine.checkpoint import load_checkpoint, save_checkpoint
from pretext.errors import UserError
from pretext.pretrained import load_pretrained
from pretint.colorization.scores.methods import ScoreBatch, ScoredMethod, hints_from_truth, open_method
from pretint.colorization.scribbles import affinities

CPU = torch.device("cpu")


def batch(count: int = 2, size: int = 48) -> ScoreBatch:
    rgb = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8))
    lab = rgb_to_lab(rgb)
    bins = torch.zeros_like(lab[:, 0]).long()  # no method sees them
    return ScoreBatch(list(range(5, 5 + count)), rgb, lab, bins, lab[:, 1:].flip(0))


def opened(word: object, seed: int = 0) -> ScoredMethod:
    return open_method(str(word), CPU, 0.38, seed)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_run: Make) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "plain", objective="plain")


@pytest.fixture(scope="module")
def hinted(tmp_path_factory: pytest.TempPathFactory, make_run: Make) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "hinted", backbone="siggraph17", stride=1)


def test_baselines() -> None:
    seen = batch()
    assert not opened("gray").color(seen).any()
    assert (opened("random").color(seen) == seen.donor_ab).all()
    assert (opened("truth").color(seen) == seen.lab[:, 1:]).all()
    assert opened("random", 1).identity != opened("random", 2).identity
    assert opened("gray", 1).identity == opened("gray", 2).identity


def test_a_run_and_its_checkpoint_are_one(run: Path) -> None:
    by_run, by_file = opened(run), opened(run / "checkpoints" / "00000007.pt")
    assert by_run.identity == by_file.identity and by_run.home == by_file.home == run
    assert (by_run.name, by_file.name) == ("plain", "00000007")
    assert "step 7" in by_run.about and "T = 0.38" in by_run.about
    seen = batch(size=32)
    expected = load_pretrained(run).colorizer.colorize(seen.lab[:, :1], 0.38)
    assert torch.equal(by_run.color(seen), expected)


def test_temperature_and_size(run: Path) -> None:
    seen, colorizer = batch(), load_pretrained(run).colorizer
    warm = opened(f"{run}@temperature=1,size=48")
    assert torch.equal(warm.color(seen), colorizer.colorize(seen.lab[:, :1], 1.0))
    small = opened(f"{run}@size=24,temperature=1")
    assert small.name == "plain@size=24,temperature=1" and small.about.endswith("sees 24 x 24 pixels")
    lightness = F.interpolate(seen.lab[:, :1], size=(24, 24), mode="bicubic", align_corners=False, antialias=True)
    expected = F.interpolate(colorizer.colorize(lightness.clamp(0, 100), 1.0), size=(48, 48), mode="bilinear")
    torch.testing.assert_close(small.color(seen), expected)
    assert len({str(method.identity) for method in (opened(run), warm, small)}) == 3


def test_hints_are_squares_of_the_truth_which_an_image_keeps() -> None:
    """Alone or among others, and the first of them whatever their number."""
    truth = batch(size=78).lab[:, 1:]
    together, mask = hints_from_truth(truth, [3, 8], 10, seed=1)
    alone, own = hints_from_truth(truth[1:], [8], 10, seed=1)
    assert torch.equal(together[1:], alone) and torch.equal(mask[1:], own)
    one, at = hints_from_truth(truth[1:], [8], 1, seed=1)
    assert at.sum() == 36 and not at[own == 0].any()
    rows, columns = at[0, 0].any(1).nonzero()[:, 0], at[0, 0].any(0).nonzero()[:, 0]
    there = truth[1, :, int(rows[0]) : int(rows[0]) + 6, int(columns[0]) : int(columns[0]) + 6]
    torch.testing.assert_close(one[0, :, at[0, 0] > 0], there.mean((1, 2))[:, None].expand(2, 36))
    for index, seed in ((9, 1), (8, 2)):
        assert not torch.equal(hints_from_truth(truth[1:], [index], 10, seed)[1], own)


def test_scribbles_spread_the_same_hints() -> None:
    seen = batch(size=24)
    ab = opened("scribbles@hints=3", 4).color(seen)
    hints, mask = hints_from_truth(seen.lab[:, 1:], seen.indices, 3, 4)
    assert ab.dtype == torch.float32 and ab.shape == hints.shape
    given = mask.expand_as(ab) > 0
    torch.testing.assert_close(ab[given], hints[given])
    for row in range(2):
        walk = affinities(seen.lab[row, 0].double().numpy())
        padded = np.pad(ab[row].double().numpy(), ((0, 0), (1, 1), (1, 1)))
        moved = [padded[:, 1 + dy : 25 + dy, 1 + dx : 25 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
        mean = sum(weight * neighbor for weight, neighbor in zip(walk, moved, strict=True))
        free = (mask[row, 0] == 0).numpy()
        np.testing.assert_allclose(ab[row].numpy()[:, free], mean[:, free], atol=1e-3)
    assert opened("scribbles@hints=3", 4).identity != opened("scribbles@hints=3", 5).identity


@pytest.mark.parametrize("word", ["scribbles", "scribbles@hints=0", "scribbles@size=64", "scribbles@hints=1,size=64"])
def test_scribbles_need_hints_and_nothing_else(word: str) -> None:
    with pytest.raises(UserError, match="give the number of hints, and no other option: scribbles@hints=10"):
        opened(word)


def test_a_network_is_given_its_hints(hinted: Path) -> None:
    seen = batch(size=32)
    none, zero, ten = (opened(f"{hinted}{tail}").color(seen) for tail in ("", "@hints=0", "@hints=10"))
    torch.testing.assert_close(none, zero)
    assert (none - ten).abs().max() > 1e-3
    assert opened(f"{hinted}@hints=10").about.endswith(
        "sees 32 x 32 pixels, and 10 hints of 6 x 6 of these from the truth"
    )

    def forward(lightness: Tensor, indices: list[int]) -> Tensor:
        colorizer = load_pretrained(hinted).colorizer
        hints, mask = hints_from_truth(seen.lab[:, 1:], indices, 10, 0)
        with torch.inference_mode():
            features = colorizer.backbone.forward(lightness, hints, mask)  # type: ignore[call-arg]
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
        ("@temperature=1e-300", "'temperature=1e-300' is no option"),
        ("@temperature=nan", "'temperature=nan' is no option"),
        ("@size=32,size=64", "'size=64' is no option"),
        ("@color=1", "'color=1' is no option"),
        ("@5", "no such run or checkpoint"),
        ("x", "no such run or checkpoint"),
    ],
)
def test_words_that_are_wrong(run: Path, tail: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        opened(f"{run}{tail}")


def test_a_folder_with_a_strange_name_is_a_run(run: Path, tmp_path: Path, make_run: Make) -> None:
    assert opened(make_run(tmp_path / "a@hints=3")).name == "a@hints=3"
    with pytest.raises(UserError, match="has no checkpoint"):
        opened(tmp_path)


def test_weights_without_a_head_have_no_colors(tmp_path: Path, make_run: Make) -> None:
    run = make_run(tmp_path / "x")
    file = run / "checkpoints" / "00000007.pt"
    state = load_checkpoint(file)
    backbone = {name: value for name, value in state["model"].items() if name.startswith("backbone.")}
    save_checkpoint(file, state | {"head": False, "model": backbone})
    with pytest.raises(UserError, match="no color head"):
        opened(run)
