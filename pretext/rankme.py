"""RankMe: how many dimensions a representation uses, without labels.

Garrido, Balestriero, Najman, LeCun, "RankMe: assessing the downstream performance of pretrained self-supervised
representations by their rank", ICML 2023.
"""

import torch
from torch import Tensor

from pretext.backbones.contract import Backbone
from pretext.engine.device import ComputeConfig, autocast

_AT_ONCE = 64


def rankme(features: Tensor) -> float:
    """Return the exponential of the entropy of the normalized singular values (equations 1 and 2).

    It lies between 1 and the smaller side of the matrix; nan if a value is not finite.

    Args:
        features: (N, dims).
    """
    if not bool(features.isfinite().all()):
        return float("nan")
    values = torch.linalg.svdvals(features.double())
    if not float(values.sum()):
        return 1.0
    shares = values / values.sum() + 1e-7  # the paper's epsilon
    return float(torch.special.entr(shares).sum().exp())


@torch.inference_mode()
def rank_of(backbone: Backbone, rgb: Tensor, place: ComputeConfig) -> float:
    """Return RankMe of the last stage, average-pooled, of a backbone in eval mode.

    Args:
        backbone: on the device of ``place``.
        rgb: (N, 3, H, W), uint8 sRGB, of a size that the backbone takes.
        place: where, at which precision.
    """
    pooled = []
    for images in rgb.split(_AT_ONCE):
        with autocast(place):
            features = backbone(backbone.to_input(images.to(place.device)))
        pooled.append(backbone.pool_last(features).cpu())
    return rankme(torch.cat(pooled))
