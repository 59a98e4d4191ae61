"""The front door: one command per job, nothing else in it."""

import contextlib
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.table import Table

from pretext.errors import PartnerGone, SaidElsewhere, UserError
from pretext.settings import Parsed, Positional, parse_command, plain, settings_file, settings_from

if TYPE_CHECKING:
    from pretext.plan.disk import Disk
    from slurm import Job
    from slurm.sending import Item, SubmitSettings
    from transfer.results import Result

# Each command imports its job only when it is called: --help must not wait for torch.

Command = Callable[[Sequence[str]], int]
S = TypeVar("S")

RUN = Positional("run", "directory of the run")
NETWORKS = Positional(
    "networks", "runs, checkpoints, random:RUN, random:BACKBONE, timm:MODEL, timm:MODEL:FILE", nargs="+", kind=str
)
START = Positional("networks", "as of probe; rescaled:NETWORK is rescaled to the pictures first", nargs="+", kind=str)
HERE = Path(__file__).parent
RECIPES = (HERE if (HERE / "configs").is_dir() else HERE / "pretext") / "configs" / "pretext"  # a checkout, a wheel
LISTED = 20
SHARED = ("pretrain", "finetune")  # commands that several processes can share
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True, "emoji": False}


_ONLY_READ: ContextVar[bool] = ContextVar("_ONLY_READ", default=False)


@dataclass
class NoSettings:
    """Nothing can be set."""


class _Read(Exception):
    """A command's words, understood; raised in place of doing it."""

    def __init__(self, positionals: list[Any], settings: Any) -> None:
        self.positionals, self.settings = positionals, settings


def pretrain(arguments: Sequence[str]) -> int:
    """Learn features from unlabelled pictures, by colorization."""
    from pretext.engine.interrupt import Ending
    from pretext.engine.journal import skipped_pictures
    from pretext.engine.ranks import is_first
    from pretext.pretraining import pretrain as job
    from pretext.recipe import PretrainSettings
    from transfer.report import write_report

    (run,), settings = _parse(pretrain, PretrainSettings, [RUN], arguments)
    ending = job(run, settings)
    if not is_first():  # of several processes: the first alone speaks, also to who started them
        return Ending.COMPLETE
    _say(*_skips(skipped_pictures(run)))
    report = write_report(run)
    if ending != Ending.COMPLETE:
        _say(f"stopped; the same command goes on: pretint pretrain {shlex.join(arguments)}")
        return ending
    _say(f"report: {report}", f"next: pretint probe {run}")
    return 0


def plan(arguments: Sequence[str]) -> int:
    """Say what a pretraining will take here, before it is started: memory, speed, time, disk."""
    from pretext.plan.lines import plan_lines
    from pretext.plan.planning import plan as job
    from pretext.recipe import PretrainSettings

    recipe = Positional("recipe", "a YAML file of settings; options win over it", recipe=True)
    _, settings = _parse(plan, PretrainSettings, [recipe], arguments)
    _say(*plan_lines(job(settings)))
    return 0


def probe(arguments: Sequence[str]) -> int:
    """Fit linear classifiers on every stage of frozen networks, beside the same at random."""
    from transfer.probing import ProbeSettings
    from transfer.probing import probe as job

    (networks,), settings = _parse(probe, ProbeSettings, [NETWORKS], arguments)
    return _judged(job(networks, settings))


def knn(arguments: Sequence[str]) -> int:
    """Judge every stage of frozen networks by the nearest neighbours of the test pictures."""
    from transfer.judging import KnnSettings
    from transfer.judging import knn as job

    (networks,), settings = _parse(knn, KnnSettings, [NETWORKS], arguments)
    return _judged(job(networks, settings))


def svm(arguments: Sequence[str]) -> int:
    """Fit a linear SVM per class on every stage of frozen networks, as Goyal et al. 2019."""
    from transfer.judging import SvmSettings
    from transfer.judging import svm as job

    (networks,), settings = _parse(svm, SvmSettings, [NETWORKS], arguments)
    return _judged(job(networks, settings))


