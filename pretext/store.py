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

A record is a JSON object that is sealed: its last field is a digest of all before it. It is a file, or a line of a log,
which only grows: a line that a kill cut short is dropped when the log is opened again.

A table is a file of named arrays behind a sealed record, mapped into memory: an index, which is made again if it is
damaged. Most lie in the user's folder of caches, and may be deleted at any time.
"""

import contextlib
import fcntl
import functools
import hashlib
import itertools
import json
import mmap
import os
import re
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretext.engine import distributed
from pretext.engine.progress import say
from pretext.errors import UserError
from pretext.files import write_atomically

_MARK = b', "seal": "'
_DIGITS = 16
_PART = re.compile(rf"[^.].*\.[0-9a-f]{{{_DIGITS}}}\.\w+")
_POLL_SECONDS = 0.1
_LONGEST_HEAD = 2**20  # bytes of the first line of a table

Record = dict[str, Any]
"""A JSON object."""

LOCK = ".lock"
"""The name of the lock file of a folder."""


def to_json(value: Any) -> bytes:
    """Return plain values as JSON, always the same for equal values."""
    return json.dumps(value, sort_keys=True, default=str).encode()


def key_of(identity: Mapping[str, Any]) -> str:
    """Return the name of the folder of an artifact with this identity: 32 digits."""
    return hashlib.sha256(to_json(identity)).hexdigest()[:32]


def seal(record: Mapping[str, Any], indent: int | None = 1) -> bytes:
    """Return a record, of a field or more, with its digest as JSON; it must not have NaN or infinite values."""
    text = json.dumps(record, indent=indent, default=str, allow_nan=False).encode()[:-1].rstrip()
    return text + _MARK + _digest(text) + b'"}'


def unseal(content: bytes) -> Record:
    """Return the record that ``seal`` was given.

    Raises:
        ValueError: it is not a record, or its bytes do not match its digest.
    """
    text, _, digest = content.rstrip(b"\n").rpartition(_MARK)
    if digest != _digest(text) + b'"}':
        raise ValueError("it does not match its digest")
    record: Record = json.loads(text + b"}")
    return record


def to_line(record: Mapping[str, Any]) -> bytes:
    """Return a record, sealed, as a line of a log."""
    return seal(record, indent=None) + b"\n"


def read_lines(path: Path) -> tuple[list[Record], int]:
    """Return the undamaged records of a log, and the number of damaged lines; a last one that was cut short is neither.

    Raises:
        OSError: the file cannot be read.
    """
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    records = []
    for line in lines:
        with contextlib.suppress(ValueError):
            records.append(unseal(line))
    return records, len(lines) - len(records)


def _describe_change(stored: Mapping[str, Any] | None, identity: Mapping[str, Any]) -> str:
    """Return how a stored identity (None: it is damaged) differs from another, for a message; "" if it does not."""
    if stored is None:
        return "are damaged"
    names = [name for name in {**stored, **identity} if to_json(stored.get(name)) != to_json(identity.get(name))]
    return f"were made from other inputs ({', '.join(names)})" if names else ""


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest()[:_DIGITS].encode()


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
                stored = None
                with contextlib.suppress(FileNotFoundError, ValueError):
                    stored = unseal(path.read_bytes())
                if change := _describe_change(stored, self.identity):
                    if self._paths():
                        say(f"{self.folder}: these {self.title} {change}; making them again")
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
                if _digest_of_file(path, status.st_size, status.st_mtime_ns) == digest:
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
        self.path = path
        self.records, damaged = read_lines(path)
        if change := _describe_change(self.records[0].get("identity") if self.records else None, identity):
            if self.records or damaged:
                say(f"{path}: these {title} {change}; making them again")
            self.records = [{"identity": identity}]
        elif damaged:
            say(f"{path}: {damaged} of these {title} {'is' if damaged == 1 else 'are'} damaged; making them again")
        content = b"".join(map(to_line, self.records))
        if not path.exists() or path.read_bytes() != content:
            write_atomically(path, content)
        self.records = self.records[1:]

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add records at the end of the file. Raises OSError."""
        with self.path.open("ab") as file:
            file.write(b"".join(map(to_line, records)))


def cache_file(kind: str, name: bytes) -> Path:
    """Return the path of a table in the user's folder of caches; the hash of ``name`` is its file name.

    This is ``$XDG_CACHE_HOME/pretint/KIND``, ``~/.cache`` without that variable. Without a home it is no folder.
    """
    directory = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not directory.is_absolute():
        try:
            directory = Path.home() / ".cache"
        except RuntimeError:
            directory = Path(os.devnull)
    return directory / "pretint" / kind / hashlib.sha256(name).hexdigest()[:32]


def write_cached(path: Path, *table: Any) -> None:
    """Do ``write_table`` of a path and more arguments, if the disk has room and no other process does it just now."""
    with contextlib.suppress(UserError), lock(path.parent / LOCK, "writing there"):
        write_table(path, *table)


def write_table(
    path: Path, identity: Mapping[str, Any], columns: Mapping[str, NDArray[Any]], about: Any = None
) -> None:
    """Write arrays of one dimension to a file, atomically.

    Args:
        path: the file.
        identity: plain values: everything that the arrays depend on.
        columns: the arrays by name; those with the largest items must be the first.
        about: plain values that are kept beside the arrays.

    Raises:
        UserError: the file cannot be written.
    """
    parts = [array.tobytes() for array in columns.values()]
    crc = functools.reduce(lambda crc, part: zlib.crc32(part, crc), parts, 0)
    sizes = {name: [array.dtype.str, len(array)] for name, array in columns.items()}
    head = seal({"identity": identity, "columns": sizes, "about": about, "crc": crc}, indent=None)
    padding = b" " * (-(len(head) + 1) % 8)  # the arrays begin at a multiple of 8
    write_atomically(path, b"".join([padding, head, b"\n", *parts]))


def read_table(path: Path, identity: Mapping[str, Any] | None) -> tuple[dict[str, NDArray[Any]], Any] | None:
    """Return arrays of ``write_table``, mapped into memory, and the values beside them.

    All bytes are checked. The result is None if there is no such file, or if it is damaged or has another identity (any
    is right if ``identity`` is None).
    """
    try:
        with path.open("rb") as file:
            line = file.readline(_LONGEST_HEAD)
            head = unseal(line.lstrip(b" "))
            crc = 0
            while chunk := file.read(2**20):  # by reading: mapped pages would count as this process's memory
                crc = zlib.crc32(chunk, crc)
            if crc != head["crc"] or (identity is not None and to_json(head["identity"]) != to_json(identity)):
                return None
            data, start = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), len(line)
        columns = {}
        for name, (dtype, size) in head["columns"].items():
            columns[name] = np.frombuffer(data, dtype, size, start)
            start += columns[name].nbytes
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return columns, head["about"]


@functools.cache
def _digest_of_file(path: Path, size: int, changed: int) -> str:
    """Return the digest of a file; ``size`` and time of change tell whether it was read already."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]
