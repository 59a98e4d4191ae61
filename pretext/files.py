"""Files that are written completely or not at all."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pretext.errors import UserError

_SIGNATURE = "Pretint"


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that at any moment it has either the old content or the new.

    Raises:
        UserError: the disk is full, or the folder cannot be written. No incomplete file remains.
    """
    with open_atomically(path, f"{len(content) / 1e6:.1f} MB") as file:
        file.write(content)


@contextlib.contextmanager
def open_atomically(path: Path, size: str) -> Iterator[IO[bytes]]:
    """Yield a file to write to. It gets its name when the block ends without an exception.

    Args:
        path: the final path of the file.
        size: its approximate size, for the error message.

    Raises:
        UserError: as ``write_atomically``.
    """
    name = os.fsdecode(os.fsencode(path.name)[:200])
    temporary = path.with_name(
        f".{name}.part"
    )  # always the same name: it overwrites the file that a killed process left
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # a link of this name is not followed
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename must survive a power failure
        finally:
            os.close(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        raise UserError(
            f"{path}: cannot write {size} ({error.strerror}); free some disk space or choose another folder"
        ) from error


def write_png(path: Path, image: Image.Image) -> None:
    """Write an image as PNG, atomically, signed in its text chunk "Software"."""
    write_atomically(path, png_bytes(image))


def png_bytes(image: Image.Image) -> memoryview:
    """Return the content of the file that ``write_png`` writes."""
    buffer, text = io.BytesIO(), PngInfo()
    text.add_text("Software", _SIGNATURE)
    image.save(buffer, "PNG", pnginfo=text)
    return buffer.getbuffer()


def is_ours(path: Path) -> bool:
    """Whether a file is a PNG that ``write_png`` wrote."""
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == _SIGNATURE
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
