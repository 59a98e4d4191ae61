"""Coloring by scribbles: against the published code written out, and on large images reduced and enlarged."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from photograph_colors import color_photograph

from pretext.errors import UserError
from pretint.colorization.hints import from_points
from pretint.colorization.scribbles import (
    TOLERANCE,
    ScribbleSettings,
    affinities,
    propagate,
    scribbles_colorist,
)

DIRECT, ITERATED = 1 << 30, 0  # for so many unknowns as there are, or for none
BOTH = pytest.mark.parametrize("direct", [DIRECT, ITERATED])


def by_definition(
    lightness: NDArray[np.float64],
    mask: NDArray[np.bool_],
    ab: NDArray[np.float64],
    variance: float = 0.6,
    least: float = 0.0,
) -> NDArray[np.float64]:
    """The released program's equations, pixel by pixel, solved dense.

    ab, (2, h, w), is read where the mask is; no weight is below ``least``, which is 0 there and 1e-8 with us.
    """
    height, width = lightness.shape
    y = lightness / 100
    matrix = np.eye(height * width)
    for row in range(height):
        for column in range(width):
            if mask[row, column]:
                continue
            rows, columns = (range(max(0, at - 1), min(side, at + 2)) for at, side in ((row, height), (column, width)))
            others = [(i, j) for i in rows for j in columns if (i, j) != (row, column)]
            values = np.array([y[other] for other in others])
            spread = variance * np.var(np.append(values, y[row, column]))
            squared = (values - y[row, column]) ** 2
            weights = np.exp(-squared / max(spread, -squared.min() / np.log(0.01), 0.000002))
            weights = np.maximum(weights, least)
            for (i, j), weight in zip(others, weights / weights.sum(), strict=True):
                matrix[row * width + column, i * width + j] = -weight
    right = np.where(mask, ab, 0).reshape(2, -1).T
    return np.linalg.solve(matrix, right).T.reshape(2, height, width)


def spread(
    lightness: NDArray[np.float64], mask: NDArray[np.bool_], ab: NDArray[np.float64], variance: float, direct: int
) -> NDArray[np.float64]:
    """``propagate``, told as ``by_definition`` is."""
    return propagate(lightness, np.flatnonzero(mask), ab[:, mask].T, variance, direct).ab


@st.composite
def images(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([2, 3, 256]))  # few: hard edges and flat parts
    lightness = random.integers(0, levels, (height, width)) * (100 / (levels - 1))
    mask = random.random((height, width)) < draw(st.sampled_from([0.05, 0.3, 0.9]))
    mask.flat[random.integers(mask.size)] = True
    return lightness.astype(float), mask, random.uniform(-80, 80, (2, height, width))


@given(images(), st.sampled_from([0.6, 2.0]), st.sampled_from([DIRECT, ITERATED]))
def test_is_what_the_released_program_solves(
    case: tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]], variance: float, direct: int
) -> None:
    np.testing.assert_allclose(spread(*case, variance, direct), by_definition(*case, variance), atol=2e-3)


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_the_error_is_at_most_what_is_said(seed: int, direct: int) -> None:
    random = np.random.default_rng(seed)
    lightness = random.uniform(0, 100, (20, 24))
    mask = random.random(lightness.shape) < 0.02
    mask[3, 4] = True
    ab = random.uniform(-80, 80, (2, *lightness.shape))
    found = propagate(lightness, np.flatnonzero(mask), ab[:, mask].T, direct=direct)
    off = np.abs(found.ab - by_definition(lightness, mask, ab, least=1e-8)).max()
    assert off <= found.error + 1e-10 and found.error <= TOLERANCE


def test_weights_add_up_to_one_and_stay_in_the_image() -> None:
    lightness = np.random.default_rng(0).uniform(0, 100, (4, 5))
    weights = affinities(lightness)
    np.testing.assert_allclose(weights.sum(0), 1)
    assert (weights[:, 1:-1, 1:-1] > 0).all()
    assert (weights[:3, 0] == 0).all() and (weights[5:, -1] == 0).all()
    assert (weights[[0, 3, 5], :, 0] == 0).all() and (weights[[2, 4, 7], :, -1] == 0).all()


@BOTH
@pytest.mark.parametrize("lightness", [np.full((1, 41), 50.0), np.linspace(20, 80, 41)[None]], ids=["flat", "ramp"])
def test_between_two_ends_of_a_row_color_is_linear(lightness: NDArray[np.float64], direct: int) -> None:
    found = propagate(lightness, np.array([0, 40]), np.array([[40.0, -20.0], [-40.0, 60.0]]), direct=direct).ab[:, 0]
    np.testing.assert_allclose(found, [np.linspace(40, -40, 41), np.linspace(-20, 60, 41)], atol=TOLERANCE)
    upright = propagate(lightness.T, np.array([0, 40]), np.array([[40.0, -20.0], [-40.0, 60.0]]), direct=direct)
    np.testing.assert_allclose(upright.ab[..., 0], found, atol=2 * TOLERANCE)


def regions() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Three flat parts with sharp edges, and which part every pixel is of."""
    y, x = np.mgrid[:36, :48]
    part = np.where((y - 12) ** 2 + (x - 14) ** 2 < 70, 1, np.where(x > 30 + y // 6, 2, 0))
    return np.array([30.0, 75.0, 55.0])[part], part


COLORS = np.array([[60.0, 40.0], [-50.0, 30.0], [10.0, -70.0]])


@BOTH
def test_one_scribble_colors_its_whole_region(direct: int) -> None:
    """To a hundredth of a Lab unit, with weights that fall so steeply that an edge holds."""
    lightness, part = regions()
    at = np.array([5 * 48 + 26, 12 * 48 + 14, 30 * 48 + 44])
    assert part.flat[at].tolist() == [0, 1, 2]
    found = propagate(lightness, at, COLORS, variance=0.05, direct=direct).ab
    np.testing.assert_allclose(found, np.moveaxis(COLORS[part], -1, 0), atol=0.01)


def test_with_the_published_weights_little_leaks() -> None:
    """Across a hard edge a weight is exp(-1 / (0.6 var)), at most about 1e-3: lines hold, single points less well."""
    lightness, part = regions()
    lines = np.zeros(lightness.shape, bool)
    lines[3:33, 24], lines[12, 8:20], lines[3:33, 44] = True, True, True
    at = np.flatnonzero(lines)
    found = propagate(lightness, at, COLORS[part.flat[at]]).ab
    off = np.hypot(*(found - np.moveaxis(COLORS[part], -1, 0)))
    reach = max(np.hypot(*(one - other)) for one in COLORS for other in COLORS)
    assert off.max() < 0.05 * reach and off.mean() < 0.01 * reach


@BOTH
def test_one_color_fills_the_image(direct: int) -> None:
    lightness = np.random.default_rng(1).uniform(0, 100, (30, 20))
    found = propagate(lightness, np.array([7, 300]), np.array([[31.0, -17.0]] * 2), direct=direct).ab
    assert (found[0] == 31).all() and (found[1] == -17).all()


@pytest.fixture
def noise() -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    random = np.random.default_rng(5)
    mask = random.random((15, 22)) < 0.05
    return random.uniform(10, 60, (15, 22)), mask, random.uniform(-80, 80, (2, 15, 22))


@BOTH
def test_given_colors_are_kept_to_the_bit_and_bound_all_others(
    noise: tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]], direct: int
) -> None:
    lightness, mask, ab = noise
    found = spread(lightness, mask, ab, 0.6, direct)
    assert (found[:, mask] == ab[:, mask]).all()
    for channel, known in zip(found, ab[:, mask], strict=True):
        assert known.min() <= channel.min() and channel.max() <= known.max()


