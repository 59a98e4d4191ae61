"""Views: each operation is torchvision's at the same parameters, and a view is a function of (seed, t, view)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as reference

from pretext.errors import UserError
from pretext.methods.augment import (
    AugmentSettings,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    augment,
    gaussian_blur,
    grayscale,
    kernel_of,
    solarize,
)

OFF: dict[str, Any] = {"jitter": 0.0, "gray": [0.0], "blur": [0.0], "solarize": [0.0]}


@pytest.fixture(scope="module")
def rgb() -> Tensor:
    """Random colors, with grays, black, white and pure colors among them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (7, 3, 32, 40), generator=generator, dtype=torch.uint8)
    images[:, :, 0, :8] = 255 * torch.tensor(
        [[0, 1, 1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 1, 0, 1], [0, 1, 0, 0, 1, 0, 1, 1]], dtype=torch.uint8
    )
    images[:, :, 1] = images[:, :1, 1]
    return images


FACTORS = torch.tensor([0.0, 0.6, 0.9, 1.0, 1.2, 1.4, 2.0])
SHIFTS = torch.tensor([-0.5, -0.1, -0.03, 0.0, 0.05, 0.2, 0.5])


@pytest.mark.parametrize(
    ("ours", "theirs", "values"),
    [
        (adjust_brightness, reference.adjust_brightness, FACTORS),
        (adjust_contrast, reference.adjust_contrast, FACTORS),
        (adjust_saturation, reference.adjust_saturation, FACTORS),
        (adjust_hue, reference.adjust_hue, SHIFTS),
    ],
)
def test_colors_change_as_in_torchvision(
    ours: Callable[[Tensor, Tensor], Tensor], theirs: Callable[[Tensor, float], Tensor], values: Tensor, rgb: Tensor
) -> None:
    x = rgb / 255
    expected = torch.stack([theirs(image, float(value)) for image, value in zip(x, values, strict=True)])
    torch.testing.assert_close(ours(x, values), expected, rtol=0, atol=2e-6)


def test_blur_gray_and_solarize_are_torchvisions(rgb: Tensor) -> None:
    x, sigmas = rgb / 255, torch.linspace(0.1, 2, len(rgb))
    for width in (3, 7):
        expected = torch.stack([
            reference.gaussian_blur(image, [width, width], [float(sigma)] * 2)
            for image, sigma in zip(x, sigmas, strict=True)
        ])  # fmt: skip
        torch.testing.assert_close(gaussian_blur(x, sigmas, width), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(grayscale(x), reference.rgb_to_grayscale(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(solarize(x), reference.solarize(x, 128 / 255), rtol=0, atol=0)
    assert [kernel_of(side) for side in (8, 32, 64, 96, 224)] == [3, 3, 7, 9, 23]


def test_a_view_is_a_function_of_its_number_alone(rgb: Tensor) -> None:
    settings = AugmentSettings(solarize=[0.3], gray=[0.3])
    numbers = torch.arange(100, 107)
    views = [augment(rgb, numbers, view, 5, settings) for view in (0, 1)]
    assert not torch.equal(*views)
    order = torch.tensor([3, 0, 6, 2, 1, 5, 4])
    for at, view in enumerate(views):
        assert view.dtype == torch.float32 and view.shape == rgb.shape and view.min() >= 0 and view.max() <= 1
        assert torch.equal(augment(rgb, numbers, at, 5, settings), view)
        torch.testing.assert_close(augment(rgb[order], numbers[order], at, 5, settings), view[order])
        for one in range(len(rgb)):  # alone, as in a batch
            torch.testing.assert_close(
                augment(rgb[one : one + 1], numbers[one : one + 1], at, 5, settings)[0], view[one], rtol=0, atol=1e-6
            )
        assert not torch.equal(augment(rgb, numbers, at, 6, settings), view)
    bf16 = torch.autocast("cpu", torch.bfloat16)
    with bf16:
        assert torch.equal(augment(rgb, numbers, 0, 5, settings), views[0]), "not in bfloat16"


def test_probabilities_are_those_of_the_view(rgb: Tensor) -> None:
    many, numbers = rgb[:1].expand(2000, -1, -1, -1)[:, :, :16, :16], torch.arange(2000)
    x = many / 255
    for name in ("gray", "blur", "solarize"):
        settings = AugmentSettings(**{**OFF, name: [1.0, 0.25]})
        changed = [
            float((augment(many, numbers, view, 1, settings) != x).flatten(1).any(1).float().mean()) for view in (0, 1)
        ]
        assert changed == [1.0, pytest.approx(0.25, abs=0.04)], name
    jittered = augment(many, numbers, 0, 1, AugmentSettings(**{**OFF, "jitter": 0.8}))
    assert float((jittered != x).flatten(1).any(1).float().mean()) == pytest.approx(0.8, abs=0.04)
    assert torch.equal(augment(many, numbers, 0, 1, AugmentSettings(**OFF)), x)


def test_factors_and_orders_are_drawn_evenly(rgb: Tensor) -> None:
    """On constant images brightness alone acts: its factors are uniform."""
    gray = torch.full((4000, 3, 4, 4), 100, dtype=torch.uint8)
    settings = AugmentSettings(**{**OFF, "jitter": 1.0}, contrast=0, saturation=0, hue=0)
    factors = augment(gray, torch.arange(4000), 0, 0, settings)[:, 0, 0, 0] * 255 / 100
    expected = torch.linspace(0.6, 1.4, 4000)
    torch.testing.assert_close(factors.sort().values, expected, rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"jitter": 1.5}, r"augment.jitter is 1.5: it must lie in \[0, 1\]"),
        ({"jitter": float("nan")}, "augment.jitter is nan"),
        ({"hue": 0.6}, r"augment.hue is 0.6: it must lie in \[0, 0.5\]"),
        ({"brightness": -0.1}, "augment.brightness is -0.1"),
        ({"gray": []}, "augment.gray is empty"),
        ({"blur": [0.5, 2.0]}, r"augment.blur is \[0.5, 2.0\]"),
        ({"sigma": (0.0, 1.0)}, "augment.sigma is"),
        ({"sigma": (1.0, float("nan"))}, "augment.sigma is"),
    ],
)
def test_settings_that_mean_nothing(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        AugmentSettings(**values)
