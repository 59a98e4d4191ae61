"""A frozen evaluation, whatever its protocol: networks and images in, a result file for every network out.

What classifies the features is given as a function; all around it is here: opening, extraction, the split,
results that are there already, what a kill leaves, the cost.
"""

import contextlib
import fcntl
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretext.data.batches import Views
from pretext.data.duplicates import find_shared
from pretext.engine.checkpoint import load_checkpoint, save_checkpoint
from pretext.engine.device import Place, device_name, pick_place, versions
from pretext.engine.memory import explain_memory_shortage, forget_peak, peak
from pretext.engine.progress import say
from pretext.engine.signals import Ending, leave, stop_requests
from pretext.errors import UserError
from transfer.bootstrap import ABOUT, Metric
from transfer.features import CacheSettings, FeatureSet, View, cache_folder, extract
from transfer.metrics import Answers, Outcome, Ranked, Row
from transfer.networks import Network, open_networks
from transfer.protocols import Protocol
from transfer.results import Cost, Judged, Mode, Result, code_digest, kept_result, read_result, write_result
from transfer.splits import Split, split
from transfer.targets import Targets, every_image, open_targets

SAVED_EVERY = 20.0
"""Seconds of work that a kill may cost, about."""
_LOOK_EVERY = 0.2  # seconds between two looks whether another process has made a result
_KEPT = "features and finished results are kept"


@dataclass
class EvaluationSettings:
    """What networks are judged on, and where.

    Args:
        train: required: a folder with one sub-folder of images per class, or "bundled:train", or another source with
            labels: see docs/data.md.
        test: required: the same for the test images, or "bundled:test". Both must name the same classes.
        classes: of images with several labels, such as VOC's: those that are judged, if not all.
        fraction: share of the training images' labels that is used, of every class alike: 0.01, 0.1, ...
        size: side, in pixels, at which the networks see an image; 0 takes the size at which things look
            as large as in training (networks that are no run's: their own).
        seed: of splits and orders, and of random weights that are no run's.
        stages: names of stages, if not all are to be judged.
        reference: judge beside every run the same network at random weights.
        device: auto (the GPU if there is one), cpu, cuda, ...
        precision: the network's, as in pretraining: auto, bf16, fp32.
        workers: processes that decode images; -1 takes 1 beside a CPU and up to 12 beside a GPU.
        cache: folder of the features that are kept, for all evaluations; empty: $PRETINT_CACHE, or
            ~/.cache/pretint/features.
        storage: of kept features: float16, or float32 at twice the size.
        out: folder of the results; empty: a run's go into its own folder, those of other networks into results.
    """

    train: str = ""
    test: str = ""
    classes: list[str] = field(default_factory=list)
    fraction: float = 1.0
    size: int = 0
    seed: int = 0
    stages: list[str] = field(default_factory=list)
    reference: bool = True
    device: str = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    workers: int = -1
    cache: str = ""
    storage: Literal["float16", "float32"] = "float16"
    out: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.size <= 4096 or not -1 <= self.workers <= 256 or not 0 <= self.seed < 2**63:
            raise UserError("size must lie in [0, 4096], workers in [-1, 256], and seed must lie in [0, 2^63)")
        if not 0 < self.fraction <= 1:
            raise UserError(f"fraction is {self.fraction}: a share of the labels lies in (0, 1]")


