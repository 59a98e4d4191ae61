"""What code gave a result."""

import hashlib
from functools import cache
from pathlib import Path


@cache
def code_digest(*parts: str) -> str:
    """SHA-256 over names and bytes of the Python files that judge: packages pretext and transfer, or parts of them."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    places = [root / part for part in parts or ("pretext", "transfer")]
    for path in sorted(path for place in places for path in (place.rglob("*.py") if place.is_dir() else [place])):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
