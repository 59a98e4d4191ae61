"""A file of records, one for each image, that only grows: a job that was stopped goes on from it."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretext.errors import UserError
from pretint.colorization.merge import Float32Array

ScoreRecord = dict[str, Any]


class Ledger:
    """Records by image, a line of JSON each, and for each a row of numbers, if there is a ``width``.

    The first line is the identity. The rows are in a second file, float32, in the order of the lines. A
    row is written before its line, so that each line has a row. What a kill cut short is removed when the
    ledger is opened again.

    Args:
        folder: the folder of the files; made if it does not exist.
        name: the start of the file names; the hash of the identity is added.
        identity: plain values: everything that a record depends on, except the image.
        is_valid: checks the fields of a record that was read, except its index.
        width: the length of a row; 0 for no rows.

    Raises (every method): UserError, the files cannot be read or written, or have been edited.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        identity: Mapping[str, Any],
        is_valid: Callable[[ScoreRecord], bool] = lambda record: True,
        width: int = 0,
    ) -> None:
        header = json.dumps({"identity": identity}, sort_keys=True)
        stem = f"{slug(name)}-{hashlib.sha256(header.encode()).hexdigest()[:12]}"
        self.path, self._rows_path, self.width = folder / f"{stem}.jsonl", folder / f"{stem}.f32", width
        self._records: dict[int, ScoreRecord] = {}
        self._order: dict[int, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            content = self.path.read_bytes() if self.path.exists() else b""
            end = content.rfind(b"\n") + 1
            if end < len(content):  # a kill cut the last line short
                with self.path.open("r+b") as file:
                    file.truncate(end)
            if lines := content[:end].splitlines():
                self._read(lines, header, is_valid)
            else:
                self._append(self.path, f"{header}\n".encode())
            if width:
                size = len(self) * width * 4
                with self._rows_path.open("ab") as file:
                    if file.tell() < size:  # not the work of a kill: a row is written before its line
                        raise UserError(f"{self._rows_path}: shorter than {self.path.name} says; remove both files")
                    file.truncate(size)
        except OSError as error:
            raise self._file_error(error) from error

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, index: int) -> bool:
        return index in self._records

    def __getitem__(self, index: int) -> ScoreRecord:
        return self._records[index]

    def add(self, records: Sequence[ScoreRecord], rows: Float32Array | None = None) -> None:
        """Append records, and their rows, (len(records), width)."""
        assert (rows is not None and rows.shape == (len(records), self.width)) if self.width else rows is None
        try:
            if rows is not None:
                self._append(self._rows_path, np.ascontiguousarray(rows, "<f4").tobytes())
            text = "".join(f"{json.dumps(record, allow_nan=False)}\n" for record in records)
            self._append(self.path, text.encode())
        except OSError as error:
            raise self._file_error(error) from error
        for record in records:
            self._order[record["index"]] = len(self._records)
            self._records[record["index"]] = record

    def rows(self, indices: Sequence[int]) -> Float32Array:
        """Return the rows of these images: (len(indices), width)."""
        if not indices:
            return np.empty((0, self.width), np.float32)
        stored = np.memmap(self._rows_path, "<f4", "r", shape=(len(self), self.width))
        return np.asarray(stored[[self._order[index] for index in indices]], np.float32)

    def _read(self, lines: Sequence[bytes], header: str, is_valid: Callable[[ScoreRecord], bool]) -> None:
        if lines[0] != header.encode():
            raise self._edit_error(1)
        for number, line in enumerate(lines[1:], 2):
            try:
                record = json.loads(line)
                if not isinstance(record, dict) or type(index := record.get("index")) is not int or index < 0:
                    raise ValueError
                if index in self._records or not is_valid(record):
                    raise ValueError
            except ValueError as error:
                raise self._edit_error(number) from error
            self._order[index], self._records[index] = number - 2, record

    @staticmethod
    def _append(path: Path, content: bytes) -> None:
        with path.open("ab") as file:
            file.write(content)

    def _edit_error(self, number: int) -> UserError:
        return UserError(f"{self.path}: pretint score did not write line {number}; remove the file to score again")

    def _file_error(self, error: OSError) -> UserError:
        return UserError(
            f"{self.path}: cannot be read or written ({error.strerror}); free some disk space and run the command again"
        )


def slug(name: str) -> str:
    """Turn a name into a part of a file name: letters, digits, dots and dashes, at most 60."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60] or "x"
