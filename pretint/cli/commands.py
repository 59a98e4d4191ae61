"""The commands that do one job each: each calls its job with what was parsed, and prints."""

import contextlib
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pretext.errors import UserError
from pretext.settings import settings_file
from pretint.cli.output import complain, say, say_results, skips
from pretint.cli.submit import cluster, copy_plugins, make_job
from pretint.commands import COMMANDS, Call

if TYPE_CHECKING:
    from pretint.study.cells import StudyCell

# Each command imports its job only when it is called: --help must not wait for torch.

HERE = Path(__file__).parents[2]
RECIPES = (HERE if (HERE / "configs").is_dir() else HERE / "pretext") / "configs" / "pretext"  # a checkout, a wheel


def _pretrain(call: Call) -> int:
    from pretext.engine.distributed import is_rank_zero
    from pretext.engine.journal import skipped_images
    from pretext.engine.signals import ExitStatus
    from pretext.pretrain import pretrain as job
    from transfer.report import write_report

    (run,) = call.positionals
    ending = job(run, call.settings)
    if not is_rank_zero():  # of several processes only the first prints
        return ExitStatus.COMPLETE
    say(*skips(skipped_images(run)))
    report = write_report(run)
    if ending != ExitStatus.COMPLETE:
        say(f"stopped; to continue, run: {call.line}")
        return ending
    say(f"report: {report}", f"next: pretint probe {run} --train FOLDER --test FOLDER")
    return 0


def _plan(call: Call) -> int:
    from pretext.plan import plan as job
    from pretext.plan import plan_lines

    say(*plan_lines(job(call.settings)))
    return 0


def _evaluate(call: Call) -> int:
    """Run probe, knn or svm, which are in the modules of their settings."""
    job = getattr(import_module(call.command.kind.__module__), call.command.name)
    results = job(call.positionals[0], call.settings)
    code = say_results(results)
    if len(call.settings.tests) > 1:
        from transfer.layout import WIDTH
        from transfer.shift import shift_sheets

        say(*(line for sheet in shift_sheets(results, call.settings) for line in sheet.terminal(WIDTH)))
    return code


def _finetune(call: Call) -> int:
    from pretext.engine.distributed import is_rank_zero
    from pretext.engine.signals import ExitStatus
    from transfer.finetune import finetune as job

    done = job(call.positionals[0], call.settings)
    if not is_rank_zero():
        return ExitStatus.COMPLETE
    if done.ending != ExitStatus.COMPLETE:
        say(f"stopped; to continue, run: {call.line}")
        return done.ending
    return say_results(done.results)


def _compare(call: Call) -> int:
    from transfer.compare import compare_paths, comparison_lines

    say(*comparison_lines(compare_paths(call.positionals[0], call.settings)))
    return 0


def _table(call: Call) -> int:
    from transfer.results import find_results
    from transfer.table import format_tables

    say(*format_tables(find_results(call.positionals[0]), call.settings))
    return 0


def _embed(call: Call) -> int:
    from transfer.embed import embed_dataset

    network, dataset = call.positionals
    done = embed_dataset(network, dataset, call.settings)
    say(*skips(done.skipped), f"{done.rows:,} images, {done.dims:,} numbers each: {done.file}")
    return 0


def _predict(call: Call) -> int:
    from transfer.predict import predict as job

    model, dataset = call.positionals
    done = job(model, dataset, call.settings)
    say(*skips(done.skipped), f"predictions of {done.images:,} images: {', '.join(map(str, done.files))}")
    return 0


def _explore(call: Call) -> int:
    from transfer.explore import explore

    done = explore(call.positionals[0], call.settings)
    labels = "" if done.suspects is None else f", {done.suspects:,} labels in doubt"
    say(f"{done.images:,} images: {done.groups:,} groups of near duplicates{labels}", f"page: {done.page}")
    return 0


def _colorize(call: Call) -> int:
    from pretint.colorization.job import FOLDER
    from pretint.colorization.job import colorize as job

    model, images = call.positionals
    done = job(model, images, call.settings)
    if done.streamed:  # standard output is the image
        complain(*(f"{key}: {note}" for key, note in done.notes))
        return 0
    say(*(f"{key}: {note}" for key, note in done.notes))
    if done.skipped:
        say(f"{len(done.skipped)} without a result:", *(f"  {error}" for error in done.skipped))
    count = "1 colored image" if len(done.written) == 1 else f"{len(done.written):,} colored images"
    existing = f" ({done.stood:,} of them already existed, made in the same way)" if done.stood else ""
    say(f"{count}: {call.settings.out or FOLDER}{existing}")
    if done.sheet:
        say(f"side by side: {done.sheet}")
    return 1 if done.skipped else 0


def _score(call: Call) -> int:
    from pretext.engine.progress import say as tell
    from pretint.colorization.scores.job import score as job

    done = job(call.positionals[0], call.settings)
    say(*done.format(call.settings.format))
    remarks = (*skips(done.skipped), *done.notes, f"scores: {done.file}")
    if call.settings.format == "terminal":
        say(*remarks)
    else:  # standard output is a file
        for line in remarks:
            tell(line)
    return 0


