"""Images of other channels than red, green and blue, drawn for eyes."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pretext.data.channels import AnyImage
from pretext.errors import UserError

_HUES = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1))


def false_color(
    values: NDArray[np.float32], names: Sequence[str], lookup: Mapping[str, str] | None = None
) -> NDArray[np.uint8]:
    """Return an image, uint8 (H, W, 3): each channel in its color, added up.

    Args:
        values: (C, H, W) in [0, 1]; NaN is black.
        names: the channels.
        lookup: channel -> color, in any of matplotlib's ways. By default a single channel is gray; others are red,
            green, blue, yellow, cyan and magenta, in this order and again.
    """
    lookup = lookup or {}
    own = ((1, 1, 1),) if len(names) == 1 else _HUES
    colors = np.array(
        [to_rgb(lookup[name]) if name in lookup else own[at % len(own)] for at, name in enumerate(names)], np.float32
    )
    mixed = np.tensordot(np.nan_to_num(values), colors, (0, 0))  # (H, W, 3)
    image: NDArray[np.uint8] = np.rint(mixed.clip(0, 1) * 255).astype(np.uint8)
    return image


def to_photograph(image: AnyImage) -> Image.Image:
    """Return an image of named channels in false color, each from its 1st to its 99th percentile; others unchanged."""
    if isinstance(image, Image.Image):
        return image
    planes = np.moveaxis(np.asarray(image), -1, 0)
    low, high = (np.nan_to_num(np.nanpercentile(planes, q, (1, 2)))[:, None, None] for q in (1, 99))
    scaled = (planes - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return Image.fromarray(false_color(scaled, [""] * len(planes)))


def to_rgb(color: str) -> tuple[float, float, float]:
    """Return R, G and B in [0, 1] of a color of matplotlib's.

    Raises:
        UserError: there is no such color.
    """
    from matplotlib.colors import to_rgb as convert  # not at the top: half a second

    try:
        return convert(color)
    except ValueError as error:
        raise UserError(f"{color} is no color; give a name, as green, or #00ff00") from error
