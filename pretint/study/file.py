"""A study as it is written down: a YAML file, checked."""

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
from pretext.settings import settings_from
from pretext.yaml_reader import read_yaml

NAME = r"[A-Za-z0-9][\w.,+%= -]{0,59}"
_PLACE = re.compile(r"\{(\w+)\}")
_MOST = 10_000  # variants


@dataclass
class StudyOptions:
    """Where a study is done, and how.

    Args:
        folder: of studies; those in one folder share what they have in common.
        name: of the study; empty takes its file's.
        on: a YAML file that says what to ask of the cluster, as of submit; empty: on this machine.
        parallel: cells that run at the same time, on this machine.
        retry: try cells again that failed.
        wait: show how the jobs on a cluster proceed until they are done; else they are only sent.
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
            raise UserError(f"parallel is {self.parallel}: from 1 to 256 cells can run at the same time")
        if self.name and (Path(self.name).name != self.name or self.name.startswith(".")):
            raise UserError(f"name is {self.name}: it must be a name of a folder, and not a path")


@dataclass
class StudySettings:
    """A study: variants of a pretraining x seeds x evaluations.

    Args:
        about: what it asks, in a sentence.
        config: recipe of pretraining that all variants share: a YAML file, found from the study's.
        settings: of pretraining, which win over the recipe: {training.steps: 5000}.
        variants: by name, what each changes: settings of pretraining; config, another recipe; or network: random, the
            recipe at random weights, or timm:MODEL, timm:MODEL:FILE, which are not pretrained. "against" names the
            variant that it is compared with, if not the baseline; "ask" what its jobs ask of the cluster.
        grid: settings of pretraining, a list of values each: every variant that is pretrained, at every combination.
        seeds: of pretraining; and of fine-tuning.
        evaluations: by name: command (probe, knn, svm, finetune classify, score, ...) and its settings; config, a file
            of them; "rescaled", whether networks are rescaled before they are fine-tuned; "row", the one that the
            study's table shows, where held-out images choose none; "against", the variant that the colors of all
            others are compared with; "variants", if not all are judged; "ask".
        baseline: the variant that all others are compared with.
        places: what {name} stands for wherever it occurs: folders of images.
        figures: images that the report shows as every variant colors them.
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
                    raise UserError(f"{kind} {name!r}: name it by letters, digits, spaces and .,_+%=-, at most 60")
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
            wrong = [one for one in evaluation.get("variants", []) if one not in known and one not in self.variants]
            if wrong:
                raise UserError(f"evaluation {name}: {wrong[0]} is no variant; there are {', '.join(known)}")
            if (against := evaluation.get("against", "")) and against not in known:
                raise UserError(
                    f"evaluation {name}: against {against}, which is no variant; there are {', '.join(known)}"
                )

    @property
    def expanded(self) -> "list[Variant]":
        """All variants, those of the grid among them."""
        found = []
        for name, changes in (self.variants or {"": {}}).items():
            own = dict(changes)
            network, config, against = (str(own.pop(key, "")) for key in ("network", "config", "against"))
            ask = own.pop("ask", {})
            axes = {} if network else self.grid
            for values in itertools.product(*axes.values()):
                point = dict(zip(axes, values, strict=True))
                at = "".join(f" {key.rpartition('.')[2]}={_word(value)}" for key, value in point.items())
                shared = {} if network.startswith("timm") else flat(self.settings, PretrainSettings)
                changed = flat(own, PretrainSettings) | point
                settings = shared | changed
                label = f"{name}{at}".strip()
                named = (("config",) if config else ()) + tuple(changed)
                found.append(Variant(label, name, at, network, config or self.config, settings, named, against, ask))
        known = [variant.name for variant in found]
        return [self._compared(variant, known) for variant in found]

    def _compared(self, variant: "Variant", known: Sequence[str]) -> "Variant":
        """With the variant that it is compared with by its full name: of a grid the one at the same point."""
        asked = variant.against or self.baseline
        there = [name for name in (f"{asked}{variant.point}", asked) if name in known]
        nowhere = not variant.against and asked in self.variants  # at no point of the grid, which the baseline is at
        if asked and not there and not nowhere:
            where = variant.name if variant.against else "baseline"
            raise UserError(f"{where}: compared with {asked}, which is no variant; there are {', '.join(known)}")
        against = there[0] if there and asked else ""
        return dataclasses.replace(variant, against="" if against == variant.name else against)


@dataclass(frozen=True)
class Variant:
    """One variant, at one point of the grid."""

    name: str
    family: str
    """Its name in the file."""
    point: str
    """What the grid adds to its name."""
    network: str
    """random, timm:..., or empty: it is pretrained."""
    config: str
    settings: dict[str, Any]
    """Of pretraining, by their full names, over the recipe."""
    own: tuple[str, ...]
    """Names of those settings that are not the study's; config, if its recipe is not."""
    against: str
    """The variant that it is compared with; empty if there is none."""
    ask: dict[str, Any]
    """What its pretraining's job asks of the cluster."""


