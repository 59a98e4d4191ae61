"""Nearest neighbors and support vector machines as whole evaluations."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluating import images, tiny_run
from sklearn.metrics import average_precision_score
from sklearn.svm import LinearSVC
from torch.nn import functional as F

from pretext.engine.device import pick_place
from pretint.cli import main
from transfer.features import CacheSettings, FeatureSet, View, extract
from transfer.networks import open_network
from transfer.probes.knn import KnnSettings, SvmSettings, knn, svm
from transfer.protocols import PROTOCOLS, SvmProtocol
from transfer.results import Result, find_results
from transfer.targets import Targets, open_targets


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("judging") / "run")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRETINT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def features(result: Result, run: Path, cache: Path, rule: str) -> tuple[Targets, list[FeatureSet]]:
    """Once more what a result was made of."""
    classes = result.classes if result.metric == "mAP" else ()
    targets, place = open_targets(result.train, result.test, classes), pick_place("cpu", workers=0)
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
    train = images(tmp_path / "train", 1, (count, count, count))
    test = images(tmp_path / "test", 2, (3, 3, 3))
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


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> SvmProtocol:
    protocol = PROTOCOLS["voc07_svm"]
    assert isinstance(protocol, SvmProtocol)
    fewer = replace(protocol, costs=(0.01, 1.0))
    monkeypatch.setitem(PROTOCOLS, "voc07_svm", fewer)
    low = replace(fewer, name="voc07_svm_lowshot", shots=(1, 2, 64), samples=2)
    monkeypatch.setitem(PROTOCOLS, "voc07_svm_lowshot", low)
    return fewer


def test_a_machine_for_every_class_of_images_with_several(
    run: Path, shared_data: Path, cache: Path, machines: SvmProtocol
) -> None:
    voc = shared_data / "voc-mini"
    settings = SvmSettings(
        f"voc:2007:trainval:{voc}",
        f"voc:2007:test:{voc}",
        ["person", "dog"],
        stages=["conv4"],
        reference=False,
        workers=0,
    )
    (result,) = svm([str(run)], settings)
    (row,) = result.rows
    assert (result.metric, result.best, result.classes) == ("mAP", "conv4", ("person", "dog"))
    targets, (train, test) = features(result, run, cache, "goyal2019")
    x, asked = (np.array(part.matrix("conv4", "goyal2019"), np.float32) for part in (train, test))
    x, asked = (one / (np.linalg.norm(one, axis=1, keepdims=True) + 1e-5) for one in (x, asked))
    precisions = []
    for one, cost in enumerate(row.chosen["C"]):
        column, truth = targets.train.labels[:, one], targets.test.labels[:, one]
        known, counted = column != -1, truth != -1
        model = LinearSVC(C=cost, tol=1e-4, max_iter=2000, class_weight={1: 2, -1: 1}, random_state=0)
        model.fit(x[known].astype(np.float64), np.where(column[known] == 1, 1, -1))
        precisions.append(average_precision_score(truth[counted], model.decision_function(asked[counted])))
    assert row.score.value == pytest.approx(np.mean(precisions), abs=0.002)
    assert set(row.chosen["C"]) <= set(machines.costs)


def test_machines_of_few_shots(
    run: Path, sets: Path, machines: SvmProtocol, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SvmSettings(
        str(sets / "train"),
        str(sets / "test"),
        stages=["conv4"],
        reference=False,
        workers=0,
        protocol="voc07_svm_lowshot",
    )
    (result,) = svm([str(run)], settings)
    assert [(row.name, len(row.outcomes)) for row in result.rows] == [("conv4, 1 shot", 2), ("conv4, 2 shots", 2)]
    assert "left out: 64 shots; class" in capsys.readouterr().err
    assert result.best is None
    for row in result.rows:
        one, other = (outcome.correct for outcome in row.outcomes)
        assert one is not None and other is not None
        assert row.score.value == pytest.approx((one.mean() + other.mean()) / 2)
        assert not np.array_equal(one, other) and row.chosen["C"] in machines.costs