class Partial:
    """What a kill or a stop leaves of one evaluation: a file beside the result, gone when that is there.

    Args:
        file: where it is kept.
        identity: of the evaluation; what another one left is of no use to it.
        asked: whether it was asked to stop, see ``stop_requests``.
    """

    def __init__(self, file: Path, identity: str, asked: Callable[[], Ending] = lambda: Ending.COMPLETE) -> None:
        self.file, self.identity, self._asked = file, identity, asked
        self._began = self._saved = time.monotonic()
        self._before, self._period = 0.0, SAVED_EVERY

    @property
    def seconds(self) -> float:
        """That the evaluation took, in this process and in earlier ones as far as they were saved."""
        return self._before + time.monotonic() - self._began

    def load(self) -> dict[str, Any]:
        """What was saved by an evaluation of the same identity; empty if there is nothing of use."""
        try:
            state = load_checkpoint(self.file)
        except UserError:
            return {}
        if state.get("identity") != self.identity:
            return {}
        self._before = state["seconds"]
        return state

    def offer(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save what ``state`` returns (tensors and plain values, nested), unless that was done a moment ago.

        Raises:
            KeyboardInterrupt, SystemExit: a signal asked to stop; all is saved.
        """
        began, ending = time.monotonic(), self._asked()
        if ending or began - self._saved > self._period:
            save_checkpoint(self.file, {**state(), "identity": self.identity, "seconds": self.seconds})
            self._saved = time.monotonic()
            took = self._saved - began
            self._period = max(SAVED_EVERY, 50.0 if took > 1 else 0.0)  # gigabytes are saved less often
        if ending:
            leave(ending, "the classifiers that are being trained are kept")

    def heed(self) -> None:
        """Stop if asked to, where there is nothing to save between two results.

        Raises:
            KeyboardInterrupt, SystemExit: a signal asked to stop.
        """
        if ending := self._asked():
            leave(ending, _KEPT)


class Task(NamedTuple):
    """One network's features and targets, ready for a classifier."""

    network: Network
    stages: list[str]
    """Those that are judged, in order."""
    train: FeatureSet
    test: FeatureSet
    targets: Targets
    split: Split
    view: View
    seed: int
    place: Place
    partial: Partial

    @property
    def tested(self) -> NDArray[np.int64]:
        """The test images that can be read, by index."""
        return np.flatnonzero(self.test.good)

    def outcome(self, stage: str, scores: NDArray[np.floating]) -> Outcome:
        """What scores of the test images, (len(tested), classes), say: the greatest is the answer, or all rank.

        Raises:
            UserError: they are not finite.
        """
        if not np.isfinite(scores).all():
            raise UserError(
                f"{self.network.name}, stage {stage}: its classifier has diverged, at a learning rate too high for "
                "these features; take protocol modern, which tries several, or leave the stage out by --stages"
            )
        truth = self.targets.test.labels[self.tested]
        if self.targets.multilabel:
            return Ranked(scores.astype(np.float32), truth.astype(np.int8))
        return Answers(scores.argmax(1) == truth)


Judge = Callable[[Task], Sequence[Row]]
"""From features to the rows of a result."""


@explain_memory_shortage("lower size or workers, or judge fewer stages")
def evaluate(
    specs: Sequence[str], settings: EvaluationSettings, protocol: Protocol, mode: Mode, judge: Judge
) -> list[Result]:
    """Judge networks by a protocol; what has been judged already is read back.

    Args:
        specs: networks, see ``transfer.networks.open_network``.
        settings: on what, where.
        protocol: how.
        mode: which views the classifiers are trained on.
        judge: the protocol's classifier.

    Returns:
        A result for every network, in order, as read from the files written.

    Raises:
        UserError: see the message.
        KeyboardInterrupt, SystemExit: a signal asked to stop; what was computed is kept.
    """
    place = pick_place(settings.device, settings.precision, settings.workers)
    targets = open_targets(settings.train, settings.test, settings.classes)
    opened = open_networks(specs, settings.seed, settings.reference)
    evaluations = [Evaluation(network, targets, settings, protocol, mode, place) for network in opened]
    results = {at: found for at, one in enumerate(evaluations) if (found := one.kept())}
    copies: dict[str, int] = {}
    kept = CacheSettings(cache_folder(settings.cache), settings.storage)
    for view in dict.fromkeys(one.view for one in evaluations):  # what is seen alike is decoded once
        wanted = [at for at, one in enumerate(evaluations) if one.view == view and at not in results]
        if not wanted:
            continue
        forget_peak(place.device)
        networks = [evaluations[at].network for at in wanted]
        train, test = (
            extract(networks, source, view, protocol.poolings, place, kept, (targets.train, view), f"features: {part}")
            for part, source in (("train", targets.train), ("test", targets.test))
        )
        with stop_requests() as asked:
            for at, fitted, tested in zip(wanted, train, test, strict=True):
                if ending := asked():
                    leave(ending, _KEPT)
                with evaluations[at].alone(asked) as result:
                    results[at] = result or evaluations[at].judge(fitted, tested, judge, asked, copies)
            if (ending := asked()) and len(results) < len(evaluations):
                leave(ending, _KEPT)
    return [results[at] for at in range(len(evaluations))]


class Evaluation:
    """One network's evaluation: where its result goes, and all that this depends on."""

    def __init__(
        self,
        network: Network,
        targets: Targets,
        settings: EvaluationSettings,
        protocol: Protocol,
        mode: Mode,
        place: Place,
    ) -> None:
        self.network, self.targets, self.settings = network, targets, settings
        self.protocol, self.place = protocol, place
        size = network.fit_size(settings.size) if settings.size else network.size_at(protocol.ratio)
        self.view = View(size, protocol.ratio)
        names = [stage.name for stage in network.stages]
        if unknown := [name for name in settings.stages if name not in names]:
            raise UserError(f"stages: {network.name} has no {unknown[0]}; it has {', '.join(names)}")
        self.stages = [name for name in names if name in settings.stages] or names
        home = Path(settings.out) if settings.out else (network.run or Path()) / "results"
        self.file = home / f"{self._file_name(mode)}.json"
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

    def kept(self) -> Result | None:
        """The result that was made of the very same things, if there is one."""
        found = kept_result(self.file, self._judged, {**self.facts, "versions": versions()})
        return found if found is not None and self._unreadable(found.skipped) else None

    @contextlib.contextmanager
    def alone(self, asked: Callable[[], Ending]) -> Iterator[Result | None]:
        """No other process makes this result meanwhile; what one has made before is what it gives.

        Raises:
            UserError: it cannot be written there.
            KeyboardInterrupt, SystemExit: a signal asked to stop while it waited.
        """
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            lock = self.file.with_name(f".{self.file.stem}.lock").open("a")
        except OSError as error:
            raise UserError(
                f"{self.file.parent}: cannot write a result there ({error.strerror}); make it writable, or copy the "
                "run, or give --out for networks that are no run's"
            ) from error
        with lock:
            if not _locked(lock):
                say(f"{self.file}: another process makes this result; waiting for it")
                while not _locked(lock):
                    if ending := asked():
                        leave(ending, _KEPT)
                    time.sleep(_LOOK_EVERY)
            yield self.kept()

    def _unreadable(self, skipped: Sequence[tuple[str, str]]) -> bool:
        """Whether the images that could not be read still cannot."""
        keys, lost = {key for key, _ in skipped}, 0
        for source in (self.targets.train, self.targets.test) if keys else ():
            views = Views(source, *self.view)
            lost += sum(views[index].rgb is None for index in range(len(source)) if source.key(index) in keys)
        return lost == len(skipped)

    def judge(
        self,
        train: FeatureSet,
        test: FeatureSet,
        judge: Judge,
        asked: Callable[[], Ending],
        copies: dict[str, int],
    ) -> Result:
        """Make the result from the features, write it, and read it back.

        ``copies`` keeps, by the digest of a split, how many of its held-out images are among those that teach.
        """
        settings, targets, network = self.settings, self.targets, self.network
        divided = split(targets.train.labels, self.protocol.holdout, settings.seed, settings.fraction, train.good)
        if targets.multilabel and len(divided.held) and not (targets.train.labels[divided.held] == 1).any():
            raise UserError(
                f"{settings.train}: none of the {len(divided.held)} training images held out to choose settings "
                "shows a class that is asked for; take a larger fraction of labels, more classes, or another seed"
            )
        if divided.sha256 not in copies:
            copies[divided.sha256] = self._count_copies(divided)
        identity = json.dumps([self.facts, network.weights, divided.sha256, self.stages], sort_keys=True)
        partial = Partial(self.file.with_name(f".{self.file.stem}.part.pt"), identity, asked)
        task = Task(network, self.stages, train, test, targets, divided, self.view, settings.seed, self.place, partial)
        rows = tuple(judge(task))
        extraction, metric = train.seconds + test.seconds, _metric(targets)
        result = Result(
            **self.facts,
            network=self._judged,
            about=self.protocol.describe(len(divided.fit)),
            metric=metric,
            train=settings.train,
            test=settings.test,
            classes=tuple(targets.classes),
            n_fit=len(divided.fit),
            n_holdout=len(divided.held),
            n_train=len(targets.train),
            n_test=len(task.tested),
            split=divided.name + _describe_copies(copies[divided.sha256]),
            split_sha256=divided.sha256,
            rows=rows,
            cost=Cost(
                seconds=partial.seconds + extraction,
                extraction_seconds=extraction,
                images_per_second=(train.rows + test.rows) / max(extraction, 1e-9),
                peak_bytes=peak(),
                cache_bytes=train.nbytes + test.nbytes,
                device=device_name(self.place.device),
            ),
            versions=versions(),
            skipped=tuple(train.skipped + test.skipped),
            interval=ABOUT[metric],
        )
        write_result(self.file, result)
        partial.file.unlink(missing_ok=True)
        return read_result(self.file)

    def _count_copies(self, divided: Split) -> int:
        """Count the held-out images that are copies of images that teach; say so in a line where there are any."""
        if not len(divided.held):
            return 0
        train = every_image(self.targets.train)
        copies = len(find_shared(train, train, divided.fit, divided.held))
        if copies:
            say(
                f"{self.settings.train}: {copies:,} of {len(divided.held):,} held-out training images, which choose "
                "settings, are copies of images that teach"
            )
        return copies

    @property
    def _judged(self) -> Judged:
        one = self.network
        return Judged(one.name, one.group, one.kind, one.seed, one.step, one.backbone, one.weights)

    def _file_name(self, mode: Mode) -> str:
        settings = self.settings
        words = [
            settings.test,
            self.protocol.name,
            mode,
            self.network.name,
            f"{self.view.size}px",
            f"seed{settings.seed}",
        ]
        words += [f"{100 * settings.fraction:g}%"] if settings.fraction < 1 else []
        words += ["+".join(self.stages)] if settings.stages else []
        named = ".".join(re.sub(r"[^\w.+%@-]+", "-", word).strip("-.")[-50:] for word in words)
        # Other training images, or a long name cut to the same end, must not take the place of a result.
        told = json.dumps([self.targets.train_digest, self.targets.test_digest, self.stages])
        return f"{named}.{hashlib.sha256(told.encode()).hexdigest()[:6]}"


def _describe_copies(copies: int) -> str:
    return f", held-out images that are copies of images that teach: {copies:,}" if copies else ""


def _locked(lock: IO[str]) -> bool:
    """Whether nobody else holds it; we do then."""
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _metric(targets: Targets) -> Metric:
    return "mAP" if targets.multilabel else "top-1"
