"""Jobs on their way to the cluster: what they ask for is checked, their code is kept, submitit sends them."""

import contextlib
import dataclasses
import fcntl
import io
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import submitit

from slurm import queue, sbatch
from slurm.cluster import ClusterError, ClusterSettings
from slurm.local import local_executor, run_here
from slurm.records import LOGS, Sent, write_sent
from slurm.runner import Runner
from slurm.snapshot import frozen_words, snapshot
from slurm.states import State, is_held, states


@dataclass(frozen=True)
class Job:
    """A job to be sent.

    Args:
        words: a command and what belongs to it, as after ``pretint``: ("pretrain", "runs/x", "--seed", "1").
        name: by which it is shown, canceled, and waited for; no two live jobs of a folder share one.
        after: names of jobs, or numbers of Slurm's, that must be complete before it starts.
        asked: what it asks of the cluster.
        claims: what it alone may write to, if anything: a run.
    """

    words: tuple[str, ...]
    name: str
    asked: ClusterSettings
    after: tuple[str, ...] = ()
    claims: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z][\w.+%@-]{0,99}", self.name):
            raise ClusterError(f"name {self.name!r}: take letters, digits and ._+%@- (at most 100), a letter first")
        if self.name == "all":
            raise ClusterError("name 'all': take another, jobs cancel all means every job")
        if any("\0" in word for word in self.words):
            raise ClusterError(f"{self.name}: its command holds the character 0, which no command can")


class Submission(NamedTuple):
    """What was done with the jobs of one call."""

    sent: list[Sent]
    skipped: list[tuple[str, str]]
    """Names of those that need not be sent, and why."""


class _Group(NamedTuple):
    """Jobs that ask for the same and wait for the same: an array, if there are several."""

    jobs: list[Job]
    after: tuple[str, ...]


@dataclass
class _Plan:
    """What is to be sent."""

    wanted: list[Job]
    known: dict[str, State]
    """The newest job of each name that is in the folder already."""
    skipped: list[tuple[str, str]] = field(default_factory=list)


def submit(jobs: Sequence[Job], folder: Path, again: bool = False) -> Submission:
    """Send jobs; those that are complete or in the queue already are left out.

    All are checked before the first is sent. Jobs that ask for the same and wait for the same are sent as one array.

    Args:
        jobs: each after those that it waits for.
        folder: of the jobs' records and logs, on a disk that the cluster sees.
        again: send also what is complete.

    Raises:
        ClusterError: a mistake in what is asked, Slurm is not here or refuses it.
    """
    with _alone(folder):
        done = _submit(jobs, folder, again)
    for one in done.sent:
        if one.executor == "debug":
            write_sent(one)  # not before: nobody is to wait for what has not begun
            run_here(one)
    return done


def _submit(jobs: Sequence[Job], folder: Path, again: bool) -> Submission:
    if _on_slurm(jobs):
        queue.require_slurm()
    plan = _plan(jobs, folder, again, keep=True)
    if not plan.wanted:
        return Submission([], plan.skipped)
    code = snapshot(folder.resolve())
    _require_taken(plan.wanted, folder, code)
    numbers = {name: state.sent.id for name, state in plan.known.items() if state.live}
    done = {name for name, state in plan.known.items() if state.word == "complete"} - {job.name for job in plan.wanted}
    sent: list[Sent] = []
    left = list(plan.wanted)
    while left:
        waiting = {job.name for job in left}
        ready = [job for job in left if not waiting & set(job.after)]
        assert ready, "a job waits only for those before it"
        for group in _groups(ready, numbers, done):
            try:
                new = _send(group, folder, code)
            except ClusterError as error:
                so_far = (
                    f"; {len(sent)} of {len(plan.wanted)} jobs were sent, the same call sends the others"
                    if sent
                    else ""
                )
                raise ClusterError(f"{error}{so_far}") from error
            numbers |= {one.name: one.id for one in new}
            sent += new
        left = [job for job in left if job not in ready]
    return Submission(sent, plan.skipped)


def script(job: Job, folder: Path) -> str:
    """The sbatch file by which a job would be sent."""
    after = [name if re.fullmatch(r"\d+(_\d+)?", name) else f"NUMBER-OF-{name}" for name in job.after]
    return sbatch.script(job.asked, job.name, after, folder, folder.resolve() / ".code" / "DIGEST-OF-THE-CODE")


