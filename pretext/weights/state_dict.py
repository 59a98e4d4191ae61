"""State dicts of other programs: read the file without running code, find the network in it, check its names.

Training programs nest a network's weights in dicts (``{"model": ...}``, ``{"teacher": {"backbone": ...}}``) and wrap
it in modules that put a prefix before every name (``module.``, ``_orig_mod.``, ``encoder_q.``). Here, nested names are
joined by dots, so both cases become a prefix: the one that stands before the expected names.
"""

import argparse
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from pretext.engine.checkpoint import DamagedFileError, check_published
from pretext.errors import UserError

Weights = dict[str, Tensor]

COUNTER = "num_batches_tracked"
"""Batch norm's counter of batches. Old files and files from Caffe lack it, and evaluation does not need it."""

_MIN_SHARE = 0.5  # a prefix with a smaller share of the expected names belongs to another network
_NAMES_SHOWN = 6
_MAX_LENGTH = 500  # characters of a name


class UnknownWeights(UserError):
    """The error for a file that holds no weights by name, or not those of a known network."""


def split_part(name: str | Path) -> tuple[Path, str]:
    """Split ``FILE#PART``, which names one of several networks in a file; without a part, PART is "".

    If the whole name is that of a file, its "#" belongs to the name.
    """
    file, _, part = str(name).rpartition("#")
    if Path(name).is_file() or not Path(file).is_file():
        return Path(name), ""
    return Path(file), part


def weights_title(name: str | Path) -> str:
    """Return the title of a file of weights in tables: its name without suffix, and the part if there is one."""
    file, part = split_part(name)
    return f"{file.stem}#{part}" if part else file.stem


def read_file(file: Path) -> Any:
    """Return the content of a .safetensors file or one that torch wrote: tensors by name, or nested dicts of them.

    Raises:
        DamagedFileError: one of the file's checksums does not match.
        UnknownWeights: the file is of neither kind, or damaged.
        UserError: the file cannot be read, or reading it would run code.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    try:
        check_published(file)
        if file.suffix == ".safetensors":
            return load_file(file)
        # Training scripts save their options beside the weights, as a Namespace, which is only data.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # about a file that torch did not write: it is refused below
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
            f"{file}: contains {code[1]}, and reading that would run code in the file; if you trust its author, load "
            "it in an isolated environment and save only the tensors, with safetensors.torch.save_file"
        ) from error
    except Exception as error:  # the readers can raise anything
        raise _unreadable(file) from error


def _unreadable(file: Path) -> UnknownWeights:
    return UnknownWeights(
        f"{file}: need a .safetensors file, or a .pth or .torch file that holds only tensors; this is neither, or it "
        "is damaged: download it again"
    )


class FoundWeights(NamedTuple):
    """The weights of one network in a file, by their names without its prefix."""

    weights: Weights
    prefix: str
    """The prefix that was removed from every name, such as "backbone."; "" if none was."""
    outside: list[str]
    """Names of the file's other tensors."""

    def lines(self) -> list[str]:
        """Return a line for the user about the removed prefix and the unused tensors; none without a prefix."""
        if not self.prefix:
            return []
        others = f"; not used: {shorten(self.outside, 1)}" if self.outside else ""
        return [f"the prefix {self.prefix!r} was removed from the names of its weights{others}"]


def flatten_names(stored: Any, origin: str) -> Weights:
    """Return all plain tensors in nested dicts, by their names joined by dots, in the file's order.

    Everything else (numbers, text, lists, sparse and quantized tensors) is left out. A dict that occurs several times
    counts once.

    Raises:
        UserError: ``stored`` is not a dict, or has two tensors of one name or a name of more than 500 characters;
            ``origin`` names the file.
    """
    if not isinstance(stored, Mapping):
        raise UserError(f"{origin}: holds a {type(stored).__name__} instead of weights by name; save a state dict")
    weights: Weights = {}
    visited: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", stored)]
    while waiting:
        name, value = waiting.pop()
        if len(name) > _MAX_LENGTH:
            raise UserError(f"{origin}: holds a name of more than {_MAX_LENGTH} characters, {name[:60]}...")
        if isinstance(value, Mapping):
            if id(value) not in visited:  # a file can hold a dict that holds itself
                visited.add(id(value))
                prefix = f"{name}." if name else ""
                waiting += reversed([(f"{prefix}{key}", inner) for key, inner in value.items()])
        elif isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized:
            if name in weights:
                raise UserError(f"{origin}: holds two tensors of the name {name}")
            weights[name] = value
    return weights


