"""SimCLR and VICReg: two augmented views of an image should be alike, and images should differ.

SimCLR: Chen, Kornblith, Norouzi, Hinton, "A simple framework for contrastive learning of visual representations", ICML
2020. VICReg: Bardes, Ponce, LeCun, "VICReg: variance-invariance-covariance regularization for self-supervised
learning", ICLR 2022.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.engine import distributed
from pretext.errors import UserError
from pretext.methods.augment import augment
from pretext.methods.contract import Ingredients, Losses, Method


def mlp(*widths: int) -> nn.Sequential:
    """Return linear layers, with batch norm and ReLU between them."""
    layers: list[nn.Module] = []
    for at, (before, width) in enumerate(pairwise(widths)):
        is_last = at == len(widths) - 2
        layers.append(nn.Linear(before, width, bias=is_last))
        if not is_last:
            layers += [nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def require_sizes(**sizes: int) -> None:
    """Raise a ``UserError`` if a size is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"method.arguments: {name} is {size}: it must be at least 1")


class TwoViews(Method):
    """What methods share that compare two views of each image: projected features of both, and the loss of those.

    Args:
        parts: see ``Ingredients``.
        projector: (B, C) features of the last stage -> (B, dims).
    """

    views = 2
    whole_batch = True

    def __init__(self, parts: Ingredients, projector: nn.Module) -> None:
        super().__init__()
        if parts.backbone.scale is not None:
            colors = {"saturation": parts.augment.saturation, "hue": parts.augment.hue, "gray": max(parts.augment.gray)}
            if named := [name for name, value in colors.items() if value]:
                raise UserError(
                    f"augment.{named[0]} changes colors, which named channels do not have; set augment.saturation 0, "
                    "augment.hue 0 and augment.gray [0]"
                )
        self.backbone, self.projector = parts.backbone, projector
        self.seed, self.augmentation = parts.seed, parts.augment

    def augmented(self, rgb: Tensor, numbers: Tensor) -> Tensor:
        """Return the views, (2 B, C, H, W), float in [0, 1], of crops (B, 2, C, H, W): first all first ones."""
        unit = self.backbone.to_unit(rgb.flatten(0, 1))
        if self.backbone.scale is not None:
            unit = unit.nan_to_num(0.5)  # what is not known lies in the middle
        pairs = enumerate(unit.unflatten(0, rgb.shape[:2]).unbind(1))
        return torch.cat([augment(crops, numbers, view, self.seed, self.augmentation) for view, crops in pairs])

    def features(self, views: Tensor) -> dict[str, Tensor]:
        """Return the features of all views. They pass the network together, so that batch norm sees all."""
        return self.backbone(self.backbone.from_unit(views))

    def contrast(self, features: dict[str, Tensor]) -> Losses:
        """Return the loss of both views' projections."""
        return self.losses(*self.projector(self.backbone.pool_last(features)).chunk(2))

    def losses(self, first: Tensor, second: Tensor) -> Losses:
        """Return the loss of projections, (B, dims) each, of this process's images."""
        raise AssertionError("a subclass defines losses")

    def loss(self, rgb: Tensor, labels: Tensor, numbers: Tensor) -> Losses:
        """See ``Method.loss``."""
        return self.contrast(self.features(self.augmented(rgb, numbers)))

    def image_losses(self, rgb: Tensor, labels: Tensor, numbers: Tensor) -> Tensor:
        """Return the loss of the batch for each image: it cannot be told apart."""
        loss = self.loss(rgb, labels, numbers)
        return (loss if isinstance(loss, Tensor) else loss[0]).expand(len(rgb))


