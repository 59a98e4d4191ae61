"""A classifier: a backbone and a linear layer, trained together on the labels of images.

It is the supervised reference for a colorizer: the same backbone and training on the same images, but with labels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.backbones.contract import Backbone
from pretext.color import rgb_to_lightness


class Classifier(nn.Module):
    """A network that predicts classes from lightness: a backbone, global average pooling, and one linear layer.

    Args:
        backbone: computes the features.
        classes: number of classes.
    """

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.stages[-1].channels, classes)

    def forward(self, lightness: Tensor) -> Tensor:
        """Return logits, (B, classes), float32 at least, of images (B, 1, H, W), L in [0, 100]."""
        features = self.backbone(lightness)[self.backbone.stages[-1].name]
        with torch.autocast(features.device.type, enabled=False):  # too small for bf16 to be faster
            logits: Tensor = self.head(features.to(self.head.weight.dtype).mean((2, 3)))
        return logits

    def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy, in nats, of images (B, 3, H, W), sRGB, with labels (B,), int64: a scalar."""
        return self.image_losses(rgb, labels).mean()

    def image_losses(self, rgb: Tensor, labels: Tensor) -> Tensor:
        """Return each image's cross-entropy, (B,)."""
        return F.cross_entropy(self(rgb_to_lightness(rgb)), labels, reduction="none")
