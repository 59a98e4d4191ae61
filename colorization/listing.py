"""Which pictures a call means, and where each result goes: nothing that exists is written over."""

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from colorization.photographs import FORMATS, Format, signed
from pretext.errors import UserError
from pretext.pictures.folder import Folder

STANDARD = Path("-")
"""Standard input, or standard output."""

_ENDINGS: dict[str, Format] = {
    ".jpg": "jpeg", ".jpeg": "jpeg", ".jpe": "jpeg", ".jfif": "jpeg",
    ".png": "png", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff",
}  # fmt: skip


class Job(NamedTuple):
    """A picture to colour."""

    source: Path
    """Its file, or ``STANDARD``."""
    target: Path
    """The file of the result; others of it have something more before the ending, see ``beside``."""
    format: Format


def beside(target: Path, what: str, ending: str = "") -> Path:
    """The name of another result of the same picture: a-sample1.jpg beside a.jpg."""
    return target.with_name(f"{target.stem}-{what}{ending or target.suffix}")


def list_jobs(
    pictures: Sequence[Path], out: Path, format: Format | None, others: Iterable[tuple[str, str]], reserved: Path | None
) -> list[Job]:
    """Every picture's job, in order. No result takes the place of another, nor of a file that is not ours.

    Args:
        pictures: files, folders, patterns such as photos/*.jpg, and ``STANDARD``; what lies in a folder keeps its place
            below it.
        out: folder of the results.
        format: of the results; None takes that of the picture's name, or PNG where that cannot hold colour or alpha.
        others: what else each picture gives, as ``beside`` takes it.
        reserved: a further file that is written.

    Raises:
        UserError: a path does not exist, a pattern matches nothing, or a result would take a place that is taken.
    """
    others = list(others)
    found = list(dict.fromkeys(place for path in _expanded(pictures, out) for place in _files(path, out)))
    inputs = {_real(source) for source, _ in found if source != STANDARD}
    taken = {reserved} if reserved else set()
    jobs = []
    for source, place in found:
        chosen = format or _ENDINGS.get(place.suffix.lower(), "png")
        suffix = place.suffix if _ENDINGS.get(place.suffix.lower()) == chosen else FORMATS[chosen]
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
            raise UserError(f"{target}: a result would take the place of a picture; name another folder with --out")
        if _exists(target) and not signed(target):
            raise UserError(f"{target}: exists, and was not made by pretint; name another folder with --out")
    return jobs


def _expanded(pictures: Sequence[Path], out: Path) -> list[Path]:
    """Patterns as what they match, but for earlier results, and for what lies in a folder that is matched too."""
    found: list[Path] = []
    for path in pictures:
        if path.exists() or path == STANDARD or not glob.has_magic(str(path)):
            found.append(path)
            continue
        matches = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207 - it may be absolute
        mine, fixed = _real(out), _real(_fixed(path))
        if mine != fixed and mine.is_relative_to(fixed):
            matches = [match for match in matches if not _real(match).is_relative_to(mine)]
        if not matches:
            raise UserError(f"{path}: no file matches this pattern")
        within = {parent for match in matches for parent in match.parents}
        # A folder that the results lie in stands only for the other matches in it.
        folders = {one for one in matches if one.is_dir() and not (one in within and mine.is_relative_to(_real(one)))}
        found += [one for one in matches if (one in folders or one.is_file()) and folders.isdisjoint(one.parents)]
    return found


def _fixed(pattern: Path) -> Path:
    """The folder in which a pattern looks."""
    return next(folder for folder in pattern.parents if not glob.has_magic(str(folder)))


def _files(path: Path, out: Path) -> list[tuple[Path, Path]]:
    """The pictures that a path means, each with its place below the folder of results."""
    if path == STANDARD:
        return [(path, Path("stdin.png"))]
    if path.is_dir():
        if _real(out).is_relative_to(_real(path)):
            raise UserError(f"{out}: lies in {path}, whose pictures are coloured; name a folder outside with --out")
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
