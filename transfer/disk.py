"""What judging and fine-tuning will write to disk, known before they are started: no features are computed, no step."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from PIL import Image

from pretext.engine.device import Place, pick_device, pick_precision
from pretext.engine.journal import record_sizes
from pretext.errors import PictureError, UserError
from pretext.files import png_bytes
from pretext.pictures.source import Source
from pretext.plan.disk import Disk, checkpoint_parts, checkpoint_size, looks_of, saves_of, training_records
from pretext.sheet import contact_sheet
from pretext.versions import versions
from transfer.evaluation import EvaluationSettings, _cache_folder, _Evaluation
from transfer.features import CacheSettings, View
from transfer.features.cache import ROWS, Block, Entry, key_of
from transfer.features.extraction import _FORMAT, _MAKERS, _pictures, _shapes
from transfer.features.pooling import dims_of
from transfer.finetuning import _Run, _starts
from transfer.judging import KnnSettings, SvmSettings
from transfer.networks import open_networks
from transfer.outcomes import Answers, Outcome, Ranked
from transfer.probing import ProbeSettings
from transfer.protocols import (
    LinearProtocol,
    NearestProtocol,
    ProbeProtocol,
    Protocol,
    SvmProtocol,
    find_protocol,
)
from transfer.results import Mode, code_digest
from transfer.results.packing import packed_outcomes
from transfer.targets import Targets, open_targets
from transfer.tasks import drawing
from transfer.tasks.opening import TASKS, open_task
from transfer.tasks.task import FinetuneSettings, Task

_HEAD = 2_000  # bytes of a result without its settings, classes, rows and answers: digests, versions, cost
_ROW = 260  # of a row without what was chosen
_QUOTED = 12  # around the answers of an outcome
_NUMBER = np.pi / 3  # has as many digits as most numbers
_SHOWN, _CELL = 8, (300, 225)  # as sheets of fine-tuning


def probe_disk(networks: Sequence[str], settings: ProbeSettings) -> Disk:
    """What ``probe`` will write: features that are not kept yet, and results.

    One picture is shown to every network, for the shapes of its stages; some are read to know them again.

    Raises:
        UserError: what ``probe`` would say of the networks, the pictures or the settings.
    """
    protocol = find_protocol(settings.protocol, ProbeProtocol)
    modes: list[Mode] = ["cached", "augmented"] if settings.mode == "both" else [settings.mode]
    return _evaluation_disk(networks, settings, protocol, modes)


def knn_disk(networks: Sequence[str], settings: KnnSettings) -> Disk:
    """What ``knn`` will write; see ``probe_disk``."""
    return _evaluation_disk(networks, settings, find_protocol("knn", NearestProtocol), ["cached"])


def svm_disk(networks: Sequence[str], settings: SvmSettings) -> Disk:
    """What ``svm`` will write; see ``probe_disk``."""
    return _evaluation_disk(networks, settings, find_protocol(settings.protocol, SvmProtocol), ["cached"])


def finetune_disk(name: str, networks: Sequence[str], settings: FinetuneSettings) -> Disk:
    """What ``finetune`` will write: a run for every network, and its result.

    Checkpoints are exact but for some bytes. A run that was begun counts as if it were new.

    Args:
        name: of the task, one of ``TASKS``.
        networks: as of ``finetune``.
        settings: of that task.

    Raises:
        UserError: what ``finetune`` would say of the networks, the pictures or the settings.
    """
    assert type(settings) is TASKS[name].settings, name
    task, place = open_task(settings), Place(torch.device("cpu"), "fp32", 0)
    training, machine = settings.training, settings.machine
    looks = looks_of(training, machine)
    parts: list[tuple[str, int]] = []
    notes: list[str] = []
    passing = 0
    health = record_sizes("health", training.steps // 2, **{f"score_{n}": _NUMBER for n in range(_variants(name))})
    line, event = training_records(training, machine, health)
    for start in _starts(networks, settings):
        run, called = _Run(start, task, settings, place), start.judged.name
        run.check()
        if run.kept() is not None:
            notes.append(f"{called} is done: it writes nothing.")
            continue
        besides = {
            "settings": run._stored_settings,
            "precision": place.precision,
            "data": {"digest": task.train_digest},
            "versions": versions(),
        }
        network = run._built(place, fresh=False)
        first, later = (checkpoint_size(network, training, besides, begun) for begun in (False, True))
        checkpoints, more = checkpoint_parts(first, later, saves_of(training, machine))
        # One run is trained after the other, so only one has a checkpoint more.
        parts += [(f"{called}: {what}", count) for what, count in checkpoints[:-1]]
        passing = max(passing, more)
        shown = looks * _sheet(run.held) if len(run.held) else 0
        parts.append((f"{called}: samples", shown + _sheet(task.test)))
        facts = {"versions": versions(), "precision": place.precision, "workers": 0}
        begun_line = record_sizes("start", 0, time=time.time(), device="cpu", processes=1, **facts)[0]
        asked = len(yaml.safe_dump(run._stored_settings, sort_keys=False).encode())
        parts.append((f"{called}: journal and settings", line + begun_line + asked))
        parts.append((f"{called}: TensorBoard, samples once more", event + shown))
        parts.append((f"{called}: result", _head(run._facts["settings"], task.classes) + _ROW + _answers_of(task)))
    if passing:
        parts.append(("for moments one more checkpoint", passing))
    if name != "classify":
        notes.append("Left out: what a result keeps of the answers, which depends on what is found.")
    return Disk(sum(count for _, count in parts) - passing, passing, tuple(parts), tuple(notes))


def _evaluation_disk(
    specs: Sequence[str], settings: EvaluationSettings, protocol: Protocol, modes: Sequence[Mode]
) -> Disk:
    """What ``evaluate`` will write, in all modes."""
    place = _cpu(settings)
    targets = open_targets(settings.train, settings.test, settings.classes)
    opened = open_networks(specs, settings.seed, settings.reference)
    kept = CacheSettings(_cache_folder(settings.cache), settings.storage)
    sources = {"train": targets.train, "test": targets.test}
    seen: dict[tuple[str, View], dict[str, Any]] = {}
    features: dict[str, int] = {}  # by name of the entry, which networks with the same weights share
    results = passing = 0
    notes: list[str] = []
    for network in opened:
        evaluations = [_Evaluation(network, targets, settings, protocol, mode, place) for mode in modes]
        lacking = [mode for mode, one in zip(modes, evaluations, strict=True) if one.kept() is None]
        if not lacking:
            notes.append(f"{network.name} is judged: it writes nothing.")
            continue
        view, stages = evaluations[0].view, evaluations[0].stages
        for part, source in sources.items():
            if (part, view) not in seen:
                seen[part, view] = _pictures(source, view)
        shapes = _shapes(network, view.size, place._replace(precision="fp32"))
        statistics = None
        if network.calibrated and network.norms:
            statistics = {**seen["train", view], "precision": place.precision}
        for part, source in sources.items():
            for rule in protocol.poolings:
                # As ``extract`` names its entries.
                identity = {
                    "format": _FORMAT,
                    "weights": network.weights,
                    "calibration": statistics,
                    "pictures": seen[part, view],
                    "rule": rule,
                    "precision": place.precision,
                    "storage": settings.storage,
                    "code": code_digest(*_MAKERS),
                    "libraries": [torch.__version__, timm.__version__],
                }
                columns = {stage: dims_of(rule, *shape) for stage, shape in shapes.items()}
                entry = Entry(kept.folder / key_of(identity), len(source), columns, settings.storage)
                features[entry.folder.name] = _missing(entry, identity)
        dims = {stage: list({dims_of(rule, *shapes[stage]) for rule in protocol.poolings}) for stage in stages}
        results += len(lacking) * _result_size(protocol, targets, stages)
        passing = max(passing, *(_partial(protocol, mode, dims, len(targets.classes)) for mode in lacking))
    if settings.precision == "auto":
        notes.append(f"Kept features count if they are of {place.precision}, which this machine would compute in.")
    if passing:
        notes.append("What is passing is written by classifiers that take longer than 20 s.")
    if isinstance(protocol, SvmProtocol):
        notes.append("Left out: what a kill leaves of SVMs, beside the result until that is there.")
    parts = [("features that are not kept yet", sum(features.values())), ("results", results)]
    parts += [("for moments half-trained classifiers", passing)] if passing else []
    return Disk(sum(features.values()) + results, passing, tuple(parts), tuple(notes))


def _cpu(settings: EvaluationSettings) -> Place:
    """The CPU, with the precision that the job would have; the machine that is asked may lack the job's device."""
    try:
        device = pick_device(settings.device)
    except UserError:
        device = torch.device("cpu")
    return Place(torch.device("cpu"), pick_precision(settings.precision, device), 0)


