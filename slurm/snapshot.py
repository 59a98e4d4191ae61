"""The code that a job runs: a copy of what is installed, made when the job is sent."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from slurm.cluster import ClusterError

_PARTS = ("pretint", "pretext", "transfer", "slurm", "configs")


def snapshot(jobs: Path) -> Path:
    """Copy the code that this process runs into a folder of jobs, once for every version of it.

    What is edited or upgraded after a job was sent does not change the job, nor its restarts.

    Raises:
        ClusterError: it cannot be written there.
    """
    root = Path(__file__).parents[1]
    files = sorted(_files(root))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(root)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    copy = jobs / ".code" / digest.hexdigest()[:16]
    if copy.is_dir():
        return copy
    made = copy.with_name(f"{copy.name}.{os.getpid()}.part")
    try:
        for file in files:
            there = made / file.relative_to(root)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, there)
        made.rename(copy)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        if copy.is_dir():  # another process was quicker
            return copy
        raise ClusterError(f"{jobs}: cannot write there ({error.strerror}); name another --folder") from error
    return copy


def frozen_words(words: Sequence[str], jobs: Path, keep: bool = True) -> tuple[str, ...]:
    """The words of a command with every ``--config FILE`` replaced by a copy, named by what is in it.

    Args:
        words: of the command.
        jobs: folder of the jobs, in which the copies lie.
        keep: whether to make them.

    Raises:
        ClusterError: a file cannot be copied.
    """
    found, before = [], ""
    for word in words:
        if before == "--config":
            found.append(str(frozen_file(Path(word), jobs, keep)))
        elif word.startswith("--config="):
            found.append(f"--config={frozen_file(Path(word.removeprefix('--config=')), jobs, keep)}")
        else:
            found.append(word)
        before = word
    return tuple(found)


def frozen_file(file: Path, jobs: Path, keep: bool = True) -> Path:
    """The copy of a file among the jobs, named by what is in it; arguments and errors as of ``frozen_words``."""
    try:
        content = file.read_bytes()
        copy = jobs.resolve() / ".given" / f"{file.stem}-{hashlib.sha256(content).hexdigest()[:8]}{file.suffix}"
        if keep and not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            part = copy.with_name(f".{copy.name}.{os.getpid()}")
            part.write_bytes(content)
            part.replace(copy)
    except OSError as error:
        raise ClusterError(f"{file}: cannot copy it to {jobs} ({error.strerror})") from error
    return copy


def _files(root: Path) -> Iterator[Path]:
    for name in _PARTS:
        part = root / name
        if part.is_file():
            yield part
        elif part.is_dir():
            yield from (file for file in part.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
