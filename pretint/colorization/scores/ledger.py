"""Records of images, which are kept as they are made; a job that was stopped continues from them."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pretext.errors import UserError
from pretext.store import Log, key_of
from pretint.colorization.merge import Float32Array

ScoreRecord = dict[str, Any]


class Ledger:
    """A record for each image, and for each record a row of numbers, if there is a ``width``.

    Args:
        folder: the folder of its file; made if it does not exist.
        name: the start of the file's name; the hash of the identity is added.
        identity: plain values: everything that a record depends on, except the image.
        width: the length of a row; 0 for no rows.

    Raises (every method): UserError, the file cannot be read or written.
    """

    def __init__(self, folder: Path, name: str, identity: Mapping[str, Any], width: int = 0) -> None:
        self.path, self.width = folder / f"{slug(name)}-{key_of(identity)[:12]}.jsonl", width
        self._records: dict[int, ScoreRecord] = {}
        self._rows: dict[int, Float32Array] = {}
        with self._errors():
            folder.mkdir(parents=True, exist_ok=True)
            self._log = Log(self.path, identity, "scores")
        for record in self._log.records:
            if width:
                self._rows[record["index"]] = np.frombuffer(base64.b64decode(record.pop("row")), "<f4")
            self._records[record["index"]] = record

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, index: int) -> bool:
        return index in self._records

    def __getitem__(self, index: int) -> ScoreRecord:
        return self._records[index]

    def add(self, records: Sequence[ScoreRecord], rows: Float32Array | None = None) -> None:
        """Append records, and their rows, (len(records), width)."""
        lines: Sequence[ScoreRecord] = records
        if self.width:
            assert rows is not None and rows.shape == (len(records), self.width)
            texts = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows]
            lines = [{**record, "row": text} for record, text in zip(records, texts, strict=True)]
            self._rows |= {record["index"]: np.array(row) for record, row in zip(records, rows, strict=True)}
        with self._errors():
            self._log.append(lines)
        self._records |= {record["index"]: record for record in records}

    def rows(self, indices: Sequence[int]) -> Float32Array:
        """Return the rows of these images: (len(indices), width)."""
        return np.array([self._rows[index] for index in indices], np.float32).reshape(-1, self.width)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be read or written ({error.strerror}); free some disk space and run the command "
                "again"
            ) from error


def slug(name: str) -> str:
    """Turn a name into a part of a file name: letters, digits, dots and dashes, at most 60."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60] or "x"
