"""Rows of features: the same from memory and from the file, and their statistics against numpy's."""

from pathlib import Path

import numpy as np
import pytest
import torch

from transfer.features import rows as module
from transfer.features.rows import Rows

CPU = torch.device("cpu")


@pytest.mark.parametrize("free", [0, 10**12])
def test_rows_are_those_of_the_file_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(module, "available", lambda device: free)
    stored = np.random.default_rng(0).normal(size=(9000, 7)).astype(np.float16)
    stored.tofile(tmp_path / "file")
    rows = Rows(np.memmap(tmp_path / "file", np.float16, "r", shape=(9000, 7)), CPU)
    chosen = np.random.default_rng(1).permutation(9000)[:8500]
    assert rows.dims == 7 and rows[chosen].dtype == torch.float32
    assert np.array_equal(rows[chosen].numpy(), stored[chosen].astype(np.float32))
    assert np.array_equal(torch.cat(list(rows.chunks(chosen))).numpy(), stored[chosen].astype(np.float32))


def test_statistics_are_numpy_s_also_far_from_0() -> None:
    features = np.random.default_rng(0).normal(size=(9001, 5)) * [1e-3, 1, 1, 100, 0] + [0, 0, 1000, -5, 3]
    stored = features.astype(np.float32)
    chosen = np.arange(0, 9001, 2)
    mean, variance = Rows(stored, CPU).statistics(chosen)
    np.testing.assert_allclose(mean, stored[chosen].mean(0, np.float64), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(variance, stored[chosen].var(0, np.float64), rtol=1e-4, atol=1e-12)
