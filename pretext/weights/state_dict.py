"""State dicts from elsewhere: read the file without running code, find the network in it, check its names.

Training programs nest a network's weights in dicts (``{"model": ...}``, ``{"teacher": {"backbone": ...}}``) and wrap
it in modules that put a prefix before every name (``module.``, ``_orig_mod.``, ``encoder_q.``). Nested names are
joined by dots here, so that both are the same thing, a prefix: the one under which the expected names lie.
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
"""Of batch norms: files that came from Caffe, or are old, have none, and evaluation needs none."""

_ENOUGH = 0.5  # a prefix under which fewer of a network's names lie is taken for another network's
_LISTED = 6
_LONGEST = 500  # characters of a name


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


class FoundWeights(NamedTuple):
    """The weights of one network of a file, by their names without its prefix."""

    weights: Weights
    prefix: str
    """The prefix that was removed from every name, such as "backbone."; "" if none was."""
    outside: list[str]
    """Names of the file's other tensors."""

    def lines(self) -> list[str]:
        """Say what was taken off the names, and what is not used; nothing where the file holds the network alone."""
        if not self.prefix:
            return []
        others = f"; not used: {shorten(self.outside, 1)}" if self.outside else ""
        return [f"the prefix {self.prefix!r} is taken off the names of its weights{others}"]


def flatten_names(stored: Any, origin: str) -> Weights:
    """Return all plain tensors in nested dicts, by their names joined by dots, in the file's order.

    Everything else (numbers, text, lists, sparse and quantized tensors) is left out. A dict that stands in several
    places counts once.

    Raises:
        UserError: it is no dict, or has two tensors of one name, or a name of more than 500 characters; ``origin``
            names the file.
    """
    if not isinstance(stored, Mapping):
        raise UserError(f"{origin}: holds no weights by name but a {type(stored).__name__}")
    weights: Weights = {}
    visited: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", stored)]
    while waiting:
        name, value = waiting.pop()
        if len(name) > _LONGEST:
            raise UserError(f"{origin}: holds a name of more than {_LONGEST} characters, {name[:60]}...")
        if isinstance(value, Mapping):
            if id(value) not in visited:  # a file can hold a dict that holds itself
                visited.add(id(value))
                before = f"{name}." if name else ""
                waiting += reversed([(f"{before}{key}", inner) for key, inner in value.items()])
        elif isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized:
            if name in weights:
                raise UserError(f"{origin}: holds two tensors of the name {name}")
            weights[name] = value
    return weights


def find_prefixes(names: Iterable[str], expected: Mapping[str, str]) -> dict[str, float]:
    """Return the prefixes under which a network lies, each with the share of its weights that lie there.

    Args:
        names: of a file's tensors.
        expected: name in the file -> name in the network, of every weight that the network must have.
    """
    counts: Counter[str] = Counter()
    for name in names:
        start = 0
        while start >= 0:
            if name[start:] in expected:
                counts[name[:start]] += 1
            start = name.find(".", start) + 1 or -1
    total = len(set(expected.values()))
    return {prefix: count / total for prefix, count in counts.items() if count >= _ENOUGH * total}


def find_weights(
    weights: Weights,
    expected: Mapping[str, str],
    part: str,
    origin: str,
    convert: Callable[[Weights], Weights] | None = None,
) -> FoundWeights:
    """Return the weights of the one network with the expected names, or of the part of the file that a user names.

    Args:
        weights: of the whole file, see ``flatten_names``.
        expected: see ``find_prefixes``.
        part: a network's prefix, or words of it: "teacher.backbone", "encoder_q"; "" for the only one.
        origin: the file, for the errors.
        convert: gives weights of another layout the expected names; a network of that layout is found, too, and not
            yet converted.

    Returns:
        Everything under the network's prefix. If there is no such network, the whole file.

    Raises:
        UserError: there are several networks and no part is named, or none of that name.
    """
    prefixes = list(find_prefixes(weights, expected))
    if not prefixes and convert is not None:  # a network of another layout
        sizes = Counter(name[: end + 1] for name in weights for end, letter in enumerate(name) if letter == ".")
        large = [prefix for prefix, size in sizes.items() if size >= _ENOUGH * len(set(expected.values()))]
        groups = {_shared_prefix(name for name in weights if name.startswith(prefix)) for prefix in ("", *large)}
        prefixes = [
            prefix for prefix in sorted(groups) if "" in find_prefixes(convert(_under(weights, prefix)), expected)
        ]
    titles = [prefix.removesuffix(".") for prefix in prefixes]
    if part:
        exact = [prefix for prefix in prefixes if prefix == f"{part}."]
        prefixes = exact or [prefix for prefix in prefixes if f".{part}." in f".{prefix}"]
        prefixes = prefixes or [_shared_prefix(name for name in weights if f".{part}." in f".{name}")]
        if not prefixes[0]:
            first_words = shorten(dict.fromkeys(name.partition(".")[0] for name in weights))
            names = f"its names begin with {first_words or 'nothing: it holds no tensors'}"
            known = f"it holds {shorten(titles)}" if any(titles) else names
            raise UserError(f"{origin}: holds no network named {part}; {known}")
    elif "" in prefixes or not prefixes:
        prefixes = [""]
    if len(prefixes) > 1:
        titles = [prefix.removesuffix(".") for prefix in prefixes]
        raise UserError(
            f"{origin}: holds {len(titles)} networks, {shorten(titles)}; name one after the file: FILE#{titles[0]}"
        )
    prefix = prefixes[0]
    return FoundWeights(_under(weights, prefix), prefix, [name for name in weights if not name.startswith(prefix)])


def check_names(
    weights: Collection[str], needed: Iterable[str], is_known: Callable[[str], bool], origin: str, network: str
) -> None:
    """Refuse weights of another network: any name that it does not know, and any that is missing.

    Args:
        weights: the names in the file.
        needed: the names that must be there; batch norm's counters may be missing.
        is_known: whether the network has a weight of that name.
        origin: the file, for the error.
        network: the network, for the error.

    Raises:
        UserError: with the first such name.
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


def shorten(names: Collection[str], most: int = _LISTED) -> str:
    """Join the first names by commas, and say how many more there are."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(list(names)[:most]) + more


def _under(weights: Weights, prefix: str) -> Weights:
    return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}


def _shared_prefix(names: Iterable[str]) -> str:
    """Return the prefix that all names share, up to a dot."""
    prefix: list[str] | None = None
    for name in names:
        words = name.split(".")[:-1]
        same = [word for word, _ in takewhile(lambda pair: pair[0] == pair[1], zip(prefix or (), words, strict=False))]
        prefix = words if prefix is None else same
    return "".join(f"{word}." for word in prefix or ())