def finetune(arguments: Sequence[str]) -> int:
    """Train networks on PASCAL VOC, frozen up to a stage or whole: finetune classify, detect or segment."""
    from pretext.engine.interrupt import Ending
    from pretext.engine.ranks import is_first
    from transfer.finetuning import finetune as job
    from transfer.tasks.opening import TASKS

    name, *rest = list(arguments) or ["--help"]
    if name not in TASKS and name not in ("-h", "--help"):
        near = get_close_matches(name, TASKS, n=1)
        raise UserError(f"no task is called {name}; {f'did you mean {near[0]}?' if near else f'take {_or(TASKS)}'}")
    if name not in TASKS:
        _say(
            "usage: pretint finetune TASK NETWORK ... [--help | ...]\n",
            *(f"  {k:10}{v.about}" for k, v in TASKS.items()),
        )
        raise SystemExit(0)
    (networks,), settings = _understood(
        parse_command(f"pretint finetune {name}", TASKS[name].about, TASKS[name].settings, [START], rest)
    )
    done = job(networks, settings)
    if not is_first():
        return Ending.COMPLETE
    if done.ending != Ending.COMPLETE:
        _say(f"stopped; the same command goes on: pretint finetune {shlex.join(arguments)}")
        return done.ending
    return _judged(done.results)


def compare(arguments: Sequence[str]) -> int:
    """Test whether networks differ, by results of probe, knn, svm or finetune: every one against the first."""
    from transfer.comparing import CompareSettings, compare_paths, comparison_lines

    words = Positional("networks", "a run, result files, ...; several seeds with commas", nargs="+", kind=str)
    (named,), settings = _parse(compare, CompareSettings, [words], arguments)
    _say(*comparison_lines(compare_paths(named, settings)))
    return 0


def table(arguments: Sequence[str]) -> int:
    """Show results of probe, knn, svm and finetune as tables; as CSV, Markdown or LaTeX with --format."""
    from transfer.results import find_results
    from transfer.table import TableSettings, formatted

    paths = Positional("results", "runs, result files, and folders of them", nargs="+")
    (named,), settings = _parse(table, TableSettings, [paths], arguments)
    _say(*formatted(find_results(named), settings))
    return 0


def colorize(arguments: Sequence[str]) -> int:
    """Colour pictures, and show them: gray, coloured, original."""
    from pretext.colorizing import ColorizeSettings
    from pretext.colorizing import colorize as job

    model = Positional("model", "a run, or a checkpoint file")
    pictures = Positional("pictures", "picture files, and folders of them", nargs="+")
    (run, paths), settings = _parse(colorize, ColorizeSettings, [model, pictures], arguments)
    done = job(run, paths, settings)
    _say(*_skips([(error.key, error.reason) for error in done.skipped]))
    _say(f"{len(done.written)} coloured pictures: {settings.out}", f"side by side: {done.sheet}")
    return 0


def export(arguments: Sequence[str]) -> int:
    """Write a trained network for other programs: safetensors, plain timm or torchvision, ONNX."""
    from pretext.weights.exporting import ExportSettings
    from pretext.weights.exporting import export as job

    model = Positional("model", "a run, or a checkpoint file")
    destination = Positional("file", "a new file: .onnx for that format, else .safetensors")
    (run, file), settings = _parse(export, ExportSettings, [model, destination], arguments)
    written = job(run, file, settings)
    _say(*written.notes, f"written: {written.file}")
    return 0


def import_(arguments: Sequence[str]) -> int:
    """Make a run of published colorization weights: ECCV16, SIGGRAPH17, VISSL AlexNet or ResNet-50."""
    from pretext.weights.importing import import_weights

    weights = Positional("file", "the weights: .pth, .torch or .safetensors")
    run = Positional("run", "a new folder")
    (file, folder), _ = _parse(import_, NoSettings, [weights, run], arguments)
    _say(*import_weights(file, folder).lines())
    return 0


def report(arguments: Sequence[str]) -> int:
    """Write a run's report: one HTML file with its curves, probes, pictures and settings."""
    from transfer.report import write_report

    (run,), _ = _parse(report, NoSettings, [RUN], arguments)
    _say(f"report: {write_report(run)}")
    return 0


def replay(arguments: Sequence[str]) -> int:
    """Compute again the step at which a run's loss stopped being a number, and say where that began."""
    from pretext.replaying import ReplaySettings
    from pretext.replaying import replay as job

    evidence = Positional("evidence", "RUN/nonfinite/STEP, which the run named when it stopped")
    (folder,), settings = _parse(replay, ReplaySettings, [evidence], arguments)
    _say(*job(folder, settings).lines(), f"written to {folder / 'replay.json'}")
    return 0


