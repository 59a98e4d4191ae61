"""Folders of pictures as sources: any folder, and one whose sub-folders are the classes."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from pretext.errors import PictureError, UserError
from pretext.pictures.decode import decode

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""A file is taken for a picture by the ending of its name, in any case."""
_ENDINGS = tuple(ending.encode() for ending in ENDINGS)


class Folder:
    """All pictures below ``root``: a source, ordered by relative path.

    Hidden files and folders (a name that begins with a dot) are skipped; links to folders are followed,
    except into a folder that contains the link. Paths are kept as one block of bytes: a million
    pictures take some 50 MB, shared among forked workers.

    Raises:
        UserError: ``root`` is missing, is not a folder, cannot be listed (it or a folder below), or
            holds no picture.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self._base = os.fsencode(_folder(root))
        paths, others = _pictures(self._base)
        if not paths:
            raise UserError(_none_found(self.root, others))
        self._keep(paths)

    def __len__(self) -> int:
        """How many pictures."""
        return len(self._ends) - 1

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        """Picture ``index``: mode RGB, upright; ``shorter`` as in `decode`.

        Raises:
            PictureError: the file is gone, cannot be read or cannot be decoded.
        """
        return decode(self.data(index), self.key(index), shorter)

    def data(self, index: int) -> bytes:
        """The bytes of picture ``index``; raises as ``read``."""
        try:
            return Path(os.fsdecode(self._base + b"/" + self._path(index))).read_bytes()
        except FileNotFoundError as problem:
            raise PictureError(self.key(index), "the file is gone since the folder was listed") from problem
        except (OSError, MemoryError) as problem:
            raise PictureError(
                self.key(index), f"cannot be read: {getattr(problem, 'strerror', 'too large')}"
            ) from problem

    def key(self, index: int) -> str:
        """The path of picture ``index`` relative to the root; bytes not UTF-8 read ``\\xNN``."""
        return _readable(self._path(index))

    def _keep(self, paths: Iterable[bytes]) -> None:
        ordered = sorted(paths)
        self._blob = b"".join(ordered)
        self._ends = np.cumsum([0, *map(len, ordered)], dtype=np.int64)

    def _path(self, index: int) -> bytes:
        assert 0 <= index < len(self), index
        return self._blob[self._ends[index] : self._ends[index + 1]]


class ClassFolder(Folder):
    """``root/CLASS/**/picture``: a labelled source; the classes are the sub-folders, sorted by name.

    Labels are those of torchvision's ``ImageFolder``. Pictures directly under ``root`` have no class and
    are left out, as there.

    Raises:
        UserError: as for `Folder`, and where ``root`` has no sub-folder or a class has no picture.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self._base = os.fsencode(_folder(root))
        entries, identity = _listed(self._base)
        names = sorted(entry.name for entry in entries if _kind(entry) == "folder")
        if not names:
            raise UserError(f"{self.root}: no sub-folders; labelled pictures lie in one folder per class")
        every: list[bytes] = []
        for name in names:
            paths, others = _pictures(self._base, name, frozenset({identity}))
            if not paths:
                raise UserError(_none_found(f"{self.root.rstrip('/')}/{_readable(name)}", others))
            every += paths
        self._keep(every)
        label = {name: index for index, name in enumerate(names)}
        self._classes = [_readable(name) for name in names]
        self._labels = [label[self._path(index).split(b"/", 1)[0]] for index in range(len(self))]

    @property
    def classes(self) -> list[str]:
        """The names of the sub-folders, by label."""
        return self._classes

    @property
    def labels(self) -> list[int]:
        """The label of every picture, by index."""
        return self._labels


def _folder(root: str | os.PathLike[str]) -> Path:
    """``root``, absolute; a `UserError` where it is not a folder."""
    if not os.fspath(root):
        raise UserError("no folder is named: the name is empty; give a folder of pictures, or `bundled`")
    try:
        path = Path(root).expanduser().absolute()
        if path.is_dir():
            return path
        problem = "is a file, not a folder" if path.exists() else "no such folder"
    except OSError as denied:
        problem = f"cannot be reached: {denied.strerror}"
    except RuntimeError:  # ~nobody
        problem = "no such user"
    raise UserError(f"{root}: {problem}; give a folder of pictures, or `bundled` for the built-in ones")


def _listed(path: bytes) -> tuple[list[os.DirEntry[bytes]], tuple[int, int]]:
    """The entries of a folder that are not hidden, and what identifies the folder under any name."""
    try:
        status = os.stat(path)  # noqa: PTH116 (paths here are bytes)
        with os.scandir(path) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(b".")]
    except OSError as problem:
        raise UserError(f"{_readable(path)}: the folder cannot be listed: {problem.strerror}") from problem
    return shown, (status.st_dev, status.st_ino)


def _pictures(
    base: bytes, below: bytes = b"", outside: frozenset[tuple[int, int]] = frozenset()
) -> tuple[list[bytes], int]:
    """The pictures in ``base/below``, relative to ``base`` and in no order, and how many other files.

    Links to ``outside``, the identities of folders above ``below``, are not followed.
    """
    found, others = [], 0
    waiting = [(below, outside)]
    while waiting:
        folder, above = waiting.pop()
        entries, identity = _listed(base + b"/" + folder)
        if identity in above:  # a link back up
            continue
        for entry in entries:
            path = folder + b"/" + entry.name if folder else entry.name
            kind = _kind(entry)
            if kind == "folder":
                waiting.append((path, above | {identity}))
            elif path.lower().endswith(_ENDINGS) and kind != "special":
                found.append(path)
            else:
                others += 1
    return found, others


def _kind(entry: os.DirEntry[bytes]) -> Literal["folder", "file", "broken", "special"]:
    """What an entry, or what it links to, is. A broken link counts as a picture: reading it says so.

    A pipe or a device does not, under whatever name: reading it would hang or never end.
    """
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        os.stat(entry.path)  # noqa: PTH116 (paths here are bytes)
    except OSError:
        return "broken"
    return "special"


def _none_found(where: str, others: int) -> str:
    """The message for a folder without pictures."""
    if not others:
        return f"{where}: the folder is empty; put pictures in it ({' '.join(ENDINGS)})"
    files = "1 other file" if others == 1 else f"{others} other files"
    return f"{where}: no pictures, {files}; names of pictures end in {' '.join(ENDINGS)}"


def _readable(path: bytes) -> str:
    text = path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
