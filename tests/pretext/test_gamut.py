"""The 313 bins against the published list, others against their rule, soft encoding against a search over all bins."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import ConvexHull, Delaunay, KDTree
from skimage.color import rgb2lab
from torch import Tensor

from pretext.color import rgb_to_ab
from pretext.gamut import TEMPERATURE, Gamut, SoftTarget, bin_centers

Array = np.ndarray[Any, Any]

# The bins of each row of the published list: a -> least and greatest b, with none missing between.
ROWS = {
    -90: (50, 90),
    -80: (20, 90),
    -70: (0, 90),
    -60: (-20, 90),
    -50: (-30, 100),
    -40: (-40, 100),
    -30: (-50, 100),
    -20: (-50, 100),
    -10: (-60, 100),
    0: (-70, 100),
    10: (-80, 90),
    20: (-80, 90),
    30: (-90, 90),
    40: (-100, 90),
    50: (-100, 80),
    60: (-110, 80),
    70: (-110, 80),
    80: (-110, 70),
    90: (-110, 70),
    100: (-90, 0),
}
PUBLISHED = np.array([(a, b) for a, (low, high) in ROWS.items() for b in range(low, high + 1, 10)])
SETTINGS = [(1, 5.0), (5, 5.0), (10, 5.0), (10, 2.5), (7, 20.0), (10, 2.5, 5), (10, 10.0, 20), (40, 20.0, 40)]


def as_map(points: Array) -> Tensor:
    """(N, 2) as (1, 2, 1, N), float32."""
    return torch.from_numpy(np.asarray(points, np.float32).T.copy()).reshape(1, 2, 1, -1)


def check(gamut: Gamut, ab: Tensor) -> None:
    """``gamut.encode`` against all distances, sorted. At ties any of the equally near bins will do."""
    target, centers = gamut.encode(ab), bin_centers(gamut.step)
    batch, _, height, width = ab.shape
    shape = (batch, gamut.neighbors, height, width)
    assert isinstance(target, SoftTarget)
    assert target.bins.shape == target.weights.shape == shape
    assert target.bins.dtype == torch.int64
    assert torch.equal(target.nearest, target.bins[:, 0])

    def pixels(values: Tensor) -> Array:
        return values.movedim(1, -1).reshape(-1, values.shape[1]).numpy()

    points, bins, weights = pixels(ab.double()), pixels(target.bins), pixels(target.weights)
    for part in range(0, len(points), 10_000):
        some = slice(part, part + 10_000)
        squared = ((points[some, None] - centers) ** 2).sum(-1)
        nearest = np.sort(squared, axis=1)[:, : gamut.neighbors]
        # Less the least: the same weights, but they do not all underflow far away from every bin.
        expected = np.exp((nearest[:, :1] - nearest) / (2 * gamut.sigma**2))
        expected /= expected.sum(1, keepdims=True)
        chosen = np.take_along_axis(squared, bins[some], axis=1)
        assert np.abs(np.sqrt(chosen) - np.sqrt(nearest)).max() < 2e-3
        assert np.abs(weights[some] - expected).max() < 2e-4
        ordered = np.sort(bins[some], axis=1)
        assert (ordered[:, 1:] != ordered[:, :-1]).all()  # no bin twice
    assert np.abs(weights.sum(1) - 1).max() < 1e-5


@pytest.fixture(scope="module", params=SETTINGS, ids=str)
def gamut(request: pytest.FixtureRequest) -> Gamut:
    return Gamut(*request.param)


@pytest.fixture(scope="module")
def paper_gamut() -> Gamut:
    return Gamut(neighbors=5)


def test_bins_are_the_published_ones() -> None:
    bins = bin_centers()
    assert bins.shape == (313, 2)
    assert bins.dtype == np.int64
    assert (bins == PUBLISHED).all()
    digest = hashlib.sha256(bins.astype("<i8").tobytes()).hexdigest()
    assert digest == "2a39983ed60d5b52b717842d56d5f766982289e6d5a609582155f437cecc1045"
    assert bins[120].tolist() == [0, 0]
    assert bins[0].tolist() == [-90, 50]
    assert bins[-1].tolist() == [100, 0]


def test_bins_are_the_released_file(shared_data: Path) -> None:
    assert (np.load(shared_data / "colour-bins" / "pts_in_hull.npy") == bin_centers()).all()


def brute_force(step: int) -> tuple[Array, Array]:
    """Points of a grid that reaches beyond all colors, and their Chebyshev distance to the hull of sRGB's ab.

    The hull is that of scikit-image's Lab over the sRGB cube's surface; its rim is taken as many points.
    """
    axis = np.linspace(0, 1, 65)
    cube = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    ab = rgb2lab(cube[((cube == 0) | (cube == 1)).any(1)])[:, 1:]
    corners = ab[ConvexHull(ab).vertices]
    edges = zip(corners, np.roll(corners, -1, axis=0), strict=True)
    rim = np.concatenate([np.linspace(a, b, 2 + int(100 * np.linalg.norm(b - a))) for a, b in edges])
    half = 200 // step * step
    grid = np.array([(a, b) for a in range(-half, half + 1, step) for b in range(-half, half + 1, step)])
    distance = np.zeros(len(grid))
    outside = Delaunay(corners).find_simplex(grid) < 0
    distance[outside], _ = KDTree(rim).query(grid[outside], p=np.inf, distance_upper_bound=1.1 * step)
    return grid, distance  # infinite beyond 1.1 steps


@pytest.mark.parametrize(("step", "count"), [(5, 1083), (10, 313), (15, 159), (20, 101), (40, 40)])
def test_bins_of_a_step_are_the_grid_points_within_a_step_of_the_hull(step: int, count: int) -> None:
    grid, distance = brute_force(step)
    assert np.abs(distance - step).min() > 0.005, "no point so near the limit that rounding decides"
    bins = bin_centers(step)
    assert bins.dtype == np.int64 and len(bins) == count
    assert (bins == grid[distance <= step]).all()
    assert (bins % step == 0).all() and [0, 0] in bins.tolist()


def test_steps_cover_every_color() -> None:
    """All corners of a color's cell are bins, so that its nearest is at most half a step away in a and in b."""
    rgb = torch.randint(0, 256, (1, 3, 100, 100), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    ab = rgb_to_ab(rgb)
    for step in (10, 15, 20, 40):
        gamut = Gamut(neighbors=1, step=step)
        centers = gamut.centers[gamut.encode(ab).nearest].movedim(-1, 1)
        assert float((centers - ab).abs().max()) <= step / 2 + 1e-4


def test_module_holds_the_bins() -> None:
    gamut = Gamut()
    assert len(gamut) == 313
    assert (gamut.centers.numpy() == PUBLISHED).all()
    assert (gamut.neighbors, gamut.sigma) == (10, 5.0)  # of the released code


def test_encode_random_points(gamut: Gamut) -> None:
    points = np.random.default_rng(0).uniform(-127.9, 127.9, (12_000, 2)).astype(np.float32)
    check(gamut, as_map(points))


def test_encode_colors_of_images(gamut: Gamut) -> None:
    rgb = torch.randint(0, 256, (3, 3, 60, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    check(gamut, rgb_to_ab(rgb))
    check(gamut, rgb_to_ab(rgb // 16 + 100))  # nearly gray


def test_encode_on_bins_borders_and_corners(gamut: Gamut) -> None:
    check(gamut, as_map(bin_centers(gamut.step)))
    fives = np.arange(-125, 126, 5)
    check(gamut, as_map(np.stack(np.meshgrid(fives, fives), -1).reshape(-1, 2)))  # equally near to 2 or 4 bins
    random = np.random.default_rng(2)
    whole = random.integers(-127, 128, (8000, 2)).astype(np.float32)
    nudged = np.nextafter(whole, whole + random.integers(-1, 2, whole.shape).astype(np.float32))
    check(gamut, as_map(np.concatenate((whole + random.choice([-1e-4, 0, 1e-4], whole.shape), nudged))))
    ends = (-127.9, -127.99, 0.0, 127.9, 127.99)
    check(gamut, as_map(np.array([(a, b) for a in ends for b in ends])))


@given(
    st.sampled_from([(1, 5.0), (5, 5.0), (10, 5.0)]),
    st.lists(st.tuples(*[st.floats(-127.875, 127.875, width=32)] * 2), min_size=1, max_size=30),
)
def test_encode_any_points(setting: tuple[int, float], points: list[tuple[float, float]]) -> None:
    if setting not in _gamuts:
        _gamuts[setting] = Gamut(*setting)
    check(_gamuts[setting], as_map(np.array(points)))


_gamuts: dict[tuple[int, float], Gamut] = {}


def test_encode_promotes_half_precision(paper_gamut: Gamut) -> None:
    ab = as_map(np.random.default_rng(3).uniform(-100, 100, (200, 2))).bfloat16()
    half, full = paper_gamut.encode(ab), paper_gamut.encode(ab.float())
    assert half.weights.dtype == torch.float32
    assert torch.equal(half.bins, full.bins) and torch.equal(half.weights, full.weights)


@pytest.mark.parametrize(("neighbors", "center", "beside"), [(5, 0.649, 0.088), (10, 0.619, 0.084)])
def test_published_weights_at_a_bin(neighbors: int, center: float, beside: float) -> None:
    bins, weights = Gamut(neighbors).encode(torch.zeros(1, 2, 1, 1))
    assert bins[0, 0, 0, 0] == 120
    assert weights[0, 0, 0, 0].item() == pytest.approx(center, abs=5e-4)
    assert weights[0, 1:5, 0, 0].tolist() == pytest.approx([beside] * 4, abs=5e-4)
    around = {tuple(PUBLISHED[index]) for index in bins[0, 1:5, 0, 0]}
    assert around == {(-10, 0), (10, 0), (0, -10), (0, 10)}


def some_logits() -> Tensor:
    return torch.randn(2, 313, 3, 4, generator=torch.Generator().manual_seed(4)) * 4


@pytest.mark.parametrize("temperature", [0.05, 0.38, 1.0, 3.0])
def test_annealed_mean_is_the_papers_formula(paper_gamut: Gamut, temperature: float) -> None:
    logits = some_logits()
    z = np.exp(logits.double().numpy())
    z /= z.sum(1, keepdims=True)
    annealed = np.exp(np.log(z) / temperature)
    annealed /= annealed.sum(1, keepdims=True)
    expected = np.stack([(annealed * PUBLISHED[:, i, None, None]).sum(1) for i in (0, 1)], axis=1)
    got = paper_gamut.annealed_mean(logits, temperature)
    assert got.shape == (2, 2, 3, 4)
    assert np.abs(got.numpy() - expected).max() < 1e-3
    half = paper_gamut.annealed_mean(logits.bfloat16(), temperature)
    assert half.dtype == torch.float32
    assert torch.equal(half, paper_gamut.annealed_mean(logits.bfloat16().float(), temperature))


def test_annealed_mean_between_mean_and_mode(paper_gamut: Gamut) -> None:
    logits = some_logits()
    mean = torch.einsum("bqhw,qc->bchw", logits.softmax(1), torch.from_numpy(PUBLISHED).float())
    assert torch.allclose(paper_gamut.annealed_mean(logits, 1.0), mean, atol=1e-3)
    mode = torch.from_numpy(PUBLISHED)[logits.argmax(1)].movedim(-1, 1)
    assert torch.allclose(paper_gamut.annealed_mean(logits, 1e-4), mode.float(), atol=1e-3)


def test_annealed_mean_takes_the_papers_temperature(paper_gamut: Gamut) -> None:
    logits = some_logits()
    assert TEMPERATURE == 0.38
    assert torch.equal(paper_gamut.annealed_mean(logits), paper_gamut.annealed_mean(logits, 0.38))
    # The released code scales logits by 2.606 and takes the mean.
    released = paper_gamut.annealed_mean(2.606 * logits, 1.0)
    assert torch.allclose(paper_gamut.annealed_mean(logits, 1 / 2.606), released, atol=1e-3)


def test_mean_of_a_soft_target_is_near_its_color(paper_gamut: Gamut) -> None:
    inside = torch.randint(0, 256, (1, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    ab = rgb_to_ab(inside)
    target = paper_gamut.encode(ab)
    log_p = torch.full((1, 313, 40, 40), -1e4).scatter(1, target.bins, target.weights.log())
    # 0.22 to 0.24 over the colors of photographs; saturated ones at the rim have fewer bins around.
    assert (paper_gamut.annealed_mean(log_p, 1.0) - ab).norm(dim=1).median() < 0.4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(gamut: Gamut) -> None:
    ab = as_map(np.random.default_rng(6).uniform(-110, 110, (5000, 2)))
    there = Gamut(gamut.neighbors, gamut.sigma, gamut.step).cuda().encode(ab.cuda())
    here = gamut.encode(ab)
    assert torch.equal(there.bins.cpu(), here.bins)
    assert torch.allclose(there.weights.cpu(), here.weights, atol=1e-5)
