"""The file of a study: YAML, checked."""

import dataclasses
import difflib
import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretext.errors import UserError
from pretext.recipe import PretrainSettings
from pretext.settings import flatten, settings_from
from pretext.yaml_reader import read_yaml

NAME = r"[A-Za-z0-9][\w.,+%= -]{0,59}"
_PLACE = re.compile(r"\{(\w+)\}")
_PATTERN = ("id", "channel")  # of the files of named channels
_MOST = 10_000  # variants
_TYPES: dict[str, tuple[type, str]] = {
    "ask": (dict, "settings"),
    "row": (str, "a name"),
    "against": (str, "a name"),
    "config": (str, "a file"),
}


@dataclass
class StudyOptions:
    """Where a study is computed, and how.

    Args:
        folder: folder of studies; those in one folder share what they have in common.
        name: name of the study; empty takes the name of its file.
        on: a YAML file with what to request from the cluster, as of submit; empty: compute on this machine.
        parallel: how many cells run at the same time, on this machine.
        retry: try failed cells again.
        wait: show the progress of the jobs on a cluster until they are done; if false, only send them.
        dry_run: compute nothing; list the cells, finished ones marked.
    """

    folder: Path = field(default_factory=lambda: Path("studies"))
    name: str = ""
    on: str = ""
    parallel: int = 1
    retry: bool = False
    wait: bool = True
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.parallel <= 256:
            raise UserError(f"parallel is {self.parallel}: it must lie in [1, 256]")
        if self.name and (Path(self.name).name != self.name or self.name.startswith(".")):
            raise UserError(f"name is {self.name}: it must be the name of a folder, not a path")


@dataclass
class StudySettings:
    """A study: variants of a pretraining x seeds x evaluations.

    Args:
        about: its question, in a sentence.
        config: recipe of pretraining that all variants share: a YAML file, found from the study's file.
        settings: settings of pretraining, which win over the recipe: {training.steps: 5000}.
        variants: by name, what each changes: settings of pretraining; config, another recipe; or network: random, the
            recipe at random weights, or timm:MODEL, timm:MODEL:FILE, which are not pretrained. "against" names the
            variant that it is compared with, if not the baseline; "ask" what its jobs request from the cluster.
        grid: settings of pretraining, each with a list of values: every pretrained variant, at every combination.
        seeds: seeds of pretraining; and of fine-tuning.
        evaluations: by name: command (probe, knn, svm, finetune classify, score, ...) and its settings; config, a file
            of them; "rescaled", whether networks are rescaled before they are fine-tuned; "row", the row that the
            study's table shows, where held-out images choose none; "against", the variant that the colors of all
            others are compared with; "variants", if not all are evaluated; "ask".
        baseline: the variant that all others are compared with.
        places: folders of images by name; {name} in a setting is replaced by the folder.
        figures: images that the report shows in the colors of every variant.
    """

    about: str = ""
    config: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    baseline: str = ""
    places: dict[str, str] = field(default_factory=dict)
    figures: str = ""

    def __post_init__(self) -> None:
        for kind, names in (("variant", self.variants), ("evaluation", self.evaluations)):
            for name in names:
                if not re.fullmatch(NAME, str(name)):
                    raise UserError(f"{kind} {name!r}: use at most 60 letters, digits, spaces and .,_+%=- in the name")
        if not self.variants and not self.grid:
            raise UserError("variants: none; name at least one")
        if (
            not self.seeds
            or len(set(self.seeds)) < len(self.seeds)
            or any(not 0 <= seed < 2**63 for seed in self.seeds)
        ):
            raise UserError(f"seeds is {self.seeds}: give whole numbers from 0, each once")
        for name, values in self.grid.items():
            if not values or len({repr(value) for value in values}) < len(values):
                raise UserError(f"grid: {name} is {values}: give values, each once")
        if (points := math.prod(map(len, self.grid.values())) * max(1, len(self.variants))) > _MOST:
            raise UserError(f"grid: {points:,} variants; at most {_MOST:,} make a study")
        expanded = self.expanded
        known = Counter(variant.name for variant in expanded)
        if known and max(known.values()) > 1:
            raise UserError(f"two variants are called {known.most_common(1)[0][0]}; rename one")
        for name, evaluation in self.evaluations.items():
            names = evaluation.get("variants", [])
            if unknown := [label for label in names if label not in known and label not in self.variants]:
                raise UserError(f"evaluation {name}: {unknown[0]} is no variant; there are {', '.join(known)}")
            if (against := evaluation.get("against", "")) and against not in known:
                raise UserError(
                    f"evaluation {name}: against {against}, which is no variant; there are {', '.join(known)}"
                )

    @property
    def expanded(self) -> "list[Variant]":
        """All variants, with those of the grid."""
        variants = []
        for name, changes in (self.variants or {"": {}}).items():
            entry = dict(changes)
            network, config, against = (str(entry.pop(key, "")) for key in ("network", "config", "against"))
            ask = entry.pop("ask", {})
            axes = {} if network else self.grid
            for values in itertools.product(*axes.values()):
                point = dict(zip(axes, values, strict=True))
                at = "".join(f" {key.rpartition('.')[2]}={_word(value)}" for key, value in point.items())
                shared = {} if network.startswith("timm") else flatten(self.settings, PretrainSettings)
                changed = flatten(entry, PretrainSettings) | point
                settings = shared | changed
                label = f"{name}{at}".strip()
                own = (("config",) if config else ()) + tuple(changed)
                variants.append(Variant(label, name, at, network, config or self.config, settings, own, against, ask))
        # "against" becomes a full name: of a grid, that of the variant at the same point.
        names = [variant.name for variant in variants]
        compared = []
        for variant in variants:
            target = variant.against or self.baseline
            matches = [name for name in (f"{target}{variant.point}", target) if name in names]
            # The baseline may be at points of the grid, but not at this one.
            elsewhere = not variant.against and target in self.variants
            if target and not matches and not elsewhere:
                where = variant.name if variant.against else "baseline"
                raise UserError(f"{where}: compared with {target}, which is no variant; there are {', '.join(names)}")
            against = matches[0] if matches and target else ""
            compared.append(dataclasses.replace(variant, against="" if against == variant.name else against))
        return compared


