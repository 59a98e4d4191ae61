"""Named channels, and the scale on which networks see their values.

A scale is part of the network: a checkpoint has it, and the same values mean the same in every later use.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pretext import roles
from pretext.errors import UserError

GRAY: tuple[str, ...] = ("gray",)
SRGB: tuple[str, ...] = ("red", "green", "blue")
"""Channels that backbones for lightness and sRGB read, too. Their values lie in [0, 1]."""


_MOST_VALUES = 4_000_000  # of a channel; of more, every second row and column is left out, and so on


@dataclass
class ScaleSettings:
    """The values of named channels that a network sees as 0 and 1; others are clipped. Unused for 8-bit sRGB.

    Args:
        low: the value that becomes 0: one for all channels, or one for each. Empty: a percentile of the training
            images' values.
        high: likewise, the value that becomes 1.
        percentiles: the percentiles that become 0 and 1.
        images: the number of images whose values are looked at.
        log: take the logarithm of 1 + value - low first: for counts, whose few great values say little.
    """

    low: list[float] = roles.science(list)
    high: list[float] = roles.science(list)
    percentiles: tuple[float, float] = roles.science((0.1, 99.9), "[0, 100]")
    images: int = roles.science(500)
    log: bool = roles.science(False)

    def __post_init__(self) -> None:
        roles.check_ranges(self, "scale.")
        if self.percentiles[0] >= self.percentiles[1]:
            raise UserError(f"scale.percentiles is {list(self.percentiles)}: the first must be below the second")
        if self.images < 1:
            raise UserError(f"scale.images is {self.images}: it must be at least 1")
        if bool(self.low) != bool(self.high):
            raise UserError("scale.low and scale.high: set both, or neither")
        if len(self.low) != len(self.high) or any(map(_is_no_range, self.low, self.high)):
            raise UserError(
                f"scale.low {self.low} and scale.high {self.high}: each low must be below its high, as 32-bit floats"
            )


def _is_no_range(low: float, high: float) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        return not 0 < np.float32(high) - np.float32(low) < np.inf


class ChannelScale(nn.Module):
    """Scales values of channels to [0, 1].

    Args:
        names: the channels.
    """

    low: Tensor
    high: Tensor
    log: Tensor
    """A bool, see ``ScaleSettings``."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_buffer("low", torch.full((len(names),), torch.nan))
        self.register_buffer("high", torch.full((len(names),), torch.nan))
        self.register_buffer("log", torch.tensor(False))

    @property
    def is_set(self) -> bool:
        """Whether it has its ranges."""
        return bool(self.low.isfinite().all())

    def forward(self, values: Tensor) -> Tensor:
        """Return (B, C, H, W), float32 in [0, 1], of values (B, C, H, W); NaN stays."""
        low, high = (end[:, None, None] for end in (self.low, self.high))
        above, span = values.float() - low, high - low
        share = torch.where(self.log, above.clamp_min(0).log1p() / span.log1p(), above / span)
        return share.clamp(0, 1)

    def inverse(self, shares: Tensor) -> Tensor:
        """Return the values, (B, C, H, W), that became these shares of the ranges."""
        low, span = self.low[:, None, None], (self.high - self.low)[:, None, None]
        return low + torch.where(self.log, torch.expm1(shares * span.log1p()), shares * span)


@dataclass
class ChannelRange:
    """A channel's range, and what of some images lies outside."""

    name: str
    low: float
    high: float
    clipped: float
    """The share of the values that lie outside, and are clipped."""
    masked: float
    """The share of the values that are not finite."""


def find_ranges(
    crops: Sequence[Tensor], names: Sequence[str], settings: ScaleSettings, used: Collection[str] = ()
) -> list[ChannelRange]:
    """Return the range of each channel.

    Args:
        crops: (C, H, W) each, float, at least one.
        names: the channels.
        settings: how ranges are found.
        used: the channels whose ranges are needed; all by default.

    Raises:
        UserError: there are not as many declared ranges as channels; or a channel has no finite value, or one only.
    """
    for which, numbers in (("low", settings.low), ("high", settings.high)):
        if len(numbers) not in (0, 1, len(names)):
            raise UserError(
                f"scale.{which} has {len(numbers)} numbers: give one for all channels, or one for each of {len(names)} "
                f"({', '.join(names)})"
            )
    step = math.isqrt(sum(crop[0].numel() for crop in crops) // _MOST_VALUES) + 1
    ranges = []
    for at, name in enumerate(names):
        if used and name not in used:
            continue
        of_channel = torch.cat([crop[at, ::step, ::step].flatten() for crop in crops]).numpy()
        finite = of_channel[np.isfinite(of_channel)]
        if not len(finite):
            raise UserError(
                f"channel {name} has no finite value in the first training images; use it neither as input nor as "
                "hidden channel"
            )
        if finite.min() == finite.max():
            raise UserError(
                f"channel {name} is {finite[0]:g} everywhere in the first training images: nothing can be learned from "
                "it; use it neither as input nor as hidden channel"
            )
        if settings.low:
            low, high = (numbers[at % len(numbers)] for numbers in (settings.low, settings.high))
        else:
            low, high = np.percentile(finite, settings.percentiles)
            if low == high:  # nearly all values are one value
                low, high = finite.min(), finite.max()
            if _is_no_range(low, high):
                raise UserError(
                    f"channel {name} reaches from {low:g} to {high:g} in the first training images, which is no range "
                    "of 32-bit floats; set scale.low and scale.high"
                )
        outside = ((finite < low) | (finite > high)).mean()
        ranges.append(ChannelRange(name, float(low), float(high), float(outside), 1 - len(finite) / len(of_channel)))
    return ranges


def set_ranges(scale: ChannelScale, ranges: Iterable[ChannelRange]) -> None:
    """Give a scale the ranges of its channels."""
    by_name = {extent.name: extent for extent in ranges}
    for end in ("low", "high"):
        getattr(scale, end).copy_(torch.tensor([getattr(by_name[name], end) for name in scale.names]))
