"""A study while it runs: a table that is drawn again and again on a terminal, a line for every change elsewhere."""

import time
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pretext.engine.progress import clock, say
from pretext.engine.signals import Ending
from pretext.errors import UserError
from pretext.escape import escape_controls
from pretint.study.cells import Shelf
from pretint.study.local_runner import Standing, Standings, Word
from pretint.study.plan import PRETRAIN, Cell, Plan
from pretint.study.report.collect import each_once, row_of
from transfer.columns import Column
from transfer.metrics import seed_scores
from transfer.results import read_result

_EVERY = 1.0  # seconds between two tables


def watched(plan: Plan, shelf: Shelf, looks: Iterable[tuple[Standings, Ending]]) -> Iterator[tuple[Standings, Ending]]:
    """The same looks, shown to a user while they pass."""
    console = Console(stderr=True)
    if not console.is_terminal:
        told: dict[str, Standing] = {}
        for found, ending in looks:
            _tell_changes(plan, told, found)
            told = dict(found)
            yield found, ending
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        drawn, so_far = -_EVERY, SoFar(plan, shelf)
        for found, ending in looks:
            if time.monotonic() - drawn >= _EVERY:
                drawn = time.monotonic()
                live.update(table(plan, found, so_far, ending), refresh=True)
            yield found, ending


class SoFar:
    """What variants are worth by the seeds that are finished; a result is read once."""

    def __init__(self, plan: Plan, shelf: Shelf) -> None:
        self.plan, self.shelf = plan, shelf
        self._known: dict[tuple[str, ...], str] = {}

    def __call__(self, cells: Sequence[Cell], found: Standings) -> str:
        """Mean of a variant's seeds by one evaluation, %, of the row that stands for it; empty if there is none."""
        done = [cell for cell in cells if found[cell.key].word == Word.FINISHED and cell.command not in _WORDLESS]
        which = tuple(cell.key for cell in done)
        if done and which not in self._known:
            self._known[which] = self._read(done)
        return self._known.get(which, "")

    def _read(self, cells: Sequence[Cell]) -> str:
        try:
            results = [read_result(self.shelf.results(cell)[-1]) for cell in cells]
            column = Column(cells[0].variant, each_once(results))
            row = row_of(column, self.plan.evaluations[cells[0].evaluation].get("row", ""))
        except UserError:  # the report says what is wrong with it
            return "?"
        return f"{100 * fmean(seed_scores(column.outcomes(row))):.1f}"


_WORDLESS = (PRETRAIN, "score")  # commands whose cells have no one number


def table(plan: Plan, found: Standings, so_far: SoFar, ending: Ending = Ending.COMPLETE) -> Group:
    """Variants by evaluations: what they are worth, how many seeds are finished, and how far the others are."""
    names = list(plan.evaluations)
    pretrained = any(not cell.evaluation for cell in plan.cells)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("", no_wrap=True)
    for name in (["pretraining"] if pretrained else []) + names:
        shown.add_column(Text(escape_controls(name)), justify="right", no_wrap=True)
    for variant in plan.variants:
        columns = ([""] if pretrained else []) + names
        cells = [plan.of(variant, name) for name in columns]
        variant_cells = (_cell([found[one.key] for one in each], so_far(each, found)) for each in cells)
        shown.add_row(Text(escape_controls(variant)), *variant_cells)
    words = [standing.word for standing in {cell.key: found[cell.key] for cell in plan.cells}.values()]
    done = f"{words.count(Word.FINISHED)} of {len(words)} cells finished"
    told = [done, *(f"{words.count(word)} {word}" for word in _WORTH_TELLING if word in words)]
    if ending:
        told.append("stopping: what runs saves itself; Ctrl-C again ends it at once")
    return Group(shown, ", ".join(told))


_WORTH_TELLING = (Word.RUNNING, Word.ELSEWHERE, Word.FAILED, Word.BLOCKED, Word.STOPPED)


def _cell(standings: list[Standing], number: str) -> Text:
    if not standings:
        return Text("-", style="dim")
    words = [one.word for one in standings]
    count = f"{number}  {words.count(Word.FINISHED)}/{len(words)}".lstrip()
    if Word.FAILED in words:
        return Text(f"{count} failed", style="red")
    running = [one for one in standings if one.word in (Word.RUNNING, Word.ELSEWHERE)]
    if running:
        one = max(running, key=lambda one: one.share)
        left = f", {clock(one.left)}" if one.left is not None else ""
        return Text(f"{count} {100 * one.share:.0f}%{left}", style="yellow")
    if Word.BLOCKED in words:
        return Text(f"{count} blocked", style="red")
    return Text(count, style="green" if words.count(Word.FINISHED) == len(words) else "dim")


def _tell_changes(plan: Plan, before: Standings, now: Standings) -> None:
    """A line for every cell that has begun, ended or failed since the last look."""
    each: dict[str, Cell] = {cell.key: cell for cell in plan.cells}
    if not before:
        words = [standing.word for standing in now.values()]
        say(f"{len(each)} cells, {words.count(Word.FINISHED)} of them finished already")
    for key, standing in now.items():
        was = before.get(key)
        if was is None and standing.word in (Word.FINISHED, Word.WAITING):
            continue
        if was is None or was.word != standing.word:
            said = f": {standing.said}" if standing.word == Word.FAILED else ""
            say(f"{each[key].name}: {_TELLING.get(standing.word, standing.word)}{said}")


_TELLING = {Word.RUNNING: "started", Word.ELSEWHERE: "another process or a job works on it"}
