"""The commands submit and jobs: they send other commands to a cluster, and show the jobs."""

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
from pretext.settings import parse_command, settings_file, settings_from, to_plain
from pretext.yaml_reader import read_yaml
from pretint.cli.output import LISTED, say
from pretint.commands import COMMANDS, Call, PlainCall, find_command, seal_call

if TYPE_CHECKING:
    from pretext.disk_usage import DiskUsage
    from slurm import ClusterSettings, Job
    from slurm.job_list import JobEntry, SubmitSettings


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """Turn errors of slurm/, and a missing package, into a ``UserError``."""
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
    """Send a command, or a list of them, to a cluster."""
    from slurm import ClusterSettings
    from slurm import submit as job
    from slurm.job_list import JobEntry, SubmitSettings, split_words

    sendable = [name for name, command in COMMANDS.items() if command.sendable]
    options, words = split_words(arguments, sendable, ("again", "dry_run"))
    for at, word in enumerate(options):
        if word == "--on" and at + 1 < len(options):  # checked separately: the file may not hold --name, --jobs, ...
            settings_file(ClusterSettings, Path(options[at + 1]))
    about = f"{COMMANDS['submit'].about} Options of submit come before the command, those of the command after it."
    _, settings = parse_command("pretint submit", about, SubmitSettings, [], options, "--on")
    if bool(words) == bool(settings.jobs):
        raise UserError("give either a command to submit, such as pretrain runs/x, or --jobs FILE")
    if settings.jobs and (settings.name or settings.after):
        raise UserError("--name and --after are for a single command; in a list every job has its own")
    single = JobEntry(settings.name, after=[*settings.after])
    entries = _read_list(settings.jobs) if settings.jobs else [(single, words)]
    calls = [_parse(words, entry.name, bool(settings.jobs)) for entry, words in entries]
    plugins = copy_plugins(settings.folder, not settings.dry_run)
    jobs = [
        make_job(call.plain, entry.name or _name_of(call), settings.cluster, entry.after, entry.ask, plugins)
        for (entry, _), call in zip(entries, calls, strict=True)
    ]
    if settings.dry_run:
        return _dry_run(jobs, settings, {job.name: call for job, call in zip(jobs, calls, strict=True)})
    done = job(jobs, settings.folder, settings.again)
    say(*(f"{name}: {why}" for name, why in done.skipped))
    if settings.executor == "debug":
        return 0
    say(*(f"{sent.name}: job {sent.id}, log {sent.log}" for sent in done.sent[:LISTED]))
    if len(done.sent) > LISTED:
        say(f"and {len(done.sent) - LISTED} more")
    folder = [] if settings.folder == SubmitSettings().folder else ["--folder", str(settings.folder)]
    say(f"see how far they are: {shlex.join(['pretint', 'jobs', *folder])}")
    return 0


@cluster()
def jobs(arguments: Sequence[str]) -> int:
    """Show the jobs that were sent, or cancel some."""
    from slurm import ClusterError, cancel, states
    from slurm.states import format_states

    stop = list(arguments[:1]) == ["cancel"]
    call = COMMANDS["jobs"].parse(arguments[stop:])
    (names,), settings = call.positionals, call.settings
    if stop and not names:
        raise UserError("cancel: no job is named; give names or numbers, or all")
    if stop:
        say(*(f"{state.sent.name}: job {state.sent.id} canceled" for state in cancel(settings.folder, names)))
        return 0
    try:
        say(*format_states(states(settings.folder), names, settings))
    except ClusterError:  # the records alone are better than nothing
        say(*format_states(states(settings.folder, ask=False), names, settings))
        raise
    return 0


def _dry_run(jobs: "Sequence[Job]", settings: "SubmitSettings", calls: Mapping[str, Call]) -> int:
    """Print the jobs that would be sent, and their cost."""
    from pretext.disk_usage import pretrain_disk
    from pretext.plan import size
    from pretext.recipe import resolve_source
    from slurm.submit_job import describe_unchecked, require_sendable, script
    from transfer.disk_usage import finetune_disk, knn_disk, probe_disk, svm_disk

    skipped = dict(require_sendable(jobs, settings.folder, settings.again))
    sent = [job for job in jobs if job.name not in skipped]
    for requested in dict.fromkeys(str(job.asked) for job in sent):
        alike = [job for job in sent if str(job.asked) == requested]
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
        f"GPU-hours: at most {hours:,.1f} until the time limits; a job that takes longer continues in another piece",
    )
    known: list[DiskUsage] = []
    unknown: dict[str, str] = {}
    for job in sent:
        command, positionals, job_settings, _ = calls[job.name]
        try:
            if command.name == "pretrain":
                known.append(pretrain_disk(resolve_source(positionals[0], job_settings)))
            elif command.name.startswith("finetune "):
                known.append(finetune_disk(command.name.split()[1], positionals[0], job_settings))
            elif estimate := {"probe": probe_disk, "knn": knn_disk, "svm": svm_disk}.get(command.name):
                known.append(estimate(positionals[0], job_settings))  # type: ignore[operator]
            else:
                unknown[command.name] = "not known beforehand"
        except UserError as error:  # images that only the nodes see, a run that another job will make
            unknown[job.name] = str(error)
    passing = sum(disk.passing for disk in known)
    more = f", and {size(passing)} more for a short time" if passing else ""
    if known:
        say(f"disk: {size(sum(disk.lasting for disk in known))}{more}")
        say(*dict.fromkeys(f"  {note}" for disk in known for note in disk.notes))
    say(*(f"disk of {name}: {why}" for name, why in unknown.items()))
    return 0


