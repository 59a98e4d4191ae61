"""Datasets of the Hugging Face hub, and local ones in its formats: ``hf:imagenet-1k:train``.

This needs the extra ``pretint[hf]``. Images are read by index from Arrow tables on disk. All processes share these in
memory. Version 4 and later of the library cannot run a dataset's code.

An image is encoded bytes, or a struct of ``bytes`` and ``path`` (one of them may be missing). The column need not have
Hugging Face's type ``Image``: pandas and pyarrow write columns without it.
"""

import contextlib
import difflib
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pretext.data.decode import decode
from pretext.data.duplicates import stamp_files
from pretext.data.source import UNLABELED, LabeledDataset, check_labels, compose, compose_classes, digest_of_keys
from pretext.errors import ImageError, UserError, one_line

_PART = r"[^:\[\]()+]+(?:\[[^\[\]]*\])?(?:\([^()]*\))?"
_NAME = re.compile(rf"hf:(?P<data>[^:]+):(?:(?P<config>[^:]+):)?(?P<split>{_PART}(?:\+{_PART})*)")
_LOCAL = "hf:FOLDER:SPLIT with a folder that save_to_disk wrote, or hf:FILE.parquet:SPLIT"

_BYTES = ("binary", "large_binary")
_WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool", "string", "large_string")


def open_hugging_face(name: str) -> LabeledDataset:
    """Open a dataset in Hugging Face's formats.

    Args:
        name: ``hf:DATA:SPLIT`` or ``hf:DATA:CONFIG:SPLIT``. DATA is a folder that ``save_to_disk`` wrote, a
            parquet file, a folder of those, or a name on the hub. SPLIT may have slices and sums, as in the
            library: ``train[:70%]``, ``train[-5:]``, ``train+test``.

    Raises:
        UserError: there is no such dataset, configuration or split, the hub cannot be reached, or there is no column of
            images.
    """
    parts = _NAME.fullmatch(name)
    if not parts:
        raise UserError(f"{name}: write hf:DATA:SPLIT or hf:DATA:CONFIG:SPLIT, such as hf:imagenet-1k:train")
    try:
        import datasets
    except ImportError as problem:
        raise UserError(f"{name}: needs Hugging Face's library; pip install 'pretint[hf]'") from problem
    data, config, split = parts["data"], parts["config"], parts["split"]
    table = _load_split(datasets, name, data, config, split)
    if not len(table):
        raise UserError(f"{name}: the split is empty; give another")
    prefix = "/".join(filter(None, [Path(data).name, config, split]))
    return HuggingFace(name, table, prefix)


class HuggingFace:
    """A labeled source of images in an Arrow table. ``open_hugging_face`` makes it.

    Args:
        name: as the user wrote it.
        table: a ``datasets.Dataset``, see ``find_image_column`` and ``find_label_column``.
        prefix: the first part of all keys.
    """

    def __init__(self, name: str, table: Any, prefix: str) -> None:
        self._name, self._prefix, self._columns = name, prefix, ", ".join(table.features)
        self._images = table.select_columns([find_image_column(name, table.features)])
        label = find_label_column(table.features)
        self._labels = table.select_columns([label]) if label else None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        """Return image ``index``: mode RGB, upright; ``shorter`` as in `decode`.

        Raises:
            ImageError: it is missing, cannot be read or cannot be decoded.
        """
        return decode(self.read_bytes(index), self.key(index), shorter)

    def stamps(self) -> NDArray[np.int64]:
        """See ``StoredDataset.stamps``; the time is that of the Arrow files."""
        return stamp_rows(self._images)

    def read_bytes(self, index: int, start: int = 0, stop: int | None = None) -> bytes:
        """See ``StoredDataset.read_bytes``; raises as ``read``."""
        key = self.key(index)
        try:
            content, path = read_cell(self._images, index)
            if content is not None:
                return bytes(content[start:stop])
            if path:  # the table refers to files
                return Path(path).read_bytes()[start:stop]
        except FileNotFoundError as problem:
            raise ImageError(key, f"the file {problem.filename} is gone since the dataset was made") from problem
        except (OSError, MemoryError, ValueError) as problem:  # Arrow's own errors are among these
            raise ImageError(key, f"cannot be read: {' '.join(str(problem).split())}") from problem
        raise ImageError(key, "the dataset has no image here")

    def key(self, index: int) -> str:
        """Return dataset, split and row: ``imagenet-1k/train/0000042``."""
        assert 0 <= index < len(self), index
        return f"{self._prefix}/{index:07}"

    def digest(self) -> str:
        """See ``ImageDataset.digest``."""
        return digest_of_keys(self)

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes, by label: those of the type ClassLabel, else the sorted labels."""
        return self._encoded[1]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Return the label of every image, by index: (N,).

        Raises:
            UserError: there are none.
        """
        if self._labels is None:
            raise UserError(
                f"{self._name}: no column of labels (of type ClassLabel, or of integers or texts with the name label); "
                f'there are {self._columns}; make one with dataset.class_encode_column("COLUMN")'
            )
        return check_labels(self._name, self._encoded[0].tolist(), self.classes)

    @cached_property
    def _encoded(self) -> tuple[NDArray[np.int64], list[str]]:
        if self._labels is None:
            return np.full(len(self), UNLABELED), []
        ((_, feature),) = self._labels.features.items()
        names = getattr(feature, "names", None)
        classes = None if names is None else compose_classes(self._name, names)
        return encode_labels(self._labels.with_format("arrow")[:].column(0), classes)


