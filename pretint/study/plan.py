"""All that a study takes: every pretraining and every evaluation, each a command."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.plugins import VARIABLE, plugin_digests
from pretint.study.file import StudyOptions, StudySettings

PRETRAIN = "pretrain"
_FOLDER = re.compile(r"(runs|results)/[^/\0]*[^/\0.]")


@dataclass(frozen=True)
class Cell:
    """One piece of a study's work: a command that may be called again, and leaves one thing."""

    key: str
    """By which it is found again, see ``pretint.study.identity``."""
    variant: str
    seed: int
    evaluation: str
    """Its name; empty of a pretraining."""
    command: str
    words: tuple[str, ...]
    """As after ``pretint``."""
    folder: str
    """What it leaves, from the folder of studies: runs/NAME.KEY, or results/NAME.KEY with a result in it."""
    after: str
    """Key of the cell that must be finished before; empty if there is none."""
    steps: int = 0
    """Of a pretraining."""
    ask: dict[str, Any] = field(default_factory=dict)
    """Settings of the cluster that its job wants otherwise."""

    @property
    def place(self) -> str:
        """NAME.KEY: the name of its folder, log and job, which no other cell has."""
        return self.folder.rpartition("/")[2]

    @property
    def name(self) -> str:
        """For people: not unique."""
        return f"{self.variant} {self.seed}" + (f" {self.evaluation}" if self.evaluation else "")


@dataclass(frozen=True)
class Plan:
    """All that a study takes. Plain, as it stands in its folder: from it alone the report is written."""

    about: str
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    evaluations: dict[str, dict[str, Any]]
    """By name, as they were written."""
    against: dict[str, str]
    """The variant that each is compared with."""
    differing: dict[str, dict[str, Any]]
    """Settings in which the variants that are pretrained differ: by setting, by variant."""
    recipes: dict[str, dict[str, Any]]
    """What is judged at random weights: settings of pretraining, by their file, from the folder of studies."""
    figures: str
    cells: tuple[Cell, ...]
    call: dict[str, Any] = field(default_factory=dict)
    """What it was called with, see ``pretint.study.call``; older plans do not say."""

    def of(self, variant: str, evaluation: str) -> list[Cell]:
        """The cells of a variant, by seed; of a pretraining with evaluation empty."""
        return [cell for cell in self.cells if (cell.variant, cell.evaluation) == (variant, evaluation)]

    def write(self, file: Path) -> None:
        """Write it as JSON."""
        write_atomically(file, json.dumps(asdict(self), indent=1).encode())


def read_plan(file: Path) -> Plan:
    """A plan that ``Plan.write`` wrote.

    Raises:
        UserError: it cannot be read, or is none.
    """
    try:
        plan: Plan = _typed(Plan, json.loads(file.read_text(encoding="utf-8")))
        _require_whole(plan)
        return plan
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{file}: no study's plan, or a damaged one ({reason}); call pretint study again") from error


def _typed(kind: Any, value: Any) -> Any:
    """A value from a JSON file, as what an annotation names: its lists are our tuples, its objects our dataclasses.

    Raises:
        TypeError, KeyError: it is of another.
    """
    if kind is Any:
        return value
    whole, parts = get_origin(kind) or kind, get_args(kind)
    plain: Any = {tuple: list}.get(whole, dict if is_dataclass(whole) else whole)
    if type(value) is not plain:
        raise TypeError(f"{str(value)[:60]!r} where a {plain.__name__} is expected")
    if is_dataclass(whole):
        hints = get_type_hints(kind)
        return kind(**{name: _typed(hints[name], one) for name, one in value.items()})
    if whole is tuple:
        return tuple(_typed(parts[0], one) for one in value)
    return {name: _typed(parts[1], one) for name, one in value.items()} if whole is dict else value


def _require_whole(plan: Plan) -> None:
    """What a plan says of one cell must fit what it says elsewhere, and lie among the studies."""
    keys = {"", *(cell.key for cell in plan.cells)}
    commands = {"": PRETRAIN, **{name: asked["command"] for name, asked in plan.evaluations.items()}}
    for cell in plan.cells:
        if commands[cell.evaluation] != cell.command:
            raise ValueError(f"{cell.name} is of the command {cell.command}, its evaluation of another")
        if cell.after not in keys or (cell.command == "score" and not cell.after):
            raise ValueError(f"{cell.name} comes after {cell.after or 'nothing'}")
        if not _FOLDER.fullmatch(cell.folder):
            raise ValueError(f"{cell.name} lies in {cell.folder}")


_OPTIONS = ("folder", "name")  # the others say how a study is computed, and not what


@dataclass(frozen=True)
class Call:
    """Plain, as it stands in a plan."""

    words: tuple[str, ...] = ()
    """As after ``pretint``; empty in a plan that does not say."""
    files: dict[str, str] = field(default_factory=dict)
    """The study's file and the recipes that it names: what was in each."""
    plugins: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the plugins that were loaded, by path."""

    @property
    def line(self) -> str:
        """For a shell."""
        plugins = f"{VARIABLE}={shlex.quote(':'.join(self.plugins))} " if self.plugins else ""
        return f"{plugins}{shlex.join(('pretint', *self.words))}"


def with_call(plan: Plan, file: Path, study: StudySettings, places: Sequence[str], options: StudyOptions) -> Plan:
    """A plan that says what it is of.

    Args:
        plan: of the study.
        file: of the study.
        study: what is in it.
        places: PLACE=FOLDER each.
        options: where it is done.
    """
    usual = type(options)()
    own = [f"--{key}={getattr(options, key)}" for key in _OPTIONS if getattr(options, key) != getattr(usual, key)]
    recipes = [variant.config for variant in study.expanded]
    recipes += [str(asked.get("config", "")) for asked in study.evaluations.values()]
    names = dict.fromkeys([str(file), *filter(None, recipes)])
    texts = {name: Path(name).read_text(encoding="utf-8", errors="replace") for name in names}
    return replace(plan, call=asdict(Call(("study", str(file), *places, *own), texts, plugin_digests())))


def call_of(plan: Plan) -> Call:
    """What a plan says of its call; an empty one of a plan that says nothing, or nothing that can be read."""
    try:
        words, files, plugins = (plan.call.get(name, ()) for name in ("words", "files", "plugins"))
        return Call(tuple(map(str, words)), _texts(files), _texts(plugins))
    except (AttributeError, TypeError, ValueError):
        return Call()


def _texts(values: object) -> dict[str, str]:
    return {str(name): str(text) for name, text in dict(values).items()}  # type: ignore[call-overload]
