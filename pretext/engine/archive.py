"""Whether a weights file still holds the bytes that were written: checked before anything in it is used.

- A file of ``torch.save`` is a zip archive with a CRC-32 for every record, which torch does not compare.
- A safetensors file of ours has a SHA-256 of its tensors and metadata in its metadata; files of others have none.
- A published file may carry the first digits of its SHA-256 in its name: ``resnet18-f37072fd.pth``.
"""

import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pretext.errors import UserError

DIGEST = "pretint_sha256"
"""The key of the digest in the metadata of a safetensors file."""

_CHUNK = 2**20
_IS_FOLDER = 0x10  # in a record's attributes, as DOS has them
_ZIP_START = b"PK\x03\x04"
_NAMED_DIGEST = re.compile(r"-(?=\d*[a-f])([0-9a-f]{8,64})$")  # digits alone are a date


class DamagedFileError(UserError):
    """A file whose bytes are not those that were written."""


def is_zip(path: Path) -> bool:
    """Whether torch would read the file as a zip archive. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return file.read(len(_ZIP_START)) == _ZIP_START


def check_zip(path: Path) -> None:
    """Check that every record of a zip archive has the bytes of its CRC-32.

    Reads the file once, about 1.6 GB a second on one core, in little memory.

    Raises:
        DamagedFileError: it is cut or damaged.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                if record.external_attr & _IS_FOLDER:  # torch then leaves the tensor's memory as it found it
                    raise zipfile.BadZipFile(f"{record.filename!r} is marked as a folder")
                with archive.open(record) as content:
                    while content.read(_CHUNK):
                        pass
    except (OSError, UserError):
        raise
    except Exception as error:  # damaged bytes make zipfile raise nearly anything
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DamagedFileError(f"{path}: damaged or cut ({reason}); copy or download it again") from error


def check_content(path: Path) -> None:
    """Check a .safetensors file or a zip archive against the sums that it carries; other files have none.

    Raises:
        DamagedFileError: it is not what was written.
        OSError: it cannot be read.
    """
    if path.suffix == ".safetensors":
        _check_safetensors(path)
    elif is_zip(path):
        check_zip(path)


def check_published(path: Path) -> None:
    """Check weights that others published: as ``check_content``, and against the digest that a name may carry.

    Raises:
        DamagedFileError: it is not what was written.
        OSError: it cannot be read.
    """
    if named := _NAMED_DIGEST.search(path.stem):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[: len(named[1])]
        if digest != named[1]:
            raise DamagedFileError(
                f"{path}: its name says that its SHA-256 begins with {named[1]}, but it begins with {digest}; download "
                "it again, or rename it if the name means something else"
            )
    check_content(path)


def _check_safetensors(path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            expected = metadata.pop(DIGEST, None)
            if expected is None:
                return
            # One tensor at a time: all of them would take the memory twice.
            names = sorted(file.keys())
            digest = safetensors_digest(((name, file.get_tensor(name)) for name in names), metadata)
    except SafetensorError:
        return  # no such file: who reads it says so
    if digest != expected:
        raise DamagedFileError(f"{path}: damaged (the SHA-256 of its tensors is another); export or copy it again")


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The content of a safetensors file with a digest in its metadata."""
    whole = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    digest = safetensors_digest(sorted(whole.items()), metadata)
    return safetensors.torch.save(whole, {**metadata, DIGEST: digest})


def safetensors_digest(tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str]) -> str:
    """SHA-256 of metadata, and of names, types, shapes and values of tensors, which are sorted by name."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in tensors:
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
