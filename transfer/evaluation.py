"""A frozen evaluation of any protocol: networks and images in, a result file for every network out.

The caller passes the classifier of the features as a function. This module does the rest: it opens the networks,
extracts features, splits the images, reuses finished results, saves unfinished work and records the cost.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretext import roles
from pretext.data.batches import EvalDataset
from pretext.data.duplicates import find_shared
from pretext.data.source import Labels
from pretext.engine.checkpoint import load_checkpoint, write_state
from pretext.engine.device import ComputeConfig, choose_compute, device_name, versions
from pretext.engine.memory import explain_memory_shortage, peak_memory, reset_peak_memory
from pretext.engine.progress import say
from pretext.engine.signals import ExitStatus, catch_signals, exit_with
from pretext.errors import UserError
from pretext.store import Artifact
from transfer.bootstrap import ABOUT, MetricName
from transfer.features import CacheSettings, FeatureSet, View, cache_folder, extract, join_features
from transfer.metrics import AveragePrecision, Metric, Row, Top1Accuracy, make_row
from transfer.networks import Network, open_networks
from transfer.protocols import Protocol
from transfer.results import Cost, Mode, ModelInfo, Result, code_digest, load_matching_result, read_result, write_result
from transfer.splits import Split, split
from transfer.targets import Targets, every_image, open_targets

SAVED_EVERY = 20.0
"""About how many seconds of work are lost if the process is killed."""
LONG_SAVE = 1.0
"""Seconds; what takes longer to save, gigabytes, is saved less often."""
_SAVED = "features and finished results are kept"


@dataclass
class EvaluationSettings:
    """Data and options of a frozen evaluation.

    Args:
        train: required: a folder with one sub-folder of images per class, or "bundled:train", or another source with
            labels: see docs/data.md.
        test: required: the same for the test images, or "bundled:test". Both must name the same classes. Several test
            sets have names, NAME=DATASET each; the first one is the plain one, from which the others are shifted.
        classes: of images with several labels, such as VOC's: the classes to evaluate, if not all.
        fraction: share of the training images' labels that is used, of every class alike: 0.01, 0.1, ...
        size: side, in pixels, at which the networks see an image; 0 takes the size at which things look
            as large as in training (networks that do not come from a run: their default size).
        seed: the seed of splits, of the order of images, and of random networks that do not come from a run.
        stages: names of the stages to evaluate, if not all.
        reference: also evaluate the same network at random weights, for every run.
        device: auto (the GPU if there is one), cpu, cuda, ...
        precision: the precision of the network, as in pretraining: auto, bf16, fp32.
        workers: processes that decode images; -1 takes 1 beside a CPU and up to 12 beside a GPU.
        cache: folder of cached features, for all evaluations; empty: $PRETINT_CACHE, or
            ~/.cache/pretint/features.
        storage: the type of cached features: float16, or float32 at twice the size.
        out: folder of the results; empty: results of a run go into the folder of the run, others into results.
    """

    train: str = roles.content("")
    test: dict[str, str] | str = roles.content("")
    classes: list[str] = roles.science(list)
    fraction: float = roles.science(1.0, "(0, 1]")
    size: int = roles.science(0, "[0, 4096]")
    seed: int = roles.seed()
    stages: list[str] = roles.science(list)
    reference: bool = roles.machine(True)
    device: str = roles.machine("auto")
    precision: Literal["auto", "bf16", "fp32"] = roles.science("auto")
    workers: int = roles.machine(-1, "[-1, 256]")
    cache: str = roles.machine("")
    storage: Literal["float16", "float32"] = roles.science("float16")
    out: str = roles.machine("")

    def __post_init__(self) -> None:
        roles.check_ranges(self)

    @property
    def tests(self) -> dict[str, str]:
        """The test sets by name; a single one has the name ""."""
        return {"": self.test} if isinstance(self.test, str) else self.test


class Partial:
    """The saved state of an unfinished evaluation: a part of an artifact, removed when the result is written.

    Args:
        artifact: the artifact, open.
        stop_status: returns whether a signal requested a stop, see ``catch_signals``.
    """

    def __init__(self, artifact: Artifact, stop_status: Callable[[], ExitStatus]) -> None:
        self.artifact, self._stop_status = artifact, stop_status
        self._began = self._saved = time.monotonic()
        self._before, self._period, self._saves = 0.0, SAVED_EVERY, 0

    @property
    def seconds(self) -> float:
        """Duration of the evaluation, in this process and in earlier ones as far as they were saved."""
        return self._before + time.monotonic() - self._began

    def load(self) -> dict[str, Any]:
        """Return the state saved by an evaluation of the same identity; empty if there is none."""
        parts = self.artifact.parts()
        if not parts:
            return {}
        newest = max(parts)  # a kill may leave the one before it, too
        state = load_checkpoint(parts[newest])
        self._saves, self._before = int(newest), state["seconds"]
        return state

    def offer(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save the result of ``state`` (tensors and plain values, nested), unless the last save was a moment ago.

        Raises:
            UserError: it cannot be written.
            KeyboardInterrupt, SystemExit: a signal requested a stop; the state is saved.
        """
        began, ending = time.monotonic(), self._stop_status()
        if ending or began - self._saved > self._period:
            self._saves += 1
            with self.artifact.writer(f"{self._saves:06}") as writer:
                write_state(writer, {**state(), "seconds": self.seconds})
                part = writer.commit(f"{self._saves:06}", "pt")
            self.artifact.keep([part])
            self._saved = time.monotonic()
            took = self._saved - began
            self._period = max(SAVED_EVERY, max(50.0, 20 * took) if took > LONG_SAVE else 0.0)
        if ending:
            exit_with(ending, "the classifiers that are being trained are kept")

    def raise_if_stopped(self) -> None:
        """Stop if a signal requested it, without saving; for evaluations that have nothing to save between two results.

        Raises:
            KeyboardInterrupt, SystemExit: a signal requested a stop.
        """
        _leave(self._stop_status)


