"""Rotation: by how many quarters was the image turned?

Gidaris, Singh, Komodakis, "Unsupervised representation learning by predicting image rotations", ICLR 2018.
"""

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.engine.device import ComputeConfig, autocast
from pretext.methods.contract import Ingredients, Method

_AT_ONCE = 64


class Rotation(Method):
    """A backbone and a linear classifier of four rotations. As in the paper, a batch holds every image in all four.

    Args:
        parts: see ``Ingredients``.
    """

    def __init__(self, parts: Ingredients) -> None:
        super().__init__()
        self.backbone = parts.backbone
        self.head = nn.Linear(self.backbone.stages[-1].channels, 4)

    def forward(self, rgb: Tensor) -> Tensor:
        """Return logits, (4, B, 4), of images (B, 3, H, W), each turned by 0, 1, 2 and 3 quarters."""
        turned = torch.cat([torch.rot90(rgb, quarters, (2, 3)) for quarters in range(4)])
        features = self.backbone(self.backbone.to_input(turned))
        with torch.autocast(rgb.device.type, enabled=False):  # too small for bf16 to be faster
            logits: Tensor = self.head(self.backbone.pool_last(features)).view(4, len(rgb), 4)
        return logits

    def image_losses(self, rgb: Tensor, labels: Tensor, numbers: Tensor) -> Tensor:
        """Return the mean cross-entropy of each image's rotations, (B,), in nats."""
        logits = self(rgb)
        truth = torch.arange(4, device=rgb.device)[:, None].expand(4, len(rgb))
        return F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="none").view(4, -1).mean(0)

    @torch.inference_mode()
    def diagnostics(
        self, rgb: Tensor, labels: Tensor, prior: Tensor | None, place: ComputeConfig
    ) -> tuple[dict[str, Any], Image.Image | None]:
        """Return the loss, and the share of rotations that are found."""
        losses, right = 0.0, 0
        for images in rgb.split(_AT_ONCE):
            with autocast(place):
                logits = self(images.to(place.device))
            truth = torch.arange(4, device=place.device)[:, None].expand(4, len(images))
            losses += float(F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="sum"))
            right += int((logits.argmax(2) == truth).sum())
        return {"loss": losses / (4 * len(rgb)), "accuracy": right / (4 * len(rgb))}, None