def _turing(call: Call) -> int:
    from pretint.apps.turing.design import turing as job

    job(call.positionals[0], call.settings, say)
    return 0


def _studio(call: Call) -> int:
    from pretint.apps.studio.serve import studio as job

    job(call.positionals[0], call.settings, say)
    return 0


def _study(call: Call) -> int:
    from pretext.engine.signals import ExitStatus  # with torch
    from pretint.study.cells import CellStore
    from pretint.study.local_runner import Status
    from pretint.study.report.page import write_study_report
    from pretint.study.run import study as job

    (path, places), options = call.positionals, call.settings
    with cluster() if options.on or CellStore(options.folder).jobs.is_dir() else contextlib.nullcontext():
        done = job(path, places, options, _send_cells)
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


def _send_cells(cells: "Sequence[tuple[StudyCell, list[str]]]", on: str, folder: Path) -> None:
    from slurm import ClusterSettings, submit

    requested, plugins = settings_file(ClusterSettings, Path(on)), copy_plugins(folder)
    jobs = [make_job(cell.call, cell.place, requested, after, cell.ask, plugins) for cell, after in cells]
    done = submit(jobs, folder, again=True)
    say(f"{len(done.sent)} jobs sent; pretint jobs --folder {folder} shows them")


def _report(call: Call) -> int:
    from transfer.report import write_report

    (run,) = call.positionals
    studies = [run] if run.name == "plan.json" and run.is_file() else sorted(run.glob("*/plan.json"))
    if studies and not (run / "settings.yaml").exists() and not (run / "plan.json").exists():
        named = ", ".join(str(plan.parent) for plan in studies[:5])
        raise UserError(f"{run}: neither a run nor a study; name one: {named}{', ...' if len(studies) > 5 else ''}")
    if (run / "plan.json").is_file():
        from pretint.study.report.page import write_study_report

        say(*(f"report: {file}" for file in write_study_report(run).files))
        return 0
    say(f"report: {write_report(run)}")
    return 0


def _replay(call: Call) -> int:
    from pretext.replay import replay as job

    (folder,) = call.positionals
    say(*job(folder, call.settings).lines(), f"written to {folder / 'replay.json'}")
    return 0


def _pack(call: Call) -> int:
    from pretext.data.pack import pack as job

    name, folder = call.positionals
    done = job(name, folder, call.settings)
    say(*skips(done.skipped))
    shards = "1 shard" if done.shards == 1 else f"{done.shards:,} shards"
    say(f"{done.images:,} images in {shards}, {done.copied:,} of them copied as they are")
    if not done.complete:
        say(f"stopped; to continue, run: {call.line}")
        return done.ending
    say(f"labels: {f'{done.classes:,} classes' if done.classes else 'none'}")
    say(f"{folder}: {'was complete already' if done.already else 'complete'}")
    return 0


def _export(call: Call) -> int:
    from pretext.weights.exporter import export as job

    model, file = call.positionals
    written = job(model, file, call.settings)
    say(*written.notes, f"written: {written.file}")
    return 0


def _import(call: Call) -> int:
    from pretext.weights.importer import import_weights

    file, run = call.positionals
    say(*import_weights(file, run, call.settings).lines())
    return 0


def _demo(call: Call) -> int:
    from pretext.data.bundled import save_test_parts

    (named,) = call.positionals
    folder = named.resolve() if named else Path("runs/demo")
    if not folder.name:
        raise UserError(f"{folder}: this cannot be the folder of a run; name a folder inside it")
    photographs = folder.with_name(f"{folder.name}-photographs")
    save_test_parts(photographs)  # the parts that training never sees

    def step(name: str, *words: str | Path) -> int:
        call = COMMANDS[name].parse([str(word) for word in words])
        say("", f"$ {call.line}")
        return JOBS[name](call)

    return (
        step("pretrain", folder, "--config", RECIPES / "demo.yaml")
        # The network learned from tiles, so it must see the photographs at about the scale of the tiles.
        or step("colorize", folder, photographs, "--size", "256", "--out", folder / "colored")
        or step("probe", folder, "--train", "bundled:train", "--test", "bundled:test")
        or step("compare", f"random:{folder}", folder)
    )


_JOBS = (
    _pretrain, _plan, _finetune, _compare, _table, _embed, _explore, _predict, _colorize, _score, _turing, _studio,
    _study, _report, _replay, _pack, _export, _import, _demo,
)  # fmt: skip
JOBS: dict[str, Callable[[Call], int]] = {
    **{job.__name__.strip("_"): job for job in _JOBS}, **dict.fromkeys(("probe", "knn", "svm"), _evaluate)
}  # fmt: skip
"""The functions that do commands of ``pretint.commands`` and print what came of it, by name."""
