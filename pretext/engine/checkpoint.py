"""Checkpoints: written whole or not at all, read without running any code in them."""

import contextlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from pretext.errors import UserError

FORMAT = "pretint checkpoint 1"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at any moment either the old content stands there or the new.

    Raises:
        UserError: the disk is full, or the folder cannot be written; nothing half-written is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself must survive a power cut
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        size = f"{len(content) / 1e6:.1f} MB"
        raise UserError(
            f"{path}: cannot write {size} ({error.strerror}); make room or choose another place, and call again"
        ) from error


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values, nested) atomically."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What ``save_checkpoint`` wrote.

    Raises:
        UserError: the file cannot be read, or is no checkpoint of ours.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file that is no checkpoint: it is refused below, in our words
            state = torch.load(path, map_location=device, weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror})") from error
    except Exception as error:  # torch raises half a dozen kinds for a file that is not its own
        raise UserError(f"{path}: no checkpoint of Pretint, or a damaged one; name a run or one of its "
                        "checkpoints/*.pt") from error  # fmt: skip
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: a PyTorch file, but no checkpoint of Pretint ({FORMAT!r} is missing)")
    return state
