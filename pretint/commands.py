"""The commands as data: what each is for, its settings and positional arguments, and what must be checked.

The command line, studies and clusters read this table. A command's settings are imported when its words are parsed, and
its job when it runs: torch takes seconds, and ``--help`` must not wait for it.
"""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple

from pretext.errors import UserError
from pretext.settings import Positional, parse_command

GROUPS = {
    "learn": "Learn",
    "judge": "Judge",
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
    """What people want of it: learn, judge, color or scale."""
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
    rewrite: Callable[[Sequence[str]], Sequence[str]] = list
    """Changes its words before they are parsed."""

    @property
    def kind(self) -> type[Any]:
        """The dataclass of its settings."""
        if isinstance(self.settings, str):
            module, _, name = self.settings.partition(":")
            kind: type[Any] = getattr(import_module(module), name)
            return kind
        return self.settings

    def parse(self, words: Sequence[str]) -> "Call":
        """Return its arguments.

        Raises:
            UserError: an argument is wrong.
            SystemExit: an argument requested help, which was printed.
        """
        positionals, settings = parse_command(
            f"pretint {self.name}", self.about, self.kind, self.positionals, self.rewrite(words)
        )
        if self.check:
            self.check(positionals, settings)
        return Call(self, words, positionals, settings)


class Call(NamedTuple):
    """A command with its arguments."""

    command: Command
    words: Sequence[str]
    """As they were typed, after the command's name."""
    positionals: list[Any]
    settings: Any

    @property
    def line(self) -> str:
        """The command line, for a shell."""
        return shlex.join(["pretint", *self.command.name.split(), *self.words])


def _resolve_source(positionals: list[Any], settings: Any) -> None:
    from pretext.recipe import resolve_source

    resolve_source(positionals[0], settings)


def _require_source(_: list[Any], settings: Any) -> None:
    from pretext.recipe import require_source

    require_source(settings)


def _require_labeled(_: list[Any], settings: Any) -> None:
    from transfer.targets import require_named

    require_named(settings.train, settings.test)


def _require_task_sources(_: list[Any], settings: Any) -> None:
    from transfer.tasks.registry import require_sources

    require_sources(settings)


def _require_photographs(positionals: list[Any], _: Any) -> None:
    from pretint.colorization.job import require_images

    require_images(*positionals)


def _require_scored(_: list[Any], settings: Any) -> None:
    from pretint.colorization.scores.job import require_images

    require_images(settings)


def _merge_algorithms(words: Sequence[str]) -> Sequence[str]:
    from pretint.apps.turing.design import merge_algorithms

    return merge_algorithms(words)


def places(words: Sequence[str]) -> list[str]:
    """Return the words PLACE=FOLDER of a study, which may stand anywhere, like options."""
    return [word for word in words if re.match(r"\w+=", word)]


def _without_places(words: Sequence[str]) -> Sequence[str]:
    return [word for word in words if word not in places(words)]


RUN = Positional("run", "directory of the run")
NETWORKS = Positional(
    "networks", "runs, checkpoints, random:RUN, random:BACKBONE, timm:MODEL[:FILE]", nargs="+", kind=str
)
START = Positional("networks", "as for probe; rescaled:NETWORK is rescaled to the images first", nargs="+", kind=str)

_COMMANDS = (
    Command(
        "pretrain", "learn", "Learn features from unlabeled images, by colorization.",
        (RUN,),
        "pretext.recipe:PretrainSettings", _resolve_source, writes=0, in_processes=True,
    ),
    Command(
        "plan", "learn", "Estimate the cost of a pretraining on this machine: memory, speed, time, disk.",
        (Positional("recipe", "a YAML file of settings; options win over it", recipe=True),),
        "pretext.recipe:PretrainSettings", _require_source,
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
        (NETWORKS,), "transfer.probes.linear:ProbeSettings", _require_labeled,
    ),
    Command(
        "knn", "judge", "Evaluate every stage of frozen networks by the nearest neighbors of the test images.",
        (NETWORKS,), "transfer.probes.knn:KnnSettings", _require_labeled,
    ),
    Command(
        "svm", "judge", "Fit a linear SVM per class on every stage of frozen networks, as in Goyal et al. 2019.",
        (NETWORKS,), "transfer.probes.svm:SvmSettings", _require_labeled,
    ),
    Command(
        "finetune", "judge", "Fine-tune networks on PASCAL VOC, whole or frozen up to a stage: finetune classify, "
        "detect or segment.",
        (START,), in_processes=True,  # its settings are those of the task
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
        "pretint.study.file:StudyOptions", rewrite=_without_places,
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
        "pretint.colorization.job:ColorizeSettings", _require_photographs,
    ),
    Command(
        "score", "color", "Score the colors of networks on images, beside gray, random colors and the true colors.",
        (Positional("models", "runs, checkpoints, RUN@hints=10, gray, random, truth", nargs="+", kind=str),),
        "pretint.colorization.scores.job:ScoreSettings", _require_scored,
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
        "pretint.apps.turing.design:TuringSettings", rewrite=_merge_algorithms,
    ),
    Command(
        "pack", "scale", "Pack images into tar shards at a shorter side of 256 pixels: small, and quick to read.",
        (Positional("source", "images: a folder, tar shards, ...", kind=str), Positional("dest", "folder of shards")),
        "pretext.data.pack:PackSettings", writes=1,
    ),
    Command(
        "submit", "scale", "Send a command, or a list of them, to a cluster: submit --on CLUSTER.yaml COMMAND ...",
        (), "slurm.job_list:SubmitSettings",
    ),
    Command(
        "jobs", "scale", "Show the jobs that were sent: their states, nodes, progress and errors. jobs cancel NAME "
        "... cancels jobs.",
        (Positional("names", "names of jobs, or their numbers; all jobs if none is given", nargs="*", kind=str),),
        "slurm.states:JobsSettings",
    ),
)  # fmt: skip
COMMANDS = {command.name: command for command in _COMMANDS}
"""The commands by name."""
NOT_SENT = ("study", "submit", "jobs")
"""Commands that cannot be sent to a cluster."""


def tasks() -> dict[str, Command]:
    """Return the commands of fine-tuning, by task."""
    from transfer.tasks.registry import TASKS

    return {
        name: COMMANDS["finetune"]._replace(
            name=f"finetune {name}", about=kind.about, settings=kind.settings, check=_require_task_sources
        )
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
