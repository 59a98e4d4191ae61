"""The jobs that judge without gradient descent: nearest neighbors and support vector machines."""

import os
from collections import UserDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pretext.engine.memory import available
from pretext.engine.progress import progress, say
from pretext.errors import UserError
from transfer.evaluation import EvaluationSettings, Task, evaluate
from transfer.metrics import Row, judged_row
from transfer.probes.linear_svm import one_against_rest, svm_scores, unconverged
from transfer.probes.low_shot import lowshot
from transfer.probes.neighbors import knn_scores
from transfer.protocols import NearestProtocol, SvmProtocol, find_protocol
from transfer.results import Result

_CPU = torch.device("cpu")
_FIT = 28  # bytes for each number of the training features: float32, float64, and liblinear's index and value


@dataclass
class KnnSettings(EvaluationSettings):
    """What nearest neighbors are looked for among, and where."""


@dataclass
class SvmSettings(EvaluationSettings):
    """What support vector machines are fitted on, and how.

    Args:
        protocol: voc07_svm, or voc07_svm_lowshot: see docs/evaluation.md.
    """

    protocol: str = "voc07_svm"


def knn(networks: Sequence[str], settings: KnnSettings) -> list[Result]:
    """Judge frozen networks by the k nearest neighbors of every test image; see ``probing.probe``."""
    protocol = find_protocol("knn", NearestProtocol)
    return evaluate(networks, settings, protocol, "cached", partial(_neighbors, protocol=protocol))


def svm(networks: Sequence[str], settings: SvmSettings) -> list[Result]:
    """Judge frozen networks by a linear SVM for every class; see ``probing.probe``."""
    protocol = find_protocol(settings.protocol, SvmProtocol)
    judge = _few_shots if protocol.shots else _machines
    return evaluate(networks, settings, protocol, "cached", partial(judge, protocol=protocol))


def _neighbors(task: Task, protocol: NearestProtocol) -> list[Row]:
    """A row for every stage and k; a k that is more than all training images is replaced by their number."""
    (rule,) = protocol.poolings
    known = task.split.fit
    ks = protocol.possible_neighbors(len(known))
    if cap := protocol.describe_cap(len(known)):
        say(f"{task.network.name}, {protocol.name}: {cap}")
    rows = []
    with progress(
        f"neighbors in {task.network.name}", len(task.tested) * len(task.stages), "images", done=0
    ) as advance:

        def after(more: int, remark: str = "") -> None:
            advance(more, remark)
            task.partial.heed()  # quickly computed again

        for stage in task.stages:
            found = knn_scores(
                task.train.matrix(stage, rule),
                task.targets.train.labels,
                task.test.matrix(stage, rule),
                len(task.targets.classes),
                ks,
                protocol.temperature,
                task.place.device,
                known,
                task.tested,
                after,
            )
            for k, scores in found.items():
                outcome = task.outcome(stage, scores)
                rows.append(judged_row(stage, f"k={k}", task.train.dims(stage, rule), rule, {}, None, [outcome]))
    return rows


def _machines(task: Task, protocol: SvmProtocol) -> list[Row]:
    """A row for every stage."""
    (rule,) = protocol.poolings
    kept, stopped, fits = _Kept(task), 0, 0
    rows = []
    for stage in task.stages:
        found = svm_scores(
            *_matrices(task, stage, rule),
            task.targets.classes,
            protocol.costs,
            protocol.folds,
            task.seed,
            kept.of(stage),
            _processes(task, stage, rule),
            f"SVMs on {task.network.name}, {stage}",
        )
        stopped, fits = stopped + found.unconverged, fits + found.fits
        chosen = {"C": found.chosen.tolist()}
        score = float(found.precision.mean())
        outcome = task.outcome(stage, found.scores)
        rows.append(judged_row(stage, "", task.train.dims(stage, rule), rule, chosen, score, [outcome]))
    if line := unconverged(stopped, fits):
        say(f"{task.network.name}: {line}")
    return rows


def _few_shots(task: Task, protocol: SvmProtocol) -> list[Row]:
    """A row for every stage and number of shots, with an outcome for every sample; see ``_possible``."""
    (rule,) = protocol.poolings
    kept, stopped, fits = _Kept(task), 0, 0
    rows = []
    shots = _possible(task, protocol.shots)
    for stage in task.stages:
        found = lowshot(
            *_matrices(task, stage, rule),
            task.targets.classes,
            shots,
            protocol.samples,
            protocol.costs,
            task.seed,
            kept=kept.of(stage),
            processes=_processes(task, stage, rule),
            title=f"few shots on {task.network.name}, {stage}",
        )
        stopped, fits = stopped + found.unconverged, fits + found.fits
        for k, samples in found.scores.items():
            outcomes = [task.outcome(stage, scores) for scores in samples]
            rows.append(
                judged_row(
                    stage,
                    f"{k} shots" if k > 1 else "1 shot",
                    task.train.dims(stage, rule),
                    rule,
                    {"C": found.chosen[k]},
                    found.precision[k],
                    outcomes,
                )
            )
    if line := unconverged(stopped, fits):
        say(f"{task.network.name}: {line}")
    return rows


def _possible(task: Task, shots: Sequence[int]) -> list[int]:
    """The numbers of shots for which every class has images enough, and some class has others to choose a cost by."""
    shown = (one_against_rest(task.targets.train.labels[task.split.fit], len(task.targets.classes)) == 1).sum(0)
    found = [k for k in shots if k <= shown.min() and k < shown.max()] or [min(shots)]
    if left := [k for k in shots if k not in found]:
        few = task.targets.classes[int(shown.argmin())]
        say(f"left out: {', '.join(map(str, left))} shots; {few} has {shown.min()} training images")
    return found


class _Kept:
    """What is finished of every stage, offered to the evaluation's partial file."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._stages: dict[str, dict[str, torch.Tensor]] = task.partial.load().get("fits", {})

    def of(self, stage: str) -> UserDict[str, NDArray[np.float64]]:
        """A mapping of one stage's."""
        here = self._stages.setdefault(stage, {})
        offer = partial(self._task.partial.offer, lambda: {"fits": self._stages})

        class Fits(UserDict[str, Any]):
            def __setitem__(self, name: str, value: NDArray[np.float64]) -> None:
                super().__setitem__(name, value)
                here[name] = torch.from_numpy(value)
                offer()

        fits = Fits()
        fits.data.update({name: value.numpy() for name, value in here.items()})
        return fits


def _matrices(task: Task, stage: str, rule: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Features of the training images, their labels, features of the test images."""
    known = task.split.fit
    train, test = task.train.matrix(stage, rule), task.test.matrix(stage, rule)
    needed, free = train.shape[1] * (8 * (len(known) + len(task.tested)) + _FIT * len(known)), available(_CPU)
    if needed > free:
        raise UserError(
            f"SVMs need {needed / 1e9:.0f} GB for the features of {stage} at once, and {free / 1e9:.0f} GB are free; "
            "take fewer labels by --fraction, or pretint probe"
        )
    return train[known], task.targets.train.labels[known], test[task.tested]


def _processes(task: Task, stage: str, rule: str) -> int:
    """How many fits at once: one a core, as far as there is memory for what each copies."""
    copied = _FIT * len(task.split.fit) * task.train.dims(stage, rule)
    return max(1, min(len(os.sched_getaffinity(0)), available(_CPU) // (2 * copied)))
