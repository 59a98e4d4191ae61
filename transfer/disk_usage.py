"""Estimates of what evaluation and fine-tuning will write to disk, before they start: no features, no step."""

from collections.abc import Mapping, Sequence, Set

import torch
import yaml
from PIL import Image

from pretext.contact_sheet import contact_sheet
from pretext.data.source import ImageDataset
from pretext.disk_usage import (
    DiskUsage,
    checkpoint_parts,
    checkpoint_size,
    count_due,
    estimate_records,
)
from pretext.engine.device import ComputeConfig, pick_device, pick_precision, versions
from pretext.errors import ImageError, UserError
from pretext.false_color import to_photograph
from pretext.files import png_bytes
from pretext.store import key_of
from transfer.evaluation import Evaluation, EvaluationSettings, open_test_sets
from transfer.features import cache_folder, wanted_entries
from transfer.features.cache import unwritten_bytes
from transfer.finetune import FinetuneJob, starts
from transfer.networks import open_networks
from transfer.probes.knn import KnnSettings
from transfer.probes.linear import ProbeSettings
from transfer.probes.svm import SvmSettings
from transfer.protocols import LinearProtocol, NearestProtocol, ProbeProtocol, Protocol, SvmProtocol, find_protocol
from transfer.results import Mode
from transfer.tasks import visualize
from transfer.tasks.registry import TASKS, open_task
from transfer.tasks.task import FinetuneSettings

_SHEET_IMAGES, _CELL = 8, (300, 225)  # as in contact sheets of fine-tuning
_RESULTS = "Left out: results, a few MB at most."


def probe_disk(networks: Sequence[str], settings: ProbeSettings) -> DiskUsage:
    """Return what ``probe`` will write: features that are not in the cache yet, and half-trained classifiers.

    One image goes through every network, for the shapes of its stages; some images are read for their identity.

    Raises:
        UserError: as ``probe`` for the networks, the images or the settings.
    """
    protocol = find_protocol(settings.protocol, ProbeProtocol)
    modes: list[Mode] = ["cached", "augmented"] if settings.mode == "both" else [settings.mode]
    return _evaluation_disk(networks, settings, protocol, modes)


def knn_disk(networks: Sequence[str], settings: KnnSettings) -> DiskUsage:
    """Return what ``knn`` will write; see ``probe_disk``."""
    return _evaluation_disk(networks, settings, find_protocol("knn", NearestProtocol), ["cached"])


def svm_disk(networks: Sequence[str], settings: SvmSettings) -> DiskUsage:
    """Return what ``svm`` will write; see ``probe_disk``."""
    return _evaluation_disk(networks, settings, find_protocol(settings.protocol, SvmProtocol), ["cached"])


def finetune_disk(name: str, networks: Sequence[str], settings: FinetuneSettings) -> DiskUsage:
    """Return what ``finetune`` will write: a run for every network.

    Sizes of checkpoints are exact up to some bytes. An unfinished run counts as a new one.

    Args:
        name: of the task, one of ``TASKS``.
        networks: as for ``finetune``.
        settings: of that task.

    Raises:
        UserError: as ``finetune`` for the networks, the images or the settings.
    """
    assert type(settings) is TASKS[name].settings, name
    task, place = open_task(settings), ComputeConfig(torch.device("cpu"), "fp32", 0)
    training, machine = settings.training, settings.machine
    looks = count_due(training.steps, machine.evaluate_every)
    line, event = estimate_records(training, machine)
    parts: list[tuple[str, int]] = []
    notes: list[str] = []
    passing = 0
    for start in starts(networks, settings):
        run, title = FinetuneJob(start, task, settings, place), start.model_info.name
        run.check()
        if run.load_finished() is not None:
            notes.append(f"{title} is done: it writes nothing.")
            continue
        metadata = {
            "settings": run.stored_settings,
            "precision": place.precision,
            "data": {"digest": task.train_digest},
            "versions": versions(),
        }
        network = run.build_network(place, fresh=False)
        first, later = (checkpoint_size(network, training, metadata, begun) for begun in (False, True))
        checkpoints, more = checkpoint_parts(first, later, count_due(training.steps, machine.checkpoint_every))
        # Runs are trained one after the other, so only one at a time has one more checkpoint.
        parts += [(f"{title}: {part}", count) for part, count in checkpoints[:-1]]
        passing = max(passing, more)
        parts.append((f"{title}: model.safetensors", len(run.model_bytes(network))))
        shown = looks * _sheet(run.held) if len(run.held) else 0
        written = len(yaml.safe_dump(run.stored_settings, sort_keys=False).encode())
        parts.append((f"{title}: samples", shown + _sheet(task.test)))
        parts.append((f"{title}: journal and settings", line + written))
        parts.append((f"{title}: TensorBoard, samples once more", event + shown))
    if parts:
        parts.append(("for a short time one more checkpoint", passing))
        notes.append(_RESULTS)
    return DiskUsage(sum(count for _, count in parts) - passing, passing, tuple(parts), tuple(notes))


