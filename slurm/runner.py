"""On the node: one process that starts a job's command, tells it of signals, and has it called again."""

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
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

import submitit

from slurm import queue, records
from slurm.cluster import ClusterError
from slurm.records import AGAIN, STOPPED

_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
_LOOK = 5.0  # seconds between two looks at whether a newer start of the job has taken over
_FAREWELL = 120.0  # seconds that Slurm has to end a process whose job is requeued
_CULPRIT = 10.0  # seconds that another process has to say why it broke the others
_SAID_NOTHING = "said nothing"


class Runner:
    """A job, as submitit keeps it: strings and numbers only, so that no edited code can change what they mean.

    Args:
        words: the command, after ``pretint``.
        patience: see ``ClusterSettings``.
        grace: likewise.
    """

    def __init__(self, words: Sequence[str], patience: int, grace: int) -> None:
        self.words, self.patience, self.grace = list(words), patience, grace

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """What submitit would send next time: the same."""
        return submitit.helpers.DelayedSubmission(self)

    def __call__(self) -> None:
        """Run the command to its end; of several processes, each runs it, and they find each other as torchrun's do.

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
        for number in _SIGNALS:  # before anything else: in the first moments they are blocked, if the node can do it
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
            self._again(code)
        self._fail(code)

    def _begin(self) -> None:
        """Note the start, make sure that no earlier start is still at work, and give up if nothing comes of it."""
        if not self.on_slurm:  # its number is that of a process, and may have been another's before
            (self.folder / "attempts.jsonl").unlink(missing_ok=True)
        (self.folder / records.REQUEUE).unlink(missing_ok=True)
        before, done = records.attempts(self.folder), records.progress(self.folder)
        first = (done or {}).get("first") or None
        # From here on an earlier start knows that it is one.
        self._note("start", found=first, node=_node(), pid=os.getpid())
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        place = f"{_node()}, GPU {gpus}" if gpus else _node()
        _say(f"--- {now}, job {self.job} on {place}, {_start(self.restart)}: pretint {shlex.join(self.words)}")
        self.lock = (self.folder / ".lock").open("a")
        self._alone()
        (self.folder / "progress.json").unlink(missing_ok=True)
        if self._canceled():  # amid the word that it had with Slurm
            self._note("end", how="canceled", code=1)
            self._leave("it was canceled", 1)
        if fruitless(before, first) >= self.patience:
            why = f"gave up: {self.patience} restarts in a row made no step"
            self._note("end", how="gave up", code=1, why=why)
            self._leave(f"{why}; see above for why, then send it again", 1)

    def _alone(self) -> None:
        """Wait until an earlier start has left: on a node that went silent it may go on for a while."""
        until = time.monotonic() + _FAREWELL
        while True:
            try:
                # By process, not by open file: the command must not inherit it.
                fcntl.lockf(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                if time.monotonic() > until:
                    _say(f"an earlier start of this job still holds {self.folder} after {_FAREWELL:.0f} seconds")
                    self._note("waited")
                    self._again(AGAIN)  # a node without power may hold it until it is back
                time.sleep(1)
            except OSError as error:
                _say(f"{self.folder} cannot be locked ({error.strerror}): an earlier start may still be at work")
                return
            else:
                return

    def _command(self) -> int:
        """Run the command; its exit code, as subprocess has it."""
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if self.place.num_tasks > 1:
            # Not the GPU: on a cluster that shares nodes, numbering GPUs by rank takes someone else's.
            found = submitit.helpers.TorchDistributedEnvironment()
            env |= {
                "MASTER_ADDR": found.master_addr,
                "MASTER_PORT": str(meeting_port(self.job, self.restart)),
                "RANK": str(found.rank),
                "WORLD_SIZE": str(found.world_size),
                "LOCAL_RANK": str(found.local_rank),
                "LOCAL_WORLD_SIZE": str(found.local_world_size),
            }
        if self.rank == 0:
            env["PRETINT_PROGRESS"] = str(self.folder / "progress.json")
        # It is born with these signals blocked, and takes them when it is ready to: none is lost, none kills it early.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "pretint", *self.words],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                preexec_fn=_with_parent(),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self.asked:  # while it was being started
            self.child.send_signal(signal.SIGUSR2)
        assert self.child.stdout is not None
        reader = threading.Thread(target=self._read, args=(self.child.stdout,), daemon=True)
        reader.start()
        code = self._wait(self.child)
        reader.join(timeout=5)
        return code

    def _wait(self, child: "subprocess.Popen[bytes]") -> int:
        limit = max(self.grace - 30, self.grace / 2)
        while True:
            try:
                return child.wait(timeout=_LOOK)
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
                return AGAIN

    def _read(self, pipe: IO[bytes]) -> None:
        """Pass on what the command prints, and remember the last of it."""
        for line in iter(pipe.readline, b""):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            if text := line.decode(errors="replace").strip():
                self.tail.append(text)

    def _again(self, code: int) -> NoReturn:
        """Have the job called again, once, unless Slurm has decided on it already."""
        if self.rank:
            until = time.monotonic() + _FAREWELL  # who leaves first ends the others; the first must speak with Slurm
            while self.on_slurm and time.monotonic() < until and not (_contained() and self._ended()):
                time.sleep(1)
            raise SystemExit(AGAIN)
        if not self.asked and self.place.num_tasks > 1:
            # Another may have broken this one, which is no reason to do the same again.
            until = time.monotonic() + _CULPRIT
            while time.monotonic() < until:
                if self._ended():
                    raise SystemExit(1)
                time.sleep(1)
        if not self.on_slurm:
            self._note("end", how="stopped", code=code)
            raise SystemExit(AGAIN)
        if _contained() and not self._canceled():  # the script around it will ask
            (self.folder / records.REQUEUE).touch()
            _say("stopped, all is saved; to be requeued")
            self._note("end", how="requeued", code=code)
            raise SystemExit(AGAIN)
        # With a requeue comes TERM, to scontrol too if it can: then nobody would know whether it was heard.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            if decided := self._decided():
                # Cancelled, requeued or preempted by others: a second requeue would run it twice.
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
        """What others have made of this start of the job already; empty if it is theirs who run it to end.

        Raises:
            ClusterError: Slurm does not answer.
        """
        if self._canceled():
            return "canceled"
        state, restarts = queue.standing(self.job)
        if restarts != self.restart or self._superseded():
            return "started again"
        return "" if state == "RUNNING" else state.lower()

    def _fail(self, code: int) -> NoReturn:
        why = next((line for line in reversed(self.tail) if line), _SAID_NOTHING)
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            why = (
                f"ended by {name}"
                + (", for lack of memory perhaps" if -code == signal.SIGKILL else "")
                + f"; last: {why}"
            )
        if self.rank == 0 or why != _SAID_NOTHING:
            self._note("end", how="failed", code=code, why=why[:500])
        if self.rank:
            time.sleep(_LOOK)  # the first may still have something to say
        raise SystemExit(code if code > 0 else 128 - code)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.asked = self.asked or time.monotonic()
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(number)

    def _superseded(self) -> bool:
        starts = [one for one in records.attempts(self.folder) if one["kind"] == "start"]
        return any((one.get("restart") or 0) > self.restart for one in starts)

    def _ended(self) -> bool:
        """Whether one of the processes of this start has said how it ended."""
        return any(one["kind"] == "end" and one.get("restart") == self.restart for one in records.attempts(self.folder))

    def _canceled(self) -> bool:
        return any(one["kind"] == "cancel" for one in records.attempts(self.folder))

    def _note(self, kind: str, **values: Any) -> None:
        records.note(self.folder, kind=kind, restart=self.restart, rank=self.rank, **values)

    def _leave(self, why: str, code: int) -> NoReturn:
        _say(why)
        if not self.on_slurm and self.place.num_tasks > 1:
            os.kill(os.getppid(), signal.SIGTERM)  # submitit's controller, which ends the others
        raise SystemExit(code)


def fruitless(before: Sequence[records.Record], found: Any) -> int:
    """How many restarts in a row made no step that lasted.

    Every start notes what the one before it had found to be done when it began (the first bar of work that lasts).
    Two that found the same: the first of them has added nothing. A start that did not come so far has added nothing
    either; one that only waited for an earlier one to leave does not count.

    Args:
        before: the attempts so far, without the start that asks.
        found: what the latest of these had found.
    """
    waited = {one.get("restart") for one in before if one["kind"] == "waited"}
    counted = [one for one in before if one["kind"] == "start" and one.get("restart", 0) not in waited]
    marks = [*[one.get("found") for one in counted][1:], found]
    known: list[Any] = []
    for mark in marks:
        known.append(mark if mark is not None or not known else known[-1])
    same = 0
    for mark in reversed(known):
        if mark != known[-1]:
            break
        same += 1
    return same - 1  # the last of them may yet have done something: the next will tell


def _contained() -> bool:
    """Whether this is a container without Slurm's commands."""
    return shutil.which("scontrol") is None


def meeting_port(job: str, restart: int) -> int:
    """The port at which the processes of a job meet: the same in all of them, another one at each restart.

    It lies below 32768: from there on Linux gives ports to outgoing connections, so that one in the middle of a
    connection of Slurm's own would be "already in use". submitit draws from 20000 to 60000.
    """
    return random.Random(f"{job} {restart}").randrange(10_000, 32_768)


def _start(restart: int) -> str:
    return f"restart {restart}" if restart else "first start"


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _with_parent() -> Callable[[], None] | None:
    """For a child: to be killed when its parent is gone, however that ended. Linux only."""
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    return lambda: prctl(1, signal.SIGKILL)


def _say(text: str) -> None:
    text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)  # a job's words may hold anything
    print(f"pretint: {text}" if not text.startswith("---") else text, flush=True)  # noqa: T201 - the job's log
