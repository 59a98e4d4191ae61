"""Checkpoints: written completely or not at all; all bytes are checked before use, and no code in them is run.

- A file of ``torch.save`` is a zip archive with a CRC-32 for every record; torch itself does not check it. A file with
  a compressed record is refused: torch.save never compresses, and a small compressed file could fill the memory.
- A safetensors file of Pretint has a SHA-256 of its tensors and metadata in its metadata; files of others have none.
- A published file may have the first digits of its SHA-256 in its name: ``resnet18-f37072fd.pth``.
"""

import hashlib
import io
import json
import re
import struct
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pretext.errors import UserError, check_format
from pretext.files import open_atomically, write_atomically

FORMAT = "pretint checkpoint 2"

DIGEST = "pretint_sha256"
"""The key of the digest in the metadata of a safetensors file."""
_CHUNK = 2**20
_IS_FOLDER = 0x10  # the DOS attribute of a folder
_ZIP_START = b"PK\x03\x04"
_END = struct.Struct("<4s8xIIH")  # the end record of a zip archive: its mark, size and offset of its list, a comment
_LOCATOR = struct.Struct("<4s4xQ4x")  # where the end record of a large archive lies
_LARGE_END = struct.Struct("<4s36xQQ")  # that record: its mark, size and offset of the list
_NAMED_DIGEST = re.compile(r"-(?=\d*[a-f])([0-9a-f]{8,64})$")  # if there are only digits, it is a date


class DamagedFileError(UserError):
    """A file whose bytes changed after it was written, or that would unpack to more than its size."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (nested tensors and plain values) atomically, without a copy of the tensors in memory."""
    with open_atomically(path, f"{_count_bytes(state) / 1e6:.1f} MB") as file:
        write_state(file, state)


def write_state(file: Any, state: dict[str, Any]) -> None:
    """Write ``state`` to an open file, or to another object with its ``write`` and ``flush``. Raises OSError."""
    try:
        torch.save({"format": FORMAT, **state}, file)
    except RuntimeError as error:  # torch still writes the end of the file after the disk was full
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def checkpoint_bytes(state: dict[str, Any]) -> memoryview:
    """Return the content of a checkpoint file."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    return buffer.getbuffer()


def _count_bytes(value: Any) -> int:
    """Return the size of all tensors in a state, in bytes."""
    if isinstance(value, Tensor):
        return value.nbytes
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(_count_bytes, parts))


def save_portable(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` atomically as a safetensors file, which other programs can read too.

    Args:
        path: must end in .safetensors, by which ``load_checkpoint`` knows it.
        state: "model" holds tensors by name; they keep these names in the file. A tensor of another group is named
            "group.name". All other values must be plain; the file's metadata holds them as JSON.
    """
    tensors, metadata = dict(state["model"]), {"format": FORMAT}
    for name, group in state.items():
        if name == "model":
            continue
        inner = group if isinstance(group, dict) else {}
        inner_tensors = {key: value for key, value in inner.items() if isinstance(value, Tensor)}
        tensors |= {f"{name}.{key}": value for key, value in inner_tensors.items()}
        plain = {key: value for key, value in inner.items() if key not in inner_tensors} if inner else group
        metadata[name] = json.dumps(plain)
    write_atomically(path, safetensors_bytes(tensors, metadata))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a file of ``save_checkpoint`` or ``save_portable`` to the CPU; all bytes are checked before use.

    Raises:
        DamagedFileError: the file's bytes changed after it was written.
        UserError: the file cannot be read, or is not a checkpoint of Pretint.
    """
    try:
        check_content(path)
        written_by_torch = is_zip(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror})") from error
    if path.suffix == ".safetensors":
        return _load_portable(path)
    if not written_by_torch:  # torch also reads older formats, but they have no checksums
        raise UserError(f"{path}: not a checkpoint of Pretint, or damaged; give a run or one of its checkpoints/*.pt")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch warns about a file that is not a checkpoint; the code below raises an error for it
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror})") from error
    except Exception as error:  # torch raises many types of error for a file in another format
        raise UserError(
            f"{path}: not a checkpoint of Pretint, or damaged; give a run or one of its checkpoints/*.pt"
        ) from error
    if isinstance(state, dict):
        check_format(path, state.get("format"), FORMAT)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: a PyTorch file, but not a checkpoint of Pretint (it has no {FORMAT!r})")
    return state


def _load_portable(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        check_format(path, metadata.get("format"), FORMAT)
        if metadata.pop("format", None) != FORMAT:
            raise UserError(
                f"{path}: not a checkpoint of Pretint (it has no {FORMAT!r}); pretint export writes such a file; "
                "give weights for a timm model as backbone.weights"
            )
        metadata.pop(DIGEST, None)
        state: dict[str, Any] = {name: json.loads(value) for name, value in metadata.items()}
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror or error})") from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a safetensors file, or damaged; copy it again") from error
    state["model"] = {}
    for name, tensor in tensors.items():
        group, _, key = name.partition(".")
        if isinstance(state.get(group), dict):
            state[group][key] = tensor
        else:
            state["model"][name] = tensor
    return state


def is_zip(path: Path) -> bool:
    """Whether torch would read the file as a zip archive. Raises OSError if the file cannot be read."""
    with path.open("rb") as file:
        return file.read(len(_ZIP_START)) == _ZIP_START


def check_zip(path: Path) -> None:
    """Check that no record of a zip archive is compressed and that every record matches its CRC-32.

    This reads the file once, at about 1.6 GB per second on one core, and needs little memory.

    Raises:
        DamagedFileError: the file is truncated or damaged, or a record is compressed or larger than the file.
        OSError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_stored(path, archive)
            for record in archive.infolist():
                if record.external_attr & _IS_FOLDER:  # torch would then leave the tensor uninitialized
                    raise zipfile.BadZipFile(f"{record.filename!r} is marked as a folder")
                with archive.open(record) as content:
                    while content.read(_CHUNK):
                        pass
    except (OSError, UserError):
        raise
    except Exception as error:  # zipfile raises many types of error for damaged bytes
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DamagedFileError(f"{path}: damaged or cut short ({reason}); copy or download it again") from error


