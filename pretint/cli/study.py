"""The command that does a study; it is not sent to a cluster itself, but sends its cells."""

import contextlib
import dataclasses
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pretext.engine.signals import Ending
from pretext.settings import Positional, settings_file
from pretint.cli.output import say
from pretint.cli.parser import read
from pretint.cli.submit import cluster, jobs_of

if TYPE_CHECKING:
    from slurm.words import Item


def study(arguments: Sequence[str]) -> int:
    """Do a study: pretrainings and evaluations from one file, here or on a cluster, and its table."""
    from pretint.study.cells import Shelf
    from pretint.study.file import StudyOptions
    from pretint.study.local_runner import Word
    from pretint.study.report.write import write_study_report
    from pretint.study.run import study as job

    file = Positional("file", "the study: a YAML file, such as configs/study/ablation_small.yaml")
    places = Positional("places", "PLACE=FOLDER, for the places that the file names", nargs="*", kind=str)
    named = [word for word in arguments if re.match(r"\w+=", word)]  # they may stand anywhere, as options may
    words = [word for word in arguments if word not in named]
    (path, others), options = read(study, StudyOptions, [file, places], words)
    with cluster() if options.on or Shelf(options.folder).jobs.is_dir() else contextlib.nullcontext():
        done = job(path, [*named, *others], options, _send)
    each = {cell.key: cell for cell in done.plan.cells}
    if options.dry_run:
        for key, cell in each.items():
            say(f"{done.standings[key].word:10}{cell.name}: pretint {shlex.join(cell.words)}")
        return 0
    words = [standing.word for standing in done.standings.values()]
    failed = [(each[key], one) for key, one in done.standings.items() if one.word == Word.FAILED]
    report = write_study_report(done.folder)
    say(*report.terminal(), *(f"report: {file}" for file in report.files))
    finished, blocked = words.count(Word.FINISHED), words.count(Word.BLOCKED)
    if finished < len(words):
        goes_on = "; the same command goes on" if finished + len(failed) + blocked < len(words) else ""
        say(f"{finished} of {len(words)} cells are finished{goes_on}")
    for cell, standing in failed:
        log = options.folder / "logs" / f"{cell.place}.log"
        say(f"failed: {cell.name}: {standing.said} (log: {log}; --retry tries it again)")
    return done.ending or (1 if failed or (options.wait and finished < len(words)) else Ending.COMPLETE)


def _send(items: "Sequence[Item]", on: str, folder: Path) -> None:
    from slurm import ClusterSettings, submit
    from slurm.words import SubmitSettings

    asked = settings_file(ClusterSettings, Path(on))
    own = {one.name: getattr(asked, one.name) for one in dataclasses.fields(ClusterSettings)}
    done = submit(jobs_of(items, SubmitSettings(**own, folder=folder, again=True)), folder, again=True)
    say(f"{len(done.sent)} jobs sent; pretint jobs --folder {folder} shows them")