def _load_split(datasets: Any, name: str, data: str, config: str | None, split: str) -> Any:
    """Return the split as a ``datasets.Dataset``."""
    path = Path(data)
    try:
        path = path.expanduser()
        exists = path.exists()
    except (OSError, RuntimeError):  # denied, or ~nobody
        exists = False
    if not exists and (data[0] in "./~" or data.count("/") > 1 or data.endswith(".parquet")):
        raise UserError(f"{name}: no file or folder {data}; write {_LOCAL}")
    if not exists and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", data):
        raise UserError(f"{name}: {data} is not a file and not a valid name on the hub; write {_LOCAL}")
    if exists and path.is_file():
        magic = b""
        with contextlib.suppress(OSError), path.open("rb") as file:
            magic = file.read(4)
        if magic != b"PAR1":
            raise UserError(f"{name}: {data} is not a parquet file; write {_LOCAL}")
    is_saved = exists and any((path / file).exists() for file in ("dataset_dict.json", "state.json"))
    try:
        if is_saved:
            # A folder of save_to_disk; the library can only load it as a whole.
            saved = datasets.load_from_disk(str(path))
            if isinstance(saved, dict):
                splits = dict(saved)
            else:  # a dataset without a name of its split accepts any one name
                splits = {str(saved.split) if saved.split else _only_split(name, split): saved}
            _require_no_config(name, config, next(iter(splits.values())).config_name if splits else None)
            if split in splits:
                return splits[split]
            unknown = [word for word in _split_names(split) if word not in splits]
            if unknown and not isinstance(saved, dict):
                raise UserError(f"{name}: it has the split {saved.split}, not {unknown[0]}")
            if unknown:
                near = difflib.get_close_matches(unknown[0], splits, 1)
                meant = f"; did you mean {near[0]}?" if near else ""
                raise UserError(f"{name}: no split {unknown[0]} in it: there are {', '.join(splits)}{meant}")
            sizes = {word: len(table) for word, table in splits.items()}
            parts = datasets.ReadInstruction.from_spec(split).to_absolute(sizes)
            tables = [splits[part.splitname].select(range(part.from_, part.to)) for part in parts]
            return tables[0] if len(tables) == 1 else datasets.concatenate_datasets(tables)
        if exists and path.is_file():
            _require_no_config(name, config, None)
            return datasets.load_dataset("parquet", data_files={_only_split(name, split): str(path)}, split=split)
        return datasets.load_dataset(str(path) if exists else data, config, split=split)
    except UserError:
        raise
    except (ConnectionError, TimeoutError) as problem:
        raise UserError(
            f"{name}: the hub cannot be reached ({one_line(problem)}), and there is no local copy of {data}; "
            f"try again, or give a local dataset: {_LOCAL}"
        ) from problem
    except Exception as problem:  # the library passes on all errors of its readers and of the network
        hint = f"; or give a local copy: {_LOCAL}" if not exists else ""
        raise UserError(f"{name}: {one_line(problem)}{hint}") from problem


def _split_names(split: str) -> list[str]:
    """Return the names in ``train[:10]+test``."""
    return [re.split(r"[\[(]", part)[0].strip() for part in split.split("+")]


def _only_split(name: str, split: str) -> str:
    """Return the user's name for the only split of a dataset without splits."""
    names = list(dict.fromkeys(_split_names(split)))
    if len(names) > 1:
        raise UserError(f"{name}: it has no splits, so {' and '.join(names)} would be the same; give one name")
    return names[0]


def _require_no_config(name: str, config: str | None, known: str | None) -> None:
    if config not in (None, known):
        others = f"its only one is {known}" if known else "it has none"
        raise UserError(f"{name}: no configuration {config}: {others}; leave it out")