def pack(arguments: Sequence[str]) -> int:
    """Pack pictures into tar shards at a shorter side of 256 pixels: small, and quick to read."""
    from pretext.pictures.packing import PackSettings
    from pretext.pictures.packing import pack as job

    source = Positional("source", "pictures: a folder, tar shards, ...", kind=str)
    (name, folder), settings = _parse(pack, PackSettings, [source, Positional("dest", "folder of shards")], arguments)
    done = job(name, folder, settings)
    _say(*_skips(done.skipped))
    shards = "1 shard" if done.shards == 1 else f"{done.shards:,} shards"
    _say(f"{done.pictures:,} pictures in {shards}, {done.copied:,} of them copied as they are")
    if not done.complete:
        _say(f"stopped; the same command goes on: pretint pack {shlex.join(arguments)}")
        return done.ending
    _say(f"labels: {f'{done.classes:,} classes' if done.classes else 'none'}")
    _say(f"{folder}: {'was complete already' if done.already else 'complete'}")
    return 0


@contextlib.contextmanager
def _cluster() -> Iterator[None]:
    """What slurm/ has to say to a user, said as all else is."""
    try:
        from slurm import ClusterError
    except ImportError as error:
        raise UserError(f"{error.name} is not installed, which jobs need: pip install 'pretint[slurm]'") from error
    try:
        yield
    except ClusterError as error:
        raise UserError(str(error)) from error


@_cluster()
def submit(arguments: Sequence[str]) -> int:
    """Send a command, or a list of them, to a cluster: submit --on CLUSTER.yaml COMMAND ..."""
    from slurm import ClusterSettings
    from slurm import submit as job
    from slurm.sending import Item, SubmitSettings, read_list, split_words

    own, words = split_words(arguments, COMMANDS, ("again", "dry_run"))
    for at, word in enumerate(own):
        if word == "--on" and at + 1 < len(own):  # by itself: a file knows nothing of --name, --list and the like
            settings_file(ClusterSettings, Path(own[at + 1]))
    about = f"{submit.__doc__} Options of submit come before the command, those of the command after it."
    _, settings = _understood(parse_command("pretint submit", about, SubmitSettings, [], own, "--on"))
    if bool(words) == bool(settings.jobs):
        raise UserError("give a command to submit, such as pretrain runs/x, or --jobs FILE; and not both")
    if settings.jobs and (settings.name or settings.after):
        raise UserError("--name and --after are of one command; in a list every job has its own")
    items = (
        read_list(Path(settings.jobs))
        if settings.jobs
        else [Item(tuple(words), settings.name, tuple(settings.after), {})]
    )
    read = [_read_item(item, settings) for item in items]
    jobs = [_job(item, settings, *one) for item, one in zip(items, read, strict=True)]
    if settings.dry_run:
        return _rehearse(jobs, settings, {job.name: one for job, one in zip(jobs, read, strict=True)})
    done = job(jobs, settings.folder, settings.again)
    _say(*(f"{name}: {why}" for name, why in done.skipped))
    _say(*(f"{one.name}: job {one.id}, log {one.log}" for one in done.sent[:LISTED]))
    if len(done.sent) > LISTED:
        _say(f"and {len(done.sent) - LISTED} more")
    elsewhere = [] if settings.folder == SubmitSettings().folder else ["--folder", str(settings.folder)]
    _say(f"see how far they are: {shlex.join(['pretint', 'jobs', *elsewhere])}")
    return 0


def _rehearse(jobs: "Sequence[Job]", settings: "SubmitSettings", read: Mapping[str, tuple[list[Any], Any]]) -> int:
    """Show what would be sent, and what it would take."""
    from pretext.plan.lines import size
    from slurm.submitting import require_sendable, script

    skipped = dict(require_sendable(jobs, settings.folder, settings.again))
    sent = [job for job in jobs if job.name not in skipped]
    for asked in dict.fromkeys(str(job.asked) for job in sent):
        alike = [job for job in sent if str(job.asked) == asked]
        if alike[0].asked.executor == "slurm":
            more = f" and {len(alike) - 1} more that ask for the same" if len(alike) > 1 else ""
            _say(f"# sbatch file of {alike[0].name}{more}", script(alike[0], settings.folder).strip(), "")
    _say(*(f"{name}: {why}" for name, why in skipped.items()))
    hours = sum(job.asked.gpu_hours for job in sent)
    _say(
        f"jobs: {len(sent)}",
        f"GPU-hours: at most {hours:,.1f} until the time limits; a job that takes longer goes on in another piece",
    )
    disks = [(job, _disk(job.words, *read[job.name])) for job in sent]
    known = [disk for _, disk in disks if disk]
    passing = sum(disk.passing for disk in known)
    more = f", and {size(passing)} more for moments" if passing else ""
    if known:
        _say(f"disk: {size(sum(disk.lasting for disk in known))}{more}")
        _say(*dict.fromkeys(f"  {note}" for disk in known for note in disk.notes))
    if unknown := dict.fromkeys(job.words[0] for job, disk in disks if not disk):
        _say(f"disk of {', '.join(unknown)}: not known beforehand")
    return 0


