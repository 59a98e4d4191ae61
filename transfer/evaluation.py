"""A frozen evaluation of any protocol: networks and images in, a result file for every network out.

The caller passes the classifier of the features as a function. This module does the rest: it opens the networks,
extracts features, splits the images, reuses finished results, saves unfinished work and records the cost.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretext import roles
from pretext.data.batches import EvalDataset
from pretext.data.duplicates import find_shared
from pretext.engine.checkpoint import load_checkpoint, write_state
from pretext.engine.device import ComputeConfig, choose_compute, device_name, versions
from pretext.engine.memory import explain_memory_shortage, peak_memory, reset_peak_memory
from pretext.engine.progress import say
from pretext.engine.signals import ExitStatus, catch_signals, exit_with
from pretext.errors import UserError
from pretext.store import Artifact
from transfer.bootstrap import ABOUT, MetricName
from transfer.features import CacheSettings, FeatureSet, View, cache_folder, extract
from transfer.metrics import AveragePrecision, Metric, Row, Top1Accuracy
from transfer.networks import Network, open_networks
from transfer.protocols import Protocol
from transfer.results import Cost, Mode, ModelInfo, Result, code_digest, load_matching_result, read_result, write_result
from transfer.splits import Split, split
from transfer.targets import Targets, every_image, open_targets

SAVED_EVERY = 20.0
"""About how many seconds of work are lost if the process is killed."""
_SAVED = "features and finished results are kept"


@dataclass
class EvaluationSettings:
    """Data and options of a frozen evaluation.

    Args:
        train: required: a folder with one sub-folder of images per class, or "bundled:train", or another source with
            labels: see docs/data.md.
        test: required: the same for the test images, or "bundled:test". Both must name the same classes.
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
    test: str = roles.content("")
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
            self._period = max(SAVED_EVERY, max(50.0, 20 * took) if took > 1 else 0.0)  # gigabytes take minutes
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
    targets: Targets
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
        truth = self.targets.test.labels[self.tested]
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
        A result for every network, in order, as read from the files written. With ``settings.reference``, the
        default, a run comes after its network at random weights.

    Raises:
        UserError: see the message.
        KeyboardInterrupt, SystemExit: a signal requested a stop; everything computed is kept.
    """
    place = choose_compute(settings.device, settings.precision, settings.workers)
    targets = open_targets(settings.train, settings.test, settings.classes)
    opened = open_networks(specs, settings.seed, settings.reference)
    evaluations = [Evaluation(network, targets, settings, protocol, mode, place) for network in opened]
    results = {
        number: result for number, evaluation in enumerate(evaluations) if (result := evaluation.load_finished())
    }
    copies: dict[str, int] = {}
    cache = CacheSettings(cache_folder(settings.cache), settings.storage)
    for view in dict.fromkeys(evaluation.view for evaluation in evaluations):  # images of one view are decoded once
        missing = [
            number for number, evaluation in enumerate(evaluations) if evaluation.view == view and number not in results
        ]
        if not missing:
            continue
        reset_peak_memory(place.device)
        networks = [evaluations[number].network for number in missing]
        train, test = (
            extract(networks, source, view, protocol.poolings, place, cache, (targets.train, view), f"features: {part}")
            for part, source in (("train", targets.train), ("test", targets.test))
        )
        with catch_signals() as stop_status:
            for number, train_features, test_features in zip(missing, train, test, strict=True):
                _leave(stop_status)
                results[number] = evaluations[number].make_result(
                    train_features, test_features, make_rows, stop_status, copies
                )
            if len(results) < len(evaluations):
                _leave(stop_status)
    return [results[number] for number in range(len(evaluations))]


class Evaluation:
    """One network's evaluation: the path of its result, and the facts that the result depends on."""

    def __init__(
        self,
        network: Network,
        targets: Targets,
        settings: EvaluationSettings,
        protocol: Protocol,
        mode: Mode,
        place: ComputeConfig,
    ) -> None:
        self.network, self.targets, self.settings = network, targets, settings
        self.protocol, self.place = protocol, place
        network.set_source(targets.train)
        size = network.fit_size(settings.size) if settings.size else network.size_at(protocol.ratio)
        self.view = View(size, protocol.ratio)
        names = [stage.name for stage in network.stages]
        if unknown := [name for name in settings.stages if name not in names]:
            raise UserError(f"stages: {network.name} has no {unknown[0]}; it has {', '.join(names)}")
        self.stages = [name for name in names if name in settings.stages] or names
        folder = Path(settings.out) if settings.out else (network.run or Path()) / "results"
        words = [settings.test, protocol.name, mode, network.name, f"{size}px", f"seed{settings.seed}"]
        words += [f"{100 * settings.fraction:g}%"] if settings.fraction < 1 else []
        words += ["+".join(self.stages)] if settings.stages else []
        name = ".".join(re.sub(r"[^\w.+%@-]+", "-", word).strip("-.")[-50:] for word in words)
        # Without a hash, an evaluation with other training images, or with a name shortened to the same text, would
        # overwrite a result.
        identity = json.dumps([targets.train_digest, targets.test_digest, self.stages])
        self.file = folder / f"{name}.{hashlib.sha256(identity.encode()).hexdigest()[:6]}.json"
        self.facts: dict[str, Any] = {
            "protocol": protocol.name,
            "settings": json.loads(json.dumps(protocol.settings)),
            "mode": mode,
            "train_digest": targets.train_digest,
            "test_digest": targets.test_digest,
            "n_shared": targets.n_shared,
            "fraction": settings.fraction,
            "view_size": size,
            "view_ratio": protocol.ratio,
            "precision": place.precision,
            "storage": settings.storage,
            "seed": settings.seed,
            "code": code_digest(),
        }

    def load_finished(self) -> Result | None:
        """Return the finished result of the same network, data and code, if there is one.

        A result is not used if an image that could not be read at that time can be read now.
        """
        result = load_matching_result(self.file, self._model, {**self.facts, "versions": versions()})
        if result is None:
            return None
        keys, lost = {key for key, _ in result.skipped}, 0
        for source in (self.targets.train, self.targets.test) if keys else ():
            views = EvalDataset(source, *self.view)
            lost += sum(views[index].rgb is None for index in range(len(source)) if source.key(index) in keys)
        return result if lost == len(result.skipped) else None

    def make_result(
        self,
        train: FeatureSet,
        test: FeatureSet,
        make_rows: MakeRows,
        stop_status: Callable[[], ExitStatus],
        copies: dict[str, int],
    ) -> Result:
        """Make the result from the features, write it, and read it back; if another process makes it, wait for that.

        ``copies`` maps the digest of a split to the number of held-out images that are copies of images to fit to.

        Raises:
            UserError: the result cannot be written.
            KeyboardInterrupt, SystemExit: a signal requested a stop.
        """
        settings, targets, network = self.settings, self.targets, self.network
        divided = split(targets.train.labels, self.protocol.holdout, settings.seed, settings.fraction, train.good)
        if targets.multilabel and len(divided.held) and not (targets.train.labels[divided.held] == 1).any():
            raise UserError(
                f"{settings.train}: none of the {len(divided.held)} training images held out to choose settings "
                "shows a selected class; use a larger fraction of the labels, more classes, or another seed"
            )
        artifact = Artifact(
            self.file.with_name(f".{self.file.stem}.partial"),
            {**self.facts, "weights": network.weights, "split": divided.sha256, "stages": self.stages},
            "classifiers",
            "make the folder writable, copy the run, or, for networks that do not come from a run, choose another "
            "folder with --out",
        )
        with artifact.open(f"making {self.file.name}", check=lambda: _leave(stop_status)):
            if finished := self.load_finished():  # by another process
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
            partial = Partial(artifact, stop_status)
            task = EvaluationTask(
                network, self.stages, train, test, targets, divided, self.view, settings.seed, self.place, partial
            )
            rows = tuple(make_rows(task))
            extraction = train.seconds + test.seconds
            metric: MetricName = "mAP" if targets.multilabel else "top-1"
            split_name = divided.name
            if count := copies[divided.sha256]:
                split_name += f", held-out images that are copies of images that teach: {count:,}"
            result = Result(
                **self.facts,
                network=self._model,
                about=self.protocol.describe(len(divided.fit)),
                metric=metric,
                train=settings.train,
                test=settings.test,
                classes=tuple(targets.classes),
                n_fit=len(divided.fit),
                n_holdout=len(divided.held),
                n_train=len(targets.train),
                n_test=len(task.tested),
                split=split_name,
                split_sha256=divided.sha256,
                rows=rows,
                cost=Cost(
                    seconds=partial.seconds + extraction,
                    extraction_seconds=extraction,
                    images_per_second=(train.rows + test.rows) / max(extraction, 1e-9),
                    peak_bytes=peak_memory(),
                    cache_bytes=train.nbytes + test.nbytes,
                    device=device_name(self.place.device),
                ),
                versions=versions(),
                skipped=tuple(train.skipped + test.skipped),
                interval=ABOUT[metric],
            )
            write_result(self.file, result)
            artifact.keep(())
        return read_result(self.file)

    @property
    def _model(self) -> ModelInfo:
        """The description of the network in a result."""
        network = self.network
        return ModelInfo(
            network.name, network.group, network.kind, network.seed, network.step, network.backbone, network.weights
        )


def _leave(stop_status: Callable[[], ExitStatus]) -> None:
    """Stop if a signal requested it. Raises KeyboardInterrupt or SystemExit."""
    if ending := stop_status():
        exit_with(ending, _SAVED)
