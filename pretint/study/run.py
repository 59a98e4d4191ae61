"""The job that does a study: compute what is not finished, here or on a cluster, and show how far it is."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import yaml
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pretext.engine.progress import clock, say
from pretext.engine.signals import ExitStatus
from pretext.errors import UserError
from pretext.escape import escape_controls
from pretext.files import write_atomically
from pretext.store import LOCK, lock
from pretint.study.cells import PLAN, PRETRAIN, CellStore, StudyCell, StudyPlan, describe_call
from pretint.study.expand import expand
from pretint.study.file import StudyOptions, read_study
from pretint.study.local_runner import CellStatus, CellStatuses, Status, initial_states, run_here
from pretint.study.report.collect import each_once, row_of
from pretint.study.slurm_runner import follow, jobs_to_send, queue, read_states
from transfer.columns import Column
from transfer.metrics import seed_scores
from transfer.results import read_result

Send = Callable[[Sequence[tuple[StudyCell, list[str]]], str, Path], None]
"""Sends cells as jobs: each with the names of those that it waits for; the cluster file; the folder of jobs."""

_EVERY = 1.0  # seconds between two drawings of the table
_SHOWN = (
    Status.RUNNING,
    Status.ELSEWHERE,
    Status.FAILED,
    Status.BLOCKED,
    Status.STOPPED,
)  # states counted below the table
_WITHOUT_NUMBER = (PRETRAIN, "score")  # commands whose cells have no single number
_EVENTS = {Status.RUNNING: "started", Status.ELSEWHERE: "another process or a job works on it"}


class StudyOutcome(NamedTuple):
    """The outcome of a call."""

    folder: Path
    """Folder of the study."""
    plan: StudyPlan
    standings: dict[str, CellStatus]
    """States of its cells, by key."""
    ending: ExitStatus


def study(file: Path, places: Sequence[str], options: StudyOptions, send: Send | None = None) -> StudyOutcome:
    """Run a study, or continue one.

    Cells that are finished, in this study or another of the same folder, are not computed again. A call after an
    interruption continues the study, and gives the same numbers.

    Args:
        file: its YAML file.
        places: PLACE=FOLDER each.
        options: where and how.
        send: a function that sends jobs to a cluster; needed if ``options.on`` names one.

    Raises:
        UserError: the file is wrong, images cannot be read, or nothing can be written.
        ClusterError: Slurm does not answer.
        KeyboardInterrupt: a second Ctrl-C; the commands that ran were ended at once.

    Returns:
        The states of its cells, finished or not.
    """
    shelf = CellStore(options.folder)
    folders: dict[str, str] = {}
    for word in places:
        place, equals, path = word.partition("=")
        if not equals or not path:
            raise UserError(f"{word}: write PLACE=FOLDER, such as images=imagenette-96")
        folders[place] = path
    settings = read_study(file, folders)
    name = options.name or file.stem
    if name.startswith("."):
        raise UserError(f"{file}: its name cannot be the name of a folder; choose another with --name")
    folder = options.folder / name
    if name in ("runs", "results", "recipes", "logs", "jobs"):
        raise UserError(f"{folder}: this folder holds cells of studies; choose another --name")
    plan = expand(settings, CellStore(options.folder))  # a mistake in it leaves no folder behind
    if options.dry_run:
        return StudyOutcome(folder, plan, initial_states(plan.cells, shelf), ExitStatus.COMPLETE)
    with lock(folder / LOCK, "doing this study"):
        with shelf.lock_places():
            plan = expand(settings, shelf)
            for cell in plan.cells:
                shelf.folder(cell).mkdir(parents=True, exist_ok=True)
        for recipe, values in plan.recipes.items():
            write_atomically(shelf.root / recipe, yaml.safe_dump(values, sort_keys=False).encode())
        replace(plan, call=describe_call(file, settings, places, options)).write(folder / PLAN)
        looks: Iterable[tuple[CellStatuses, ExitStatus]]
        if not options.on:
            looks = run_here(plan.cells, shelf, options.parallel, options.retry, queue(shelf))
        else:
            assert send is not None
            if cells := jobs_to_send(plan.cells, shelf, options.retry):
                send(cells, options.on, shelf.jobs)
            looks = (
                follow(plan.cells, shelf) if options.wait else [(read_states(plan.cells, shelf), ExitStatus.COMPLETE)]
            )
        states: CellStatuses = {}
        ending = ExitStatus.COMPLETE
        for states, ending in show(plan, shelf, looks):  # noqa: B007
            pass
    return StudyOutcome(folder, plan, dict(states), ending)


def show(
    plan: StudyPlan, shelf: CellStore, looks: Iterable[tuple[CellStatuses, ExitStatus]]
) -> Iterator[tuple[CellStatuses, ExitStatus]]:
    """Yield the same states, and show them to the user: as a table on a terminal, else as a line for every change."""
    console = Console(stderr=True)
    if not console.is_terminal:
        by_key = {cell.key: cell for cell in plan.cells}
        before: dict[str, CellStatus] = {}
        for states, ending in looks:
            if not before:
                words = [state.word for state in states.values()]
                say(f"{len(by_key)} cells, {words.count(Status.FINISHED)} of them finished already")
            for key, state in states.items():
                last = before.get(key)
                if last is None and state.word in (Status.FINISHED, Status.WAITING):
                    continue
                if last is None or last.word != state.word:
                    reason = f": {state.said}" if state.word == Status.FAILED else ""
                    say(f"{by_key[key].name}: {_EVENTS.get(state.word, state.word)}{reason}")
            before = dict(states)
            yield states, ending
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        drawn, so_far = -_EVERY, SoFar(plan, shelf)
        for states, ending in looks:
            if time.monotonic() - drawn >= _EVERY:
                drawn = time.monotonic()
                live.update(table(plan, states, so_far, ending), refresh=True)
            yield states, ending


class SoFar:
    """The results of variants by the seeds that are finished; each file is read once."""

    def __init__(self, plan: StudyPlan, shelf: CellStore) -> None:
        self.plan, self.shelf = plan, shelf
        self._known: dict[tuple[str, ...], str] = {}

    def __call__(self, cells: Sequence[StudyCell], states: CellStatuses) -> str:
        """Return a variant's mean over seeds by one evaluation, %, of its selected row; empty without one."""
        finished = [c for c in cells if states[c.key].word == Status.FINISHED and c.command not in _WITHOUT_NUMBER]
        keys = tuple(cell.key for cell in finished)
        if finished and keys not in self._known:
            try:
                results = [read_result(self.shelf.results(cell)[-1]) for cell in finished]
                column = Column(finished[0].variant, each_once(results))
                row = row_of(column, self.plan.evaluations[finished[0].evaluation].get("row", ""))
                self._known[keys] = f"{100 * fmean(seed_scores(column.outcomes(row))):.1f}"
            except UserError:  # the report says what is wrong with it
                self._known[keys] = "?"
        return self._known.get(keys, "")