def find_prefixes(names: Iterable[str], expected: Mapping[str, str]) -> dict[str, float]:
    """Return the possible prefixes of a network's names, each with the share of its weights that have this prefix.

    Args:
        names: the names of a file's tensors.
        expected: name in the file -> name in the network, for every weight that the network must have.
    """
    counts: Counter[str] = Counter()
    for name in names:
        start = 0
        while start >= 0:
            if name[start:] in expected:
                counts[name[:start]] += 1
            start = name.find(".", start) + 1 or -1
    total = len(set(expected.values()))
    return {prefix: count / total for prefix, count in counts.items() if count >= _MIN_SHARE * total}


def find_weights(
    weights: Weights,
    expected: Mapping[str, str],
    part: str,
    origin: str,
    convert: Callable[[Weights], Weights] | None = None,
) -> FoundWeights:
    """Return the weights of the only network with the expected names, or of the part of the file that a user names.

    Args:
        weights: all weights of the file, see ``flatten_names``.
        expected: see ``find_prefixes``.
        part: a network's prefix or some words of it: "teacher.backbone", "encoder_q"; "" for the only network.
        origin: the file, for messages.
        convert: gives weights of another layout the expected names. With it, a network of that layout is found too;
            its weights are returned as they are in the file.

    Returns:
        All weights under the network's prefix; if there is no such network, the whole file.

    Raises:
        UserError: several networks are possible, or none has the name of the part.
    """
    prefixes = list(find_prefixes(weights, expected))
    if not prefixes and convert is not None:  # a network of another layout
        sizes = Counter(name[: end + 1] for name in weights for end, letter in enumerate(name) if letter == ".")
        large = [prefix for prefix, size in sizes.items() if size >= _MIN_SHARE * len(set(expected.values()))]
        groups = {_shared_prefix(name for name in weights if name.startswith(prefix)) for prefix in ("", *large)}
        prefixes = [
            prefix for prefix in sorted(groups) if "" in find_prefixes(convert(_strip(weights, prefix)), expected)
        ]
    titles = [prefix.removesuffix(".") for prefix in prefixes]
    if part:
        exact = [prefix for prefix in prefixes if prefix == f"{part}."]
        prefixes = exact or [prefix for prefix in prefixes if f".{part}." in f".{prefix}"]
        prefixes = prefixes or [_shared_prefix(name for name in weights if f".{part}." in f".{name}")]
        if not prefixes[0]:
            first_words = shorten(dict.fromkeys(name.partition(".")[0] for name in weights))
            names = f"its names begin with {first_words}" if first_words else "it holds no tensors"
            content = f"it holds {shorten(titles)}" if any(titles) else names
            raise UserError(f"{origin}: holds no network named {part}; {content}")
    elif "" in prefixes or not prefixes:
        prefixes = [""]
    if len(prefixes) > 1:
        titles = [prefix.removesuffix(".") for prefix in prefixes]
        raise UserError(
            f"{origin}: holds {len(titles)} networks, {shorten(titles)}; name one after the file: FILE#{titles[0]}"
        )
    prefix = prefixes[0]
    return FoundWeights(_strip(weights, prefix), prefix, [name for name in weights if not name.startswith(prefix)])


def check_names(
    weights: Collection[str], needed: Iterable[str], is_known: Callable[[str], bool], origin: str, network: str
) -> None:
    """Raise an error if a name is unknown to the network, or one of its names is missing.

    Args:
        weights: the names in the file.
        needed: the names that must be in the file; batch norm's counters may be missing.
        is_known: whether the network has a weight of that name.
        origin: the file, for the message.
        network: the network, for the message.

    Raises:
        UserError: a name is unknown or missing; the message shows the first one.
    """
    unknown = [name for name in weights if not is_known(name)]
    if unknown:
        raise UserError(
            f"{origin}: {network} has no weight {unknown[0]} ({len(unknown)} of the {len(weights)} names in the file "
            "are unknown): is it another model's file?"
        )
    missing = [name for name in needed if name not in weights and not name.endswith(COUNTER)]
    if missing:
        raise UserError(
            f"{origin}: {len(missing)} tensors of {network} are missing, the first is {missing[0]}: is it another "
            "model's file?"
        )


def shorten(names: Collection[str], limit: int = _NAMES_SHOWN) -> str:
    """Return the first names, joined by commas, and the number of the others."""
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(list(names)[:limit]) + more


def _strip(weights: Weights, prefix: str) -> Weights:
    return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}


def _shared_prefix(names: Iterable[str]) -> str:
    """Return the prefix that all names share, up to a dot."""
    prefix: list[str] | None = None
    for name in names:
        words = name.split(".")[:-1]
        same = [word for word, _ in takewhile(lambda pair: pair[0] == pair[1], zip(prefix or (), words, strict=False))]
        prefix = words if prefix is None else same
    return "".join(f"{word}." for word in prefix or ())
