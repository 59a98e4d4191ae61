"""What code gave a result."""

import hashlib
from functools import cache
from pathlib import Path

from pretext.plugins import plugin_contents


def code_digest(*parts: str) -> str:
    """SHA-256 over the Python files that judge: packages pretext and transfer or parts of them, and every plugin."""
    own, plugins = _own_digest(*parts), plugin_contents()
    if not plugins:
        return own
    digest = hashlib.sha256(own.encode())
    for content in plugins:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


@cache
def _own_digest(*parts: str) -> str:
    """Over names and bytes."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    places = [root / part for part in parts or ("pretext", "transfer")]
    for path in sorted(path for place in places for path in (place.rglob("*.py") if place.is_dir() else [place])):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
