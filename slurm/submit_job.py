"""Send jobs: check their requests, copy their code, and submit them with submitit."""

import contextlib
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

from slurm import executors, queue
from slurm.cluster import ClusterError, ClusterSettings
from slurm.records import LOGS, SentJob, write_sent
from slurm.runner import Runner
from slurm.snapshot import keep_file, snapshot
from slurm.states import JobState, is_held, states


@dataclass(frozen=True)
class Job:
    """A job to send.

    Args:
        call: the content of its call file, for ``pretint run FILE``.
        line: its command line, for people.
        identity: a digest of the command and its settings: the same if it is sent again.
        name: name of the job, unique among the live jobs of a folder; used to show, cancel and wait for it.
        after: names of jobs, or Slurm's numbers, that must be complete before it starts.
        asked: resources that it requests from the cluster.
        claims: the run that only this job may write to; empty if there is none.
    """

    call: bytes
    line: str
    identity: str
    name: str
    asked: ClusterSettings
    after: tuple[str, ...] = ()
    claims: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z][\w.+%@-]{0,99}", self.name):
            raise ClusterError(f"name {self.name!r}: use letters, digits and ._+%@- (at most 100), a letter first")
        if self.name == "all":
            raise ClusterError("name 'all': choose another name, because jobs cancel all cancels every job")


class Submission(NamedTuple):
    """The jobs of one call: sent, or left out."""

    sent: list[SentJob]
    skipped: list[tuple[str, str]]
    """Names of the jobs that need not be sent, and why."""


class _Group(NamedTuple):
    """Jobs with the same request that wait for the same jobs; several are one array."""

    jobs: list[Job]
    after: tuple[str, ...]


@dataclass
class _Plan:
    """The jobs that must be sent."""

    wanted: list[Job]
    known: dict[str, JobState]
    """The newest job of each name that is in the folder already."""
    skipped: list[tuple[str, str]] = field(default_factory=list)


def submit(jobs: Sequence[Job], folder: Path, again: bool = False) -> Submission:
    """Send jobs, without those that are complete or in the queue already.

    All are checked before the first is sent. Jobs with the same request that wait for the same jobs are sent as one
    array.

    Args:
        jobs: the jobs, each after those that it waits for.
        folder: folder for records and logs of the jobs, on a disk that the cluster sees.
        again: also send jobs that are complete.

    Raises:
        ClusterError: a request has a mistake, this machine has no Slurm, or Slurm refuses a job.
    """
    with _lock_jobs(folder):
        if _on_slurm(jobs):
            queue.require_slurm()
        plan = _plan(jobs, folder, again)
        if not plan.wanted:
            return Submission([], plan.skipped)
        code = snapshot(folder.resolve())
        _require_accepted(plan.wanted, folder, code)
        numbers = {name: state.sent.id for name, state in plan.known.items() if state.live}
        complete = {name for name, state in plan.known.items() if state.word == "complete"}
        complete -= {job.name for job in plan.wanted}
        sent: list[SentJob] = []
        left = list(plan.wanted)
        while left:
            waiting = {job.name for job in left}
            ready = [job for job in left if not waiting & set(job.after)]
            assert ready, "a job waits only for those before it"
            groups: dict[str, _Group] = {}
            for job in ready:
                names = [name for name in job.after if name not in complete or name in numbers]
                after = tuple(sorted({numbers.get(name, name) for name in names}))
                groups.setdefault(repr((after, asdict(job.asked))), _Group([], after)).jobs.append(job)
            for group in groups.values():
                try:
                    new = _send(group, folder, code)
                except ClusterError as error:
                    count = f"{len(sent)} of {len(plan.wanted)} jobs were sent; send again for the others"
                    raise ClusterError(f"{error}; {count}" if sent else str(error)) from error
                numbers |= {job.name: job.id for job in new}
                sent += new
            left = [job for job in left if job not in ready]
    for record in sent:
        if record.executor == "debug":
            write_sent(record)  # not earlier: no job may wait for one that has not begun
            executors.run_in_foreground(record)
    return Submission(sent, plan.skipped)


def script(job: Job, folder: Path) -> str:
    """Return the sbatch file by which a job would be sent."""
    after = [name if re.fullmatch(r"\d+(_\d+)?", name) else f"NUMBER-OF-{name}" for name in job.after]
    return executors.script(job.asked, job.name, after, folder, folder.resolve() / ".code" / "DIGEST-OF-THE-CODE")


