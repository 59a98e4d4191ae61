"""The process on the node that starts a job's command, passes signals on to it, and requeues the job."""

import contextlib
import ctypes
import fcntl
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

import submitit

from slurm import queue, records
from slurm.cluster import ClusterError
from slurm.records import AGAIN, STOPPED

_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
_LOOK = 5.0  # seconds between two checks whether a newer start of the job has taken over
_FAREWELL = 120.0  # seconds that Slurm has to end a process whose job is requeued
_CULPRIT = 10.0  # seconds in which another process can note why it broke the others
_SAID_NOTHING = "said nothing"


class Runner:
    """A job, as submitit pickles it: strings and numbers only, so that no edited code can change what they mean.

    Args:
        words: the words of the command, after ``pretint``.
        patience: see ``ClusterSettings``.
        grace: see ``ClusterSettings``.
    """

    def __init__(self, words: Sequence[str], patience: int, grace: int) -> None:
        self.words, self.patience, self.grace = list(words), patience, grace

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """Return what submitit would send next time: the same."""
        return submitit.helpers.DelayedSubmission(self)

    def __call__(self) -> None:
        """Run the command to its end. Each of several processes runs it; they find each other as those of torchrun do.

        Raises:
            SystemExit: it was stopped, or failed; the code is the command's.
        """
        _Attempt(self).run()


