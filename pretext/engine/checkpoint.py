"""Checkpoints: written whole or not at all, read without running any code in them."""

import io
import warnings
from pathlib import Path
from typing import Any

import torch

from pretext.errors import UserError
from pretext.files import write_atomically

FORMAT = "pretint checkpoint 1"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values, nested) atomically."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What ``save_checkpoint`` wrote, on the CPU.

    Raises:
        UserError: the file cannot be read, or is no checkpoint of ours.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file that is no checkpoint: it is refused below, in our words
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror})") from error
    except Exception as error:  # torch raises half a dozen kinds for a file that is not its own
        raise UserError(
            f"{path}: no checkpoint of Pretint, or a damaged one; name a run or one of its checkpoints/*.pt (if it "
            "is the newest of a run, remove it: the one before it takes over)"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: a PyTorch file, but no checkpoint of Pretint ({FORMAT!r} is missing)")
    return state