def test_turning_brightening_and_adding(
    noise: tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]],
) -> None:
    lightness, mask, ab = noise
    found = spread(lightness, mask, ab, 0.6, DIRECT)
    turned = spread(lightness.T[::-1], mask.T[::-1], np.swapaxes(ab, 1, 2)[:, ::-1], 0.6, DIRECT)
    np.testing.assert_allclose(turned, np.swapaxes(found, 1, 2)[:, ::-1], atol=1e-9)
    np.testing.assert_allclose(spread(lightness + 30, mask, ab, 0.6, DIRECT), found, atol=1e-8)
    np.testing.assert_allclose(spread(lightness * 1.5, mask, ab, 0.6, DIRECT), found, atol=1e-8)
    other = np.random.default_rng(6).uniform(-80, 80, ab.shape)
    both = spread(lightness, mask, ab + 2 * other, 0.6, DIRECT)
    np.testing.assert_allclose(both, found + 2 * spread(lightness, mask, other, 0.6, DIRECT), atol=1e-9)


@BOTH
@pytest.mark.parametrize("variance", [0.02, 0.6])
def test_a_region_without_a_scribble_takes_color_from_around(variance: float, direct: int) -> None:
    lightness = np.full((40, 40), 20.0)
    lightness[10:30, 10:30] = 90.0
    found = propagate(lightness, np.arange(40), np.tile([12.0, 34.0], (40, 1)), variance, direct)
    np.testing.assert_allclose(found.ab, np.broadcast_to([[[12.0]], [[34.0]]], (2, 40, 40)), atol=0.01)


