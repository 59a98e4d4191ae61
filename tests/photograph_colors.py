"""Colors of a whole photograph as the product makes them: predicted for it reduced, and enlarged row by row."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pretext.color import lightness_to_gray
from pretint.colorization.registry import Colorist


def color_photograph(colorist: Colorist, lightness: Tensor, step: int = 13) -> Tensor:
    """ab, (1, 2, H, W), of L, (1, 1, H, W); asked for in strips of that many rows, of a photograph of 16 bits."""
    height, width = lightness.shape[-2:]
    size = (width, height)
    seen = F.adaptive_avg_pool2d(lightness, colorist.seen_size(size)[::-1])
    colors = colorist.enlarged(colorist.predict(seen, size).ab, seen, size)
    photo = (lightness_to_gray(lightness)[0, 0].numpy() * 65535).round().astype(np.uint16)
    rows = [colors.rows(top, min(height, top + step), photo[top : top + step]) for top in range(0, height, step)]
    return torch.from_numpy(np.concatenate(rows, 1))[None]
