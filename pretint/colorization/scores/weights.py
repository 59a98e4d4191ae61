"""Weights of networks that others published: from a file, or from a hub; read without running any code in them."""

import logging
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretext.engine.checkpoint import DamagedFileError, check_published
from pretext.engine.progress import say
from pretext.errors import UserError
from pretext.weights.state_dict import find_weights, flatten_names, read_file, split_part

HUB = "hub"
"""In place of a file: the weights that are published for it, from the hub or its local cache."""


class Unavailable(UserError):
    """A judge that cannot be had here: its column is left out, and the user is told why."""


def stored(file: str, names: Iterable[str]) -> dict[str, Tensor]:
    """The weights of the network in a file that has these names among its own.

    Raises:
        UserError: it cannot be read, holds more than tensors, or several such networks.
    """
    path, part = split_part(file)
    network = find_weights(flatten_names(read_file(path), str(path)), {name: name for name in names}, part, str(path))
    for line in network.lines():
        say(f"{path}: {line}")
    return network.weights


def hub_file(what: str, url: str) -> dict[str, Tensor]:
    """The weights at an address, from the hub or its local cache.

    Args:
        what: is left out without them, for the error.
        url: of the file.

    Raises:
        Unavailable: they cannot be fetched.
    """
    name = url.rpartition("/")[2]
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    try:
        if file.is_file():
            check_published(file)
        # torch compares the digest in the name when it downloads, not when it reads its cache.
        found: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, weights_only=True, check_hash=True
        )
    except DamagedFileError as error:
        raise Unavailable(f"{what} is left out: {error}") from error
    except Exception as error:  # as of a hub
        raise Unavailable(
            f"{what} is left out: {name} cannot be fetched ({type(error).__name__}); go online once, or name the file"
        ) from error
    return found


def load(net: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Put weights into a network, all of them and no others, but for batch norm's counters.

    Raises:
        UserError: they do not fit; ``origin`` names them.
    """
    try:
        missing, unexpected = net.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # shapes
        raise UserError(f"weights {origin}: of another network ({' '.join(str(error).split())[:120]})") from error
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise UserError(
            f"weights {origin}: of another network: {len(missing)} tensors are missing, {len(unexpected)} are too "
            f"many, the first: {[*missing, *unexpected][0]}"
        )


def quietly(make: Callable[[], Any]) -> Any:
    """What is made, without the warnings and retries that others tell of meanwhile."""
    hub = logging.getLogger("huggingface_hub")  # it tells of every retry, for a minute
    level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # lpips asks torchvision in an old way; a pickle of odd make is read or refused
            return make()
    finally:
        hub.setLevel(level)
