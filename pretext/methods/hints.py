"""Hints: colors of a few positions, an additional input of a network, as a user would click them.

Sampling: Zhang et al., *Real-Time User-Guided Image Colorization with Learned Deep Priors* (SIGGRAPH 2017), and
``util/util.py`` of its released training code (richzhang/colorization-pytorch).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pretext import roles
from pretext.data.order import mix
from pretext.engine.compiler import not_compiled
from pretext.errors import UserError
from pretext.methods.uniforms import uniforms

_KEY = 0x41A75  # hints and augmentations of a sample are drawn from different numbers
_LEFT_OUT = 1e-6  # share of images that should have more hints than are drawn


@dataclass
class HintSettings:
    """Hints for training: true colors at some positions. Held-out images are evaluated without hints.

    Args:
        sampled: train with hints. Only backbone siggraph17 takes them.
        stop: p of the geometric distribution of their number: the share of images without hints.
        smallest: a hint is the mean color of a square; this is the smallest side of the square, in pixels.
        largest: the largest side of the square. All sides from smallest to largest are equally likely.
        spread: standard deviation of a hint's position around the middle of the image, as a share of the side.
        whole: share of the images that get the true color of every pixel as hints.
    """

    sampled: bool = roles.science(False)
    stop: float = roles.science(0.125)
    smallest: int = roles.science(1)
    largest: int = roles.science(9)
    spread: float = roles.science(0.25)
    whole: float = roles.science(0.01)

    def __post_init__(self) -> None:
        if not 0.01 <= self.stop < 1:
            raise UserError(f"hints.stop is {self.stop}: it must lie in [0.01, 1)")
        if not 1 <= self.smallest <= self.largest <= 64:
            raise UserError(
                f"hints.smallest is {self.smallest} and hints.largest {self.largest}: give 1 <= smallest <= largest "
                "<= 64 pixels"
            )
        if not 0 <= self.spread <= 100:
            raise UserError(f"hints.spread is {self.spread}: it must lie in [0, 100]")
        if not 0 <= self.whole <= 1:
            raise UserError(f"hints.whole is {self.whole}: it must lie in [0, 1]")


@not_compiled  # torch.compile must not change int64 products that wrap around
def sample_hints(
    ab: Tensor, numbers: Tensor, seed: int, settings: HintSettings, count: int | None = None
) -> tuple[Tensor, Tensor]:
    """Draw hints from the true colors. The hints of sample t of a run depend only on the seed, t and the settings.

    Where two hints overlap, the later one counts, as in the released code. One image in a million gets fewer hints
    than drawn.

    Args:
        ab: (B, 2, H, W), the true colors, unscaled.
        numbers: (B,), int64: t of every image.
        seed: the seed of the run.
        settings: number, size and position of the hints.
        count: give every image exactly this number of hints, and none all true colors.

    Returns:
        hints (B, 2, H, W), ab where there is a hint, else 0; mask (B, 1, H, W), 1 where there is one, else 0.
    """
    height, width = ab.shape[-2:]
    # Nearly all images have at most this number of hints.
    most = math.ceil(math.log(_LEFT_OUT) / math.log1p(-settings.stop)) if count is None else count
    if not most:
        return torch.zeros_like(ab), torch.zeros_like(ab[:, :1])
    drawn = uniforms(mix(seed, _KEY), numbers, 2 + 3 * most)
    shows_all = drawn[:, 0] < settings.whole
    if count is None:
        numbers_of_hints = (torch.log1p(-drawn[:, 1]) / math.log1p(-settings.stop)).floor()
    else:
        numbers_of_hints, shows_all = torch.full_like(drawn[:, 1], count), torch.zeros_like(shows_all)
    size, down, across = drawn[:, 2:].unflatten(1, (most, 3)).unbind(2)
    sides = (settings.smallest + (size * (settings.largest - settings.smallest + 1)).floor()).clamp_max(
        min(height, width)
    )
    # The first row or column of a hint: normally distributed around the middle, clipped to the image.
    starts = []
    for length, uniform in ((height, down), (width, across)):
        room = length - sides
        normal = torch.special.ndtri(uniform + 2.0**-54)  # never 0
        start: Tensor = (room + 1) * (0.5 + settings.spread * normal)
        starts.append(start.clamp_min(0).minimum(room).floor().long().to(ab.device))
    tops, lefts = starts
    sides = sides.long().to(ab.device)
    is_given = torch.arange(most, device=ab.device) < numbers_of_hints.to(ab.device)[:, None]
    hints, mask = _draw_squares(ab, tops, lefts, sides, is_given, settings.largest)
    shows_all = shows_all.to(ab.device)[:, None, None, None]
    return torch.where(shows_all, ab, hints), torch.where(shows_all, 1.0, mask).to(ab.dtype)


def _draw_squares(
    ab: Tensor, tops: Tensor, lefts: Tensor, sides: Tensor, is_given: Tensor, largest: int
) -> tuple[Tensor, Tensor]:
    """Draw the squares of the hints that ``is_given`` selects, later ones over earlier ones; arguments are (B, M)."""
    (height, width), most = ab.shape[-2:], tops.shape[1]
    step = torch.arange(min(largest, height, width), device=ab.device)
    inside = (step < sides[..., None, None]) & (step[:, None] < sides[..., None, None])
    rows = (tops[..., None] + step).clamp_max(height - 1)
    columns = (lefts[..., None] + step).clamp_max(width - 1)
    pixels = (rows[..., None] * width + columns[..., None, :]).flatten(1)  # (B, M * S * S)
    colors = ab.flatten(2).gather(2, pixels[:, None].expand(-1, 2, -1)).unflatten(2, (most, -1))
    means = (colors * inside.flatten(2)[:, None]).sum(3) / sides.square()[:, None]
    order = torch.arange(most, device=ab.device)[:, None]
    owners = torch.where(inside.flatten(2) & is_given[..., None], order, -1).flatten(1)
    last = torch.full((len(ab), height * width), -1, device=ab.device).scatter_reduce_(1, pixels, owners, "amax")
    shown = (last >= 0)[:, None]
    hints = means.gather(2, last.clamp_min(0)[:, None].expand(-1, 2, -1)) * shown
    return hints.view_as(ab), shown.to(ab.dtype).view(len(ab), 1, height, width)
