"""The commands that do one job each; they only parse arguments, call the job and print."""

import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pretext.errors import UserError
from pretext.settings import Positional, parse_command
from pretint.cli.output import complain, say, say_results, skips
from pretint.cli.parser import Command, NoSettings, name_of, read, understood

# Each command imports its job only when it is called: --help must not wait for torch.

RUN = Positional("run", "directory of the run")
NETWORKS = Positional(
    "networks", "runs, checkpoints, random:RUN, random:BACKBONE, timm:MODEL[:FILE]", nargs="+", kind=str
)
START = Positional("networks", "as for probe; rescaled:NETWORK is rescaled to the images first", nargs="+", kind=str)
HERE = Path(__file__).parents[2]
RECIPES = (HERE if (HERE / "configs").is_dir() else HERE / "pretext") / "configs" / "pretext"  # a checkout, a wheel


def pretrain(arguments: Sequence[str]) -> int:
    """Learn features from unlabeled images, by colorization."""
    from pretext.engine.distributed import is_rank_zero
    from pretext.engine.journal import skipped_images
    from pretext.engine.signals import ExitStatus
    from pretext.pretrain import pretrain as job
    from pretext.recipe import PretrainSettings, resolve_source
    from transfer.report import write_report

    (run,), settings = read(
        pretrain, PretrainSettings, [RUN], arguments, lambda named, settings: resolve_source(named[0], settings)
    )
    ending = job(run, settings)
    if not is_rank_zero():  # of several processes only the first prints
        return ExitStatus.COMPLETE
    say(*skips(skipped_images(run)))
    report = write_report(run)
    if ending != ExitStatus.COMPLETE:
        say(f"stopped; to continue, run: pretint pretrain {shlex.join(arguments)}")
        return ending
    say(f"report: {report}", f"next: pretint probe {run} --train FOLDER --test FOLDER")
    return 0


def plan(arguments: Sequence[str]) -> int:
    """Estimate the cost of a pretraining on this machine: memory, speed, time, disk."""
    from pretext.plan.job import plan as job
    from pretext.plan.job import plan_lines
    from pretext.recipe import PretrainSettings, require_source

    recipe = Positional("recipe", "a YAML file of settings; options win over it", recipe=True)
    _, settings = read(plan, PretrainSettings, [recipe], arguments, lambda _, settings: require_source(settings))
    say(*plan_lines(job(settings)))
    return 0


def _require_labeled(_: list[Any], settings: Any) -> None:
    from transfer.targets import require_named

    require_named(settings.train, settings.test)


def probe(arguments: Sequence[str]) -> int:
    """Fit linear classifiers on every stage of frozen networks, and of the same networks at random weights."""
    from transfer.probes.linear import ProbeSettings
    from transfer.probes.linear import probe as job

    (networks,), settings = read(probe, ProbeSettings, [NETWORKS], arguments, _require_labeled)
    return say_results(job(networks, settings))


def knn(arguments: Sequence[str]) -> int:
    """Evaluate every stage of frozen networks by the nearest neighbors of the test images."""
    from transfer.probes.knn import KnnSettings
    from transfer.probes.knn import knn as job

    (networks,), settings = read(knn, KnnSettings, [NETWORKS], arguments, _require_labeled)
    return say_results(job(networks, settings))


def svm(arguments: Sequence[str]) -> int:
    """Fit a linear SVM per class on every stage of frozen networks, as in Goyal et al. 2019."""
    from transfer.probes.svm import SvmSettings
    from transfer.probes.svm import svm as job

    (networks,), settings = read(svm, SvmSettings, [NETWORKS], arguments, _require_labeled)
    return say_results(job(networks, settings))


def finetune(arguments: Sequence[str]) -> int:
    """Fine-tune networks on PASCAL VOC, whole or frozen up to a stage: finetune classify, detect or segment."""
    from pretext.engine.distributed import is_rank_zero
    from pretext.engine.signals import ExitStatus
    from transfer.finetune import finetune as job
    from transfer.tasks.registry import TASKS, require_sources

    name, *rest = list(arguments) or ["--help"]
    if name not in TASKS and name not in ("-h", "--help"):
        near = get_close_matches(name, TASKS, n=1)
        *others, last = TASKS
        hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(others)} or {last}"
        raise UserError(f"no task is called {name}; {hint}")
    if name not in TASKS:
        say(
            "usage: pretint finetune TASK NETWORK ... [--help | ...]",
            "",
            *(f"  {k:10}{v.about}" for k, v in TASKS.items()),
        )
        raise SystemExit(0)
    (networks,), settings = understood(
        parse_command(f"pretint finetune {name}", TASKS[name].about, TASKS[name].settings, [START], rest),
        lambda _, settings: require_sources(settings),
    )
    done = job(networks, settings)
    if not is_rank_zero():
        return ExitStatus.COMPLETE
    if done.ending != ExitStatus.COMPLETE:
        say(f"stopped; to continue, run: pretint finetune {shlex.join(arguments)}")
        return done.ending
    return say_results(done.results)


