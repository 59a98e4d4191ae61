"""A file of records, one for each image, that only grows; a job that was stopped continues from it."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
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
        width: the length of a row; 0 for no rows.

    Raises (every method): UserError, the files cannot be read or written.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        identity: Mapping[str, Any],
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
                assert lines[0] == header.encode(), self.path
                for place, record in enumerate(map(json.loads, lines[1:])):
                    self._order[record["index"]], self._records[record["index"]] = place, record
            else:
                self._append(self.path, f"{header}\n".encode())
            if width:
                size = len(self) * width * 4
                with self._rows_path.open("ab") as file:
                    if file.tell() < size:  # a row is written before its line, but a power cut may lose it alone
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

    @staticmethod
    def _append(path: Path, content: bytes) -> None:
        with path.open("ab") as file:
            file.write(content)

    def _file_error(self, error: OSError) -> UserError:
        return UserError(
            f"{self.path}: cannot be read or written ({error.strerror}); free some disk space and run the command again"
        )


def slug(name: str) -> str:
    """Turn a name into a part of a file name: letters, digits, dots and dashes, at most 60."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60] or "x"
