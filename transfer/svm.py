"""Linear SVMs on frozen features, one against the rest, as Goyal et al. (ICCV 2019) judge on VOC07.

Features of unit length; liblinear's dual solver; a cost of its own for every class, by 3-fold cross-validation; and
low-shot classifiers, whose cost is chosen on training pictures too (theirs was chosen on the test pictures).

liblinear draws from one generator per process, so threads would change one another's results: several classes
at once take several processes. Every fit begins at the same seed, so no number depends on how many there are, nor
on what an earlier call had finished.
"""

import warnings
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from pretext.engine.progress import Advance, progress
from pretext.errors import UserError
from pretext.pictures.order import mix, permutation
from pretext.pictures.source import Labels
from transfer.splits import Shots, shots

Array = NDArray[np.float32]
Kept = MutableMapping[str, NDArray[np.float64]]
"""What is finished, by name: small arrays. A dict forgets; one that writes to disk lets a killed call go on."""

COSTS = tuple(sorted({10.0**power for power in range(-7, 3)} | {0.5**power for power in range(4, 20)}))
"""The costs that Goyal et al. try: decades from 1e-7 to 100, and halvings from 0.5^4 to 0.5^19."""

ITERATIONS = 2000
"""Of the solver, at most."""

_WATCHED = 0x3A7C
_Task = tuple[Callable[..., NDArray[np.float64]], tuple[Any, ...]]


class SvmResult(NamedTuple):
    """A classifier of every class, with the cost that cross-validation chose."""

    scores: Array
    """(M, classes): distances of the test pictures to the planes, positive on the class's side."""
    chosen: NDArray[np.float64]
    """(classes,): the cost of each, the lowest of those that are best."""
    precision: NDArray[np.float64]
    """(classes,): its average precision, mean over the folds."""
    unconverged: int
    """How many fits, of all, still moved after `ITERATIONS` turns."""
    fits: int


