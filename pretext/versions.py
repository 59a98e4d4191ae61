"""What a result depends on besides its settings."""

import platform
from importlib.metadata import version

from pretext.data import DECODER


def versions() -> dict[str, str]:
    """Versions by name: Pretint's, Python's, those of the libraries that compute, and the decoder."""
    packages = ("pretint", "torch", "torchvision", "timm", "numpy", "scikit-image")
    return {
        **{name: version(name) for name in packages},
        "python": platform.python_version(),
        "decoder": DECODER,
        "platform": f"{platform.system()} {platform.machine()}",
    }
