"""A look at some images of a source, by which it is told from one that has the same names."""

import hashlib

from pretext.data.source import Source
from pretext.errors import ImageError

_SEEN = 32


def seen(source: Source) -> str:
    """A digest of the pixels of some images: imagenette in 96 pixels and in 160 has the same names and labels."""
    digest = hashlib.sha256()
    for index in sorted({number * (len(source) - 1) // (_SEEN - 1) for number in range(_SEEN)}):
        try:
            image = source.read(index)
        except ImageError:
            digest.update(b"none")
        else:
            digest.update(f"{image.size}".encode() + image.tobytes())
    return digest.hexdigest()
