"""The commands as data: what each is for, its settings and positional arguments, and what must be checked.

The command line, studies and clusters read this table. A command's settings are imported when its words are parsed, and
its job when it runs: torch takes seconds, and ``--help`` must not wait for it.
"""

import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from pretext import roles
from pretext.errors import UserError
from pretext.settings import (
    Positional,
    flatten,
    parse_command,
    settings_from,
    to_plain,
)

GROUPS = {
    "learn": "Learn",
    "judge": "Judge",
    "use": "Use",
    "color": "Color",
    "scale": "Large data and clusters",
}
"""What people want of the commands."""


@dataclass
class NoSettings:
    """No settings."""


class Command(NamedTuple):
    """A command."""

    name: str
    """As it is typed; two words for a task of finetune."""
    group: str
    """What people want of it, a key of ``GROUPS``."""
    about: str
    positionals: tuple[Positional, ...] = ()
    settings: str | type[Any] = NoSettings
    """The dataclass of its settings, or MODULE:CLASS."""
    check: Callable[[list[Any], Any], object] | None = None
    """Raises UserError if an input without a default is missing; also called if the command runs on another machine."""
    writes: int | None = None
    """Which positional argument is the folder that only one job may write to."""
    in_processes: bool = False
    """Whether it can run in several processes."""
    evaluates: bool = False
    """Whether it evaluates networks, its first argument, and writes to --out: a study can call it."""
    sendable: bool = True
    """Whether it can be sent to a cluster."""
    loose: str = ""
    """A pattern of words that may stand anywhere, like options; they belong to the last positional argument."""
    rewrite: Callable[[Sequence[str]], Sequence[str]] = list
    """Changes its words before they are parsed."""

    @property
    def kind(self) -> type[Any]:
        """The dataclass of its settings."""
        kind: type[Any] = load(self.settings) if isinstance(self.settings, str) else self.settings
        return kind

    def parse(self, words: Sequence[str]) -> "Call":
        """Return a call of it with the arguments in some words.

        Raises:
            UserError: an argument is wrong.
            SystemExit: an argument requested help, which was printed.
        """
        loose = [word for word in words if self.loose and re.match(self.loose, word)]
        rest = self.rewrite([word for word in words if word not in loose])
        positionals, settings = parse_command(f"pretint {self.name}", self.about, self.kind, self.positionals, rest)
        if loose:
            positionals[-1] = [*loose, *positionals[-1]]
        if self.check:
            self.check(positionals, settings)
        return Call(self, positionals, settings, shlex.join(["pretint", *self.name.split(), *words]))


class Call(NamedTuple):
    """A command with its arguments."""

    command: Command
    positionals: list[Any]
    settings: Any
    line: str
    """The command line, for people: as it was typed, or ``line_of``."""

    @property
    def plain(self) -> "PlainCall":
        """The call as plain values; settings that are the defaults are left out."""
        return {
            "command": self.command.name,
            "positionals": to_plain(self.positionals),
            "settings": roles.changed(self.settings),
            "line": self.line,
        }


PlainCall = dict[str, Any]
"""A call as plain values: command, positionals, settings and line. Settings that it does not have are the defaults."""


def line_of(command: Command, positionals: Sequence[Any], settings: Any, config: str = "", base: Any = None) -> str:
    """Return a command line that has these arguments.

    Args:
        command: the command.
        positionals: its positional arguments.
        settings: its settings.
        config: a file of settings that the line may name.
        base: the settings in that file.
    """
    words = [str(word) for value in positionals for word in (value if isinstance(value, list) else [value])]
    files = ["--config", config] if config else []
    values = roles.select(settings, base=command.kind() if base is None else base)
    options = (
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in flatten(values, command.kind).items()
    )
    return shlex.join(["pretint", *command.name.split(), *words, *files, *options])


