"""Columns of Hugging Face's tables: which holds the images and which the labels, and what stands in them.

An image is encoded bytes, or a struct of ``bytes`` and ``path`` (of which one may be missing), whatever the table's
own description calls it: pandas and pyarrow write such columns without Hugging Face's type ``Image``.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretext.data.duplicates import stamp_files
from pretext.data.labels import UNLABELED, compose
from pretext.errors import UserError

_BYTES = ("binary", "large_binary")
_WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool", "string", "large_string")


def find_image_column(name: str, features: Mapping[str, Any]) -> str:
    """Find the column of images: of the type Image, else of bytes; of several the one that is called image.

    Raises:
        UserError: there is none, or several without that name and type; ``name`` is the source's.
    """
    images = [column for column, feature in features.items() if _kind(feature) == "Image"]
    if images:
        return "image" if "image" in images else images[0]
    encoded = [column for column, feature in features.items() if _holds_bytes(feature)]
    if "image" in encoded or len(encoded) == 1:
        return "image" if "image" in encoded else encoded[0]
    column = "image" if "image" in features else "COLUMN"
    raise UserError(
        f"{name}: no column of images (of the type Image, or of their bytes); there are {', '.join(features)}; "
        f'make one by dataset.cast_column("{column}", datasets.Image())'
    )


def find_label_column(features: Mapping[str, Any]) -> str | None:
    """Find the column of labels: of the type ClassLabel (of several the one called label), else one called label."""
    named = [column for column, feature in features.items() if _kind(feature) == "ClassLabel"]
    if named:
        return "label" if "label" in named else named[0]
    return "label" if "label" in features and getattr(features["label"], "dtype", "") in _WHOLE else None


def encode_labels(values: Any, names: list[str] | None) -> tuple[NDArray[np.int64], list[str]]:
    """Turn a column of labels into numbers from 0 and names of classes.

    Args:
        values: a ``pyarrow.ChunkedArray`` of integers, texts or booleans.
        names: what the table calls classes 0, 1, ...; None: the values are the classes, texts in order of their
            letters, numbers in that of their size. Texts that differ only in Unicode form are one class.

    Returns:
        int64 (N,), ``UNLABELED`` where there is no label (null, a negative number or an empty text), and the names.
    """
    import pyarrow.compute as pc

    if names is not None:
        return pc.fill_null(values.cast("int64"), UNLABELED).to_numpy(), names
    unique = pc.unique(values).combine_chunks() if values.num_chunks != 1 else pc.unique(values)
    known = unique.to_pylist()
    classes: list[Any] = sorted({_as_class(value) for value in known} - {None})
    place = {of_class: label for label, of_class in enumerate(classes)}
    labels = np.array([place.get(_as_class(value), UNLABELED) for value in known], np.int64)
    return labels[pc.index_in(values, unique).to_numpy()], [str(one) for one in classes]


def read_cell(table: Any, index: int) -> tuple[Any, str | None]:
    """Return the bytes of an image as a ``pyarrow.Buffer``, and its path; None for what it lacks.

    Args:
        table: a ``datasets.Dataset`` of the one column.
        index: of the row.
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
    """Return ``StoredSource.stamps`` of a ``datasets.Dataset`` of one column of images.

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


def _holds_bytes(feature: Any) -> bool:
    inner = feature.get("bytes") if isinstance(feature, dict) else feature
    return getattr(inner, "dtype", "") in _BYTES


def _as_class(value: Any) -> Any:
    if isinstance(value, str):
        return compose(value) or None
    return value if value is not None and value >= 0 else None
