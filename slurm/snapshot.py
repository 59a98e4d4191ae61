"""Copies of the code and the files for a job, made when the job is sent."""

import hashlib
import os
import shutil
from pathlib import Path

from slurm.cluster import ClusterError

_PARTS = ("pretint", "pretext", "transfer", "slurm", "configs")


def snapshot(jobs: Path) -> Path:
    """Copy the code that this process runs into a folder of jobs, once for every version of it.

    So later changes of the code do not change the job or its restarts.

    Raises:
        ClusterError: the folder cannot be written.
    """
    root = Path(__file__).parents[1]
    files: list[Path] = []
    for part in (root / name for name in _PARTS):
        if part.is_dir():
            files += (file for file in part.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    files.sort()
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(root)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    copy = jobs / ".code" / digest.hexdigest()[:16]
    if copy.is_dir():
        return copy
    part = copy.with_name(f"{copy.name}.{os.getpid()}.part")
    try:
        for file in files:
            target = part / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        part.rename(copy)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if copy.is_dir():  # another process was faster
            return copy
        raise ClusterError(f"{jobs}: cannot write there ({error.strerror}); name another --folder") from error
    return copy


def keep_file(name: str, content: bytes, jobs: Path, keep: bool = True) -> Path:
    """Return the path of a file in the folder of jobs; it is written, whole or not at all.

    Args:
        name: name of the file.
        content: its content.
        jobs: folder of the jobs.
        keep: whether to write it.

    Raises:
        ClusterError: it cannot be written.
    """
    file = jobs.resolve() / ".given" / name
    try:
        if keep:
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_name(f".{name}.{os.getpid()}")
            part.write_bytes(content)
            part.replace(file)
    except OSError as error:
        raise ClusterError(f"{jobs}: cannot write {name} there ({error.strerror}); name another --folder") from error
    return file


def freeze_file(file: Path, jobs: Path, keep: bool = True) -> Path:
    """Copy a file into the folder of jobs, named by its content; arguments and errors as of ``keep_file``."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ClusterError(f"{file}: cannot copy it to {jobs} ({error.strerror})") from error
    return keep_file(f"{file.stem}-{hashlib.sha256(content).hexdigest()[:8]}{file.suffix}", content, jobs, keep)
