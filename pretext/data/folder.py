"""Folders of images: any folder, and one whose sub-folders are the classes."""

import os
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pretext.data.decode import decode
from pretext.data.duplicates import stamp_files
from pretext.data.scan import Listing, Paths, open_listing, readable
from pretext.data.source import compose_classes, digest_of_keys
from pretext.errors import ImageError, UserError


class Files:
    """A source of image files, given by their paths.

    Args:
        base: the absolute path that all others are relative to.
        paths: paths of the files, at least one, in a stable order.
    """

    _missing = "the file is gone since the folder was listed"

    def __init__(self, base: bytes, paths: Paths) -> None:
        self._base, self._paths = base, paths

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._paths)

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        """Return image ``index``: mode RGB, upright; ``shorter`` as in `decode`.

        Raises:
            ImageError: the file is gone, cannot be read or cannot be decoded.
        """
        return decode(self.data(index), self.key(index), shorter)

    def data(self, index: int) -> bytes:
        """Return the bytes of the file of image ``index``; raises as ``read``."""
        try:
            return Path(os.fsdecode(self._file(index))).read_bytes()
        except FileNotFoundError as problem:
            raise ImageError(self.key(index), self._missing) from problem
        except (OSError, MemoryError) as problem:
            raise ImageError(
                self.key(index), f"cannot be read: {getattr(problem, 'strerror', 'too large')}"
            ) from problem

    def stamps(self) -> NDArray[np.int64]:
        """See ``StoredDataset.stamps``."""
        return stamp_files(self._file, len(self))

    def read_bytes(self, index: int, start: int = 0, stop: int | None = None) -> bytes:
        """See ``StoredDataset.read_bytes``."""
        try:
            with open(self._file(index), "rb", buffering=0) as file:  # noqa: PTH123 (bytes)
                file.seek(start)
                return file.read(-1 if stop is None else stop - start)
        except (OSError, MemoryError) as problem:
            raise ImageError(self.key(index), "cannot be read") from problem

    def _file(self, index: int) -> bytes:
        """Return the absolute path of image ``index``."""
        return self._base + b"/" + self._paths[index]

    def path(self, index: int) -> bytes:
        """Return the path of image ``index``, relative to the root."""
        return self._paths[index]

    def key(self, index: int) -> str:
        """Return the path of image ``index`` relative to the root; bytes that are not UTF-8 become ``\\xNN``."""
        return readable(self._paths[index])

    def digest(self) -> str:
        """See ``ImageDataset.digest``."""
        return digest_of_keys(self)


class Folder(Files):
    """A source of all images below ``root``, ordered by relative path.

    Other files, hidden ones (a name that begins with a dot) and files that a system made are skipped; their number is
    printed. Links to folders are followed, except into a folder that contains the link. A large folder is scanned only
    once; later it is opened from its index, see ``pretext.data.scan``. The list of a million images needs some 50 MB,
    which all processes of the machine share.

    Args:
        root: the folder.
        more: endings in lower case whose files count as images, too.

    Raises:
        UserError: ``root`` is missing, is not a folder, cannot be listed (it or a folder below), or
            holds no image.
    """

    _by_class = False

    def __init__(self, root: str | os.PathLike[str], more: tuple[str, ...] = ()) -> None:
        self.root = os.fspath(root)
        if not self.root:
            raise UserError("the name of the folder is empty; give a folder of images, or `bundled`")
        problem = ""
        try:
            folder = Path(root).expanduser().absolute()
            if not folder.is_dir():
                problem = "is a file, not a folder" if folder.exists() else "no such folder"
        except OSError as denied:
            problem = f"cannot be reached: {denied.strerror}"
        except RuntimeError:  # ~nobody
            problem = "no such user"
        if problem:
            raise UserError(f"{root}: {problem}; give a folder of images, or `bundled` for the built-in ones")
        base = os.fsencode(folder)
        self._listing: Listing = open_listing(base, self.root, self._by_class, more)
        self._listing.left_out.print_once(readable(os.fsencode(self.root)))
        super().__init__(base, self._listing.paths)

    def digest(self) -> str:
        """See ``ImageDataset.digest``; computed by the scan."""
        return self._listing.digest


class ClassFolder(Folder):
    """A labeled source of the images ``root/CLASS/**/image``; the classes are sorted by name (in NFC).

    Labels are those of torchvision's ``ImageFolder``, except that folders which a system made are not classes. As in
    torchvision, images directly under ``root`` have no class and are left out.

    Raises:
        UserError: as for `Folder`, and where ``root`` has no sub-folder, a class has no image, or the names of two
            classes differ only in Unicode form.
    """

    _by_class = True

    def __init__(self, root: str | os.PathLike[str], more: tuple[str, ...] = ()) -> None:
        super().__init__(root, more)
        self._names = compose_classes(self.root, map(readable, self._listing.classes))

    @property
    def classes(self) -> list[str]:
        """Return the names of the sub-folders, by label."""
        return sorted(self._names)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Return the label of every image, by index: (N,)."""
        label = {name: index for index, name in enumerate(sorted(self._names))}
        return np.repeat([label[name] for name in self._names], self._listing.counts)
