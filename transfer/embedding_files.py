"""Files of embeddings: Parquet, NPZ and safetensors, written row by row.

Each has for every image its vector, its key and, if there are labels, its label; and facts: the network, the images and
the settings, as JSON. In Parquet these are the columns key, label and embedding, and the metadata pretint; in NPZ the
arrays keys, labels, embeddings and facts; in safetensors the tensor embeddings, the tensors keys and labels, which are
JSON in UTF-8, and the metadata pretint. Equal content gives equal bytes.
"""

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pretext.errors import UserError

FORMAT = "pretint embeddings 1"
_NAMED = "pretint"
_AT_ONCE = 4096  # rows whose texts are held at once
_MOST_HEADER = 2**24


@dataclass
class Texts:
    """Keys and labels of rows; they are made when they are asked for."""

    count: int
    keys: Callable[[int, int], list[str]]
    """(start, stop) -> those of these rows."""
    labels: Callable[[int, int], list[str]] | None

    def chunks(self, column: Callable[[int, int], list[str]]) -> Iterator[list[str]]:
        """Yield a column some thousand at a time."""
        for start in range(0, self.count, _AT_ONCE):
            yield column(start, min(start + _AT_ONCE, self.count))

    def columns(self) -> dict[str, Callable[[int, int], list[str]]]:
        """Return keys, and labels if there are some."""
        return {"keys": self.keys, **({"labels": self.labels} if self.labels else {})}


Facts = Mapping[str, Any]
Writer = Callable[[IO[bytes], Facts, Texts], AbstractContextManager[Callable[[NDArray[np.float32]], None]]]
"""Opens a file for rows; the function that it yields writes the next rows, (N, dims)."""


@dataclass
class Embeddings:
    """The content of a file of embeddings."""

    vectors: NDArray[np.float32]
    """(N, dims)."""
    keys: list[str]
    labels: list[str] | None
    facts: dict[str, Any]