class SimCLR(TwoViews):
    """Each view finds the other view of its image among all others of the batch: NT-Xent (equation 1).

    The projector is the paper's: two layers, with batch norm between them.

    Args:
        parts: see ``Ingredients``.
        temperature: tau.
        hidden: units of the projector.
        dims: length of a projection.
    """

    def __init__(self, parts: Ingredients, temperature: float = 0.5, hidden: int = 512, dims: int = 128) -> None:
        if not 0.001 <= temperature <= 1000:
            raise UserError(f"method.arguments: temperature is {temperature}: it must lie in [0.001, 1000]")
        require_sizes(hidden=hidden, dims=dims)
        super().__init__(parts, mlp(parts.backbone.stages[-1].channels, hidden, dims))
        self.temperature = temperature

    def losses(self, first: Tensor, second: Tensor) -> Losses:
        """Return NT-Xent of this process's views among those of all processes."""
        return nt_xent(first, second, self.temperature)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the mean over all views of the cross-entropy of finding the other view, in nats (SimCLR, equation 1).

    The similarity is the cosine divided by the temperature; a view is not among its own candidates.

    Args:
        first, second: (B, dims), this process's views. Those of other processes are candidates too.
        temperature: tau.
    """
    with torch.autocast(first.device.type, enabled=False):  # else logits have three digits
        views, count = F.normalize(torch.cat((first, second)).float(), dim=1), len(first)
        candidates, begin = distributed.gather_with_gradient(views)
        logits = views @ candidates.T / temperature
        rows = torch.arange(2 * count, device=views.device)
        itself = rows[:, None] + begin == torch.arange(len(candidates), device=views.device)
        return F.cross_entropy(logits.masked_fill(itself, -torch.inf), (rows + count) % (2 * count) + begin)


class VICReg(TwoViews):
    """Both views of an image have the same projection; no unit is constant, and no two say the same.

    The projector has three layers. The paper's have 8,192 units each, for ImageNet.

    Args:
        parts: see ``Ingredients``.
        dims: units of each layer of the projector.
        invariance: lambda, the weight of the distance of views.
        variance: mu, the weight of the hinge on the standard deviations.
        covariance: nu, the weight of the squared covariances.
    """

    def __init__(
        self,
        parts: Ingredients,
        dims: int = 1024,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
    ) -> None:
        require_sizes(dims=dims)
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
        for name, weight in self.weights.items():
            if not 0 <= weight <= 1e6:
                raise UserError(f"method.arguments: {name} is {weight}: it must lie in [0, 1000000]")
        super().__init__(parts, mlp(parts.backbone.stages[-1].channels, dims, dims, dims))

    def losses(self, first: Tensor, second: Tensor) -> Losses:
        """Return the weighted sum, and its terms."""
        parts = vicreg_terms(first, second)
        return sum_of(parts, self.weights), {name: part.detach() for name, part in parts.items()}


def sum_of(parts: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Return the sum of the parts, each times its weight."""
    return torch.stack([weights[name] * part for name, part in parts.items()]).sum()


def vicreg_terms(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Return the three terms of VICReg, scalars.

    The invariance is the mean squared difference, over images and dimensions, as in the released code; the paper does
    not divide by the dimensions. The variance is the mean of both views' terms, as in the released code (the paper has
    their sum), and the covariance the sum. Variance and covariance are those of all processes' images.

    Args:
        first, second: (B, dims), projections of this process's images.
    """
    terms = {"invariance": F.mse_loss(first.float(), second.float())}
    deviations, covariances = [], []
    with torch.autocast(first.device.type, enabled=False):  # else covariances have three digits
        for view in (first, second):
            everywhere, _ = distributed.gather_with_gradient(view.float())
            centered, others = everywhere - everywhere.mean(0), max(1, len(everywhere) - 1)
            deviations.append(F.relu(1 - (centered.square().sum(0) / others + 1e-4).sqrt()).mean())
            matrix = centered.T @ centered / others
            covariances.append((matrix.square().sum() - matrix.diagonal().square().sum()) / matrix.shape[0])
    terms["variance"] = (deviations[0] + deviations[1]) / 2
    terms["covariance"] = covariances[0] + covariances[1]
    return terms
