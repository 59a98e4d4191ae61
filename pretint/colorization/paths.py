"""The images of a call, the paths of their results, and which results stand from an earlier call.

No result replaces a file that is not ours. A call that was stopped goes on where it was.
"""

import glob
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pretext.data import formats
from pretext.data.folder import Folder
from pretext.data.formats import LeftOut, system_name
from pretext.data.patterns import is_pattern, match_paths, split_existing
from pretext.data.scan import readable
from pretext.errors import UserError
from pretint.colorization.photographs import FORMATS, Format, signed

SHEET = "sheet.png"
"""The file of the contact sheet, in the folder of results."""
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


FILE = ".pretint-colorize.jsonl"
"""In the folder of results: a line of JSON for every image that was colored."""

_MEANING = 1  # raised when the same settings come to make something else


class Memory:
    """What was colored into a folder, from what, how.

    A result stands if its image, everything that its colors depend on, and the result itself are as they were when
    it was written. A line that cannot be read tells of nothing.

    Args:
        folder: of the results.
        how: plain values on which results depend besides their image.
        files: further files on which they depend.
    """

    def __init__(self, folder: Path, how: Any, files: Iterable[Path]) -> None:
        self.folder, self.path = folder, folder / FILE
        depends = json.dumps([_MEANING, how, [_state(file) for file in files]], sort_keys=True, default=str)
        self.how = hashlib.sha256(depends.encode()).hexdigest()[:16]
        self._known: dict[str, dict[str, Any]] = {}
        try:
            lines = self.path.read_bytes().splitlines() if self.path.is_file() else []
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be read ({error.strerror}); name another folder with --out"
            ) from error
        for line in lines:
            try:
                record = json.loads(line)
                target, notes = record["target"], record.get("notes", [])
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue
            if isinstance(target, str) and isinstance(notes, list) and all(isinstance(note, str) for note in notes):
                self._known[target] = record

    def notes(self, source: Path, targets: Sequence[Path]) -> list[str] | None:
        """What was said of an image whose results all stand; None if they don't.

        Args:
            source: of the image.
            targets: its results.
        """
        record = self._known.get(self._name(targets[0]))
        if record is None or any(state is None for state in map(_state, [source, *targets])):
            return None
        found = {key: record.get(key) for key in ("how", "source", "results")}
        return list(record.get("notes", [])) if found == self._record(source, targets) else None

    def ab_range(self, targets: Sequence[Path]) -> Any:
        """What ``add`` kept of an image's colors; None if nothing."""
        return self._known.get(self._name(targets[0]), {}).get("ab")

    def require_ours(self, targets: Sequence[Path]) -> None:
        """Raise a ``UserError`` if somebody changed one of an image's results since it was written."""
        written = self._known.get(self._name(targets[0]), {}).get("results")
        for state in written if isinstance(written, list) else []:
            if isinstance(state, list) and state and _state(Path(str(state[0]))) not in (None, state):
                raise UserError(f"{state[0]}: was changed since pretint wrote it; name another folder with --out")

    def begin(self, targets: Sequence[Path]) -> None:
        """Keep that an image's results are about to be written: what is found of them later may be anything."""
        if self._known.pop(self._name(targets[0]), None) is not None:
            self._append({"target": self._name(targets[0])})

    def add(self, source: Path, targets: Sequence[Path], notes: Sequence[str], ab_range: Sequence[float]) -> None:
        """Keep that they were written just now, and the range of the colors (see ``ColorRange``)."""
        kept = {"notes": list(notes), "ab": list(ab_range)}
        self._append({"target": self._name(targets[0]), **self._record(source, targets), **kept})

    def _append(self, record: dict[str, Any]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            opened = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
            with os.fdopen(opened, "a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); make room and call again") from error

    def _record(self, source: Path, targets: Sequence[Path]) -> dict[str, Any]:
        return {"how": self.how, "source": _state(source), "results": [_state(target) for target in targets]}

    def _name(self, target: Path) -> str:
        return str(target.relative_to(self.folder))


def _state(file: Path) -> list[Any] | None:
    """Place, size and time of change; None if there is no such file."""
    try:
        found = file.stat()
    except OSError:
        return None
    return [str(file.resolve()), found.st_size, found.st_mtime_ns]