def read_embeddings(path: str | Path) -> Embeddings:
    """Read a file of embeddings whole.

    Raises:
        UserError: it cannot be read, or is not such a file.
    """
    path, facts = Path(path), read_facts(Path(path))
    with _reading(path):
        if path.suffix.lower() == ".parquet":
            from pyarrow import parquet

            table = parquet.read_table(path)
            vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), facts["dims"])
            labels = table["label"].to_pylist() if "label" in table.column_names else None
            return Embeddings(vectors.astype(np.float32, copy=False), table["key"].to_pylist(), labels, facts)
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                labels = arrays["labels"].tolist() if "labels" in arrays else None
                return Embeddings(arrays["embeddings"].astype(np.float32), arrays["keys"].tolist(), labels, facts)
        from safetensors.numpy import load_file

        tensors = load_file(path)
        labels = json.loads(tensors["labels"].tobytes()) if "labels" in tensors else None
        return Embeddings(tensors["embeddings"], json.loads(tensors["keys"].tobytes()), labels, facts)


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts in a file of embeddings.

    Raises:
        UserError: it cannot be read, or is not such a file.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise UserError(f"{path}: not a file of embeddings; give one whose name ends in {', '.join(WRITERS)}")
    with _reading(path):
        if suffix == ".parquet":
            text = (_pyarrow().parquet.read_schema(path).metadata or {}).get(_NAMED.encode(), b"")
        elif suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                text = str(arrays["facts"])
        else:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                if size > _MOST_HEADER:
                    raise ValueError
                text = json.loads(file.read(size)).get("__metadata__", {}).get(_NAMED, "")
        facts: dict[str, Any] = json.loads(text)
        if facts.get("format") != FORMAT:
            raise ValueError
    return facts


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a damaged or foreign file makes libraries raise into one error."""
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path}: damaged, or too large for the memory of this machine") from error
    except OSError as error:
        if error.strerror:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        raise UserError(f"{path}: not a file of embeddings that pretint embed wrote, or damaged") from error
    except Exception as error:  # zipfile, json, numpy, pyarrow and safetensors have their own
        raise UserError(f"{path}: not a file of embeddings that pretint embed wrote, or damaged") from error


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Parquet needs pyarrow: pip install 'pretint[parquet]', or give a .npz file") from error
    return pyarrow


@contextmanager
def _parquet(file: IO[bytes], facts: Facts, texts: Texts) -> Iterator[Callable[[NDArray[np.float32]], None]]:
    pyarrow = _pyarrow()
    columns = {"keys": "key", "labels": "label"}
    fields = [(columns[name], pyarrow.string()) for name in texts.columns()]
    vector = pyarrow.list_(pyarrow.float32(), facts["dims"])
    schema = pyarrow.schema([*fields, ("embedding", vector)], metadata={_NAMED: _text(facts)})
    # Numbers hardly shrink, and reading them takes longer.
    packed = {name: "zstd" for name, _ in fields} | {"embedding.list.element": "none"}
    with pyarrow.parquet.ParquetWriter(file, schema, compression=packed, use_dictionary=False) as writer:
        done = 0

        def write(rows: NDArray[np.float32]) -> None:
            nonlocal done
            stop = done + len(rows)
            parts = [pyarrow.array(column(done, stop), pyarrow.string()) for column in texts.columns().values()]
            parts.append(pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), facts["dims"]))
            writer.write_table(pyarrow.Table.from_arrays(parts, schema=schema))
            done = stop

        yield write


@contextmanager
def _npz(file: IO[bytes], facts: Facts, texts: Texts) -> Iterator[Callable[[NDArray[np.float32]], None]]:
    with zipfile.ZipFile(file, "w") as archive:

        @contextmanager
        def entry(name: str, dtype: str, shape: tuple[int, ...]) -> Iterator[IO[bytes]]:
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:  # of 1980, as by numpy
                header = {"descr": dtype, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                yield member

        text = _text(facts)
        with entry("facts", f"<U{len(text)}", ()) as member:
            member.write(np.array(text, f"<U{len(text)}").tobytes())
        for name, column in texts.columns().items():
            width = max((len(text) for chunk in texts.chunks(column) for text in chunk), default=1) or 1
            with entry(name, f"<U{width}", (texts.count,)) as member:
                for chunk in texts.chunks(column):
                    member.write(np.array(chunk, f"<U{width}").tobytes())
        with entry("embeddings", "<f4", (texts.count, facts["dims"])) as member:
            yield lambda rows: _write(member, rows)


@contextmanager
def _safetensors(file: IO[bytes], facts: Facts, texts: Texts) -> Iterator[Callable[[NDArray[np.float32]], None]]:
    size = 4 * texts.count * facts["dims"]
    header: dict[str, Any] = {"__metadata__": {_NAMED: _text(facts)}}
    header["embeddings"] = {"dtype": "F32", "shape": [texts.count, facts["dims"]], "data_offsets": [0, size]}
    for name, column in texts.columns().items():
        length = sum(map(len, _json_list(texts, column)))
        header[name] = {"dtype": "U8", "shape": [length], "data_offsets": [size, size + length]}
        size += length
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of eight
    file.write(len(text).to_bytes(8, "little") + text)
    yield lambda rows: _write(file, rows)
    for column in texts.columns().values():
        for part in _json_list(texts, column):
            file.write(part)


def _json_list(texts: Texts, column: Callable[[int, int], list[str]]) -> Iterator[bytes]:
    """Yield a column as a JSON list, in parts."""
    between = b"["
    for chunk in texts.chunks(column):
        yield between + json.dumps(chunk)[1:-1].encode()
        between = b", "
    yield b"]" if texts.count else b"[]"


def _write(file: IO[bytes], rows: NDArray[np.float32]) -> None:
    file.write(np.ascontiguousarray(rows, "<f4").data)


def _text(facts: Facts) -> str:
    return json.dumps({"format": FORMAT, **facts})


WRITERS: dict[str, Writer] = {".parquet": _parquet, ".npz": _npz, ".safetensors": _safetensors}
