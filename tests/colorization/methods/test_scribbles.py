"""Coloring by scribbles: the solution on small images, reduced and enlarged along edges on large ones."""

import numpy as np
import pytest
import torch
from coloring import colored

from pretext.errors import UserError
from pretint.colorization.hints import from_points
from pretint.colorization.methods.propagation import propagate
from pretint.colorization.methods.scribbles import ScribbleSettings, scribbles_colorist

HINTS = [(10, 20, 4, 50.0, 20.0), (50, 20, 4, -40.0, -30.0)]


def halves(height: int, width: int) -> torch.Tensor:
    lightness = torch.full((1, 1, height, width), 30.0)
    lightness[..., width // 2 :] = 70.0
    return lightness


def test_a_small_image_has_the_solution() -> None:
    torch.manual_seed(0)
    lightness = torch.rand(1, 1, 40, 60) * 100
    ab = colored(scribbles_colorist(from_points(HINTS)), lightness)
    given = from_points(HINTS).on(40, 60)
    solved = propagate(lightness[0, 0].double().numpy(), given.pixels, given.ab)
    assert ab.shape == (1, 2, 40, 60) and ab.dtype == torch.float32
    np.testing.assert_array_equal(ab[0], solved.ab.astype(np.float32))


@pytest.mark.parametrize("pixels", [150, 600, 2400])
def test_reduced_or_not_an_edge_holds_and_scribbles_are_kept_to_the_bit(pixels: int) -> None:
    lightness = halves(40, 60)
    ab = colored(scribbles_colorist(from_points(HINTS), ScribbleSettings(pixels=pixels, variance=0.05)), lightness)
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
        colored(scribbles_colorist(from_points(hints), ScribbleSettings(pixels=p)), lightness) for p in (9600, 2400)
    )
    assert (whole - less).abs().mean() < 1.5 and (whole - less).abs().max() < 25


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 2), (1, 3000)])
@pytest.mark.parametrize("pixels", [1, 40, 500_000])
def test_odd_shapes(shape: tuple[int, int], pixels: int) -> None:
    colorist = scribbles_colorist(from_points([(0, 0, 0, 12.5, -3)]), ScribbleSettings(pixels=pixels))
    ab = colored(colorist, torch.rand(1, 1, *shape) * 100)
    wanted = torch.tensor([12.5, -3.0]).view(1, 2, 1, 1).expand(1, 2, *shape)
    torch.testing.assert_close(ab, wanted, atol=1e-5, rtol=0)


def test_settings_that_make_no_sense() -> None:
    for wrong in ({"pixels": 0}, {"pixels": 10**8}, {"variance": 0.0}, {"variance": float("nan")}):
        with pytest.raises(UserError, match="must lie in"):
            ScribbleSettings(**wrong)  # type: ignore[arg-type]