def require_sendable(jobs: Sequence[Job], folder: Path, again: bool = False) -> list[tuple[str, str]]:
    """All checks of ``submit``, and nothing sent; which jobs would be left out, and why. Raises as it does.

    Where Slurm's commands are missing, what they would answer is not checked: see ``describe_unchecked``.
    """
    _require_folder(folder)
    if describe_unchecked(jobs):
        return _plan(jobs, folder, again, keep=False, ask=False).skipped
    plan = _plan(jobs, folder, again, keep=False)
    with tempfile.TemporaryDirectory() as scratch:
        _require_taken(plan.wanted, Path(scratch), Path(scratch))
    return plan.skipped


def describe_unchecked(jobs: Sequence[Job]) -> str:
    """Return a line that says what of the jobs only a cluster can check; empty where Slurm's commands are."""
    command = queue.missing_command() if _on_slurm(jobs) else ""
    return (
        f"not checked, as {command} is not on this machine: partition, account, QoS, constraint, limits of time and "
        "memory, and which jobs are in the queue"
        if command
        else ""
    )


def _on_slurm(jobs: Sequence[Job]) -> bool:
    return any(job.asked.executor == "slurm" for job in jobs)


def _require_taken(jobs: Sequence[Job], folder: Path, code: Path) -> None:
    for job in {str(asdict(job.asked)): job for job in reversed(jobs) if job.asked.executor == "slurm"}.values():
        sbatch.require_taken(job.asked, job.name, folder, code)


def _plan(jobs: Sequence[Job], folder: Path, again: bool, keep: bool, ask: bool = True) -> _Plan:
    """What of the jobs is to be sent.

    Args:
        jobs: of one call.
        folder: of the jobs.
        again: send also what is complete.
        keep: whether files that a job needs are copied now.
        ask: whether Slurm is asked; else only what this machine knows is checked.
    """
    names: set[str] = set()
    for job in jobs:
        if job.asked.executor != jobs[0].asked.executor:
            raise ClusterError("executor: jobs of one list go to one place")
        if job.asked.executor != "slurm" and job.after:
            raise ClusterError(f"{job.name}: after needs executor slurm; on this machine start one job after the other")
        if job.name in names:
            raise ClusterError(f"{job.name}: two jobs of the list have this name")
        names.add(job.name)
    for asked in {str(asdict(job.asked)): job.asked for job in jobs if ask and job.asked.executor == "slurm"}.values():
        queue.require_place(asked)
    plan = _Plan([], {state.sent.name: state for state in states(folder, ask)})  # the newest of a name stays
    live = [state for state in plan.known.values() if state.live]
    seen: set[str] = set()
    where = str(Path.cwd())
    for job in jobs:
        words = frozen_words(job.words, folder, keep)
        known = plan.known.get(job.name)
        same = known is not None and known.sent.identity == (where, words)
        if known and known.live:
            if not same:
                raise ClusterError(f"{job.name}: job {known.sent.id} in {folder} has this name; give another by --name")
            plan.skipped.append((job.name, f"in the queue already, as {known.sent.id}"))
        elif known and same and known.word == "complete" and not again and _there(job):
            plan.skipped.append((job.name, f"complete already, as {known.sent.id}; --again sends it again"))
        else:
            for one in live:
                if job.claims and one.sent.claims == job.claims:
                    raise ClusterError(f"{job.claims}: job {one.sent.id} ({one.sent.name}) works on this run")
                if one.sent.identity == (where, words):
                    raise ClusterError(f"{job.name}: job {one.sent.id} ({one.sent.name}) is of the very same command")
            if job.claims and is_held(Path(job.claims)):
                raise ClusterError(f"{job.claims}: a process that is no job works on this run; wait for it or stop it")
            plan.wanted.append(dataclasses.replace(job, words=words))
        for name in job.after:
            _require_before(job, name, seen, plan.known, folder, ask)
        seen.add(job.name)
    here = sum(one.sent.executor == "local" for one in live) + len(plan.wanted)
    for job in plan.wanted:
        if job.asked.executor == "local" and here > job.asked.at_once:
            raise ClusterError(
                f"executor local: {here} jobs would run at the same time, more than at_once, {job.asked.at_once}; "
                "send fewer, or raise it"
            )
    claims = [job.claims for job in plan.wanted if job.claims]
    for job in plan.wanted:
        if claims.count(job.claims) > 1:
            raise ClusterError(
                f"{job.claims}: two jobs of the list would work on this run; name another for one of them"
            )
    return plan


