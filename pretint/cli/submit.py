"""The two commands that send others to a cluster, and show what became of them."""

import contextlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretext.errors import UserError
from pretext.plugins import VARIABLE
from pretext.settings import Positional, parse_command, plain, settings_file, settings_from
from pretext.yaml_reader import read_yaml
from pretint.cli.commands import COMMANDS
from pretint.cli.output import LISTED, say
from pretint.cli.parser import only_read, read, understood

if TYPE_CHECKING:
    from pretext.plan.disk import Disk
    from slurm import ClusterSettings, Job
    from slurm.words import Item, SubmitSettings

SHARED = ("pretrain", "finetune")
"""Commands that several processes can share."""


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """What slurm/ has to say to a user, said as all else is."""
    try:
        from slurm import ClusterError
    except ImportError as error:
        raise UserError(f"{error.name} is not installed, which jobs need: pip install 'pretint[slurm]'") from error
    try:
        yield
    except ClusterError as error:
        raise UserError(str(error)) from error


@cluster()
def submit(arguments: Sequence[str]) -> int:
    """Send a command, or a list of them, to a cluster: submit --on CLUSTER.yaml COMMAND ..."""
    from slurm import ClusterSettings
    from slurm import submit as job
    from slurm.words import Item, SubmitSettings, listed, split_words

    own, words = split_words(arguments, COMMANDS, ("again", "dry_run"))
    for at, word in enumerate(own):
        if word == "--on" and at + 1 < len(own):  # by itself: a file knows nothing of --name, --list and the like
            settings_file(ClusterSettings, Path(own[at + 1]))
    about = f"{submit.__doc__} Options of submit come before the command, those of the command after it."
    _, settings = understood(parse_command("pretint submit", about, SubmitSettings, [], own, "--on"))
    if bool(words) == bool(settings.jobs):
        raise UserError("give a command to submit, such as pretrain runs/x, or --jobs FILE; and not both")
    if settings.jobs and (settings.name or settings.after):
        raise UserError("--name and --after are of one command; in a list every job has its own")
    items = (
        listed(read_yaml(Path(settings.jobs)), settings.jobs)
        if settings.jobs
        else [Item(tuple(words), settings.name, tuple(settings.after), {})]
    )
    said = [_read_item(item, settings) for item in items]
    jobs = [_job(item, settings, *one) for item, one in zip(items, said, strict=True)]
    if settings.dry_run:
        return _rehearse(jobs, settings, {job.name: one for job, one in zip(jobs, said, strict=True)})
    done = job(jobs, settings.folder, settings.again)
    say(*(f"{name}: {why}" for name, why in done.skipped))
    if settings.executor == "debug":
        return 0
    say(*(f"{one.name}: job {one.id}, log {one.log}" for one in done.sent[:LISTED]))
    if len(done.sent) > LISTED:
        say(f"and {len(done.sent) - LISTED} more")
    elsewhere = [] if settings.folder == SubmitSettings().folder else ["--folder", str(settings.folder)]
    say(f"see how far they are: {shlex.join(['pretint', 'jobs', *elsewhere])}")
    return 0


@cluster()
def jobs(arguments: Sequence[str]) -> int:
    """Show the jobs that were sent: what runs, where, how far, what failed and why. jobs cancel NAME ... ends some."""
    from slurm import ClusterError, cancel, states
    from slurm.job_list import JobsSettings, lines

    words = Positional("names", "of jobs, or their numbers; all of them if none is given", nargs="*", kind=str)
    stop = list(arguments[:1]) == ["cancel"]
    (names,), settings = read(jobs, JobsSettings, [words], arguments[stop:])
    if stop and not names:
        raise UserError("cancel: which job? give names or numbers, or all")
    if stop:
        say(*(f"{one.sent.name}: job {one.sent.id} canceled" for one in cancel(settings.folder, names)))
        return 0
    try:
        say(*lines(states(settings.folder), names, settings))
    except ClusterError:  # what the records say is better than nothing
        say(*lines(states(settings.folder, ask=False), names, settings))
        raise
    return 0


def jobs_of(items: "Sequence[Item]", settings: "SubmitSettings") -> "list[Job]":
    """Jobs to send, of commands that are checked.

    Raises:
        UserError: a mistake in one of them.
    """
    return [_job(item, settings, *_read_item(item, settings)) for item in items]


