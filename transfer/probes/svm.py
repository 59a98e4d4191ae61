"""Linear SVMs on frozen features, one against the rest, as Goyal et al. (ICCV 2019) evaluate on VOC07.

Features of unit length; liblinear's dual solver. With all labels, 3-fold cross-validation chooses a cost for every
class. With few labels (low-shot), training images that were not learned from choose one cost for all classes; Goyal
et al. chose it on the test images.

liblinear draws from one generator per process, so threads would change one another's results: fits that run at the
same time need processes of their own. Every fit begins at the same seed, so no number depends on the number of
processes or on the fits that an earlier call finished.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from pretext import roles
from pretext.data.order import mix, permutation
from pretext.data.source import Labels
from pretext.engine.memory import available_memory
from pretext.engine.progress import progress, say
from pretext.errors import UserError
from transfer.evaluation import EvaluationSettings, EvaluationTask, evaluate
from transfer.metrics import Row, make_row
from transfer.probes.process_pool import Finished, run_tasks
from transfer.protocols import COSTS, SvmProtocol, find_protocol
from transfer.results import Result
from transfer.splits import Shots, shots

Array = NDArray[np.float32]

ITERATIONS = 2000
"""The solver's limit."""

_CPU = torch.device("cpu")
_FIT = 28  # bytes for each number of the training features: float32, float64, and liblinear's index and value
_SCORE = 24  # bytes for each score of a test image: float64, the copy that is saved, float32
_MANY_FITS = 10_000  # for a stage; more take hours
_VALIDATION = 0x3A7C

Unit = tuple[int, int, int]
"""A low-shot classifier: k, the number of the sample, the class."""


@dataclass
class SvmSettings(EvaluationSettings):
    """Data and options of the SVM evaluation.

    Args:
        protocol: voc07_svm, or voc07_svm_lowshot: see docs/evaluation.md.
    """

    protocol: str = roles.science("voc07_svm")


def svm(networks: Sequence[str], settings: SvmSettings) -> list[Result]:
    """Evaluate frozen networks by a linear SVM for every class; see ``linear.probe``."""
    protocol = find_protocol(settings.protocol, SvmProtocol)
    return evaluate(networks, settings, protocol, "cached", partial(svm_rows, protocol=protocol))