class LowShot(NamedTuple):
    """Classifiers learnt from k pictures of every class, for several k and samples."""

    scores: dict[int, list[Array]]
    """k -> for every sample (M, classes), as in ``SvmResult``."""
    chosen: dict[int, float]
    """k -> the cost: of all samples and classes."""
    precision: dict[int, float]
    """k -> its average precision on the training pictures that were not learnt from, mean over classes and samples."""
    unconverged: int
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
        labels: of the N pictures; those not counted for a class are left out of its fits.
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
        UserError: a class has fewer pictures with it, or without it, than there are folds.
    """
    kept = {} if kept is None else kept
    truth = one_against_rest(labels, len(classes))
    for name, column in zip(classes, truth.T, strict=True):
        for value, what in ((1, "with"), (0, "without")):
            count = int((column == value).sum())
            if count < folds:
                raise UserError(
                    f"{count} training pictures {what} {name}: {folds} folds of the cross-validation need {folds}; "
                    "give more of them, or leave the class out"
                )
    x = unit_length(train)
    trials = {
        f"class {one}, C {cost!r}, fold {fold}": (_fold_precision, (truth[:, one], cost, fold, folds, seed))
        for one in range(len(classes))
        for cost in sorted(costs)
        for fold in range(folds)
    }
    with progress(title, len(trials) + len(classes), "fits", done=_done(kept, trials)) as advance:
        found = _finished(trials, (x,), kept, processes, advance)
        each = np.array([value[0] for value in found]).reshape(len(classes), len(costs), folds).mean(2)
        best = each.argmax(1)
        chosen = np.array(sorted(costs))[best]
        finals = {
            f"class {one}, C {cost!r}": (_final, (truth[:, one], cost, seed))
            for one, cost in enumerate(chosen.tolist())
        }
        advance(_done(kept, finals), "")
        last = _finished(finals, (x, unit_length(test)), kept, processes, advance)
    stopped = sum(value[-1] >= ITERATIONS for value in [*found, *last])
    scores = np.stack([value[:-1] for value in last], 1).astype(np.float32)
    return SvmResult(scores, chosen, each[np.arange(len(classes)), best], stopped, len(found) + len(last))


def lowshot(
    train: NDArray[np.floating],
    labels: Labels,
    test: NDArray[np.floating],
    classes: Sequence[str],
    ks: Sequence[int],
    samples: int = 5,
    costs: Sequence[float] = COSTS,
    seed: int = 0,
    most: int = 2000,
    kept: Kept | None = None,
    processes: int = 1,
    title: str = "low-shot SVMs",
) -> LowShot:
    """Fit linear SVMs on k pictures of every class, and (C - 1) k without it; see ``splits.shots``.

    One cost serves all samples and classes of a k, as with Goyal et al.: the one with the best average precision, mean
    over classes and samples, on those of ``most`` training pictures, drawn by the seed, that the class was not learnt from.
    Test pictures choose nothing.

    Args:
        train: (N, dims).
        labels: of the N pictures.
        test: (M, dims).
        classes: their names.
        ks: how many pictures with a class it is learnt from.
        samples: how many samples of each k.
        costs: C, to choose from.
        seed: of the samples and of the solver.
        most: see above.
        kept: as in ``svm_scores``.
        processes: how many classes at once.
        title: of the progress bar.

    Raises:
        UserError: a class has fewer pictures with it than k, or none without it; or all pictures with any class
            are learnt from, so that none is left to choose a cost by.
    """
    kept = {} if kept is None else kept
    costs = sorted(costs)
    truth = one_against_rest(labels, len(classes))
    watched = np.sort(np.argsort(permutation(len(truth), mix(seed, _WATCHED)))[:most])
    units = {
        (k, sample, one): shots(labels, one, len(classes), k, sample, seed)
        for k in ks
        for sample in range(samples)
        for one in range(len(classes))
    }
    for (k, _, one), drawn in units.items():
        if len(drawn.positives) < k or not len(drawn.negatives):
            raise UserError(
                f"{int((truth[:, one] == 1).sum())} training pictures with {classes[one]} and "
                f"{int((truth[:, one] == 0).sum())} without: {k} shots need {k}, and one without; take fewer shots"
            )
    x = unit_length(train)
    trials = {
        _shot(unit): (_shot_precisions, (truth[:, unit[2]], drawn, watched, costs, seed))
        for unit, drawn in units.items()
    }
    with progress(title, 2 * len(units), "classifiers", done=_done(kept, trials)) as advance:
        found = _finished(trials, (x,), kept, processes, advance)
        each = np.array([value[:-1] for value in found]).reshape(len(ks), samples * len(classes), len(costs))
        blind = np.isnan(each).all((1, 2))
        if blind.any():
            raise UserError(
                f"{ks[int(blind.argmax())]} shots take all training pictures of every class, and none is left to "
                "choose a cost by; take fewer shots"
            )
        mean = np.nanmean(each, 1)
        chosen = {k: costs[int(row.argmax())] for k, row in zip(ks, mean, strict=True)}
        finals = {
            f"{_shot(unit)}, C {chosen[unit[0]]!r}": (_shot_final, (drawn, chosen[unit[0]], seed))
            for unit, drawn in units.items()
        }
        advance(_done(kept, finals), "")
        last = _finished(finals, (x, unit_length(test)), kept, processes, advance)
    stopped = int(sum(value[-1] for value in found) + sum(value[-1] >= ITERATIONS for value in last))
    scores = np.stack([value[:-1] for value in last], 1).astype(np.float32)
    planes = np.split(scores, len(ks) * samples, 1)
    return LowShot(
        {k: planes[at * samples : (at + 1) * samples] for at, k in enumerate(ks)},
        chosen,
        {k: float(row.max()) for k, row in zip(ks, mean, strict=True)},
        stopped,
        len(found) * len(costs) + len(last),
    )


def average_precision(scores: NDArray[np.floating], truth: NDArray[np.int8]) -> float:
    """Area under the precision-recall curve, as scikit-learn sums it, over pictures that are counted.

    Args:
        scores: (M,).
        truth: (M,), 1 present, 0 absent, -1 not counted.

    Returns:
        nan where no counted picture shows the class.
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
    return (labels[:, None] == np.arange(classes)).astype(np.int8)


