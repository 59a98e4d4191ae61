"""The cells of a study, made from its file."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from pretext.backbones import build_backbone
from pretext.backbones.from_timm import PUBLISHED
from pretext.errors import UserError
from pretext.recipe import PretrainSettings, require_source
from pretext.scale import ScaleSettings
from pretext.settings import flatten, settings_file, settings_from, to_plain
from pretext.weights.state_dict import split_part
from pretext.yaml_reader import read_yaml
from pretint.colorization.scores.methods import BASELINES
from pretint.commands import COMMANDS, Call, Command, PlainCall, evaluations, line_of
from pretint.study import identity
from pretint.study.cells import PRETRAIN, CellStore, StudyCell, StudyPlan
from pretint.study.file import StudySettings, Variant
from transfer.results import PREFIX

# Keys of an evaluation's entry that are not settings of its command.
_NO_SETTINGS = ("command", "config", "row", "variants", "ask", "rescaled", "against")
_OF_RANDOM = (
    *("config", "backbone.name", "backbone.arguments", "backbone.inputs", "crop.size", "crop.area"),
    *(f"scale.{each.name}" for each in fields(ScaleSettings)),
)
"""The settings that change random weights, or how large images are seen."""


def expand(study: StudySettings, shelf: CellStore) -> StudyPlan:
    """Return the cells of a study, each after the one that it needs.

    Cells with the same content are one cell, which has the first of their names.

    Raises:
        UserError: a setting is wrong, or images are missing; the message names the variant or the evaluation.
    """
    cells: list[StudyCell] = []
    pretrained: dict[str, PretrainSettings] = {}
    recipes: dict[str, Any] = {}
    for variant in study.expanded:
        with _named_errors(f"variant {variant.name}"):
            _require_askable(variant.ask)
        for seed in study.seeds:
            with _named_errors(f"variant {variant.name}"):
                network, settings = _network(variant, seed, shelf)
            if settings is not None:
                pretrained.setdefault(variant.name, settings)
            recipes |= network.recipe
            cells += [network.cell] if network.cell else []
            for name, entry in study.evaluations.items():
                if not {variant.name, variant.family} & set(entry.get("variants") or [variant.name]):
                    continue
                if entry.get("command") == "score" and not network.colors:
                    continue
                with _named_errors(f"evaluation {name}"):
                    cells.append(_evaluation_cell(network, variant, seed, name, entry, shelf))
    names = [variant.name for variant in study.expanded]
    return StudyPlan(
        study.about,
        tuple(names),
        tuple(study.seeds),
        study.evaluations,
        {variant.name: variant.against for variant in study.expanded if variant.against},
        identity.differing_settings(pretrained),
        recipes,
        study.figures,
        tuple(cells),
    )


@dataclass(frozen=True)
class _Network:
    """The network that the evaluations of a variant evaluate."""

    spec: str
    """Its name as an argument of a command."""
    key: str
    cell: StudyCell | None
    """Its pretraining, if it has one."""
    colors: bool
    """Whether it can color."""
    stages: tuple[str, ...]
    """Stages of its backbone."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """A recipe that must be written for it: settings of pretraining, by their file."""


def _network(variant: Variant, seed: int, shelf: CellStore) -> tuple[_Network, PretrainSettings | None]:
    """Return a variant's network and, if it is pretrained, the settings of that."""
    if variant.network and variant.network != "random":
        name, _, rest = variant.network.partition(":")
        model, _, file = rest.partition(":")
        if name != "timm" or not model:
            raise UserError(f"network is {variant.network}: take random, timm:MODEL or timm:MODEL:FILE")
        if variant.own:
            raise UserError(f"network {variant.network} is not trained, and takes no {variant.own[0]}")
        _require_files(file if file != "random" else "")
        key = identity.key_of(identity.published(variant.network))
        return _Network(variant.network, key, None, False, _stages(f"timm/{model}", "{}")), None
    if "seed" in variant.settings:
        raise UserError("seed is set by seeds; leave it out")
    settings = replace(_settings(PretrainSettings, variant.config, variant.settings), seed=seed)
    stages = _stages(settings.backbone.name, json.dumps(settings.backbone.built_with))
    if variant.network == "random":
        if idle := [name for name in variant.own if name not in _OF_RANDOM]:
            raise UserError(f"{idle[0]} has no effect if network is random; leave it out")
        key = identity.key_of(identity.random_weights(settings))
        file = shelf.place("recipes", _slug(variant.name, seed), f"{key}.yaml")
        return _Network(f"random:{shelf.root / file}", key, None, False, stages, {file: to_plain(settings)}), None
    _require_files(settings.objective.prior.removeprefix("estimate"), settings.backbone.weights)
    require_source(settings)
    key = identity.key_of("pretrain", identity.pretraining(settings))
    folder = shelf.place("runs", _slug(variant.name, seed), key)
    call = _call(COMMANDS[PRETRAIN], shelf.root / folder, settings, variant.config)
    cell = StudyCell(key, variant.name, seed, "", call, folder, "", settings.training.steps, variant.ask)
    return _Network(str(shelf.root / folder), key, cell, settings.colorizes, stages), settings


