"""Jobs on their way to the cluster: what they ask for is checked, their code is kept, submitit sends them."""

import contextlib
import dataclasses
import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import submitit

from slurm import queue
from slurm.cluster import ClusterError, ClusterSettings
from slurm.records import LOGS, Sent, write_sent
from slurm.running import Runner
from slurm.snapshot import frozen_words, snapshot
from slurm.states import State, is_held, states

_OTHERS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
_HOLD_BACK = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
_WAIT = 60  # seconds that sbatch has


@dataclass(frozen=True)
class Job:
    """A job to be sent.

    Args:
        words: a command and what belongs to it, as after ``pretint``: ("pretrain", "runs/x", "--seed", "1").
        name: by which it is shown, cancelled, and waited for; no two live jobs of a folder share one.
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
    plan = _plan(jobs, folder, again)
    if not plan.wanted:
        return Submission([], plan.skipped)
    code = snapshot(folder.resolve())
    for job in plan.wanted:
        _test(job, folder, code)
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
    code = folder.resolve() / ".code" / "DIGEST-OF-THE-CODE"
    executor = _executor(job.asked, job.name, _numbers_of(job.after), folder, code)
    return str(executor._make_submission_file_text(executor._submitit_command_str, "dry-run"))


def require_sendable(jobs: Sequence[Job], folder: Path, again: bool = False) -> list[tuple[str, str]]:
    """All checks of ``submit``, and nothing sent; which jobs would be left out, and why. Raises as it does."""
    plan = _plan(jobs, folder, again)
    with tempfile.TemporaryDirectory() as scratch:
        for job in plan.wanted:
            _test(job, Path(scratch), Path(scratch))
    return plan.skipped


def _plan(jobs: Sequence[Job], folder: Path, again: bool) -> _Plan:
    names: set[str] = set()
    if any(job.asked.executor == "slurm" for job in jobs):
        queue.require_slurm()
    for job in jobs:
        if job.asked.executor != jobs[0].asked.executor:
            raise ClusterError("executor: jobs of one list go to one place")
        if job.asked.executor != "slurm" and job.after:
            raise ClusterError(f"{job.name}: after needs executor slurm; on this machine start one job after the other")
        if job.name in names:
            raise ClusterError(f"{job.name}: two jobs of the list have this name")
        names.add(job.name)
    for asked in {str(asdict(job.asked)): job.asked for job in jobs if job.asked.executor == "slurm"}.values():
        queue.require_place(asked)
    _require_writable(folder)
    plan = _Plan([], {state.sent.name: state for state in states(folder)})  # the newest of a name stays
    live = [state for state in plan.known.values() if state.live]
    seen: set[str] = set()
    where = str(Path.cwd())
    for job in jobs:
        words = frozen_words(job.words, folder)
        known = plan.known.get(job.name)
        same = known is not None and known.sent.identity == (where, words)
        if known and known.live:
            if not same:
                raise ClusterError(f"{job.name}: job {known.sent.id} in {folder} has this name; give another by --name")
            plan.skipped.append((job.name, f"in the queue already, as {known.sent.id}"))
        elif known and same and known.word == "complete" and not again and _there(job):
            plan.skipped.append((job.name, f"complete already, as {known.sent.id}; --again sends it again"))
        else:
            claimed = [one for one in live if job.claims and one.sent.claims == job.claims]
            if claimed:
                raise ClusterError(f"{job.claims}: job {claimed[0].sent.id} ({claimed[0].sent.name}) works on this run")
            if job.claims and is_held(Path(job.claims)):
                raise ClusterError(f"{job.claims}: a process that is no job works on this run; wait for it or stop it")
            plan.wanted.append(dataclasses.replace(job, words=words))
        for name in job.after:
            _require_before(job, name, seen, plan.known, folder)
        seen.add(job.name)
    claims = [job.claims for job in plan.wanted if job.claims]
    for job in plan.wanted:
        if claims.count(job.claims) > 1:
            raise ClusterError(
                f"{job.claims}: two jobs of the list would work on this run; name another for one of them"
            )
    return plan


def _require_before(job: Job, name: str, seen: set[str], known: Mapping[str, State], folder: Path) -> None:
    if name.isdigit() or name in seen:
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


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ClusterError(f"{folder}: cannot write logs there ({error.strerror}); name another --folder") from error


def _groups(jobs: Sequence[Job], numbers: Mapping[str, str], done: set[str]) -> list[_Group]:
    found: dict[str, _Group] = {}
    for job in jobs:
        after = tuple(sorted({numbers.get(name, name) for name in job.after if name not in done or name in numbers}))
        group = found.setdefault(repr((after, asdict(job.asked))), _Group([], after))
        group.jobs.append(job)
    return list(found.values())


def _numbers_of(after: Sequence[str]) -> tuple[str, ...]:
    return tuple(name if re.fullmatch(r"\d+(_\d+)?", name) else f"NUMBER-OF-{name}" for name in after)


def _executor(asked: ClusterSettings, name: str, after: Sequence[str], folder: Path, code: Path) -> Any:
    """submitit's, set up."""
    place = folder.resolve() / LOGS  # not a folder for each job: Slurm may want to write before it is made
    if asked.executor == "debug":
        return submitit.AutoExecutor(folder=place, cluster="debug")
    if asked.executor == "local":
        local = submitit.LocalExecutor(folder=place, **({"python": asked.python} if asked.python else {}))
        local.update_parameters(
            timeout_min=asked.minutes,
            signal_delay_s=asked.grace,
            tasks_per_node=asked.tasks_per_node,
            gpus_per_node=asked.gpus_per_node,
            stderr_to_stdout=True,
            **({"setup": asked.setup} if asked.setup else {}),
        )
        return local
    # Until somebody listens USR2 and TERM would end the process. Where the node's env can, they wait instead.
    block = "env --block-signal=USR2,TERM"
    python = asked.python or shlex.quote(os.sys.executable)  # type: ignore[attr-defined]
    executor = submitit.SlurmExecutor(folder=place, python=f"$patient {python}")
    exports = {"PYTHONPATH": f"{code}", **asked.environment}
    lines = [
        "set -e",
        *asked.setup,
        # A variable of the submitting shell may not travel; ${X:+:$X} is what was there before.
        *(f"export {key}={shlex.quote(str(value))}" for key, value in exports.items()),
        f'patient=$({block} true 2> /dev/null && echo "{block}" || true)',
        "set +e",
    ]
    further: dict[str, Any] = {"requeue": True, **{key.lstrip("-"): value for key, value in asked.options.items()}}
    if after:
        further |= {"dependency": f"afterok:{':'.join(after)}", "kill-on-invalid-dep": "yes"}
    chosen = {key: getattr(asked, key) for key in ("partition", "account", "qos", "constraint") if getattr(asked, key)}
    executor.update_parameters(
        job_name=name,
        time=asked.minutes,
        nodes=asked.nodes,
        ntasks_per_node=asked.tasks_per_node,
        cpus_per_task=asked.cpus_per_task,
        mem=f"{round(1024 * asked.memory_gb)}MB",
        signal_delay_s=asked.grace,
        stderr_to_stdout=True,
        setup=lines,
        array_parallelism=asked.at_once,
        # srun has not passed the cores on since Slurm 22.05: without this all workers share one.
        # A task that dies ends the others, which would wait for it until the time limit.
        srun_args=[f"--cpus-per-task={asked.cpus_per_task}", "--kill-on-bad-exit=1"],
        additional_parameters=further,
        **chosen,
        **({"gpus_per_node": asked.gpus_per_node} if asked.gpus_per_node else {}),
    )
    return executor


