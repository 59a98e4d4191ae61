"""The images of a call, the paths of their results, and the results of earlier calls that are still valid.

No result replaces a file that pretint did not write. If a call was stopped, the next one continues there.
"""

import contextlib
import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pretext.data import formats
from pretext.data.folder import Folder
from pretext.data.formats import SkippedFiles, system_name
from pretext.data.patterns import is_pattern, match_paths, split_existing
from pretext.data.scan import readable
from pretext.errors import UserError
from pretext.store import LOCK, Log, key_of, lock
from pretint.colorization.photographs import FORMATS, Format, is_signed

SHEET = "sheet.png"
"""The file of the contact sheet, in the folder of results."""
STANDARD = Path("-")
"""Standard input, or standard output."""

FILE = ".pretint-colorize.jsonl"
"""A file in the folder of results: a log of the images that were colored."""

_MEANING = 2  # version; raise it when the same settings give other colors
_WRITTEN: tuple[Format, ...] = ("jpeg", "png", "webp", "tiff")
_ENDINGS: dict[str, Format] = {ending: format for format in _WRITTEN for ending in formats.FORMATS[format.upper()]}
_OF_SEVERAL = (".mpo", ".apng")  # endings of files with several images; a result holds one


class ColorizeJob(NamedTuple):
    """An image to color."""

    source: Path
    """Its file, or ``STANDARD``."""
    target: Path
    """The file of the result; the names of its further results are longer, see ``beside``."""
    format: Format


def beside(target: Path, what: str, ending: str = "") -> Path:
    """Return the path of a further result of the same image: a-sample1.jpg beside a.jpg."""
    return target.with_name(f"{target.stem}-{what}{ending or target.suffix}")


def list_jobs(
    images: Sequence[Path], out: Path, format: Format | None, others: Iterable[tuple[str, str]], reserved: Path | None
) -> list[ColorizeJob]:
    """Return every image's job, in order. No result replaces another, or a file that is not ours.

    Args:
        images: files, folders, patterns such as photos/*.jpg, and ``STANDARD``; a file in a folder keeps its
            path below it.
        out: the folder of the results.
        format: the format of the results; None takes that of the image's name, or PNG if that cannot be written.
        others: the further results of each image, as ``beside`` takes them.
        reserved: another file that is written.

    Raises:
        UserError: a path does not exist, a pattern matches nothing, or a result would replace an image or a file that
            is not ours.
    """
    others = list(others)
    sources: dict[tuple[Path, Path], None] = {}  # each with its path below the folder of results
    for path in _expand_patterns(images, out):
        if path == STANDARD:
            sources[path, Path("stdin.png")] = None
        elif path.is_dir():
            if _real(out).is_relative_to(_real(path)):
                raise UserError(
                    f"{out}: this folder is in {path}, whose images are colored; name a folder outside with --out"
                )
            folder = Folder(path)
            places = [Path(os.fsdecode(folder.path(index))) for index in range(len(folder))]
            sources |= dict.fromkeys((path / place, place) for place in places)
        elif path.is_file():
            sources[path, Path(path.name)] = None
        else:
            raise UserError(f"{path}: no such file or folder")
    inputs = {_real(source) for source, _ in sources if source != STANDARD}
    taken = {reserved} if reserved else set()
    jobs = []
    for source, place in sources:
        chosen = format or _ENDINGS.get(place.suffix.lower(), "png")
        ending = place.suffix.lower()
        keeps_ending = _ENDINGS.get(ending) == chosen and ending not in _OF_SEVERAL
        suffix = place.suffix if keeps_ending else FORMATS[chosen]
        number = 1
        while True:
            name = f"{place.stem}{'' if number == 1 else f'-{number}'}{suffix}"
            target = (out / place).with_name(name)
            results = {target, *(beside(target, *other) for other in others)}
            if not results & taken:
                break
            number += 1
        taken |= results
        jobs.append(ColorizeJob(source, target, chosen))
    for target in sorted(taken):
        if _real(target) in inputs:
            raise UserError(f"{target}: a result would overwrite an image; name another folder with --out")
        try:
            exists = target.exists() or target.is_symlink()
        except OSError:  # the name is too long for any file
            exists = False
        if exists and not is_signed(target):
            raise UserError(f"{target}: exists, and was not made by pretint; name another folder with --out")
    return jobs


