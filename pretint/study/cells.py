"""The cells of a study: their commands, their folders, and which of them are finished.

STUDIES/                     shared by all studies in it: a cell that two of them have is made once
    runs/NAME.KEY/           a pretraining: a run like any other
    results/NAME.KEY/        an evaluation of one network
    recipes/NAME.KEY.yaml    the settings of a network that is evaluated at random weights
    logs/NAME.KEY.log        the output of a cell's command; .call is its call file, .failed says why it failed,
                             .progress how far it is
    jobs/                    the cells that were sent to a cluster
    STUDY/                   a study: plan.json, report.html, ...

A cell is found by its KEY alone. Its files say whether it is finished; nothing else is written down.
"""

import contextlib
import fcntl
import json
import os
import shlex
import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pretext.engine.run import checkpoint_damage, newest_checkpoint
from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.plugins import VARIABLE, plugin_digests
from pretext.store import LOCK, lock, seal, unseal
from pretint.colorization.scores.table import read_scores
from pretint.commands import COMMANDS, PlainCall, line_of
from pretint.study.file import StudyOptions, StudySettings
from transfer.results import read_result

PRETRAIN = "pretrain"
PLAN = "plan.json"


@dataclass(frozen=True)
class StudyCell:
    """A piece of a study's work: a command that may be called again, and makes one folder."""

    key: str
    """The key that identifies it, see ``pretint.study.identity``."""
    variant: str
    seed: int
    evaluation: str
    """Name of the evaluation; empty for a pretraining."""
    call: PlainCall
    """Its command with all arguments, see ``pretint.commands``."""
    folder: str
    """The folder that it makes, relative to that of the studies: runs/NAME.KEY, or results/NAME.KEY with a result."""
    after: str
    """Key of the cell that must be finished first; empty if there is none."""
    steps: int = 0
    """Number of steps of a pretraining."""
    ask: dict[str, Any] = field(default_factory=dict)
    """Settings of the cluster that its job changes."""

    @property
    def command(self) -> str:
        """The name of its command: pretrain, probe, finetune detect, ..."""
        return str(self.call["command"])

    @property
    def place(self) -> str:
        """NAME.KEY: the name of its folder, log and job, which no other cell has."""
        return self.folder.rpartition("/")[2]

    @property
    def name(self) -> str:
        """A name for people; not unique."""
        return f"{self.variant} {self.seed}" + (f" {self.evaluation}" if self.evaluation else "")


@dataclass(frozen=True)
class StudyCall:
    """The command line of a study, and its files; the same ones give the same study."""

    command: str = ""
    """The command line; empty in a plan that does not hold it."""
    files: dict[str, str] = field(default_factory=dict)
    """The texts of the study's file and of the recipes that it names, by path."""
    plugins: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the plugins that were loaded, by path."""

    @property
    def line(self) -> str:
        """The call as a line for a shell."""
        plugins = f"{VARIABLE}={shlex.quote(':'.join(self.plugins))} " if self.plugins else ""
        return f"{plugins}{self.command}"


def describe_call(file: Path, study: StudySettings, places: Sequence[str], options: StudyOptions) -> StudyCall:
    """Return the call of a study.

    Args:
        file: the study's file.
        study: its content.
        places: PLACE=FOLDER each.
        options: options of the call.
    """
    recipes = [variant.config for variant in study.expanded]
    recipes += [str(evaluation.get("config", "")) for evaluation in study.evaluations.values()]
    names = dict.fromkeys([str(file), *filter(None, recipes)])
    texts = {name: Path(name).read_text(encoding="utf-8", errors="replace") for name in names}
    what = StudyOptions(options.folder, options.name)  # the others say how a study is computed
    return StudyCall(line_of(COMMANDS["study"], [file, list(places)], what), texts, plugin_digests())


@dataclass(frozen=True)
class StudyPlan:
    """All cells of a study, and the other facts that its report needs: plain values, stored in its folder."""

    about: str
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    evaluations: dict[str, dict[str, Any]]
    """The evaluations by name, as they were written."""
    against: dict[str, str]
    """The variant that each variant is compared with."""
    differing: dict[str, dict[str, Any]]
    """Settings in which the variants that are pretrained differ: by setting, by variant."""
    recipes: dict[str, dict[str, Any]]
    """Settings of pretraining of the networks at random weights, by their file, relative to the folder of studies."""
    figures: str
    cells: tuple[StudyCell, ...]
    call: StudyCall = field(default_factory=StudyCall)

    def of(self, variant: str, evaluation: str) -> list[StudyCell]:
        """Return the cells of a variant, by seed; those of its pretraining for an empty evaluation."""
        return [cell for cell in self.cells if (cell.variant, cell.evaluation) == (variant, evaluation)]

    def write(self, file: Path) -> None:
        """Write it as a sealed record."""
        write_atomically(file, seal(asdict(self)))


def read_plan(file: Path) -> StudyPlan:
    """Read a plan that ``StudyPlan.write`` wrote.

    Raises:
        UserError: it cannot be read, or is not a plan.
    """
    try:
        values = unseal(file.read_bytes())
        cells = tuple(StudyCell(**cell) for cell in values["cells"])
        tuples = {name: tuple(values[name]) for name in ("variants", "seeds")}
        return StudyPlan(**{**values, **tuples, "cells": cells, "call": StudyCall(**values["call"])})
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:  # also of a version with other fields
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{file}: not the plan of a study of this version ({reason}); run pretint study again"
        ) from error


class Failure(NamedTuple):
    """The failure of a cell's command."""

    code: int
    said: str
    """The last line that it printed, or the signal that killed it."""