def _rehearse(jobs: "Sequence[Job]", settings: "SubmitSettings", said: Mapping[str, tuple[list[Any], Any]]) -> int:
    """Show what would be sent, and what it would take."""
    from pretext.plan.job import size
    from slurm.submit_job import describe_unchecked, require_sendable, script

    skipped = dict(require_sendable(jobs, settings.folder, settings.again))
    sent = [job for job in jobs if job.name not in skipped]
    for asked in dict.fromkeys(str(job.asked) for job in sent):
        alike = [job for job in sent if str(job.asked) == asked]
        if alike[0].asked.executor == "slurm":
            more = f" and {len(alike) - 1} more that ask for the same" if len(alike) > 1 else ""
            text = script(alike[0], settings.folder).strip().expandtabs()
            say(f"# sbatch file of {alike[0].name}{more}", *text.split("\n"), "")
    if unchecked := describe_unchecked(jobs):
        say(unchecked)
    say(*(f"{name}: {why}" for name, why in skipped.items()))
    hours = sum(job.asked.gpu_hours for job in sent)
    say(
        f"jobs: {len(sent)}",
        f"GPU-hours: at most {hours:,.1f} until the time limits; a job that takes longer goes on in another piece",
    )
    known: list[Disk] = []
    unknown: dict[str, str] = {}
    for job in sent:
        try:
            disk = _disk(job.words, *said[job.name])
        except UserError as error:  # images that only the nodes see, a run that another job will make
            unknown[job.name] = str(error)
        else:
            known += [disk] if disk else []
            unknown |= {} if disk else {job.words[0]: "not known beforehand"}
    passing = sum(disk.passing for disk in known)
    more = f", and {size(passing)} more for moments" if passing else ""
    if known:
        say(f"disk: {size(sum(disk.lasting for disk in known))}{more}")
        say(*dict.fromkeys(f"  {note}" for disk in known for note in disk.notes))
    say(*(f"disk of {name}: {why}" for name, why in unknown.items()))
    return 0


def _disk(words: Sequence[str], positionals: list[Any], settings: Any) -> "Disk | None":
    """What a command will write to disk, where that is known.

    Raises:
        UserError: as the command itself would, of its images or networks.
    """
    from pretext.plan.disk import pretrain_disk
    from pretext.recipe import fill_source
    from transfer.disk_usage import finetune_disk, knn_disk, probe_disk, svm_disk

    if words[0] == "pretrain":
        return pretrain_disk(fill_source(positionals[0], settings))
    if words[0] == "finetune":
        return finetune_disk(words[1], positionals[0], settings)
    of = {"probe": probe_disk, "knn": knn_disk, "svm": svm_disk}.get(words[0])
    return of(positionals[0], settings) if of else None  # type: ignore[operator]


def _read_item(item: "Item", settings: "SubmitSettings") -> tuple[list[Any], Any]:
    """The positional arguments and settings of a job's command: a mistake in them is said before anything is sent."""
    name, *rest = item.words
    if name not in COMMANDS:
        raise UserError(f"{item.name or name}: {name} is no command that can be sent")
    try:
        return only_read(COMMANDS[name], rest)
    except UserError as error:
        raise UserError(f"{item.name}: {error}" if settings.jobs else str(error)) from error
    except SystemExit as shown:
        raise UserError(f"{item.name or name}: only shows help; there is nothing to send") from shown


def _job(item: "Item", settings: "SubmitSettings", positionals: list[Any], given: Any) -> "Job":
    """A job to send."""
    from slurm import ClusterSettings, Job

    name, *rest = item.words
    first = next((one[0] if isinstance(one, list) else one for one in positionals if one), "")
    written = {"pretrain": 0, "pack": 1}  # which of its words names what it alone may write to
    claims = str(Path(positionals[written[name]]).resolve()) if name in written else ""
    asked = settings.cluster
    if item.ask:
        asked = settings_from(ClusterSettings, {**plain(asked), **item.ask}, f"{item.name}: ask")
    if name not in SHARED:
        asked = asked.of_one_task
    asked = _with_plugins(asked, settings)
    return Job(tuple(item.words), item.name or _job_name(name, rest, str(first)), asked, item.after, claims)


def _with_plugins(asked: "ClusterSettings", settings: "SubmitSettings") -> "ClusterSettings":
    """With copies of the plugins in use: what is edited after a job was sent does not change the job."""
    from slurm.snapshot import frozen_file

    named = [Path(one) for one in os.environ.get(VARIABLE, "").split(os.pathsep) if one]
    if not named or VARIABLE in asked.environment:
        return asked
    copies = [str(frozen_file(one, settings.folder, not settings.dry_run)) for one in named]
    return replace(asked, environment={**asked.environment, VARIABLE: os.pathsep.join(copies)})


def _job_name(command: str, rest: Sequence[str], first: str) -> str:
    """Of a job without a name: its command, and what that is about."""
    words = [command, rest[0] if command == "finetune" and rest else "", Path(first).name or first]
    return "-".join(filter(None, (re.sub(r"[^\w.+%@]+", "-", word).strip("-.") for word in words)))[:100]
