"""A look at some pictures of a source, by which it is told from one that has the same names."""

import hashlib

from pretext.data.source import Source
from pretext.errors import PictureError

_SEEN = 32


def seen(source: Source) -> str:
    """A digest of the pixels of some pictures: imagenette in 96 pixels and in 160 has the same names and labels."""
    digest = hashlib.sha256()
    for index in sorted({number * (len(source) - 1) // (_SEEN - 1) for number in range(_SEEN)}):
        try:
            picture = source.read(index)
        except PictureError:
            digest.update(b"none")
        else:
            digest.update(f"{picture.size}".encode() + picture.tobytes())
    return digest.hexdigest()
