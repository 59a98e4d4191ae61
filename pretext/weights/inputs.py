"""Three kinds of input for a backbone that was trained on lightness.

lightness    one channel, as in training: L of CIE Lab.
rgb          sRGB; a front end computes L from it exactly.
folded       sRGB, normalized as for ImageNet classifiers; the first convolution is widened to three channels, so that
             the network has only the layers of the plain model. L is not a linear function of gamma-encoded RGB, so
             this is an approximation by the nearest affine function.
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
    """A backbone with a front end that computes lightness from sRGB."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.stages: tuple[Stage, ...] = backbone.stages

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        """Return the features of every stage for sRGB (B, 3, H, W), uint8 in [0, 255] or float in [0, 1]."""
        return self.backbone(rgb_to_lightness(rgb))


class Affine(NamedTuple):
    """L as an affine function of gamma-encoded R, G and B in [0, 1]."""

    rgb: tuple[float, float, float]
    constant: float

    def lightness(self, rgb: Tensor) -> Tensor:
        """Return L, (B, 1, H, W), for images (B, 3, H, W), float in [0, 1]."""
        weights = torch.tensor(self.rgb, dtype=rgb.dtype, device=rgb.device)
        return torch.einsum("bchw,c->bhw", rgb, weights).unsqueeze(1) + self.constant


@cache
def affine_lightness() -> Affine:
    """Return the affine function nearest to L, by least squares over the sRGB cube, with the largest weights for grays.

    The weight of a color is exp(-d^2 / (2 * 0.1^2)), where d is its distance from the gray of the same mean. Most
    pixels of photographs are nearly gray; with equal weights, the error on them would be 5 L units.
    """
    axis = torch.linspace(0, 1, _STEPS, dtype=torch.float64)
    cube = torch.cartesian_prod(axis, axis, axis)
    distance = cube - cube.mean(1, keepdim=True)
    roots = torch.exp(-distance.square().sum(1) / (4 * _SPREAD**2))[:, None]  # square roots: lstsq squares the weights
    lightness = rgb_to_lightness(cube.T.reshape(3, 1, -1)).reshape(-1, 1)
    terms = torch.cat((cube, torch.ones(len(cube), 1, dtype=torch.float64)), dim=1)
    r, g, b, constant = torch.linalg.lstsq(roots * terms, roots * lightness).solution.flatten().tolist()
    return Affine((r, g, b), constant)


@torch.no_grad()
def fold(
    gray: nn.Module,
    wide: nn.Module,
    lightness: tuple[float, float],
    rgb: tuple[Sequence[float], Sequence[float]],
    size: int,
) -> str:
    """Load the weights of ``gray``, which takes L, into ``wide``, whose first convolution takes normalized RGB.

    The weights are multiplied by the slopes of the affine function. Its constant is added to the bias or, without a
    bias, subtracted from the running mean of the batch norm that follows. Zero padding of the first convolution is the
    mean lightness in ``gray`` but the mean color in ``wide``, about 4 L units brighter. The folding does not correct
    this difference at the border, and the measured errors include it.

    Args:
        gray: the net for one channel, in eval mode.
        wide: the same net for three channels, in eval mode; changed in place.
        lightness: mean and standard deviation that L is normalized by, L in [0, 100].
        rgb: means and standard deviations that R, G and B are normalized by, in [0, 1].
        size: an image side that the nets take, in pixels.

    Returns:
        The name of the widened weight.

    Raises:
        UserError: the first layer is not a plain convolution, or has no bias and no batch norm after it.
    """
    state = gray.state_dict()
    changed = [name for name, value in wide.state_dict().items() if value.shape != state[name].shape]
    name = changed[0].removesuffix(".weight") if len(changed) == 1 else ""
    first = wide.get_submodule(name) if name else None
    if not isinstance(first, nn.Conv2d) or type(first).__name__ not in _PLAIN_CONVOLUTIONS:
        raise UserError("input folded needs a plain convolution as the first layer; use input lightness or format onnx")
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
            "input folded needs a bias in the first convolution or a batch norm after it; use input lightness or "
            "format onnx"
        )
    norm.running_mean -= constant
    return changed[0]


def _norm_after(net: nn.Module, convolution: nn.Conv2d, size: int) -> nn.modules.batchnorm._BatchNorm | None:
    """Run the net once, and return the batch norm that takes the output of a convolution; None if there is none."""
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