def _read_list(file: str) -> "list[tuple[JobEntry, list[str]]]":
    """Return the jobs of a list, each with the words of its command."""
    from slurm.job_list import JobEntry

    values = read_yaml(Path(file))
    if not isinstance(values, list) or not values:
        raise UserError(f"{file}: holds no list of jobs; write '- name: ...' and 'command: ...' for each")
    entries = []
    for number, value in enumerate(values, 1):
        where = f"{file}: job {number}"
        entry = settings_from(JobEntry, value, where)
        try:
            words = shlex.split(entry.command)
        except ValueError as error:
            raise UserError(f"{where}: command: {error}") from error
        words = words[1:] if words[:1] == ["pretint"] else words
        if not entry.name or not words:
            raise UserError(f"{where}: needs a name and a command")
        entries.append((entry, words))
    return entries


def _parse(words: Sequence[str], name: str, in_list: bool) -> Call:
    """Return a job's command with its arguments; a mistake in them is an error now."""
    if words[0] not in COMMANDS or not COMMANDS[words[0]].sendable:
        raise UserError(f"{name or words[0]}: {words[0]} is not a command that can be sent")
    try:
        command, rest = find_command(words)
        if command.name == "finetune":
            raise SystemExit
        return command.parse(rest)
    except UserError as error:
        raise UserError(f"{name}: {error}" if in_list else str(error)) from error
    except SystemExit as shown:
        raise UserError(f"{name or words[0]}: this command only prints help; there is nothing to send") from shown


def _name_of(call: Call) -> str:
    """Return a name for a job, made from its command and its first argument."""
    first = next((str(one[0] if isinstance(one, list) else one) for one in call.positionals if one), "")
    words = [*call.command.name.split(), Path(first).name or first]
    return "-".join(filter(None, (re.sub(r"[^\w.+%@]+", "-", word).strip("-.") for word in words)))[:100]


def copy_plugins(folder: Path, keep: bool = True) -> dict[str, str]:
    """Copy the plugins into a folder of jobs, so that editing one later does not change a job.

    Returns:
        The environment variable that names the copies; empty without plugins.
    """
    from slurm.snapshot import freeze_file

    plugins = [Path(name) for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]
    return {VARIABLE: os.pathsep.join(str(freeze_file(plugin, folder, keep)) for plugin in plugins)} if plugins else {}


def make_job(
    plain: PlainCall,
    name: str,
    requested: "ClusterSettings",
    after: "Sequence[str | int] | str | int" = (),
    ask: Mapping[str, Any] | None = None,
    plugins: Mapping[str, str] | None = None,
) -> "Job":
    """Return a job to send.

    Args:
        plain: its call.
        name: its name.
        requested: settings of the cluster.
        after: names or numbers of the jobs that must be complete before.
        ask: settings of the cluster that this job changes.
        plugins: see ``copy_plugins``.

    Raises:
        UserError: ``ask`` has a mistake.
    """
    from pretext.store import key_of
    from slurm import ClusterSettings, Job

    command = find_command(plain["command"].split())[0]
    if ask:
        requested = settings_from(ClusterSettings, {**to_plain(requested), **ask}, f"{name}: ask")
    if not command.in_processes:
        requested = requested.of_one_task
    requested = replace(requested, environment={**(plugins or {}), **requested.environment})
    claims = "" if command.writes is None else str(Path(plain["positionals"][command.writes]).resolve())
    identity = key_of({key: value for key, value in plain.items() if key != "line"})
    names = map(str, [after] if isinstance(after, (str, int)) else after)
    return Job(seal_call(plain), plain["line"], identity, name, requested, tuple(names), claims)
