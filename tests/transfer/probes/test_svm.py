"""Linear SVMs against scikit-learn's cross-validation, low-shot ones against plain ones on the same shots.

They are killed and gone on with; and they are run as whole evaluations.
"""

import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.svm import LinearSVC

import transfer.probes.svm
from pretext.errors import UserError
from tests.transfer.probes.test_knn import features
from transfer.probes.process_pool import Finished
from transfer.probes.svm import (
    SvmSettings,
    average_precision,
    low_shot_scores,
    svm,
    svm_scores,
    unit_length,
)
from transfer.protocols import COSTS, PROTOCOLS, SvmProtocol
from transfer.splits import shots

RNG = np.random.default_rng(0)
NAMES = ["cat", "dog", "eel"]
COSTS_TRIED = (0.01, 1.0, 100.0)
ONE = RNG.integers(0, 3, 120)
SEVERAL = RNG.choice(np.array([1, 0, 0, -1], np.int8), (120, 3))
TRAIN = (RNG.normal(size=(120, 20)) + ONE[:, None] * np.eye(3, 20)[ONE]).astype(np.float16)
TEST = RNG.normal(size=(40, 20)).astype(np.float16)
SHOT_RNG = np.random.default_rng(1)
SHOT_COSTS = (0.01, 1.0, 10.0)
SHOT_ONE = np.repeat(np.arange(3), 50)
SHOT_SEVERAL = SHOT_RNG.choice(np.array([1, 0, 0, -1], np.int8), (150, 3))


def plain(x: NDArray[np.floating]) -> NDArray[np.float64]:
    x = x.astype(np.float32)
    return (x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5)).astype(np.float64)


def model(cost: float, seed: int) -> LinearSVC:
    return LinearSVC(penalty="l2", loss="squared_hinge", dual=True, tol=1e-4, C=cost, max_iter=2000,
                     class_weight={1: 2, -1: 1}, random_state=seed)  # fmt: skip


def test_the_costs_of_goyal() -> None:
    assert len(COSTS) == 26 and COSTS[0] == 1e-7 and COSTS[-1] == 100 and 0.5**19 in COSTS and 0.5**4 in COSTS


