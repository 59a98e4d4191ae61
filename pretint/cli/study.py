"""The command that runs a study. It is not sent to a cluster itself; it sends the cells of the study."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pretext.settings import settings_file
from pretint.cli.output import say
from pretint.cli.submit import cluster, copy_plugins, make_job
from pretint.commands import Call

if TYPE_CHECKING:
    from pretint.study.cells import StudyCell


def study(call: Call) -> int:
    """Run a study, and print its table."""
    from pretext.engine.signals import ExitStatus  # with torch
    from pretint.study.cells import CellStore
    from pretint.study.local_runner import Status
    from pretint.study.report.page import write_study_report
    from pretint.study.run import study as job

    (path, places), options = call.positionals, call.settings
    with cluster() if options.on or CellStore(options.folder).jobs.is_dir() else contextlib.nullcontext():
        done = job(path, places, options, _send)
    cells = {cell.key: cell for cell in done.plan.cells}
    if options.dry_run:
        for key, cell in cells.items():
            say(f"{done.standings[key].word:10}{cell.name}: {cell.call['line']}")
        return 0
    states = [standing.word for standing in done.standings.values()]
    failed = [(cells[key], standing) for key, standing in done.standings.items() if standing.word == Status.FAILED]
    report = write_study_report(done.folder)
    say(*report.terminal(), *(f"report: {file}" for file in report.files))
    finished, blocked = states.count(Status.FINISHED), states.count(Status.BLOCKED)
    if finished < len(states):
        remedy = "; run the same command again to continue" if finished + len(failed) + blocked < len(states) else ""
        say(f"{finished} of {len(states)} cells are finished{remedy}")
    for cell, standing in failed:
        log = options.folder / "logs" / f"{cell.place}.log"
        say(f"failed: {cell.name}: {standing.said} (log: {log}; --retry tries it again)")
    return done.ending or (1 if failed or (options.wait and finished < len(states)) else ExitStatus.COMPLETE)


def _send(cells: "Sequence[tuple[StudyCell, list[str]]]", on: str, folder: Path) -> None:
    from slurm import ClusterSettings, submit

    requested, plugins = settings_file(ClusterSettings, Path(on)), copy_plugins(folder)
    jobs = [make_job(cell.call, cell.place, requested, after, cell.ask, plugins) for cell, after in cells]
    done = submit(jobs, folder, again=True)
    say(f"{len(done.sent)} jobs sent; pretint jobs --folder {folder} shows them")
