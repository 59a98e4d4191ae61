"""A frozen evaluation, whatever its protocol: networks and pictures in, a result file for every network out.

What classifies the features is given as a function; all around it is here: opening, extraction, the split,
results that are there already, what a kill leaves, the cost.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

import pretext
import transfer
from pretext.engine.checkpoint import load_checkpoint, save_checkpoint
from pretext.engine.device import Place, pick_place
from pretext.engine.memory import forget_peak, peak
from pretext.errors import UserError
from pretext.versions import versions
from transfer.features import CacheSettings, FeatureSet, View, default_folder, extract
from transfer.networks import Network, open_network
from transfer.protocols import Protocol
from transfer.results import Cost, Judged, Outcome, Result, Row, read_result, write_result
from transfer.splits import Split, split
from transfer.targets import Targets, open_targets

SAVED_EVERY = 20.0
"""Seconds of work that a kill may cost, about."""

Mode = Literal["cached", "augmented"]


@dataclass
class EvaluationSettings:
    """What networks are judged on, and where.

    Args:
        train: a folder with one sub-folder of pictures per class, or "bundled:train", or another source with
            labels: see docs/data.md.
        test: the same for the test pictures, or "bundled:test". Both must name the same classes.
        fraction: share of the training pictures' labels that is used, of every class alike: 0.01, 0.1, ...
        size: side, in pixels, at which the networks see a picture; 0 takes the size at which things look
            as large as in training (published weights: their own).
        seed: of splits and orders, and of random weights that are no run's.
        stages: names of stages, if not all are to be judged.
        reference: judge beside every run the same network at random weights.
        device: auto (the GPU if there is one), cpu, cuda, ...
        precision: the network's, as in pretraining: auto, bf16, fp32.
        workers: processes that decode pictures; -1 takes 1 beside a CPU and up to 12 beside a GPU.
        cache: folder of the features that are kept, for all evaluations; empty: $PRETINT_CACHE, or
            ~/.cache/pretint/features.
        storage: of kept features: float16, or float32 at twice the size.
        out: folder of the results of networks that are no run's.
    """

    train: str = "bundled:train"
    test: str = "bundled:test"
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
    out: Path = field(default_factory=lambda: Path("results"))

    def __post_init__(self) -> None:
        if not 0 <= self.size <= 4096 or not -1 <= self.workers <= 256 or not 0 <= self.seed < 2**63:
            raise UserError("size must lie in [0, 4096], workers in [-1, 256], and seed must lie in [0, 2^63)")
        if not 0 < self.fraction <= 1:
            raise UserError(f"fraction is {self.fraction}: a share of the labels lies in (0, 1]")


class Task(NamedTuple):
    """One network's features and targets, ready for a classifier."""

    network: Network
    train: FeatureSet
    test: FeatureSet
    targets: Targets
    split: Split
    view: View
    seed: int
    place: Place
    partial: "Partial"
    asked: tuple[str, ...]
    """Names of stages; none: all."""

    @property
    def stages(self) -> list[str]:
        """The stages that are judged, in order."""
        names = [stage.name for stage in self.network.stages]
        return [name for name in names if name in self.asked] if self.asked else names

    @property
    def tested(self) -> NDArray[np.int64]:
        """The test pictures that can be read, by index."""
        return np.flatnonzero(self.test.good)

    def outcome(self, scores: NDArray[np.floating]) -> Outcome:
        """What scores of the test pictures, (len(tested), classes), say: the greatest is the answer, or all rank."""
        truth = self.targets.test.labels[self.tested]
        if self.targets.multilabel:
            return Outcome(correct=None, scores=scores.astype(np.float32), truth=truth.astype(np.int8))
        return Outcome(correct=scores.argmax(1) == truth, scores=None, truth=None)


