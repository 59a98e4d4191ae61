"""Segmentation: a backbone, and the head of a fully convolutional network or of DeepLab."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP

from pretext.backbones.contract import Stage
from pretext.errors import UserError
from transfer.tasks.alignment import Features, grids, read_between
from transfer.tasks.exact import Exact

IGNORED = 255
"""The label of pixels that count neither in training nor in the score."""


@dataclass
class SegmentHeadSettings:
    """What is put on the backbone.

    Args:
        kind: fcn32, fcn16, fcn8: scores at every place of the last stage, joined by those of the stages before it
            at stride 16, or 16 and 8 (Long et al. 2015). The last stage counts whatever its stride is: where that is
            16, fcn32 works at 16, and fcn16 is refused, as it has nothing to add. deeplab: dilated convolutions side
            by side on the last stage (Chen et al. 2017, DeepLabV3).
        dropout: of the fcn kinds: the share of the last stage's channels that is dropped in training (deeplab: 0.5).
        width: of deeplab: channels of every branch.
        rates: of deeplab: dilations of the branches, in places. 12, 24, 36 is published for stride 8, 6, 12, 18 for 16.
    """

    kind: Literal["fcn32", "fcn16", "fcn8", "deeplab"] = "fcn32"
    dropout: float = 0.5
    width: int = 256
    rates: list[int] = field(default_factory=lambda: [6, 12, 18])

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise UserError(f"head.dropout is {self.dropout}: a share in [0, 1)")
        if self.width < 1:
            raise UserError(f"head.width is {self.width}: it must be 1 or more")
        if not self.rates or min(self.rates) < 1:
            raise UserError(f"head.rates is {self.rates}: give one dilation or more, each 1 or more")


class Segment(nn.Module):
    """sRGB in, a score per class and pixel out.

    Scores are read between the places of the coarser map by a fixed bilinear rule, see ``alignment.read_between``. The
    scores of finer stages start at 0, as published.

    Args:
        features: the backbone, in its first form or adapted.
        classes: how many, with background.
        head: what is put on it.

    Raises:
        UserError: the head needs finer stages than the backbone has.
    """

    def __init__(self, features: Features, classes: int = 21, head: SegmentHeadSettings | None = None) -> None:
        super().__init__()
        head = head or SegmentHeadSettings()
        self.features, self.classes = features, classes
        last, finer = features.stages[-1], skips(features.stages, head.kind)
        known = grids(features)
        self.grids = {stage.name: known[stage.name] for stage in (last, *finer)}
        """Of the stages that are used, the last first."""
        self.head = nn.ModuleDict()
        if head.kind == "deeplab":
            self.head[last.name] = nn.Sequential(
                ASPP(last.channels, head.rates, head.width),
                nn.Conv2d(head.width, head.width, 3, padding=1, bias=False),
                nn.BatchNorm2d(head.width),
                nn.ReLU(),
                Exact(_score(head.width, classes, std=0.01)),
            )
        else:
            self.head[last.name] = nn.Sequential(
                nn.Dropout(head.dropout), Exact(_score(last.channels, classes, std=0.01))
            )
        for stage in finer:
            self.head[stage.name] = Exact(_score(stage.channels, classes, std=0))

    def forward(self, rgb: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Logits, (B, classes, H, W), float32, of images (B, 3, h, w), uint8 or float in [0, 1].

        ``size`` is (H, W), that of the same images as they are asked about; by default their own.
        """
        maps = self.features(rgb)
        (name, grid), *skips = self.grids.items()
        logits = self.head[name](maps[name])
        for name, finer in skips:
            score = self.head[name](maps[name])
            rows, columns = (finer.first + finer.stride * _count(side, score) for side in score.shape[2:])
            logits, grid = read_between(logits, grid, rows, columns) + score, finer
        shown = rgb.shape[2:]
        rows, columns = (
            (_count(asked, logits) + 0.5) * (side / asked) - 0.5
            for side, asked in zip(shown, size or shown, strict=True)
        )
        return read_between(logits, grid, rows, columns)

    def loss(self, rgb: Tensor, mask: Tensor) -> Tensor:
        """The mean cross-entropy of the pixels that count, in nats: a scalar, 0 where none does.

        Args:
            rgb: (B, 3, H, W), uint8.
            mask: (B, H, W), uint8 or int64: classes, and 255 where it does not count.
        """
        target = mask.long()
        losses = F.cross_entropy(self(rgb), target, ignore_index=IGNORED, reduction="sum")
        return losses / (target != IGNORED).sum().clamp(min=1)

    def predict(self, rgb: Tensor, size: tuple[int, int]) -> Tensor:
        """The likeliest class of every pixel: (B, H, W), uint8, for ``size`` (H, W); of a network in eval mode."""
        assert not self.training
        logits: Tensor = self(rgb, size)
        return logits.argmax(1).to(torch.uint8)


def skips(stages: tuple[Stage, ...], kind: str) -> list[Stage]:
    """The stages, besides the last, whose scores a head adds: the last of each stride, coarse before fine.

    Raises:
        UserError: there is none at a stride that the head is named after.
    """
    wanted = {"fcn16": [16], "fcn8": [16, 8]}.get(kind, [])
    finer = {stage.stride: stage for stage in stages if stage.stride < stages[-1].stride}
    if wanted and wanted[-1] not in finer:
        has = ", ".join(map(str, finer)) or "none"
        raise UserError(
            f"head.kind is {kind}: the backbone has no stage of stride {wanted[-1]} under its last one's, "
            f"{stages[-1].stride} (it has: {has}); take {'fcn32' if kind == 'fcn8' else 'fcn32, fcn8'} or deeplab"
        )
    return [finer[stride] for stride in wanted if stride in finer]


def _score(channels: int, classes: int, std: float) -> nn.Conv2d:
    """A score for each class at each place, from N(0, std^2); no bias yet."""
    score = nn.Conv2d(channels, classes, 1)
    assert score.bias is not None
    nn.init.normal_(score.weight, std=std)
    nn.init.zeros_(score.bias)
    return score


def _count(number: int, like: Tensor) -> Tensor:
    return torch.arange(number, dtype=torch.float32, device=like.device)
