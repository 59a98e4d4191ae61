"""All that a study takes: every pretraining and every evaluation, each a command."""

import json
import re
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pretext.errors import UserError
from pretext.files import write_atomically

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