def require_sendable(jobs: Sequence[Job], folder: Path, again: bool = False) -> list[tuple[str, str]]:
    """Do all checks of ``submit``, with the same errors, but send nothing.

    If Slurm's commands are missing, some checks are not possible: see ``describe_unchecked``.

    Returns:
        The names of jobs that would be left out, and why.
    """
    _require_folder(folder)
    if describe_unchecked(jobs):
        return _plan(jobs, folder, again, ask=False).skipped
    plan = _plan(jobs, folder, again)
    with tempfile.TemporaryDirectory() as scratch:
        _require_accepted(plan.wanted, Path(scratch), Path(scratch))
    return plan.skipped


def describe_unchecked(jobs: Sequence[Job]) -> str:
    """Return a line on the checks that are only possible on a cluster; empty if Slurm's commands are here."""
    command = queue.missing_command() if _on_slurm(jobs) else ""
    return (
        f"not checked, as {command} is not on this machine: partition, account, QoS, constraint, limits of time and "
        "memory, and which jobs are in the queue"
        if command
        else ""
    )


def _on_slurm(jobs: Sequence[Job]) -> bool:
    return any(job.asked.executor == "slurm" for job in jobs)


def _require_accepted(jobs: Sequence[Job], folder: Path, code: Path) -> None:
    for job in {str(asdict(job.asked)): job for job in reversed(jobs) if job.asked.executor == "slurm"}.values():
        executors.require_accepted(job.asked, job.name, folder, code)


def _plan(jobs: Sequence[Job], folder: Path, again: bool, ask: bool = True) -> _Plan:
    """Return which of the jobs must be sent.

    Args:
        jobs: jobs of one call.
        folder: folder of the jobs.
        again: also send jobs that are complete.
        ask: whether to query Slurm; without it, some checks are not possible.
    """
    names: set[str] = set()
    for job in jobs:
        if job.asked.executor != jobs[0].asked.executor:
            raise ClusterError("executor: all jobs of a list must have the same one")
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
        known = plan.known.get(job.name)
        same = known is not None and (known.sent.where, known.sent.identity) == (where, job.identity)
        left = not job.claims or Path(job.claims).exists()  # the output of a complete job still exists
        if known and known.live:
            if not same:
                raise ClusterError(
                    f"{job.name}: job {known.sent.id} in {folder} has this name; give another with --name"
                )
            plan.skipped.append((job.name, f"in the queue already, as {known.sent.id}"))
        elif known and same and known.word == "complete" and not again and left:
            plan.skipped.append((job.name, f"complete already, as {known.sent.id}; --again sends it again"))
        else:
            for state in live:
                if job.claims and state.sent.claims == job.claims:
                    raise ClusterError(f"{job.claims}: job {state.sent.id} ({state.sent.name}) works on this run")
                if (state.sent.where, state.sent.identity) == (where, job.identity):
                    raise ClusterError(f"{job.name}: job {state.sent.id} ({state.sent.name}) has the same command")
            if job.claims and is_held(Path(job.claims)):
                raise ClusterError(
                    f"{job.claims}: a process that is not a job works on this run; wait for it or stop it"
                )
            plan.wanted.append(job)
        for name in job.after:
            if name not in seen:
                _require_predecessor(job, name, plan.known, folder, ask)
        seen.add(job.name)
    count = sum(state.sent.executor == "local" for state in live) + len(plan.wanted)
    for job in plan.wanted:
        if job.asked.executor == "local" and count > job.asked.at_once:
            raise ClusterError(
                f"executor local: {count} jobs would run at the same time, more than at_once, {job.asked.at_once}; "
                "send fewer, or raise it"
            )
    claims = [job.claims for job in plan.wanted if job.claims]
    for job in plan.wanted:
        if claims.count(job.claims) > 1:
            raise ClusterError(
                f"{job.claims}: two jobs of the list would work on this run; give one of them another run"
            )
    return plan


