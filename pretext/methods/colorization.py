"""Colorization: a backbone and a color head predict color from lightness, trained together for an objective."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.backbones.contract import Backbone
from pretext.color import lab_to_rgb, rgb_to_ab, rgb_to_lightness
from pretext.contact_sheet import contact_sheet
from pretext.engine.device import ComputeConfig, autocast
from pretext.errors import UserError
from pretext.gamut import STEP, TEMPERATURE, Gamut
from pretext.methods.contract import Ingredients, Method
from pretext.methods.hints import sample_hints
from pretext.methods.objectives import OBJECTIVES, Classification, Objective
from pretext.prior import rebalancing_weights

_HIDDEN = 256  # units of the class branch
_AT_ONCE = 32
_SHOWN = 12  # images on a sample sheet
COMMON_MASS = 0.8
"""Common bins are the most frequent that together hold this share of the prior; the others are rare."""

Hinting = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""The true ab (B, 2, H, W) and the sample numbers (B,) of images -> hints and mask, see ``pretext.methods.hints``."""


class ClassBranch(nn.Module):
    """An auxiliary branch that predicts an image's class from the backbone's vector; no color depends on it.

    As in Iizuka et al. 2016, there is one fully connected layer of 256 units before the scores.

    Args:
        channels: length of the vector.
        classes: number of classes.
        weight: alpha, the weight of the cross-entropy in the loss.
    """

    def __init__(self, channels: int, classes: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.layers = nn.Sequential(
            nn.Linear(channels, _HIDDEN), nn.BatchNorm1d(_HIDDEN), nn.ReLU(inplace=True), nn.Linear(_HIDDEN, classes)
        )

    def forward(self, vector: Tensor, labels: Tensor) -> Tensor:
        """Return alpha times the cross-entropy, (B,), nats, of vectors (B, channels) and labels (B,), int64."""
        return self.weight * F.cross_entropy(self.layers(vector).float(), labels, reduction="none")


class Colorizer(Method):
    """A network that predicts color from lightness.

    The head is one 1 x 1 convolution on the backbone's last stage. If that stage is coarser than
    ``target_stride``, its output is interpolated (bilinear) to the target's grid, as the paper does
    for AlexNet.

    Args:
        backbone: computes the features.
        objective: gives the number of output channels of the head, and decodes its output.
        target_stride: input pixels per point of the color target, which is sampled, not averaged.
        hinting: draws the hints for training, for a backbone that takes hints.
        class_branch: learns the labels of images besides their colors, for a backbone with a vector.
    """

    colored = True

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        target_stride: int,
        hinting: Hinting | None = None,
        class_branch: ClassBranch | None = None,
    ) -> None:
        super().__init__()
        assert backbone.takes_hints or hinting is None
        assert backbone.vector_channels or class_branch is None
        self.backbone = backbone
        self.objective = objective
        self.target_stride = target_stride
        self.hinting = hinting
        self.head: nn.Module = nn.Conv2d(backbone.stages[-1].channels, objective.channels, kernel_size=1)
        self.class_branch = class_branch

    def forward(self, lightness: Tensor, hints: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the head's output, (B, channels, ceil(H / s), ceil(W / s)).

        Args:
            lightness: (B, 1, H, W), L in [0, 100].
            hints: (B, 2, H, W), ab where it is known, unscaled, else 0; none by default.
            mask: (B, 1, H, W), 1 where it is known, else 0; needed if there are hints.

        Raises:
            UserError: there are hints, but the backbone takes none.
        """
        if hints is None and mask is None:
            return self.output(self.backbone(lightness), lightness.shape[-2:])
        if not self.backbone.takes_hints:
            raise UserError("this network takes no hints; use one with backbone siggraph17")
        assert hints is not None and mask is not None, "hints come with their mask"
        return self.output(self.backbone(lightness, hints, mask), lightness.shape[-2:])

    def output(self, features: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
        """Return the head's output on a backbone's features of images of that size; see ``forward``."""
        stage = self.backbone.stages[-1]
        return on_grid(self.head(features[stage.name]), stage.stride, self.target_stride, size)

    def target(self, rgb: Tensor) -> Tensor:
        """Return the true ab at the head's grid, (B, 2, ceil(H / s), ceil(W / s)), of sRGB images (B, 3, H, W)."""
        s = self.target_stride
        return rgb_to_ab(rgb[..., ::s, ::s])

    def loss(self, rgb: Tensor, labels: Tensor | None = None, numbers: Tensor | None = None) -> Tensor:
        """Return the loss of the objective; with a class branch plus alpha times the cross-entropy of the labels.

        Args:
            rgb: (B, 3, H, W), sRGB.
            labels: (B,), int64; only a class branch needs them.
            numbers: (B,), int64, numbers of the samples in the run, for drawing their hints; None: no hints.

        Returns:
            A scalar.
        """
        output, class_losses = self._forward_training(rgb, labels, numbers)
        loss: Tensor = self.objective(output, self.target(rgb))
        return loss if class_losses is None else loss + class_losses.mean()

    def image_losses(self, rgb: Tensor, labels: Tensor | None = None, numbers: Tensor | None = None) -> Tensor:
        """Return the loss of each image, (B,), also of gray images; arguments as for ``loss``."""
        output, class_losses = self._forward_training(rgb, labels, numbers)
        losses = self.objective.pixel_losses(output, self.target(rgb)).flatten(1).mean(1)
        return losses if class_losses is None else losses + class_losses

    @torch.inference_mode()
    def colorize(
        self,
        lightness: Tensor,
        temperature: float = TEMPERATURE,
        hints: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return ab, (B, 2, H, W), for L, (B, 1, H, W), all unscaled; hints as in ``forward``."""
        ab = self.objective.decode(self(lightness, hints, mask), temperature)
        return resample(ab, self.target_stride, lightness.shape[-2:])

    def _forward_training(
        self, rgb: Tensor, labels: Tensor | None, numbers: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the head's output, and the loss of the class branch for each image, if there is one."""
        lightness = rgb_to_lightness(rgb)
        if self.class_branch is not None:
            assert labels is not None
            features, vector = self.backbone.with_vector(lightness)
            return self.output(features, lightness.shape[-2:]), self.class_branch(vector, labels)
        if self.hinting is None or numbers is None:
            return self(lightness), None
        return self(lightness, *self.hinting(rgb_to_ab(rgb), numbers)), None

    def diagnostics(
        self, rgb: Tensor, labels: Tensor, prior: Tensor | None, place: ComputeConfig
    ) -> tuple[dict[str, Any], Image.Image | None]:
        """Return ``color_health``, and a sheet of the first twelve images."""
        assert prior is not None
        sheet = sample_sheet(self, rgb, place)
        return color_health(self, rgb.split(_AT_ONCE), prior, place), sheet


class Colorization(Colorizer):
    """The colorizer of a recipe.

    Args:
        parts: see ``Ingredients``.
    """

    def __init__(self, parts: Ingredients) -> None:
        backbone, settings, hints = parts.backbone, parts.objective, parts.hints
        assert parts.prior is not None
        if backbone.inputs != "lightness":
            raise UserError(
                f"method colorization cannot train a backbone that reads {backbone.inputs}, for which no color is left "
                "to predict; set backbone.inputs lightness, or method.name joined"
            )
        if hints.sampled and not backbone.takes_hints:
            raise UserError("hints.sampled: this backbone takes no hints; use backbone.name siggraph17")
        if settings.classes_weight and not backbone.vector_channels:
            raise UserError(
                "objective.classes_weight: this backbone has no feature vector of the whole image to predict classes "
                "from; use backbone.name fusion"
            )
        hinting = partial(sample_hints, seed=parts.seed, settings=hints) if hints.sampled else None
        objective = OBJECTIVES[settings.name](settings, parts.prior)
        super().__init__(backbone, objective, settings.stride, hinting)
        if settings.classes_weight and parts.classes:
            self.class_branch = ClassBranch(backbone.vector_channels, len(parts.classes), settings.classes_weight)


class NoHead(nn.Module):
    """A placeholder for a missing color head: its ``forward`` raises a ``UserError``."""

    def __init__(self, origin: str) -> None:
        super().__init__()
        self.origin = origin

    def forward(self, features: Tensor) -> Tensor:
        raise UserError(f"{self.origin}: these weights have no color head; they can be probed, but cannot color images")


def on_grid(output: Tensor, stride: int, target_stride: int, size: Sequence[int]) -> Tensor:
    """Return a head's output, (B, C, h, w), of images of that size, on the grid of the target.

    Args:
        output: the output.
        stride: image pixels per point of it.
        target_stride: image pixels per point of the target.
        size: height and width of the images.
    """
    height, width = (-(-side // target_stride) for side in size)
    if output.shape[-2:] == (height, width):
        return output
    return resample(output.float(), stride / target_stride, (height, width))


def resample(grid: Tensor, factor: float, size: Sequence[int]) -> Tensor:
    """Interpolate bilinearly between point samples.

    Point i of the grid lies at pixel i * ``factor`` of the result, as in sampling with a stride and in strided
    convolutions. (``F.interpolate`` treats points as the middles of cells: the colors would be shifted by half a
    stride.) Beyond the last point, its value is repeated.

    Args:
        grid: (B, C, h, w), float.
        factor: result pixels per grid point.
        size: height and width of the result.
    """
    height, width = (max(1, round((side - 1) * factor) + 1) for side in grid.shape[-2:])
    dense = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=True)
    dense = dense[..., : size[0], : size[1]]
    for axis, side in ((-2, size[0]), (-1, size[1])):
        if missing := side - dense.shape[axis]:  # not F.pad: torch.compile gets its gradient wrong for channels_last
            last = dense.narrow(axis, -1, 1)
            dense = torch.cat((dense, *[last] * missing), axis)
    return dense


def join(lightness: Tensor, ab: Tensor) -> Tensor:
    """Join L and ab to sRGB in [0, 1], (B, 3, H, W); colors outside sRGB are clipped, which changes L."""
    return lab_to_rgb(torch.cat((lightness, ab), dim=1))


def sample_sheet(colorizer: Colorizer, views: Tensor, place: ComputeConfig) -> Image.Image:
    """Draw the first twelve images of ``views``, uint8 (N, 3, H, W): gray, colored by the network, and original."""
    rgb = views[:_SHOWN]
    lightness = rgb_to_lightness(rgb.to(place.device))
    ab = colorizer.colorize(lightness)
    gray, colored = (join(lightness, color).cpu() for color in (torch.zeros_like(ab), ab))
    rows = [
        [Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()) for image in row]
        for row in zip(gray, colored, rgb / 255, strict=True)
    ]
    return contact_sheet(rows, ("gray", "colored", "original"), cell=max(96, rgb.shape[-1]), across=3)


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
    step = STEP
    if isinstance(objective, Classification):
        assert isinstance(objective.gamut, Gamut)
        step = objective.gamut.step
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
