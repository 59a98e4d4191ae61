"""Coloring without a network against the plain way to do it.

Scribbles: the publication's equations by scipy's ``spsolve``, channel by channel, as ports of the released program do,
and, on a small image, as it is printed: loops over pixels and a dense solver. Reference: the distance of every
pixel to every sample. Times are processor time.
"""

from collections.abc import Iterator
from io import BytesIO

import numpy as np
import scipy.sparse as sp
import torch
from PIL import Image
from scipy.sparse import linalg

from benchmarks.images import jpegs
from benchmarks.paired import Job, Row, Spread, paired, spread, times_as_fast
from pretext.color import rgb_to_lab
from pretext.engine.memory import peak_memory, reset_peak_memory
from pretint.colorization.reference import features, match_samples, samples_of
from pretint.colorization.scribbles import affinities, propagate, random_walk
from transfer.bootstrap import Floats


def rows(device: torch.device, rounds: int) -> Iterator[Row]:
    """Time, and memory; all of it on the CPU."""
    device = torch.device("cpu")
    small, large = _lab(48)[:, :40, :40], _lab(280)
    known = _grid(small, 8)
    yield times_as_fast(
        "scribbles", f"{_pixels(small)}, {len(known)} points", "loops, dense solver",
        *paired(lambda: _ours(small, known), lambda: printed(small, known), device, rounds, cpu=True),
    )  # fmt: skip
    known = _grid(large, 60)
    setting = f"{_pixels(large)}, {len(known)} points"
    both: tuple[Job, Job] = (lambda: _ours(large, known), lambda: plain(large, known))
    yield times_as_fast("scribbles", setting, "spsolve", *paired(*both, device, rounds, cpu=True))
    one, other = (_peaks(job, device) for job in both)
    ratio = spread([other.low / one.high, other.median / one.median, other.high / one.low])
    yield Row("memory of the same", setting, "spsolve", "MB", one, other, ratio, remark="beyond the image")

    pixels, samples = features(large[0]), samples_of(large[0], large[1:], 200, 0)

    def all_distances() -> Floats:
        found = np.empty((pixels.shape[0], pixels.shape[1]), np.int64)
        for row, line in enumerate(pixels):  # all at once would take a gigabyte
            found[row] = np.abs(line[:, None] - samples.features).sum(-1).argmin(-1)
        return np.asarray(samples.ab[found])

    taken = paired(lambda: match_samples(pixels, samples), all_distances, device, rounds, cpu=True)
    yield times_as_fast(
        "matching to a reference", f"{_pixels(large)}, {len(samples.ab)} samples", "all distances", *taken
    )


def printed(lab: Floats, known: np.ndarray) -> Floats:
    """The equations pixel by pixel, and a dense solver."""
    height, width = lab.shape[1:]
    y, given = lab[0] / 100, set(known.tolist())
    matrix, right = np.eye(y.size), np.zeros((y.size, 2))
    right[known] = lab[1:].reshape(2, -1).T[known]
    for row in range(height):
        for column in range(width):
            if (pixel := row * width + column) in given:
                continue
            window = [
                (i, j)
                for i in range(max(0, row - 1), min(height, row + 2))
                for j in range(max(0, column - 1), min(width, column + 2))
            ]
            values = np.array([y[at] for at in window])
            squared = (values - y[row, column]) ** 2
            itself = window.index((row, column))
            nearest = np.delete(squared, itself).min()
            weights = np.exp(-squared / max(0.6 * values.var(), -nearest / np.log(0.01), 2e-6))
            weights[itself] = 0
            for (i, j), weight in zip(window, weights / weights.sum(), strict=True):
                matrix[pixel, i * width + j] -= weight
    solution: Floats = np.linalg.solve(matrix, right).astype(np.float64, copy=False)
    return solution


def plain(lab: Floats, known: np.ndarray) -> list[Floats]:
    """The same equations by ``spsolve``; they are set up by our own code."""
    free = np.ones(lab[0].size)
    free[known] = 0
    system = (sp.identity(free.size) - sp.diags(free) @ random_walk(affinities(lab[0]))).tocsc()
    right = lab[1:].reshape(2, -1) * (1 - free)
    return [linalg.spsolve(system, one) for one in right]


def _ours(lab: Floats, known: np.ndarray) -> object:
    return propagate(lab[0], known, lab[1:].reshape(2, -1).T[known])


def _grid(lab: Floats, step: int) -> np.ndarray:
    """Flat indices of points whose true color is given."""
    places = np.arange(lab[0].size).reshape(lab.shape[1:])
    return np.asarray(places[step // 2 :: step, step // 2 :: step].ravel())


def _lab(shorter: int) -> Floats:
    """(3, h, w), of a real image."""
    image = Image.open(BytesIO(next(iter(jpegs(1, shorter))))).convert("RGB")
    return np.asarray(rgb_to_lab(torch.from_numpy(np.array(image)).permute(2, 0, 1)).double().numpy())


def _pixels(lab: Floats) -> str:
    return f"{lab.shape[2]} x {lab.shape[1]} pixels"


def _peaks(job: Job, device: torch.device) -> Spread:
    found = []
    for _ in range(3):
        reset_peak_memory(device)
        before = peak_memory()
        job()
        found.append((peak_memory() - before) / 1e6)
    return spread(found)
