"""What jobs leave on the disk, and how it is found again.

An artifact is a folder. Its identity, plain values that its content depends on, is in ``identity.json``. It is filled
part by part: a part is a file that has the digest of its bytes in its name, and gets this name when it is complete. So
a kill at any moment leaves complete parts, the same part written twice is one file, and a part whose bytes do not match
its name is damaged. Damaged parts do not count; the caller makes them again.

NAME.0123456789abcdef.ENDING   a part: name, first 16 digits of the SHA-256 of its bytes, ending
identity.json                  the identity, sealed
.lock                          held by the process that fills the artifact
.*.part                        a part that is being written

An artifact holds large parts, such as features or half-trained classifiers, which are read by name or mapped into
memory. A log holds many small records, which are read whole and appended one by one: a file for each would be slow.

A record is a JSON object that is sealed: it holds a digest of its other fields. It is a file, or a line of a log, which
only grows: a line that a kill cut short is dropped when the log is opened again.
"""

import contextlib
import fcntl
import functools
import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pretext.engine import distributed
from pretext.engine.progress import say
from pretext.errors import UserError
from pretext.files import write_atomically

SEAL = "seal"
"""The field of a record that holds the digest of the others."""

_DIGITS = 16
_PART = re.compile(rf"[^.].*\.[0-9a-f]{{{_DIGITS}}}\.\w+")
_POLL_SECONDS = 0.1

LOCK = ".lock"
"""The name of the lock file of a folder."""


def to_json(value: Any) -> bytes:
    """Return plain values as JSON, always the same for equal values."""
    return json.dumps(value, sort_keys=True, default=str).encode()


def key_of(identity: Mapping[str, Any]) -> str:
    """Return the name of the folder of an artifact with this identity: 32 digits."""
    return hashlib.sha256(to_json(identity)).hexdigest()[:32]


def seal(record: Mapping[str, Any], indent: int | None = 1) -> bytes:
    """Return a record with its digest as JSON; it must not have NaN or infinite values."""
    sealed = {**record, SEAL: _seal_of(record)}
    return json.dumps(sealed, indent=indent, default=str, allow_nan=False).encode()


def unseal(content: bytes) -> dict[str, Any]:
    """Return the record that ``seal`` was given.

    Raises:
        ValueError: it is not a record, or its fields do not match its digest.
    """
    record = json.loads(content)
    if not isinstance(record, dict) or record.pop(SEAL, None) != _seal_of(record):
        raise ValueError("it does not match its digest")
    return record


def _seal_of(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json(record)).hexdigest()[:_DIGITS]


@contextlib.contextmanager
def lock(
    file: Path,
    busy: str,
    wait: bool = False,
    check: Callable[[], object] = lambda: None,
    advice: str = "choose another folder",
) -> Iterator[None]:
    """Hold the lock of a file while the context lasts. The file and its folder are made if they do not exist.

    Args:
        file: the file.
        busy: what a process does that holds the lock: "working on this run".
        wait: wait for that process, and say so once; otherwise it is an error.
        check: called while it waits; it may raise.
        advice: what to do if the file cannot be written, for the error.

    Raises:
        UserError: the file cannot be written or locked, or another process holds the lock.
    """
    folder = file.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = file.open("a")
    except OSError as error:
        raise UserError(f"{folder}: cannot write there ({error.strerror}); {advice}") from error
    with opened:
        for attempt in itertools.count():
            try:
                # Not flock: workers inherit it, and they live for some seconds after a kill of this process.
                fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError) as error:  # POSIX allows both
                if not wait:
                    raise UserError(f"{folder}: another process is {busy}; wait for it or stop it") from error
                if not attempt and distributed.local_rank() == 0:
                    say(f"{folder}: another process is {busy}; waiting for it")
            except OSError as error:
                raise UserError(
                    f"{folder}: cannot be locked ({error.strerror}); {advice}, on a file system that supports locks"
                ) from error
            check()
            time.sleep(_POLL_SECONDS)
        yield


class PartWriter:
    """A part that is being written, piece by piece. ``commit`` gives it its name.

    Raises (every method): OSError.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f".{name}.part"  # always the same name: it replaces what a killed process left
        self._path.unlink(missing_ok=True)
        self._file, self._digest = self._path.open("xb"), hashlib.sha256()

    def write(self, content: bytes | memoryview) -> None:
        """Append bytes."""
        self._file.write(content)
        self._digest.update(content)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

    def commit(self, name: str, ending: str) -> Path:
        """Bring the bytes to the disk, and give the part its name. Return its path."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._path.replace(self._path.with_name(f"{name}.{self._digest.hexdigest()[:_DIGITS]}.{ending}"))

    def close(self) -> None:
        """Drop the part, if it was not committed."""
        with contextlib.suppress(OSError):  # a full disk, which was reported already
            self._file.close()
        self._path.unlink(missing_ok=True)