def _require_before(job: Job, name: str, seen: set[str], known: Mapping[str, State], folder: Path, ask: bool) -> None:
    if name in seen:
        return
    if name not in known and re.fullmatch(r"[1-9][0-9]{0,9}(_[0-9]+)?", name):
        if ask and not queue.queued([name]):
            raise ClusterError(f"{job.name}: waits for job {name}, which Slurm knows nothing of")
        return
    if name not in known:
        raise ClusterError(f"{job.name}: waits for {name}, but no job before it has that name, and none in {folder}")
    state = known[name]
    if not state.live and state.word != "complete":
        raise ClusterError(
            f"{job.name}: waits for {name}, job {state.sent.id}, which is {state.word}; send that again first"
        )


def _there(job: Job) -> bool:
    return not job.claims or Path(job.claims).exists()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else sends jobs of this folder meanwhile: two who check at the same time would both send."""
    _require_folder(folder)
    try:
        (folder / LOGS).mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except OSError as error:
        raise ClusterError(f"{folder}: cannot write logs there ({error.strerror}); name another --folder") from error
    with lock:
        with contextlib.suppress(OSError):  # a disk without locks: then it is up to the user
            fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def _require_folder(folder: Path) -> None:
    if folder == Path() or not str(folder).isprintable() or set("%\\") & set(str(folder.resolve())):
        raise ClusterError(f"folder {str(folder)!r}: Slurm cannot keep logs under such a name; name another --folder")
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ClusterError(f"{folder}: cannot write logs there ({error.strerror}); name another --folder") from error


@contextlib.contextmanager
def _undisturbed(executor: str) -> Iterator[None]:
    """Ctrl-C waits until what was sent is noted down: else nobody would know of it."""
    if threading.current_thread() is not threading.main_thread() or executor == "debug":
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda given, frame: came.append(given)) for number in numbers}
    # sbatch inherits this; a job on this machine must not.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers if executor == "slurm" else ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        for given in dict.fromkeys(came):
            signal.raise_signal(given)


def _groups(jobs: Sequence[Job], numbers: Mapping[str, str], done: set[str]) -> list[_Group]:
    found: dict[str, _Group] = {}
    for job in jobs:
        after = tuple(sorted({numbers.get(name, name) for name in job.after if name not in done or name in numbers}))
        group = found.setdefault(repr((after, asdict(job.asked))), _Group([], after))
        group.jobs.append(job)
    return list(found.values())


def _send(group: _Group, folder: Path, code: Path) -> list[Sent]:
    asked = group.jobs[0].asked
    with sbatch.clean_environment(asked, code), _undisturbed(asked.executor):
        runners = [Runner(job.words, asked.patience, asked.grace) for job in group.jobs]
        first, further = group.jobs[0].name, len(runners) - 1
        try:
            if asked.executor == "debug":
                numbers = [f"D{time.time_ns()}" for _ in runners]
            elif asked.executor == "local":
                local = local_executor(asked, folder, code)
                with _silent():
                    numbers = [local.submit(runner).job_id for runner in runners]
            else:
                name = f"{first}+{further}" if further else first
                executor = sbatch.slurm_executor(asked, name, group.after, folder, code)
                said = contextlib.redirect_stderr(io.StringIO())  # submitit says it once more
                with said, executor.batch() if further else contextlib.nullcontext():
                    made = [executor.submit(runner) for runner in runners]
                numbers = [one.job_id for one in made]
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise ClusterError(f"{first}: Slurm would not take it ({sbatch.complaint(str(error))})") from error
        return [_sent(job, str(number), group, folder, code) for job, number in zip(group.jobs, numbers, strict=True)]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """A process started now outlives this one: it must not keep its output open, which others may wait to end."""
    kept = [os.dup(number) for number in (1, 2)]
    nothing = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    try:
        for number in (1, 2):
            os.dup2(nothing, number)
        yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nothing)


def _sent(job: Job, number: str, group: _Group, folder: Path, code: Path) -> Sent:
    """Note down a job that was sent; of the foreground, when its turn comes."""
    sent = Sent(
        name=job.name,
        id=number,
        folder=str(folder.resolve() / number),
        words=job.words,
        where=str(Path.cwd()),
        claims=job.claims,
        after=group.after,
        executor=job.asked.executor,
        code=str(code),
        asked=asdict(job.asked),
        submitted=time.time(),
    )
    if sent.executor != "debug":
        write_sent(sent)
    return sent
