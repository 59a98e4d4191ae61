"""Checkpoints: written whole or not at all, read without running any code in them."""

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pretext.engine.archive import DIGEST, check_content, is_zip, safetensors_bytes
from pretext.errors import UserError
from pretext.files import write_atomically

FORMAT = "pretint checkpoint 1"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values, nested) atomically."""
    write_atomically(path, checkpoint_bytes(state))


def checkpoint_bytes(state: dict[str, Any]) -> memoryview:
    """The content of a checkpoint file."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    return buffer.getbuffer()


def save_portable(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` atomically as a safetensors file, which other programs can read too.

    Args:
        path: must end in .safetensors, by which ``load_checkpoint`` knows it.
        state: "model" holds tensors by name, kept under these names. Tensors of another group go by
            "group.name"; all else must be plain values, which the file's metadata holds as JSON.
    """
    tensors, metadata = dict(state["model"]), {"format": FORMAT}
    for name, group in state.items():
        if name == "model":
            continue
        inner = group if isinstance(group, dict) else {}
        found = {key: value for key, value in inner.items() if isinstance(value, Tensor)}
        tensors |= {f"{name}.{key}": value for key, value in found.items()}
        plain = {key: value for key, value in inner.items() if key not in found} if inner else group
        metadata[name] = json.dumps(plain)
    write_atomically(path, safetensors_bytes(tensors, metadata))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What ``save_checkpoint`` or ``save_portable`` wrote, on the CPU; every byte is checked before it is used.

    Raises:
        DamagedFileError: its bytes are not those that were written.
        UserError: the file cannot be read, or is no checkpoint of ours.
    """
    try:
        check_content(path)
        written_by_torch = is_zip(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror})") from error
    if path.suffix == ".safetensors":
        return _load_portable(path)
    if not written_by_torch:  # torch would read older formats too, which have no checksums
        raise UserError(
            f"{path}: no checkpoint of Pretint, or a damaged one; name a run or one of its checkpoints/*.pt"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file that is no checkpoint: it is refused below, in our words
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror})") from error
    except Exception as error:  # torch raises half a dozen kinds for a file that is not its own
        raise UserError(
            f"{path}: no checkpoint of Pretint, or a damaged one; name a run or one of its checkpoints/*.pt"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: a PyTorch file, but no checkpoint of Pretint ({FORMAT!r} is missing)")
    return state


def _load_portable(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        if metadata.pop("format", None) != FORMAT:
            raise UserError(
                f"{path}: no checkpoint of Pretint ({FORMAT!r} is missing); pretint export writes them, and weights "
                "for a timm model are given as backbone.weights"
            )
        metadata.pop(DIGEST, None)
        state: dict[str, Any] = {name: json.loads(value) for name, value in metadata.items()}
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror or error})") from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: no safetensors file, or a damaged one") from error
    state["model"] = {}
    for name, tensor in tensors.items():
        group, _, key = name.partition(".")
        if isinstance(state.get(group), dict):
            state[group][key] = tensor
        else:
            state["model"][name] = tensor
    return state
