"""Views of an image: color jitter, grayscale, blur and solarization, on the device, for a whole batch at once.

Every image of a batch has parameters of its own, which are a pure function of the seed of the run, the number of the
sample and the view. The operations are those of torchvision at the same parameters.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional as F

from pretext import roles
from pretext.data.order import mix
from pretext.engine.compiler import not_compiled
from pretext.errors import UserError
from pretext.methods.uniforms import uniforms

_KEY = 0xA06
_ORDERS = torch.tensor(list(permutations(range(4))))  # (24, 4): in which order an image is jittered
_DRAWS = 10
_GRAY = (0.2989, 0.587, 0.114)  # torchvision's


@dataclass
class AugmentSettings:
    """How the views of an image differ, beside their crops; only for methods that compare views.

    A list has a number for each view, or one for all.

    Args:
        jitter: probability that brightness, contrast, saturation and hue are changed, in an order that is drawn too.
        brightness: it is multiplied by a factor from 1 - brightness to 1 + brightness.
        contrast: likewise.
        saturation: likewise.
        hue: at most this is added to the hue or subtracted, as a share of the color circle; at most 0.5.
        gray: probability that a view loses its colors.
        blur: probability of a Gaussian blur.
        sigma: smallest and largest standard deviation of the blur, pixels. Its kernel is as wide as a tenth of the
            view, at least 3.
        solarize: probability that all values from 128 are inverted.
    """

    jitter: float = roles.science(0.8, "[0, 1]")
    brightness: float = roles.science(0.4, "[0, 1]")
    contrast: float = roles.science(0.4, "[0, 1]")
    saturation: float = roles.science(0.4, "[0, 1]")
    hue: float = roles.science(0.1, "[0, 0.5]")
    gray: list[float] = roles.science(lambda: [0.2], "[0, 1]")
    blur: list[float] = roles.science(lambda: [0.5], "[0, 1]")
    sigma: tuple[float, float] = roles.science((0.1, 2.0))
    solarize: list[float] = roles.science(lambda: [0.0], "[0, 1]")

    def __post_init__(self) -> None:
        roles.check_ranges(self, "augment.")
        for name in ("gray", "blur", "solarize"):
            if not getattr(self, name):
                raise UserError(f"augment.{name} is empty: give a probability for all views, or one for each")
        if not 0 < self.sigma[0] <= self.sigma[1] < math.inf:
            raise UserError(f"augment.sigma is {list(self.sigma)}: give two numbers with 0 < smallest <= largest")


@not_compiled  # how many images are changed differs from batch to batch
@torch.no_grad()
def augment(rgb: Tensor, numbers: Tensor, view: int, seed: int, settings: AugmentSettings) -> Tensor:
    """Return a view of each image.

    Args:
        rgb: (B, 3, H, W), uint8 sRGB, or float in [0, 1]; or other channels, whose brightness and contrast change.
        numbers: (B,), int64, the numbers of the samples in the run.
        view: the number of the view.
        seed: the seed of the run.
        settings: see ``AugmentSettings``.

    Returns:
        (B, 3, H, W), float32, in [0, 1].
    """
    with torch.autocast(rgb.device.type, enabled=False):
        return _augment(rgb, numbers, view, seed, settings)


def _augment(rgb: Tensor, numbers: Tensor, view: int, seed: int, settings: AugmentSettings) -> Tensor:
    drawn = uniforms(mix(mix(seed, _KEY), view), numbers, _DRAWS).to(rgb.device)
    x = rgb if rgb.is_floating_point() else rgb.float() / 255

    def spread(column: int, width: float) -> Tensor:
        return (1 + width * (2 * drawn[:, column] - 1)).float()

    def chosen(column: int, chance: float | Sequence[float]) -> Tensor:
        if isinstance(chance, Sequence):
            chance = chance[view % len(chance)]
        return (drawn[:, column] < chance).nonzero().flatten()

    which = chosen(0, settings.jitter)
    if len(which):
        factors = [spread(2 + at, width) for at, width in enumerate(
            (settings.brightness, settings.contrast, settings.saturation)
        )]  # fmt: skip
        factors.append(spread(5, settings.hue) - 1)
        orders = _ORDERS.to(rgb.device)[(drawn[:, 1] * len(_ORDERS)).long()]
        operations: list[Callable[[Tensor, Tensor], Tensor]] = [adjust_brightness, adjust_contrast]
        if settings.saturation or settings.hue:  # else there may be other channels than colors
            operations += [adjust_saturation, adjust_hue]
        x = x.clone()
        for turn in range(4):
            turns = orders[which, turn]
            for at, operation in enumerate(operations):
                now = which[turns == at]
                if len(now):
                    x[now] = operation(x[now], factors[at][now])
    if len(which := chosen(6, settings.gray)):
        x = x.index_copy(0, which, grayscale(x[which]).expand(-1, 3, -1, -1))
    if len(which := chosen(7, settings.blur)):
        low, high = settings.sigma
        sigmas = (low + (high - low) * drawn[which, 8]).float()
        x = x.index_copy(0, which, gaussian_blur(x[which], sigmas, kernel_of(x.shape[-1])))
    if len(which := chosen(9, settings.solarize)):
        x = x.index_copy(0, which, solarize(x[which]))
    return x


def kernel_of(side: int) -> int:
    """Return the width of the blur's kernel for a view of ``side`` pixels: a tenth, odd, at least 3."""
    return max(3, side // 10 // 2 * 2 + 1)


def grayscale(x: Tensor) -> Tensor:
    """Return the weighted mean of R, G and B, (B, 1, H, W), of images (B, 3, H, W); of other channels the mean."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    red, green, blue = x.unbind(1)
    return (_GRAY[0] * red).add_(_GRAY[1] * green).add_(_GRAY[2] * blue).unsqueeze(1)


def _blend(x: Tensor, other: Tensor | float, share: Tensor) -> Tensor:
    share = share[:, None, None, None]
    return (share * x).add_((1 - share) * other).clamp_(0, 1)


def adjust_brightness(x: Tensor, factors: Tensor) -> Tensor:
    """Multiply images (B, 3, H, W) in [0, 1] by factors (B,)."""
    return _blend(x, 0.0, factors)


def adjust_contrast(x: Tensor, factors: Tensor) -> Tensor:
    """Move all values from the image's mean gray by factors (B,)."""
    return _blend(x, grayscale(x).mean((1, 2, 3), keepdim=True), factors)


def adjust_saturation(x: Tensor, factors: Tensor) -> Tensor:
    """Move all values from the pixel's gray by factors (B,)."""
    return _blend(x, grayscale(x), factors)


def adjust_hue(x: Tensor, shifts: Tensor) -> Tensor:
    """Turn the hue of HSV by shifts (B,), as shares of the circle.

    Value and saturation stay, so a channel is value - chroma * c(hue), where c is piecewise linear (Smith 1978).
    """
    red, green, blue = x.unbind(1)
    value = x.amax(1)
    chroma = value - x.amin(1)
    # Masks of 0 and 1: on a CPU they take less time than torch.where. In place: so does memory that is there already.
    is_red = (value == red).float()  # gray, too: its chroma is 0
    is_green = (value == green).float().mul_(1 - is_red)
    is_blue = 1 - is_red - is_green
    hue = (green - blue).mul_(is_red).add_((blue - red).mul_(is_green)).add_((red - green).mul_(is_blue))
    hue.div_(chroma.clamp_min(1e-12)).add_(is_green.mul_(2)).add_(is_blue.mul_(4)).add_(6 * shifts[:, None, None])
    turned = torch.empty_like(x)
    for channel, offset in enumerate((5, 3, 1)):
        distance = hue + (offset - 2)  # from 2, on a circle of 6
        distance.sub_((distance / 6).round_().mul_(6)).abs_()
        torch.sub(value, distance.neg_().add_(2).clamp_(0, 1).mul_(chroma), out=turned[:, channel])
    return turned


def gaussian_blur(x: Tensor, sigmas: Tensor, width: int) -> Tensor:
    """Blur images (B, C, H, W) by Gaussians of deviations (B,) pixels, cut to ``width``; edges are mirrored."""
    count, channels, height, across = x.shape
    offsets = torch.arange(width, device=x.device) - (width - 1) / 2
    kernels = torch.exp(-0.5 * (offsets / sigmas[:, None]).square())
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    half = width // 2
    padded = F.pad(x, (half, half, half, half), "reflect").reshape(1, count * channels, height + 2 * half, -1)
    blurred = F.conv2d(padded, kernels[:, None, :, None], groups=count * channels)
    blurred = F.conv2d(blurred, kernels[:, None, None, :], groups=count * channels)
    return blurred.view(count, channels, height, across)


def solarize(x: Tensor) -> Tensor:
    """Invert all values from 128 / 255."""
    return torch.where(x >= 128 / 255, 1 - x, x)
