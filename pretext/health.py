"""Colour health: is the network learning to colour, or only to be safely gray?"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from pretext.color import rgb_to_lightness
from pretext.colorizer import Colorizer
from pretext.engine.device import Place, autocast
from pretext.gamut import Gamut
from pretext.objectives import Classification

COMMON_MASS = 0.8
"""Common bins are the most frequent that together hold this share of the prior; the others are rare."""


def common_bins(prior: Tensor) -> Tensor:
    """Which bins are common: bool (Q,)."""
    frequency, order = prior.sort(descending=True)
    common = torch.zeros(len(prior), dtype=torch.bool)
    common[order[frequency.cumsum(0) - frequency < COMMON_MASS]] = True
    return common


@torch.inference_mode()
def colour_health(colorizer: Colorizer, pictures: Iterable[Tensor], prior: Tensor, place: Place) -> dict[str, float]:
    """How a colorizer, in eval mode, colours pictures.

    Args:
        colorizer: on the place's device.
        pictures: batches, (B, 3, H, W), uint8 sRGB; at least one.
        prior: (Q,), says which bins are common.
        place: where, at which precision.

    Returns:
        loss: the objective.
        saturation: mean chroma of the prediction over mean chroma of the truth; 1 is as colourful as the
            data, 0 is gray (nan if the data are gray).
        entropy: of the predicted distributions, nats per pixel; at most ln 313 = 5.75. Not for regression.
        recall_common, recall_rare: share of the pixels of a true bin whose decoded colour lies in that
            very bin, averaged over the bins that occur.
    """
    gamut = Gamut(neighbours=1).to(place.device)
    bins = len(gamut)
    losses, entropies, pixels = 0.0, 0.0, 0
    chroma, true_chroma = 0.0, 0.0
    hits, truths = torch.zeros(bins), torch.zeros(bins)
    for rgb in pictures:
        rgb = rgb.to(place.device)
        truth = colorizer.target(rgb)
        with autocast(place):
            output = colorizer(rgb_to_lightness(rgb)).float()
        decoded = colorizer.objective.decode(output)
        count = truth[:, 0].numel()
        pixels += count
        losses += float(colorizer.objective(output, truth)) * count
        if isinstance(colorizer.objective, Classification):
            log_p = torch.log_softmax(output, dim=1)
            entropies -= float((log_p.exp() * log_p).sum())
        chroma += float(decoded.norm(dim=1).sum())
        true_chroma += float(truth.norm(dim=1).sum())
        true_bin, predicted = (gamut.encode(ab).nearest.flatten().cpu() for ab in (truth, decoded))
        truths += torch.bincount(true_bin, minlength=bins)
        hits += torch.bincount(true_bin[true_bin == predicted], minlength=bins)
    common = common_bins(prior)
    recall = hits / truths  # nan where a bin does not occur
    health = {
        "loss": losses / pixels,
        "saturation": chroma / true_chroma if true_chroma else math.nan,
        "recall_common": float(recall[common].nanmean()),
        "recall_rare": float(recall[~common].nanmean()),
    }
    if isinstance(colorizer.objective, Classification):
        health["entropy"] = entropies / pixels
    return health