@pytest.mark.parametrize("labels", [ONE, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize("processes", [1, 2])
def test_scikit_learn_run_plainly(labels: NDArray[np.int64], processes: int) -> None:
    found = svm_scores(TRAIN, labels, TEST, NAMES, COSTS_TRIED, seed=5, processes=processes)
    assert found.scores.dtype == np.float32 and found.scores.shape == (40, 3)
    x, test = plain(TRAIN), plain(TEST)
    for c in range(3):
        column = (labels == c).astype(int) if labels.ndim == 1 else labels[:, c]
        own, y = x[column != -1], np.where(column[column != -1] == 1, 1, -1)
        folds = StratifiedKFold(3, shuffle=True, random_state=5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            each = [
                cross_val_score(model(cost, 5), own, y, cv=folds, scoring="average_precision").mean()
                for cost in COSTS_TRIED
            ]
            fitted = model(COSTS_TRIED[int(np.argmax(each))], 5).fit(own, y)
        assert found.chosen[c] == fitted.C
        assert found.precision[c] == pytest.approx(max(each), abs=1e-6)
        assert found.scores[:, c] == pytest.approx(fitted.decision_function(test), abs=1e-5)
    assert found.fits == 30


class Killed(Exception):
    pass


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_gone_on_with(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = svm_scores(TRAIN, SEVERAL, TEST, NAMES, COSTS_TRIED, seed=5)
    results: dict[str, NDArray[np.float64]] = {}

    def save() -> None:
        if len(results) % 7 == 0:
            raise Killed

    kept = Finished(results, save)
    for turn in range(1, 5):  # 30 fits, 7 a life
        with pytest.raises(Killed):
            svm_scores(TRAIN, SEVERAL, TEST, NAMES, COSTS_TRIED, seed=5, finished=kept, processes=processes)
        assert len(results) == 7 * turn
    again = svm_scores(TRAIN, SEVERAL, TEST, NAMES, COSTS_TRIED, seed=5, finished=kept, processes=processes)
    for one, other in zip(whole, again, strict=True):
        assert np.array_equal(one, other)
    monkeypatch.setattr(transfer.probes.svm, "fit_svm", None)  # nothing is left to fit
    last = svm_scores(TRAIN, SEVERAL, TEST, NAMES, COSTS_TRIED, seed=5, finished=kept)
    assert np.array_equal(last.scores, whole.scores)


def test_fits_that_do_not_settle_are_counted_and_not_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer.probes.svm, "ITERATIONS", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = svm_scores(TRAIN, ONE, TEST, NAMES, (100.0,), seed=5)
    assert (found.unconverged, found.fits) == (12, 12)


def test_classes_with_too_few_images() -> None:
    labels = np.array([0] * 100 + [1] * 18 + [2] * 2)
    with pytest.raises(UserError, match="2 training images with eel: 3 folds"):
        svm_scores(TRAIN, labels, TEST, NAMES)
    several = np.where(RNG.random((120, 3)) < 0.5, 1, 0).astype(np.int8)
    several[:, 1] = 1
    several[:40, 1] = -1
    with pytest.raises(UserError, match="0 training images without dog"):
        svm_scores(TRAIN, several, TEST, NAMES)


def test_average_precision_leaves_out_what_is_not_counted() -> None:
    scores, truth = RNG.normal(size=60), RNG.choice(np.array([1, 0, -1], np.int8), 60)
    counted = truth != -1
    assert average_precision(scores, truth) == average_precision_score(truth[counted], scores[counted])
    assert np.isnan(average_precision(scores, np.where(counted, 0, -1).astype(np.int8)))


def test_unit_length() -> None:
    assert unit_length(TRAIN) == pytest.approx(plain(TRAIN), abs=1e-6)
    assert (unit_length(np.zeros((2, 3), np.float16)) == 0).all()


@pytest.mark.parametrize("dims", [12, 200], ids=["more images than dimensions", "fewer"])
@pytest.mark.parametrize("labels", [SHOT_ONE, SHOT_SEVERAL], ids=["one", "several"])
def test_plain_svms_on_the_same_shots(labels: NDArray[np.int64], dims: int) -> None:
    train = (SHOT_RNG.normal(size=(150, dims)) + 3 * np.eye(3, dims)[SHOT_ONE]).astype(np.float32)
    test = SHOT_RNG.normal(size=(30, dims)).astype(np.float32)
    found = low_shot_scores(train, labels, test, NAMES, (1, 8), samples=2, costs=SHOT_COSTS, seed=3)
    x, y = (one / (np.linalg.norm(one, axis=1, keepdims=True) + 1e-5) for one in (train, test))
    for k in (1, 8):
        each: dict[float, list[float]] = {cost: [] for cost in SHOT_COSTS}
        for sample in range(2):
            for c in range(3):
                column = (labels == c).astype(int) if labels.ndim == 1 else labels[:, c]
                drawn = shots(labels, c, 3, k, sample, 3)
                rows, signs = np.concatenate(drawn), np.repeat([1, -1], [len(one) for one in drawn])
                rest = [at for at in range(150) if at not in set(rows) and column[at] != -1]
                for cost in SHOT_COSTS:
                    model = LinearSVC(dual=True, C=cost, max_iter=2000, class_weight={1: 2, -1: 1}, random_state=3)
                    model.fit(x[rows].astype(np.float64), signs)
                    each[cost].append(average_precision_score(column[rest], model.decision_function(x[rest])))
                    if cost == found.chosen[k]:
                        want = model.decision_function(y)
                        assert found.scores[k][sample][:, c] == pytest.approx(want, abs=1e-3)
        mean = {cost: float(np.mean(values)) for cost, values in each.items()}
        assert mean[found.chosen[k]] == pytest.approx(max(mean.values()), abs=1e-3)
        assert found.precision[k] == pytest.approx(max(mean.values()), abs=1e-3)
    assert found.fits == 2 * 2 * 3 * (len(SHOT_COSTS) + 1)


def test_nothing_depends_on_processes_or_lives() -> None:
    train, test = SHOT_RNG.normal(size=(150, 8)), SHOT_RNG.normal(size=(9, 8))
    whole = low_shot_scores(train, SHOT_SEVERAL, test, NAMES, (2, 4), 2, SHOT_COSTS, 0)
    kept = Finished({})
    low_shot_scores(train, SHOT_SEVERAL, test, NAMES, (2, 4), 2, SHOT_COSTS, 0, finished=kept, processes=2)
    for name in sorted(kept.results)[::2]:
        del kept.results[name]
    again = low_shot_scores(train, SHOT_SEVERAL, test, NAMES, (2, 4), 2, SHOT_COSTS, 0, finished=kept)
    assert again.chosen == whole.chosen and again.precision == whole.precision
    for k in (2, 4):
        assert all(np.array_equal(*pair) for pair in zip(whole.scores[k], again.scores[k], strict=True))


def test_the_test_images_choose_nothing() -> None:
    train = SHOT_RNG.normal(size=(150, 8))
    found = [
        low_shot_scores(train, SHOT_ONE, SHOT_RNG.normal(size=(9, 8)), NAMES, (4,), 1, SHOT_COSTS, 0) for _ in range(2)
    ]
    assert found[0].chosen == found[1].chosen and found[0].precision == found[1].precision


def test_too_few_images() -> None:
    train, few = SHOT_RNG.normal(size=(150, 8)), np.minimum(np.arange(150), 2)
    with pytest.raises(UserError, match="1 training images with cat and 149 without: 2 shots need 2"):
        low_shot_scores(train, few, train[:3], NAMES, (1, 2), 1, SHOT_COSTS)
    with pytest.raises(UserError, match="50 shots take all"):
        low_shot_scores(train, SHOT_ONE, train[:3], NAMES, (50,), 1, SHOT_COSTS)
    assert low_shot_scores(train, SHOT_ONE, train[:3], NAMES, (49,), 1, SHOT_COSTS).chosen[49] in SHOT_COSTS


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("judging") / "run"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRETINT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
