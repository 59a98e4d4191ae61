"""A job's folder: what was sent, and what became of it. Everything here is read and written as plain text.

JOBS/59688114/           a folder for each job, named by its number (of an array: 59688114_3)
    job.json             what was sent: the command, what it asks for, the code
    attempts.jsonl       a line at every start and every end
    progress.json        how far it is, kept by the job itself
    requeue              there for a moment, if it cannot tell Slurm itself that it wants to be started again
JOBS/logs/59688114_0_log.out    what it printed, all restarts one after the other (_1_, _2_: its other processes)
JOBS/.code/, .given/     the code and the settings files that jobs were sent with
"""

import contextlib
import json
import math
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

Record = dict[str, Any]
LOGS = "logs"
AGAIN = 75
"""How a command ends that was stopped, has saved itself, and is to be called again (EX_TEMPFAIL)."""
STOPPED = (AGAIN, 128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGUSR2)
"""All ways to end of one that was stopped."""
REQUEUE = "requeue"
"""A file in a job's folder: it wants to be started again and cannot tell Slurm itself."""


_TOLD: dict[str, Any] = {"title": str, "done": int, "total": int, "left": (int, float, NoneType), "remark": str}
_NOTED: dict[str, Any] = {
    "kind": str, "restart": (int, NoneType), "time": (int, float), "node": (str, NoneType), "why": (str, NoneType),
    "how": (str, NoneType), "pid": (int, NoneType),
}  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """A job that was sent. All of it is plain, as it stands in ``job.json``."""

    name: str
    id: str
    """Of Slurm, such as 123 or 123_4; of a job on this machine, its process."""
    folder: str
    words: tuple[str, ...]
    """Of the command, after ``pretint``."""
    where: str
    """The directory in which it was sent, and runs."""
    claims: str
    """What it alone may write to, if anything: a run."""
    after: tuple[str, ...]
    """Numbers of the jobs that must be complete before."""
    executor: str
    code: str
    """Folder of the code it runs."""
    asked: dict[str, Any] = field(default_factory=dict)
    submitted: float = 0.0
    """Seconds since 1970."""

    @property
    def identity(self) -> tuple[str, tuple[str, ...]]:
        """What is the same when the same command is sent again."""
        return self.where, self.words

    @property
    def log(self) -> Path:
        """What its first process printed."""
        return Path(self.folder).parent / LOGS / f"{self.id}_0_log.out"


def write_sent(sent: Sent) -> None:
    """Note down a job that was sent."""
    _write(Path(sent.folder) / "job.json", json.dumps(asdict(sent), indent=1))


def read_sent(jobs: Path) -> list[Sent]:
    """The jobs in a folder of jobs, in the order in which they were sent; ``unreadable`` are left out."""
    found = [sent for folder in _folders(jobs) if (sent := _read(folder))]
    return sorted(
        found, key=lambda sent: (sent.submitted, [int(part) for part in sent.id.split("_") if part.isdigit()])
    )


def unreadable(jobs: Path) -> list[Path]:
    """The files that should say what was sent, and do not."""
    return [folder / "job.json" for folder in _folders(jobs) if _read(folder) is None]


def _folders(jobs: Path) -> list[Path]:
    return [
        path.parent for path in jobs.glob("*/job.json") if re.fullmatch(r"D?[1-9][0-9]*(_[0-9]+)?", path.parent.name)
    ]


def _read(folder: Path) -> Sent | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        values = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        tuples = {name: tuple(map(str, values[name])) for name in ("words", "after")}
        sent = Sent(**{**values, **tuples, "folder": str(folder)})
        texts = (sent.name, sent.id, sent.where, sent.claims, sent.executor, sent.code)
        if all(isinstance(one, str) for one in texts) and sent.id == folder.name and math.isfinite(sent.submitted):
            return sent
    return None


def note(folder: Path, **record: Any) -> None:
    """Add a line to a job's attempts: whole, in one write, so that several processes may do it."""
    line = json.dumps({**record, "time": time.time()}) + "\n"
    file = os.open(folder / "attempts.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
        os.fsync(file)
    finally:
        os.close(file)


def attempts(folder: Path) -> list[Record]:
    """The lines of a job's attempts; one that was cut short is left out."""
    return list(_lines(folder / "attempts.jsonl"))


def progress(folder: Path) -> Record | None:
    """How far a job is, as it said last."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        said = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        if isinstance(said, dict):
            return {key: value for key, value in said.items() if _is(value, _TOLD.get(key, object))}
    return None


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (not isinstance(value, float) or math.isfinite(value))


def _lines(path: Path) -> Iterator[Record]:
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                record = json.loads(line)
                if isinstance(record, dict) and all(_is(record.get(key), kind) for key, kind in _NOTED.items()):
                    yield record


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
