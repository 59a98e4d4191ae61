"""Linear SVMs on frozen features, one against the rest, as Goyal et al. (ICCV 2019) judge on VOC07.

Features of unit length; liblinear's dual solver; for every class a cost of its own, by 3-fold cross-validation.

liblinear draws from one generator per process, so threads would change one another's results: several classes
at once take several processes. Every fit begins at the same seed, so no number depends on how many there are, nor
on what an earlier call had finished.
"""

import contextlib
import warnings
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from pretext.data.source import Labels
from pretext.engine.progress import Advance, progress
from pretext.errors import UserError
from transfer.probes.process_pool import forked

Array = NDArray[np.float32]
Kept = MutableMapping[str, NDArray[np.float64]]
"""What is finished, by name: small arrays. A dict forgets; one that writes to disk lets a killed call go on."""

COSTS = tuple(sorted({10.0**power for power in range(-7, 3)} | {0.5**power for power in range(4, 20)}))
"""The costs that Goyal et al. try: decades from 1e-7 to 100, and halvings from 0.5^4 to 0.5^19."""

ITERATIONS = 2000
"""Of the solver, at most."""

Task = tuple[Callable[..., NDArray[np.float64]], tuple[Any, ...]]


class SvmResult(NamedTuple):
    """A classifier of every class, with the cost that cross-validation chose."""

    scores: Array
    """(M, classes): distances of the test images to the planes, positive on the class's side."""
    chosen: NDArray[np.float64]
    """(classes,): the cost of each, the lowest of those that are best."""
    precision: NDArray[np.float64]
    """(classes,): its average precision, mean over the folds."""
    unconverged: int
    """How many fits, of all, still moved after `ITERATIONS` turns."""
    fits: int


def svm_scores(
    train: NDArray[np.floating],
    labels: Labels,
    test: NDArray[np.floating],
    classes: Sequence[str],
    costs: Sequence[float] = COSTS,
    folds: int = 3,
    seed: int = 0,
    kept: Kept | None = None,
    processes: int = 1,
    title: str = "SVMs",
) -> SvmResult:
    """Fit a linear SVM for every class, with the cost that has the best average precision in cross-validation.

    Args:
        train: (N, dims), of any floating type; taken to unit length here.
        labels: of the N images; those not counted for a class are left out of its fits.
        test: (M, dims).
        classes: their names.
        costs: C, to choose from.
        folds: of the stratified, shuffled cross-validation.
        seed: of the folds and of the solver.
        kept: what an earlier call with the same arguments finished, and where this one notes what it finishes: after
            every fit.
        processes: how many fits at once.
        title: of the progress bar.

    Raises:
        UserError: a class has fewer images with it, or without it, than there are folds.
    """
    kept = {} if kept is None else kept
    truth = one_against_rest(labels, len(classes))
    for name, column in zip(classes, truth.T, strict=True):
        for value, what in ((1, "with"), (0, "without")):
            count = int((column == value).sum())
            if count < folds:
                raise UserError(
                    f"{count} training images {what} {name}: {folds} folds of the cross-validation need {folds}; "
                    "give more of them, or leave the class out"
                )
    x = unit_length(train)
    trials = {
        f"class {one}, C {cost!r}, fold {fold}": (_fold_precision, (truth[:, one], cost, fold, folds, seed))
        for one in range(len(classes))
        for cost in sorted(costs)
        for fold in range(folds)
    }
    with progress(title, len(trials) + len(classes), "fits", done=done(kept, trials)) as advance:
        found = finished(trials, (x,), kept, processes, advance)
        each = np.array([value[0] for value in found]).reshape(len(classes), len(costs), folds).mean(2)
        best = each.argmax(1)
        chosen = np.array(sorted(costs))[best]
        finals = {
            f"class {one}, C {cost!r}": (_final, (truth[:, one], cost, seed))
            for one, cost in enumerate(chosen.tolist())
        }
        advance(done(kept, finals), "")
        last = finished(finals, (x, unit_length(test)), kept, processes, advance)
    stopped = sum(value[-1] >= ITERATIONS for value in [*found, *last])
    scores = np.stack([value[:-1] for value in last], 1).astype(np.float32)
    return SvmResult(scores, chosen, each[np.arange(len(classes)), best], stopped, len(found) + len(last))


