"""The process on the node that starts a job's command, forwards signals to it, and requeues the job."""

import contextlib
import ctypes
import fcntl
import os
import random
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
_LOOK = 5.0  # seconds between two checks for a newer start of the job
_FAREWELL = 120.0  # seconds for Slurm to end a process whose job is requeued
_CULPRIT = 10.0  # seconds for another process to record why it failed, which broke the others
_NO_OUTPUT = "no output"


class Runner:
    """A job, as submitit pickles it: only strings and numbers, so that later changes of the code have no effect on it.

    Args:
        file: the call file: the command is ``pretint run FILE``.
        line: the command line that it stands for, for the log.
        patience: see ``ClusterSettings``.
        grace: see ``ClusterSettings``.
    """

    def __init__(self, file: str, line: str, patience: int, grace: int) -> None:
        self.file, self.line, self.patience, self.grace = file, line, patience, grace

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """Return the job that submitit would send next time: the same one."""
        return submitit.helpers.DelayedSubmission(self)

    def __call__(self) -> None:
        """Run the command to its end. With several processes each runs it; they connect as with torchrun.

        Raises:
            SystemExit: the command was stopped or failed; the exit code is that of the command.
        """
        _Attempt(self).run()


class _Attempt:
    """One start of a job, in one of its processes."""

    def __init__(self, runner: Runner) -> None:
        self.file, self.line, self.patience, self.grace = runner.file, runner.line, runner.patience, runner.grace
        self.place = submitit.JobEnvironment()
        self.rank, self.job = self.place.global_rank, self.place.job_id
        self.folder = Path(self.place.paths.folder).parent / self.job
        self.folder.mkdir(exist_ok=True)
        self.on_slurm = "SLURM_JOB_ID" in os.environ and os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
        self.restart = int(os.environ.get("SLURM_RESTART_COUNT", "0")) if self.on_slurm else 0
        self.asked = 0.0  # time of the first signal to stop
        self.child: subprocess.Popen[bytes] | None = None
        self.tail: deque[str] = deque(maxlen=20)

    def run(self) -> None:
        """See ``Runner``."""
        for number in _SIGNALS:  # before anything else: they are blocked at the start, if the node can do it
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
        why = next((line for line in reversed(self.tail) if line), _NO_OUTPUT)
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            memory = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
            why = f"ended by {name}{memory}; last: {why}"
        if self.rank == 0 or why != _NO_OUTPUT:
            self._note("end", how="failed", code=code, why=why[:500])
        if self.rank:
            time.sleep(_LOOK)  # the first process may still have to write its record
        raise SystemExit(code if code > 0 else 128 - code)

    def _begin(self) -> None:
        """Record the start, wait until no earlier start is running, and give up if restarts make no progress."""
        if not self.on_slurm:  # its number is a process id, which an earlier job may have had
            (self.folder / "attempts.jsonl").unlink(missing_ok=True)
        (self.folder / records.REQUEUE).unlink(missing_ok=True)
        before, progress = records.attempts(self.folder), records.progress(self.folder)
        first = (progress or {}).get("first") or None
        # From here on an earlier start can see that a newer one has begun.
        self._note("start", found=first, node=_node(), pid=os.getpid())
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        place = f"{_node()}, GPU {gpus}" if gpus else _node()
        start = f"restart {self.restart}" if self.restart else "first start"
        _say(f"--- {now}, job {self.job} on {place}, {start}: {self.line}")
        self.lock = (self.folder / ".lock").open("a")
        until = time.monotonic() + _FAREWELL
        while True:  # an earlier start, on a node without contact, may still run for a while
            try:
                # A lock of the process, not of the open file: the command must not inherit it.
                fcntl.lockf(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() > until:
                    _say(f"an earlier start of this job still locks {self.folder} after {_FAREWELL:.0f} seconds")
                    self._note("waited")
                    self._requeue_or_leave(AGAIN)  # a node without power may keep the lock until it is back
                time.sleep(1)
            except OSError as error:
                _say(f"{self.folder} cannot be locked ({error.strerror}): an earlier start may still be running")
                break
        (self.folder / "progress.json").unlink(missing_ok=True)
        if self._canceled():  # while an earlier start was requeueing it
            self._note("end", how="canceled", code=1)
            self._leave("it was canceled", 1)
        if count_fruitless(before, first) >= self.patience:
            why = f"gave up: {self.patience} restarts in a row made no step"
            self._note("end", how="gave up", code=1, why=why)
            self._leave(f"{why}; correct the error above, then send it again", 1)

    def _command(self) -> int:
        """Run the command; return its exit code, as subprocess has it."""
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if self.place.num_tasks > 1:
            # Do not choose the GPU: on shared nodes the GPU with the number of the rank may belong to another job.
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
        with_parent = None  # makes the system kill the child when its parent ends; Linux only
        with contextlib.suppress(OSError, AttributeError):
            prctl = ctypes.CDLL(None).prctl
            with_parent = lambda: prctl(1, signal.SIGKILL)  # noqa: E731
        # The child starts with these signals blocked and unblocks them when it can handle them: so no signal is lost,
        # and none kills it too early.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self.child = child = subprocess.Popen(
                [sys.executable, "-m", "pretint", "run", self.file],
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
                self._leave("a newer start of this job has begun on another node; this one ends", AGAIN)
            if self.asked and time.monotonic() - self.asked > limit:
                _say(f"not stopped {limit:.0f} seconds after the signal: killed; it resumes from its last saved state")
                child.kill()
                child.wait()
                code = AGAIN
                break
        reader.join(timeout=5)
        return code

    def _read(self, pipe: IO[bytes]) -> None:
        """Print the output of the command, and store its last lines."""
        for line in iter(pipe.readline, b""):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            if text := line.decode(errors="replace").strip():
                self.tail.append(text)

    def _requeue_or_leave(self, code: int) -> NoReturn:
        """Requeue the job once, unless Slurm has canceled, requeued or preempted it, and exit.

        In a container the shell script around the job requeues it, see ``slurm.executors``.
        """
        if self.rank:
            # If a process exits, Slurm ends the others; but the first one must still requeue the job.
            until = time.monotonic() + _FAREWELL
            while self.on_slurm and time.monotonic() < until and not (_contained() and self._ended()):
                time.sleep(1)
            raise SystemExit(AGAIN)
        if not self.asked and self.place.num_tasks > 1:
            # A failure of another process may have stopped this one: then a restart would repeat the failure.
            until = time.monotonic() + _CULPRIT
            while time.monotonic() < until:
                if self._ended():
                    raise SystemExit(1)
                time.sleep(1)
        if not self.on_slurm:
            self._note("end", how="stopped", code=code)
            raise SystemExit(AGAIN)
        if _contained() and not self._canceled():  # the script around it requeues the job
            (self.folder / records.REQUEUE).touch()
            _say("stopped, all is saved; will be requeued")
            self._note("end", how="requeued", code=code)
            raise SystemExit(AGAIN)
        # A requeue sends TERM, also to scontrol: then it would be unknown whether Slurm has accepted the requeue.
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
        """Return how others have ended this start of the job ("canceled", ...); empty if they have not.

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
        """Return whether a process of this start has recorded its end."""
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

    Every start records the progress that the start before it had at its beginning (the first progress bar of work that
    can be resumed). If two starts record the same, the first of them has made no progress. The same holds for a start
    without such a progress bar. A start that only waited for an earlier one to end does not count.

    Args:
        before: the attempts so far, without the present start.
        found: the progress that the present start records.
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
    return same - 1  # the last start may have made progress: the next one will record it


def _contained() -> bool:
    """Return whether this is a container without Slurm's commands."""
    return shutil.which("scontrol") is None


def meeting_port(job: str, restart: int) -> int:
    """Return MASTER_PORT for the processes of a job: the same in all of them, and a new one at each restart.

    It is below 32768, because Linux uses the ports above for outgoing connections, which would block it. submitit
    draws from 20000 to 60000.
    """
    return random.Random(f"{job} {restart}").randrange(10_000, 32_768)


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _say(text: str) -> None:
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)  # a command may contain any character
    print(f"pretint: {text}" if not text.startswith("---") else text, flush=True)  # noqa: T201 - the job's log