class CellStore:
    """The folder in which cells lie."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._places: dict[tuple[str, str], str] = {}
        self._whole: set[Path] = set()
        self._damaged: set[tuple[Path, int]] = set()  # checkpoints, each with the time of its last change

    @property
    def jobs(self) -> Path:
        """The folder of the jobs on a cluster."""
        return self.root / "jobs"

    def place(self, kind: str, name: str, key: str) -> str:
        """Return the path of a folder or file, relative to the root: the existing path with this key, or a new one.

        Args:
            kind: runs, results or recipes.
            name: a name for people.
            key: key of the cell; for a recipe, with the file's ending.
        """
        existing = sorted(path.name for path in (self.root / kind).glob(f"*.{key}"))
        return self._places.setdefault((kind, key), f"{kind}/{existing[0] if existing else f'{name}.{key}'}")

    def folder(self, cell: StudyCell) -> Path:
        """Return the folder that a cell makes."""
        return self.root / cell.folder

    def file(self, cell: StudyCell, ending: str) -> Path:
        """Return a file about a cell: its log, failed, lock, progress."""
        return self.root / "logs" / f"{cell.place}.{ending}"

    def is_finished(self, cell: StudyCell) -> bool:
        """Return whether a cell's files are complete; for a result that cannot be read its command must run again."""
        if cell.command == PRETRAIN:
            newest = newest_checkpoint(self.folder(cell))
            return newest is not None and int(newest.stem) >= cell.steps and _dated(newest) not in self._damaged
        return bool(self.results(cell))

    def check_network(self, cell: StudyCell) -> bool:
        """Return whether the network of a finished pretraining is undamaged; if not, the cell counts as unfinished.

        Without this check, cells that use the network would take an earlier checkpoint. It reads the whole checkpoint.
        """
        newest = newest_checkpoint(self.folder(cell))
        if newest is not None and checkpoint_damage(newest):
            self._damaged.add(_dated(newest))
        return self.is_finished(cell)

    def results(self, cell: StudyCell) -> list[Path]:
        """Return the result files of an evaluation that can be read."""
        return [file for file in sorted(self.folder(cell).glob("*.json")) if not self._damage(cell, file)]

    def damage(self, cell: StudyCell) -> str:
        """Return why a result file of an evaluation cannot be read; empty if all can."""
        files = sorted(self.folder(cell).glob("*.json"))
        return next(filter(None, (self._damage(cell, file) for file in files)), "")

    def _damage(self, cell: StudyCell, file: Path) -> str:
        """Return why a file cannot be read, or an empty string. Only damaged files are read again."""
        if file not in self._whole:
            try:
                (read_scores if cell.command == "score" else read_result)(file)
            except UserError as error:
                return str(error)
            self._whole.add(file)
        return ""

    def failure(self, cell: StudyCell) -> Failure | None:
        """Return the failure of a cell; None if it did not fail, or was tried again since."""
        try:
            return Failure(**unseal(self.file(cell, "failed").read_bytes()))
        except (OSError, ValueError):  # of another version, or damaged: it is tried again
            return None

    def write_failure(self, cell: StudyCell, code: int) -> Failure:
        """Record that a cell's command failed with an exit code, as subprocess has it."""
        reason = ""
        if code < 0:
            reason = f"killed by signal {-code}{', as where memory is short' if -code == signal.SIGKILL else ''}"
        else:
            with contextlib.suppress(OSError), self.file(cell, "log").open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - 4000))
                lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
                reason = lines[-1][:500] if lines else ""
        failure = Failure(code, reason)
        write_atomically(self.file(cell, "failed"), seal(failure._asdict()))
        return failure

    def clear_failure(self, cell: StudyCell) -> None:
        """Remove the record that a cell failed."""
        self.file(cell, "failed").unlink(missing_ok=True)

    def progress(self, cell: StudyCell) -> dict[str, Any]:
        """Return the last numbers of its command's progress; empty if there are none."""
        with contextlib.suppress(OSError, ValueError):
            record: dict[str, Any] = json.loads(self.file(cell, "progress").read_text(encoding="utf-8"))
            return record
        return {}

    def lock(self, cell: StudyCell) -> int | None:
        """Take a cell's lock; return None if another process has it.

        Returns:
            A file descriptor for the command that does the work. The lock lasts as long as that command has it open,
            even if this process ends.

        Raises:
            UserError: the folder cannot be written.
        """
        path = self.file(cell, "lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"{path}: cannot write there ({error.strerror}); name another --folder") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            raise UserError(
                f"{path}: cannot be locked ({error.strerror}); name a --folder on a file system with locks"
            ) from error
        return descriptor

    @contextlib.contextmanager
    def lock_places(self) -> Iterator[None]:
        """Lock the choice of paths: two processes that choose at the same time would give one cell two paths."""
        with lock(self.root / LOCK, "starting a study there", wait=True, advice="name another --folder"):
            yield


def _dated(path: Path) -> tuple[Path, int]:
    return path, path.stat().st_mtime_ns