class _Attempt:
    """One start of a job, in one of its processes."""

    def __init__(self, runner: Runner) -> None:
        self.words, self.patience, self.grace = runner.words, runner.patience, runner.grace
        self.place = submitit.JobEnvironment()
        self.rank, self.job = self.place.global_rank, self.place.job_id
        self.folder = Path(self.place.paths.folder).parent / self.job
        self.folder.mkdir(exist_ok=True)
        self.on_slurm = "SLURM_JOB_ID" in os.environ and os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
        self.restart = int(os.environ.get("SLURM_RESTART_COUNT", "0")) if self.on_slurm else 0
        self.asked = 0.0  # when a signal first asked to stop
        self.child: subprocess.Popen[bytes] | None = None
        self.tail: deque[str] = deque(maxlen=20)

    def run(self) -> None:
        """See ``Runner``."""
        for number in _SIGNALS:  # before anything else: at first they are blocked, if the node can do it
            signal.signal(number, self._pass_on)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if self.rank == 0:
            self._begin()
        code = self._command()
        if code == 0:
            if self.rank == 0:
                self._note("end", how="complete", code=0)
            return
        if code in STOPPED:
            self._requeue_or_leave(code)
        why = next((line for line in reversed(self.tail) if line), _SAID_NOTHING)
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            memory = ", for lack of memory perhaps" if -code == signal.SIGKILL else ""
            why = f"ended by {name}{memory}; last: {why}"
        if self.rank == 0 or why != _SAID_NOTHING:
            self._note("end", how="failed", code=code, why=why[:500])
        if self.rank:
            time.sleep(_LOOK)  # the first process may still have something to say
        raise SystemExit(code if code > 0 else 128 - code)

    def _begin(self) -> None:
        """Note the start, wait until no earlier start is still running, and give up if restarts make no progress."""
        if not self.on_slurm:  # its number is that of a process, and may have been another's before
            (self.folder / "attempts.jsonl").unlink(missing_ok=True)
        (self.folder / records.REQUEUE).unlink(missing_ok=True)
        before, progress = records.attempts(self.folder), records.progress(self.folder)
        first = (progress or {}).get("first") or None
        # From here on an earlier start knows that a newer one has begun.
        self._note("start", found=first, node=_node(), pid=os.getpid())
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        place = f"{_node()}, GPU {gpus}" if gpus else _node()
        start = f"restart {self.restart}" if self.restart else "first start"
        _say(f"--- {now}, job {self.job} on {place}, {start}: pretint {shlex.join(self.words)}")
        self.lock = (self.folder / ".lock").open("a")
        until = time.monotonic() + _FAREWELL
        while True:  # an earlier start, on a node that went silent, may run on for a while
            try:
                # By process, not by open file: the command must not inherit the lock.
                fcntl.lockf(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() > until:
                    _say(f"an earlier start of this job still holds {self.folder} after {_FAREWELL:.0f} seconds")
                    self._note("waited")
                    self._requeue_or_leave(AGAIN)  # a node without power may hold it until it is back
                time.sleep(1)
            except OSError as error:
                _say(f"{self.folder} cannot be locked ({error.strerror}): an earlier start may still be running")
                break
        (self.folder / "progress.json").unlink(missing_ok=True)
        if self._canceled():  # while an earlier start was asking Slurm to requeue it
            self._note("end", how="canceled", code=1)
            self._leave("it was canceled", 1)
        if count_fruitless(before, first) >= self.patience:
            why = f"gave up: {self.patience} restarts in a row made no step"
            self._note("end", how="gave up", code=1, why=why)
            self._leave(f"{why}; see above for why, then send it again", 1)

    def _command(self) -> int:
        """Run the command; return its exit code, as subprocess has it."""
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if self.place.num_tasks > 1:
            # Not the GPU: on a cluster that shares nodes, numbering GPUs by rank takes someone else's.
            group = submitit.helpers.TorchDistributedEnvironment()
            env |= {
                "MASTER_ADDR": group.master_addr,
                "MASTER_PORT": str(meeting_port(self.job, self.restart)),
                "RANK": str(group.rank),
                "WORLD_SIZE": str(group.world_size),
                "LOCAL_RANK": str(group.local_rank),
                "LOCAL_WORLD_SIZE": str(group.local_world_size),
            }
        if self.rank == 0:
            env["PRETINT_PROGRESS"] = str(self.folder / "progress.json")
        with_parent = None  # for the child: to be killed when its parent is gone, however that ended; Linux only
        with contextlib.suppress(OSError, AttributeError):
            prctl = ctypes.CDLL(None).prctl
            with_parent = lambda: prctl(1, signal.SIGKILL)  # noqa: E731
        # The child starts with these signals blocked, and unblocks them when it can handle them: none is lost, none
        # kills it early.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self.child = child = subprocess.Popen(
                [sys.executable, "-m", "pretint", *self.words],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                preexec_fn=with_parent,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self.asked:  # while it was being started
            child.send_signal(signal.SIGUSR2)
        assert child.stdout is not None
        reader = threading.Thread(target=self._read, args=(child.stdout,), daemon=True)
        reader.start()
        limit = max(self.grace - 30, self.grace / 2)
        while True:
            try:
                code = child.wait(timeout=_LOOK)
                break
            except subprocess.TimeoutExpired:
                pass
            if self._superseded():
                child.kill()
                child.wait()
                self._leave("a newer start of this job has begun on another node; this one leaves", AGAIN)
            if self.asked and time.monotonic() - self.asked > limit:
                _say(f"not stopped {limit:.0f} seconds after it was asked to: ended; it goes on from what it has saved")
                child.kill()
                child.wait()
                code = AGAIN
                break
        reader.join(timeout=5)
        return code

    def _read(self, pipe: IO[bytes]) -> None:
        """Print what the command prints, and remember the last lines."""
        for line in iter(pipe.readline, b""):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            if text := line.decode(errors="replace").strip():
                self.tail.append(text)

    def _requeue_or_leave(self, code: int) -> NoReturn:
        """Requeue the job, once, unless Slurm has decided on it already.

        In a container the lines of shell around the job ask Slurm instead, see ``slurm.executors``.
        """
        if self.rank:
            # A process that leaves ends the others, but the first process must talk to Slurm.
            until = time.monotonic() + _FAREWELL
            while self.on_slurm and time.monotonic() < until and not (_contained() and self._ended()):
                time.sleep(1)
            raise SystemExit(AGAIN)
        if not self.asked and self.place.num_tasks > 1:
            # Another process may have broken this one: then starting again would repeat the failure.
            until = time.monotonic() + _CULPRIT
            while time.monotonic() < until:
                if self._ended():
                    raise SystemExit(1)
                time.sleep(1)
        if not self.on_slurm:
            self._note("end", how="stopped", code=code)
            raise SystemExit(AGAIN)
        if _contained() and not self._canceled():  # the script around it will ask Slurm
            (self.folder / records.REQUEUE).touch()
            _say("stopped, all is saved; to be requeued")
            self._note("end", how="requeued", code=code)
            raise SystemExit(AGAIN)
        # A requeue sends TERM, also to scontrol: then nobody would know whether Slurm has accepted the requeue.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            if decided := self._decided():
                # Canceled, requeued or preempted by others: a second requeue would run it twice.
                self._note("end", how="stopped", code=code, why=f"Slurm: {decided}")
                self._leave(f"stopped; Slurm has decided what becomes of it ({decided})", AGAIN)
            self._note("end", how="requeued", code=code)
            _say("stopped, all is saved; requeued")
            queue.requeue(self.job)
        except ClusterError as error:
            with contextlib.suppress(ClusterError):
                if self._decided():
                    self._leave("Slurm has decided what becomes of it", AGAIN)
            self._note("end", how="failed", code=AGAIN, why=f"cannot be requeued: {error}")
            self._leave(f"stopped, but it cannot be requeued ({error}); send it again", AGAIN)
        time.sleep(_FAREWELL)
        raise SystemExit(AGAIN)

    def _decided(self) -> str:
        """Return what others have decided about this start of the job; empty if they have decided nothing.

        Raises:
            ClusterError: Slurm does not answer.
        """
        if self._canceled():
            return "canceled"
        state, restarts = queue.standing(self.job)
        if restarts != self.restart or self._superseded():
            return "started again"
        return "" if state == "RUNNING" else state.lower()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.asked = self.asked or time.monotonic()
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(number)

    def _superseded(self) -> bool:
        starts = [record for record in records.attempts(self.folder) if record["kind"] == "start"]
        return any((start.get("restart") or 0) > self.restart for start in starts)

    def _ended(self) -> bool:
        """Return whether a process of this start has noted how it ended."""
        ends = [record for record in records.attempts(self.folder) if record["kind"] == "end"]
        return any(end.get("restart") == self.restart for end in ends)

    def _canceled(self) -> bool:
        return any(record["kind"] == "cancel" for record in records.attempts(self.folder))

    def _note(self, kind: str, **values: Any) -> None:
        records.note(self.folder, kind=kind, restart=self.restart, rank=self.rank, **values)

    def _leave(self, why: str, code: int) -> NoReturn:
        _say(why)
        if not self.on_slurm and self.place.num_tasks > 1:
            os.kill(os.getppid(), signal.SIGTERM)  # submitit's controller, which ends the others
        raise SystemExit(code)


def count_fruitless(before: Sequence[records.JobRecord], found: Any) -> int:
    """Count the restarts in a row that made no lasting step.

    Every start notes the progress that it found: how much was done when the start before it began to work (the first
    progress bar of work that lasts). If two starts found the same, the first of them has added nothing. A start that
    did not come so far has added nothing either. A start that only waited for an earlier one to leave does not count.

    Args:
        before: the attempts so far, without the start that asks.
        found: the progress that this start has found.
    """
    waited = {record.get("restart") for record in before if record["kind"] == "waited"}
    starts = [record for record in before if record["kind"] == "start" and record.get("restart", 0) not in waited]
    marks: list[Any] = []
    for mark in [*[start.get("found") for start in starts][1:], found]:
        marks.append(mark if mark is not None or not marks else marks[-1])
    same = 0
    for mark in reversed(marks):
        if mark != marks[-1]:
            break
        same += 1
    return same - 1  # the last start may have added something: the next one will find it


def _contained() -> bool:
    """Return whether this is a container without Slurm's commands."""
    return shutil.which("scontrol") is None


def meeting_port(job: str, restart: int) -> int:
    """Return the port at which the processes of a job meet: the same in all of them, another one at each restart.

    It lies below 32768: from there on Linux gives ports to outgoing connections, so one that a connection of Slurm
    uses would be "already in use". submitit draws from 20000 to 60000.
    """
    return random.Random(f"{job} {restart}").randrange(10_000, 32_768)


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _say(text: str) -> None:
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)  # a job's words may hold anything
    print(f"pretint: {text}" if not text.startswith("---") else text, flush=True)  # noqa: T201 - the job's log
