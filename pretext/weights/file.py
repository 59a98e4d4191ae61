"""Files of weights from elsewhere: how a user names a part of one, and reading them without running code."""

import argparse
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pretext.engine.archive import DamagedFileError, check_published
from pretext.errors import UserError


class UnknownWeights(UserError):
    """A file that holds no weights by name, or none of a network known."""


def split_part(name: str | Path) -> tuple[Path, str]:
    """Split ``FILE#PART``, which names one of several networks in a file; PART is "" without one.

    A file whose own name holds a "#" is that file.
    """
    file, _, part = str(name).rpartition("#")
    if Path(name).is_file() or not Path(file).is_file():
        return Path(name), ""
    return Path(file), part


def weights_title(name: str | Path) -> str:
    """Return how a file of weights is called in tables: its name without ending, and the part if one is named."""
    file, part = split_part(name)
    return f"{file.stem}#{part}" if part else file.stem


def read_file(file: Path) -> Any:
    """Return what a .safetensors file, or one that torch wrote, holds: tensors by name, or nested dicts of them.

    Raises:
        DamagedFileError: its bytes are not those that were written, as far as its sums tell.
        UnknownWeights: it is neither, or damaged.
        UserError: it cannot be read, or reading it would run code.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    try:
        check_published(file)
        if file.suffix == ".safetensors":
            return load_file(file)
        # Training scripts keep their options beside the weights, in a class that is only a bag of names.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # of a file that torch did not write: it is refused below
            return torch.load(file, map_location="cpu", weights_only=True)
    except DamagedFileError:
        raise
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        code = re.search(r"(?:GLOBAL|global) (\S+)", str(error))
        if code is None:
            raise _unreadable(file) from error
        raise UserError(
            f"{file}: holds {code[1]}, not only tensors, and reading that would run code in it; if you trust its "
            "maker, load it in a place of its own and save the tensors alone with safetensors.torch.save_file"
        ) from error
    except Exception as error:  # a file of unknown origin fails in as many ways as there are readers
        raise _unreadable(file) from error


def _unreadable(file: Path) -> UnknownWeights:
    return UnknownWeights(
        f"{file}: need a .safetensors file, or a .pth or .torch file that holds only tensors; this is neither, or it "
        "is damaged: download it again"
    )
