"""From what is known of each image to scores with intervals, and to paired differences between methods."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pretint.colorization.scores.auc import Sums, balanced_auc, raw_auc
from pretint.colorization.scores.frechet import frechet_distance
from pretint.colorization.scores.ledger import Record
from pretint.colorization.scores.metrics import psnr
from pretint.colorization.scores.table import Metric
from transfer.bootstrap import MAP_RESAMPLES, Estimate, accuracy, centered, difference, percentiles, resamples

Floats = NDArray[np.float64]

INTERVAL = (
    f"[..]: 95% percentile bootstrap over images, {MAP_RESAMPLES:,} resamples; of AuC balanced centered on the number "
    "(a resample lacks some rare bins); top-1 as the probes' (10,000 resamples); FID has none"
)

METRICS = (
    Metric("auc", "AuC", "area under the share of pixels within t of the true ab, t = 0..150, %", 1, 100),
    Metric("auc_balanced", "AuC balanced", "the same, each pixel by the inverse frequency of its true bin, %", 1, 100),
    Metric("psnr", "PSNR", "dB, 8-bit sRGB, squared error over R, G and B; mean over images", 1, digits=2),
    Metric("ssim", "SSIM", "Wang et al. 2004, of R, G and B each, averaged", 1, digits=3),
    Metric("lpips", "LPIPS", "", -1, digits=3),
    Metric("cf", "CF", "colorfulness, Hasler and Suesstrunk 2003", 0),
    Metric("cf_abs", "CF abs", "the variant that takes absolute values first; not comparable with CF", 0),
    Metric("fid_same", "FID same", "to the truth of the same images", -1, digits=2),
    Metric("fid_disjoint", "FID disjoint", "to other images", -1, digits=2),
    Metric("top1", "top-1", "", 1, 100),
)
_MEANS = ("auc", "psnr", "ssim", "lpips", "cf", "cf_abs")


class Known(NamedTuple):
    """What is known of a method on N images."""

    areas: Sums
    """(N, Q), see ``pretint.colorization.scores.auc``."""
    values: dict[str, Floats]
    """By metric, of every image, (N,)."""
    right: NDArray[np.bool_] | None
    features: NDArray[np.float32] | None
    """(N, D)."""


class Real(NamedTuple):
    """Features of real images that a method's are compared with."""

    same: NDArray[np.float32]
    """Of the same images, (N, D)."""
    disjoint: NDArray[np.float32] | None
    """Of others; without them a method's odd images are compared with the truth of the even ones."""


def known(records: Sequence[Record], n_bins: int, features: NDArray[np.float32] | None) -> tuple[Known, Sums]:
    """What the records of a method say, and how many pixels of every true bin there are, (N, Q)."""
    areas, pixels = (_dense(records, name, n_bins) for name in ("areas", "pixels"))
    errors = torch.tensor([record["error"] for record in records], dtype=torch.float64)
    values = {"auc": raw_auc(areas, pixels), "psnr": psnr(errors).numpy()}
    for name in ("ssim", "lpips", "cf", "cf_abs"):
        if name in records[0]:
            values[name] = np.array([record[name] for record in records], np.float64)
    right = np.array([record["right"] for record in records], np.bool_) if "right" in records[0] else None
    return Known(areas, values, right, features), pixels


def pooled(seeds: Sequence[Known]) -> Known:
    """What is known of several seeds of one method, as one: every score is then the mean of theirs.

    Scores are sums over images, so the mean over seeds may be taken first. Classes that were named and distances of
    features are no such sums, and are left out.
    """
    if len(seeds) == 1:
        return seeds[0]
    areas = np.mean([one.areas for one in seeds], axis=0)
    values = {key: np.mean([one.values[key] for one in seeds], axis=0) for key in seeds[0].values}
    return Known(areas, values, None, None)


