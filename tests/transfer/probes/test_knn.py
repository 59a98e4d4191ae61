"""k nearest neighbors against brute force, scikit-learn and a rule for ties; and as whole evaluations."""

import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluations import write_class_images
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

import transfer.features.nearest
import transfer.probes.knn
from pretext.engine.device import choose_compute
from pretext.errors import UserError
from pretint.cli import main
from transfer.features import CacheSettings, FeatureSet, View, extract
from transfer.networks import open_network
from transfer.probes.knn import KnnSettings, knn
from transfer.results import Result, find_results
from transfer.targets import Targets, open_targets

RNG = np.random.default_rng(0)
TRAIN = RNG.normal(size=(300, 24)).astype(np.float32) * RNG.uniform(0.1, 9, (300, 1)).astype(np.float32)
TEST = RNG.normal(size=(70, 24)).astype(np.float32)
ONE = RNG.integers(0, 7, 300)
SEVERAL = RNG.choice(np.array([1, 0, 0, -1], np.int8), (300, 7))
KS = (1, 5, 20, 300)


def knn_scores(*args: Any, **kwargs: Any) -> dict[int, NDArray[np.float32]]:
    """The scores of all test images at once, by k."""
    parts: dict[int, list[NDArray[np.float32]]] = {}
    for k, scores in transfer.probes.knn.knn_scores(*args, **kwargs):
        parts.setdefault(k, []).append(scores)
    return {k: np.concatenate(scores) for k, scores in parts.items()}


def brute(
    train: NDArray[np.floating], labels: NDArray[np.integer], test: NDArray[np.floating], k: int, t: float
) -> NDArray[np.float64]:
    """The definition, image by image, in float64."""
    rows = []
    for one in test.astype(np.float64):
        similarity = [float(one @ x / np.linalg.norm(one) / np.linalg.norm(x)) for x in train.astype(np.float64)]
        near = sorted(range(len(train)), key=lambda at: (-similarity[at], at))[:k]
        weights = {at: np.exp(similarity[at] / t) for at in near}
        row = []
        for c in range(7):
            value = {at: int(labels[at] == c) if labels.ndim == 1 else int(labels[at, c]) for at in near}
            counted = sum(weights[at] for at in near if value[at] != -1)
            row.append(sum(weights[at] for at in near if value[at] == 1) / counted if counted else 0.0)
        rows.append(row)
    return np.array(rows)


@pytest.fixture(params=[2**26, 24 * 4 * 17])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one block, and blocks of 17 rows: less than k, and not a part of either matrix."""
    monkeypatch.setattr(transfer.features.nearest, "_BLOCK", request.param)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("labels", [ONE, SEVERAL], ids=["one", "several"])
def test_brute_force(labels: NDArray[np.int64]) -> None:
    found = knn_scores(TRAIN, labels, TEST, 7, KS, 0.07)
    for k in KS:
        assert found[k].dtype == np.float32 and found[k].shape == (70, 7)
        assert found[k] == pytest.approx(brute(TRAIN, labels, TEST, k, 0.07), abs=2e-5)


@pytest.mark.usefixtures("blocks")
def test_scikit_learn() -> None:
    found = knn_scores(TRAIN, ONE, TEST, 7, KS, 0.1)
    for k in KS:
        reference = KNeighborsClassifier(k, weights=lambda far: np.exp((1 - far) / 0.1), metric="cosine")
        reference.fit(TRAIN, ONE)
        assert found[k] == pytest.approx(reference.predict_proba(TEST), abs=2e-5)
        assert (found[k].argmax(1) == reference.predict(TEST)).all()


@pytest.mark.usefixtures("blocks")
def test_of_equally_near_ones_the_first_counts() -> None:
    # Coordinates of 0, 1 and -1, two of them not 0: all similarities are exactly 0, 1/2 or 1, and most are equal.
    corners = np.array([[a * (i == c) + b * (j == c) for c in range(24)] for i in range(5) for j in range(i + 1, 6)
                        for a in (1, -1) for b in (1, -1)], np.float32)  # fmt: skip
    train = corners[RNG.integers(0, len(corners), 300)]
    for k in (1, 3, 17, 18, 40):
        want = brute(train, ONE, corners, k, 0.07)
        assert knn_scores(train, ONE, corners, 7, [k], 0.07)[k] == pytest.approx(want, abs=2e-5)


@pytest.mark.usefixtures("blocks")
def test_rows_that_are_left_out_and_memory_maps(tmp_path: Path) -> None:
    maps = []
    for name, features in (("train", TRAIN), ("test", TEST)):
        np.save(tmp_path / f"{name}.npy", features.astype(np.float16))
        maps.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    rows, test_rows = np.flatnonzero(RNG.random(300) < 0.5), np.array([5, 3, 60])
    found = knn_scores(maps[0], ONE, maps[1], 7, [9], 0.07, rows=rows, test_rows=test_rows)[9]
    want = brute(maps[0][rows], ONE[rows], maps[1][test_rows], 9, 0.07)
    assert found == pytest.approx(want, abs=2e-4)


def test_a_low_temperature_and_dead_features() -> None:
    first = knn_scores(TRAIN, ONE, TEST, 7, [1, 20], 1e-4)
    assert np.isfinite(first[20]).all() and (first[20].argmax(1) == first[1].argmax(1)).all()
    dead = knn_scores(np.zeros((4, 3), np.float16), np.array([0, 1, 1, 1]), np.zeros((2, 3), np.float16), 2, [1, 4])
    assert dead[1].tolist() == [[1, 0]] * 2 and dead[4].tolist() == [[0.25, 0.75]] * 2


def test_memory_does_not_grow_with_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer.features.nearest, "_BLOCK", 2**16)
    peaks = []
    for count in (2_000, 20_000):
        big = np.lib.format.open_memmap(tmp_path / f"{count}.npy", "w+", np.float16, (count, 64))
        big[:] = RNG.normal(size=(count, 64))
        rows = np.arange(count)
        labels = np.zeros(count, np.int64)
        tracemalloc.start()
        knn_scores(big, labels, big, 1, [20], rows=rows, test_rows=rows[:600])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000 < 20_000 * 64 * 2


def test_what_cannot_be_asked() -> None:
    for ks in ([0], [5, 301]):
        with pytest.raises(UserError, match=f"{ks[-1]} nearest neighbors of 300"):
            knn_scores(TRAIN, ONE, TEST, 7, ks)
    with pytest.raises(UserError, match="21 nearest neighbors of 20"):
        knn_scores(TRAIN, ONE, TEST, 7, [21], rows=np.arange(20))
    for t in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="temperature"):
            knn_scores(TRAIN, ONE, TEST, 7, [1], t)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("labels", [ONE, SEVERAL], ids=["one", "several"])
def test_a_gpu_says_the_same(labels: NDArray[np.int64]) -> None:
    found = knn_scores(TRAIN, labels, TEST, 7, KS, 0.07, "cuda")
    for k, want in knn_scores(TRAIN, labels, TEST, 7, KS, 0.07).items():
        assert found[k] == pytest.approx(want, abs=2e-5)


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, in which the results of these tests stand."""
    return Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("judging") / "run"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRETINT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def features(result: Result, run: Path, cache: Path, rule: str) -> tuple[Targets, list[FeatureSet]]:
    """Once more what a result was made of."""
    classes = result.classes if result.metric == "mAP" else ()
    targets, place = open_targets(result.train, result.test, classes), choose_compute("cpu", workers=0)
    view, network = View(result.view_size, result.view_ratio), open_network(str(run))
    found = [
        extract([network], source, view, [rule], place, CacheSettings(cache), (targets.train, view), "again")[0]
        for source in (targets.train, targets.test)
    ]
    return targets, found


