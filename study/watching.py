"""A study while it runs: a table that is drawn again and again on a terminal, a line for every change elsewhere."""

import time
from collections.abc import Iterable, Iterator

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pretext.engine.interrupt import Ending
from pretext.engine.progress import clock, say
from study.here import Standing, Standings, Word
from study.plan import Cell, Plan

_EVERY = 1.0  # seconds between two tables


def watched(plan: Plan, looks: Iterable[tuple[Standings, Ending]]) -> Iterator[tuple[Standings, Ending]]:
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
        drawn = -_EVERY
        for found, ending in looks:
            if time.monotonic() - drawn >= _EVERY:
                drawn = time.monotonic()
                live.update(table(plan, found, ending), refresh=True)
            yield found, ending


def table(plan: Plan, found: Standings, ending: Ending = Ending.COMPLETE) -> Table:
    """Variants by evaluations, with how many seeds of each are finished, and how far the others are."""
    names = list(plan.evaluations)
    pretrained = any(not cell.evaluation for cell in plan.cells)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("", no_wrap=True)
    for name in (["pretraining"] if pretrained else []) + names:
        shown.add_column(name, justify="right", no_wrap=True)
    for variant in plan.variants:
        columns = ([""] if pretrained else []) + names
        shown.add_row(variant, *(_cell([found[cell.key] for cell in plan.of(variant, name)]) for name in columns))
    words = [standing.word for standing in {cell.key: found[cell.key] for cell in plan.cells}.values()]
    done = f"{words.count(Word.FINISHED)} of {len(words)} cells finished"
    told = [done, *(f"{words.count(word)} {word}" for word in _WORTH_TELLING if word in words)]
    if ending:
        told.append("stopping: what runs saves itself; Ctrl-C again ends it at once")
    shown.caption = ", ".join(told)
    shown.caption_justify = "left"
    return shown


_WORTH_TELLING = (Word.RUNNING, Word.ELSEWHERE, Word.FAILED, Word.BLOCKED, Word.STOPPED)


def _cell(standings: list[Standing]) -> Text:
    if not standings:
        return Text("-", style="dim")
    words = [one.word for one in standings]
    count = f"{words.count(Word.FINISHED)}/{len(words)}"
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