class Artifact:
    """A folder that a job fills, see above.

    Args:
        folder: where it is, or will be.
        identity: plain values: everything that its content depends on.
        title: what it holds, for messages: "cached features".
        advice: what to do if it cannot be read or written, for errors: "name another cache folder".
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], title: str, advice: str) -> None:
        self.folder, self.identity, self.title, self.advice = folder, identity, title, advice

    @contextlib.contextmanager
    def open(self, busy: str, check: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Lock it while the context lasts; wait for a process that has it. Parts of another identity are removed.

        Args:
            busy: what a process does that has it open: "computing these features".
            check: called while it waits; it may raise.

        Raises:
            UserError: it cannot be read, written or locked.
        """
        with lock(self.folder / LOCK, busy, wait=True, check=check, advice=self.advice):
            path = self.folder / "identity.json"
            with self._errors("read"):
                try:
                    is_same = to_json(unseal(path.read_bytes())) == to_json(self.identity)
                except (FileNotFoundError, ValueError):
                    is_same = False
                if not is_same:
                    if self._paths():
                        say(f"{self.folder}: these {self.title} do not match, or are damaged; making them again")
                    self.keep(())
                    write_atomically(path, seal(self.identity))
            yield

    def parts(self) -> dict[str, Path]:
        """Return the undamaged parts by name, and say how many are damaged. A file is read once in a process.

        Raises:
            UserError: a part cannot be read.
        """
        undamaged: dict[str, Path] = {}
        damaged = 0
        with self._errors("read"):
            for path in self._paths():
                name, digest, _ = path.name.rsplit(".", 2)
                status = path.stat()
                if _digest(path, status.st_size, status.st_mtime_ns) == digest:
                    undamaged.setdefault(name, path)
                else:
                    damaged += 1
        if damaged:
            count = "1 file of these" if damaged == 1 else f"{damaged} files of these"
            verb = "is" if damaged == 1 else "are"
            say(f"{self.folder}: {count} {self.title} {verb} damaged; making them again")
        return undamaged

    def write(self, name: str, ending: str, content: bytes) -> Path:
        """Write a part. Return its path. Raises UserError if it cannot be written."""
        with self.writer(name) as writer:
            writer.write(content)
            return writer.commit(name, ending)

    @contextlib.contextmanager
    def writer(self, name: str) -> Iterator[PartWriter]:
        """Yield a part to write, which is dropped if it was not committed. Raises UserError if it cannot be written."""
        with self._errors("written"), contextlib.closing(PartWriter(self.folder, name)) as writer:
            yield writer

    def keep(self, paths: Collection[Path]) -> None:
        """Remove all other parts, and what a killed process was writing. Only the process that has it open may."""
        for path in [*self._paths(), *self.folder.glob(".*.part")]:
            if path not in paths:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        remedy = "remove the folder" if verb == "read" else "free some disk space"
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.folder}: {self.title} cannot be {verb} ({error.strerror}); {remedy}, or {self.advice}"
            ) from error

    def _paths(self) -> list[Path]:
        """Return the paths of all parts, damaged or not."""
        return [path for path in sorted(self.folder.glob("*.*.*")) if _PART.fullmatch(path.name)]


class Log:
    """A file of records that only grows. Only one process may use it at a time.

    Its first line is the identity of the others. A log of another identity begins anew.

    Args:
        path: the file; its folder must exist.
        identity: plain values: everything that the records depend on.
        title: what it holds, for messages: "scores".

    Raises:
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], title: str) -> None:
        self.path, self.records = path, list[dict[str, Any]]()
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        undamaged = []
        for line in lines:
            with contextlib.suppress(ValueError):
                if line.endswith(b"\n"):
                    self.records.append(unseal(line))
                    undamaged.append(line)
        if not self.records or to_json(self.records[0]) != to_json({"identity": identity}):
            if lines:
                say(f"{path}: these {title} do not match, or are damaged; making them again")
            self.records, undamaged = [], [_line({"identity": identity})]
        elif damaged := sum(line.endswith(b"\n") for line in lines) - len(undamaged):
            say(f"{path}: {damaged} of these {title} {'is' if damaged == 1 else 'are'} damaged; making them again")
        if lines != undamaged:
            write_atomically(path, b"".join(undamaged))
        self.records = self.records[1:]

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add records at the end of the file. Raises OSError."""
        with self.path.open("ab") as file:
            file.write(b"".join(_line(record) for record in records))


def _line(record: Mapping[str, Any]) -> bytes:
    return seal(record, indent=None) + b"\n"


@functools.cache
def _digest(path: Path, size: int, changed: int) -> str:
    """Return the digest of a file; ``size`` and time of change tell whether it was read already."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]