def read_study(path: Path, places: Mapping[str, str] | None = None) -> StudySettings:
    """A study's file, with its places filled in.

    Args:
        path: of the YAML file.
        places: what stands for the names in braces, over what the file says.

    Raises:
        UserError: the file cannot be read, or is none of a study; a place has no folder, or is none of the file's.
    """
    study = settings_from(StudySettings, _checked(read_yaml(path), path), str(path))
    if unknown := [name for name in places or {} if name not in study.places]:
        known = ", ".join(study.places) or "it has none"
        raise UserError(f"{unknown[0]}: no place of {path} is called so ({known}); write PLACE=FOLDER after the file")
    study.places = {**study.places, **(places or {})}
    folder = path.parent
    filled = {
        key: _filled(getattr(study, key), study.places, path)
        for key in ("settings", "variants", "grid", "evaluations", "figures")
    }
    config = _filled(study.config, study.places, path)
    config = str(_beside(folder, config)) if config else ""
    for entry in (*filled["variants"].values(), *filled["evaluations"].values()):
        if entry.get("config"):
            entry["config"] = str(_beside(folder, str(entry["config"])))
    values = {**{key: getattr(study, key) for key in ("about", "seeds", "baseline", "places")}, **filled}
    return settings_from(StudySettings, {**values, "config": config}, str(path))


def _checked(values: Any, path: Path) -> Any:
    """Said before jsonargparse would, in the words of a study."""
    if isinstance(values, dict):
        known = [one.name for one in dataclasses.fields(StudySettings)]
        for name in values.keys() - set(known):
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
            told = f"the nearest is {near[0]}" if near else f"it has {', '.join(known)}"
            raise UserError(f"{path}: no setting of a study is called {name}; {told}")
        for part in ("variants", "evaluations"):
            entries = values.get(part)
            if entries is None:
                continue
            if not isinstance(entries, dict):
                raise UserError(f"{path}: {part} must be names, each with settings below it")
            if len({str(name) for name in entries}) < len(entries):
                raise UserError(f"{path}: {part}: two have the same name")
            for name, entry in entries.items():
                if isinstance(entry, dict) and (wrong := _mistyped(entry)):
                    raise UserError(f"{path}: {part}: {name}: {wrong}")
                if entry is None:
                    entries[name] = {}
                elif not isinstance(entry, dict):
                    raise UserError(f"{path}: {part}: {name} is {entry!r}; it holds settings, one a line below it")
            values[part] = {str(name): entry for name, entry in entries.items()}
        if isinstance(values.get("grid"), dict) and (odd := [name for name in values["grid"] if type(name) is not str]):
            raise UserError(f"{path}: grid: {odd[0]} is no name of a setting")
        if isinstance(values.get("baseline"), int):
            values["baseline"] = str(values["baseline"])
    return values


def _mistyped(entry: dict[Any, Any]) -> str:
    """What of a variant or an evaluation is of the wrong kind; empty if nothing is."""
    wanted = entry.get("variants")
    if wanted is not None:
        if not isinstance(wanted, list) or not all(isinstance(one, (str, int)) for one in wanted):
            return f"variants is {wanted!r}; it is a list of names"
        if not wanted:
            return "variants is empty; name some, or leave it out for all"
        entry["variants"] = [str(one) for one in wanted]
    for name, kind, what in (
        ("ask", dict, "settings"),
        ("row", str, "a name"),
        ("against", str, "a name"),
        ("config", str, "a file"),
    ):
        if not isinstance(entry.get(name, kind()), kind):
            return f"{name} is {entry[name]!r}; it is {what}"
    if odd := [name for name in entry if not isinstance(name, str)]:
        return f"{odd[0]} is no name of a setting"
    return ""


def _filled(value: Any, places: Mapping[str, str], path: Path) -> Any:
    if isinstance(value, str):
        missing = [name for name in _PLACE.findall(value) if not places.get(name)]
        if missing:
            raise UserError(f"{path}: where is {missing[0]}? write {missing[0]}=FOLDER after the file")
        return _PLACE.sub(lambda found: places[found[1]], value)
    if isinstance(value, dict):
        return {_filled(key, places, path): _filled(one, places, path) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, places, path) for one in value]
    return value


def _beside(folder: Path, name: str) -> Path:
    """A file that another one names: from that one's folder, else as it stands."""
    found = Path(os.path.normpath(folder / name))
    return found if found.exists() or not Path(name).exists() else Path(name)


def flat(settings: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Settings of a dataclass by their full names: {training: {steps: 5}} is {training.steps: 5}."""
    groups = [one.name for one in dataclasses.fields(kind) if dataclasses.is_dataclass(one.type)]
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = value if name in groups and isinstance(value, dict) else None
        more = {name: value} if inner is None else {f"{name}.{key}": one for key, one in inner.items()}
        if twice := found.keys() & more.keys():
            raise UserError(f"{min(twice)} is set twice; leave one out")
        if name in ("help", "print_config"):
            raise UserError(f"no setting is called {name}")
        found |= more
    return found


def _word(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "-".join(map(_word, value))
    return re.sub(r"[^\w.+%=-]+", "-", f"{value:g}" if isinstance(value, float) else str(value))[-30:]
