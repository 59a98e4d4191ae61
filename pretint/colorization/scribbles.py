"""Colors that spread from scribbles over an image (Levin, Lischinski, Weiss 2004: Colorization using Optimization).

Each pixel r should have the weighted mean color of its neighbors s in the 3 x 3 window. The weights are
exp(-(Y_r - Y_s)^2 / v_r), normalized to add up to 1; the window is cut off at the border. As in the released code:

- v_r = 0.6 times the variance of Y in the window, r included (the paper prints 2 times);
- v_r is at least so large that the neighbor most like r has a weight of 0.01 before normalizing, and at least 2e-6;
- a pixel with a given color has it exactly, and has no equation. (The paper's sum includes all pixels.) So there are
  as many equations as unknowns, the least sum of squares is 0, and every color lies between the given ones.

Y is L / 100 here: in the publication the luma of a gamma-encoded image, in [0, 1].

The matrix I - W of the unknown pixels is a diagonally dominant M-matrix, so it is factored without pivoting, in an
order with little fill. For small images the factors give the solution. For large images they are computed in single
precision, which takes little more than half the memory, and precondition BiCGSTAB in double precision.

The error is known, not guessed: for any t > 0 with (I - W) t >= c > 0, no pixel of a solution with residual r is
off by more than max |r| max t / c. (For c = 1, t is how many steps a random walk takes to a given pixel.)
"""

import contextlib
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse import linalg
from torch import Tensor

from pretext import roles
from pretint.colorization.hints import Hints
from pretint.colorization.merge import Prediction
from pretint.colorization.upscale import PIXELS, PIXELS_RANGE, AlongEdges, reduced_size

VARIANCE = 0.6
"""The released code's factor on the variance of the window; the paper prints 2."""

TOLERANCE = 1e-3
"""The largest allowed distance of a color from the exact solution, in Lab units."""

DIRECT = 1 << 16
"""The largest number of unknowns for which the factors are in double precision."""

_NEAREST = 0.01
_FLOOR = 2e-6
_LEAST = 1e-8  # of any weight, so that a region behind sharp edges without a given color still takes one
_ITERATIONS = 60
_NEIGHBORS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx)


class Propagated(NamedTuple):
    """Colors that spread over an image."""

    ab: NDArray[np.float64]
    """(2, h, w)."""
    error: float
    """A bound on the error of every value, in Lab units."""


def affinities(lightness: NDArray[np.float64], variance: float = VARIANCE) -> NDArray[np.float64]:
    """Return the weights of every pixel's eight neighbors.

    Args:
        lightness: (h, w), L in [0, 100].
        variance: factor on the variance of the window.

    Returns:
        (8, h, w), in the order of rows, then columns; 0 for neighbors outside the image; the others add up to 1.
    """
    y = lightness / 100
    around = np.stack([_shift(y, dy, dx, 0.0) for dy, dx in _NEIGHBORS])
    inside = np.stack([_shift(np.ones(y.shape, bool), dy, dx, False) for dy, dx in _NEIGHBORS])
    count = 1 + inside.sum(0)
    mean = (y + around.sum(0)) / count
    spread = ((y - mean) ** 2 + (np.square(around - mean) * inside).sum(0)) / count
    apart = np.where(inside, np.square(around - y), np.inf)
    if y.size == 1:
        return np.zeros((8, 1, 1))
    scale = np.maximum(np.maximum(variance * spread, apart.min(0) / -np.log(_NEAREST)), _FLOOR)
    weights = np.maximum(np.exp(-apart / scale), _LEAST) * inside
    return cast("NDArray[np.float64]", weights / weights.sum(0))


def propagate(
    lightness: NDArray[np.float64],
    given: NDArray[np.int64],
    colors: NDArray[np.float64],
    variance: float = VARIANCE,
    direct: int = DIRECT,
) -> Propagated:
    """Spread colors over an image.

    Args:
        lightness: (h, w), L in [0, 100].
        given: (n,), at least one: flat indices, each once, of the pixels whose color is known.
        colors: (n, 2), their ab.
        variance: see ``affinities``.
        direct: the largest number of unknown pixels for which the factors are in double precision.
    """
    assert len(given) == len(colors) > 0
    height, width = lightness.shape
    ab = np.empty((height * width, 2))
    ab[given] = colors
    unknown = np.ones(height * width, bool)
    unknown[given] = False
    error = 0.0
    if unknown.any():
        walk = random_walk(affinities(lightness, variance))[unknown]
        system = (sp.identity(walk.shape[0], format="csr") - walk[:, unknown]).tocsr()
        right = walk[:, ~unknown] @ ab[~unknown]
        del walk
        solution, error = right, np.inf
        if len(right) > direct:
            # A nearly isolated region can be singular in single precision; a solution that overflows has no bound.
            with contextlib.suppress(RuntimeError), np.errstate(all="ignore"):
                solution, error = _solve_iteratively(system, right)
        if not error <= TOLERANCE:
            factors = _factorize(system)
            solution = factors.solve(right)
            solution += factors.solve(right - system @ solution)
            times, least = _error_factors(system, factors.solve(np.ones(len(right))))
            error = float(np.abs(right - system @ solution).max() * times / least)
        # Rounding may leave the solution a last digit outside what is given.
        ab[unknown] = solution.clip(colors.min(0), colors.max(0))
    return Propagated(np.ascontiguousarray(ab.T).reshape(2, height, width), error)