@_cluster()
def jobs(arguments: Sequence[str]) -> int:
    """Show the jobs that were sent: what runs, where, how far, what failed and why. jobs cancel NAME ... ends some."""
    from slurm import cancel, states
    from slurm.listing import JobsSettings, lines

    words = Positional("names", "of jobs, or their numbers; all of them if none is given", nargs="*", kind=str)
    stop = list(arguments[:1]) == ["cancel"]
    (names,), settings = _parse(jobs, JobsSettings, [words], arguments[stop:])
    if stop and not names:
        raise UserError("cancel: which job? give names or numbers, or all")
    if stop:
        _say(*(f"{one.sent.name}: job {one.sent.id} cancelled" for one in cancel(settings.folder, names)))
    else:
        _say(*lines(states(settings.folder), names, settings))
    return 0


def demo(arguments: Sequence[str]) -> int:
    """Pretrain, colour and probe on photographs that need no download, in minutes, by the commands shown."""
    from pretext.pictures.bundled import save_test_parts

    run = Positional("run", "directory of the run (default: runs/demo)", nargs="?")
    (named,), _ = _parse(demo, NoSettings, [run], arguments)
    folder = named.resolve() if named else Path("runs/demo")
    if not folder.name:
        raise UserError(f"{folder}: no name for a run; give a folder below it")
    photographs = folder.with_name(f"{folder.name}-photographs")
    save_test_parts(photographs)  # the parts that training never sees

    def step(command: Command, *words: str | Path) -> int:
        _say(f"\n$ pretint {shlex.join(map(str, (command.__name__, *words)))}")
        return command([str(word) for word in words])

    return (
        step(pretrain, folder, "--config", RECIPES / "demo.yaml")
        # The network learnt from tiles: it must see the photographs about as large as they were cut from.
        or step(colorize, folder, photographs, "--size", "256", "--out", folder / "coloured")
        or step(probe, folder)
        or step(compare, f"random:{folder}", folder)
    )


def _or(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}"


def _name(command: Command) -> str:
    return command.__name__.rstrip("_")  # "import" is a word of Python's


