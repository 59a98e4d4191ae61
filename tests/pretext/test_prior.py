"""The prior against a dense mean of soft targets, weights against the formula and the published numbers."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretext.errors import UserError
from pretext.gamut import Gamut, bin_centers
from pretext.prior import estimate_prior, load_prior, rebalancing_weights


@pytest.fixture(scope="module")
def gamut() -> Gamut:
    return Gamut(neighbors=5)


def dense_mean(points: np.ndarray, neighbors: int, sigma: float, step: int) -> np.ndarray:
    """The mean of the dense soft targets of (N, 2) colors, from all distances."""
    squared = ((points[:, None] - bin_centers(step)) ** 2).sum(-1)
    weights = np.exp(-squared / (2 * sigma**2))
    weights[squared > np.sort(squared, axis=1)[:, neighbors - 1 : neighbors]] = 0
    return (weights / weights.sum(1, keepdims=True)).mean(0)


@pytest.mark.parametrize(("neighbors", "sigma", "step"), [(1, 5.0, 10), (5, 5.0, 10), (10, 3.0, 10), (5, 10.0, 20)])
def test_estimate_is_the_mean_soft_target(neighbors: int, sigma: float, step: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # Batches of different size: every pixel counts the same.
    batches = [
        torch.randn(size, 2, *side, generator=generator) * 30 for size, side in ((1, (4, 5)), (6, (7, 3)), (2, (1, 1)))
    ]
    prior = estimate_prior(iter(batches), Gamut(neighbors, sigma, step))
    points = np.concatenate([batch.double().movedim(1, -1).reshape(-1, 2).numpy() for batch in batches])
    expected = dense_mean(points, neighbors, sigma, step)
    assert prior.shape == (len(bin_centers(step)),) and prior.dtype == torch.float64
    assert np.abs(prior.numpy() - expected).max() < 1e-6
    assert ((prior.numpy() == 0) == (expected == 0)).all() and (prior == 0).any()
    assert prior.sum().item() == pytest.approx(1, abs=1e-12)


def test_published_prior_gives_the_published_weights(shared_data: Path, gamut: Gamut) -> None:
    prior = load_prior(shared_data / "colour-bins" / "prior_probs.npy", gamut)
    assert prior.dtype == torch.float64
    assert prior.sum().item() == pytest.approx(1, abs=1e-12)
    assert prior.argmax() == 120
    weights = rebalancing_weights(prior)
    assert weights.min().item() == pytest.approx(0.0965, abs=5e-5)
    assert weights.argmin() == 120
    assert weights.max().item() == pytest.approx(6.175, abs=5e-4)
    assert weights.mean().item() == pytest.approx(5.175, abs=5e-4)
    assert weights.median().item() == pytest.approx(5.999, abs=5e-4)
    assert (prior * weights).sum().item() == pytest.approx(1, abs=1e-12)
    for uniform, least, most in ((0.25, 0.063, 11.9), (0.75, 0.159, 3.5)):
        other = rebalancing_weights(prior, uniform)
        assert other.min().item() == pytest.approx(least, abs=5e-4)
        assert other.max().item() == pytest.approx(most, abs=0.05)


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=40).filter(lambda counts: sum(counts) > 1e-3),
    st.floats(0.01, 1),
)
def test_weights_are_the_formula(counts: list[float], uniform: float) -> None:
    prior = np.array(counts) / sum(counts)
    occurs = prior > 0
    mixed = (1 - uniform) * prior + uniform * occurs / occurs.sum()
    expected = 1 / mixed[occurs]
    expected /= (prior[occurs] * expected).sum()
    weights = rebalancing_weights(torch.from_numpy(prior), uniform).numpy()
    assert np.allclose(weights[occurs], expected, rtol=1e-6)
    assert (prior * weights).sum() == pytest.approx(1)
    # A bin that never occurs: finite, and at least as heavy as any that does.
    assert np.isfinite(weights).all()
    if not occurs.all():
        assert (weights[~occurs] >= weights[occurs].max() * (1 - 1e-6)).all()


def test_ends_of_lambda_and_bins_that_never_occur() -> None:
    prior = torch.tensor([0.5, 0.25, 0.25, 0.0], dtype=torch.float64)
    # lambda 0: 1/p = 2, 4, 4, whose expectation is 3.
    assert rebalancing_weights(prior, 0).tolist() == pytest.approx([2 / 3, 4 / 3, 4 / 3, 0])
    assert rebalancing_weights(prior, 1).tolist() == pytest.approx([1, 1, 1, 1])
    # lambda 1/2, u = 1/3 over three bins: 1/mixed = 12/5, 24/7, 24/7, and 6 at p = 0; expectation 102/35.
    expected = [12 / 5, 24 / 7, 24 / 7, 6]
    assert rebalancing_weights(prior, 0.5).tolist() == pytest.approx([w * 35 / 102 for w in expected])
    assert rebalancing_weights(prior.float(), 0.5).dtype == torch.float32


@pytest.mark.parametrize(
    "dtype",
    ["<f8", ">f8", "<f4", "<f2"],
)
def test_load_scales_any_float_type(tmp_path: Path, gamut: Gamut, dtype: str) -> None:
    counts = np.arange(313.0)
    np.save(tmp_path / "prior.npy", counts.astype(dtype))
    prior = load_prior(tmp_path / "prior.npy", gamut)
    assert prior.dtype == torch.float64
    assert np.allclose(prior, counts / counts.sum(), rtol=1e-12)


def with_entry(value: float) -> np.ndarray:
    prior = np.full(313, 1 / 313)
    prior[7] = value
    return prior


@pytest.mark.parametrize(
    "array",
    [
        np.full(312, 1 / 312),
        np.full((313, 1), 1 / 313),
        np.full((1, 313), 1 / 313),
        np.array(1.0),
        np.ones(313, dtype=np.int64),
        np.ones(313, dtype=np.complex128),
        np.array(["x"] * 313),
        with_entry(np.nan),
        with_entry(np.inf),
        with_entry(-1e-9),
        np.zeros(313),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_load_refuses_what_is_no_prior(tmp_path: Path, gamut: Gamut, array: np.ndarray) -> None:
    np.save(tmp_path / "prior.npy", array)
    refused(tmp_path / "prior.npy", gamut)


def saved(save: Any, array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"0.1 0.2 0.7\n",
        b"\x93NUMPY",
        saved(np.save, np.full(313, 1 / 313))[:200],
        bytes(range(256)),
        saved(np.savez, np.full(313, 1 / 313)),
        b"PK\x03\x04" + b"x" * 100,
    ],
    ids=["empty", "text", "magic", "truncated", "bytes", "npz", "zip"],
)
def test_load_refuses_other_files(tmp_path: Path, gamut: Gamut, data: bytes) -> None:
    (tmp_path / "prior.npy").write_bytes(data)
    refused(tmp_path / "prior.npy", gamut)


def test_load_refuses_no_file(tmp_path: Path, gamut: Gamut) -> None:
    refused(tmp_path / "none.npy", gamut)
    refused(tmp_path, gamut)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_load_runs_no_code(tmp_path: Path, gamut: Gamut) -> None:
    sprung = tmp_path / "sprung"
    np.save(tmp_path / "prior.npy", np.array([Trap(sprung)] * 313, dtype=object), allow_pickle=True)
    refused(tmp_path / "prior.npy", gamut)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Trap(sprung)))
    refused(tmp_path / "pickle.npy", gamut)
    assert not sprung.exists()
    np.load(tmp_path / "pickle.npy", allow_pickle=True)
    assert sprung.exists()  # the trap works


def refused(path: Path, gamut: Gamut) -> None:
    with pytest.raises(UserError) as error:
        load_prior(path, gamut)
    assert str(path) in str(error.value)
