"""Which images a call means, and where each result goes: nothing that exists is written over."""

import glob
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pretext.data import formats
from pretext.data.folder import Folder
from pretext.data.formats import LeftOut, system_name
from pretext.data.patterns import is_pattern, match_paths, split_existing
from pretext.data.scan import readable
from pretext.errors import UserError
from pretint.colorization.photographs import FORMATS, Format, signed

STANDARD = Path("-")
"""Standard input, or standard output."""

_WRITTEN: tuple[Format, ...] = ("jpeg", "png", "webp", "tiff")
_ENDINGS: dict[str, Format] = {ending: one for one in _WRITTEN for ending in formats.FORMATS[one.upper()]}
_OF_SEVERAL = (".mpo", ".apng")  # endings that say of a file that it holds several images; a result holds one


class Job(NamedTuple):
    """An image to color."""

    source: Path
    """Its file, or ``STANDARD``."""
    target: Path
    """The file of the result; others of it have something more before the ending, see ``beside``."""
    format: Format


def beside(target: Path, what: str, ending: str = "") -> Path:
    """The name of another result of the same image: a-sample1.jpg beside a.jpg."""
    return target.with_name(f"{target.stem}-{what}{ending or target.suffix}")


def list_jobs(
    images: Sequence[Path], out: Path, format: Format | None, others: Iterable[tuple[str, str]], reserved: Path | None
) -> list[Job]:
    """Every image's job, in order. No result takes the place of another, nor of a file that is not ours.

    Args:
        images: files, folders, patterns such as photos/*.jpg, and ``STANDARD``; what lies in a folder keeps its place
            below it.
        out: folder of the results.
        format: of the results; None takes that of the image's name, or PNG where that is not written.
        others: what else each image gives, as ``beside`` takes it.
        reserved: a further file that is written.

    Raises:
        UserError: a path does not exist, a pattern matches nothing, or a result would take a place that is taken.
    """
    others = list(others)
    found = list(dict.fromkeys(place for path in _expanded(images, out) for place in _files(path, out)))
    inputs = {_real(source) for source, _ in found if source != STANDARD}
    taken = {reserved} if reserved else set()
    jobs = []
    for source, place in found:
        chosen = format or _ENDINGS.get(place.suffix.lower(), "png")
        ending = place.suffix.lower()
        kept = _ENDINGS.get(ending) == chosen and ending not in _OF_SEVERAL
        suffix = place.suffix if kept else FORMATS[chosen]
        number = 1
        while True:
            name = f"{place.stem}{'' if number == 1 else f'-{number}'}{suffix}"
            target = (out / place).with_name(name)
            results = {target, *(beside(target, *other) for other in others)}
            if not results & taken:
                break
            number += 1
        taken |= results
        jobs.append(Job(source, target, chosen))
    for target in sorted(taken):
        if _real(target) in inputs:
            raise UserError(f"{target}: a result would take the place of an image; name another folder with --out")
        if _exists(target) and not signed(target):
            raise UserError(f"{target}: exists, and was not made by pretint; name another folder with --out")
    return jobs


def _expanded(images: Sequence[Path], out: Path) -> list[Path]:
    """Patterns as what they match, but for earlier results, and for what lies in a folder that is matched too."""
    found: list[Path] = []
    for path in images:
        if path == STANDARD or not is_pattern(str(path)):
            found.append(path)
            continue
        matches, left_out = _without_system_names(path, map(Path, match_paths(str(path), recursive=True)))
        mine, fixed = _real(out), _real(_fixed(path))
        if mine != fixed and mine.is_relative_to(fixed):
            matches = [match for match in matches if not _real(match).is_relative_to(mine)]
        within = {parent for match in matches for parent in match.parents}
        # A folder that the results lie in stands only for the other matches in it.
        folders = {one for one in matches if one.is_dir() and not (one in within and mine.is_relative_to(_real(one)))}
        matches = [one for one in matches if folders.isdisjoint(one.parents)]
        chosen = [one for one in matches if one in folders or one.is_file()]
        for odd in (one for one in matches if not one.is_dir() and not one.is_file()):
            left_out.add_kind("broken link" if odd.is_symlink() else "pipe, socket or device")
        left_out.tell(readable(os.fsencode(path)))
        if not chosen:
            raise UserError(f"{path}: no file matches this pattern")
        found += chosen
    return found


def _fixed(pattern: Path) -> Path:
    """The folder in which a pattern looks."""
    existing, rest = split_existing(str(pattern))
    plain = itertools.takewhile(lambda name: not glob.has_magic(name), Path(rest.lstrip("/")).parts[:-1])
    return Path(existing, *plain)


def _without_system_names(pattern: Path, matches: Iterable[Path]) -> tuple[list[Path], LeftOut]:
    """Matches without those that a system made, unless the pattern names them; and the counts of what goes."""
    left_out, kept, seen = LeftOut(), [], set[Path]()
    depth = len(_fixed(pattern).parts)
    for match in matches:
        names = (name for name in match.parts[depth:] if name not in pattern.parts)
        name = next((name for name in names if system_name(os.fsencode(name))), None)
        if name is None:
            kept.append(match)
            continue
        place = Path(*match.parts[: match.parts.index(name, depth) + 1])
        if place not in seen:
            seen.add(place)
            (left_out.add_folder if place.is_dir() else left_out.add_file)(os.fsencode(name))
    return kept, left_out


def _files(path: Path, out: Path) -> list[tuple[Path, Path]]:
    """The images that a path means, each with its place below the folder of results."""
    if path == STANDARD:
        return [(path, Path("stdin.png"))]
    if path.is_dir():
        if _real(out).is_relative_to(_real(path)):
            raise UserError(f"{out}: lies in {path}, whose images are colored; name a folder outside with --out")
        folder = Folder(path)
        places = [Path(os.fsdecode(folder.path(index))) for index in range(len(folder))]
        return [(path / place, place) for place in places]
    if path.is_file():
        return [(path, Path(path.name))]
    raise UserError(f"{path}: no such file or folder")


def _real(path: Path) -> Path:
    """Without links; one that leads to itself stays, where ``Path.resolve`` would raise."""
    return Path(os.path.realpath(path))


def _exists(path: Path) -> bool:
    """Whether something has this name; no such name can be had if it is too long."""
    try:
        return path.exists() or path.is_symlink()
    except OSError:
        return False
