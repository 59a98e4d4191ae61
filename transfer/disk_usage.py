"""What judging and fine-tuning will write to disk, known before they are started: no features are computed, no step."""

from collections.abc import Mapping, Sequence, Set

import torch
import yaml
from PIL import Image

from pretext.contact_sheet import contact_sheet
from pretext.data.source import Source
from pretext.engine.device import Place, pick_device, pick_precision, versions
from pretext.engine.journal import record_sizes
from pretext.errors import ImageError, UserError
from pretext.files import png_bytes
from pretext.plan.disk import Disk, checkpoint_parts, checkpoint_size, looks_of, saves_of, training_records
from transfer.evaluation import Evaluation, EvaluationSettings
from transfer.features import cache_folder, wanted_entries
from transfer.features.cache import Entry, key_of
from transfer.finetune import Tuning, starts
from transfer.networks import open_networks
from transfer.probes.knn import KnnSettings
from transfer.probes.linear import ProbeSettings
from transfer.probes.svm import SvmSettings
from transfer.protocols import LinearProtocol, NearestProtocol, ProbeProtocol, Protocol, SvmProtocol, find_protocol
from transfer.results import Mode
from transfer.targets import open_targets
from transfer.tasks import visualize
from transfer.tasks.registry import TASKS, open_task
from transfer.tasks.task import FinetuneSettings

_SHOWN, _CELL = 8, (300, 225)  # as sheets of fine-tuning
_RESULTS = "Left out: results, a few MB at most."


def probe_disk(networks: Sequence[str], settings: ProbeSettings) -> Disk:
    """What ``probe`` will write: features that are not kept yet, and half-trained classifiers.

    One image is shown to every network, for the shapes of its stages; some are read to know them again.

    Raises:
        UserError: what ``probe`` would say of the networks, the images or the settings.
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
    """What ``finetune`` will write: a run for every network.

    Checkpoints are exact but for some bytes. A run that was begun counts as if it were new.

    Args:
        name: of the task, one of ``TASKS``.
        networks: as of ``finetune``.
        settings: of that task.

    Raises:
        UserError: what ``finetune`` would say of the networks, the images or the settings.
    """
    assert type(settings) is TASKS[name].settings, name
    task, place = open_task(settings), Place(torch.device("cpu"), "fp32", 0)
    training, machine = settings.training, settings.machine
    looks = looks_of(training, machine)
    health = record_sizes("health", training.steps // 2, **dict.fromkeys(_scores(name), 1 / 3))
    line, event = training_records(training, machine, health)
    parts: list[tuple[str, int]] = []
    notes: list[str] = []
    passing = 0
    for start in starts(networks, settings):
        run, called = Tuning(start, task, settings, place), start.judged.name
        run.check()
        if run.kept() is not None:
            notes.append(f"{called} is done: it writes nothing.")
            continue
        besides = {
            "settings": run.stored_settings,
            "precision": place.precision,
            "data": {"digest": task.train_digest},
            "versions": versions(),
        }
        network = run.built(place, fresh=False)
        first, later = (checkpoint_size(network, training, besides, begun) for begun in (False, True))
        checkpoints, more = checkpoint_parts(first, later, saves_of(training, machine))
        # One run is trained after the other, so only one has a checkpoint more.
        parts += [(f"{called}: {what}", count) for what, count in checkpoints[:-1]]
        passing = max(passing, more)
        shown = looks * _sheet(run.held) if len(run.held) else 0
        asked = len(yaml.safe_dump(run.stored_settings, sort_keys=False).encode())
        parts.append((f"{called}: samples", shown + _sheet(task.test)))
        parts.append((f"{called}: journal and settings", line + asked))
        parts.append((f"{called}: TensorBoard, samples once more", event + shown))
    if parts:
        parts.append(("for moments one more checkpoint", passing))
        notes.append(_RESULTS)
    return Disk(sum(count for _, count in parts) - passing, passing, tuple(parts), tuple(notes))


def _evaluation_disk(
    specs: Sequence[str], settings: EvaluationSettings, protocol: Protocol, modes: Sequence[Mode]
) -> Disk:
    """What ``evaluate`` will write, in all modes."""
    place = _cpu(settings)
    targets = open_targets(settings.train, settings.test, settings.classes)
    lacking: list[tuple[Evaluation, Mode]] = []
    notes: list[str] = []
    for network in open_networks(specs, settings.seed, settings.reference):
        evaluations = [(Evaluation(network, targets, settings, protocol, mode, place), mode) for mode in modes]
        undone = [(one, mode) for one, mode in evaluations if one.kept() is None]
        lacking += undone
        if not undone:
            notes.append(f"{network.name} is judged: it writes nothing.")
    folder, classes = cache_folder(settings.cache), len(targets.classes)
    features: dict[str, int] = {}  # by name of the entry, which networks with the same weights share
    passing = 0
    for view in dict.fromkeys(one.view for one, _ in lacking):
        alike = [(one, mode) for one, mode in lacking if one.view == view]
        for source in (targets.train, targets.test):
            wanted = wanted_entries(
                [one.network for one, _ in alike],
                source,
                view,
                protocol.poolings,
                place,
                settings.storage,
                (targets.train, view),
            )
            for (one, mode), named in zip(alike, wanted, strict=True):
                for identity, columns in named.values():
                    key = key_of(identity)
                    features[key] = Entry(folder / key, len(source), columns, settings.storage).unwritten_bytes
                # Of poolings that come to the same, one is judged.
                dims = {stage: {entry.columns[stage] for entry in named.values()} for stage in one.stages}
                passing = max(passing, _partial(protocol, mode, dims, classes))
    if lacking and settings.precision == "auto":
        notes.append(f"Kept features count if they are of {place.precision}, which this machine would compute in.")
    if passing:
        notes.append("What is passing is written by classifiers that take longer than 20 s.")
    if lacking and isinstance(protocol, SvmProtocol):
        notes.append("Left out: what a kill leaves of SVMs, beside the result until that is there.")
    if lacking:
        notes.append(_RESULTS)
    lasting = sum(features.values())
    parts = [("features that are not kept yet", lasting)]
    parts += [("for moments half-trained classifiers", passing)] if passing else []
    return Disk(lasting, passing, tuple(parts), tuple(notes))


def _cpu(settings: EvaluationSettings) -> Place:
    """The CPU, with the precision that the job would have; the machine that is asked may lack the job's device."""
    try:
        device = pick_device(settings.device)
    except UserError:
        device = torch.device("cpu")
    return Place(torch.device("cpu"), pick_precision(settings.precision, device), 0)


def _partial(protocol: Protocol, mode: Mode, dims: Mapping[str, Set[int]], classes: int) -> int:
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


def _scores(name: str) -> list[str]:
    """What a look at held-out images journals: of detection three averages."""
    return ["score", "score_50", "score_75"] if name == "detect" else ["score"]


def _sheet(source: Source) -> int:
    """Bytes of a sheet of some images, as if nothing were drawn into them; 0 if none can be read."""
    images: list[Image.Image] = []
    step = max(1, len(source) // _SHOWN)
    for index in range(0, len(source), step)[:_SHOWN]:
        try:
            images.append(visualize.draw_words(source.read(index), []))
        except ImageError:
            continue
    rows = [(one, one) for one in images]
    return len(png_bytes(contact_sheet(rows, ("truth", "found"), cell=_CELL, across=2))) if rows else 0