def table(plan: StudyPlan, states: CellStatuses, so_far: SoFar, ending: ExitStatus = ExitStatus.COMPLETE) -> Group:
    """Return a table of variants by evaluations: results, number of finished seeds, and progress of the others."""
    names = list(plan.evaluations)
    pretrained = any(not cell.evaluation for cell in plan.cells)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("", no_wrap=True)
    for name in (["pretraining"] if pretrained else []) + names:
        shown.add_column(Text(escape_controls(name)), justify="right", no_wrap=True)
    for variant in plan.variants:
        columns = ([""] if pretrained else []) + names
        groups = [plan.of(variant, name) for name in columns]
        texts = (_text([states[cell.key] for cell in cells], so_far(cells, states)) for cells in groups)
        shown.add_row(Text(escape_controls(variant)), *texts)
    words = [state.word for state in {cell.key: states[cell.key] for cell in plan.cells}.values()]
    counts = [f"{words.count(Status.FINISHED)} of {len(words)} cells finished"]
    counts += [f"{words.count(word)} {word}" for word in _SHOWN if word in words]
    if ending:
        counts.append("stopping: running cells save their state; press Ctrl-C again to end them at once")
    return Group(shown, ", ".join(counts))


def _text(states: list[CellStatus], number: str) -> Text:
    """Return a cell of the table: the number, and how many seeds are finished."""
    if not states:
        return Text("-", style="dim")
    words = [state.word for state in states]
    count = f"{number}  {words.count(Status.FINISHED)}/{len(words)}".lstrip()
    if Status.FAILED in words:
        return Text(f"{count} failed", style="red")
    running = [state for state in states if state.word in (Status.RUNNING, Status.ELSEWHERE)]
    if running:
        first = max(running, key=lambda state: state.share)
        left = f", {clock(first.left)}" if first.left is not None else ""
        return Text(f"{count} {100 * first.share:.0f}%{left}", style="yellow")
    if Status.BLOCKED in words:
        return Text(f"{count} blocked", style="red")
    return Text(count, style="green" if words.count(Status.FINISHED) == len(words) else "dim")