def _test(job: Job, folder: Path, code: Path) -> None:
    """Ask Slurm itself whether it would take a job, without sending it."""
    if job.asked.executor != "slurm":
        return
    executor = _executor(job.asked, job.name, (), folder, code)
    text = executor._make_submission_file_text(executor._submitit_command_str, "test")
    with _clean_environment(job.asked, code):
        try:
            done = subprocess.run(
                ["sbatch", "--test-only"], input=text, capture_output=True, text=True, timeout=_WAIT, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"sbatch: Slurm has not answered for {_WAIT} seconds; try again later") from error
    if done.returncode:
        raise ClusterError(f"{job.name}: Slurm will not take it ({_complaint(done.stderr)})")


def _send(group: _Group, folder: Path, code: Path) -> list[Sent]:
    first = group.jobs[0]
    asked = first.asked
    name = first.name if len(group.jobs) == 1 else f"{first.name}+{len(group.jobs) - 1}"
    executor = _executor(asked, name, group.after, folder, code)
    with _clean_environment(asked, code):
        try:
            runners = [Runner(job.words, asked.patience, asked.grace) for job in group.jobs]
            if asked.executor == "slurm" and len(runners) > 1:
                with executor.batch():
                    made = [executor.submit(runner) for runner in runners]
            else:
                made = [executor.submit(runner) for runner in runners]
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise ClusterError(f"{first.name}: Slurm would not take it ({_complaint(str(error))})") from error
        sent = []
        for job, one in zip(group.jobs, made, strict=True):
            number = str(one.job_id)
            noted = Sent(
                name=job.name,
                id=number,
                folder=str(folder.resolve() / number),
                words=job.words,
                where=str(Path.cwd()),
                claims=job.claims,
                after=group.after,
                executor=asked.executor,
                code=str(code),
                asked=asdict(asked),
                submitted=time.time(),
            )
            write_sent(noted)
            sent.append(noted)
        if asked.executor == "debug":
            for one in made:
                one.result()
    return sent


@contextlib.contextmanager
def _clean_environment(asked: ClusterSettings, code: Path) -> Iterator[None]:
    """The environment that a job starts with: this one's, but not that of a job which sends jobs.

    SLURM_CONF stays, as it says where the cluster is, and the user's own SBATCH_ defaults.
    """
    before = dict(os.environ)
    for name in before:
        if (name.startswith(_HOLD_BACK) and name != "SLURM_CONF") or name in _OTHERS:
            del os.environ[name]
    os.environ |= {"PYTHONPATH": str(code), **{key: str(value) for key, value in asked.environment.items()}}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _complaint(text: str) -> str:
    """What Slurm says of itself, on one line."""
    lines = [re.sub(r"^(sbatch|srun): (error: )?", "", line.strip()) for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Traceback", "subprocess", "File "))]
    return "; ".join(dict.fromkeys(told))[:300] or "no reason given"