class Partial:
    """What a kill leaves of one evaluation: a file beside the result, gone when that is there."""

    def __init__(self, file: Path, identity: str) -> None:
        self.file, self.identity = file, identity
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any]:
        """What was saved by an evaluation of the same identity; empty if there is nothing of use."""
        try:
            state = load_checkpoint(self.file)
        except UserError:
            return {}
        return state if state.get("identity") == self.identity else {}

    def offer(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save what ``state`` returns (tensors and plain values, nested), unless that was done a moment ago."""
        if time.monotonic() - self._saved > SAVED_EVERY:
            save_checkpoint(self.file, {**state(), "identity": self.identity})
            self._saved = time.monotonic()


Judge = Callable[[Task], Sequence[Row]]
"""From features to the rows of a result."""


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
    """
    place = pick_place(settings.device, settings.precision, settings.workers)
    targets = open_targets(settings.train, settings.test)
    networks = _opened(specs, settings)
    views = [_view(network, settings, protocol) for network in networks]
    results = [
        _Destination(network, view, targets, settings, protocol, mode, place)
        for network, view in zip(networks, views, strict=True)
    ]
    for destination in results:
        destination.recall()
    for view in dict.fromkeys(views):  # what is seen alike is decoded once
        wanted = [at for at, one in enumerate(views) if one == view and results[at].result is None]
        if not wanted:
            continue
        group = [networks[at] for at in wanted]
        forget_peak(place.device)
        kept = CacheSettings(
            Path(settings.cache).expanduser() if settings.cache else default_folder(), settings.storage
        )
        train, test = (
            extract(group, source, view, protocol.poolings, place, kept, (targets.train, view), f"features of {part}")
            for part, source in (("train", targets.train), ("test", targets.test))
        )
        for at, known, asked in zip(wanted, train, test, strict=True):
            results[at].judge(known, asked, judge)
    return [destination.read() for destination in results]


class _Destination:
    """Where a result goes, and all that it depends on."""

    def __init__(
        self,
        network: Network,
        view: View,
        targets: Targets,
        settings: EvaluationSettings,
        protocol: Protocol,
        mode: Mode,
        place: Place,
    ) -> None:
        self.network, self.view, self.targets, self.settings = network, view, targets, settings
        self.protocol, self.mode, self.place = protocol, mode, place
        self.result: Result | None = None
        fraction = f".{100 * settings.fraction:g}%" if settings.fraction < 1 else ""
        words = (settings.test, protocol.name + fraction, mode, network.name, f"{view.size}px", f"seed{settings.seed}")
        name = ".".join(re.sub(r"[^\w.%-]+", "-", word).strip("-.")[-60:] for word in words)
        folder = network.run / "results" if network.run else settings.out
        self.file = folder / f"{name}.json"

    @property
    def identity(self) -> dict[str, Any]:
        """What a result depends on; where all of it is the same, so is the result."""
        return {
            "network": self.network.weights,
            "protocol": self.protocol.name,
            "settings": json.loads(json.dumps(self.protocol.settings)),
            "mode": self.mode,
            "train": self.targets.train_digest,
            "test": self.targets.test_digest,
            "fraction": self.settings.fraction,
            "view": [self.view.size, self.view.ratio],
            "precision": self.place.precision,
            "storage": self.settings.storage,
            "seed": self.settings.seed,
            "code": code_digest(),
        }

    def recall(self) -> None:
        """Read back a result of the same identity, if there is one."""
        if self.file.exists():
            found = read_result(self.file)
            if found.identity == self.identity:
                self.result = found

    def judge(self, train: FeatureSet, test: FeatureSet, judge: Judge) -> None:
        """Make the result from the features, and write it."""
        began = time.monotonic()
        settings, targets, protocol = self.settings, self.targets, self.protocol
        chosen = split(targets.train.labels, protocol.holdout, settings.seed, settings.fraction, train.good)
        identity = hashlib.sha256(json.dumps([self.identity, chosen.sha256], sort_keys=True).encode()).hexdigest()
        partial = Partial(self.file.with_name(f".{self.file.stem[:200]}.part.pt"), identity)
        task = Task(self.network, train, test, targets, chosen, self.view, settings.seed, self.place, partial)
        rows = tuple(judge(task))
        choosing = [row for row in rows if row.holdout is not None]
        best = max(choosing, key=lambda row: row.holdout or 0.0).name if choosing else None
        seconds, extraction = time.monotonic() - began, train.seconds + test.seconds
        network = self.network
        result = Result(
            network=Judged(
                network.name, network.group, network.kind, network.seed, network.step, network.backbone, network.weights
            ),
            protocol=protocol.name,
            about=protocol.about,
            settings=self.identity["settings"],
            mode=self.mode,
            metric="mAP" if targets.multilabel else "top-1",
            train=settings.train,
            test=settings.test,
            train_digest=targets.train_digest,
            test_digest=targets.test_digest,
            classes=tuple(targets.classes),
            n_fit=len(chosen.fit),
            n_holdout=len(chosen.held),
            n_train=len(targets.train),
            n_test=len(task.tested),
            fraction=settings.fraction,
            split=chosen.name,
            split_sha256=chosen.sha256,
            view_size=self.view.size,
            view_ratio=self.view.ratio,
            precision=self.place.precision,
            seed=settings.seed,
            rows=rows,
            best=best,
            cost=Cost(
                seconds=seconds + extraction,
                extraction_seconds=extraction,
                pictures_per_second=(train.rows + test.rows) / max(extraction, 1e-9),
                peak_bytes=peak(),
                cache_bytes=train.nbytes + test.nbytes,
                device=str(self.place.device),
            ),
            identity=self.identity,
            versions=versions(),
            skipped=tuple(train.skipped + test.skipped),
        )
        write_result(self.file, result)
        partial.file.unlink(missing_ok=True)
        self.result = result

    def read(self) -> Result:
        """The result as its file has it."""
        return read_result(self.file)


@cache
def code_digest() -> str:
    """SHA-256 over the source files of the packages that compute a result."""
    digest = hashlib.sha256()
    for package in (pretext, transfer):
        root = Path(package.__path__[0])
        for file in sorted(root.rglob("*.py")):
            digest.update(file.relative_to(root.parent).as_posix().encode() + b"\n" + file.read_bytes())
    return digest.hexdigest()


def _opened(specs: Sequence[str], settings: EvaluationSettings) -> list[Network]:
    """The networks, each once, with the references before them."""
    named = [open_network(spec, settings.seed) for spec in specs]
    runs = dict.fromkeys(network.run for network in named if network.run and network.kind != "random")
    references = [open_network(f"random:{run}", settings.seed) for run in runs] if settings.reference else []
    found: dict[tuple[str, str], Network] = {}
    for network in (*references, *named):  # two runs of one seed may begin with the same weights
        found.setdefault((network.weights, network.kind), network)
    return list(found.values())


def _view(network: Network, settings: EvaluationSettings, protocol: Protocol) -> View:
    return View(network.fit_size(settings.size or round(network.view_size * protocol.ratio)), protocol.ratio)
