"""Color input for a backbone for lightness: ab joins its first layer through filters that start at zero.

Method: the paper's fine-tuning in color; released ``feature_learning_tests/segmentation`` (conv1_ab).
"""

from typing import Any

import torch
from torch import Tensor, nn

from pretext.backbones.contract import Backbone, FromRgb, Stage
from pretext.color import rgb_to_lab
from pretext.errors import UserError
from transfer.adapt.graph import Trace, ancestors, leaves

_GRAY = 50.0


class FromColor(nn.Module):
    """A backbone for lightness with a widened first layer: sRGB in, features of every stage out.

    The backbone gets four channels, L, a + 50, b + 50 and 50, so that it centers and scales all of them as L, and the
    difference of the last to the middle two is ab in the units that L has in the network.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.stages: tuple[Stage, ...] = backbone.stages

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, H, W), uint8 in [0, 255] or float in [0, 1], to features as ``Backbone.forward``."""
        lightness, ab = rgb_to_lab(rgb).split((1, 2), dim=1)
        # With the usual constants of sRGB and D65, ab of a gray is up to 0.01.
        gray = (rgb == rgb[:, :1]).all(1, keepdim=True)
        ab = ab.masked_fill(gray, 0)
        return self.backbone(torch.cat((lightness, ab + _GRAY, torch.full_like(lightness, _GRAY)), dim=1))


class WithColor(nn.Module):
    """A first layer with a layer for ab next to it, whose filters start at zero.

    Args:
        lightness: the original layer.
    """

    def __init__(self, lightness: nn.Conv2d) -> None:
        from timm.layers import Conv2dSame  # not at the top: the import takes seconds

        super().__init__()
        kind = Conv2dSame if "Same" in type(lightness).__name__ else nn.Conv2d
        self.lightness = lightness
        layer: Any = lightness
        with torch.random.fork_rng(devices=[]):  # later random numbers must not depend on this layer
            ab = kind(2, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation, bias=False)
        self.ab = ab.to(lightness.weight)
        nn.init.zeros_(self.ab.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 4 n, H, W): each of the n channels of the first layer as four, see ``FromColor``."""
        ab = x[:, 1:3] - x[:, 3:4]
        output: Tensor = self.lightness(x[:, ::4].contiguous()) + self.ab(ab)
        return output


def add_color(features: FromRgb, trace: Trace) -> FromColor:
    """Widen a backbone's first layers, in place; its features stay the same, to the bit, until they are trained.

    Args:
        features: the backbone behind its front end.
        trace: the graph of these features.

    Raises:
        UserError: its first layer is no convolution.
    """
    first = {call.name: call.module for call in trace.calls if call.inputs and not leaves(ancestors(call.inputs))}
    widened = [(name, layer) for name, layer in first.items() if isinstance(layer, nn.Conv2d)]
    if not widened:
        raise UserError("its first layer is not a convolution, so it cannot get color input: leave color out")
    for name, layer in widened:
        features.set_submodule(name, WithColor(layer))
    return FromColor(features.backbone)