class EvaluationTask(NamedTuple):
    """One network's features and targets, ready for a classifier."""

    network: Network
    stages: list[str]
    """The stages to evaluate, in order."""
    train: FeatureSet
    test: FeatureSet
    truth: Labels
    """The labels of the test images, in the order of ``test``."""
    targets: Targets
    """The training images and the classes; the test images of the first set."""
    split: Split
    view: View
    seed: int
    place: ComputeConfig
    partial: Partial

    @property
    def tested(self) -> NDArray[np.int64]:
        """The test images that can be read, by index."""
        return np.flatnonzero(self.test.good)

    def predictions(self, stage: str, scores: NDArray[np.floating]) -> NDArray[Any]:
        """Reduce the scores (B, classes) of some test images to the predictions that ``outcome`` needs.

        If each image has one class, return the top class of each, (B,). Then memory never holds the scores of all
        test images, which are larger than the features if there are thousands of classes. If images have several
        classes, return all scores.

        Raises:
            UserError: a score is not finite.
        """
        if not np.isfinite(scores).all():
            raise UserError(
                f"{self.network.name}, stage {stage}: its classifier has diverged, because the learning rate is too "
                "high for these features; use protocol modern, which tries several rates, or leave the stage out with "
                "--stages"
            )
        return scores.astype(np.float32, copy=False) if self.targets.multilabel else scores.argmax(1)

    def outcome(self, predictions: NDArray[Any]) -> Metric:
        """Return the outcome of the ``predictions`` for all test images, in the order of ``tested``."""
        truth = self.truth[self.tested]
        if self.targets.multilabel:
            return AveragePrecision(predictions, truth.astype(np.int8))
        return Top1Accuracy(predictions == truth)