def compare(arguments: Sequence[str]) -> int:
    """Test whether networks differ from the first one, by their results of probe, knn, svm or finetune."""
    from transfer.compare import CompareSettings, compare_paths, comparison_lines

    words = Positional("networks", "a run, result files, ...; several seeds with commas", nargs="+", kind=str)
    (named,), settings = read(compare, CompareSettings, [words], arguments)
    say(*comparison_lines(compare_paths(named, settings)))
    return 0


def table(arguments: Sequence[str]) -> int:
    """Show results of probe, knn, svm and finetune as tables; as CSV, Markdown or LaTeX with --format."""
    from transfer.results import find_results
    from transfer.table import TableSettings, format_tables

    paths = Positional("results", "runs, result files, and folders of them", nargs="+")
    (named,), settings = read(table, TableSettings, [paths], arguments)
    say(*format_tables(find_results(named), settings))
    return 0


def colorize(arguments: Sequence[str]) -> int:
    """Color photographs, and show them side by side: gray, colored, original."""
    from pretint.colorization.job import FOLDER, ColorizeSettings, require_images
    from pretint.colorization.job import colorize as job

    model = Positional(
        "model",
        "a run, a checkpoint, exported weights, published ones of ECCV16 or SIGGRAPH17; reference:IMAGE; scribbles",
        kind=str,
    )
    images = Positional("images", "image files, folders of them, patterns; - is standard input", nargs="*")
    (run, paths), settings = read(
        colorize, ColorizeSettings, [model, images], arguments, lambda named, _: require_images(*named)
    )
    done = job(run, paths, settings)
    if done.streamed:  # standard output is the image
        complain(*(f"{key}: {note}" for key, note in done.notes))
        return 0
    say(*(f"{key}: {note}" for key, note in done.notes))
    if done.skipped:
        say(f"{len(done.skipped)} without a result:", *(f"  {error}" for error in done.skipped))
    count = "1 colored image" if len(done.written) == 1 else f"{len(done.written):,} colored images"
    existing = f" ({done.stood:,} of them already existed, made in the same way)" if done.stood else ""
    say(f"{count}: {settings.out or FOLDER}{existing}")
    if done.sheet:
        say(f"side by side: {done.sheet}")
    return 1 if done.skipped else 0


def score(arguments: Sequence[str]) -> int:
    """Score the colors of networks on images, beside gray, random colors and the true colors."""
    from pretext.engine.progress import say as tell
    from pretint.colorization.scores.job import ScoreSettings, require_images
    from pretint.colorization.scores.job import score as job

    models = Positional("models", "runs, checkpoints, RUN@hints=10, gray, random, truth", nargs="+", kind=str)
    (named,), settings = read(score, ScoreSettings, [models], arguments, lambda _, settings: require_images(settings))
    done = job(named, settings)
    say(*done.shown(settings.format))
    remarks = (*skips(done.skipped), *done.notes, f"scores: {done.file}")
    if settings.format == "terminal":
        say(*remarks)
    else:  # standard output is a file
        for line in remarks:
            tell(line)
    return 0


def turing(arguments: Sequence[str]) -> int:
    """Ask people which of two images is fake, on a web page, and show how often each algorithm fools them."""
    from pretint.apps.turing.design import TuringSettings, merge_algorithms
    from pretint.apps.turing.design import turing as job

    study = Positional("study", "folder of the study; made if it does not exist")
    (folder,), settings = read(turing, TuringSettings, [study], merge_algorithms(arguments))
    job(folder, settings, say)
    return 0


def studio(arguments: Sequence[str]) -> int:
    """Color photographs on a local web page: temperature, saturation, hints; nothing leaves this machine."""
    from pretint.apps.studio.serve import StudioSettings
    from pretint.apps.studio.serve import studio as job

    model = Positional("model", "a run, a checkpoint, exported or published weights; or scribbles", kind=str)
    (run,), settings = read(studio, StudioSettings, [model], arguments)
    job(run, settings, say)
    return 0