COMMANDS: dict[str, Command] = {
    _name(job): job
    for job in (
        plan,
        pretrain,
        probe,
        knn,
        svm,
        finetune,
        compare,
        table,
        colorize,
        report,
        replay,
        pack,
        export,
        import_,
        submit,
        jobs,
        demo,
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 2 the user's mistake (one line on standard error), stopped and ready to go
        on: 75 by USR2 or because another process of the run is gone, 130 by Ctrl-C, 143 by TERM.
    """
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        if name in COMMANDS:
            return COMMANDS[name](rest)
        if name in ("-h", "--help"):
            _say(
                "usage: pretint COMMAND [--help | ...]\n",
                *(f"  {key:10}{job.__doc__}" for key, job in COMMANDS.items()),
            )
            return 0
        if name == "--version":
            _say(f"pretint {version('pretint')}")
            return 0
        near = get_close_matches(name, COMMANDS, n=1)
        raise UserError(f"no command is called {name}; {f'did you mean {near[0]}?' if near else 'see pretint --help'}")
    except SaidElsewhere:
        return 2
    except (UserError, OSError) as error:  # an OSError: what we print on is full, a name is too long, ...
        text = str(error)
        shown = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
        with contextlib.suppress(OSError):
            Console(stderr=True).print(f"pretint: {shown}", **PLAIN)
        return 75 if isinstance(error, PartnerGone) else 2
    except KeyboardInterrupt:
        Console(stderr=True).print("pretint: stopped at once; the same command goes on where it can", **PLAIN)
        return 130


def _parse(command: Command, kind: type[S], positionals: Sequence[Positional], arguments: Sequence[str]) -> Parsed[S]:
    return _understood(parse_command(f"pretint {_name(command)}", command.__doc__ or "", kind, positionals, arguments))


def _understood(parsed: Parsed[S]) -> Parsed[S]:
    """What was parsed; where words are only read, no further."""
    if _ONLY_READ.get():
        raise _Read(*parsed)
    return parsed


def _disk(words: Sequence[str], positionals: list[Any], settings: Any) -> "Disk | None":
    """What a command will write to disk, where that is known.

    Raises:
        UserError: as the command itself would, of its pictures or networks.
    """
    from pretext.plan.disk import pretrain_disk
    from transfer.disk import finetune_disk, knn_disk, probe_disk, svm_disk

    if words[0] == "pretrain":
        return pretrain_disk(settings)
    if words[0] == "finetune":
        return finetune_disk(words[1], positionals[0], settings)
    of = {"probe": probe_disk, "knn": knn_disk, "svm": svm_disk}.get(words[0])
    return of(positionals[0], settings) if of else None  # type: ignore[operator]


def _read_item(item: "Item", settings: "SubmitSettings") -> tuple[list[Any], Any]:
    """The positional arguments and settings of a job's command: a mistake in them is said before anything is sent."""
    name, *rest = item.words
    if name not in COMMANDS or name in ("submit", "jobs"):
        raise UserError(f"{item.name or name}: {name} is no command that can be sent")
    reading = _ONLY_READ.set(True)
    try:
        COMMANDS[name](rest)
    except _Read as read:
        return read.positionals, read.settings
    except UserError as error:
        raise UserError(f"{item.name}: {error}" if settings.jobs else str(error)) from error
    finally:
        _ONLY_READ.reset(reading)
    raise AssertionError("a command reads its words first")


def _job(item: "Item", settings: "SubmitSettings", positionals: list[Any], given: Any) -> "Job":
    """A job to send."""
    from slurm import ClusterSettings, Job

    name, *rest = item.words
    first = next((one[0] if isinstance(one, list) else one for one in positionals if one), "")
    claims = str(Path(first).resolve()) if name in ("pretrain", "pack") else ""
    asked = settings.cluster
    if item.ask:
        asked = settings_from(ClusterSettings, {**plain(asked), **item.ask}, f"{item.name}: ask")
    if name not in SHARED:
        asked = asked.of_one_task
    return Job(tuple(item.words), item.name or _job_name(name, rest, str(first)), asked, item.after, claims)


def _job_name(command: str, rest: Sequence[str], first: str) -> str:
    """Of a job without a name: its command, and what that is about."""
    words = [command, rest[0] if command == "finetune" and rest else "", Path(first).name or first]
    return "-".join(filter(None, (re.sub(r"[^\w.+%@]+", "-", word).strip("-.") for word in words)))[:100]


def _judged(results: Sequence["Result"]) -> int:
    """Tables of results, pictures that could not be read, and where all of it lies."""
    from transfer.report import write_report
    from transfer.table import tables

    skips = list(dict.fromkeys(skip for one in results for skip in one.skipped))
    tuned = any(one.mode == "fine-tuned" for one in results)
    reason = "found in the pictures and what is said of them" if tuned else "skipped, because they cannot be read"
    _say(*tables(results).terminal(), *_skips(skips, reason))
    for folder in dict.fromkeys(Path(one.file).parent for one in results):
        run = folder.parent if (folder.parent / "settings.yaml").is_file() else None
        _say(f"report: {write_report(run)}" if run else f"results: {folder}")
    return 0


def _skips(skipped: Sequence[Sequence[str]], reason: str = "skipped, because they cannot be read") -> list[str]:
    """The pictures that could not be read, or what else is wrong with them, listed."""
    if not skipped:
        return []
    lines = [f"  {key}: {reason}" for key, reason in skipped[:LISTED]]
    more = [f"  and {len(skipped) - LISTED} more"] if len(skipped) > LISTED else []
    return [f"{len(skipped)} {reason}:", *lines, *more]


def _say(*lines: str | Table) -> None:
    console = Console()
    for line in lines:  # a table is never squeezed: one that wraps can't be read
        wide = Console(width=max(console.width, line.width or 100)) if isinstance(line, Table) else console
        wide.print(line, **PLAIN)


if __name__ == "__main__":
    sys.exit(main())
