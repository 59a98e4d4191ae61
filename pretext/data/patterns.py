"""Lists of files from names: brace patterns, globs, and folders of tar shards.

A name that exists is not a pattern: in ``scan[1940]/*.tif``, if a folder ``scan[1940]`` exists, only ``*.tif`` is one.
"""

import glob
import itertools
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from pretext.data.pack_manifest import read_manifest
from pretext.errors import UserError

_MOST = 100_000  # names of one pattern: more are a typing error
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])")


def expand(pattern: str) -> Iterator[str]:
    """Expand a pattern with braces as bash does, and yield the names.

    ``{0000..0146}`` is a range (zero-padded if its ends are; ``..STEP`` may follow), ``{a..e}`` a range of letters and
    ``{a,b}`` a list. They may be nested and follow each other. Other braces are normal characters.
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
    """Split a path with patterns into its leading part that exists literally, and the rest."""
    end = len(pattern) - len(pattern.lstrip("/"))
    for match in re.finditer(r"[^/]+", pattern):
        if not os.path.lexists(pattern[: match.end()]):
            break
        end = match.end()
    return pattern[:end], pattern[end:]


def is_pattern(path: str) -> bool:
    """Whether a path is a glob, apart from its leading part that exists literally."""
    return glob.has_magic(split_existing(path)[1])


def match_paths(pattern: str, recursive: bool = False) -> list[str]:
    """Return the paths that a glob matches, sorted.

    Args:
        pattern: a glob. Its leading part that exists literally is not a pattern, see ``split_existing``.
        recursive: ``**`` matches any depth.
    """
    existing, rest = split_existing(pattern)
    return sorted(glob.glob(glob.escape(existing) + rest, recursive=recursive))  # noqa: PTH207 (it may be absolute)


def find_shards(pattern: str) -> list[Path]:
    """Return the tar files of a path, a brace pattern, a glob or a folder, in order.

    Raises:
        UserError: there is no tar file, a file of a brace pattern is missing, or a folder holds several sets.
    """
    if not pattern:
        raise UserError("the name of the shards is empty; give a tar file, a brace pattern or a folder")
    try:
        path = Path(pattern).expanduser().absolute()
    except RuntimeError as error:  # ~nobody
        raise UserError(f"{pattern}: no such user; give the path of the shards") from error
    try:
        if path.is_dir():
            return _find_in_folder(pattern, path)
        if path.is_file():
            return [path]
        if path.exists():  # a pipe would keep its reader waiting
            raise UserError(f"{pattern}: is neither a file nor a folder; copy the shard to a file")
        existing, rest = split_existing(str(path))
        names = [existing + name for name in itertools.islice(expand(rest), _MOST + 1)]
        if len(names) > _MOST:
            raise UserError(f"{pattern}: expands to more than {_MOST:,} names; give a smaller range")
        files: dict[str, list[Path]] = {}
        for name in names:
            is_glob = not Path(name).is_file() and is_pattern(name)
            paths = map(Path, match_paths(name) if is_glob else [name])
            files[name] = [path for path in paths if path.is_file()]
    except OSError as error:
        raise UserError(f"{pattern}: the shards cannot be listed: {error.strerror}") from error
    missing = [name for name in names if not files[name]]
    if missing:
        what = "nothing matches" if any(map(is_pattern, missing)) else "no such file"
        if len(names) == 1:
            raise UserError(
                f"{pattern}: {what}; give a tar file, a pattern such as train-{{0000..0146}}.tar, or a folder"
            )
        raise UserError(f"{pattern}: {len(missing)} of {len(names)} shards are missing; the first is {missing[0]}")
    return [path for name in names for path in files[name]]


def _find_in_folder(name: str, folder: Path) -> list[Path]:
    """Return all shards of a folder, which must be one set, and complete if `pretint pack` wrote it."""
    paths = sorted(path for path in folder.glob("*.tar") if not path.name.startswith(".") and path.is_file())
    manifest = read_manifest(folder) or {"complete": True, "shards": []}
    recorded = {shard["name"] for shard in manifest["shards"]}
    if not manifest["complete"]:
        raise UserError(f"{name}: packing is not complete; run pretint pack again to resume it")
    missing = recorded - {path.name for path in paths}
    if missing:
        raise UserError(
            f"{name}: {len(missing)} of {len(recorded)} shards are missing, the first is {min(missing)}; "
            "run pretint pack again"
        )
    if not paths:
        raise UserError(
            f"{name}: no tar file in the folder; the names of shards end in .tar, compressed ones must be unpacked"
        )
    # Two sets in one folder are usually training and test images: they must not be mixed by accident.
    sets = sorted({re.sub(r"\d+", "*", path.name) for path in paths})
    if len(sets) > 1:
        raise UserError(
            f"{name}: holds {len(sets)} sets of shards ({', '.join(sets[:3])}{', ...' if len(sets) > 3 else ''}); "
            f"give one, such as {name.rstrip('/')}/{sets[0]}, or all: {name.rstrip('/')}/*.tar"
        )
    return paths


def _parts(pattern: str, start: int) -> tuple[list[str] | Iterator[str], int] | None:
    """Return the names of the brace at ``start``, and its end; None if it is a normal character."""
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
        choices = [pattern[left + 1 : right] for left, right in pairwise(edges)]
        return (name for choice in choices for name in expand(choice)), at + 1
    if match := _RANGE.fullmatch(inside):
        first, last, step = int(match[1]), int(match[2]), abs(int(match[3] or 1)) or 1
        padded = any(re.match(r"-?0\d", end) for end in match.group(1, 2))
        width = max(map(len, match.group(1, 2))) if padded else 0
        return (f"{number:0{width}d}" for number in _span(first, last, step)), at + 1
    if match := _LETTERS.fullmatch(inside):
        return (chr(code) for code in _span(ord(match[1]), ord(match[2]), 1)), at + 1
    if "{" in inside:  # {x{1,2}} keeps its outer pair
        return ("{" + name + "}" for name in expand(inside)), at + 1
    return None


def _span(first: int, last: int, step: int) -> range:
    return range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