def _evaluation_disk(
    specs: Sequence[str], settings: EvaluationSettings, protocol: Protocol, modes: Sequence[Mode]
) -> DiskUsage:
    """Return what ``evaluate`` will write, in all modes."""
    try:
        device = pick_device(settings.device)
    except UserError:  # this machine may lack the job's device
        device = torch.device("cpu")
    place = ComputeConfig(torch.device("cpu"), pick_precision(settings.precision, device), 0)
    targets = open_test_sets(settings)
    first = next(iter(targets.values()))
    lacking: list[tuple[Evaluation, Mode]] = []
    notes: list[str] = []
    for network in open_networks(specs, settings.seed, settings.reference):
        evaluations = [(Evaluation(network, targets, settings, protocol, mode, place), mode) for mode in modes]
        undone = [(evaluation, mode) for evaluation, mode in evaluations if None in evaluation.load_finished().values()]
        lacking += undone
        if not undone:
            notes.append(f"{network.name} is evaluated: it writes nothing.")
    folder, classes = cache_folder(settings.cache), len(first.classes)
    features: dict[str, int] = {}  # by entry name; networks with the same weights share an entry
    passing = 0
    for view in dict.fromkeys(evaluation.view for evaluation, _ in lacking):
        alike = [(evaluation, mode) for evaluation, mode in lacking if evaluation.view == view]
        for source in (first.train, *(one.test for one in targets.values())):
            wanted = wanted_entries(
                [evaluation.network for evaluation, _ in alike],
                source,
                view,
                protocol.poolings,
                place,
                settings.storage,
                (first.train, view),
            )
            for (evaluation, mode), entries in zip(alike, wanted, strict=True):
                for identity, columns in entries.values():
                    key = key_of(identity)
                    features[key] = unwritten_bytes(folder / key, len(source), columns, settings.storage)
                # Of poolings that give equal dimensions, one is evaluated.
                dims = {stage: {entry.columns[stage] for entry in entries.values()} for stage in evaluation.stages}
                passing = max(passing, _partial_size(protocol, mode, dims, classes))
    if lacking and settings.precision == "auto":
        notes.append(f"Cached features count if they are in {place.precision}, the precision of this machine.")
    if passing:
        notes.append("Temporary files are written by classifiers that take longer than 20 s.")
    if lacking and isinstance(protocol, SvmProtocol):
        notes.append("Left out: the partial file of SVMs, which exists until the result is complete.")
    if lacking:
        notes.append(_RESULTS)
    lasting = sum(features.values())
    parts = [("features that are not in the cache yet", lasting)]
    parts += [("for a short time half-trained classifiers", passing)] if passing else []
    return DiskUsage(lasting, passing, tuple(parts), tuple(notes))


def _partial_size(protocol: Protocol, mode: Mode, dims: Mapping[str, Set[int]], classes: int) -> int:
    """Return twice the largest size in bytes of a network's partial file: while it is replaced, two versions exist.

    Args:
        protocol: of the classifiers.
        mode: on cached features the stages are trained one after the other, else together.
        dims: for each stage the dimensions of its poolings.
        classes: the number of classes.
    """
    if not isinstance(protocol, ProbeProtocol):
        return 0
    winners = {stage: 4 * (classes + 2) * max(sizes) for stage, sizes in dims.items()}
    trained = dict.fromkeys(dims, 0)
    if isinstance(protocol, LinearProtocol):
        heads = len(protocol.rates) * len(protocol.weight_decays)
        # Weights, biases, and the velocities of both; mean and variance of the features.
        trained = {
            stage: sum(4 * (2 * heads * classes * (n + 1) + 2 * n) for n in sizes) for stage, sizes in dims.items()
        }
    if mode == "cached":
        return 2 * (sum(winners.values()) + max(trained.values()))
    return 2 * sum(trained.values())


def _sheet(source: ImageDataset) -> int:
    """Return the bytes of a contact sheet of some images, with nothing drawn into them; 0 if none can be read."""
    images: list[Image.Image] = []
    step = max(1, len(source) // _SHEET_IMAGES)
    for index in range(0, len(source), step)[:_SHEET_IMAGES]:
        try:
            images.append(visualize.draw_words(to_photograph(source.read(index)), []))
        except ImageError:
            continue
    rows = [(image, image) for image in images]
    return len(png_bytes(contact_sheet(rows, ("truth", "found"), cell=_CELL, across=2))) if rows else 0
