"""Cross-channel prediction: some channels of an image are hidden, and predicted from those that are shown.

Colorization (Zhang et al. 2016) with other channels: the values of the hidden channels are quantized together, soft
encoded, rebalanced by their prior, and decoded by the annealed mean, as colors are.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from pretext.codebook import Codebook
from pretext.contact_sheet import contact_sheet
from pretext.engine.device import ComputeConfig, autocast
from pretext.errors import UserError
from pretext.false_color import false_color, to_rgb
from pretext.methods.colorization import on_grid, resample
from pretext.methods.contract import Ingredients, Losses, Method
from pretext.methods.objectives import Classification
from pretext.methods.uniforms import uniforms
from pretext.prior import estimate_prior, rebalancing_weights
from pretext.scale import ChannelScale

_KEY = 0xC4A
_AT_ONCE = 32
_SHOWN = 12  # images on a sheet


class CrossChannel(Method):
    """A backbone that predicts hidden channels from those that it reads.

    The hidden channels have one codebook: a grid for one or two of them, else k-means over the first training images.
    With ``drop``, channels that the backbone reads are hidden at random as well, each with a codebook of its own: so
    one backbone serves any subset of them.

    Args:
        parts: see ``Ingredients``. Of the objective, name (rebalanced or plain), stride, neighbors and uniform count.
        hidden: the channels to predict; the backbone must not read them.
        codes: Q, the number of codes of a codebook; for two hidden channels a square.
        drop: probability that a channel which the backbone reads is hidden from it, drawn for each sample; one always
            stays.
        colors: how sheets show channels, such as {DAPI: blue}; see ``false_color``.
    """

    def __init__(
        self,
        parts: Ingredients,
        hidden: Sequence[str] = (),
        codes: int = 256,
        drop: float = 0.0,
        colors: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(hidden, Sequence) or not all(isinstance(name, str) for name in hidden):
            raise UserError(f"method.arguments: hidden is {hidden}: give a list of channels' names")
        if not isinstance(colors or {}, Mapping) or not all(isinstance(c, str) for c in (colors or {}).values()):
            raise UserError(f"method.arguments: colors is {colors}: give a color for each name, such as {{DAPI: blue}}")
        self.backbone, self.seed, self.drop, self.lookup = parts.backbone, parts.seed, drop, dict(colors or {})
        for name, color in self.lookup.items():
            to_rgb(color)
            if name not in parts.channels:
                raise UserError(
                    f"method.arguments: colors has {name}, which is no channel; data.source has "
                    f"{', '.join(parts.channels)}"
                )
        inputs, objective = parts.backbone.inputs, parts.objective
        if not isinstance(inputs, tuple):
            raise UserError(
                f"method cross_channel: backbone.inputs is {inputs}; name the channels that it reads, as [B02, B03] "
                "(the colors of 8-bit sRGB are predicted by method colorization)"
            )
        if isinstance(hidden, str) or len(set(hidden)) < len(hidden):
            raise UserError(f"method.arguments: hidden is {hidden}: give a list of different channels")
        for name in hidden:
            if name in inputs:
                raise UserError(
                    f"method.arguments: hidden channel {name} is in backbone.inputs, too; take it out of one"
                )
            if name not in parts.channels:
                raise UserError(
                    f"method.arguments: hidden channel {name} is not there; data.source has {', '.join(parts.channels)}"
                )
        if not 0 <= drop < 1:
            raise UserError(f"method.arguments: drop is {drop}: it must lie in [0, 1)")
        if not hidden and not (drop and len(inputs) > 1):
            raise UserError(
                "method.arguments: no channel is hidden; set hidden, or drop for a backbone that reads several"
            )
        if objective.name not in ("rebalanced", "plain"):
            raise UserError(f"method cross_channel: objective.name is {objective.name}; set rebalanced or plain")
        fewest = max(2, objective.neighbors)
        if not fewest <= codes <= 4096 or (len(hidden) == 2 and math.isqrt(codes) ** 2 != codes):
            raise UserError(
                f"method.arguments: codes is {codes}: it must lie in [{fewest}, 4096], and be a square for "
                "two hidden channels"
            )
        self.stride, self.rebalanced, self.uniform = objective.stride, objective.name == "rebalanced", objective.uniform
        self.groups: list[tuple[str, ...]] = [tuple(hidden)] * bool(hidden)
        self.groups += [(name,) for name in inputs] * bool(drop)
        """Channels that are predicted together, and then those that may be dropped."""
        self.scale = ChannelScale([name for group in self.groups for name in group])
        self._positions = [list(parts.channels).index(name) for name in self.scale.names]
        self.objectives = cast(
            "list[Classification]",
            nn.ModuleList(Classification(Codebook(codes, len(group), objective.neighbors)) for group in self.groups),
        )
        self.head = nn.Conv2d(self.backbone.stages[-1].channels, codes * len(self.groups), 1)

    def targets(self, images: Tensor) -> list[Tensor]:
        """Return the true values of each group in [0, 1] on the head's grid, (B, d, h, w), of images (B, C, H, W)."""
        s = self.stride
        return list(self.scale(images[:, self._positions, ::s, ::s]).split([len(group) for group in self.groups], 1))

    def prepare(self, crops: Sequence[Tensor]) -> None:
        """Fit the codebooks, and measure their priors; see ``Method.prepare``."""
        targets = [self.targets(crop[None]) for crop in crops]
        for objective, *of_group in zip(self.objectives, *targets, strict=True):
            assert isinstance(objective.gamut, Codebook)
            points = torch.cat([values.flatten(2)[0].T for values in of_group])
            points = points[points.isfinite().all(1)]
            if not len(points):
                raise UserError(
                    "method.arguments: the hidden channels are nowhere finite together in the first training images; "
                    "hide others, or one alone"
                )
            objective.gamut.fit(points, self.seed)
            if self.rebalanced:
                prior = estimate_prior([points.T[None, :, None]], objective.gamut)
                objective.weights.copy_(rebalancing_weights(prior, self.uniform))

    def draw_hidden(self, numbers: Tensor) -> Tensor:
        """Return which channels that the backbone reads are hidden from it, bool (B, channels), for each sample."""
        drawn = uniforms(self.seed ^ _KEY, numbers, len(self.backbone.inputs))
        return (drawn < self.drop) & (drawn < drawn.amax(1, keepdim=True))

    def predict(self, images: Tensor, numbers: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the logits of each group on the head's grid, (B, Q, h, w); and what ``draw_hidden`` returns.

        Args:
            images: (B, C, H, W), as for ``image_losses``.
            numbers: (B,), int64.
        """
        hidden = self.draw_hidden(numbers).to(images.device)
        shown = self.backbone.to_unit(images).masked_fill(hidden[..., None, None], math.nan)
        features, stage = self.backbone(self.backbone.from_unit(shown)), self.backbone.stages[-1]
        output = on_grid(self.head(features[stage.name]), stage.stride, self.stride, images.shape[-2:])
        return list(output.chunk(len(self.groups), 1)), hidden

    def counted(self, truths: Sequence[Tensor], hidden: Tensor) -> list[Tensor]:
        """Return which pixels count, bool (B, h, w), of each group: the truth is known, and was not shown."""
        first = len(self.groups) - hidden.shape[1] if self.drop else len(self.groups)
        counts = [truth.isfinite().all(1) for truth in truths]
        for at in range(first, len(self.groups)):
            counts[at] = counts[at] & hidden[:, at - first, None, None]
        return counts

    def pixel_losses(self, rgb: Tensor, numbers: Tensor) -> list[Tensor]:
        """Return the losses of each group, (B, h, w), nats; 0 where the truth is unknown (NaN), or was shown."""
        outputs, hidden = self.predict(rgb, numbers)
        truths = self.targets(rgb)
        losses = []
        for objective, output, truth, counts in zip(
            self.objectives, outputs, truths, self.counted(truths, hidden), strict=True
        ):
            losses.append(objective.pixel_losses(output, truth.nan_to_num(0)) * counts)
        return losses

    def image_losses(self, rgb: Tensor, labels: Tensor, numbers: Tensor) -> Tensor:
        """Return the sum of the groups' losses of each image, (B,)."""
        return torch.stack(self.pixel_losses(rgb, numbers)).sum(0).flatten(1).mean(1)

    def loss(self, rgb: Tensor, labels: Tensor, numbers: Tensor) -> Losses:
        """Return the sum, and the loss of each group if there are several."""
        losses = [losses.mean() for losses in self.pixel_losses(rgb, numbers)]
        if len(losses) == 1:
            return losses[0]
        names = [f"loss_{'+'.join(group)}" for group in self.groups]  # a channel may be called lr
        return torch.stack(losses).sum(), {name: loss.detach() for name, loss in zip(names, losses, strict=True)}

    @torch.inference_mode()
    def diagnostics(
        self, rgb: Tensor, labels: Tensor, prior: Tensor | None, place: ComputeConfig
    ) -> tuple[dict[str, Any], Image.Image | None]:
        """Measure the predictions on held-out images.

        Returns:
            loss; for each hidden channel NAME error_NAME, the mean absolute error of the annealed mean, in units of the
            images; recall, the mean over the codes that occur of the share of their pixels whose annealed mean is
            nearest to the same code, for each group; and a sheet of the first twelve images.
        """
        total, numbers = 0.0, torch.arange(len(rgb))
        errors = torch.zeros(len(self.scale.names), dtype=torch.float64)
        known = torch.zeros_like(errors)
        hits = [torch.zeros(2, len(objective.gamut), dtype=torch.int64) for objective in self.objectives]
        rows: list[list[Image.Image]] = []
        for images, at in zip(rgb.split(_AT_ONCE), numbers.split(_AT_ONCE), strict=True):
            images, at = images.to(place.device), at.to(place.device)
            with autocast(place):
                total += float(self.image_losses(images, labels, at).sum())
                outputs, hidden = self.predict(images, at)
            truths = self.targets(images)
            decoded = [
                objective.decode(output.float()) for objective, output in zip(self.objectives, outputs, strict=True)
            ]
            of_groups = self.counted(truths, hidden)
            for objective, truth, values, counts, found in zip(
                self.objectives, truths, decoded, of_groups, hits, strict=True
            ):
                right, named = (objective.gamut.encode(each.nan_to_num(0)).nearest for each in (truth, values))
                for times, selected in zip(found, (counts, counts & (right == named)), strict=True):
                    times += torch.bincount(right[selected].cpu(), minlength=len(times))
            counted = torch.cat([
                counts[:, None].expand(-1, len(group), -1, -1)
                for counts, group in zip(of_groups, self.groups, strict=True)
            ], 1)  # fmt: skip
            values, truth = (self.scale.inverse(torch.cat(list(each), 1)) for each in (decoded, truths))
            apart = (values - truth).abs().where(counted, 0)
            errors += apart.cpu().double().sum((0, 2, 3))
            known += counted.cpu().double().sum((0, 2, 3))
            if len(rows) < _SHOWN:
                rows += self._rows(images, hidden, decoded, truths)[: _SHOWN - len(rows)]
        health = {"loss": total / len(rgb)}
        for name, error in zip(self.scale.names, (errors / known).tolist(), strict=True):
            health[f"error_{name}"] = error
        for group, (occur, right) in zip(self.groups, hits, strict=True):
            recall = float((right.double() / occur).nanmean())
            health["recall" if len(self.groups) == 1 else f"recall_{'+'.join(group)}"] = recall
        side = max(96, rgb.shape[-1])
        return health, contact_sheet(rows, ("shown", "predicted", "hidden"), cell=side, across=3)

    def _rows(
        self, images: Tensor, hidden: Tensor, decoded: Sequence[Tensor], truths: Sequence[Tensor]
    ) -> list[list[Image.Image]]:
        """Return shown, predicted and hidden channels of images in false color."""
        size = images.shape[-2:]
        inputs = self.backbone.inputs
        assert isinstance(inputs, tuple)
        shown = self.backbone.to_unit(images).masked_fill(hidden[..., None, None], math.nan).cpu().numpy()
        predicted, truth = (
            resample(torch.cat(list(each), 1).float().nan_to_num(0), self.stride, size).cpu().numpy()
            for each in (decoded, truths)
        )
        return [
            [Image.fromarray(false_color(values, names, self.lookup)) for values, names in (
                (shown[at], inputs), (predicted[at], self.scale.names), (truth[at], self.scale.names)
            )]
            for at in range(len(images))
        ]  # fmt: skip
