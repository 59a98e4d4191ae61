"""Pooling rules against their definitions, and against the sizes that were published."""

import pytest
import torch
from torch.nn import functional as F

from pretext.errors import UserError
from transfer.features.pool import dims_of, pool

MAPS = [(32, 48, 48), (96, 55, 55), (256, 27, 27), (384, 13, 13), (256, 6, 6), (64, 4, 9), (4096, 3, 3), (5, 1, 1)]
RULES = ["mean", "average:2048", "average:9600", "window:10000", "bilinear:9600", "goyal2019", "average:1", "window:1"]


@pytest.mark.parametrize("rule", RULES)
def test_dimensions_are_what_was_said(rule: str) -> None:
    for shape in MAPS:
        features = torch.rand(2, *shape)
        assert pool(features, rule).shape == (2, dims_of(rule, *shape))


@pytest.mark.parametrize(
    ("shape", "dims", "grid"),
    [
        ((32, 48, 48), 2048, (8, 8)),
        ((256, 6, 6), 2048, (2, 2)),
        ((256, 6, 6), 9000, (5, 5)),
        ((64, 4, 4), 2048, (4, 4)),  # never finer than the features
        ((4096, 3, 3), 2048, (1, 1)),  # never less than the mean
        ((64, 1, 9), 2048, (1, 5)),
        ((96, 55, 55), 9600, (10, 10)),
    ],
)
def test_average_is_the_finest_grid(shape: tuple[int, int, int], dims: int, grid: tuple[int, int]) -> None:
    features = torch.rand(2, *shape)
    assert torch.equal(pool(features, f"average:{dims}"), F.adaptive_avg_pool2d(features, grid).flatten(1))


def test_mean() -> None:
    features = torch.rand(3, 7, 5, 4)
    torch.testing.assert_close(pool(features, "mean"), features.mean((2, 3)))


@pytest.mark.parametrize("shape", MAPS)
def test_window_is_the_smallest_kernel_without_padding(shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    features = torch.rand(2, *shape)
    kernel = next((k for k in range(1, 100) if channels * (height // k) * (width // k) < 10_000), None)
    assert kernel is not None
    rows, columns = height // kernel, width // kernel
    expected = torch.stack(
        [
            features[:, :, i * kernel : (i + 1) * kernel, j * kernel : (j + 1) * kernel].mean((2, 3))
            for i in range(rows)
            for j in range(columns)
        ],
        dim=2,
    )
    torch.testing.assert_close(pool(features, "window:10000"), expected.flatten(1))


def test_bilinear_gives_the_sizes_of_the_released_code() -> None:
    alexnet = [(96, 55), (256, 27), (384, 13), (384, 13), (256, 13)]
    sides = [int((dims_of("bilinear:9600", channels, side, side) / channels) ** 0.5) for channels, side in alexnet]
    assert sides == [10, 6, 5, 5, 6]
    features = torch.rand(2, 384, 13, 13)
    expected = F.interpolate(features, (5, 5), mode="bilinear", align_corners=False, antialias=False)
    assert torch.equal(pool(features, "bilinear:9600"), expected.flatten(1))
    own = torch.rand(2, 256, 6, 6)
    assert torch.equal(pool(own, "bilinear:9600"), own.flatten(1))


@pytest.mark.parametrize(
    ("channels", "side", "kernel", "stride", "padding", "grid"),
    [
        (96, 55, 19, 4, 0, 10),
        (256, 27, 12, 3, 0, 6),
        (384, 13, 9, 1, 0, 5),
        (256, 13, 8, 1, 0, 6),
        (64, 112, 10, 10, 4, 12),
        (256, 56, 16, 8, 0, 6),
        (512, 28, 13, 5, 0, 4),
        (1024, 14, 8, 3, 0, 3),
        (2048, 14, 12, 2, 0, 2),
        (2048, 7, 6, 1, 0, 2),
    ],
)
def test_goyal(channels: int, side: int, kernel: int, stride: int, padding: int, grid: int) -> None:
    features = torch.rand(1, channels, side, side)
    padded = F.pad(features, [padding] * 4, value=float("nan"))
    windows = padded.unfold(2, kernel, stride).unfold(3, kernel, stride).nanmean((4, 5))  # of what is in the image
    assert windows.shape[2:] == (grid, grid)
    torch.testing.assert_close(pool(features, "goyal2019"), windows.flatten(1), atol=1e-5, rtol=1e-4)
    other = torch.rand(1, channels, side + 1, side + 1)
    assert torch.equal(pool(other, "goyal2019"), pool(other, "average:9600"))


@pytest.mark.parametrize("rule", ["", "max", "average", "average:", "average:0", "average:-3", "mean:3", "window:1e4"])
def test_unknown_rules_are_said_in_one_line(rule: str) -> None:
    with pytest.raises(UserError) as error:
        dims_of(rule, 3, 4, 4)
    assert "bilinear:N" in str(error.value) and "\n" not in str(error.value)