@dataclass(frozen=True)
class Variant:
    """A variant, at one point of the grid."""

    name: str
    family: str
    """Its name in the file."""
    point: str
    """The part of its name that the grid adds."""
    network: str
    """random, timm:..., or empty for a network that is pretrained."""
    config: str
    settings: dict[str, Any]
    """Settings of pretraining by their full names, which win over the recipe."""
    own: tuple[str, ...]
    """Names of the settings that it sets itself; with config, if it has a recipe of its own."""
    against: str
    """The variant that it is compared with; empty if there is none."""
    ask: dict[str, Any]
    """Settings of the cluster that the job of its pretraining changes."""


def read_study(path: Path, places: Mapping[str, str] | None = None) -> StudySettings:
    """Read a study's file, and fill in its places.

    Args:
        path: the YAML file.
        places: folders for the names in braces, which win over those of the file.

    Raises:
        UserError: the file cannot be read, or is not a study; a place has no folder, or is unknown to the file.
    """
    study = settings_from(StudySettings, _check(read_yaml(path), path), str(path))
    if unknown := [name for name in places or {} if name not in study.places]:
        known = ", ".join(study.places) or "it has none"
        raise UserError(f"{unknown[0]}: {path} has no place of this name ({known}); write PLACE=FOLDER after the file")
    study.places = {**study.places, **(places or {})}
    folder = path.parent
    filled = {
        key: _fill(getattr(study, key), study.places, path)
        for key in ("settings", "variants", "grid", "evaluations", "figures")
    }
    config = _fill(study.config, study.places, path)
    config = str(_beside(folder, config)) if config else ""
    for entry in (*filled["variants"].values(), *filled["evaluations"].values()):
        if entry.get("config"):
            entry["config"] = str(_beside(folder, str(entry["config"])))
    values = {**{key: getattr(study, key) for key in ("about", "seeds", "baseline", "places")}, **filled}
    return settings_from(StudySettings, {**values, "config": config}, str(path))


def _check(values: Any, path: Path) -> Any:
    """Return the values of a study's file, checked here for messages that name parts of a study."""
    if not isinstance(values, dict):
        return values
    known = [setting.name for setting in dataclasses.fields(StudySettings)]
    for name in values.keys() - set(known):
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
        hint = f"the nearest is {near[0]}" if near else f"it has {', '.join(known)}"
        raise UserError(f"{path}: no setting of a study is called {name}; {hint}")
    for part in ("variants", "evaluations"):
        entries = values.get(part)
        if entries is None:
            continue
        if not isinstance(entries, dict):
            raise UserError(f"{path}: {part} must be names, each with settings below it")
        if len({str(name) for name in entries}) < len(entries):
            raise UserError(f"{path}: {part}: two have the same name")
        for name, entry in entries.items():
            if entry is None:
                entries[name] = {}
                continue
            if not isinstance(entry, dict):
                raise UserError(f"{path}: {part}: {name} is {entry!r}; it holds settings, one a line below it")
            where, wanted = f"{path}: {part}: {name}", entry.get("variants")
            if wanted is not None:
                if not isinstance(wanted, list) or not all(isinstance(variant, (str, int)) for variant in wanted):
                    raise UserError(f"{where}: variants is {wanted!r}; it is a list of names")
                if not wanted:
                    raise UserError(f"{where}: variants is empty; name some, or leave it out for all")
                entry["variants"] = [str(variant) for variant in wanted]
            for key, (kind, what) in _TYPES.items():
                if not isinstance(entry.get(key, kind()), kind):
                    raise UserError(f"{where}: {key} is {entry[key]!r}; it is {what}")
            if odd := [key for key in entry if not isinstance(key, str)]:
                raise UserError(f"{where}: {odd[0]} is no name of a setting")
        values[part] = {str(name): entry for name, entry in entries.items()}
    if isinstance(values.get("grid"), dict) and (odd := [name for name in values["grid"] if type(name) is not str]):
        raise UserError(f"{path}: grid: {odd[0]} is no name of a setting")
    if isinstance(values.get("baseline"), int):
        values["baseline"] = str(values["baseline"])
    return values


def _fill(value: Any, places: Mapping[str, str], path: Path) -> Any:
    """Return a value with folders in place of the names in braces."""
    if isinstance(value, str):
        missing = [name for name in _PLACE.findall(value) if name not in _PATTERN and not places.get(name)]
        if missing:
            raise UserError(f"{path}: place {missing[0]} has no folder; write {missing[0]}=FOLDER after the file")
        return _PLACE.sub(lambda match: places.get(match[1], match[0]), value)
    if isinstance(value, dict):
        return {_fill(key, places, path): _fill(item, places, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, places, path) for item in value]
    return value


def _beside(folder: Path, name: str) -> Path:
    """Return the path of a file that another file names: relative to the folder of that file, else unchanged."""
    path = Path(os.path.normpath(folder / name))
    return path if path.exists() or not Path(name).exists() else Path(name)


def _word(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "-".join(map(_word, value))
    return re.sub(r"[^\w.+%=-]+", "-", f"{value:g}" if isinstance(value, float) else str(value))[-30:]
