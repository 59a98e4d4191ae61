"""The interface of every method: what a backbone is trained for, and what it is made of."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from PIL import Image
from torch import Tensor, nn

from pretext.backbones.contract import Backbone
from pretext.engine.device import ComputeConfig
from pretext.methods.augment import AugmentSettings
from pretext.methods.hints import HintSettings
from pretext.methods.objectives import ObjectiveSettings

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

    @abstractmethod
    def loss(self, rgb: Tensor, labels: Tensor, numbers: Tensor) -> Losses:
        """Return the mean loss of a batch.

        Args:
            rgb: (B, 3, H, W), uint8 sRGB; or (B, views, 3, H, W).
            labels: (B,), int64; -1 where none are learned.
            numbers: (B,), int64, t of each sample.
        """

    @abstractmethod
    def image_losses(self, rgb: Tensor, labels: Tensor, numbers: Tensor) -> Tensor:
        """Return the loss of each image, (B,); arguments as for ``loss``."""

    @abstractmethod
    def diagnostics(
        self, rgb: Tensor, labels: Tensor, prior: Tensor | None, place: ComputeConfig
    ) -> tuple[dict[str, Any], Image.Image | None]:
        """Measure the network, in eval mode, on held-out images, for the journal.

        Args:
            rgb: (N, 3, H, W), uint8 sRGB, on the CPU.
            labels: (N,), int64.
            prior: as in ``Ingredients``.
            place: the method's device, and precision.

        Returns:
            Numbers by name, with ``loss`` among them; and a sheet of images or None.
        """