def check_stored(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse, by a ``DamagedFileError``, an archive that would unpack to more than the size of its file."""
    size, total = path.stat().st_size, 0
    for record in archive.infolist():
        total += record.file_size
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size or total > size:
            raise DamagedFileError(
                f"{path}: its record {record.filename[:60]!r} is compressed or larger than the file, and could fill "
                "the memory; Pretint and torch.save never write such a record; if you trust the file, load it with "
                "torch and save it again"
            )
    with path.open("rb") as file:
        if _directory(file, size) != archive.start_dir:  # zipfile would repair it; other readers would not
            raise DamagedFileError(f"{path}: damaged or cut short (its list of records is misplaced); copy it again")


def _directory(file: IO[bytes], size: int) -> int:
    """Return the offset of an archive's list of records; -1 if its end is not as torch and NumPy write it."""
    end, locator = size - 22, size - 22 - _LOCATOR.size
    mark, _, offset, comment = _read(file, end, _END)
    if mark != b"PK\x05\x06" or comment:
        return -1
    if locator < 0:
        return int(offset)
    mark, large_end = _read(file, locator, _LOCATOR)
    if mark != b"PK\x06\x07":
        return int(offset)
    if large_end != locator - _LARGE_END.size:
        return -1
    mark, _, offset = _read(file, large_end, _LARGE_END)
    return int(offset) if mark == b"PK\x06\x06" else -1


def _read(file: IO[bytes], at: int, layout: struct.Struct) -> tuple[Any, ...]:
    file.seek(at)
    return layout.unpack(file.read(layout.size))


def check_content(path: Path) -> None:
    """Check a .safetensors file or a zip archive against its checksums; other files have none.

    Raises:
        DamagedFileError: the file's bytes changed after it was written.
        OSError: the file cannot be read.
    """
    if path.suffix != ".safetensors":
        if is_zip(path):
            check_zip(path)
        return
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            expected = metadata.pop(DIGEST, None)
            if expected is None:
                return
            # One tensor at a time, to save memory: the caller loads all of them again.
            names = sorted(file.keys())
            digest = safetensors_digest(((name, file.get_tensor(name)) for name in names), metadata)
    except SafetensorError:
        return  # not a safetensors file: the caller reports it when it reads the file
    if digest != expected:
        raise DamagedFileError(f"{path}: damaged (the SHA-256 of its tensors differs); export or copy it again")


def check_published(path: Path) -> None:
    """Check published weights: as ``check_content``, and against the digest in the file's name, if it has one.

    Raises:
        DamagedFileError: the file's bytes changed after it was written.
        OSError: the file cannot be read.
    """
    if name_digest := _NAMED_DIGEST.search(path.stem):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[: len(name_digest[1])]
        if digest != name_digest[1]:
            raise DamagedFileError(
                f"{path}: by its name, its SHA-256 should begin with {name_digest[1]}, but it begins with {digest}; "
                "download it again, or rename it if the name means something else"
            )
    check_content(path)


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the content of a safetensors file with a digest in its metadata."""
    contiguous = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    digest = safetensors_digest(sorted(contiguous.items()), metadata)
    return safetensors.torch.save(contiguous, {**metadata, DIGEST: digest})


def safetensors_digest(tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of metadata, and of names, types, shapes and values of tensors, sorted by name."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in tensors:
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