def test_where_single_precision_does_not_do_double_does() -> None:
    """An island in an island, both all but cut off, which singly rounded factors do not see."""
    lightness = np.full((60, 90), 20.0)
    lightness[15:45, 15:75], lightness[27:33, 30:60] = 90.0, 20.0
    at, colors = np.array([0, 89, 59 * 90]), np.array([[12.0, 34.0], [50.0, 0.0], [-30.0, 10.0]])
    one, other = (propagate(lightness, at, colors, 0.02, direct) for direct in (DIRECT, ITERATED))
    assert one.error <= TOLERANCE and other.error <= TOLERANCE
    np.testing.assert_allclose(one.ab, other.ab, atol=one.error + other.error)


HINTS = [(10, 20, 4, 50.0, 20.0), (50, 20, 4, -40.0, -30.0)]


def halves(height: int, width: int) -> torch.Tensor:
    lightness = torch.full((1, 1, height, width), 30.0)
    lightness[..., width // 2 :] = 70.0
    return lightness


def test_a_small_image_has_the_solution() -> None:
    torch.manual_seed(0)
    lightness = torch.rand(1, 1, 40, 60) * 100
    ab = color_photograph(scribbles_colorist(from_points(HINTS)), lightness)
    given = from_points(HINTS).on(40, 60)
    solved = propagate(lightness[0, 0].double().numpy(), given.pixels, given.ab)
    assert ab.shape == (1, 2, 40, 60) and ab.dtype == torch.float32
    np.testing.assert_array_equal(ab[0], solved.ab.astype(np.float32))


@pytest.mark.parametrize("pixels", [150, 600, 2400])
def test_reduced_or_not_an_edge_holds_and_scribbles_are_kept_to_the_bit(pixels: int) -> None:
    lightness = halves(40, 60)
    ab = color_photograph(
        scribbles_colorist(from_points(HINTS), ScribbleSettings(pixels=pixels, variance=0.05)), lightness
    )
    wanted = torch.where(
        lightness < 50, torch.tensor([50.0, 20.0])[:, None, None], torch.tensor([-40.0, -30.0])[:, None, None]
    )
    torch.testing.assert_close(ab, wanted, atol=0.1, rtol=0)
    given = from_points(HINTS).on(40, 60)
    assert torch.equal(ab.view(2, -1)[:, torch.from_numpy(given.pixels)], torch.from_numpy(given.ab.T).float())


def test_reduced_is_near_the_solution_on_a_smooth_image() -> None:
    y, x = torch.meshgrid(torch.arange(80.0), torch.arange(120.0), indexing="ij")
    lightness = (50 + 30 * torch.sin(x / 25) * torch.cos(y / 30))[None, None]
    hints = [(10, 10, 8, 50.0, 20.0), (100, 60, 8, -40.0, -30.0), (60, 40, 8, 0.0, 60.0)]
    whole, less = (
        color_photograph(scribbles_colorist(from_points(hints), ScribbleSettings(pixels=p)), lightness)
        for p in (9600, 2400)
    )
    assert (whole - less).abs().mean() < 1.5 and (whole - less).abs().max() < 25


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 2), (1, 3000)])
@pytest.mark.parametrize("pixels", [1, 40, 500_000])
def test_odd_shapes(shape: tuple[int, int], pixels: int) -> None:
    colorist = scribbles_colorist(from_points([(0, 0, 0, 12.5, -3)]), ScribbleSettings(pixels=pixels))
    ab = color_photograph(colorist, torch.rand(1, 1, *shape) * 100)
    wanted = torch.tensor([12.5, -3.0]).view(1, 2, 1, 1).expand(1, 2, *shape)
    torch.testing.assert_close(ab, wanted, atol=1e-5, rtol=0)


def test_settings_that_make_no_sense() -> None:
    for wrong in ({"pixels": 0}, {"pixels": 10**8}, {"variance": 0.0}, {"variance": float("nan")}):
        with pytest.raises(UserError, match="must lie in"):
            ScribbleSettings(**wrong)  # type: ignore[arg-type]
