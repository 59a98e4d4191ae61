"""A colorizer: a backbone and a colour head, trained together for an objective."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.backbones.contract import Backbone
from pretext.color import lab_to_rgb, rgb_to_ab, rgb_to_lightness
from pretext.gamut import TEMPERATURE
from pretext.objectives import Objective


class Colorizer(nn.Module):
    """Lightness in, colour out.

    The head is one 1 x 1 convolution on the backbone's last stage. Where that stage is coarser than
    ``target_stride``, its output is resized to the target's grid (bilinear), as the paper does for
    AlexNet.

    Args:
        backbone: gives the features.
        objective: says how many channels the head emits, and decodes them.
        target_stride: input pixels per point of the colour target, which is sampled, not averaged.
    """

    def __init__(self, backbone: Backbone, objective: Objective, target_stride: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.objective = objective
        self.target_stride = target_stride
        self.head = nn.Conv2d(backbone.stages[-1].channels, objective.channels, kernel_size=1)

    def forward(self, lightness: Tensor) -> Tensor:
        """(B, 1, H, W), L in [0, 100] -> the head's output, (B, channels, ceil(H / s), ceil(W / s))."""
        output: Tensor = self.head(self.backbone(lightness)[self.backbone.stages[-1].name])
        size = [-(-side // self.target_stride) for side in lightness.shape[-2:]]
        if list(output.shape[-2:]) != size:
            output = F.interpolate(output.float(), size=size, mode="bilinear", align_corners=False)
        return output

    def target(self, rgb: Tensor) -> Tensor:
        """The true ab at the head's grid: (B, 3, H, W), sRGB -> (B, 2, ceil(H / s), ceil(W / s))."""
        s = self.target_stride
        return rgb_to_ab(rgb[..., ::s, ::s])

    def loss(self, rgb: Tensor) -> Tensor:
        """The objective on a batch of pictures, (B, 3, H, W), sRGB: a scalar."""
        loss: Tensor = self.objective(self(rgb_to_lightness(rgb)), self.target(rgb))
        return loss

    @torch.inference_mode()
    def colorize(self, lightness: Tensor, temperature: float = TEMPERATURE) -> Tensor:
        """The colour of pictures: ab, (B, 2, H, W), of their L, (B, 1, H, W), all unscaled."""
        ab = self.objective.decode(self(lightness), temperature)
        return F.interpolate(ab, size=lightness.shape[-2:], mode="bilinear", align_corners=False)


def join(lightness: Tensor, ab: Tensor) -> Tensor:
    """sRGB in [0, 1], (B, 3, H, W), of L at full resolution and ab of any."""
    if ab.shape[-2:] != lightness.shape[-2:]:
        ab = F.interpolate(ab, size=lightness.shape[-2:], mode="bilinear", align_corners=False)
    return lab_to_rgb(torch.cat((lightness, ab), dim=1))
