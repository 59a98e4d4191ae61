"""Joint bilateral upsampling, against its formula pixel by pixel."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretint.colorization.upscale import RANGE, enlarged_rows, reduced_size


def by_definition(ab: torch.Tensor, seen: torch.Tensor, lightness: torch.Tensor) -> np.ndarray:
    (h, w), (height, width) = seen.shape, lightness.shape
    result = np.zeros((2, height, width))
    for y in range(height):
        for x in range(width):
            at = ((y + 0.5) * h / height - 0.5, (x + 0.5) * w / width - 0.5)
            total = 0.0
            for i in range(round(at[0]) - 1, round(at[0]) + 2):
                for j in range(round(at[1]) - 1, round(at[1]) + 2):
                    weight = float(spline(i - at[0]) * spline(j - at[1]))
                    cell = (min(max(i, 0), h - 1), min(max(j, 0), w - 1))
                    apart = float(seen[cell] - lightness[y, x])
                    weight *= np.exp(-(apart**2) / (2 * RANGE**2)) + 1e-6
                    total += weight
                    result[:, y, x] += weight * ab[:, *cell].numpy()
            result[:, y, x] /= total
    return result


def spline(t: float) -> float:
    """The quadratic B-spline."""
    t = abs(t)
    return 0.75 - t * t if t <= 0.5 else 0.5 * (1.5 - t) ** 2 if t <= 1.5 else 0.0


@pytest.mark.parametrize("shapes", [((5, 7), (13, 17)), ((1, 4), (1, 11)), ((1, 1), (6, 5)), ((6, 5), (6, 5))])
def test_is_its_formula(shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    torch.manual_seed(0)
    ab, seen, lightness = torch.rand(2, *shapes[0]) * 100 - 50, torch.rand(shapes[0]) * 40, torch.rand(shapes[1]) * 40
    found = enlarged_rows(ab, seen, lightness, 0, len(lightness))
    np.testing.assert_allclose(found, by_definition(ab, seen, lightness), atol=2e-4)


def test_strips_leave_no_seam() -> None:
    torch.manual_seed(0)
    ab, seen, lightness = torch.rand(2, 5, 7), torch.rand(5, 7) * 40, torch.rand(23, 31) * 40
    strips = [enlarged_rows(ab, seen, lightness[top : top + 2], top, 23) for top in range(0, 23, 2)]
    assert torch.equal(torch.cat(strips, 1), enlarged_rows(ab, seen, lightness, 0, 23))


def test_edges_of_the_full_image_are_followed() -> None:
    """Half a reduced pixel beside an edge there is the color of the own side, where bilinear would mix both."""
    lightness = torch.full((40, 40), 20.0)
    lightness[:, 20:] = 80.0
    seen = lightness[::4, ::4]
    ab = torch.where(seen > 50, 60.0, -60.0).expand(2, -1, -1)
    found = enlarged_rows(ab, seen, lightness, 0, 40)
    torch.testing.assert_close(found, torch.where(lightness > 50, 60.0, -60.0).expand(2, -1, -1), atol=0.01, rtol=0)


def test_no_new_colors() -> None:
    torch.manual_seed(1)
    ab = torch.rand(2, 9, 9) * 30 + 10
    found = enlarged_rows(ab, torch.rand(9, 9) * 100, torch.rand(50, 40) * 100, 0, 50)
    assert found.min() >= 10 and found.max() <= 40


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 100_000))
def test_reduced_sizes(height: int, width: int, pixels: int) -> None:
    h, w = reduced_size(height, width, pixels)
    assert 1 <= h <= height and 1 <= w <= width and h * w <= pixels
    assert (w, h) == reduced_size(width, height, pixels)
    if height * width <= pixels:
        assert (h, w) == (height, width)
    elif min(h, w) > 30:
        assert h * w > 0.9 * pixels and abs(h / w / (height / width) - 1) < 0.05
