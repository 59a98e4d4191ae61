"""Diagnostics of a network in training: how well it colors or classifies images, and whether its colors are gray."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pretext.color import rgb_to_lightness
from pretext.engine.device import ComputeConfig, autocast
from pretext.gamut import STEP, Gamut
from pretext.methods.classifier import Classifier
from pretext.methods.colorization import Colorizer
from pretext.methods.objectives import Classification
from pretext.prior import rebalancing_weights

_AT_ONCE = 32
COMMON_MASS = 0.8
"""Common bins are the most frequent that together hold this share of the prior; the others are rare."""


def common_bins(prior: Tensor) -> Tensor:
    """Return which bins are common: bool (Q,)."""
    frequency, order = prior.sort(descending=True)
    common = torch.zeros(len(prior), dtype=torch.bool)
    common[order[frequency.cumsum(0) - frequency < COMMON_MASS]] = True
    return common


@torch.inference_mode()
def color_health(colorizer: Colorizer, images: Iterable[Tensor], prior: Tensor, place: ComputeConfig) -> dict[str, Any]:
    """Measure how a colorizer, in eval mode, colors images.

    Bins are those of its objective (for a regression: the published 313). Values that depend on the bins can only be
    compared between networks with the same bins.

    Args:
        colorizer: the colorizer, on the device of ``place``.
        images: batches, (B, 3, H, W), uint8 sRGB; at least one.
        prior: (Q,), adds up to 1; it determines the common bins and the weight of the pixels of each bin.
        place: where, at which precision.

    Returns:
        loss: the loss of the objective.
        saturation: mean chroma of the prediction divided by mean chroma of the truth; 1 is as colorful as the
            data, 0 is gray (nan if the data are gray).
        accuracy: share of the pixels whose most probable bin (for a regression: the bin of the predicted
            color) is the bin nearest to the truth.
        accuracy_rebalanced: the same, with each pixel weighted by the rebalancing weight of its true bin, always
            with the paper's lambda of 1/2, so that objectives can be compared.
        recall: a list of Q: of the pixels of each true bin, the share whose decoded color (the annealed
            mean) lies in this bin; nan if the bin does not occur.
        recall_common, recall_rare: the mean of recall over the common bins and over the rare bins that occur.
        entropy: mean entropy of the predicted distributions, nats per pixel; at most ln Q, 5.75 for 313 bins. Not for
            regression.
    """
    objective = colorizer.objective
    classifies = isinstance(objective, Classification)
    step = objective.gamut.step if isinstance(objective, Classification) else STEP
    gamut = Gamut(neighbors=1, step=step).to(place.device)
    losses, entropies, chroma, true_chroma = 0.0, 0.0, 0.0, 0.0
    truths, decoded_right, named_right = torch.zeros(3, len(gamut), dtype=torch.int64, device=place.device)
    for rgb in images:
        rgb = rgb.to(place.device)
        truth = colorizer.target(rgb)
        with autocast(place):
            output = colorizer(rgb_to_lightness(rgb)).float()
        decoded = objective.decode(output)
        losses += float(objective(output, truth)) * truth[:, 0].numel()
        chroma += float(decoded.norm(dim=1).sum())
        true_chroma += float(truth.norm(dim=1).sum())
        if classifies:
            entropies += float(torch.special.entr(output.softmax(1)).sum())
        bins, lies_in = (gamut.encode(ab).nearest for ab in (truth, decoded))
        predicted = output.argmax(1) if classifies else lies_in
        for counts, selected in (
            (truths, bins >= 0),
            (decoded_right, bins == lies_in),
            (named_right, bins == predicted),
        ):
            counts += torch.bincount(bins[selected], minlength=len(gamut))
    truths, decoded_right, named_right = (counts.cpu() for counts in (truths, decoded_right, named_right))
    common, weights = common_bins(prior), rebalancing_weights(prior, uniform=0.5)
    recall = decoded_right.double() / truths  # nan where a bin does not occur
    health = {
        "loss": losses / int(truths.sum()),
        "saturation": chroma / true_chroma if true_chroma else math.nan,
        "accuracy": int(named_right.sum()) / int(truths.sum()),
        "accuracy_rebalanced": float((weights * named_right).sum() / (weights * truths).sum()),
        "recall_common": float(recall[common].nanmean()),
        "recall_rare": float(recall[~common].nanmean()),
        "recall": recall.tolist(),
    }
    if classifies:
        health["entropy"] = entropies / int(truths.sum())
    return health


@torch.inference_mode()
def label_health(classifier: Classifier, rgb: Tensor, labels: Tensor, place: ComputeConfig) -> dict[str, float]:
    """Measure how a classifier, in eval mode, classifies images.

    Args:
        classifier: the classifier, on the device of ``place``.
        rgb: (N, 3, H, W), uint8 sRGB; at least one.
        labels: (N,), int64.
        place: where, at which precision.

    Returns:
        loss: the mean cross-entropy, nats.
        accuracy: share of the images whose highest score is that of their label.
    """
    losses, right = 0.0, 0
    for images, truth in zip(rgb.split(_AT_ONCE), labels.split(_AT_ONCE), strict=True):
        truth = truth.to(place.device)
        with autocast(place):
            logits = classifier(rgb_to_lightness(images.to(place.device)))
        losses += float(F.cross_entropy(logits, truth, reduction="sum"))
        right += int((logits.argmax(1) == truth).sum())
    return {"loss": losses / len(rgb), "accuracy": right / len(rgb)}
