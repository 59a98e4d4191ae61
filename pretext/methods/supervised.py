"""The supervised reference: the same backbone and training on the same images, but with their labels."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.engine.device import ComputeConfig, autocast
from pretext.methods.contract import Ingredients, Method

_AT_ONCE = 32


class Supervised(Method):
    """A classifier: a backbone, global average pooling, and one linear layer.

    Args:
        parts: see ``Ingredients``.
    """

    labeled = True

    def __init__(self, parts: Ingredients) -> None:
        super().__init__()
        self.backbone = parts.backbone
        self.head = nn.Linear(self.backbone.stages[-1].channels, len(parts.classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (B, classes), float32 at least, of images (B, C, H, W), as the backbone reads them."""
        features = self.backbone(x)
        with torch.autocast(x.device.type, enabled=False):  # too small for bf16 to be faster
            logits: Tensor = self.head(self.backbone.pool_last(features))
        return logits

    def image_losses(self, rgb: Tensor, labels: Tensor, numbers: Tensor) -> Tensor:
        """Return each image's cross-entropy, (B,), in nats."""
        return F.cross_entropy(self(self.backbone.to_input(rgb)), labels, reduction="none")

    @torch.inference_mode()
    def diagnostics(
        self, rgb: Tensor, labels: Tensor, prior: Tensor | None, place: ComputeConfig
    ) -> tuple[dict[str, Any], Image.Image | None]:
        """Return the mean cross-entropy, in nats, and the share of the images whose highest score is their label's."""
        losses, right = 0.0, 0
        for images, truth in zip(rgb.split(_AT_ONCE), labels.split(_AT_ONCE), strict=True):
            truth = truth.to(place.device)
            with autocast(place):
                logits = self(self.backbone.to_input(images.to(place.device)))
            losses += float(F.cross_entropy(logits, truth, reduction="sum"))
            right += int((logits.argmax(1) == truth).sum())
        return {"loss": losses / len(rgb), "accuracy": right / len(rgb)}, None
