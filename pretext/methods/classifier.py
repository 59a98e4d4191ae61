"""A classifier: a backbone and a linear layer, trained together on the labels of images.

The supervised reference: the network that a colorizer's backbone is, shown the same images in the
same way for as long, but told what is in them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.backbones.contract import Backbone
from pretext.color import rgb_to_lightness


class Classifier(nn.Module):
    """Lightness in, a score per class out: the backbone's last stage, averaged over its places, and one linear layer.

    Args:
        backbone: gives the features.
        classes: how many.
    """

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.stages[-1].channels, classes)

    def forward(self, lightness: Tensor) -> Tensor:
        """Return logits, (B, classes), float32 at least, of images (B, 1, H, W), L in [0, 100]."""
        features = self.backbone(lightness)[self.backbone.stages[-1].name]
        with torch.autocast(features.device.type, enabled=False):  # too small to gain by bf16
            logits: Tensor = self.head(features.to(self.head.weight.dtype).mean((2, 3)))
        return logits

    def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy, in nats, of images (B, 3, H, W), sRGB, with labels (B,), int64: a scalar."""
        return self.image_losses(rgb, labels).mean()

    def image_losses(self, rgb: Tensor, labels: Tensor) -> Tensor:
        """Return each image's cross-entropy, (B,)."""
        return F.cross_entropy(self(rgb_to_lightness(rgb)), labels, reduction="none")