def call_of(plain: PlainCall, where: str) -> Call:
    """Return the call that ``Call.plain`` described.

    Args:
        plain: the plain values; settings that a later version has added get their defaults.
        where: the origin of the values, for error messages.

    Raises:
        UserError: there is no such command, or an argument or a setting is wrong.
    """
    try:
        command, rest = find_command(plain["command"].split())
        values, line = plain["positionals"], str(plain["line"])
        if rest or command.name == "finetune" or len(values) != len(command.positionals):
            raise TypeError
        positionals = [one.convert(value) for one, value in zip(command.positionals, values, strict=True)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{where}: not a call of this version of Pretint; send or run the command again") from error
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return Call(command, positionals, settings_from(command.kind, plain.get("settings"), where), line)


_FORMAT = "pretint call 1"
_BYTES = 2**24  # of a call file


def seal_call(plain: PlainCall) -> bytes:
    """Return a call file: the call as JSON, with a digest."""
    from pretext.store import seal

    return seal({"format": _FORMAT, **plain})


def read_call(file: Path) -> Call:
    """Read a call file.

    Raises:
        UserError: it cannot be read, was changed since it was written, is not a call of this version, or an input is
            missing.
    """
    from pretext.store import unseal

    try:
        with file.open("rb") as opened:
            plain = unseal(opened.read(_BYTES))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: damaged, or changed by hand; send or run the command again") from error
    if plain.pop("format", None) != _FORMAT:
        raise UserError(f"{file}: not a call of this version of Pretint; send or run the command again")
    call = call_of(plain, str(file))
    if call.command.check:
        call.command.check(call.positionals, call.settings)
    return call


def load(name: str) -> Any:
    """Return what MODULE:NAME names; its module is imported only now, because torch takes seconds."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _merge_tests(words: Sequence[str]) -> list[str]:
    """Merge ``--test A=a --test B=b`` into one mapping, as the settings need it; a single test set needs no name.

    Raises:
        UserError: one of several has no name, or two have the same.
    """
    rest: list[str] = []
    tests: list[str] = []
    for before, word in pairwise(["", *words]):
        if before == "--test":
            tests.append(word)
        elif word.startswith("--test="):
            tests.append(word.removeprefix("--test="))
        elif word != "--test":
            rest.append(word)
    named = {match[1]: match[2] for test in tests if (match := re.fullmatch(r"([\w.-]+)=(.+)", test))}
    if words[-1:] == ["--test"] or (len(tests) < 2 and not (named and not Path(tests[0]).exists())):
        return list(words)
    if len(named) < len(tests):
        raise UserError("several test sets need a name each: --test plain=FOLDER --test fog=FOLDER")
    return [*rest, f"--test={json.dumps(named)}"]


def _require_labeled(_: list[Any], settings: Any) -> None:
    load("transfer.targets:require_named")(settings.train, settings.test)


RUN = Positional("run", "directory of the run")
NETWORKS = Positional(
    "networks", "runs, checkpoints, random:RUN, random:BACKBONE, timm:MODEL[:FILE]", nargs="+", kind=str
)
START = Positional("networks", "as for probe; rescaled:NETWORK is rescaled to the images first", nargs="+", kind=str)

_COMMANDS = (
    Command(
        "pretrain", "learn", "Learn features from unlabeled images, by colorization.",
        (RUN,),
        "pretext.recipe:PretrainSettings",
        lambda words, settings: load("pretext.recipe:resolve_source")(words[0], settings),
        writes=0, in_processes=True,
    ),
    Command(
        "plan", "learn", "Estimate the cost of a pretraining on this machine: memory, speed, time, disk.",
        (Positional("recipe", "a YAML file of settings; options win over it", recipe=True),),
        "pretext.recipe:PretrainSettings", lambda _, settings: load("pretext.recipe:require_source")(settings),
    ),
    Command(
        "demo", "learn", "Pretrain, color and probe on bundled photographs, in minutes, and show the commands for it.",
        (Positional("run", "directory of the run (default: runs/demo)", nargs="?"),),
    ),
    Command(
        "report", "learn", "Write the report of a run, or of a study: an HTML file with its numbers, curves, images "
        "and settings.",
        (Positional("run", "directory of a run, or of a study"),),
    ),
    Command(
        "replay", "learn", "Compute the step at which the loss of a run became NaN again, and show where the first "
        "NaN occurs.",
        (Positional("evidence", "RUN/nonfinite/STEP: the folder that the run printed when it stopped"),),
        "pretext.replay:ReplaySettings",
    ),
    Command(
        "import", "learn", "Make a run from published colorization weights: ECCV16, SIGGRAPH17, VISSL AlexNet or "
        "ResNet-50.",
        (Positional("file", "the weights: .pth, .torch or .safetensors"), Positional("run", "a new folder")),
        "pretext.weights.importer:ImportSettings",
    ),
    Command(
        "export", "learn", "Export a trained network for other programs: safetensors, plain timm or torchvision, ONNX.",
        (
            Positional("model", "a run, or a checkpoint file"),
            Positional("file", "a new file: .onnx for that format, else .safetensors"),
        ),
        "pretext.weights.exporter:ExportSettings",
    ),
    Command(
        "probe", "judge", "Fit linear classifiers on every stage of frozen networks, and of the same networks at "
        "random weights.",
        (NETWORKS,), "transfer.probes.linear:ProbeSettings", _require_labeled, evaluates=True, rewrite=_merge_tests,
    ),
    Command(
        "knn", "judge", "Evaluate every stage of frozen networks by the nearest neighbors of the test images.",
        (NETWORKS,), "transfer.probes.knn:KnnSettings", _require_labeled, evaluates=True, rewrite=_merge_tests,
    ),
    Command(
        "svm", "judge", "Fit a linear SVM per class on every stage of frozen networks, as in Goyal et al. 2019.",
        (NETWORKS,), "transfer.probes.svm:SvmSettings", _require_labeled, evaluates=True, rewrite=_merge_tests,
    ),
    Command(
        "finetune", "judge", "Fine-tune networks on PASCAL VOC, whole or frozen up to a stage: finetune classify, "
        "detect or segment.",
        (START,), in_processes=True, evaluates=True,  # its settings are those of the task
    ),
    Command(
        "compare", "judge", "Test whether networks differ from the first one, by their results of probe, knn, svm or "
        "finetune.",
        (Positional("networks", "a run, result files, ...; several seeds with commas", nargs="+", kind=str),),
        "transfer.compare:CompareSettings",
    ),
    Command(
        "table", "judge", "Show results of probe, knn, svm and finetune as tables; as CSV, Markdown or LaTeX with "
        "--format.",
        (Positional("results", "runs, result files, and folders of them", nargs="+"),),
        "transfer.table:TableSettings",
    ),
    Command(
        "study", "judge", "Run a study: pretrainings and evaluations from one file, here or on a cluster, and one "
        "table.",
        (
            Positional("file", "the study: a YAML file, such as configs/study/ablation_small.yaml"),
            Positional("places", "PLACE=FOLDER, for the places in the file", nargs="*", kind=str),
        ),
        "pretint.study.file:StudyOptions", sendable=False, loose=r"\w+=",
    ),
    Command(
        "embed", "use", "Write a vector for each image of a dataset to a file: .parquet, .npz or .safetensors.",
        (
            Positional("network", "a run, a checkpoint, timm:MODEL[:FILE], random:RUN, ...", kind=str),
            Positional("dataset", "images: a folder, tar shards, ..., with labels or without", kind=str),
        ),
        "transfer.embed:EmbedSettings", lambda _, settings: load("transfer.embed:require_out")(settings),
    ),
    Command(
        "explore", "use", "Write a page of embeddings: a map, neighbors, near duplicates, outliers, doubtful labels.",
        (Positional("files", "files that embed wrote, with one network", nargs="+", kind=str),),
        "transfer.explore:ExploreSettings",
    ),
    Command(
        "predict", "use", "Write what a fine-tuned network finds in images: classes, boxes or masks.",
        (
            Positional("model", "a folder of finetune, RUN/finetuned/NAME, or its model.safetensors", kind=str),
            Positional("dataset", "images: a folder, tar shards, ...", kind=str),
        ),
        "transfer.predict:PredictSettings", lambda _, settings: load("transfer.predict:require_out")(settings),
    ),
    Command(
        "colorize", "color", "Color photographs, and show them side by side: gray, colored, original.",
        (
            Positional(
                "model", "a run, a checkpoint, exported weights, published ones of ECCV16 or SIGGRAPH17; "
                "reference:IMAGE; scribbles", kind=str,
            ),
            Positional("images", "image files, folders of them, patterns; - is standard input", nargs="*"),
        ),
        "pretint.colorization.job:ColorizeSettings",
        lambda words, _: load("pretint.colorization.job:require_images")(*words),
    ),
    Command(
        "score", "color", "Score the colors of networks on images, beside gray, random colors and the true colors.",
        (Positional("models", "runs, checkpoints, RUN@hints=10, gray, random, truth", nargs="+", kind=str),),
        "pretint.colorization.scores.job:ScoreSettings",
        lambda _, settings: load("pretint.colorization.scores.job:require_images")(settings),
        evaluates=True,
    ),
    Command(
        "studio", "color", "Color photographs on a local web page: temperature, saturation, hints; nothing leaves "
        "this machine.",
        (Positional("model", "a run, a checkpoint, exported or published weights; or scribbles", kind=str),),
        "pretint.apps.studio.serve:StudioSettings",
    ),
    Command(
        "turing", "color", "Ask people which of two images is fake, on a web page, and show how often each algorithm "
        "fools them.",
        (Positional("study", "folder of the study; made if it does not exist"),),
        "pretint.apps.turing.design:TuringSettings",
        rewrite=lambda words: load("pretint.apps.turing.design:merge_algorithms")(words),
    ),
    Command(
        "pack", "scale", "Pack images into tar shards at a shorter side of 256 pixels: small, and quick to read.",
        (Positional("source", "images: a folder, tar shards, ...", kind=str), Positional("dest", "folder of shards")),
        "pretext.data.pack:PackSettings", writes=1,
    ),
    Command(
        "submit", "scale", "Send a command, or a list of them, to a cluster: submit --on CLUSTER.yaml COMMAND ...",
        (), "slurm.job_list:SubmitSettings", sendable=False,
    ),
    Command(
        "jobs", "scale", "Show the jobs that were sent: their states, nodes, progress and errors. jobs cancel NAME "
        "... cancels jobs.",
        (Positional("names", "names of jobs, or their numbers; all jobs if none is given", nargs="*", kind=str),),
        "slurm.states:JobsSettings", sendable=False,
    ),
    Command(
        "run", "scale", "Run a call file: a command with all its settings, as submit and study write it.",
        (Positional("file", "the call file, such as jobs/.given/NAME-DIGEST.json"),), sendable=False,
    ),
)  # fmt: skip
COMMANDS = {command.name: command for command in _COMMANDS}
"""The commands by name."""


def evaluations() -> dict[str, Command]:
    """Return the commands that evaluate networks, by name; of finetune, those of its tasks."""
    named = {name: command for name, command in COMMANDS.items() if command.evaluates and name != "finetune"}
    return named | {task.name: task for task in tasks().values()}


def tasks() -> dict[str, Command]:
    """Return the commands of fine-tuning, by task."""
    from transfer.tasks.registry import TASKS, require_sources

    finetune = COMMANDS["finetune"]._replace(check=lambda _, settings: require_sources(settings))
    return {
        name: finetune._replace(name=f"finetune {name}", about=kind.about, settings=kind.settings)
        for name, kind in TASKS.items()
    }


def find_command(words: Sequence[str]) -> tuple[Command, Sequence[str]]:
    """Return the command that words begin with, and the words after its name.

    Raises:
        UserError: there is no such command, or no such task of finetune.
    """
    name, *rest = words
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        raise UserError(f"no command is called {name}; {f'did you mean {near[0]}?' if near else 'see pretint --help'}")
    if name != "finetune" or not rest or rest[0] in ("-h", "--help"):
        return COMMANDS[name], rest
    task, *rest = rest
    known = tasks()
    if task not in known:
        near = get_close_matches(task, known, n=1)
        *others, last = known
        hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(others)} or {last}"
        raise UserError(f"no task is called {task}; {hint}")
    return known[task], rest
