"""The interface of every method: what a backbone is trained for, and what it is made of."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from pretext.backbones.contract import Backbone
from pretext.engine.device import ComputeConfig, autocast
from pretext.methods.augment import AugmentSettings
from pretext.methods.hints import HintSettings
from pretext.methods.objectives import ObjectiveSettings

_AT_ONCE = 64

Losses = Tensor | tuple[Tensor, dict[str, Tensor]]
"""A loss, a scalar; or a loss and its parts by name, scalars without gradients, for the journal."""


class Ingredients(NamedTuple):
    """What a method may need beside its own arguments: the backbone, parts of the recipe, and what its images gave."""

    backbone: Backbone
    seed: int
    """The seed of the run: what a method draws for sample t is a function of it, t and the view."""
    objective: ObjectiveSettings
    hints: HintSettings
    augment: AugmentSettings
    prior: Tensor | None = None
    """(Q,), float64, for methods that are ``colored``."""
    classes: Sequence[str] = ()
    """Names of the classes, where the recipe learns labels."""
    channels: Sequence[str] = ()
    """Names of the channels of the images; none for 8-bit sRGB."""


class Method(nn.Module, ABC):
    """What a backbone is trained for: the heads, and the loss of a batch.

    The constructor of a subclass takes ``Ingredients``, and by name those of ``method.arguments``. It may raise a
    ``UserError``. The backbone is its attribute ``backbone``: it alone is transferred.
    """

    backbone: Backbone

    labeled: ClassVar[bool] = False
    """Whether it always learns labels."""
    colored: ClassVar[bool] = False
    """Whether it learns colors, so that the recipe's objective and a prior of colors count."""
    views: ClassVar[int] = 1
    """How many crops of each image it sees; if several, a batch is (B, views, 3, H, W)."""
    numbered: ClassVar[bool] = True
    """See ``pretext.engine.trainer.HasLoss``: ``loss`` gets the numbers of its samples."""
    whole_batch: ClassVar[bool] = False
    """Whether its loss compares the images of a batch, which then cannot be cut into micro-batches."""

    def prepare(self, crops: Sequence[Tensor]) -> None:
        """Take from the first training crops, (3, H, W) each, what the method needs: codebooks, statistics.

        It is called once, before the first step, for a network that reads named channels. It sets buffers, which a
        checkpoint has.

        Raises:
            UserError: nothing can be learned from these images.
        """

    @abstractmethod
    def image_losses(self, rgb: Tensor, labels: Tensor, numbers: Tensor) -> Tensor:
        """Return the loss of each image, (B,).

        Args:
            rgb: (B, 3, H, W), uint8 sRGB; or (B, views, 3, H, W). Or float: named channels instead of 3.
            labels: (B,), int64; -1 where none are learned.
            numbers: (B,), int64, t of each sample.
        """

    def loss(self, rgb: Tensor, labels: Tensor, numbers: Tensor) -> Losses:
        """Return the mean loss of a batch, and its parts if it has any; arguments as for ``image_losses``."""
        return self.image_losses(rgb, labels, numbers).mean()

    @torch.inference_mode()
    def diagnostics(
        self, rgb: Tensor, labels: Tensor, prior: Tensor | None, place: ComputeConfig
    ) -> tuple[dict[str, Any], Image.Image | None]:
        """Measure the network, in eval mode, on held-out images, for the journal. One process alone calls it.

        Args:
            rgb: (N, 3, H, W), uint8 sRGB, on the CPU.
            labels: (N,), int64.
            prior: as in ``Ingredients``.
            place: the method's device, and precision.

        Returns:
            Numbers by name, by default the mean of ``image_losses`` as ``loss``; and a sheet of images or None.
        """
        total, count = 0.0, -(-len(rgb) // _AT_ONCE)  # batches of nearly the same size: no image is alone
        batches = zip(rgb.chunk(count), labels.chunk(count), torch.arange(len(rgb)).chunk(count), strict=True)
        for images, names, numbers in batches:
            views = repeat_views(images, self.views)
            with autocast(place):
                losses = self.image_losses(*(each.to(place.device) for each in (views, names, numbers)))
            total += float(losses.sum())
        return {"loss": total / len(rgb)}, None


def repeat_views(crops: Tensor, views: int) -> Tensor:
    """Return a batch for a method of so many views, of crops (B, 3, H, W)."""
    return crops if views == 1 else torch.stack([crops] * views, 1)