def _expand_patterns(images: Sequence[Path], out: Path) -> list[Path]:
    """Replace patterns by their matches, without earlier results and without files in a folder that is matched too."""
    paths: list[Path] = []
    for path in images:
        if path == STANDARD or not is_pattern(str(path)):
            paths.append(path)
            continue
        # Without names that a system made, unless the pattern has them.
        matches, left_out, counted = [], SkippedFiles(), set[Path]()
        depth = len(_fixed_folder(path).parts)
        for match in map(Path, match_paths(str(path), recursive=True)):
            parts = (part for part in match.parts[depth:] if part not in path.parts)
            name = next((part for part in parts if system_name(os.fsencode(part))), None)
            if name is None:
                matches.append(match)
                continue
            place = Path(*match.parts[: match.parts.index(name, depth) + 1])
            if place not in counted:
                counted.add(place)
                (left_out.add_folder if place.is_dir() else left_out.add_file)(os.fsencode(name))
        out_folder, fixed = _real(out), _real(_fixed_folder(path))
        if out_folder != fixed and out_folder.is_relative_to(fixed):
            matches = [match for match in matches if not _real(match).is_relative_to(out_folder)]
        within = {parent for match in matches for parent in match.parents}
        # If a folder holds the results, take only its other matches.
        folders = {
            match
            for match in matches
            if match.is_dir() and not (match in within and out_folder.is_relative_to(_real(match)))
        }
        matches = [match for match in matches if folders.isdisjoint(match.parents)]
        chosen = [match for match in matches if match in folders or match.is_file()]
        for odd in (match for match in matches if not match.is_dir() and not match.is_file()):
            left_out.add_kind("broken link" if odd.is_symlink() else "pipe, socket or device")
        left_out.print_once(readable(os.fsencode(path)))
        if not chosen:
            raise UserError(f"{path}: no file matches this pattern")
        paths += chosen
    return paths


def _fixed_folder(pattern: Path) -> Path:
    """Return the folder that a pattern searches: its parts before the first wildcard."""
    existing, rest = split_existing(str(pattern))
    plain = itertools.takewhile(lambda name: not glob.has_magic(name), Path(rest.lstrip("/")).parts[:-1])
    return Path(existing, *plain)


def _real(path: Path) -> Path:
    """Resolve links. A link to itself stays, where ``Path.resolve`` would raise."""
    return Path(os.path.realpath(path))


class FinishedResults:
    """The images that were colored into a folder: a log there.

    A result is valid if its image, everything that its colors depend on, and the result itself have not changed since
    it was written. In a folder that does not exist yet, none is.

    Args:
        folder: the folder of the results.
        how: plain values on which all results depend.
        files: the files on which all results depend.
    """

    def __init__(self, folder: Path, how: Any, files: Iterable[Path]) -> None:
        self.folder, self.path = folder, folder / FILE
        self.how = key_of({"meaning": _MEANING, "how": how, "files": [_state(file) for file in files]})
        self._known: dict[str, dict[str, Any]] = {}
        self._log: Log | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Read the log, or begin it, and hold the folder's lock while the context lasts.

        Raises:
            UserError: the folder cannot be written to, or another process is coloring into it.
        """
        with lock(self.folder / LOCK, "coloring into it"):
            # In a folder that others may write to: the target of a link is not replaced, and no pipe is waited for.
            if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
                raise UserError(f"{self.path}: cannot be written (not a regular file); remove it")
            with self._errors("read"):
                self._log = Log(self.path, {"colored images": _MEANING}, "records of colored images")
            self._known = {record["target"]: record for record in self._log.records}
            yield

    @property
    def is_open(self) -> bool:
        """Whether the log was opened."""
        return self._log is not None

    def find(self, source: Path, targets: Sequence[Path]) -> dict[str, Any] | None:
        """Return the record of an image whose results are all valid, with "notes" and "ab" as ``add`` got them.

        Return None if a result is not valid.

        Args:
            source: the image.
            targets: its results.
        """
        record = self._known.get(self._name(targets[0]))
        if record is None or any(state is None for state in map(_state, [source, *targets])):
            return None
        written = {key: record.get(key) for key in ("how", "source", "results")}
        return record if written == self._record(source, targets) else None

    def require_ours(self, targets: Sequence[Path]) -> None:
        """Raise a ``UserError`` if one of an image's results was changed since it was written."""
        for state in self._known.get(self._name(targets[0]), {}).get("results", []):
            if state is not None and _state(Path(state[0])) not in (None, state):
                raise UserError(f"{state[0]}: was changed since pretint wrote it; name another folder with --out")

    def begin(self, targets: Sequence[Path]) -> None:
        """Delete the record of an image's results before they are written again: a kill may leave them incomplete."""
        if self._known.pop(self._name(targets[0]), None) is not None:
            self._append({"target": self._name(targets[0])})

    def add(self, source: Path, targets: Sequence[Path], notes: Sequence[str], ab_range: Sequence[float]) -> None:
        """Record that an image's results were just written, with notes and range of colors (see ``ColorRange``)."""
        details = {"notes": list(notes), "ab": list(ab_range)}
        self._append({"target": self._name(targets[0]), **self._record(source, targets), **details})

    def _append(self, record: dict[str, Any]) -> None:
        assert self._log is not None
        with self._errors("written"):
            self._log.append([record])

    @contextlib.contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be {verb} ({error.strerror}); free some disk space, or name another folder with "
                "--out"
            ) from error

    def _record(self, source: Path, targets: Sequence[Path]) -> dict[str, Any]:
        return {"how": self.how, "source": _state(source), "results": [_state(target) for target in targets]}

    def _name(self, target: Path) -> str:
        return str(target.relative_to(self.folder))


def _state(file: Path) -> list[Any] | None:
    """Return path, size and time of change; None if there is no such file."""
    try:
        status = file.stat()
    except OSError:
        return None
    return [str(file.resolve()), status.st_size, status.st_mtime_ns]