def unconverged(stopped: int, fits: int) -> str:
    """A line for the user on fits that had not come to rest; empty where all had."""
    if not stopped:
        return ""
    return f"{stopped:,} of {fits:,} SVM fits still moved after the solver's {ITERATIONS:,} turns; they are used as they are"


def _shot(unit: tuple[int, int, int]) -> str:
    k, sample, one = unit
    return f"k {k}, sample {sample}, class {one}"


def _done(kept: Kept, tasks: Mapping[str, _Task]) -> int:
    return sum(name in kept for name in tasks)


def _finished(
    tasks: Mapping[str, _Task], matrices: tuple[Array, ...], kept: Kept, processes: int, advance: Advance
) -> list[NDArray[np.float64]]:
    """What every task gives, in their order; those that are not kept are done now, and noted one by one."""
    left = [name for name in tasks if name not in kept]
    calls = (joblib.delayed(_call)(name, *tasks[name], matrices) for name in left)
    for name, value in joblib.Parallel(min(processes, len(left)) or 1, return_as="generator_unordered")(calls):
        kept[name] = value
        advance(1, "")
    return [kept[name] for name in tasks]


def _call(name: str, task: Callable[..., Any], given: tuple[Any, ...], matrices: tuple[Array, ...]) -> tuple[str, Any]:
    return name, task(*matrices, *given)


def _fitted(x: NDArray[np.float64], positive: NDArray[np.bool_], cost: float, seed: int) -> LinearSVC:
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
    model = _fitted(x[rows[fit]].astype(np.float64), column[rows[fit]] == 1, cost, seed)
    precision = average_precision(model.decision_function(x[rows[held]]), column[rows[held]])
    return np.array([precision, model.n_iter_], np.float64)


def _final(x: Array, test: Array, column: NDArray[np.int8], cost: float, seed: int) -> NDArray[np.float64]:
    """Scores of the test pictures, and the turns it took."""
    rows = np.flatnonzero(column != -1)
    model = _fitted(x[rows].astype(np.float64), column[rows] == 1, cost, seed)
    return np.append(model.decision_function(test), model.n_iter_)


def _shot_precisions(
    x: Array, column: NDArray[np.int8], drawn: Shots, watched: NDArray[np.int64], costs: Sequence[float], seed: int
) -> NDArray[np.float64]:
    """Average precision for every cost on watched pictures (nan: none shows the class), and how many did not settle."""
    own, basis, positive = _small(x, drawn)
    rest = np.setdiff1d(watched[column[watched] != -1], np.concatenate(drawn))
    seen = x[rest] @ basis
    models = [_fitted(own, positive, cost, seed) for cost in costs]
    found = [average_precision(model.decision_function(seen), column[rest]) for model in models]
    return np.array([*found, sum(model.n_iter_ >= ITERATIONS for model in models)], np.float64)


def _shot_final(x: Array, test: Array, drawn: Shots, cost: float, seed: int) -> NDArray[np.float64]:
    own, basis, positive = _small(x, drawn)
    model = _fitted(own, positive, cost, seed)
    return np.append(model.decision_function(test @ basis), model.n_iter_)


def _small(x: Array, drawn: Shots) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """The shots in an orthonormal basis of what they span, that basis (dims, n), and which are positive.

    An SVM sees nothing but inner products, so there it is the same one, in far fewer dimensions.
    """
    rows = np.concatenate(drawn)
    positive = np.arange(len(rows)) < len(drawn.positives)
    own = x[rows].astype(np.float64)
    if len(rows) >= own.shape[1]:
        return own, np.eye(own.shape[1]), positive
    basis, triangle = np.linalg.qr(own.T)
    return np.ascontiguousarray(triangle.T), basis, positive