def _evaluation_cell(
    network: _Network, variant: Variant, seed: int, name: str, entry: dict[str, Any], shelf: CellStore
) -> StudyCell:
    """Return the cell of one evaluation of a network.

    Args:
        network: the network that is evaluated.
        variant: its variant.
        seed: its seed.
        name: name of the evaluation.
        entry: the evaluation in the study's file.
        shelf: the folder of the cells.
    """
    command = str(entry.get("command", ""))
    known = evaluations()
    if command not in known:
        raise UserError(f"command is {command or 'missing'}; take one of {', '.join(known)}")
    settings_of_entry = {key: value for key, value in entry.items() if key not in _NO_SETTINGS}
    if taken := sorted({"out", "reference", "seed", "format"} & settings_of_entry.keys()):
        raise UserError(f"{taken[0]} cannot be set for one evaluation, because the study sets it; leave it out")
    if command == "score" and variant.name in BASELINES:
        raise UserError(f"variant {variant.name} colors, and has the name of a baseline of scores; rename it")
    if command != "score" and entry.get("against"):
        raise UserError(
            f"against is only for score; for {command}, set baseline, or against of the variants, to choose comparisons"
        )
    rescaled = entry.get("rescaled", False)
    if rescaled not in (True, False) or (rescaled and not command.startswith("finetune")):
        raise UserError(f"rescaled is {rescaled}: it can be true for finetune, and is false for other commands")
    prefix = PREFIX if rescaled else ""
    config = str(entry.get("config") or "")
    settings = _settings(known[command].kind, config, flatten(settings_of_entry, known[command].kind))
    if command.startswith("finetune"):  # every seed has its own head and order of images
        settings = replace(settings, seed=seed)
    if command != "score":
        settings = replace(settings, reference=False)
    # Images must be named: a study is not about the bundled images, which a command takes by default.
    named = settings_of_entry.keys() | (read_yaml(Path(config)).keys() if config else set())
    for place in ("train", "test") if hasattr(settings, "train") else ("images",):
        if place not in named or not getattr(settings, place):
            raise UserError(f"{place} is missing; name images")
    if getattr(settings, "mode", "") == "both":
        raise UserError("mode is both: make two evaluations, of mode cached and augmented")
    stages = [*getattr(settings, "stages", []), *filter(None, [getattr(settings, "freeze_to", "")])]
    if command in ("probe", "knn"):  # their rows begin with a stage
        stages += filter(None, [str(entry.get("row", "")).partition(",")[0]])
    if network.stages and (unknown := [stage for stage in stages if stage not in network.stages]):
        raise UserError(f"{variant.name} has no stage {unknown[0]}; it has {', '.join(network.stages)}")
    key = identity.key_of("evaluate", prefix, network.key, identity.evaluation(command, settings))
    folder = shelf.place("results", f"{_slug(variant.name, seed)}.{_slug(name)}", key)
    settings = replace(settings, out=str(shelf.root / folder))
    call = _call(known[command], [f"{prefix}{network.spec}"], settings, config)
    after = network.cell.key if network.cell else ""
    ask = entry.get("ask", {})
    _require_askable(ask)
    return StudyCell(key, variant.name, seed, name, call, folder, after, 0, ask)


def _settings(kind: type[Any], config: str, changes: Mapping[str, Any]) -> Any:
    """Return settings: those of a file, and changes by their full names, such as training.steps.

    Raises:
        UserError: one of them is wrong.
    """
    for name, value in changes.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise UserError(f"{name} is {value}, which no setting can be; put it in quotes if it is a name") from error
    edited = Path(config).stat().st_mtime_ns if config and Path(config).is_file() else 0
    return _settings_of(kind, config, edited, json.dumps(changes))  # type: ignore[arg-type]


@cache  # the seeds of a variant, and the networks of an evaluation, share their settings
def _settings_of(kind: type[Any], config: str, _edited: int, changes: str) -> Any:
    values: Any = {}
    if config:
        settings_file(kind, Path(config))  # names the file in its errors
        values = read_yaml(Path(config))  # not its settings: some follow from others, as a crop's size from size
    for name, value in json.loads(changes).items():
        *groups, setting = name.replace("-", "_").split(".")
        target = values
        for group in groups:
            target = target.setdefault(group, {})
            if not isinstance(target, dict):
                raise UserError(f"no setting is called {name}")
        target[setting] = value
    return settings_from(kind, values, "")


def _call(command: Command, positional: Any, settings: Any, config: str) -> PlainCall:
    """Return a call with one positional argument."""
    base = _settings(command.kind, config, {}) if config else None
    line = line_of(command, [positional], settings, config, base)
    return Call(command, [positional], settings, line).plain


def _require_askable(ask: dict[str, Any]) -> None:
    """Raise an error if these are no settings of a cluster."""
    with contextlib.suppress(ImportError):  # without submitit nothing can be sent
        from slurm.cluster import ClusterSettings

        if ask:
            settings_from(ClusterSettings, ask, "ask")


def _require_files(*names: str) -> None:
    for name in names:
        if name and name != PUBLISHED and not split_part(name)[0].is_file():
            raise UserError(f"{name}: no such file")


@cache
def _stages(backbone: str, arguments: str) -> tuple[str, ...]:
    """Return the names of a backbone's stages; it is built without weights.

    Raises:
        UserError: there is no such backbone, or it does not take these arguments.
    """
    with torch.device("meta"):  # no weights are drawn
        return tuple(stage.name for stage in build_backbone(backbone, **json.loads(arguments)).stages)


@contextlib.contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Put a name in front of errors."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _slug(*words: Any) -> str:
    return "-".join(re.sub(r"[^A-Za-z0-9_.+]+", "-", str(word)).strip("-.")[:40] for word in words)