MakeRows = Callable[[EvaluationTask], Sequence[Row]]
"""Trains a protocol's classifiers on features, and returns the rows of a result."""


@explain_memory_shortage("lower size or workers, or evaluate fewer stages")
def evaluate(
    specs: Sequence[str], settings: EvaluationSettings, protocol: Protocol, mode: Mode, make_rows: MakeRows
) -> list[Result]:
    """Evaluate networks by a protocol; read results back that exist already.

    Args:
        specs: networks, see ``transfer.networks.open_network``.
        settings: the data and options.
        protocol: the recipe.
        mode: the views that the classifiers are trained on.
        make_rows: the protocol's classifier.

    Returns:
        A result for every network, in order, as read from the files written; those of a further test set follow those
        of the one before. With ``settings.reference``, the default, a run comes after its network at random weights.

    Raises:
        UserError: see the message.
        KeyboardInterrupt, SystemExit: a signal requested a stop; everything computed is kept.
    """
    place = choose_compute(settings.device, settings.precision, settings.workers)
    targets = open_test_sets(settings)
    first = next(iter(targets.values()))
    evaluations = [
        Evaluation(network, targets, settings, protocol, mode, place)
        for network in open_networks(specs, settings.seed, settings.reference)
    ]
    results = {number: evaluation.load_finished() for number, evaluation in enumerate(evaluations)}
    copies: dict[str, int] = {}
    cache = CacheSettings(cache_folder(settings.cache), settings.storage)
    for view in dict.fromkeys(evaluation.view for evaluation in evaluations):  # images of one view are decoded once
        missing = [
            number
            for number, evaluation in enumerate(evaluations)
            if evaluation.view == view and None in results[number].values()
        ]
        if not missing:
            continue
        reset_peak_memory(place.device)
        networks = [evaluations[number].network for number in missing]
        names = ["train", *(f"test {name}".strip() for name in targets)]
        train, *tests = (
            extract(networks, source, view, protocol.poolings, place, cache, (first.train, view), f"features: {name}")
            for name, source in zip(names, [first.train, *(one.test for one in targets.values())], strict=True)
        )
        with catch_signals() as stop_status:
            for at, number in enumerate(missing):
                _leave(stop_status)
                test_features = dict(zip(targets, (features[at] for features in tests), strict=True))
                results[number] = evaluations[number].make_results(
                    train[at], test_features, make_rows, stop_status, copies
                )
            if any(None in of_network.values() for of_network in results.values()):
                _leave(stop_status)
    ordered = [results[number][name] for name in targets for number in range(len(evaluations))]
    return [result for result in ordered if result is not None]


def open_test_sets(settings: EvaluationSettings) -> dict[str, Targets]:
    """Return the images of an evaluation, by the name of the test set.

    Raises:
        UserError: see ``open_targets``; or two test sets are the same.
    """
    targets = {name: open_targets(settings.train, test, settings.classes) for name, test in settings.tests.items()}
    names = {one.test_digest: name for name, one in reversed(targets.items())}
    for name, one in targets.items():
        if names[one.test_digest] != name:
            raise UserError(f"test sets {names[one.test_digest]} and {name} are the same images; name each once")
    return targets


