"""Lists of images, ``list:FILE:FOLDER``: each line has the path of an image below FOLDER, and its label.

Places205, Places365 and Caffe's ImageNet have this form: ``a/abbey/gsun_0a1b.jpg 0``. White space or a comma separates
the two; a path may contain both, because the label is the last field. A list may have no labels.
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
from pretext.data.formats import ARRAYS, KNOWN, ending_of
from pretext.data.scan import Paths, readable
from pretext.data.source import compose
from pretext.errors import UserError

PREFIX = "list:"
_GRAMMAR = "write list:FILE:FOLDER, such as list:train_places205.csv:/data/images256"
_ENDINGS = frozenset(ending.encode() for ending in (*KNOWN, *ARRAYS))
_CHUNK = 2**20
_LONGEST = 2**14  # bytes of a line: paths end at 4096
_DIGITS = 6  # of a label: a longer number is not a label
_CHECKED = 8  # images


def open_list(name: str) -> "ListedFiles":
    """Open the images that a list names.

    Args:
        name: ``list:FILE:FOLDER``: the list (its path must have no colon), and the folder that its paths start from.

    Raises:
        UserError: there is no such file or folder, the list is empty, a line is not an image or leads out of the
            folder, an image is listed twice, or none of the images exists.
    """
    file, _, folder = name.removeprefix(PREFIX).partition(":")
    if not file or not folder:
        raise UserError(f"{name}: {_GRAMMAR}")
    return ListedFiles(name, _resolve(name, file, "file", stat.S_ISREG), _resolve(name, folder, "folder", stat.S_ISDIR))


class ListedFiles(Files):
    """A labeled source of image files in the order of a list. ``open_list`` makes it.

    Args:
        name: as the user wrote it.
        file: the list.
        folder: the absolute path that the paths in the list are relative to.

    Raises:
        UserError: see ``open_list``.
    """

    _missing = "no such file, but the list contains it"

    def __init__(self, name: str, file: Path, folder: Path) -> None:
        self._name = name
        lines = _Lines(name, file)
        if not len(lines.paths):
            raise UserError(f"{name}: {file} is empty; it needs a line for every image, such as a/abbey/1.jpg 0")
        super().__init__(os.fsencode(folder).rstrip(b"/"), lines.paths)
        self._labels, self._folders = lines.labels, lines.folders
        self._keys_digest = ""
        order = np.argsort(lines.hashes, kind="stable")
        for at in np.flatnonzero(np.diff(lines.hashes[order]) == 0).tolist():
            first, again = int(order[at]), int(order[at + 1])
            if self._paths[first] == self._paths[again]:
                raise UserError(
                    f"{name}: {self.key(first)} is listed twice, as image {first + 1:,} and {again + 1:,}; list it once"
                )
        # If some images are checked and none exists, the folder is wrong.
        indices = [number * (len(self) - 1) // (_CHECKED - 1) for number in range(_CHECKED)]
        if not any(os.path.exists(self._file(index)) for index in indices):  # noqa: PTH110 (bytes)
            raise UserError(
                f"{name}: no file {folder / self.key(0)}, and no other image of the list; give the folder that "
                "its paths start from"
            )

    @cached_property
    def classes(self) -> list[str]:
        """Return the classes by label, up to the greatest: the folders of their images, or numbers: see ``named``."""
        numbers = [str(label) for label in range(int(self.labels.max()) + 1)]
        if not self._folders:
            return numbers
        parts = [folder.split(b"/") for folder in self._folders.values()]
        shared = (len(set(column)) == 1 for column in zip(*(part[:-1] for part in parts), strict=False))
        above = sum(itertools.takewhile(bool, shared))  # such as train/, when another list has val/
        names = {label: b"/".join(part[above:]) for label, part in zip(self._folders, parts, strict=True)}
        classes = [
            compose(readable(names[label])) if label in names else numbers[label] for label in range(len(numbers))
        ]
        return classes if len(set(classes)) == len(classes) else numbers

    @property
    def named(self) -> bool:
        """Whether the classes have names: each has a folder of its own, whose name is not the number of the class."""
        return self.classes != [str(label) for label in range(len(self.classes))]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Return the label of every image, by index: (N,).

        Raises:
            UserError: the list has none, or negative ones.
        """
        if self._labels is None:
            raise UserError(f"{self._name}: the list has no labels; write one after each path: a/abbey/1.jpg 0")
        labels = self._labels.astype(np.int64)
        negative = np.flatnonzero(labels < 0)
        if len(negative):
            first = int(negative[0])
            raise UserError(
                f"{self._name}: {len(negative):,} of {len(labels):,} labels are negative, the first that of "
                f"{self.key(first)}: {labels[first]}; labels count from 0"
            )
        return labels

    def digest(self) -> str:
        """See ``ImageDataset.digest``."""
        if not self._keys_digest:
            digest = hashlib.sha256()
            for start in range(0, len(self), 4096):
                keys = (self.key(index) for index in range(start, min(start + 4096, len(self))))
                digest.update("".join(f"{key}\n" for key in keys).encode())
            self._keys_digest = digest.hexdigest()
        return self._keys_digest

    def _file(self, index: int) -> bytes:
        """See ``Files``; a list and a folder may write the same letters in different Unicode forms."""
        file = super()._file(index)
        if file.isascii() or os.path.exists(file):  # noqa: PTH110 (bytes)
            return file
        path = os.fsdecode(self._paths[index])
        forms = (self._base + b"/" + os.fsencode(unicodedata.normalize(form, path)) for form in ("NFC", "NFD"))
        return next((other for other in forms if os.path.exists(other)), file)  # noqa: PTH110 (bytes)


