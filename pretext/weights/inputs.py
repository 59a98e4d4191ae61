"""Three ways to give an image to a backbone that was made for lightness.

lightness    one channel in, as it was trained: L of CIE Lab.
rgb          sRGB in; a front end computes L from it, exactly.
folded       sRGB in, normalized as a classifier of ImageNet takes it; the first convolution is widened to three
             channels, so that the network has no layer that its plain original lacks. L is no linear function of
             gamma-encoded RGB, so this is an approximation: L as the nearest affine one.
"""

from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from pretext.backbones.contract import Backbone, Stage
from pretext.color import rgb_to_lightness
from pretext.errors import UserError

InputKind = Literal["lightness", "rgb", "folded"]

_SPREAD = 0.1
_STEPS = 33
_PLAIN_CONVOLUTIONS = ("Conv2d", "Conv2dSame")  # timm's other kinds standardize their weights over the input channels


class FromRgb(nn.Module):
    """A backbone with a front end: sRGB in, features of every stage out."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.stages: tuple[Stage, ...] = backbone.stages

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        """Return ``Backbone.forward`` of the lightness of (B, 3, H, W), uint8 in [0, 255] or float in [0, 1]."""
        return self.backbone(rgb_to_lightness(rgb))


class Affine(NamedTuple):
    """L as an affine function of gamma-encoded R, G and B in [0, 1]."""

    rgb: tuple[float, float, float]
    constant: float

    def lightness(self, rgb: Tensor) -> Tensor:
        """Return L, (B, 1, H, W), of images (B, 3, H, W), float in [0, 1]."""
        weights = torch.tensor(self.rgb, dtype=rgb.dtype, device=rgb.device)
        return torch.einsum("bchw,c->bhw", rgb, weights).unsqueeze(1) + self.constant


@cache
def affine_lightness() -> Affine:
    """Return the affine function nearest to L over the sRGB cube, in least squares, weighted toward grays.

    A color counts by exp(-d^2 / (2 * 0.1^2)), d being its distance from the gray of the same mean: most
    pixels of photographs lie there, and over the whole cube alike the fit would be 5 L units off on them.
    """
    axis = torch.linspace(0, 1, _STEPS, dtype=torch.float64)
    cube = torch.cartesian_prod(axis, axis, axis)
    distance = cube - cube.mean(1, keepdim=True)
    root = torch.exp(-distance.square().sum(1) / (4 * _SPREAD**2))[:, None]  # of the weights: least squares square it
    lightness = rgb_to_lightness(cube.T.reshape(3, 1, -1)).reshape(-1, 1)
    terms = torch.cat((cube, torch.ones(len(cube), 1, dtype=torch.float64)), dim=1)
    r, g, b, constant = torch.linalg.lstsq(root * terms, root * lightness).solution.flatten().tolist()
    return Affine((r, g, b), constant)


@torch.no_grad()
def fold(
    gray: nn.Module,
    wide: nn.Module,
    lightness: tuple[float, float],
    rgb: tuple[Sequence[float], Sequence[float]],
    size: int,
) -> str:
    """Give ``wide``, whose first convolution takes normalized RGB, the weights of ``gray``, which takes L.

    The affine function's slopes go into the weights. Its constant goes into the bias or, where there is
    none, into the running mean of the batch norm that follows. Where the first convolution pads its input
    with zeros, they stood for the mean lightness in ``gray`` and stand for the mean color in ``wide``,
    about 4 L units brighter: that is the same to neither net, and part of the measured deviation.

    Args:
        gray: in eval mode.
        wide: the same net for three channels, in eval mode; changed in place.
        lightness: mean and standard deviation that L is normalized by, L in [0, 100].
        rgb: means and standard deviations that R, G and B are normalized by, in [0, 1].
        size: a side, in pixels, that the nets take.

    Returns:
        The name of the widened weight.

    Raises:
        UserError: the first layer is none that can be folded into.
    """
    state = gray.state_dict()
    changed = [name for name, value in wide.state_dict().items() if value.shape != state[name].shape]
    name = changed[0].removesuffix(".weight") if len(changed) == 1 else ""
    first = wide.get_submodule(name) if name else None
    if not isinstance(first, nn.Conv2d) or type(first).__name__ not in _PLAIN_CONVOLUTIONS:
        raise UserError("its first layer is no plain convolution, so RGB cannot be folded into it; use another input")
    affine, (mean, std), (means, stds) = affine_lightness(), lightness, rgb
    narrow = state[f"{name}.weight"]
    slopes = torch.tensor([slope * scale / std for slope, scale in zip(affine.rgb, stds, strict=True)])
    middle = affine.constant + sum(slope * mean_rgb for slope, mean_rgb in zip(affine.rgb, means, strict=True))
    constant = narrow.sum((1, 2, 3)) * ((middle - mean) / std)
    wide.load_state_dict({**state, f"{name}.weight": narrow * slopes[:, None, None]})
    if first.bias is not None:
        first.bias += constant
        return changed[0]
    norm = _norm_after(wide, first, size)
    if norm is None or norm.running_mean is None:
        raise UserError(
            "its first convolution has no bias and no batch norm after it, so RGB cannot be folded into it; use "
            "another input"
        )
    norm.running_mean -= constant
    return changed[0]


def _norm_after(net: nn.Module, convolution: nn.Conv2d, size: int) -> nn.modules.batchnorm._BatchNorm | None:
    """Return the batch norm that takes the output of a convolution, found by running the net once."""
    outputs: list[Tensor] = []
    norms_after: list[nn.modules.batchnorm._BatchNorm] = []

    def compare(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if outputs and inputs[0] is outputs[0]:
            norms_after.append(module)  # type: ignore[arg-type]

    hooks = [convolution.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))]
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    hooks += [norm.register_forward_pre_hook(compare) for norm in norms]
    net(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return norms_after[0] if norms_after else None
