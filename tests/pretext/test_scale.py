"""Scales of named channels: ranges, what lies outside, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch

from pretext.errors import UserError
from pretext.recipe import PretrainSettings
from pretext.scale import ChannelScale, ScaleSettings, find_ranges, set_ranges


def test_ranges_are_percentiles_and_say_what_lies_outside() -> None:
    crops = [torch.rand(2, 30, 30, generator=torch.Generator().manual_seed(at)) for at in range(3)]
    crops[1][1, :3] = torch.nan
    crops[2][1, 0, 0] = torch.inf
    settings = ScaleSettings(percentiles=(2.0, 90.0))
    first, second = find_ranges(crops, ["p", "q"], settings)
    values = torch.stack(crops).numpy()[:, 0]
    assert (first.low, first.high) == pytest.approx(tuple(np.percentile(values, [2, 90])))
    assert first.clipped == pytest.approx(((values < first.low) | (values > first.high)).mean()) and first.masked == 0
    assert second.masked == pytest.approx(91 / 2700)
    scale = ChannelScale(["q", "p"])
    assert not scale.is_set
    set_ranges(scale, [first, second])
    assert scale.is_set and scale.low.tolist() == pytest.approx([second.low, first.low])


def test_values_are_scaled_clipped_and_nan_stays() -> None:
    scale = ChannelScale(["p"])
    scale.low.fill_(10)
    scale.high.fill_(110)
    values = torch.tensor([0.0, 10, 60, 110, 1000, torch.nan]).view(1, 1, 1, 6)
    torch.testing.assert_close(scale(values).flatten(), torch.tensor([0, 0, 0.5, 1, 1, torch.nan]), equal_nan=True)
    scale.log.fill_(True)
    expected = np.log(51) / np.log(101)
    torch.testing.assert_close(
        scale(values).flatten(), torch.tensor([0, 0, expected, 1, 1, torch.nan]), equal_nan=True, check_dtype=False
    )
    for log in (False, True):
        scale.log.fill_(log)
        torch.testing.assert_close(scale.inverse(scale(values[..., 1:4])), values[..., 1:4], rtol=1e-5, atol=1e-3)


def test_declared_ranges_hold_for_one_or_all_channels() -> None:
    crops = [torch.arange(32.0).view(2, 4, 4)]
    one, two = find_ranges(crops, ["p", "q"], ScaleSettings(low=[4], high=[24]))
    assert (one.low, one.high, one.clipped) == (4, 24, 0.25) and (two.low, two.high, two.clipped) == (4, 24, 7 / 16)
    one, two = find_ranges(crops, ["p", "q"], ScaleSettings(low=[0, 1], high=[5, 6]))
    assert (one.high, two.low) == (5, 1)
    with pytest.raises(UserError, match=r"scale.low has 3 numbers: give one for all channels, or one for each of 2"):
        find_ranges(crops, ["p", "q"], ScaleSettings(low=[0, 1, 2], high=[5, 6, 7]))


def test_channels_without_information_are_refused() -> None:
    crop = torch.stack([torch.full((4, 4), 3.0), torch.full((4, 4), torch.nan), torch.arange(16.0).view(4, 4)])
    with pytest.raises(UserError, match="channel p is 3 everywhere in the first training images"):
        find_ranges([crop], ["p", "q", "r"], ScaleSettings())
    with pytest.raises(UserError, match="channel q has no finite value in the first training images"):
        find_ranges([crop[1:]], ["q", "r"], ScaleSettings())
    rare = torch.zeros(1, 100, 100)
    rare[0, 0, 0] = 7
    (extent,) = find_ranges([rare], ["p"], ScaleSettings())
    assert (extent.low, extent.high) == (0, 7)


def test_a_range_beyond_floats_of_32_bits_is_refused() -> None:
    crop = torch.tensor([-3e38, 3e38]).expand(1, 4, 2)
    with pytest.raises(UserError, match=r"channel p reaches from -3e\+38 to 3e\+38 .*; set scale.low and scale.high"):
        find_ranges([crop], ["p"], ScaleSettings(percentiles=(0, 100)))


@pytest.mark.parametrize(
    "values",
    [
        {"low": [1]}, {"low": [1], "high": [1]}, {"low": [1, 2], "high": [3]}, {"low": [float("nan")], "high": [1]},
        {"low": [0], "high": [1e-50]}, {"low": [-1e39], "high": [1]}, {"low": [1], "high": [1 + 1e-12]},
        {"percentiles": (50, 50)}, {"percentiles": (-1, 50)}, {"images": 0},
    ],
)  # fmt: skip
def test_settings_that_mean_nothing(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="scale\\."):
        ScaleSettings(**values)


def test_a_scale_without_named_channels_is_refused() -> None:
    with pytest.raises(UserError, match=r"scale.log has no effect: backbone.inputs is lightness; leave it out"):
        PretrainSettings(scale=ScaleSettings(log=True))