class Evaluation:
    """One network's evaluation: the paths of its results, one for each test set, and the facts that they depend on.

    Args:
        targets: the images, by the name of the test set.
    """

    def __init__(
        self,
        network: Network,
        targets: Mapping[str, Targets],
        settings: EvaluationSettings,
        protocol: Protocol,
        mode: Mode,
        place: ComputeConfig,
    ) -> None:
        self.network, self.targets, self.settings = network, targets, settings
        self.protocol, self.place = protocol, place
        first = next(iter(targets.values()))
        network.set_source(first.train)
        size = network.fit_size(settings.size) if settings.size else network.size_at(protocol.ratio)
        self.view = View(size, protocol.ratio)
        names = [stage.name for stage in network.stages]
        if unknown := [name for name in settings.stages if name not in names]:
            raise UserError(f"stages: {network.name} has no {unknown[0]}; it has {', '.join(names)}")
        self.stages = [name for name in names if name in settings.stages] or names
        folder = Path(settings.out) if settings.out else (network.run or Path()) / "results"
        words = [protocol.name, mode, network.name, f"{size}px", f"seed{settings.seed}"]
        words += [f"{100 * settings.fraction:g}%"] if settings.fraction < 1 else []
        words += ["+".join(self.stages)] if settings.stages else []
        self.files: dict[str, Path] = {}
        for name, test in settings.tests.items():
            title = ".".join(re.sub(r"[^\w.+%@-]+", "-", word).strip("-.")[-50:] for word in (test, *words))
            # Without a hash, an evaluation with other training images, or with a name shortened to the same text,
            # would overwrite a result.
            identity = json.dumps([first.train_digest, targets[name].test_digest, self.stages])
            self.files[name] = folder / f"{title}.{hashlib.sha256(identity.encode()).hexdigest()[:6]}.json"
        self._facts: dict[str, Any] = {
            "protocol": protocol.name,
            "settings": json.loads(json.dumps(protocol.settings)),
            "mode": mode,
            "train_digest": first.train_digest,
            "fraction": settings.fraction,
            "view_size": size,
            "view_ratio": protocol.ratio,
            "precision": place.precision,
            "storage": settings.storage,
            "seed": settings.seed,
            "code": code_digest(),
        }

    def _facts_of(self, name: str) -> dict[str, Any]:
        targets = self.targets[name]
        return {**self._facts, "test_digest": targets.test_digest, "n_shared": targets.n_shared}

    def load_finished(self) -> dict[str, Result | None]:
        """Return for each test set the finished result of the same network, data and code, if there is one.

        A result is not used if an image that could not be read at that time can be read now.
        """
        return {name: self._load_finished(name) for name in self.targets}

    def _load_finished(self, name: str) -> Result | None:
        result = load_matching_result(self.files[name], self._model, {**self._facts_of(name), "versions": versions()})
        if result is None:
            return None
        keys, lost = {key for key, _ in result.skipped}, 0
        for source in (self.targets[name].train, self.targets[name].test) if keys else ():
            views = EvalDataset(source, *self.view)
            lost += sum(views[index].rgb is None for index in range(len(source)) if source.key(index) in keys)
        return result if lost == len(result.skipped) else None

    def make_results(
        self,
        train: FeatureSet,
        tests: Mapping[str, FeatureSet],
        make_rows: MakeRows,
        stop_status: Callable[[], ExitStatus],
        copies: dict[str, int],
    ) -> dict[str, Result | None]:
        """Make the results that are missing, write them, and return all; what another process makes is waited for.

        The classifiers are trained once for all test sets. ``copies`` maps the digest of a split to the number of
        held-out images that are copies of images to fit to.

        Raises:
            UserError: a result cannot be written.
            KeyboardInterrupt, SystemExit: a signal requested a stop.
        """
        settings, network = self.settings, self.network
        finished = self.load_finished()
        lacking = [name for name, result in finished.items() if result is None]
        if not lacking:  # another process made them a moment ago
            return finished
        targets = self.targets[lacking[0]]
        divided = split(targets.train.labels, self.protocol.holdout, settings.seed, settings.fraction, train.good)
        if targets.multilabel and len(divided.held) and not (targets.train.labels[divided.held] == 1).any():
            raise UserError(
                f"{settings.train}: none of the {len(divided.held)} training images held out to choose settings "
                "shows a selected class; use a larger fraction of the labels, more classes, or another seed"
            )
        file, facts = self.files[lacking[0]], self._facts_of(lacking[0])
        facts["test_digest"] = "+".join(self.targets[name].test_digest for name in lacking)
        artifact = Artifact(
            file.with_name(f".{file.stem}.partial"),
            {**facts, "weights": network.weights, "split": divided.sha256, "stages": self.stages},
            "classifiers",
            "make the folder writable, copy the run, or, for networks that do not come from a run, choose another "
            "folder with --out",
        )
        with artifact.open(f"making {file.name}", check=lambda: _leave(stop_status)):
            finished = self.load_finished()
            if None not in finished.values():  # another process made them
                return finished
            if divided.sha256 not in copies:
                copies[divided.sha256] = 0
                if len(divided.held):
                    every = every_image(targets.train)
                    copies[divided.sha256] = len(find_shared(every, every, divided.fit, divided.held))
                if count := copies[divided.sha256]:
                    say(
                        f"{settings.train}: {count:,} of {len(divided.held):,} held-out training images, which choose "
                        "settings, are copies of images that the classifier learns from"
                    )
            test = join_features([tests[name] for name in lacking])
            task = EvaluationTask(
                network,
                self.stages,
                train,
                test,
                np.concatenate([self.targets[name].test.labels for name in lacking]),
                targets,
                divided,
                self.view,
                settings.seed,
                self.place,
                Partial(artifact, stop_status),
            )
            rows, seen = make_rows(task), 0
            made: dict[str, Result] = {}  # all, before one is written: a later call trains for all that are missing
            for name in lacking:
                count = int(tests[name].good.sum())
                of_set = [_take_images(row, slice(seen, seen + count)) for row in rows]
                made[name] = self._result(name, task, tests[name], tuple(of_set), copies)
                seen += count
            for name, result in made.items():
                write_result(self.files[name], result)
            artifact.keep(())
        return {name: read_result(file) for name, file in self.files.items()}

    def _result(
        self, name: str, task: EvaluationTask, test: FeatureSet, rows: tuple[Row, ...], copies: Mapping[str, int]
    ) -> Result:
        """Return the result on one test set."""
        targets, divided = self.targets[name], task.split
        extraction = task.train.seconds + test.seconds
        metric: MetricName = "mAP" if targets.multilabel else "top-1"
        split_name = divided.name
        if count := copies[divided.sha256]:
            split_name += f", held-out images that are copies of images that teach: {count:,}"
        return Result(
            **self._facts_of(name),
            network=self._model,
            about=self.protocol.describe(len(divided.fit)),
            metric=metric,
            train=self.settings.train,
            test=self.settings.tests[name],
            classes=tuple(targets.classes),
            n_fit=len(divided.fit),
            n_holdout=len(divided.held),
            n_train=len(targets.train),
            n_test=int(test.good.sum()),
            split=split_name,
            split_sha256=divided.sha256,
            rows=rows,
            cost=Cost(
                seconds=task.partial.seconds + extraction,
                extraction_seconds=extraction,
                images_per_second=(task.train.rows + test.rows) / max(extraction, 1e-9),
                peak_bytes=peak_memory(),
                cache_bytes=task.train.nbytes + test.nbytes,
                device=device_name(self.place.device),
            ),
            versions=versions(),
            skipped=tuple(task.train.skipped + test.skipped),
            interval=ABOUT[metric],
        )

    @property
    def _model(self) -> ModelInfo:
        """The description of the network in a result."""
        network = self.network
        return ModelInfo(
            network.name, network.group, network.kind, network.seed, network.step, network.backbone, network.weights
        )


def _take_images(row: Row, images: slice) -> Row:
    """Return a row for some of the test images."""
    outcomes = [outcome.part(images) for outcome in row.outcomes]
    return make_row(row.stage, row.variant, row.dims, row.pooling, row.chosen, row.holdout, outcomes)


def _leave(stop_status: Callable[[], ExitStatus]) -> None:
    """Stop if a signal requested it. Raises KeyboardInterrupt or SystemExit."""
    if ending := stop_status():
        exit_with(ending, _SAVED)
