"""Lists of images as sources: ``list:FILE:FOLDER``, a line for each image, its path below FOLDER and its label.

So Places205, Places365 and Caffe's ImageNet come: ``a/abbey/gsun_0a1b.jpg 0``. White space or a comma stands
between the two; a path may hold both, as the label is the last field. A list without labels is a source without.
"""

import hashlib
import itertools
import os
import stat
import unicodedata
from array import array
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from pretext.data.folder import Files
from pretext.data.formats import KNOWN, ending_of
from pretext.data.labels import compose
from pretext.data.scan import Paths, readable
from pretext.errors import UserError

PREFIX = "list:"
_GRAMMAR = "write list:FILE:FOLDER, such as list:train_places205.csv:/data/images256"
_ENDINGS = frozenset(ending.encode() for ending in KNOWN)
_CHUNK = 2**20
_LONGEST = 2**14  # bytes of a line: paths end at 4096
_DIGITS = 6  # of a label: greater numbers are none
_TRIED = 8


def open_list(name: str, labeled: bool) -> "ListedFiles | None":
    """The images that a list names; None where the name is of another kind.

    Args:
        name: ``list:FILE:FOLDER``: the list, whose own path holds no colon, and the folder that its paths begin in.
        labeled: whether every image must have a label.

    Raises:
        UserError: no such file or folder; a line is no image, or leads out of the folder; no line; an image is
            listed twice; none of the images is there; labels are asked for and missing.
    """
    if not name.startswith(PREFIX):
        return None
    file, _, folder = name.removeprefix(PREFIX).partition(":")
    if not file or not folder:
        raise UserError(f"{name}: {_GRAMMAR}")
    source = ListedFiles(name, _there(name, file, "file", stat.S_ISREG), _there(name, folder, "folder", stat.S_ISDIR))
    if labeled:
        assert len(source.labels) == len(source), name  # raises where there are none
    return source


