"""The identity of a cell, whatever its name and folder: a hash of its science settings and its images.

Machine settings (workers, device, folders) are not part of it; images and files count by their content. So a study
that is renamed, moved or widened finds its finished cells again.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from pretext import roles
from pretext.backbones import BACKBONES
from pretext.data import open_dataset, open_labeled
from pretext.data.source import fingerprint
from pretext.errors import UserError
from pretext.methods import METHODS
from pretext.methods.objectives import OBJECTIVES
from pretext.plugins import plugin_contents
from pretext.recipe import PretrainSettings, open_images
from pretext.settings import settings_from
from pretext.weights.state_dict import split_part
from pretint.colorization.scores.job import ScoreSettings
from transfer.probes.knn import KnnSettings
from transfer.probes.linear import ProbeSettings
from transfer.probes.svm import SvmSettings
from transfer.protocols import NearestProtocol, ProbeProtocol, SvmProtocol, find_protocol
from transfer.targets import open_targets
from transfer.tasks.registry import TASKS, open_task
from transfer.tasks.task import FinetuneSettings

FORMAT = 1
"""Raise this number when the meaning of a cell changes, for example by a new default: then no older cell is used."""

_PROTOCOLS: dict[type[Any], type[Any]] = {
    ProbeSettings: ProbeProtocol, KnnSettings: NearestProtocol, SvmSettings: SvmProtocol
}  # fmt: skip


def key_of(*identity: Any) -> str:
    """Return twelve digits of a SHA-256 over plain values, and over the plugins if they name what a plugin added."""
    plugins = [hashlib.sha256(content).hexdigest() for content in plugin_contents()] if _has_plugin(identity) else []
    return hashlib.sha256(json.dumps([FORMAT, *plugins, *identity], sort_keys=True).encode()).hexdigest()[:12]


def pretraining(settings: PretrainSettings) -> Any:
    """Return what the weights of a pretraining depend on, as plain values.

    Raises:
        UserError: the images cannot be had.
    """
    source = settings.data.source
    named = {source: 1.0} if isinstance(source, str) else source
    images = [[source_digest(name), weight] for name, weight in named.items()]
    labels = open_images(settings).contents["labels"] if settings.labeled else ""
    science = roles.changed(settings, "science")
    science.pop("data", None)
    return [_with_files(science), images, settings.data.holdout, labels, settings.seed]


def random_weights(settings: PretrainSettings) -> Any:
    """Return what a recipe's network at random weights depends on, as plain values."""
    backbone = settings.backbone
    scale = [roles.changed(settings.scale)] if isinstance(backbone.inputs, list) else []
    return ["random", backbone.name, backbone.built_with, settings.view_size, settings.seed, *scale]


def published(spec: str) -> Any:
    """Return what a published network depends on, as plain values: timm:MODEL:FILE by the file's content."""
    model, _, file = spec.removeprefix("timm:").partition(":")
    return ["published", model, _file(file) if file and file != "random" else file]


def evaluation(command: str, settings: Any) -> Any:
    """Return what the numbers of an evaluation depend on besides the network, as plain values.

    Raises:
        UserError: the images cannot be had, or there is no such protocol.
    """
    if isinstance(settings, FinetuneSettings):
        changed = roles.changed(settings, "science").items()
        science = {name: value for name, value in changed if name not in ("protocol", "freeze_to")}
        values = [_with_files(science), settings.protocol, settings.freeze_to, settings.seed]
        images = json.dumps(roles.select(settings, "science", "content"))
        return [command, *values, *_task_digests(type(settings), images)]  # type: ignore[arg-type]
    science = roles.changed(settings, "science", "seed")
    if isinstance(settings, ScoreSettings):
        disjoint = source_digest(settings.disjoint) if settings.disjoint else ""
        model, _, file = settings.classifier.partition(":")
        labels = open_labeled(settings.images) if settings.classifier else None
        named = [model, _file(file), labels.classes if labels else [], labels.labels.tolist() if labels else []]
        return [command, _with_files(science), source_digest(settings.images), disjoint, named]
    if not isinstance(settings.test, str):
        raise UserError(f"{command}: a study judges on one test set at a time; write an evaluation for each")
    name = getattr(settings, "protocol", "knn")
    protocol = json.loads(json.dumps(find_protocol(name, _PROTOCOLS[type(settings)]).settings))
    return [command, science, name, protocol, *_target_digests(settings.train, settings.test, tuple(settings.classes))]


def _has_plugin(value: Any) -> bool:
    """Return whether a plain value names something that a plugin added."""
    if isinstance(value, Mapping):
        return any(map(_has_plugin, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_has_plugin, value))
    added = BACKBONES.added | METHODS.added | OBJECTIVES.added | TASKS.added
    return isinstance(value, str) and (value in added or value.removeprefix("finetune ") in added)


@cache
def source_digest(name: str) -> str:
    """Return a digest of a source: its images' names, and the pixels of some of them."""
    source = open_dataset(name)
    return hashlib.sha256(f"{source.digest()} {fingerprint(source)}".encode()).hexdigest()


@cache
def _target_digests(train: str, test: str, classes: tuple[str, ...]) -> tuple[str, str]:
    targets = open_targets(train, test, classes)
    return targets.train_digest, targets.test_digest


@cache
def _task_digests(kind: type[FinetuneSettings], values: str) -> tuple[str, str]:
    """Return the digests of the images of a task, from its settings as JSON."""
    task = open_task(settings_from(kind, json.loads(values), ""))
    return task.train_digest, task.test_digest


def _with_files(value: Any) -> Any:
    """Return plain values with the digest of its content in place of the name of a file."""
    if isinstance(value, Mapping):
        return {key: _with_files(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_files(item) for item in value]
    return _file(value) if isinstance(value, str) and "." in value and split_part(value)[0].is_file() else value


@cache
def _file(name: str) -> str:
    path, part = split_part(name)
    if not path.is_file():
        return name
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{digest}#{part}" if part else digest


def differing_settings(settings: Mapping[str, PretrainSettings]) -> dict[str, dict[str, Any]]:
    """Return the settings in which some recipes differ, without seeds and machine settings: by setting, by recipe."""
    flat = {name: dict(_flat(roles.select(recipe, "science", "content"))) for name, recipe in settings.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    by_key = {key: {name: values.get(key) for name, values in flat.items()} for key in keys}
    return {key: values for key, values in by_key.items() if len({json.dumps(v) for v in values.values()}) > 1}


def _flat(values: Mapping[str, Any], prefix: str = "") -> "list[tuple[str, Any]]":
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs
