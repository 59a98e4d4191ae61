"""Linear SVMs against scikit-learn's own cross-validation, run plainly; killed and gone on with."""

import multiprocessing
import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.svm import LinearSVC

from pretext.errors import UserError
from transfer.probes import linear_svm
from transfer.probes.linear_svm import COSTS, average_precision, svm_scores, unconverged, unit_length
from transfer.probes.process_pool import forked

RNG = np.random.default_rng(0)
NAMES = ["cat", "dog", "eel"]
COSTS_TRIED = (0.01, 1.0, 100.0)
ONE = RNG.integers(0, 3, 120)
SEVERAL = RNG.choice(np.array([1, 0, 0, -1], np.int8), (120, 3))
TRAIN = (RNG.normal(size=(120, 20)) + ONE[:, None] * np.eye(3, 20)[ONE]).astype(np.float16)
TEST = RNG.normal(size=(40, 20)).astype(np.float16)


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


class Mortal(dict[str, NDArray[np.float64]]):
    """What is kept by a process that is killed after some notes."""

    left = 7

    def __setitem__(self, name: str, value: NDArray[np.float64]) -> None:
        if not self.left:
            raise Killed
        self.left -= 1
        super().__setitem__(name, value)


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_gone_on_with(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = svm_scores(TRAIN, SEVERAL, TEST, NAMES, COSTS_TRIED, seed=5)
    kept = Mortal()
    for turn in range(1, 5):  # 30 fits, 7 a life
        with pytest.raises(Killed):
            svm_scores(TRAIN, SEVERAL, TEST, NAMES, COSTS_TRIED, seed=5, kept=kept, processes=processes)
        assert len(kept) == 7 * turn
        kept.left = 7
    again = svm_scores(TRAIN, SEVERAL, TEST, NAMES, COSTS_TRIED, seed=5, kept=kept, processes=processes)
    for one, other in zip(whole, again, strict=True):
        assert np.array_equal(one, other)
    monkeypatch.setattr(linear_svm, "fitted", None)  # nothing is left to fit
    last = svm_scores(TRAIN, SEVERAL, TEST, NAMES, COSTS_TRIED, seed=5, kept=kept)
    assert np.array_equal(last.scores, whole.scores)


def test_fits_that_do_not_settle_are_counted_and_not_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_svm, "ITERATIONS", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = svm_scores(TRAIN, ONE, TEST, NAMES, (100.0,), seed=5)
    assert (found.unconverged, found.fits) == (12, 12)
    assert unconverged(12, 12).startswith("12 of 12 SVM fits") and not unconverged(0, 12)


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


def test_a_process_that_is_killed_is_one_line() -> None:
    with pytest.raises(UserError, match="that worked on b was killed"):
        list(forked(lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == "b" else np.zeros(1), "abc", 2))  # type: ignore[func-returns-value, return-value]


def test_processes_end_when_the_one_that_began_them_is_killed(tmp_path: Path) -> None:
    def work(name: str) -> NDArray[np.float64]:
        (tmp_path / str(os.getpid())).touch()
        if name == "d":
            os.kill(os.getppid(), signal.SIGKILL)
        return np.zeros(1)

    parent = multiprocessing.get_context("fork").Process(target=lambda: list(forked(work, "abcdef", 2)))
    parent.start()
    parent.join()
    assert parent.exitcode == -signal.SIGKILL

    def alive() -> list[Path]:
        stats = [Path("/proc", file.name, "stat") for file in tmp_path.iterdir()]
        return [stat for stat in stats if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"]

    for _ in range(2000):
        if not alive():
            break
        time.sleep(0.01)
    assert not alive() and len(list(tmp_path.iterdir())) >= 1


def test_what_a_process_raises_is_raised_here_and_no_process_stays() -> None:
    before = multiprocessing.active_children()

    def work(name: str) -> NDArray[np.float64]:
        if name == "c":
            raise UserError(f"{name} is bad")
        return np.full(3, ord(name), np.float64)

    with pytest.raises(UserError, match="c is bad"):
        list(forked(work, "abcdef", 2))
    found = dict(forked(work, "abdef", 3))
    assert {name: value.tolist() for name, value in found.items()} == {name: [ord(name)] * 3 for name in "abdef"}
    assert multiprocessing.active_children() == before
