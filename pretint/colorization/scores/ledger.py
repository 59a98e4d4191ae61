"""What is known of each image, in a file that only grows: a stopped scoring goes on from it."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretext.errors import UserError

Record = dict[str, Any]
Floats = NDArray[np.float32]


class Ledger:
    """Records by image, a line of JSON each, and for each a row of numbers, if there is a ``width``.

    The first line is the identity: of what, how. The rows lie in a second file, float32, in the order of the lines. A
    row is written before its line, so that a line says that its row is there; what a kill cut short is dropped when
    the ledger is opened again.

    Args:
        folder: of the files; made if it does not exist.
        name: for people; the identity's hash is added to it.
        identity: plain values; everything that a record depends on but the image.
        whole: whether a record that was read is one that was written, beyond its index.
        width: of the rows; 0 for none.

    Raises (every method): UserError, the files cannot be read or written, or have been edited.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        identity: Mapping[str, Any],
        whole: Callable[[Record], bool] = lambda record: True,
        width: int = 0,
    ) -> None:
        head = json.dumps({"identity": identity}, sort_keys=True)
        stem = f"{slug(name)}-{hashlib.sha256(head.encode()).hexdigest()[:12]}"
        self.path, self._rows_path, self.width = folder / f"{stem}.jsonl", folder / f"{stem}.f32", width
        self._records: dict[int, Record] = {}
        self._order: dict[int, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lines = self._kept_lines()
            if lines:
                self._read(lines, head, whole)
            else:
                self._append(self.path, f"{head}\n".encode())
            if width:
                self._trim_rows()
        except OSError as error:
            raise self._unwritten(error) from error

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, index: int) -> bool:
        return index in self._records

    def __getitem__(self, index: int) -> Record:
        return self._records[index]

    def add(self, records: Sequence[Record], rows: Floats | None = None) -> None:
        """Append records, and their rows, (len(records), width)."""
        assert (rows is not None and rows.shape == (len(records), self.width)) if self.width else rows is None
        try:
            if rows is not None:
                self._append(self._rows_path, np.ascontiguousarray(rows, "<f4").tobytes())
            text = "".join(f"{json.dumps(record, allow_nan=False)}\n" for record in records)
            self._append(self.path, text.encode())
        except OSError as error:
            raise self._unwritten(error) from error
        for record in records:
            self._order[record["index"]] = len(self._records)
            self._records[record["index"]] = record

    def rows(self, indices: Sequence[int]) -> Floats:
        """(len(indices), width): the rows of these images."""
        if not indices:
            return np.empty((0, self.width), np.float32)
        stored = np.memmap(self._rows_path, "<f4", "r", shape=(len(self), self.width))
        return np.asarray(stored[[self._order[index] for index in indices]], np.float32)

    def _kept_lines(self) -> list[bytes]:
        """The whole lines; what follows the last of them is cut off."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self.path.open("r+b") as file:
                file.truncate(whole)
        return content[:whole].splitlines()

    def _read(self, lines: Sequence[bytes], head: str, whole: Callable[[Record], bool]) -> None:
        if lines[0] != head.encode():
            raise self._edited(1)
        for number, line in enumerate(lines[1:], 2):
            try:
                record = json.loads(line)
                if not isinstance(record, dict) or type(index := record.get("index")) is not int or index < 0:
                    raise ValueError
                if index in self._records or not whole(record):
                    raise ValueError
            except (ValueError, RecursionError) as error:
                raise self._edited(number) from error
            self._order[index], self._records[index] = number - 2, record

    def _trim_rows(self) -> None:
        """Rows without a line are cut off; a line without a row is the work of somebody else."""
        wanted = len(self) * self.width * 4
        with self._rows_path.open("ab") as file:
            if file.tell() < wanted:
                raise UserError(f"{self._rows_path}: shorter than {self.path.name} says; remove both files")
            file.truncate(wanted)

    @staticmethod
    def _append(path: Path, content: bytes) -> None:
        with path.open("ab") as file:
            file.write(content)

    def _edited(self, number: int) -> UserError:
        return UserError(f"{self.path}: line {number} is none that pretint score wrote; remove the file to score anew")

    def _unwritten(self, error: OSError) -> UserError:
        return UserError(f"{self.path}: cannot be read or written ({error.strerror}); make room and call again")


def slug(name: str) -> str:
    """A name as part of a file's name: letters, digits, dots and dashes, at most 60."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60] or "x"
