"""Judging every stage of a frozen network by the full grid of protocol `modern`, against having its features at all.

Features alone: one pass over training and test images with an empty cache, which is written; then the cache as a
later evaluation opens it (checksums verified, some images looked at), and every matrix read into memory once. Ours:
the same, and all classifiers of all stages, trained, dropped, chosen and tested; they read the matrices themselves.
What is read lies in the system's page cache. On few images the classifiers take 300 steps all the same, which are
then more than the protocol's 10 epochs: the remark says how many.

And the classifiers side by side against a plain loop, which trains one after the other with torch.nn.Linear and
torch.optim.SGD on the same features. It is timed with a few of the settings; what one costs does not depend on them.
The ceilings of both parts are in ``frozen_ceiling``.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.frozen_ceiling import bare_network, extraction, products
from benchmarks.paired import Row, paired, seconds, spread, times_as_fast
from pretext.data import LabeledDataset
from pretext.data.order import permutation
from pretext.data.source import digest_of_keys
from pretext.engine.device import ComputeConfig, choose_compute
from pretext.engine.signals import ExitStatus
from pretext.store import Artifact
from transfer.evaluation import EvaluationTask, Partial
from transfer.features import CacheSettings, Rows, View, calibrate_batch_norm, extract
from transfer.networks import open_network
from transfer.probes.linear import _heads, _linear
from transfer.probes.sweep import FeatureKey, grid, positions, steps_of
from transfer.protocols import LinearProtocol, find_protocol
from transfer.splits import split
from transfer.targets import Targets, open_targets

_TARGET = 1.3  # times what the features cost
_ALONE = 2  # settings that the plain loop is timed with
_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenette-96"


class _Case(NamedTuple):
    network: str
    size: int
    """Pixels; 0: as the network would be looked at."""
    most: int
    """Training images, and a quarter as many test images; 0: all."""
    rounds: int
    """At most: each computes all features again."""


_CASES = (_Case("random:tiny", 0, 0, 5), _Case("random:resnet18", 96, 0, 3), _Case("random:alexnet", 0, 2000, 1))


def rows(device: torch.device, rounds: int, images: Sequence[str] = ()) -> Iterator[Row]:
    """For every network: the whole cost, and the classifiers' alone."""
    train, test = images or _found()
    targets, place = open_targets(train, test), choose_compute(str(device))
    shown = train if ":" in train else "/".join(Path(train).parts[-2:])
    for case in _CASES:
        yield from _measured(case, _fewer(targets, case.most), shown, place, rounds)


def _found() -> tuple[str, str]:
    """The images that are taken unless somebody says else."""
    return (f"{_BESIDE}/train", f"{_BESIDE}/val") if _BESIDE.is_dir() else ("bundled:train", "bundled:test")


def _measured(case: _Case, targets: Targets, shown: str, place: ComputeConfig, rounds: int) -> Iterator[Row]:
    protocol, network = find_protocol("modern", LinearProtocol), open_network(case.network)
    view = View(network.fit_size(case.size) if case.size else network.size_at(protocol.ratio), protocol.ratio)
    setting = (
        f"{network.backbone}, {view.size} px, {len(targets.train):,} + {len(targets.test):,} images of {shown}, "
        f"{place.precision}"
    )
    load = os.getloadavg()[0]
    busy = f"; the machine was shared (load {load:.1f} before)" if load > 0.5 and place.device.type == "cpu" else ""
    calibrate_batch_norm(network, targets.train, view, place)  # once, whatever is evaluated later; warms up
    whole, alone, judged, extracted, bare = [], [], [], [], []
    for last in reversed(range(min(rounds, case.rounds))):
        with tempfile.TemporaryDirectory() as scratch:
            cache = CacheSettings(Path(scratch) / "cache")

            def features(cache: CacheSettings = cache) -> EvaluationTask:
                train, test = (
                    extract([network], one, view, protocol.poolings, place, cache, (targets.train, view), "features")[0]
                    for one in (targets.train, targets.test)
                )
                partial = Partial(Artifact(cache.folder / "part", {}, "classifiers", ""), lambda: ExitStatus.COMPLETE)
                stages = [stage.name for stage in network.stages]
                divided = split(targets.train.labels, protocol.holdout, 0, good=train.good)
                labels = targets.test.labels
                return EvaluationTask(network, stages, train, test, labels, targets, divided, view, 0, place, partial)

            extracted.append(seconds(features, place.device))
            verification = seconds(features, place.device)
            task = features()
            bare.append(bare_network(network, task, place))
            reading = verification + seconds(lambda task=task: _read(task, protocol), place.device)  # type: ignore[misc]
            classifiers = seconds(lambda task=task: _linear(task, protocol, "cached"), place.device)  # type: ignore[misc]
            whole.append(extracted[-1] + verification + classifiers)
            alone.append(extracted[-1] + reading)
            judged.append(classifiers)
            parts = f"extraction {extracted[-1]:.1f} s, reading {reading:.2f} s, classifiers {classifiers:.1f} s"
            if not last:
                stacked, plain, ceiling = _steps(task, protocol, rounds, setting)
    settings, (steps, batch_size) = len(grid(protocol, 1)), steps_of(protocol, len(task.split.fit))
    parts += f"; {steps} steps, {steps * batch_size / len(task.split.fit):.0f} epochs"
    ratio = spread([less / more for less, more in zip(alone, whole, strict=True)])
    yield Row(
        "probe, all stages, full grid",
        setting,
        "features alone",
        "s",
        spread(whole),
        spread(alone),
        ratio,
        round(1 / _TARGET, 2),
        f"costs {1 / ratio.median:.2f} times the features, at most {_TARGET} wanted; last round: {parts}{busy}",
    )
    yield extraction(setting, extracted, bare, busy.removeprefix("; "))
    remark = f"timed with {_ALONE} of {settings} settings{busy}"
    against = "plain loop, one after the other"
    row = times_as_fast("a step of all classifiers", setting, against, stacked, plain)
    yield row._replace(remark=remark)
    yield ceiling._replace(remark=busy.removeprefix("; "))
    full = [steps * one for one in plain]
    yield Row(
        "all classifiers, dropped early, chosen, tested",
        setting,
        f"{against}, {steps} steps, untested",
        "s",
        spread(judged),
        spread(full),
        spread([slow / spread(judged).median for slow in full]),
        remark=remark,
    )


