"""The folder of a job, with plain text files on its command, its starts and its progress.

JOBS/59688114/           a folder for each job, named by its number (of an array: 59688114_3)
    job.json             the command line, its call file, the requested resources, the code
    attempts.jsonl       a line at every start and every end
    progress.json        how far the job is, written by the job itself
    requeue              exists for a moment if the job cannot requeue itself, see slurm.executors
JOBS/logs/59688114_0_log.out    its output, of all restarts (_1_, _2_: its other processes)
JOBS/.code/, .given/     the code and the call files that jobs were sent with
"""

import contextlib
import json
import os
import re
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

JobRecord = dict[str, Any]
LOGS = "logs"
AGAIN = 75
"""Exit code of a command that was stopped, has saved its state, and must be run again: EX_TEMPFAIL, as
``ExitStatus.PREEMPTED`` in pretext."""
STOPPED = (AGAIN, 128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGUSR2)
"""All exit codes of a command that was stopped."""
REQUEUE = "requeue"
"""The file in a job's folder that requests a requeue, if the job itself cannot."""


@dataclass(frozen=True)
class SentJob:
    """A job that was sent: the values in ``job.json``."""

    name: str
    id: str
    """Slurm's number, such as 123 or 123_4; for a job on this machine, its process."""
    folder: str
    line: str
    """Its command line, for people."""
    file: str
    """The call file that it runs: ``pretint run FILE``."""
    identity: str
    """A digest of the command and its settings."""
    where: str
    """The working directory of the submission and of the job."""
    claims: str
    """The run that only this job may write to; empty if there is none."""
    after: tuple[str, ...]
    """Numbers of the jobs that must be complete before it starts."""
    executor: str
    code: str
    """Folder of the code that it runs."""
    asked: dict[str, Any] = field(default_factory=dict)
    submitted: float = 0.0
    """Seconds since 1970."""

    @property
    def log(self) -> Path:
        """The log of its first process."""
        return Path(self.folder).parent / LOGS / f"{self.id}_0_log.out"


def write_sent(sent: SentJob) -> None:
    """Write the record of a job that was sent, atomically."""
    path = Path(sent.folder) / "job.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(sent), indent=1))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_sent(jobs: Path) -> list[SentJob]:
    """Return the jobs in a folder of jobs, in the order of sending; ``unreadable`` ones are left out."""
    sent = [job for folder in _folders(jobs) if (job := _read(folder))]
    return sorted(sent, key=lambda job: (job.submitted, [int(part) for part in job.id.split("_") if part.isdigit()]))


def unreadable(jobs: Path) -> list[Path]:
    """Return the records of sent jobs that cannot be read."""
    return [folder / "job.json" for folder in _folders(jobs) if _read(folder) is None]


def _folders(jobs: Path) -> list[Path]:
    return [
        path.parent for path in jobs.glob("*/job.json") if re.fullmatch(r"D?[1-9][0-9]*(_[0-9]+)?", path.parent.name)
    ]


def _read(folder: Path) -> SentJob | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        values = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        sent = SentJob(**{**values, "after": tuple(values["after"]), "folder": str(folder)})
        if sent.id == folder.name:
            return sent
    return None


def note(folder: Path, **record: Any) -> None:
    """Add a line to a job's attempts, in a single write, so that several processes may do it."""
    line = json.dumps({**record, "time": time.time()}) + "\n"
    file = os.open(folder / "attempts.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
        os.fsync(file)
    finally:
        os.close(file)


def attempts(folder: Path) -> list[JobRecord]:
    """Return the records of a job's attempts, without a truncated line."""
    records: list[JobRecord] = []
    with contextlib.suppress(OSError):
        for line in (folder / "attempts.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
    return records


def progress(folder: Path) -> JobRecord | None:
    """Return the progress that a job last wrote; None if there is none, or its file was truncated."""
    with contextlib.suppress(OSError, ValueError):
        record: JobRecord = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        return record
    return None
