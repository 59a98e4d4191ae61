"""The job that does a study: what is not finished is computed, here or on a cluster, and the table is written."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from pretext.engine.signals import Ending
from pretext.errors import UserError
from pretext.files import held_folder, write_atomically
from pretint.study.cells import Shelf
from pretint.study.expand import expand
from pretint.study.file import StudyOptions, read_study
from pretint.study.local_runner import Standing, Standings, as_left, run_here
from pretint.study.plan import Plan, with_call
from pretint.study.slurm_runner import follow, items, queue, standings
from pretint.study.watch import watched

if TYPE_CHECKING:
    from slurm.words import Item

PLAN = "plan.json"

Send = Callable[[Sequence["Item"], str, Path], None]
"""Sends jobs: what they are, the file that says what to ask of the cluster, the folder of jobs."""


class Studied(NamedTuple):
    """What became of a call."""

    folder: Path
    """Of the study."""
    plan: Plan
    standings: dict[str, Standing]
    ending: Ending


def study(file: Path, places: Sequence[str], options: StudyOptions, send: Send | None = None) -> Studied:
    """Do a study, or go on with one.

    Cells that are finished, in this study or another of the same folder, are found and not computed again. Called
    again after an interruption it goes on, and gives the same numbers.

    Args:
        file: its YAML file.
        places: PLACE=FOLDER each.
        options: where and how.
        send: what sends jobs to a cluster; needed if ``options.on`` names one.

    Raises:
        UserError: the file is wrong, images cannot be had, or nothing can be written.
        ClusterError: Slurm does not answer.
        KeyboardInterrupt: a second Ctrl-C; what runs was ended at once.

    Returns:
        How its cells stand now, finished or not.
    """
    shelf = Shelf(options.folder)
    asked = read_study(file, dict(map(_place, places)))
    name = options.name or file.stem
    if name.startswith("."):
        raise UserError(f"{file}: its name makes no folder; give a --name")
    folder = options.folder / name
    if name in ("runs", "results", "recipes", "logs", "jobs"):
        raise UserError(f"{folder}: cells of studies lie there; give another --name")
    plan = expand(asked, Shelf(options.folder))  # a mistake in it leaves no folder behind
    if options.dry_run:
        return Studied(folder, plan, as_left(plan.cells, shelf), Ending.COMPLETE)
    with held_folder(folder, "doing this study"):
        with shelf.planning():
            plan = expand(asked, shelf)
            for cell in plan.cells:
                shelf.folder(cell).mkdir(parents=True, exist_ok=True)
        for recipe, settings in plan.recipes.items():
            write_atomically(shelf.root / recipe, yaml.safe_dump(settings, sort_keys=False).encode())
        with_call(plan, file, asked, places, options).write(folder / PLAN)
        found: Standings = {}
        ending = Ending.COMPLETE
        for found, ending in watched(plan, shelf, _looks(plan, shelf, options, send)):  # noqa: B007
            pass
    return Studied(folder, plan, dict(found), ending)


def _looks(plan: Plan, shelf: Shelf, options: StudyOptions, send: Send | None) -> Iterable[tuple[Standings, Ending]]:
    if not options.on:
        return run_here(plan.cells, shelf, options.parallel, options.retry, queue(shelf))
    assert send is not None
    wanted = items(plan.cells, shelf, options.retry)
    if wanted:
        send(wanted, options.on, shelf.jobs)
    return follow(plan.cells, shelf) if options.wait else [(standings(plan.cells, shelf), Ending.COMPLETE)]


def _place(word: str) -> tuple[str, str]:
    name, equals, folder = word.partition("=")
    if not equals or not folder:
        raise UserError(f"{word}: write PLACE=FOLDER, such as images=imagenette-96")
    return name, folder