def _cells(task: EvaluationTask, protocol: LinearProtocol) -> list[FeatureKey]:
    return [FeatureKey(stage, rule) for stage in task.stages for rule in protocol.poolings]


def _read(task: EvaluationTask, protocol: LinearProtocol) -> None:
    """Every matrix into memory, one at a time."""
    for cell in _cells(task, protocol):
        for features in (task.train, task.test):
            Rows(features.matrix(*cell), task.place.device)


def _steps(
    task: EvaluationTask, protocol: LinearProtocol, rounds: int, setting: str
) -> tuple[list[float], list[float], Row]:
    """Seconds of a step of all classifiers: side by side, and one after the other; and the row of its ceiling."""
    fit, device = task.split.fit, task.place.device
    steps, batch_size = steps_of(protocol, len(fit))
    settings = grid(protocol, batch_size)
    order = permutation(len(fit), 0)
    batches = cycle(range(steps))
    rows = {cell: Rows(task.train.matrix(*cell), device) for cell in _cells(task, protocol)}
    heads = {cell: _heads(task, protocol, rows[cell], settings) for cell in rows}
    truth = torch.from_numpy(task.targets.train.labels).to(device)

    def stacked() -> None:
        chosen = fit[positions(next(batches), batch_size, len(fit), lambda _: order)]
        for cell, own in rows.items():
            heads[cell].step(own[chosen], truth[torch.from_numpy(chosen).to(device)], 1.0)

    middle = len(settings) // 2
    plain = [
        _Plain(cell, rows[cell].dims, len(task.targets.classes), *setting, protocol.momentum, device)
        for setting in settings[middle : middle + _ALONE]
        for cell in rows
    ]

    def one_by_one() -> None:
        chosen = fit[positions(next(batches), batch_size, len(fit), lambda _: order)]
        for one in plain:
            mean, scale = heads[one.cell].mean, heads[one.cell].variance.rsqrt()
            one.step((rows[one.cell][chosen] - mean) * scale, truth[torch.from_numpy(chosen).to(device)])

    ours, theirs = paired(stacked, one_by_one, device, rounds)
    shapes = [(len(settings) * len(task.targets.classes), one.dims) for one in rows.values()]
    ceiling = products(setting, stacked, shapes, batch_size, device, rounds)
    return ours, [seconds_ * len(settings) / _ALONE for seconds_ in theirs], ceiling


class _Plain:
    """One classifier as one would write it."""

    def __init__(
        self, cell: FeatureKey, dims: int, classes: int, lr: float, decay: float, momentum: float, device: torch.device
    ) -> None:
        self.cell, self.linear = cell, nn.Linear(dims, classes, device=device)
        groups: list[dict[str, Any]] = [
            {"params": [self.linear.weight], "weight_decay": decay},
            {"params": [self.linear.bias]},
        ]
        self.optimizer = torch.optim.SGD(groups, lr, momentum)

    def step(self, features: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.linear(features), targets).backward()
        self.optimizer.step()


class _Some:
    """Every so-manieth image of a labeled source: a labeled source."""

    def __init__(self, source: LabeledDataset, count: int) -> None:
        self.source, self.classes = source, source.classes
        self.chosen = [number * len(source) // count for number in range(count)]
        self.labels = source.labels[self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        return self.source.read(self.chosen[index], shorter)

    def key(self, index: int) -> str:
        return self.source.key(self.chosen[index])

    def digest(self) -> str:
        return digest_of_keys(self)


def _fewer(targets: Targets, most: int) -> Targets:
    """With so many training images at most, and a quarter as many test images."""
    if not most:
        return targets
    train, test = (
        _Some(one, min(len(one), count)) for one, count in ((targets.train, most), (targets.test, most // 4))
    )
    return targets._replace(train=train, test=test)