def _require_predecessor(job: Job, name: str, known: Mapping[str, JobState], folder: Path, ask: bool) -> None:
    """Raise ClusterError if a job of an earlier call, or of Slurm's, cannot be waited for."""
    if name not in known and re.fullmatch(r"[1-9][0-9]{0,9}(_[0-9]+)?", name):
        if ask and not queue.queued([name]):
            raise ClusterError(f"{job.name}: waits for job {name}, which Slurm does not know")
        return
    if name not in known:
        raise ClusterError(f"{job.name}: waits for {name}, but no job before it has that name, and none in {folder}")
    state = known[name]
    if not state.live and state.word != "complete":
        raise ClusterError(
            f"{job.name}: waits for {name}, job {state.sent.id}, which is {state.word}; send that again first"
        )


@contextlib.contextmanager
def _lock_jobs(folder: Path) -> Iterator[None]:
    """Lock a folder of jobs, so that two processes do not send the same job."""
    _require_folder(folder)
    try:
        (folder / LOGS).mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except OSError as error:
        raise ClusterError(f"{folder}: cannot write logs there ({error.strerror}); name another --folder") from error
    with lock:
        with contextlib.suppress(OSError):  # a disk without locks: the user must not submit twice at the same time
            fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def _require_folder(folder: Path) -> None:
    if folder == Path() or not str(folder).isprintable() or set("%\\") & set(str(folder.resolve())):
        raise ClusterError(f"folder {str(folder)!r}: Slurm cannot write logs to such a path; choose another --folder")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ClusterError(f"{folder}: cannot write logs there ({error.strerror}); name another --folder") from error


def _send(group: _Group, folder: Path, code: Path) -> list[SentJob]:
    """Send jobs and write their records; a job in the foreground gets its record when it starts."""
    asked = group.jobs[0].asked
    with executors.clean_environment(asked, code), _delayed_signals(asked.executor):
        files = [str(keep_file(f"{job.name}-{job.identity[:8]}.json", job.call, folder)) for job in group.jobs]
        runners = [
            Runner(file, job.line, asked.patience, asked.grace) for job, file in zip(group.jobs, files, strict=True)
        ]
        first, further = group.jobs[0].name, len(runners) - 1
        try:
            if asked.executor == "debug":
                numbers = [f"D{time.time_ns()}" for _ in runners]
            elif asked.executor == "local":
                local = executors.local_executor(asked, folder, code)
                with _silent_children():
                    numbers = [local.submit(runner).job_id for runner in runners]
            else:
                name = f"{first}+{further}" if further else first
                executor = executors.slurm_executor(asked, name, group.after, folder, code)
                silent = contextlib.redirect_stderr(io.StringIO())  # submitit repeats the error that it raises
                with silent, executor.batch() if further else contextlib.nullcontext():
                    handles = [executor.submit(runner) for runner in runners]
                numbers = [handle.job_id for handle in handles]
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            reason = executors.complaint(str(error))
            raise ClusterError(f"{first}: Slurm refuses it ({reason})") from error
        sent = []
        for job, file, number in zip(group.jobs, files, map(str, numbers), strict=True):
            record = SentJob(
                name=job.name,
                id=number,
                folder=str(folder.resolve() / number),
                line=job.line,
                file=file,
                identity=job.identity,
                where=str(Path.cwd()),
                claims=job.claims,
                after=group.after,
                executor=job.asked.executor,
                code=str(code),
                asked=asdict(job.asked),
                submitted=time.time(),
            )
            if record.executor != "debug":
                write_sent(record)
            sent.append(record)
        return sent


@contextlib.contextmanager
def _delayed_signals(executor: str) -> Iterator[None]:
    """Delay Ctrl-C until the records of sent jobs are written: else these jobs would be unknown."""
    if threading.current_thread() is not threading.main_thread() or executor == "debug":
        yield
        return
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, frame: received.append(number)) for number in numbers}
    # sbatch inherits this; a job on this machine must not.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers if executor == "slurm" else ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        for came in dict.fromkeys(received):
            signal.raise_signal(came)


@contextlib.contextmanager
def _silent_children() -> Iterator[None]:
    """Close this process's output for its children: they may live longer, and readers wait for its end."""
    copies = [os.dup(number) for number in (1, 2)]
    nothing = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    try:
        for number in (1, 2):
            os.dup2(nothing, number)
        yield
    finally:
        for number, copy in zip((1, 2), copies, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nothing)
