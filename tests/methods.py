"""Methods with small networks, and images for them."""

from typing import Any

import torch
from torch import Tensor

from pretext.methods.contract import Method
from pretext.recipe import PretrainSettings, build_network
from pretext.settings import settings_from


def build(name: str, arguments: dict[str, Any] | None = None, **changed: Any) -> Method:
    """Return a method of that name, in training mode; ``changed`` are groups of settings."""
    values = {"crop": {"size": 32}, "objective": {"stride": 4}, "method": {"name": name, "arguments": arguments or {}}}
    settings = settings_from(PretrainSettings, values | changed, "test")
    prior = torch.full((313,), 1 / 313, dtype=torch.float64)
    return build_network(settings, prior, ["a", "b", "c"]).train()


def images(count: int, views: int = 1, side: int = 32) -> Tensor:
    """Return smooth random images, uint8 (count, 3, side, side), or (count, views, 3, side, side)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count * views, 3, 5, 5, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    rgb = (255 * fine).round().byte()
    return rgb if views == 1 else rgb.unflatten(0, (count, views))