def _missing(entry: Entry, identity: Mapping[str, Any]) -> int:
    """Bytes by which an entry of the cache will grow: files are never cut short, so what is there needs no room."""
    bytes_each = np.dtype(entry.storage).itemsize
    there = {column: _size(entry.path(column)) for column in entry.columns}
    rows = sum(max(0, entry.rows * dims * bytes_each - there[name]) for name, dims in entry.columns.items())
    if not rows:
        return 0
    named = len(json.dumps(identity, sort_keys=True, default=str)) if not any(there.values()) else 0
    block = Block(entry.rows, entry.rows, dict.fromkeys(entry.columns, 2**32 - 1), [], _NUMBER)
    return rows + named + -(-entry.rows // ROWS) * len(block.line())


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _partial(protocol: Protocol, mode: Mode, dims: Mapping[str, Sequence[int]], classes: int) -> int:
    """Bytes of what a kill may leave of one network's classifiers, at most; twice while it is written anew.

    Args:
        protocol: how they are trained.
        mode: from kept features the stages are trained one after the other, else together.
        dims: of each stage the dimensions of its poolings.
        classes: how many.
    """
    if not isinstance(protocol, ProbeProtocol):
        return 0
    winners = {stage: 4 * (classes + 2) * max(each) for stage, each in dims.items()}
    trained = dict.fromkeys(dims, 0)
    if isinstance(protocol, LinearProtocol):
        heads = len(protocol.rates) * len(protocol.weight_decays)
        # Weights, biases, and the velocities of both; mean and variance of the features.
        trained = {
            stage: sum(4 * (2 * heads * classes * (n + 1) + 2 * n) for n in each) for stage, each in dims.items()
        }
    if mode == "cached":
        return 2 * (sum(winners.values()) + max(trained.values()))
    return 2 * sum(trained.values())


def _result_size(protocol: Protocol, targets: Targets, stages: Sequence[str]) -> int:
    """Bytes of a result's file, about."""
    rows, outcomes = len(stages), 1
    if isinstance(protocol, NearestProtocol):
        rows *= len([k for k in protocol.neighbours if k <= len(targets.train)]) or 1
    elif isinstance(protocol, SvmProtocol) and protocol.shots:
        rows, outcomes = rows * len(protocol.shots), protocol.samples
    truth, answers = _packed_sizes(targets.test.labels)
    chosen = 20 * len(targets.classes) if isinstance(protocol, SvmProtocol) else 0
    head = _head(protocol.settings, targets.classes)
    return head + truth + rows * (_ROW + chosen + outcomes * (answers + _QUOTED))


def _head(settings: Mapping[str, Any], classes: Sequence[str]) -> int:
    """Bytes of a result's file without its rows and answers, about."""
    return _HEAD + len(json.dumps([settings, list(classes)], indent=1, default=str))


def _packed_sizes(labels: Any) -> tuple[int, int]:
    """Of the test pictures' labels: bytes of the truth, and of one outcome; ranks are as if drawn by chance."""
    outcome: Outcome
    if labels.ndim == 2:
        scores = np.random.default_rng(0).random(labels.shape, np.float32)
        outcome = Ranked(scores, labels.astype(np.int8))
    else:
        outcome = Answers(np.zeros(len(labels), np.bool_))
    found = packed_outcomes([[outcome]])
    return len(found["truth"] or ""), len(found["answers"][0][0])


def _answers_of(task: Task) -> int:
    """Bytes of what a result keeps of the test pictures, where labels tell it."""
    labels = getattr(task.test, "labels", None)
    return sum(_packed_sizes(labels)) if task.name == "classify" and labels is not None else 0


def _variants(name: str) -> int:
    """How many numbers a look at held-out pictures journals."""
    return 3 if name == "detect" else 1


def _sheet(source: Source) -> int:
    """Bytes of a sheet of some pictures, as if nothing were drawn into them; 0 if none can be read."""
    pictures: list[Image.Image] = []
    step = max(1, len(source) // _SHOWN)
    for index in range(0, len(source), step)[:_SHOWN]:
        try:
            pictures.append(drawing.named(source.read(index), []))
        except PictureError:
            continue
    rows = [(one, one) for one in pictures]
    return len(png_bytes(contact_sheet(rows, ("truth", "found"), cell=_CELL, across=2))) if rows else 0
