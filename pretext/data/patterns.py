"""Names to lists of files: brace patterns, globs, and folders of tar shards.

What exists is no pattern: of ``scan[1940]/*.tif``, where a folder ``scan[1940]`` exists, only ``*.tif`` is one.
"""

import glob
import json
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from pretext.errors import UserError

MANIFEST = "manifest.json"
"""What `pretint pack` writes beside its shards."""

_MOST = 100_000  # names of one pattern: more is a slip of the keyboard
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])")


def expand(pattern: str) -> Iterator[str]:
    """The names that a pattern with braces stands for, as bash expands it.

    ``{0000..0146}`` is a range (zero-padded if its ends are; ``..STEP`` may follow), ``{a..e}`` one of
    letters, ``{a,b}`` a list; they may be nested and stand side by side. Braces that hold none of these
    stand for themselves.
    """
    for start, character in enumerate(pattern):
        if character != "{":
            continue
        parts = _parts(pattern, start)
        if parts is None:
            continue
        choices, end = parts
        for choice in choices:
            for rest in expand(pattern[end:]):
                yield pattern[:start] + choice + rest
        return
    yield pattern


def split_existing(pattern: str) -> tuple[str, str]:
    """Split a path with patterns behind the last of its leading folders and names that exist as they are written."""
    end = len(pattern) - len(pattern.lstrip("/"))
    for match in re.finditer(r"[^/]+", pattern):
        if not os.path.lexists(pattern[: match.end()]):
            break
        end = match.end()
    return pattern[:end], pattern[end:]


def is_pattern(path: str) -> bool:
    """Whether a path is a glob, behind what of it exists as it is written."""
    return glob.has_magic(split_existing(path)[1])


def match_paths(pattern: str, recursive: bool = False) -> list[str]:
    """Return the paths that a glob matches, sorted.

    Args:
        pattern: what of it exists as it is written stands for itself, see ``split_existing``.
        recursive: ``**`` stands for any depth.
    """
    existing, rest = split_existing(pattern)
    return sorted(glob.glob(glob.escape(existing) + rest, recursive=recursive))  # noqa: PTH207 (it may be absolute)


def find_shards(pattern: str) -> list[Path]:
    """The tar files that a path, a brace pattern, a glob or a folder means, in order.

    Raises:
        UserError: there is none, one of a brace pattern is missing, or a folder holds several sets.
    """
    if not pattern:
        raise UserError("no shards are named: the name is empty; give a tar file, a brace pattern or a folder")
    try:
        whole = Path(pattern).expanduser().absolute()
    except RuntimeError as error:  # ~nobody
        raise UserError(f"{pattern}: no such user; give the path of the shards") from error
    try:
        if whole.is_dir():
            return _in_folder(pattern, whole)
        if whole.is_file():
            return [whole]
        if whole.exists():  # a pipe would keep its reader waiting
            raise UserError(f"{pattern}: is neither a file nor a folder; copy the shard to a file")
        existing, rest = split_existing(str(whole))
        names = [existing + name for name in _some(pattern, expand(rest))]
        found = {name: _matches(name) for name in names}
    except OSError as error:
        raise UserError(f"{pattern}: the shards cannot be looked up: {error.strerror}") from error
    missing = [name for name in names if not found[name]]
    if missing:
        what = "nothing matches" if any(map(is_pattern, missing)) else "no such file"
        if len(names) == 1:
            raise UserError(
                f"{pattern}: {what}; give a tar file, a pattern such as train-{{0000..0146}}.tar, or a folder"
            )
        raise UserError(f"{pattern}: {len(missing)} of {len(names)} shards are missing; the first is {missing[0]}")
    return [path for name in names for path in found[name]]


def _some(pattern: str, names: Iterator[str]) -> Iterator[str]:
    for count, name in enumerate(names):
        if count == _MOST:
            raise UserError(f"{pattern}: stands for more than {_MOST:,} names; is a number too long?")
        yield name


def _matches(name: str) -> list[Path]:
    path = Path(name)
    if path.is_file() or not is_pattern(name):
        return [path] if path.is_file() else []
    return [Path(found) for found in match_paths(name) if Path(found).is_file()]


def _in_folder(name: str, folder: Path) -> list[Path]:
    """All shards of a folder, if they are one set: whole, where `pretint pack` wrote it."""
    paths = sorted(path for path in folder.glob("*.tar") if not path.name.startswith(".") and path.is_file())
    recorded = _recorded(name, folder / MANIFEST)
    missing = recorded - {path.name for path in paths}
    if missing:
        raise UserError(
            f"{name}: {len(missing)} of {len(recorded)} shards are missing, the first is {min(missing)}; "
            "call pretint pack again"
        )
    if not paths:
        raise UserError(
            f"{name}: no tar file in the folder; the names of shards end in .tar, compressed ones must be unpacked"
        )
    # Two sets in one folder are as a rule training and test images: they must not be mixed unasked.
    sets = sorted({re.sub(r"\d+", "*", path.name) for path in paths})
    if len(sets) > 1:
        raise UserError(
            f"{name}: holds {len(sets)} sets of shards ({', '.join(sets[:3])}{', ...' if len(sets) > 3 else ''}); "
            f"name one, such as {name.rstrip('/')}/{sets[0]}, or all: {name.rstrip('/')}/*.tar"
        )
    return paths


def _recorded(name: str, path: Path) -> set[str]:
    """The shards that `pretint pack` says it wrote; none if it did not write them."""
    try:
        manifest = json.loads(path.read_bytes())
        complete, names = manifest["complete"], {str(shard["name"]) for shard in manifest["shards"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # somebody else's, which is no mistake
        return set()
    if complete is not True:
        raise UserError(f"{name}: packing has not come to its end; call pretint pack again to go on")
    return names


def _parts(pattern: str, start: int) -> tuple[list[str] | Iterator[str], int] | None:
    """What the brace at ``start`` stands for, and where it ends; None where it stands for itself."""
    depth, commas = 0, [start]
    for at in range(start, len(pattern)):
        character = pattern[at]
        if character == "{":
            depth += 1
        elif character == "," and depth == 1:
            commas.append(at)
        elif character == "}":
            depth -= 1
            if not depth:
                break
    else:
        return None
    inside = pattern[start + 1 : at]
    if len(commas) > 1:
        edges = [*commas, at]
        listed = [pattern[left + 1 : right] for left, right in pairwise(edges)]
        return (name for choice in listed for name in expand(choice)), at + 1
    if found := _RANGE.fullmatch(inside):
        first, last, step = int(found[1]), int(found[2]), abs(int(found[3] or 1)) or 1
        padded = any(re.match(r"-?0\d", end) for end in found.group(1, 2))
        width = max(map(len, found.group(1, 2))) if padded else 0
        return (f"{number:0{width}d}" for number in _span(first, last, step)), at + 1
    if found := _LETTERS.fullmatch(inside):
        return (chr(code) for code in _span(ord(found[1]), ord(found[2]), 1)), at + 1
    if "{" in inside:  # {x{1,2}} keeps its outer pair
        return ("{" + name + "}" for name in expand(inside)), at + 1
    return None


def _span(first: int, last: int, step: int) -> range:
    return range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
