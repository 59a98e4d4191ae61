"""Data sets of the Hugging Face hub, and local ones in its formats: ``hf:imagenet-1k:train``.

Needs the extra ``pretint[hf]``. Pictures are taken by index from Arrow tables on disk, which all processes map
into memory together. The library, from its version 4 on, has no way left to run a data set's own code.
"""

import difflib
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pretext.errors import PictureError, UserError
from pretext.pictures.decode import decode
from pretext.pictures.labels import checked_labels
from pretext.pictures.source import LabelledSource, digest_of_keys

PREFIX = "hf:"
_NAME = re.compile(r"hf:(?P<data>[^:]+):(?:(?P<config>[^:]+):)?(?P<split>[^:\[\]]+(?:\[[^\[\]]*\])?)")
_LOCAL = "hf:FOLDER:SPLIT with a folder that save_to_disk wrote, or hf:FILE.parquet:SPLIT"


def open_hugging_face(name: str, labelled: bool) -> LabelledSource | None:
    """A data set in Hugging Face's formats; None where the name is of another kind.

    Args:
        name: ``hf:DATA:SPLIT`` or ``hf:DATA:CONFIG:SPLIT``. DATA is a folder that ``save_to_disk`` wrote, a
            parquet file, a folder of those, or a name on the hub.
        labelled: whether every picture must have a label.

    Raises:
        UserError: no such data, split or hub; no column of pictures; labels are asked for and missing.
    """
    if not name.startswith(PREFIX):
        return None
    parts = _NAME.fullmatch(name)
    if not parts:
        raise UserError(f"{name}: write hf:DATA:SPLIT or hf:DATA:CONFIG:SPLIT, such as hf:imagenet-1k:train")
    try:
        import datasets
    except ImportError as problem:
        raise UserError(f"{name}: needs Hugging Face's library; pip install 'pretint[hf]'") from problem
    data, config, split = parts["data"], parts["config"], parts["split"]
    table = _table(datasets, name, data, config, split)
    if not len(table):
        raise UserError(f"{name}: the split is empty; take another")
    features = table.features
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    if not images:
        raise UserError(f"{name}: no column of pictures (of the type Image); there are {', '.join(features)}")
    column = "image" if "image" in images else images[0]
    named = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    label = "label" if "label" in named else named[0] if named else None
    if labelled and label is None:
        raise UserError(f"{name}: no column of labels (of the type ClassLabel); there are {', '.join(features)}")
    pictures = table.select_columns([column]).cast_column(column, datasets.Image(decode=False)).with_format(None)
    given = table.select_columns([label]).with_format(None) if label else None
    shown = "/".join(filter(None, [Path(data).name, config, split]))
    source = HuggingFace(name, pictures, shown, given, list(features[label].names) if label else [])
    if labelled:
        assert len(source.labels) == len(source), name  # raises where there are none
    return source


class HuggingFace:
    """Pictures in an Arrow table: a labelled source. Made by ``open_hugging_face``.

    Args:
        name: as the user wrote it.
        pictures: a ``datasets.Dataset`` of one column, of type ``Image(decode=False)``.
        shown: what keys begin with.
        given: the same of one column of labels, if there is any.
        classes: the names of these.
    """

    def __init__(self, name: str, pictures: Any, shown: str, given: Any, classes: list[str]) -> None:
        self._name, self._shown, self._classes = name, shown, classes
        self._pictures, self._given = pictures, given
        (self._column,) = pictures.column_names

    def __len__(self) -> int:
        """How many pictures."""
        return len(self._pictures)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        """Picture ``index``: mode RGB, upright; ``shorter`` as in `decode`.

        Raises:
            PictureError: it is missing, cannot be read or cannot be decoded.
        """
        key = self.key(index)
        try:
            cell = self._pictures[index][self._column] or {}
            data = cell.get("bytes")
            if data is None and cell.get("path"):  # made from files, and these not taken in
                data = Path(cell["path"]).read_bytes()
        except FileNotFoundError as problem:
            raise PictureError(key, f"the file {problem.filename} is gone since the data set was made") from problem
        except (OSError, MemoryError, ValueError) as problem:  # Arrow's own errors are among these
            raise PictureError(key, f"cannot be read: {' '.join(str(problem).split())}") from problem
        if data is None:
            raise PictureError(key, "the data set has no picture here")
        return decode(data, key, shorter)

    def key(self, index: int) -> str:
        """Data set, split and row: ``imagenet-1k/train/0000042``."""
        assert 0 <= index < len(self), index
        return f"{self._shown}/{index:07}"

    def digest(self) -> str:
        """See ``Source.digest``."""
        return digest_of_keys(self)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by label."""
        return self._classes

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The label of every picture, by index: (N,).

        Raises:
            UserError: there are none.
        """
        given = [None] * len(self)
        if self._given is not None:
            given = self._given[:][self._given.column_names[0]]
        return checked_labels(self._name, given, self._classes)


def _table(datasets: Any, name: str, data: str, config: str | None, split: str) -> Any:
    """The split as a ``datasets.Dataset``."""
    path = Path(data)
    try:
        path = path.expanduser()
        there = path.exists()
    except (OSError, RuntimeError):  # denied, or ~nobody
        there = False
    if not there and (data[0] in "./~" or data.count("/") > 1 or data.endswith(".parquet")):
        raise UserError(f"{name}: no such file or folder as {data}; write {_LOCAL}")
    if not there and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", data):
        raise UserError(f"{name}: {data} is neither a file nor a name that the hub could have; write {_LOCAL}")
    if there and path.is_file() and not _is_parquet(path):
        raise UserError(f"{name}: {data} is no parquet file; write {_LOCAL}")
    try:
        if not there:
            return datasets.load_dataset(data, config, split=split)
        if path.is_file():
            return datasets.load_dataset("parquet", data_files={split.split("[")[0]: str(path)}, split=split)
        if not (path / "dataset_dict.json").exists() and not (path / "state.json").exists():
            return datasets.load_dataset(str(path), config, split=split)
        saved = datasets.load_from_disk(str(path))
    except (ConnectionError, TimeoutError) as problem:
        raise UserError(
            f"{name}: the hub cannot be reached ({_line(problem)}), and no copy of {data} is kept here; "
            f"a local one would do instead: {_LOCAL}"
        ) from problem
    except Exception as problem:  # the library lets through what its readers and the network raise
        hint = f"; or give a local copy: {_LOCAL}" if not there else ""
        raise UserError(f"{name}: {_line(problem)}{hint}") from problem
    if isinstance(saved, dict):
        if split in saved:
            return saved[split]
        near = difflib.get_close_matches(split, saved, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{name}: no split {split} in it: there are {', '.join(saved)}{meant}")
    own = str(saved.split or split)
    if own != split:
        raise UserError(f"{name}: it holds the split {own}, not {split}")
    return saved


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split()).rstrip(".") or type(problem).__name__