def average_precision(scores: NDArray[np.floating], truth: NDArray[np.int8]) -> float:
    """Area under the precision-recall curve, as scikit-learn sums it, over images that are counted.

    Args:
        scores: (M,).
        truth: (M,), 1 present, 0 absent, -1 not counted.

    Returns:
        nan where no counted image shows the class.
    """
    counted = truth != -1
    if not (truth == 1).any():
        return float("nan")
    return float(average_precision_score(truth[counted], scores[counted]))


def unit_length(features: NDArray[np.floating]) -> Array:
    """Rows divided by their length plus 1e-5, as released by Goyal et al.: float32 (N, dims)."""
    x = np.array(features, np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True) + np.float32(1e-5)
    return x


def one_against_rest(labels: Labels, classes: int) -> NDArray[np.int8]:
    """int8 (N, classes) in {1, 0, -1}, see ``Labels``, of labels of either kind."""
    if labels.ndim == 2:
        return labels.astype(np.int8, copy=False)
    found: NDArray[np.int8] = (labels[:, None] == np.arange(classes)).astype(np.int8)
    return found


def unconverged(stopped: int, fits: int) -> str:
    """A line for the user on fits that had not come to rest; empty where all had."""
    if not stopped:
        return ""
    still = f"{stopped:,} of {fits:,} SVM fits still moved after the solver's {ITERATIONS:,} turns"
    return f"{still}; their scores count as they are"


def done(kept: Kept, tasks: Mapping[str, Task]) -> int:
    """How many of the tasks are finished already."""
    return sum(name in kept for name in tasks)


def finished(
    tasks: Mapping[str, Task], matrices: tuple[Array, ...], kept: Kept, processes: int, advance: Advance
) -> list[NDArray[np.float64]]:
    """What every task gives, in their order; those that are not kept are done now, and noted one by one."""

    def work(name: str) -> NDArray[np.float64]:
        task, given = tasks[name]
        return task(*matrices, *given)

    left = [name for name in tasks if name not in kept]
    with threadpool_limits(1), contextlib.closing(forked(work, left, processes)) as pieces:  # one core a process
        for name, value in pieces:
            kept[name] = value
            advance(1, "")
    return [kept[name] for name in tasks]


def fitted(x: NDArray[np.float64], positive: NDArray[np.bool_], cost: float, seed: int) -> LinearSVC:
    """A classifier of unit features x (n, dims), as the protocol has it."""
    model = LinearSVC(
        C=cost, dual=True, tol=1e-4, max_iter=ITERATIONS, class_weight={1: 2, -1: 1}, random_state=seed % 2**32
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # they are counted
        return model.fit(x, np.where(positive, 1, -1))


def _fold_precision(
    x: Array, column: NDArray[np.int8], cost: float, fold: int, folds: int, seed: int
) -> NDArray[np.float64]:
    """Average precision on a fold of what the others teach, and the turns it took."""
    rows = np.flatnonzero(column != -1)
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32).split(rows, column[rows])
    fit, held = list(parts)[fold]
    model = fitted(x[rows[fit]].astype(np.float64), column[rows[fit]] == 1, cost, seed)
    precision = average_precision(model.decision_function(x[rows[held]]), column[rows[held]])
    return np.array([precision, model.n_iter_], np.float64)


def _final(x: Array, test: Array, column: NDArray[np.int8], cost: float, seed: int) -> NDArray[np.float64]:
    """Scores of the test images, and the turns it took."""
    rows = np.flatnonzero(column != -1)
    model = fitted(x[rows].astype(np.float64), column[rows] == 1, cost, seed)
    return np.append(model.decision_function(test), model.n_iter_)
