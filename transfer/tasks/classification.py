"""Classification: a backbone, and one linear layer or three as its head."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from pretext.errors import UserError
from transfer.tasks.alignment import Features, stage_of
from transfer.tasks.exact import Exact


@dataclass
class ClassifyHeadSettings:
    """What is put on the backbone.

    Args:
        kind: linear: one layer on the mean over all places. fc: two hidden layers with ReLU and dropout on a grid of
            means, and one on top, as AlexNet's fc6, fc7 and fc8.
        stage: whose features it takes; "" is the last.
        width: of fc: units of each hidden layer.
        grid: of fc: places along each side that the features are averaged to.
        dropout: of fc: the share of the hidden units that is dropped in training.
    """

    kind: Literal["linear", "fc"] = "linear"
    stage: str = ""
    width: int = 4096
    grid: int = 6
    dropout: float = 0.5

    def __post_init__(self) -> None:
        for name in ("width", "grid"):
            if getattr(self, name) < 1:
                raise UserError(f"head.{name} is {getattr(self, name)}: it must be 1 or more")
        if not 0 <= self.dropout < 1:
            raise UserError(f"head.dropout is {self.dropout}: a share in [0, 1)")


class Classify(nn.Module):
    """sRGB in, a score per class out.

    The last layer starts with weights from N(0, 0.01^2) and no bias, as the publications' fc8.

    Args:
        features: the backbone, in its first form or adapted.
        classes: how many.
        head: what is put on it.

    Raises:
        UserError: the backbone has no such stage.
    """

    def __init__(self, features: Features, classes: int, head: ClassifyHeadSettings | None = None) -> None:
        super().__init__()
        head = head or ClassifyHeadSettings()
        stage = stage_of(features, head.stage)
        self.features, self.stage, self.classes = features, stage.name, classes
        last: nn.Linear
        if head.kind == "linear":
            last = nn.Linear(stage.channels, classes)
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Exact(last))
        else:
            last = nn.Linear(head.width, classes)
            self.head = nn.Sequential(
                nn.AdaptiveAvgPool2d(head.grid),
                nn.Flatten(),
                nn.Linear(stage.channels * head.grid**2, head.width),
                nn.ReLU(),
                nn.Dropout(head.dropout),
                nn.Linear(head.width, head.width),
                nn.ReLU(),
                nn.Dropout(head.dropout),
                Exact(last),
            )
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)

    def forward(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W), uint8 or float in [0, 1] -> logits, (B, classes), float32."""
        logits: Tensor = self.head(self.features(rgb)[self.stage])
        return logits

    def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
        """How badly the images' labels are told, in nats: a scalar.

        Args:
            rgb: (B, 3, H, W), uint8.
            labels: int64 (B,), the class: the mean cross-entropy. Or int8 (B, classes), 1 where the class is in the
                image, 0 where not, -1 where it does not count: the mean binary cross-entropy over what counts
                (Caffe's is the sum over the classes of an image, which is as many times as much as there are
                classes), 0 where nothing does.
        """
        logits = self(rgb)
        if labels.ndim == 1:
            return F.cross_entropy(logits, labels.long())
        counted = labels >= 0
        losses = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).to(logits.dtype), reduction="none")
        return (losses * counted).sum() / counted.sum().clamp(min=1)

    def predict(self, rgb: Tensor) -> Tensor:
        """As ``forward``, of a network in eval mode."""
        assert not self.training
        logits: Tensor = self(rgb)
        return logits