def _shift(values: NDArray[Any], dy: int, dx: int, outside: Any) -> NDArray[Any]:
    """Return every pixel's neighbor at that offset."""
    padded = np.pad(values, 1, constant_values=outside)
    return padded[1 + dy : 1 + dy + values.shape[0], 1 + dx : 1 + dx + values.shape[1]]


def random_walk(weights: NDArray[np.float64]) -> Any:
    """Return W, a sparse (pixels, pixels) matrix whose row r holds the weights of r's neighbors; see ``affinities``."""
    _, height, width = weights.shape
    pixels = np.arange(height * width, dtype=np.int32).reshape(height, width)
    columns = np.stack([_shift(pixels, dy, dx, -1) for dy, dx in _NEIGHBORS], -1).reshape(-1, 8)
    inside = columns >= 0
    starts = np.concatenate(([0], np.cumsum(inside.sum(1, dtype=np.int32), dtype=np.int32)))
    values = np.moveaxis(weights, 0, -1).reshape(-1, 8)[inside]
    return sp.csr_matrix((values, columns[inside], starts), shape=(pixels.size, pixels.size))


def _solve_iteratively(system: Any, right: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Solve for every column of ``right``; return the solution and a bound on its error.

    By BiCGSTAB, preconditioned by factors in single precision.
    """
    factors = _factorize(system.astype(np.float32))

    def approximate(residual: NDArray[np.float64]) -> NDArray[np.float64]:
        # Scaled, because single precision ends at 1e-38 and late residuals are tiny.
        size = float(np.abs(residual).max()) or 1.0
        scaled: NDArray[np.float64] = factors.solve((residual / size).astype(np.float32)).astype(np.float64)
        return scaled * size

    preconditioner = linalg.LinearOperator(system.shape, dtype=np.float64, matvec=lambda v: approximate(v.ravel()))

    def solve(column: NDArray[np.float64], allowed: float) -> NDArray[np.float64]:
        # In the 2-norm, which is never less than the greatest residual.
        options = {"rtol": 0.0, "atol": allowed, "maxiter": _ITERATIONS, "M": preconditioner}
        return cast("NDArray[np.float64]", linalg.bicgstab(system, column, x0=approximate(column), **options)[0])

    times, least = _error_factors(system, solve(np.ones(len(right)), 0.5))
    if not np.isfinite(times):
        return right, np.inf
    solution = np.stack([solve(column, 0.5 * TOLERANCE * least / times) for column in right.T], 1)
    return solution, float(np.abs(right - system @ solution).max() * times / least)


def _factorize(system: Any) -> Any:
    return linalg.splu(
        system.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )


def _error_factors(system: Any, t: NDArray[np.float64]) -> tuple[float, float]:
    """Return the greatest of t and the least of (I - W) t, which approximates 1; infinity and 1 if t gives no bound.

    The error is at most the residual times their quotient.
    """
    least = float((system @ t).min())
    return (float(t.max()), least) if least > 0 and t.min() > 0 else (float("inf"), 1.0)


@dataclass
class ScribbleSettings:
    """Settings of coloring by scribbles.

    Args:
        pixels: a larger image is reduced to this number of pixels, and its color is then brought to every pixel along
            the edges of the image.
        variance: factor on the variance of lightness in a 3 x 3 window: 0.6 as the released code, 2 as the paper
            prints; less keeps colors better behind weak edges, and spreads them less over texture.
    """

    pixels: int = roles.science(PIXELS, PIXELS_RANGE)
    variance: float = roles.science(VARIANCE, "[0.02, 100]")

    def __post_init__(self) -> None:
        roles.check_ranges(self)


class ScribblesColorist:
    """A colorist of the one image that has scribbles."""

    batch, takes_hints, has_distribution = 1, True, False

    def __init__(self, hints: Hints, settings: ScribbleSettings) -> None:
        self.hints = hints
        self.settings = settings

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return width and height to which an image of that width and height is reduced."""
        height, width = reduced_size(size[1], size[0], self.settings.pixels)
        return width, height

    def predict(self, lightness: Tensor, size: tuple[int, int]) -> Prediction:
        """Predict as a ``Colorist``, for one photograph."""
        (seen,) = lightness[:, 0]
        height, width = seen.shape
        full = (size[1], size[0])
        known = self.hints.on(*full).resized(full, (height, width))
        pixels, colors = known.pixels.astype(np.int64), known.ab.astype(np.float64)
        solution = propagate(seen.double().numpy(), pixels, colors, self.settings.variance)
        return Prediction(torch.from_numpy(solution.ab.astype(np.float32))[None])

    def enlarged(self, ab: Tensor, lightness: Tensor, size: tuple[int, int]) -> AlongEdges:
        """Enlarge ab along the photograph's edges; scribbled pixels keep their color."""
        return AlongEdges(ab, lightness, size, self.hints.on(size[1], size[0]))


def scribbles_colorist(hints: Hints, settings: ScribbleSettings | None = None) -> ScribblesColorist:
    """Make a colorist of scribbles: see ``pretint.colorization.hints``."""
    return ScribblesColorist(hints, settings or ScribbleSettings())