class Summary:
    """Scores of methods on the same images. Resamples are the same for all, so that differences are paired.

    Args:
        methods: by name.
        pixels: (N, Q), of every true bin.
        weights: (Q,), of the bins, or None: see ``balanced_auc``.
        real: features to compare with, if there are features.
    """

    def __init__(
        self, methods: Mapping[str, Known], pixels: Sums, weights: Floats | None = None, real: Real | None = None
    ) -> None:
        self._methods, self._real, self._count = methods, real, len(pixels)
        self._draws: dict[tuple[str, str], Floats] = {}
        self._points: dict[tuple[str, str], float] = {}
        whole = np.ones((self._count, 1))
        for name, method in methods.items():
            for key, draws in self._mean_draws(method).items():
                self._points[name, key] = float(method.values[key].mean())
                self._draws[name, key] = draws
            balanced = partial(balanced_auc, method.areas, pixels, weights=weights)
            self._points[name, "auc_balanced"] = float(balanced(whole)[0])
            self._draws[name, "auc_balanced"] = resamples(balanced, self._count)

    def _mean_draws(self, method: Known) -> dict[str, Floats]:
        """Of each metric that is a mean over images, its resamples; nan where it is infinite."""
        keys = [key for key in _MEANS if key in method.values]
        values = np.stack([method.values[key] for key in keys])
        finite = np.isfinite(values).all(1, keepdims=True)
        usable = np.where(finite, values, 0)
        draws = np.where(finite, resamples(usable.__matmul__, self._count) / self._count, np.nan)
        return dict(zip(keys, draws, strict=True))

    def scores(self, name: str) -> dict[str, Estimate]:
        """Of a method, by metric."""
        method = self._methods[name]
        own = {key: draws for (of, key), draws in self._draws.items() if of == name}
        found = {key: self._estimate(key, self._points[name, key], draws) for key, draws in own.items()}
        if method.features is not None and self._real is not None:
            found |= {key: Estimate(value, np.nan, np.nan) for key, value in self._distances(method.features)}
        if method.right is not None:
            found["top1"] = accuracy(method.right)
        return found

    def spreads(self, names: Sequence[str]) -> dict[str, float]:
        """Standard deviations of the scores of several methods, by metric: seeds of one."""
        if len(names) < 2:
            return {}
        keys = [key for of, key in self._points if of == names[0]]
        found = {key: float(np.std([self._points[name, key] for name in names], ddof=1)) for key in keys}
        return {key: spread for key, spread in found.items() if np.isfinite(spread)}

    def differences(self, name: str, other: str) -> dict[str, Estimate]:
        """A method's scores minus another's, of those that are over images."""
        found = {}
        for (of, key), draws in self._draws.items():
            if of == name and (other, key) in self._draws:
                value = self._points[name, key] - self._points[other, key]
                if np.isfinite(value):
                    found[key] = self._estimate(key, value, draws - self._draws[other, key], lowest=-1)
        first, second = self._methods[name].right, self._methods[other].right
        if first is not None and second is not None:
            found["top1"] = difference(first, second)
        return found

    @staticmethod
    def _estimate(key: str, value: float, draws: Floats, lowest: float = 0) -> Estimate:
        if not np.isfinite(draws).any():
            return Estimate(value, np.nan, np.nan)
        if np.ptp(draws) <= 1e-12 * max(1.0, abs(value)):  # the truth's, for one, is 1 by definition
            return Estimate(value, value, value)
        return centered(value, draws, lowest) if key == "auc_balanced" else percentiles(value, draws)

    def _distances(self, features: NDArray[np.float32]) -> list[tuple[str, float]]:
        assert self._real is not None
        same, disjoint = self._real
        found = [("fid_same", frechet_distance(features, same))]
        ours, theirs = (features, disjoint) if disjoint is not None else (features[::2], same[1::2])
        if min(len(ours), len(theirs)) >= 2:
            found.append(("fid_disjoint", frechet_distance(ours, theirs)))
        return found


def _dense(records: Sequence[Record], name: str, n_bins: int) -> Sums:
    found = np.zeros((len(records), n_bins), np.int64)
    for row, record in zip(found, records, strict=True):
        row[record["bins"]] = record[name]
    return found