def test_neighbors_are_those_of_a_search_by_force(run: Path, sets: Path, cache: Path) -> None:
    (sets / "train" / "class1" / "3.png").write_bytes(b"torn")
    settings = KnnSettings(str(sets / "train"), str(sets / "test"), reference=False, workers=0)
    (result,) = knn([str(run)], settings)
    assert [row.variant for row in result.rows[:3]] == ["k=10", "k=20", "k=100"]
    assert result.rows[3].variant == "k=119"  # 200 is more than there are
    assert result.best is None and len(result.rows) == 20
    targets, (train, test) = features(result, run, cache, "mean")
    known = torch.from_numpy(np.flatnonzero(train.good))
    labels = torch.from_numpy(targets.train.labels)
    assert len(known) == 119 and result.n_fit == 119
    for row in result.rows:
        x, asked = (torch.from_numpy(np.array(part.matrix(row.stage, "mean"), np.float64)) for part in (train, test))
        similarity = F.normalize(asked) @ F.normalize(x[known]).T
        near, index = similarity.sort(dim=1, descending=True, stable=True)
        k = int(row.variant.removeprefix("k="))
        votes = torch.zeros(len(asked), 3, dtype=torch.float64)
        votes.scatter_add_(1, labels[known][index[:, :k]], (near[:, :k] / 0.07).exp())
        correct = votes.argmax(1).numpy() == targets.test.labels
        (outcome,) = row.outcomes
        assert outcome.correct is not None
        # float32 may tell two votes, or two neighbors, apart otherwise than float64
        assert (outcome.correct != correct).sum() <= 1
        assert row.score.value == outcome.correct.mean()


@pytest.mark.parametrize(("count", "fraction", "ks"), [(2, 1.0, [6]), (5, 1.0, [10, 15]), (40, 0.05, [6])])
def test_k_is_at_most_the_number_of_training_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, fraction: float, ks: list[int]
) -> None:
    train = write_class_images(tmp_path / "train", 1, (count, count, count))
    test = write_class_images(tmp_path / "test", 2, (3, 3, 3))
    words = ["knn", str(run), "--train", str(train), "--test", str(test), "--fraction", str(fraction)]
    words += ["--out", str(tmp_path / "out")]
    assert main([*words, "--stages", "conv5", "--workers", "0", "--reference", "false"]) == 0
    printed = capsys.readouterr()
    large = ", ".join(str(k) for k in (10, 20, 100, 200) if k > ks[-1])
    line = f"k={ks[-1]}, all training images, in place of k={large}"
    assert f"run, knn: {line}\n" in printed.err
    assert f"nothing is chosen; {line}" in " ".join(printed.out.split())
    (result,) = find_results([tmp_path / "out"])
    assert [row.variant for row in result.rows] == [f"k={k}" for k in ks] and result.n_fit == ks[-1]