def report(arguments: Sequence[str]) -> int:
    """Write the report of a run, or of a study: an HTML file with its numbers, curves, images and settings."""
    from transfer.report import write_report

    of = Positional("run", "directory of a run, or of a study")
    (run,), _ = read(report, NoSettings, [of], arguments)
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


def replay(arguments: Sequence[str]) -> int:
    """Compute the step at which the loss of a run became NaN again, and show where the first NaN occurs."""
    from pretext.replay import ReplaySettings
    from pretext.replay import replay as job

    evidence = Positional("evidence", "RUN/nonfinite/STEP: the folder that the run printed when it stopped")
    (folder,), settings = read(replay, ReplaySettings, [evidence], arguments)
    say(*job(folder, settings).lines(), f"written to {folder / 'replay.json'}")
    return 0


def pack(arguments: Sequence[str]) -> int:
    """Pack images into tar shards at a shorter side of 256 pixels: small, and quick to read."""
    from pretext.data.pack import PackSettings
    from pretext.data.pack import pack as job

    source = Positional("source", "images: a folder, tar shards, ...", kind=str)
    (name, folder), settings = read(pack, PackSettings, [source, Positional("dest", "folder of shards")], arguments)
    done = job(name, folder, settings)
    say(*skips(done.skipped))
    shards = "1 shard" if done.shards == 1 else f"{done.shards:,} shards"
    say(f"{done.images:,} images in {shards}, {done.copied:,} of them copied as they are")
    if not done.complete:
        say(f"stopped; to continue, run: pretint pack {shlex.join(arguments)}")
        return done.ending
    say(f"labels: {f'{done.classes:,} classes' if done.classes else 'none'}")
    say(f"{folder}: {'was complete already' if done.already else 'complete'}")
    return 0


def export(arguments: Sequence[str]) -> int:
    """Export a trained network for other programs: safetensors, plain timm or torchvision, ONNX."""
    from pretext.weights.exporter import ExportSettings
    from pretext.weights.exporter import export as job

    model = Positional("model", "a run, or a checkpoint file")
    destination = Positional("file", "a new file: .onnx for that format, else .safetensors")
    (run, file), settings = read(export, ExportSettings, [model, destination], arguments)
    written = job(run, file, settings)
    say(*written.notes, f"written: {written.file}")
    return 0


def import_(arguments: Sequence[str]) -> int:
    """Make a run from published colorization weights: ECCV16, SIGGRAPH17, VISSL AlexNet or ResNet-50."""
    from pretext.weights.importer import ImportSettings, import_weights

    weights = Positional("file", "the weights: .pth, .torch or .safetensors")
    run = Positional("run", "a new folder")
    (file, folder), settings = read(import_, ImportSettings, [weights, run], arguments)
    say(*import_weights(file, folder, settings).lines())
    return 0


def demo(arguments: Sequence[str]) -> int:
    """Pretrain, color and probe on bundled photographs, in minutes, and show the commands for it."""
    from pretext.data.bundled import save_test_parts

    run = Positional("run", "directory of the run (default: runs/demo)", nargs="?")
    (named,), _ = read(demo, NoSettings, [run], arguments)
    folder = named.resolve() if named else Path("runs/demo")
    if not folder.name:
        raise UserError(f"{folder}: this cannot be the folder of a run; name a folder inside it")
    photographs = folder.with_name(f"{folder.name}-photographs")
    save_test_parts(photographs)  # the parts that training never sees

    def step(command: Command, *words: str | Path) -> int:
        say("", f"$ pretint {shlex.join(map(str, (command.__name__, *words)))}")
        return command([str(word) for word in words])

    return (
        step(pretrain, folder, "--config", RECIPES / "demo.yaml")
        # The network learned from tiles, so it must see the photographs at about the scale of the tiles.
        or step(colorize, folder, photographs, "--size", "256", "--out", folder / "colored")
        or step(probe, folder, "--train", "bundled:train", "--test", "bundled:test")
        or step(compare, f"random:{folder}", folder)
    )


COMMANDS: dict[str, Command] = {
    name_of(job): job
    for job in (
        pretrain,
        plan,
        probe,
        knn,
        svm,
        finetune,
        compare,
        table,
        colorize,
        score,
        turing,
        studio,
        report,
        replay,
        pack,
        export,
        import_,
        demo,
    )
}
"""The commands by name; all of them can be sent to a cluster."""