class _Lines:
    """The content of a list, read in one pass; it needs the memory of the paths, and 20 bytes per image."""

    def __init__(self, name: str, file: Path) -> None:
        self._name, self._file = name, file
        blob, ends, labels, hashes = bytearray(), array("q", [0]), array("i"), array("q")
        label_of: dict[bytes, int] = {}
        folder_of: dict[int, bytes] = {}
        is_one_to_one = True  # folders and labels
        kind: tuple[bool, bool] | None = None
        for number, line in enumerate(self._read(), 1):
            if not (text := line.strip()):
                continue
            # The label is the last field, after white space or a comma; a line without a label is only a path.
            path = text
            label: int | None = None
            start, last = fields if len(fields := text.rsplit(None, 1)) == 2 else (b"", text)
            if b"," in last:
                start, _, last = text.rpartition(b",")
                last = last.lstrip()
            if start and last.removeprefix(b"-").isdigit() and len(last) <= _DIGITS:
                path, label = start.rstrip(b", \t"), int(last)
            if label is None and ending_of(path.rpartition(b"/")[2]) not in _ENDINGS:
                self._raise_for_line(number, text, "is not the path of an image, with or without a label")
            line_kind = (label is not None, path.startswith(b"/"))
            if line_kind != kind:
                if kind:
                    what = f"has {'a' if line_kind[0] else 'no'} label"
                    if line_kind[0] == kind[0]:
                        what = "begins with another kind of path"
                    self._raise_for_line(number, text, f"{what}, unlike those before it")
                kind = line_kind
            if path.startswith(
                (b"/", b"./")
            ):  # in lists of Places365 every path begins with a slash, which means the folder
                path = path.removeprefix(b".").lstrip(b"/")
            if not path or (b".." in path and b".." in path.split(b"/")):
                self._raise_for_line(number, text, "leads out of the folder")
            blob += path
            ends.append(len(blob))
            hashes.append(hash(path))
            if label is not None:
                labels.append(label)
                if is_one_to_one:
                    folder = path.rpartition(b"/")[0]
                    if not folder.isascii():
                        folder = compose(os.fsdecode(folder)).encode("utf-8", "surrogateescape")
                    same = label_of.setdefault(folder, label) == label and folder_of.setdefault(label, folder) == folder
                    is_one_to_one = same and bool(folder)
        self.paths = Paths(np.frombuffer(blob, np.uint8), np.frombuffer(ends, np.int64))
        self.labels = np.frombuffer(labels, np.int32) if kind and kind[0] else None
        self.folders = folder_of if is_one_to_one else {}
        """Label -> folder of its images; empty if these do not determine each other."""
        self.hashes = np.frombuffer(hashes, np.int64)
        """Hashes of the paths."""

    def _read(self) -> Iterator[bytes]:
        """Yield the lines, without their ends."""
        number, left = 0, b""
        try:
            with self._file.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    lines = (left + chunk if number else (left + chunk).removeprefix(b"\xef\xbb\xbf")).split(b"\n")
                    left = lines.pop()
                    if b"\0" in chunk or len(left) > _LONGEST:
                        raise UserError(f"{self._name}: {self._file} is not a list of images in plain text; {_GRAMMAR}")
                    number += len(lines)
                    yield from lines
        except OSError as problem:
            raise UserError(f"{self._name}: {self._file} cannot be read: {problem.strerror}") from problem
        yield left

    def _raise_for_line(self, number: int, text: bytes, what: str) -> NoReturn:
        shown = readable(text[:80]) + "..." * (len(text) > 80)
        raise UserError(f"{self._name}: line {number} of {self._file} {what}: {shown}")


def _resolve(name: str, text: str, what: str, is_right: Callable[[int], bool]) -> Path:
    """Return the absolute path for a path of the user; ``UserError`` if it does not exist or has another kind."""
    try:
        path = Path(text).expanduser().absolute()
        if is_right(path.stat().st_mode):
            return path
        problem = f"is not a {what}"
    except FileNotFoundError:
        problem = f"does not exist, and should be a {what}"
    except OSError as denied:
        problem = f"cannot be reached: {denied.strerror}"
    except RuntimeError:  # ~nobody
        problem = "has an unknown user"
    raise UserError(f"{name}: {text} {problem}; {_GRAMMAR}")
