"""Low-shot SVMs against plain ones on the same shots; the cost is chosen where the classifier has not been."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from sklearn.svm import LinearSVC

from pretext.errors import UserError
from transfer.probes.low_shot import lowshot
from transfer.splits import shots

RNG = np.random.default_rng(1)
NAMES = ["cat", "dog", "eel"]
COSTS = (0.01, 1.0, 10.0)
ONE = np.repeat(np.arange(3), 50)
SEVERAL = RNG.choice(np.array([1, 0, 0, -1], np.int8), (150, 3))


@pytest.mark.parametrize("dims", [12, 200], ids=["more images than dimensions", "fewer"])
@pytest.mark.parametrize("labels", [ONE, SEVERAL], ids=["one", "several"])
def test_plain_svms_on_the_same_shots(labels: NDArray[np.int64], dims: int) -> None:
    train = (RNG.normal(size=(150, dims)) + 3 * np.eye(3, dims)[ONE]).astype(np.float32)
    test = RNG.normal(size=(30, dims)).astype(np.float32)
    found = lowshot(train, labels, test, NAMES, (1, 8), samples=2, costs=COSTS, seed=3)
    x, y = (one / (np.linalg.norm(one, axis=1, keepdims=True) + 1e-5) for one in (train, test))
    for k in (1, 8):
        each: dict[float, list[float]] = {cost: [] for cost in COSTS}
        for sample in range(2):
            for c in range(3):
                column = (labels == c).astype(int) if labels.ndim == 1 else labels[:, c]
                drawn = shots(labels, c, 3, k, sample, 3)
                rows, signs = np.concatenate(drawn), np.repeat([1, -1], [len(one) for one in drawn])
                rest = [at for at in range(150) if at not in set(rows) and column[at] != -1]
                for cost in COSTS:
                    model = LinearSVC(dual=True, C=cost, max_iter=2000, class_weight={1: 2, -1: 1}, random_state=3)
                    model.fit(x[rows].astype(np.float64), signs)
                    each[cost].append(average_precision_score(column[rest], model.decision_function(x[rest])))
                    if cost == found.chosen[k]:
                        want = model.decision_function(y)
                        assert found.scores[k][sample][:, c] == pytest.approx(want, abs=1e-3)
        mean = {cost: float(np.mean(values)) for cost, values in each.items()}
        assert mean[found.chosen[k]] == pytest.approx(max(mean.values()), abs=1e-3)
        assert found.precision[k] == pytest.approx(max(mean.values()), abs=1e-3)
    assert found.fits == 2 * 2 * 3 * (len(COSTS) + 1)


def test_nothing_depends_on_processes_or_lives() -> None:
    train, test = RNG.normal(size=(150, 8)), RNG.normal(size=(9, 8))
    whole = lowshot(train, SEVERAL, test, NAMES, (2, 4), 2, COSTS, 0)
    kept: dict[str, NDArray[np.float64]] = {}
    lowshot(train, SEVERAL, test, NAMES, (2, 4), 2, COSTS, 0, kept=kept, processes=2)
    for name in sorted(kept)[::2]:
        del kept[name]
    again = lowshot(train, SEVERAL, test, NAMES, (2, 4), 2, COSTS, 0, kept=kept)
    assert again.chosen == whole.chosen and again.precision == whole.precision
    for k in (2, 4):
        assert all(np.array_equal(*pair) for pair in zip(whole.scores[k], again.scores[k], strict=True))


def test_the_test_images_choose_nothing() -> None:
    train = RNG.normal(size=(150, 8))
    found = [lowshot(train, ONE, RNG.normal(size=(9, 8)), NAMES, (4,), 1, COSTS, 0) for _ in range(2)]
    assert found[0].chosen == found[1].chosen and found[0].precision == found[1].precision


def test_too_few_images() -> None:
    train, few = RNG.normal(size=(150, 8)), np.minimum(np.arange(150), 2)
    with pytest.raises(UserError, match="1 training images with cat and 149 without: 2 shots need 2"):
        lowshot(train, few, train[:3], NAMES, (1, 2), 1, COSTS)
    with pytest.raises(UserError, match="50 shots take all"):
        lowshot(train, ONE, train[:3], NAMES, (50,), 1, COSTS)
    assert lowshot(train, ONE, train[:3], NAMES, (49,), 1, COSTS).chosen[49] in COSTS