def svm_rows(task: EvaluationTask, protocol: SvmProtocol) -> list[Row]:
    """Return a row for every stage; for low-shot protocols, one for every stage and number of shots.

    A low-shot row has an outcome for each sample. A number of shots is left out if a class has fewer images, or if no
    class has more images to choose a cost by.
    """
    (rule,) = protocol.poolings
    classes, fit = task.targets.classes, task.split.fit
    labels = task.targets.train.labels[fit]
    ks: list[int] = []
    if protocol.shots:
        counts = count_positives(labels, len(classes))
        ks = [k for k in protocol.shots if k <= counts.min() and k < counts.max()] or [min(protocol.shots)]
        if left_out := [k for k in protocol.shots if k not in ks]:
            smallest = classes[int(counts.argmin())]
            say(f"left out: {', '.join(map(str, left_out))} shots; {smallest} has {counts.min()} training images")
    samples = len(ks) * protocol.samples if protocol.shots else 1
    class_fits = samples * (len(protocol.costs) + 1) if protocol.shots else len(protocol.costs) * protocol.folds + 1
    if (count := class_fits * len(classes)) > _MANY_FITS:
        say(f"{count:,} SVM fits for each stage, as there are {len(classes):,} classes; pretint probe takes less time")
    saved = task.partial.load().get("fits", {})
    stage_fits = {stage: {name: fit.numpy() for name, fit in fits.items()} for stage, fits in saved.items()}

    def fits_as_tensors() -> dict[str, Any]:
        tensors = {
            stage: {name: torch.from_numpy(fit) for name, fit in fits.items()} for stage, fits in stage_fits.items()
        }
        return {"fits": tensors}

    rows, unconverged, fits = [], 0, 0
    for stage in task.stages:
        dims = task.train.dims(stage, rule)
        fit_bytes = _FIT * len(fit) * dims
        needed = 8 * dims * (len(fit) + len(task.tested)) + fit_bytes
        needed += _SCORE * samples * len(task.tested) * len(classes)
        if needed > (free := available_memory(_CPU)):
            raise UserError(
                f"SVMs need {needed / 1e9:.0f} GB for the features of {stage} at once and the scores of "
                f"{len(classes):,} classes, and {free / 1e9:.0f} GB are free; use fewer labels with --fraction, or "
                "use pretint probe"
            )
        train, test = task.train.matrix(stage, rule)[fit], task.test.matrix(stage, rule)[task.tested]
        finished = Finished(stage_fits.setdefault(stage, {}), lambda: task.partial.offer(fits_as_tensors))
        # A process for each core, if there is memory for what each process copies.
        processes = max(1, min(len(os.sched_getaffinity(0)), available_memory(_CPU) // (2 * fit_bytes)))
        result: SvmResult | LowShot
        if protocol.shots:
            title = f"few shots on {task.network.name}, {stage}"
            low_shot = result = low_shot_scores(
                train,
                labels,
                test,
                classes,
                ks,
                protocol.samples,
                protocol.costs,
                task.seed,
                finished=finished,
                processes=processes,
                title=title,
            )
            for k, sample_scores in low_shot.scores.items():
                variant = f"{k} shots" if k > 1 else "1 shot"
                chosen, precision = {"C": low_shot.chosen[k]}, low_shot.precision[k]
                outcomes = [task.outcome(task.predictions(stage, scores)) for scores in sample_scores]
                rows.append(make_row(stage, variant, dims, rule, chosen, precision, outcomes))
        else:
            title = f"SVMs on {task.network.name}, {stage}"
            full = result = svm_scores(
                train, labels, test, classes, protocol.costs, protocol.folds, task.seed, finished, processes, title
            )
            outcome = task.outcome(task.predictions(stage, full.scores))
            precision = float(full.precision.mean())
            rows.append(make_row(stage, "", dims, rule, {"C": full.chosen.tolist()}, precision, [outcome]))
        unconverged, fits = unconverged + result.unconverged, fits + result.fits
    if unconverged:
        say(
            f"{task.network.name}: {unconverged:,} of {fits:,} SVM fits did not converge within the solver's "
            f"{ITERATIONS:,} iterations; their scores are used without change"
        )
    return rows


class SvmResult(NamedTuple):
    """A classifier of every class, with the cost that cross-validation chose."""

    scores: Array
    """(M, classes): distances of the test images to the planes, positive on the class's side."""
    chosen: NDArray[np.float64]
    """(classes,): the cost of each, the lowest of those that are best."""
    precision: NDArray[np.float64]
    """(classes,): its average precision, mean over the folds."""
    unconverged: int
    """The number of fits that reached ``ITERATIONS`` before they converged."""
    fits: int


def svm_scores(
    train: NDArray[np.floating],
    labels: Labels,
    test: NDArray[np.floating],
    classes: Sequence[str],
    costs: Sequence[float] = COSTS,
    folds: int = 3,
    seed: int = 0,
    finished: Finished | None = None,
    processes: int = 1,
    title: str = "SVMs",
) -> SvmResult:
    """Fit a linear SVM for every class, with the cost that has the best average precision in cross-validation.

    Args:
        train: (N, dims), of any floating type; scaled to unit length here.
        labels: of the N images; those not counted for a class are left out of its fits.
        test: (M, dims).
        classes: their names.
        costs: values of C to choose from.
        folds: the number of folds of the stratified, shuffled cross-validation.
        seed: the seed of the folds and of the solver.
        finished: fits of an earlier call with the same arguments; every new fit is added.
        processes: how many fits run at once.
        title: the title of the progress bar.

    Raises:
        UserError: a class has fewer images with it, or without it, than there are folds.
    """
    finished = finished or Finished({})
    present = count_positives(labels, len(classes))
    absent = count_negatives(labels, len(classes))
    for label, name in enumerate(classes):
        for count, preposition in ((present[label], "with"), (absent[label], "without")):
            if count < folds:
                raise UserError(
                    f"{count} training images {preposition} {name}: {folds} folds of the cross-validation need "
                    f"{folds}; give more of them, or leave the class out"
                )
    x = unit_length(train)
    trials = {
        f"class {label}, C {cost!r}, fold {fold}": partial(_validate_fold, x, labels, label, cost, fold, folds, seed)
        for label in range(len(classes))
        for cost in sorted(costs)
        for fold in range(folds)
    }
    done = sum(name in finished.results for name in trials)
    with progress(title, len(trials) + len(classes), "fits", done=done) as advance:
        validations = run_tasks(trials, finished, processes, advance)
        precision = np.array([value[0] for value in validations]).reshape(len(classes), len(costs), folds).mean(2)
        best = precision.argmax(1)
        chosen = np.array(sorted(costs))[best]
        test_x = unit_length(test)

        def score(label: int, cost: float) -> NDArray[np.float64]:
            column = one_against_rest(labels, label)
            rows = np.flatnonzero(column != -1)
            model = fit_svm(x[rows].astype(np.float64), column[rows] == 1, cost, seed)
            return np.append(model.decision_function(test_x), model.n_iter_)

        finals = {
            f"class {label}, C {cost!r}": partial(score, label, cost) for label, cost in enumerate(chosen.tolist())
        }
        advance(sum(name in finished.results for name in finals), "")
        final = run_tasks(finals, finished, processes, advance)
    unconverged = sum(value[-1] >= ITERATIONS for value in [*validations, *final])
    scores = np.stack([value[:-1] for value in final], 1).astype(np.float32)
    chosen_precision = precision[np.arange(len(classes)), best]
    return SvmResult(scores, chosen, chosen_precision, unconverged, len(validations) + len(final))


def _validate_fold(
    x: Array, labels: Labels, label: int, cost: float, fold: int, folds: int, seed: int
) -> NDArray[np.float64]:
    """Fit a class on all folds but one; return the average precision on that fold, and the solver's iterations."""
    column = one_against_rest(labels, label)
    rows = np.flatnonzero(column != -1)
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32).split(rows, column[rows])
    fit, held = list(parts)[fold]
    model = fit_svm(x[rows[fit]].astype(np.float64), column[rows[fit]] == 1, cost, seed)
    precision = average_precision(model.decision_function(x[rows[held]]), column[rows[held]])
    return np.array([precision, model.n_iter_], np.float64)


class LowShot(NamedTuple):
    """The scores of classifiers that learned from k images of every class, for several k and samples."""

    scores: dict[int, list[Array]]
    """k -> for every sample (M, classes), as in ``SvmResult``."""
    chosen: dict[int, float]
    """k -> the cost, one for all samples and classes."""
    precision: dict[int, float]
    """k -> its average precision on the training images that were not learned from, mean over classes and samples."""
    unconverged: int
    fits: int


def low_shot_scores(
    train: NDArray[np.floating],
    labels: Labels,
    test: NDArray[np.floating],
    classes: Sequence[str],
    ks: Sequence[int],
    samples: int = 5,
    costs: Sequence[float] = COSTS,
    seed: int = 0,
    most: int = 2000,
    finished: Finished | None = None,
    processes: int = 1,
    title: str = "low-shot SVMs",
) -> LowShot:
    """Fit linear SVMs on k images of every class, and (C - 1) k without it; see ``splits.shots``.

    As with Goyal et al., one cost serves all samples and classes of a k: the one with the best average precision,
    mean over classes and samples, on training images that the class was not learned from. These are taken from
    ``most`` images that the seed draws. Test images choose nothing.

    Args:
        train: (N, dims).
        labels: of the N images.
        test: (M, dims).
        classes: their names.
        ks: numbers of images with a class to learn the class from.
        samples: the number of samples for each k.
        costs: values of C to choose from.
        seed: the seed of the samples and of the solver.
        most: see above.
        finished: as in ``svm_scores``.
        processes: how many classes run at once.
        title: the title of the progress bar.

    Raises:
        UserError: fewer than k images show a class, or every image shows it; or the shots include all images of
            every class, so that none is left to choose a cost by.
    """
    finished = finished or Finished({})
    costs = sorted(costs)
    validation = np.sort(np.argsort(permutation(len(labels), mix(seed, _VALIDATION)))[:most])
    units = [(k, sample, label) for k in ks for sample in range(samples) for label in range(len(classes))]
    present = count_positives(labels, len(classes))
    absent = count_negatives(labels, len(classes))
    for k, _, label in units:
        if present[label] < k or not absent[label] or len(classes) < 2:
            raise UserError(
                f"{present[label]} training images with {classes[label]} and {absent[label]} without: {k} shots need "
                f"{k} with it, and one without; use fewer shots"
            )
    x = unit_length(train)
    names = {unit: "k {}, sample {}, class {}".format(*unit) for unit in units}
    # Each task draws its own shots: the shots of all classes together would grow with the square of the class count.
    trials = {
        names[unit]: partial(_validate_shots, x, labels, unit, len(classes), validation, costs, seed) for unit in units
    }
    done = sum(name in finished.results for name in trials)
    with progress(title, 2 * len(units), "classifiers", done=done) as advance:
        validations = run_tasks(trials, finished, processes, advance)
        precision = np.array([value[:-1] for value in validations])
        precision = precision.reshape(len(ks), samples * len(classes), len(costs))
        blind = np.isnan(precision).all((1, 2))
        if blind.any():
            raise UserError(
                f"{ks[int(blind.argmax())]} shots take all training images of every class, and none is left to "
                "choose a cost by; use fewer shots"
            )
        mean = np.nanmean(precision, 1)
        chosen = {k: costs[int(row.argmax())] for k, row in zip(ks, mean, strict=True)}
        test_x = unit_length(test)

        def score(unit: Unit, cost: float) -> NDArray[np.float64]:
            shot_x, basis, positive = _rotate(x, _draw_shots(labels, unit, len(classes), seed))
            model = fit_svm(shot_x, positive, cost, seed)
            return np.append(model.decision_function(test_x @ basis), model.n_iter_)

        finals = {f"{names[unit]}, C {chosen[unit[0]]!r}": partial(score, unit, chosen[unit[0]]) for unit in units}
        advance(sum(name in finished.results for name in finals), "")
        final = run_tasks(finals, finished, processes, advance)
    unconverged = int(sum(value[-1] for value in validations) + sum(value[-1] >= ITERATIONS for value in final))
    scores = np.stack([value[:-1] for value in final], 1).astype(np.float32)
    planes = np.split(scores, len(ks) * samples, 1)
    return LowShot(
        {k: planes[place * samples : (place + 1) * samples] for place, k in enumerate(ks)},
        chosen,
        {k: float(row.max()) for k, row in zip(ks, mean, strict=True)},
        unconverged,
        len(validations) * len(costs) + len(final),
    )


def _draw_shots(labels: Labels, unit: Unit, classes: int, seed: int) -> Shots:
    k, sample, label = unit
    return shots(labels, label, classes, k, sample, seed)


def _validate_shots(
    x: Array, labels: Labels, unit: Unit, classes: int, validation: NDArray[np.int64], costs: Sequence[float], seed: int
) -> NDArray[np.float64]:
    """Return the average precision of every cost on validation images, and the number of fits that did not converge.

    The precision is nan if no image shows the class.
    """
    column, drawn = one_against_rest(labels, unit[2]), _draw_shots(labels, unit, classes, seed)
    shot_x, basis, positive = _rotate(x, drawn)
    rest = np.setdiff1d(validation[column[validation] != -1], np.concatenate(drawn))
    if not len(rest):
        return np.append(np.full(len(costs), np.nan), 0.0)
    rest_x = x[rest] @ basis
    models = [fit_svm(shot_x, positive, cost, seed) for cost in costs]
    precisions = [average_precision(model.decision_function(rest_x), column[rest]) for model in models]
    return np.array([*precisions, sum(model.n_iter_ >= ITERATIONS for model in models)], np.float64)


def _rotate(x: Array, drawn: Shots) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return the shots in an orthonormal basis of their span, that basis (dims, n), and which are positive.

    An SVM depends on inner products only, so it is the same in this basis, which has far fewer dimensions.
    """
    rows = np.concatenate(drawn)
    positive = np.arange(len(rows)) < len(drawn.positives)
    shot_x = x[rows].astype(np.float64)
    if len(rows) >= shot_x.shape[1]:
        return shot_x, np.eye(shot_x.shape[1]), positive
    basis, triangle = np.linalg.qr(shot_x.T)
    return np.ascontiguousarray(triangle.T), basis, positive


def fit_svm(x: NDArray[np.float64], positive: NDArray[np.bool_], cost: float, seed: int) -> LinearSVC:
    """Fit a classifier of unit features x (n, dims) with the protocol's settings."""
    model = LinearSVC(
        C=cost, dual=True, tol=1e-4, max_iter=ITERATIONS, class_weight={1: 2, -1: 1}, random_state=seed % 2**32
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # they are counted
        return model.fit(x, np.where(positive, 1, -1))


def average_precision(scores: NDArray[np.floating], truth: NDArray[np.int8]) -> float:
    """Return the area under the precision-recall curve, as scikit-learn computes it, over the counted images.

    Args:
        scores: (M,).
        truth: (M,), 1 present, 0 absent, -1 not counted.

    Returns:
        The area; nan if no counted image shows the class.
    """
    counted = truth != -1
    if not (truth == 1).any():
        return float("nan")
    return float(average_precision_score(truth[counted], scores[counted]))


def unit_length(features: NDArray[np.floating]) -> Array:
    """Divide rows by their length plus 1e-5, as in Goyal et al.'s released code: float32 (N, dims)."""
    x = np.array(features, np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True) + np.float32(1e-5)
    return x


def one_against_rest(labels: Labels, label: int) -> NDArray[np.int8]:
    """Return int8 (N,) in {1, 0, -1}, see ``Labels``, of one class, from labels of either kind."""
    column = labels[:, label] if labels.ndim == 2 else labels == label
    return column.astype(np.int8, copy=False)


def count_positives(labels: Labels, classes: int) -> NDArray[np.int64]:
    """Return how many images show each class, (classes,), from labels of either kind."""
    counts: NDArray[np.int64] = (labels == 1).sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=classes)
    return counts


def count_negatives(labels: Labels, classes: int) -> NDArray[np.int64]:
    """Return the number of images that are counted for each class and do not show it, (classes,)."""
    counts: NDArray[np.int64] = (
        (labels == 0).sum(0) if labels.ndim == 2 else len(labels) - count_positives(labels, classes)
    )
    return counts