class ListedFiles(Files):
    """Image files in the order of a list: a labeled source. Made by ``open_list``.

    Args:
        name: as the user wrote it.
        file: the list.
        folder: what its paths are relative to, absolute.

    Raises:
        UserError: see ``open_list``.
    """

    _missing = "no such file, though the list names it"

    def __init__(self, name: str, file: Path, folder: Path) -> None:
        self._name = name
        lines = _Lines(name, file)
        if not len(lines.paths):
            raise UserError(f"{name}: {file} is empty; it needs a line for every image, such as a/abbey/1.jpg 0")
        super().__init__(os.fsencode(folder).rstrip(b"/"), lines.paths)
        self._labels, self._folders = lines.labels, lines.folders
        self._require_once(lines.hashes)
        self._require_some(folder)

    @cached_property
    def classes(self) -> list[str]:
        """By label, up to the greatest: the folders of their images, or their numbers: see ``named``."""
        numbers = [str(label) for label in range(int(self.labels.max()) + 1)]
        if not self._folders:
            return numbers
        parts = [folder.split(b"/") for folder in self._folders.values()]
        shared = (len(set(column)) == 1 for column in zip(*(one[:-1] for one in parts), strict=False))
        above = sum(itertools.takewhile(bool, shared))  # such as train/, where another list has val/
        names = {label: b"/".join(one[above:]) for label, one in zip(self._folders, parts, strict=True)}
        classes = [
            compose(readable(names[label])) if label in names else numbers[label] for label in range(len(numbers))
        ]
        return classes if len(set(classes)) == len(classes) else numbers

    @property
    def named(self) -> bool:
        """Whether the classes have names: where each has a folder to itself, and this is not a number by chance."""
        return self.classes != [str(label) for label in range(len(self.classes))]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The label of every image, by index: (N,).

        Raises:
            UserError: the list has none, or negative ones.
        """
        if self._labels is None:
            raise UserError(f"{self._name}: the list has no labels; a line needs one behind its path: a/abbey/1.jpg 0")
        labels = self._labels.astype(np.int64)
        without = np.flatnonzero(labels < 0)
        if len(without):
            first = int(without[0])
            raise UserError(
                f"{self._name}: {len(without):,} of {len(labels):,} labels are negative, the first that of "
                f"{self.key(first)}: {labels[first]}; labels count from 0"
            )
        return labels

    def digest(self) -> str:
        """See ``Source.digest``."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for start in range(0, len(self), 4096):
            keys = (self.key(index) for index in range(start, min(start + 4096, len(self))))
            digest.update("".join(f"{key}\n" for key in keys).encode())
        return digest.hexdigest()

    def _file(self, index: int) -> bytes:
        """See ``Files``; a list and a folder may write the same letters in different Unicode forms."""
        file = super()._file(index)
        if file.isascii() or os.path.exists(file):  # noqa: PTH110 (bytes)
            return file
        path = os.fsdecode(self._paths[index])
        forms = (self._base + b"/" + os.fsencode(unicodedata.normalize(form, path)) for form in ("NFC", "NFD"))
        return next((other for other in forms if os.path.exists(other)), file)  # noqa: PTH110 (bytes)

    def _require_once(self, hashes: NDArray[np.int64]) -> None:
        order = np.argsort(hashes, kind="stable")
        for at in np.flatnonzero(np.diff(hashes[order]) == 0).tolist():
            first, again = int(order[at]), int(order[at + 1])
            if self._paths[first] == self._paths[again]:
                raise UserError(
                    f"{self._name}: {self.key(first)} is listed twice, as image {first + 1:,} and {again + 1:,}; "
                    "list it once"
                )

    def _require_some(self, folder: Path) -> None:
        """Refuse a folder in which none of some images is: it is the wrong one."""
        tried = [number * (len(self) - 1) // (_TRIED - 1) for number in range(_TRIED)]
        if not any(os.path.exists(self._file(index)) for index in tried):  # noqa: PTH110 (bytes)
            raise UserError(
                f"{self._name}: no file {folder / self.key(0)}, nor others that the list names; give the folder that "
                "its paths begin in"
            )


class _Lines:
    """What a list says, read in one pass; it takes the memory of the paths, and 20 bytes an image."""

    def __init__(self, name: str, file: Path) -> None:
        self._name, self._file = name, file
        blob, ends, labels, hashes = bytearray(), array("q", [0]), array("i"), array("q")
        classes = _Classes()
        kind: tuple[bool, bool] | None = None
        for number, line in enumerate(self._read(), 1):
            if not (text := line.strip()):
                continue
            path, label = _parted(text)
            if label is None and ending_of(path.rpartition(b"/")[2]) not in _ENDINGS:
                self._broken(number, text, "is neither a path and a label nor an image's path")
            own = (label is not None, path.startswith(b"/"))
            if own != kind:
                if kind:
                    what = f"has {'a' if own[0] else 'no'} label" if own[0] != kind[0] else "begins at another folder"
                    self._broken(number, text, f"{what}, unlike those before it")
                kind = own
            if path.startswith((b"/", b"./")):  # lists of Places365 begin every path with a slash, and mean the folder
                path = path.removeprefix(b".").lstrip(b"/")
            if not path or (b".." in path and b".." in path.split(b"/")):
                self._broken(number, text, "leads out of the folder")
            blob += path
            ends.append(len(blob))
            hashes.append(hash(path))
            if label is not None:
                labels.append(label)
                classes.add(path, label)
        self.paths = Paths(np.frombuffer(blob, np.uint8), np.frombuffer(ends, np.int64))
        self.labels = np.frombuffer(labels, np.int32) if kind and kind[0] else None
        self.folders = classes.folders
        """Label -> folder of its images; empty where these do not determine each other."""
        self.hashes = np.frombuffer(hashes, np.int64)
        """Of the paths: equal for equal ones."""

    def _read(self) -> Iterator[bytes]:
        """The lines, without their ends."""
        number, left = 0, b""
        try:
            with self._file.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    lines = (left + chunk if number else (left + chunk).removeprefix(b"\xef\xbb\xbf")).split(b"\n")
                    left = lines.pop()
                    if b"\0" in chunk or len(left) > _LONGEST:
                        raise UserError(f"{self._name}: {self._file} is no list of images in plain text; {_GRAMMAR}")
                    number += len(lines)
                    yield from lines
        except OSError as problem:
            raise UserError(f"{self._name}: {self._file} cannot be read: {problem.strerror}") from problem
        yield left

    def _broken(self, number: int, text: bytes, what: str) -> NoReturn:
        shown = readable(text[:80]) + "..." * (len(text) > 80)
        raise UserError(f"{self._name}: line {number} of {self._file} {what}: {shown}")


class _Classes:
    """Which folder holds the images of which label, as long as each determines the other."""

    def __init__(self) -> None:
        self.folders: dict[int, bytes] = {}
        self._labels: dict[bytes, int] = {}
        self._apart = True

    def add(self, path: bytes, label: int) -> None:
        if not self._apart:
            return
        folder = path.rpartition(b"/")[0]
        if not folder.isascii():
            folder = compose(os.fsdecode(folder)).encode("utf-8", "surrogateescape")
        known = self._labels.setdefault(folder, label) == label and self.folders.setdefault(label, folder) == folder
        if not known or not folder:
            self._apart, self.folders = False, {}


def _parted(text: bytes) -> tuple[bytes, int | None]:
    """Path and label of a line that is stripped; all of it, and None, where its last field is no label."""
    path, last = fields if len(fields := text.rsplit(None, 1)) == 2 else (b"", text)
    if b"," in last:
        path, _, last = text.rpartition(b",")
        last = last.lstrip()
    if path and last.removeprefix(b"-").isdigit() and len(last) <= _DIGITS:
        return path.rstrip(b", \t"), int(last)
    return text, None


def _there(name: str, given: str, what: str, right: Callable[[int], bool]) -> Path:
    """A path that a user named, absolute; a ``UserError`` where there is nothing of that kind."""
    try:
        path = Path(given).expanduser().absolute()
        if right(path.stat().st_mode):
            return path
        problem = f"is no {what}"
    except FileNotFoundError:
        problem = f"does not exist, and should be a {what}"
    except OSError as denied:
        problem = f"cannot be reached: {denied.strerror}"
    except RuntimeError:  # ~nobody
        problem = "names no user"
    raise UserError(f"{name}: {given} {problem}; {_GRAMMAR}")