def find_image_column(name: str, features: Mapping[str, Any]) -> str:
    """Return the column of images: one of type Image, else one of bytes; if there are several, the one named image.

    Raises:
        UserError: there is no such column, or several of bytes and none is named image. ``name`` is the source, for the
            message.
    """
    images = [column for column, feature in features.items() if _kind(feature) == "Image"]
    if images:
        return "image" if "image" in images else images[0]
    encoded = []
    for column, feature in features.items():
        content = feature.get("bytes") if isinstance(feature, dict) else feature
        if getattr(content, "dtype", "") in _BYTES:
            encoded.append(column)
    if "image" in encoded or len(encoded) == 1:
        return "image" if "image" in encoded else encoded[0]
    column = "image" if "image" in features else "COLUMN"
    raise UserError(
        f"{name}: no column of images (of type Image, or of their bytes); there are {', '.join(features)}; "
        f'make one with dataset.cast_column("{column}", datasets.Image())'
    )


def find_label_column(features: Mapping[str, Any]) -> str | None:
    """Return the column of labels: one of type ClassLabel (if several, the one named label), else one named label."""
    named = [column for column, feature in features.items() if _kind(feature) == "ClassLabel"]
    if named:
        return "label" if "label" in named else named[0]
    return "label" if "label" in features and getattr(features["label"], "dtype", "") in _WHOLE else None


def encode_labels(values: Any, names: list[str] | None) -> tuple[NDArray[np.int64], list[str]]:
    """Turn a column of labels into numbers from 0 and names of classes.

    Args:
        values: a ``pyarrow.ChunkedArray`` of integers, texts or booleans.
        names: the table's names of classes 0, 1, ...; None: the values are the classes, texts in alphabetical order,
            numbers in numerical order. Texts that differ only in Unicode form are one class.

    Returns:
        int64 (N,), ``UNLABELED`` if there is no label (null, a negative number or an empty text), and the names.
    """
    import pyarrow.compute as pc

    if names is not None:
        return pc.fill_null(values.cast("int64"), UNLABELED).to_numpy(), names
    unique = pc.unique(values).combine_chunks() if values.num_chunks != 1 else pc.unique(values)
    known = unique.to_pylist()
    classes: list[Any] = sorted({_as_class(value) for value in known} - {None})
    label_of = {of_class: label for label, of_class in enumerate(classes)}
    labels = np.array([label_of.get(_as_class(value), UNLABELED) for value in known], np.int64)
    return labels[pc.index_in(values, unique).to_numpy()], [str(of_class) for of_class in classes]


def read_cell(table: Any, index: int) -> tuple[Any, str | None]:
    """Return the bytes of an image as a ``pyarrow.Buffer``, and its path; None for each that is missing.

    Args:
        table: a ``datasets.Dataset`` of one column.
        index: the row.
    """
    row = index if table._indices is None else table._indices.column(0)[index].as_py()
    cell = table.data.column(0)[row]
    if not cell.is_valid:
        return None, None
    if str(cell.type) in _BYTES:
        return cell.as_buffer(), None
    content, path = (cell.get(field) for field in ("bytes", "path"))
    return (
        content.as_buffer() if content is not None and content.is_valid else None,
        (path.as_py() or None) if path is not None else None,
    )


def stamp_rows(table: Any) -> NDArray[np.int64]:
    """Return ``StoredDataset.stamps`` of a ``datasets.Dataset`` of one column of images.

    Only the offsets in the Arrow files are read, not the images.
    """
    import pyarrow.compute as pc

    files = [os.fsencode(file["filename"]) for file in table.cache_files]
    times = stamp_files(files.__getitem__, len(files))[:, 1]
    column = table.with_format("arrow")[:].column(0)
    fields = [] if str(column.type) in _BYTES else [column.type.field(at).name for at in range(column.type.num_fields)]
    content = pc.struct_field(column, "bytes") if "bytes" in fields else column
    stamps = np.full((len(table), 2), times.max() if len(times) else 0, np.int64)
    stamps[:, 0] = pc.fill_null(pc.binary_length(content), -1).to_numpy()
    outside = np.flatnonzero(stamps[:, 0] < 0)
    if len(outside) and "path" in fields:
        paths = pc.struct_field(column, "path").take(outside).to_pylist()
        stamps[outside] = stamp_files(lambda at: os.fsencode(Path(paths[at] or "/")), len(paths))
    return stamps


def _kind(feature: Any) -> str:
    return type(feature).__name__


def _as_class(value: Any) -> Any:
    """Return a label as a class; None for an empty text and a negative number."""
    if isinstance(value, str):
        return compose(value) or None
    return value if value is not None and value >= 0 else None
